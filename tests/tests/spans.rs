//! Where the time of requests goes, on real connections: queue, pipe wait, server, proxy. Only relations are asserted, since
//! machines may be slow.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::time::{Duration, Instant};

use harness::{Cluster, Plane, RawClient, Request, params, wait_until};
use stats::{PoolStats, Sketch, StatementStats};

/// Calls of one statement of a database.
fn statement(plane: &Plane, database: &str, text: &str) -> StatementStats {
    let all = stats::statement::total(&plane.stats().statements);
    all.into_iter().find(|one| one.database == database && one.statement.as_deref() == Some(text)).unwrap()
}

fn longest(sketch: &Sketch) -> u64 {
    sketch.quantile(1.0).unwrap()
}

/// How many requests each span has been measured of; it is the same number.
fn measured(pool: &PoolStats) -> u64 {
    let spans = [&pool.queue_time, &pool.pipe_wait_time, &pool.server_time, &pool.proxy_time];
    let counts = spans.map(stats::Hist::count);
    assert_eq!(counts, [counts[0]; 4]);
    counts[0]
}

#[test]
fn a_request_sent_behind_a_slow_one_waits_on_the_pipe_and_not_in_postgresql() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut client = plane.client(&database);
    client.send(Request::new().query("select pg_sleep(0.4)").query("select 'second' as one").bytes());
    client.reply().good();
    client.reply().good();
    let pool = plane.pool(&database);
    assert_eq!((measured(&pool), pool.requests()), (2, 2));
    assert!(pool.server_time.max().unwrap() >= 390_000, "{:?}", pool.server_time);
    assert!(pool.pipe_wait_time.max().unwrap() >= 200_000, "{:?}", pool.pipe_wait_time);
    assert_eq!(pool.pipe_wait_time.pairs().next(), Some((1, 1)), "nothing was ahead of the first");
    let (slow, quick) =
        (statement(&plane, &database, "select pg_sleep(?)"), statement(&plane, &database, "select ? as one"));
    assert!(longest(&slow.server_time) >= 350_000, "{slow:?}");
    assert!(
        longest(&quick.server_time) < longest(&slow.server_time) / 2,
        "its wait is not PostgreSQL's time: {quick:?}"
    );
    assert!(pool.query_us >= 390_000 && pool.query_us < 2 * slow.server_us, "{pool:?}");
    assert!(pool.busy_us >= pool.query_us, "the connection was in use all the time");
}

#[test]
fn requests_of_several_sessions_on_one_pipe_wait_for_each_other() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    // its kind has been seen to be fast before it is not
    wait_until("reads are shared", || {
        clients[0].query("select count(*) from generate_series(1, 1)").good();
        plane.pool(&database).requests_shared > 3
    });
    wait_until("some have waited on the pipe for as long as the one ahead took", || {
        for client in &mut clients {
            client.send(Request::new().query("select count(*) from generate_series(1, 20000)").bytes());
        }
        clients.iter_mut().for_each(|client| drop(client.reply().good()));
        let pool = plane.pool(&database);
        pool.pipe_wait_time.max().unwrap() >= 1_000 && pool.server_time.max().unwrap() >= 1_000
    });
    let pool = plane.pool(&database);
    assert_eq!(measured(&pool), pool.requests() - pool.requests_retried);
}

