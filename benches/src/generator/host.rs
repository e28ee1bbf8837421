//! The machine that a load came from.

use std::fs;
use std::thread;

use serde::Serialize;

/// Its facts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    pub(crate) processor: String,
}

impl Host {
    /// Looks; what cannot be found out is empty.
    pub(crate) fn look() -> Self {
        let line = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'));
            value.unwrap_or_default().trim().to_owned()
        };
        let word = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let memory = line("/proc/meminfo", "MemTotal");
        let kibibytes: u64 = memory.strip_suffix("kB").and_then(|text| text.trim().parse().ok()).unwrap_or_default();
        Self {
            name: word("/proc/sys/kernel/hostname"),
            kernel: word("/proc/sys/kernel/osrelease"),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes.saturating_mul(1024),
            processor: line("/proc/cpuinfo", "model name"),
        }
    }
}
