//! What each signal does that ends the process, as PgBouncer 1.25 documents them but for SIGTERM's bound.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

use std::net::TcpStream;
use std::time::Instant;

use harness::cluster::signal_process;
use harness::{Cluster, Plane, RawClient, Request, wait_until};
use rustix::process::Signal;

/// A data plane whose shutdown takes longer than any test, unless something ends it before.
fn plane() -> Plane {
    Plane::before(Cluster::shared()).limit("shutdown_timeout", "1h").start()
}

fn in_transaction(plane: &Plane, database: &str) -> RawClient {
    let mut client = plane.client(database);
    client.query("BEGIN");
    assert_eq!(client.query("SELECT 1").value(), "1");
    client
}

fn wait_until_closed_to_newcomers(plane: &Plane) {
    wait_until("nobody new is let in", || TcpStream::connect(("127.0.0.1", plane.port())).is_err());
}

fn wait_for_the_end(plane: &mut Plane) {
    wait_until("it ends", || plane.ended().is_some());
    assert!(plane.ended().unwrap().success(), "{}", plane.said());
}

#[test]
fn sigterm_lets_a_transaction_finish_and_ends() {
    let database = Cluster::shared().make_database();
    let mut plane = plane();
    let mut client = in_transaction(&plane, &database);
    plane.ask_to_stop();
    wait_until_closed_to_newcomers(&plane);
    assert_eq!(client.query("SELECT 2").value(), "2");
    assert!(plane.ended().is_none());
    client.send(Request::new().query("COMMIT").bytes());
    wait_for_the_end(&mut plane);
}

#[test]
fn sigint_waits_for_server_connections_and_sends_away_who_waits_for_one() {
    let database = Cluster::shared().make_database();
    let mut plane = Plane::before(Cluster::shared()).cores("0").pool("size", 1).start();
    let mut client = in_transaction(&plane, &database);
    let mut waiting = plane.client("postgres");
    waiting.query("SELECT 1");
    let mut queued = plane.client(&database);
    queued.send(Request::new().query("SELECT 1").bytes());
    wait_until("one waits", || plane.pool(&database).clients_waiting == 1);
    signal_process(plane.id(), Signal::INT);
    wait_until_closed_to_newcomers(&plane);
    assert_eq!(queued.farewell().code, "57P01");
    assert_eq!(client.query("SELECT 2").value(), "2");
    assert!(plane.ended().is_none(), "a transaction is open");
    assert_eq!(client.query("COMMIT").error(), None);
    wait_for_the_end(&mut plane);
}

#[test]
fn sigquit_ends_at_once_whatever_goes_on() {
    let database = Cluster::shared().make_database();
    let mut plane = plane();
    let mut client = in_transaction(&plane, &database);
    client.send(Request::new().query("SELECT pg_sleep(3600)").bytes());
    let began = Instant::now();
    signal_process(plane.id(), Signal::QUIT);
    wait_for_the_end(&mut plane);
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    let running = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%3600%'");
    wait_until("PostgreSQL has stopped it", || Cluster::shared().sql(&running) == "0");
}

#[test]
fn whoever_asks_again_while_it_ends_means_at_once() {
    let database = Cluster::shared().make_database();
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::TERM, Signal::INT), (Signal::INT, Signal::TERM)] {
        let mut plane = plane();
        let mut client = in_transaction(&plane, &database);
        signal_process(plane.id(), first);
        wait_until_closed_to_newcomers(&plane);
        assert_eq!(client.query("SELECT 2").value(), "2", "{first:?}");
        assert!(plane.ended().is_none(), "{first:?}");
        signal_process(plane.id(), second);
        assert_eq!(client.farewell().code, "57P01");
        wait_for_the_end(&mut plane);
    }
}
