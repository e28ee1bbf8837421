//! Limits on how long requests, transactions and idleness may last.

use std::time::{Duration, Instant};

use harness::cluster::signal_process;
use harness::{Cluster, Plane, PlaneBuilder, RawClient, Request, wait_until};
use rustix::process::Signal;

/// What is allowed beyond a limit: the timer's grain, the way to PostgreSQL and back, a busy machine.
const LATE_MAX: Duration = Duration::from_secs(2);

fn before() -> PlaneBuilder {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1).pool("query_wait_timeout", "20s")
}

/// How often a limit was reached.
fn reached(plane: &Plane, database: &str, limit: &str) -> u64 {
    plane.pool(database).limits.iter().find(|count| count.limit == limit).map_or(0, |count| count.count)
}

/// The time a limit took, which must be what it says.
fn assert_took(since: Instant, limit_ms: u64) {
    let (took, limit) = (since.elapsed(), Duration::from_millis(limit_ms));
    assert!(took >= limit && took < limit + LATE_MAX, "{took:?} where the limit is {limit:?}");
}

fn assert_served(client: &mut RawClient) {
    assert_eq!(client.query("select 'served'").good().value(), "served");
}

/// Backends that run this statement.
fn running(database: &str, text: &str) -> String {
    Cluster::shared().sql(&format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and state = 'active' and query like '%{text}%' and pid <> pg_backend_pid()"
    ))
}

#[test]
fn a_statement_that_takes_too_long_is_cancelled_and_its_session_goes_on() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("query_timeout", "200ms").start();
    let mut client = plane.client(&database);
    let mut other = plane.client(&database);
    for request in [Request::new().query("select pg_sleep(60)"), Request::new().extended("select pg_sleep(60)", &[])] {
        let began = Instant::now();
        client.send(request.bytes());
        other.send(Request::new().query("select 'served'").bytes());
        let error = client.reply().error().unwrap();
        assert_took(began, 200);
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "57014"));
        assert_eq!(error.message, "canceling statement: it took longer than query_timeout (200 ms)");
        assert_eq!(other.reply().good().value(), "served");
        assert_served(&mut client);
    }
    assert_eq!(running(&database, "pg_sleep(60)"), "0");
    assert_eq!(reached(&plane, &database, "query_timeout"), 2);
    assert_eq!(plane.pool(&database).closes_in_doubt, 0, "the connection is as good as before");
}

#[test]
fn a_limit_is_met_to_a_few_milliseconds_when_the_machine_has_time() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("query_timeout", "150ms").start();
    let mut client = plane.client(&database);
    let late = (0..10).map(|_| {
        let began = Instant::now();
        assert_eq!(client.query("select pg_sleep(60)").code(), "57014");
        began.elapsed().saturating_sub(Duration::from_millis(150))
    });
    let least = late.min().unwrap_or(Duration::MAX);
    assert!(least < Duration::from_millis(40), "{least:?}");
}

#[test]
fn a_statement_within_its_limit_is_not_touched_however_long_its_transaction_has_waited() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("query_timeout", "300ms").start();
    let mut client = plane.client(&database);
    client.query("begin").good();
    let began = Instant::now();
    wait_until("the client has done nothing for longer than the limit", || {
        began.elapsed() > Duration::from_millis(400)
    });
    for _ in 0..4 {
        client.query("select pg_sleep(0.1)").good();
    }
    client.query("commit").good();
    assert_eq!(reached(&plane, &database, "query_timeout"), 0);
}

#[test]
fn the_time_of_a_text_too_long_to_be_held_begins_with_it_too() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("query_timeout", "1s").start();
    let mut client = plane.client(&database);
    client.query("begin").good();
    let since = Instant::now();
    wait_until("the transaction has waited", || since.elapsed() > Duration::from_millis(1300));
    client.query(&format!("select pg_sleep(0.2) -- {}", "x".repeat(100_000))).good();
    assert_eq!(reached(&plane, &database, "query_timeout"), 0);
}

#[test]
fn a_statement_that_is_cancelled_in_a_transaction_fails_the_transaction_and_no_more() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("query_timeout", "100ms").start();
    let mut client = plane.client(&database);
    client.query("create table t (a int)").good();
    client.query("begin; insert into t values (1)").good();
    let reply = client.query("select pg_sleep(60)");
    assert_eq!((reply.code().as_str(), reply.status()), ("57014", 'E'));
    assert_eq!(client.query("select 1").code(), "25P02");
    client.query("rollback").good();
    assert_eq!(client.query("select count(*) from t").value(), "0");
}

