//! PostgreSQL's own regression and isolation tests, through the data plane.
//!
//! They are the same files that PostgreSQL is tested with (`install.sh` fetches them), run by the same programs. What differs is
//! listed in `known.rs`, line by line and with its reason; a difference that is not listed fails the test, and so does one that
//! is listed and does not occur. Where PostgreSQL itself, asked directly, does not pass a test of its own here, that test says
//! nothing about us.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod known;
mod suite;

use std::sync::Mutex;

use harness::{Cluster, Plane};

use known::Known;
use suite::Suite;

/// One after the other: each keeps all cores busy, and some tests watch the clock.
static TURN: Mutex<()> = Mutex::new(());

/// Whether the long form was asked for.
fn is_long() -> bool {
    std::env::var_os("OPTIMACORE_SOAK_SECONDS").is_some()
}

fn run(suite: Suite, mode: &str, known: &[Known]) {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = Cluster::start();
    let plane = Plane::before(&cluster).pool("mode", mode).pool("size", 60).start();
    let through = suite.run(&cluster, plane.port());
    drop(plane);
    let unlisted = through.unlisted(known);
    if unlisted.is_empty() && !is_long() {
        return;
    }
    // is it PostgreSQL here, rather than us?
    let directly = Cluster::start();
    let directly = suite.run(&directly, directly.port());
    let ours: Vec<_> = unlisted.into_iter().filter(|(test, _)| !directly.has_failed(test)).collect();
    let what: String = ours.iter().map(|(test, how)| format!("--- {test}\n{how}\n")).collect();
    assert!(ours.is_empty(), "{} of {} tests in {mode} mode:\n{what}", ours.len(), through.count());
    assert_eq!(directly.count(), through.count());
}

#[test]
fn the_regression_tests_pass_in_transaction_mode() {
    run(Suite::regression(), "transaction", &known::TRANSACTION);
}

#[test]
fn the_regression_tests_pass_in_session_mode() {
    let suite = if is_long() { Suite::regression() } else { Suite::regression_in_part() };
    run(suite, "session", &known::SESSION);
}

#[test]
fn the_isolation_tests_pass_in_session_mode() {
    let suite = if is_long() { Suite::isolation() } else { Suite::isolation_in_part() };
    run(suite, "session", &known::ISOLATION);
}
