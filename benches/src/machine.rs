//! On what and when it was measured.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use time::OffsetDateTime;

use crate::program::{Programs, version};

/// The machine and the programs.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Cores we may use.
    pub cores: usize,
    /// What the processor calls itself.
    pub processor: Option<String>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// How busy the machine was before the bench: the mean of the last minute.
    pub load_before: Option<f64>,
    /// How many files a process may have open.
    pub file_limit: u64,
    /// PostgreSQL's version.
    pub postgres: Option<String>,
    /// pgbouncer's version.
    pub pgbouncer: Option<String>,
    /// Ours.
    pub optimacore: Option<String>,
    /// The commit of the source that was there, `+` when it was changed since.
    pub commit: Option<String>,
}

impl Machine {
    /// Looks.
    pub fn look(programs: &Programs, file_limit: u64) -> Self {
        Self {
            cores: thread::available_parallelism().map_or(1, usize::from),
            processor: line_of("/proc/cpuinfo", "model name"),
            memory: line_of("/proc/meminfo", "MemTotal").and_then(|text| {
                let kibibytes: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
                Some(kibibytes * 1024)
            }),
            kernel: read("/proc/sys/kernel/osrelease"),
            load_before: read("/proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok()),
            file_limit,
            postgres: version(&programs.postgres),
            pgbouncer: programs.pgbouncer.as_ref().map(|pgbouncer| pgbouncer.version.clone()),
            optimacore: version(&programs.optimacore),
            commit: commit(),
        }
    }
}

/// The time of day in UTC, fit for the name of a file: `2026-03-01T12-30-59Z`.
pub fn utc_now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn line_of(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The commit of the source that is here, if any.
pub(crate) fn commit() -> Option<String> {
    let output = Command::new("git").args(["describe", "--always", "--dirty=+", "--exclude=*"]).output().ok()?;
    let text = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(text.trim().to_owned())
}

/// Seconds after 1970 began, as in `2026-11-24T15-00-00Z`: fit for the name of a file.
pub(crate) fn utc(seconds: u64) -> String {
    let at = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    let at = at.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = at.to_hms();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        assert_eq!(utc(0), "1970-01-01T00-00-00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23-59-59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00-00-00Z");
        assert_eq!(utc(1_767_225_599), "2025-12-31T23-59-59Z");
    }
}