#[test]
fn a_backend_that_does_not_stop_is_given_up_and_another_one_serves() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).cores("0").pool("size", 2).pool("query_timeout", "100ms").start();
    let mut client = plane.client("postgres");
    client.query("begin").good();
    let backend: u32 = client.query("select pg_backend_pid()").value().parse().unwrap();
    signal_process(backend, Signal::STOP);
    let began = Instant::now();
    client.send(Request::new().query("select 1").bytes());
    let error = client.farewell();
    assert_took(began, 1100);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57014"));
    let mut other = plane.client("postgres");
    assert_ne!(other.query("select pg_backend_pid()").good().value(), backend.to_string());
    assert_eq!(plane.pool("postgres").closes_in_doubt, 1);
    signal_process(backend, Signal::CONT);
    wait_until("the backend is gone", || {
        cluster.sql(&format!("select count(*) from pg_stat_activity where pid = {backend}")) == "0"
    });
    assert_served(&mut other);
}

#[test]
fn reads_that_share_a_connection_are_limited_one_by_one() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("size", 2).pool("query_timeout", "300ms").start();
    plane.sql(&database, "create table t as select g as a from generate_series(1, 3000) g");
    let slow = "select count(*) from t a, t b, t c where a.a + b.a + c.a < 0";
    // a kind of request that has been fast may be shared
    let mut clients: Vec<RawClient> = (0..4).map(|_| plane.client(&database)).collect();
    for _ in 0..50 {
        for client in &mut clients {
            client.query("select count(*) from t where a = 1").good();
        }
    }
    let mut late = plane.client(&database);
    let began = Instant::now();
    late.send(Request::new().query(slow).bytes());
    while began.elapsed() < Duration::from_millis(250) {
        for client in &mut clients {
            assert_eq!(client.query("select count(*) from t where a = 1").good().value(), "1");
        }
    }
    assert_eq!(late.reply().code(), "57014");
    assert_took(began, 300);
    for client in &mut clients {
        assert_served(client);
    }
    assert!(plane.pool(&database).requests_shared > 0);
}

#[test]
fn a_transaction_that_lasts_too_long_is_rolled_back_whether_it_works_or_not() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("transaction_timeout", "300ms").start();
    let mut other = plane.client(&database);
    other.query("create table t (a int)").good();
    for last in ["select pg_sleep(60)", ""] {
        let mut client = plane.client(&database);
        let began = Instant::now();
        client.query("begin; insert into t values (1)").good();
        if !last.is_empty() {
            client.send(Request::new().query(last).bytes());
        }
        other.send(Request::new().query("select count(*) from t").bytes());
        let error = client.farewell();
        assert_took(began, 300);
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "25P04"));
        assert_eq!(error.message, "terminating connection due to transaction timeout");
        assert_eq!(other.reply().good().value(), "0");
        assert_eq!(running(&database, "pg_sleep(60)"), "0");
    }
    // many short transactions on one connection are not one long one
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(500) {
        other.query("begin").good();
        other.query("commit").good();
    }
    assert_eq!(reached(&plane, &database, "transaction_timeout"), 2);
}

#[test]
fn a_client_that_idles_in_a_transaction_is_closed_as_postgres_would() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("idle_transaction_timeout", "200ms").start();
    let mut other = plane.client(&database);
    other.query("create table t (a int)").good();
    let mut client = plane.client(&database);
    client.query("begin; insert into t values (1)").good();
    // work is not idleness
    let began = Instant::now();
    client.query("select pg_sleep(0.4)").good();
    other.send(Request::new().query("select count(*) from t").bytes());
    let error = client.farewell();
    assert_took(began, 600);
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "25P03"));
    assert_eq!(error.message, "terminating connection due to idle-in-transaction timeout");
    assert_eq!(other.reply().good().value(), "0");
    let pool = plane.pool(&database);
    assert_eq!((pool.connects, pool.closes_in_doubt), (1, 0), "the connection was rolled back and goes on");
}

#[test]
fn a_client_that_idles_in_the_middle_of_a_request_is_closed_and_its_deeds_are_undone() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("idle_transaction_timeout", "200ms").start();
    let mut other = plane.client(&database);
    other.query("create table t (a int)").good();
    let mut client = plane.client(&database);
    let open = Request::new().parse("", "insert into t values (1)").bind("", "", &[]).execute("", 0).flush();
    let began = Instant::now();
    client.send(open.bytes());
    let done = client.receive_until(b'C');
    assert_eq!(done.len(), 3, "{done:?}");
    // nobody else may be put into the transaction that the request has begun
    other.send(Request::new().query("select count(*) from t").bytes());
    assert_eq!(client.farewell().code, "25P03");
    assert_took(began, 200);
    assert_eq!(other.reply().good().value(), "0");
}

