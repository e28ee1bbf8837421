//! What a process has used: CPU from `/proc/PID/stat`, memory from `/proc/PID/smaps_rollup`.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

/// Bytes of memory in user space; the kernel's socket buffers are not in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All that is resident.
    pub rss: u64,
    /// All that is resident, what is shared counted in parts.
    pub pss: u64,
    /// What no file backs: heap, stacks.
    pub anonymous: u64,
}

/// CPU time of a process, all threads, user and kernel, in microseconds. The kernel counts in ticks of a hundredth of a second.
pub fn cpu_us(id: u32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).with_context(|| format!("no process {id}"))?;
    let ticks = cpu_ticks(&stat).with_context(|| format!("cannot read the times of process {id}"))?;
    Ok(ticks.saturating_mul(1_000_000) / rustix::param::clock_ticks_per_second().max(1))
}

/// The memory of a process.
pub fn memory(id: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{id}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    parse_memory(&text).with_context(|| format!("cannot understand {path}"))
}

/// What all cores together have done since the machine started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cores {
    /// Of anything.
    pub busy: u64,
    /// Of anything or nothing.
    pub all: u64,
}

impl Cores {
    /// Reads `/proc/stat`.
    pub fn now() -> anyhow::Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
        Self::parse(&text).context("cannot understand /proc/stat")
    }

    /// How busy they were since then, in percent of all.
    pub fn busy_percent_since(self, then: Self) -> f64 {
        let all = self.all.saturating_sub(then.all).max(1);
        100.0 * self.busy.saturating_sub(then.busy) as f64 / all as f64
    }

    /// The first line: user, nice, system, idle, iowait, irq, softirq, steal; what guests use is in user already.
    fn parse(text: &str) -> Option<Self> {
        let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let ticks: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
        let all: u64 = ticks.iter().sum();
        let nothing: u64 = ticks.iter().skip(3).take(2).sum();
        Some(Self { busy: all - nothing, all })
    }
}

/// `utime` plus `stime`, fields 14 and 15. Field 2, the name, may hold spaces and brackets.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

fn parse_memory(text: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kibibytes * 1024)
    };
    Some(Memory { rss: bytes("Rss")?, pss: bytes("Pss")?, anonymous: bytes("Anonymous")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_found_behind_a_name_with_brackets() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194304 100 0 0 0 70 30 5 6 20 0 3 0 99 1000 200";
        assert_eq!(cpu_ticks(stat), Some(100));
        assert_eq!(cpu_ticks("42 (a"), None);
    }

    #[test]
    fn memory_is_read_by_name() {
        let text = "560000-7fff rollup\nRss:     1024 kB\nPss:      900 kB\nPss_Anon:  1 kB\nAnonymous:    512 kB\n";
        assert_eq!(parse_memory(text), Some(Memory { rss: 1024 << 10, pss: 900 << 10, anonymous: 512 << 10 }));
        assert_eq!(parse_memory("Rss: 1 kB\n"), None);
    }

    #[test]
    fn waiting_for_a_disk_is_not_busy() {
        let then = Cores::parse("cpu  10 0 10 100 20 0 0 0 7 0\ncpu0 1 1 1\n").unwrap();
        assert_eq!(then, Cores { busy: 20, all: 140 });
        assert!((Cores { busy: 50, all: 240 }.busy_percent_since(then) - 30.0).abs() < 1e-9);
    }

    #[test]
    fn our_own_usage_can_be_read() {
        let id = std::process::id();
        assert!(memory(id).unwrap().rss > 0);
        cpu_us(id).unwrap();
    }
}
