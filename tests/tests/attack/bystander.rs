//! Somebody who has nothing to do with it, and what the process holds.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use harness::{Plane, RawClient, Request, params, wait_within};

/// A session that asks all the time, and must be answered rightly all the time.
pub(crate) struct Bystander {
    over: Arc<AtomicBool>,
    served: Arc<AtomicU32>,
    thread: JoinHandle<()>,
}

impl Bystander {
    pub(crate) fn start(plane: &Plane) -> Self {
        let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let client = plane.client("postgres");
        let (ends, counts) = (Arc::clone(&over), Arc::clone(&served));
        let thread = std::thread::spawn(move || ask(client, &ends, &counts));
        Self { over, served, thread }
    }

    /// Ends it; it must have been well.
    pub(crate) fn end(self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        assert!(self.served.load(Ordering::Relaxed) > 20, "the bystander was hardly served");
    }
}

fn ask(mut client: RawClient, over: &AtomicBool, served: &AtomicU32) {
    let mut number = 0;
    while !over.load(Ordering::Relaxed) {
        number += 1;
        let value = format!("bystander {number}");
        assert_eq!(client.query(&format!("select '{value}'")).good().value(), value);
        let reply = client.ask(&Request::new().extended("select $1::text", &params(&[&value])));
        assert_eq!(reply.good().value(), value);
        served.fetch_add(1, Ordering::Relaxed);
    }
}

/// Descriptors and memory of a data plane.
pub(crate) struct Holdings {
    descriptors: usize,
    resident_kb: u64,
}

/// Server connections may be made meanwhile.
const DESCRIPTORS_MORE: usize = 24;
/// What an allocator may keep.
const RESIDENT_MORE_KB: u64 = 24 * 1024;

impl Holdings {
    pub(crate) fn of(plane: &Plane) -> Self {
        let process = format!("/proc/{}", plane.pid());
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().count();
        let text = fs::read_to_string(format!("{process}/smaps_rollup")).unwrap();
        let resident = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
        let resident_kb = resident.trim().trim_end_matches(" kB").parse().unwrap();
        Self { descriptors, resident_kb }
    }

    /// The process holds no more than before, or soon will not.
    pub(crate) fn must_return(&self, plane: &Plane) {
        wait_within(Duration::from_secs(20), "descriptors and memory return", || {
            let now = Self::of(plane);
            now.descriptors <= self.descriptors + DESCRIPTORS_MORE
                && now.resident_kb <= self.resident_kb + RESIDENT_MORE_KB
        });
    }

    /// Resident memory in kB.
    pub(crate) fn resident_kb(&self) -> u64 {
        self.resident_kb
    }
}