#[test]
fn a_client_that_sends_half_a_message_keeps_no_connection_with_it() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("idle_transaction_timeout", "200ms").start();
    let mut other = plane.client(&database);
    let mut client = plane.client(&database);
    // a statement that is to be kept is held until it is whole
    let whole = Request::new().parse("s", &format!("select '{}'", "x".repeat(50_000))).sync();
    let (half, rest) = whole.bytes().split_at(30_000);
    client.send(half);
    wait_until("it has the connection", || plane.pool(&database).servers_exclusive == 1);
    assert_served(&mut other);
    assert_eq!(client.farewell().code, "25P03");
    // in time it is as good as any
    let mut client = plane.client(&database);
    client.send(half);
    client.send(rest);
    client.reply().good();
    assert_eq!(reached(&plane, &database, "idle_transaction_timeout"), 1);
}

#[test]
fn a_request_that_is_flushed_keeps_its_connection_until_its_sync() {
    let database = Cluster::shared().make_database();
    let plane = before().start();
    let mut other = plane.client(&database);
    other.query("create table t (a int)").good();
    let mut client = plane.client(&database);
    let open = Request::new().parse("", "insert into t values (1)").bind("", "", &[]).execute("", 0).flush();
    client.send(open.bytes());
    client.receive_until(b'C');
    other.send(Request::new().query("select count(*) from t").bytes());
    wait_until("the other one waits", || plane.pool(&database).clients_waiting == 1);
    client.send(Request::new().parse("", "selekt").sync().bytes());
    assert_eq!(client.reply().code(), "42601");
    assert_eq!(other.reply().good().value(), "0", "the whole request was undone");
}

#[test]
fn a_client_that_idles_outside_a_transaction_is_closed_and_one_that_asks_is_not() {
    let database = Cluster::shared().make_database();
    let plane = before().pool("client_idle_timeout", "300ms").start();
    let mut idle = plane.client(&database);
    let mut pinned = plane.client(&database);
    let mut asking = plane.client(&database);
    assert_served(&mut idle);
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(900) {
        assert_eq!(asking.query("select 1").good().value(), "1");
        asking.query("select pg_sleep(0.01)").good();
    }
    for client in [&mut idle, &mut pinned] {
        let error = client.farewell();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P05"));
        assert_eq!(error.message, "terminating connection due to idle-session timeout");
    }
    // a statement may take longer than a client may be idle
    asking.query("select pg_sleep(0.6)").good();
    // one that keeps a connection of its own is idle all the same
    let began = Instant::now();
    asking.query("listen news").good();
    assert_eq!(asking.farewell().code, "57P05");
    assert_took(began, 300);
    let mut next = plane.client(&database);
    assert_eq!(next.query("select count(*) from pg_listening_channels()").good().value(), "0");
    assert_eq!(reached(&plane, &database, "client_idle_timeout"), 3);
}

#[test]
fn a_client_that_does_not_read_loses_its_connection_to_those_that_do() {
    let database = Cluster::shared().make_database();
    // long enough for a test that shares its machine to read on
    let plane = before().pool("client_stall_timeout", "1500ms").start();
    let mut slow = plane.client(&database);
    let mut other = plane.client(&database);
    // more than all buffers on the way hold
    let much = "select repeat('x', 100000) from generate_series(1, 2000)";
    slow.send(Request::new().query(much).bytes());
    wait_until("its result is on the way", || plane.pool(&database).servers_exclusive == 1);
    let began = Instant::now();
    assert_served(&mut other);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(reached(&plane, &database, "client_stall_timeout"), 1);
    slow.hang_up();
    // one that reads in its own time, but reads, gets everything
    other.send(Request::new().query(much).bytes());
    let reply = other.reply().good();
    assert_eq!(reply.rows().len(), 2000);
    assert_eq!(reached(&plane, &database, "client_stall_timeout"), 1);
    assert_served(&mut other);
}

#[test]
fn a_limit_of_a_user_goes_before_that_of_a_database() {
    let database = Cluster::shared().make_database();
    let off = toml::Value::from(toml::Table::from_iter([("query_timeout".to_owned(), "off".into())]));
    let short = toml::Value::from(toml::Table::from_iter([("query_timeout".to_owned(), "100ms".into())]));
    let plane = before()
        .pool("query_timeout", "100ms")
        .database("*", &[])
        .database("patient", &[("dbname", database.clone().into()), ("pool", off)])
        .user_trusted("hasty")
        .user_key("pool", short)
        .start();
    let nap = "select pg_sleep(0.3)";
    assert_eq!(plane.client(&database).query(nap).code(), "57014");
    plane.client("patient").query(nap).good();
    assert_eq!(plane.try_client("hasty", "patient", None).unwrap().query(nap).code(), "57014");
}
