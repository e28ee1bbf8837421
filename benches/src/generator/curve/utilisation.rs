//! How busy the connections of a pool are, as PostgreSQL sees it: how many of its backends are not idle, looked at often.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::wire::Client;

/// How often it is looked.
const PAUSE: Duration = Duration::from_millis(50);
const QUERY: &str = "select count(*) from pg_stat_activity \
                     where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()";

/// Somebody who looks.
#[derive(Debug)]
pub(super) struct Watch {
    ended: Arc<AtomicBool>,
    thread: JoinHandle<Option<f64>>,
}

impl Watch {
    /// Begins to look at a PostgreSQL that nobody else uses.
    pub(super) fn begin(port: u16) -> anyhow::Result<Self> {
        let mut client = Client::connect(Ipv4Addr::LOCALHOST, port)?;
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = thread::spawn(move || {
            let (mut busy, mut looks) = (0.0, 0.0);
            while !told.load(Ordering::Relaxed) {
                let count: f64 = client.query_value(QUERY).ok()??.parse().ok()?;
                (busy, looks) = (busy + count, looks + 1.0);
                thread::sleep(PAUSE);
            }
            (looks > 0.0).then(|| busy / looks)
        });
        Ok(Self { ended, thread })
    }

    /// The mean number of busy backends since; `None` if that could not be found out.
    pub(super) fn end(self) -> Option<f64> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().ok().flatten()
    }
}
