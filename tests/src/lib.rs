//! What the integration tests stand on: real PostgreSQL clusters, the real data plane in front of them, and a client that
//! speaks the protocol by hand.
//!
//! Knows nothing of what is tested. Everything a test starts ends with it, also when the test is killed. Nothing here waits
//! for a fixed time: conditions are waited for, with a deadline.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::time::{Duration, Instant};

pub mod certificate;
pub mod client;
pub mod cluster;
pub mod console;
pub mod fault;
mod guard;
pub mod impostor;
pub mod pgbouncer;
pub mod plane;
pub mod port;
pub mod program;
pub mod request;

pub use client::{ErrorReply, Message, RawClient, Reply, params};
pub use cluster::Cluster;
pub use fault::FaultProxy;
pub use impostor::Impostor;
pub use pgbouncer::Pgbouncer;
pub use plane::{Plane, PlaneBuilder};
pub use request::Request;

/// Long enough for the slowest machine; nothing waits for it that goes well.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Waits until the condition holds.
///
/// # Panics
/// When it does not in time.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, &mut condition);
}

/// Waits until the condition holds, so long at most.
///
/// # Panics
/// When it does not in time.
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
