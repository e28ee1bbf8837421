//! Cancel requests stop what their session does, and nothing else.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use harness::client::send_cancel;
use harness::{Cluster, DEADLINE, Plane, RawClient, Reply, Request, wait_until};

const SLEEP: &str = "select pg_sleep(120)";

fn plane_of_one() -> Plane {
    Plane::before(Cluster::shared()).cores("0").pool("size", 1).start()
}

/// Waits until PostgreSQL runs a statement that sleeps in this database.
fn wait_for_sleeper(database: &str) {
    let text = format!(
        "select count(*) from pg_stat_activity where datname = '{database}' and state = 'active' and wait_event = 'PgSleep'"
    );
    wait_until("a statement sleeps", || Cluster::shared().sql(&text) == "1");
}

#[test]
fn a_running_statement_is_cancelled_and_the_session_goes_on() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).start();
    let mut client = plane.client(&database);
    for request in [Request::new().query(SLEEP), Request::new().extended(SLEEP, &[])] {
        client.send(request.bytes());
        wait_for_sleeper(&database);
        client.cancel();
        let reply = client.reply();
        assert_eq!((reply.code().as_str(), reply.status()), ("57014", 'I'));
        assert_eq!(client.query("select 'alive'").value(), "alive");
    }
    client.query("begin").good();
    client.send(Request::new().query(SLEEP).bytes());
    wait_for_sleeper(&database);
    client.cancel();
    assert_eq!(client.reply().status(), 'E');
    assert_eq!(client.query("rollback").good().status(), 'I');
    assert!(plane.pool(&database).requests_cancelled >= 3);
}

#[test]
fn psql_cancels_with_its_own_signal() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).start();
    let child = plane.psql(&database).args(["-c", SLEEP]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_for_sleeper(&database);
    harness::cluster::signal_process(child.id(), rustix::process::Signal::INT);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("canceling statement due to user request"), "{said}");
}

#[test]
fn a_request_that_waits_for_a_server_connection_is_cancelled() {
    let database = Cluster::shared().make_database();
    let plane = plane_of_one();
    let (mut holder, mut waiter) = (plane.client(&database), plane.client(&database));
    waiter.query("select 1").good();
    holder.query("begin").good();
    for request in [Request::new().query("select 'late'"), Request::new().extended("select 'late'", &[])] {
        waiter.send(request.bytes());
        wait_until("the request waits", || plane.pool(&database).clients_waiting == 1);
        waiter.cancel();
        let reply = waiter.reply();
        assert_eq!((reply.tags().as_str(), reply.code().as_str(), reply.status()), ("EZ", "57014", 'I'));
    }
    assert_eq!(holder.query("select 'unharmed'").value(), "unharmed");
    holder.query("commit").good();
    assert_eq!(waiter.query("select 'served'").value(), "served");
}

#[test]
fn a_wrong_secret_or_an_unknown_key_does_nothing() {
    let database = Cluster::shared().make_database();
    let plane = Plane::before(Cluster::shared()).start();
    let mut client = plane.client(&database);
    client.send(Request::new().query("select pg_sleep(1.5), 'unharmed' as v").bytes());
    wait_for_sleeper(&database);
    let (process_id, secret) = client.key();
    let mut wrong = secret.clone();
    *wrong.last_mut().unwrap() ^= 1;
    send_cancel(plane.port(), &(process_id, wrong));
    send_cancel(plane.port(), &(process_id, [0; 4].to_vec()));
    for other in [process_id ^ 1, process_id ^ (1 << 23), u32::MAX, 0].into_iter().filter(|other| *other != process_id)
    {
        send_cancel(plane.port(), &(other, secret.clone()));
    }
    let reply = client.reply().good();
    assert_eq!(reply.rows().first().unwrap().last().unwrap().as_deref(), Some("unharmed"));
    // with nothing to cancel, the right key does nothing either
    client.cancel();
    assert_eq!(client.query("select 2").good().value(), "2");
    let key = client.key();
    client.hang_up();
    send_cancel(plane.port(), &key);
    assert_eq!(plane.client(&database).query("select 3").value(), "3");
}