#[test]
fn who_waits_for_a_connection_is_in_the_queue_and_the_longest_wait_is_seen() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let (mut holder, mut other) = (plane.client(&database), plane.client(&database));
    holder.query("begin").good();
    let since = Instant::now();
    other.send(Request::new().query("select 'late' as one").bytes());
    wait_until("it has waited for a while", || plane.pool(&database).maxwait_us >= 150_000);
    holder.query("commit").good();
    other.reply().good();
    let waited = u64::try_from(since.elapsed().as_micros()).unwrap();
    let pool = plane.pool(&database);
    assert_eq!((measured(&pool), pool.maxwait_us), (3, 0));
    // a thousandth is how finely durations are told apart
    let queue = pool.queue_time.max().unwrap();
    assert!((150_000..=waited + waited / 1000).contains(&queue), "{queue} of {waited}");
    assert!(pool.wait_us >= 150_000 && pool.assignments >= 2, "{pool:?}");
    assert!(pool.busy_us >= 150_000 && pool.query_us < pool.busy_us, "a transaction that idles uses its connection");
    let late = statement(&plane, &database, "select ? as one");
    assert!(longest(&late.queue_time) >= 140_000 && longest(&late.server_time) < longest(&late.queue_time), "{late:?}");
}

#[test]
fn groups_of_the_extended_protocol_and_copies_are_measured_once_each() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).start();
    let mut client = plane.client(&database);
    client.query("create table t (a int)").good();
    client.ask(&Request::new().parse("s", "select $1::int").sync()).good();
    client.send(Request::new().run("s", &params(&["1"])).run("s", &params(&["2"])).run("s", &params(&["x"])).bytes());
    client.reply().good();
    client.reply().good();
    assert_eq!(client.reply().code(), "22P02");
    client.send(Request::new().query("copy t from stdin").bytes());
    client.receive_until(b'G');
    client.send(Request::new().message(b'd', b"1\n").message(b'c', b"").bytes());
    client.reply().good();
    // PostgreSQL passes over what stands behind an error, up to the Sync
    client.send(Request::new().parse("", "select nothing there").query("select 1").query("select 2").sync().bytes());
    assert_eq!(client.reply().code(), "42703");
    client.query("select 3").good();
    assert_eq!(measured(&plane.pool(&database)), 8);
}

#[test]
fn what_clients_are_told_by_us_is_counted_apart_from_what_postgresql_tells() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("queue_max", 1).start();
    let (mut holder, mut waiter, mut third) =
        (plane.client(&database), plane.client(&database), plane.client(&database));
    assert_eq!(holder.query("select 1/0").code(), "22012");
    holder.query("begin").good();
    waiter.send(Request::new().query("select 1").bytes());
    wait_until("one waits", || plane.pool(&database).clients_waiting == 1);
    assert_eq!(third.query("select 1").code(), "53300");
    holder.query("rollback").good();
    waiter.reply().good();
    assert!(plane.try_client("nobody", &database, Some("guessed")).is_err());
    let pool = plane.pool(&database);
    let counted = |classes: &[stats::ClassCount]| classes.iter().map(|one| (one.class, one.count)).collect::<Vec<_>>();
    assert_eq!((counted(&pool.errors), counted(&pool.plane_errors)), (vec![(*b"22", 1)], vec![(*b"53", 1)]));
    assert_eq!(counted(&plane.stats().shards_total().errors), [(*b"28", 1)]);
}

#[test]
fn a_shard_tells_what_it_has_cost_and_what_went_over_the_rings() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).cores("0,1").start();
    // every second client is handed to the other shard
    let mut clients: Vec<RawClient> = (0..8).map(|_| plane.client(&database)).collect();
    let before = plane.stats();
    wait_until("work costs", || {
        clients.iter_mut().for_each(|client| drop(client.query("select 1").good()));
        let grown = plane.stats().since(&before).unwrap().shards_total();
        grown.busy_us > 1_000
    });
    let now = plane.stats();
    let total = now.shards_total();
    assert!(total.ring_messages_in > 0 && total.ring_messages_out > 0, "{total:?}");
    // two cores cannot do more than the time there was, and the clock of a thread is not exact to the microsecond
    assert!(total.busy_us <= 2 * now.uptime_us + 10_000, "{total:?} in {}", now.uptime_us);
    let pool = plane.pool(&database);
    assert!(pool.target.contains(&Cluster::shared().port().to_string()), "{}", pool.target);
    assert!(Duration::from_micros(pool.proxy_time.max().unwrap()) > Duration::ZERO);
}