#[test]
fn keys_of_sessions_that_live_at_once_are_different() {
    let plane = Plane::before(Cluster::shared()).start();
    let clients: Vec<RawClient> = (0..50).map(|_| plane.client("postgres")).collect();
    let mut keys: Vec<_> = clients.iter().map(RawClient::key).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), clients.len());
    // drivers take a process id that is not positive for none at all, and then do not cancel
    let positive = |key: &(u32, Vec<u8>)| i32::try_from(key.0).is_ok_and(|id| id > 0);
    assert!(keys.iter().all(positive), "{:?}", keys.first());
}

/// One session cancels its requests all the time, at any moment of them, while others use the same server connection: theirs
/// must never be hit.
fn hunt(plane: &Plane, seconds: f64) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let victims: Vec<_> = (0..3)
            .map(|number| {
                let over = &over;
                scope.spawn(move || {
                    let mut client = plane.client("postgres");
                    let mut count = 0_u32;
                    while !over.load(Ordering::Relaxed) {
                        let value = format!("{number} {count}");
                        let text = format!("select '{value}' from pg_sleep(0.0005)");
                        let reply = client.query(&text);
                        assert!(reply.error().is_none(), "a victim was hit: {reply:?}");
                        assert_eq!(reply.value(), value);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let mut client = plane.client("postgres");
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut cancelled, mut spared) = (0, 0);
        let began = Instant::now();
        while began.elapsed().as_secs_f64() < seconds {
            assert!(began.elapsed() < DEADLINE);
            let duration = rng.f64() * 0.002;
            client.send(Request::new().query(&format!("select 'mine' from pg_sleep({duration})")).bytes());
            client.cancel();
            let reply = client.reply();
            match reply.error() {
                Some(error) => {
                    assert_eq!(error.code, "57014", "{error:?}");
                    cancelled += 1;
                }
                None => {
                    assert_eq!(reply.value(), "mine");
                    spared += 1;
                }
            }
        }
        over.store(true, Ordering::Relaxed);
        let counts: Vec<u32> = victims.into_iter().map(|victim| victim.join().unwrap()).collect();
        assert!(cancelled > 0, "{cancelled} were cancelled, {spared} not");
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    });
}

#[test]
fn a_cancel_never_hits_the_next_session_on_the_same_connection() {
    hunt(&plane_of_one(), 4.0);
}

#[test]
fn a_cancel_never_hits_another_session_when_requests_share_connections() {
    let plane = Plane::before(Cluster::shared()).pool("size", 2).pool("share", "on").start();
    hunt(&plane, 4.0);
}

#[test]
fn a_cancel_that_comes_late_does_not_hit_the_sessions_own_next_request() {
    let plane = plane_of_one();
    let mut client = plane.client("postgres");
    for round in 0..200 {
        client.query("select 1").good();
        // the request it was meant for has been answered
        client.cancel();
        let reply = client.query(&format!("select {round} from pg_sleep(0.001)"));
        assert_eq!(reply.good().value(), round.to_string());
    }
}

/// While the postmaster stands still, a cancel request is under way for as long as one likes.
#[test]
fn a_session_whose_backend_ends_while_a_cancel_is_under_way_goes_on() {
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).cores("0").pool("size", 1).start();
    for early in [false, true] {
        let mut client = plane.client("postgres");
        let backend = client.query("select pg_backend_pid()").value().parse().unwrap();
        client.send(Request::new().query(SLEEP).bytes());
        let sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        wait_until("a statement sleeps", || cluster.sql(sleeps) == "1");
        cluster.hold(rustix::process::Signal::STOP);
        client.cancel();
        wait_until("the cancel is under way", || plane.pool("postgres").requests_cancelled > u64::from(early));
        if early {
            client.send(Request::new().query("select 'next'").bytes());
        }
        harness::cluster::signal_process(backend, rustix::process::Signal::TERM);
        let lost = Reply { messages: client.receive_to_end_or_ready() };
        assert!(matches!(lost.code().as_str(), "57P01" | "08006" | "08007"), "{lost:?}");
        cluster.hold(rustix::process::Signal::CONT);
        let goes_on = lost.messages.last().is_some_and(|message| message.tag == b'Z');
        // what it had sent behind the lost request was meant to follow it, and is not run without it
        assert_eq!(goes_on, !early, "{lost:?}");
        if goes_on {
            assert_eq!(client.query("select 'next'").value(), "next");
        }
    }
}
