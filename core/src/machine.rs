//! What goes into a snapshot beside what shards have counted: what the process is, what the kernel knows of it and of the machine.
//!
//! For the control side. A figure that cannot be read is 0.

use std::fs;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use config::Config;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};
use sha2::{Digest as _, Sha256};
use stats::Snapshot;
use stats::machine::{HostStats, ProcessStats};

use crate::stopwatch::micros;

/// What the program was built from, if whoever built it said so.
pub(crate) const COMMIT: Option<&str> = option_env!("OPTIMACORE_COMMIT");
/// The processors' use is that of at least so long.
const BUSY_SPAN: Duration = Duration::from_millis(900);

/// See the module documentation.
pub(crate) struct Machine {
    started_unix_us: u64,
    config_sha256: String,
    client_connections_max: AtomicU32,
    export_failures: AtomicU64,
    busy: Mutex<Busy>,
}

/// How much the processors were used lately.
struct Busy {
    at: Instant,
    times: Times,
    ppm: u32,
}

/// What the processors have spent their time with, in the kernel's ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Times {
    busy: u64,
    all: u64,
}

impl Machine {
    /// At the process' start.
    pub(crate) fn new(config: &Config) -> Self {
        let busy = Busy { at: Instant::now(), times: Times::read(&text_of("/proc/stat")), ppm: 0 };
        Self {
            started_unix_us: unix_us(),
            config_sha256: sha256_of(config),
            client_connections_max: AtomicU32::new(config.limits.max_client_connections),
            export_failures: AtomicU64::new(0),
            busy: Mutex::new(busy),
        }
    }

    /// Takes over what a new configuration changes.
    pub(crate) fn adopt(&self, config: &Config) {
        self.client_connections_max.store(config.limits.max_client_connections, Ordering::Relaxed);
    }

    /// A tick could not be written where it was to be.
    pub(crate) fn count_export_failure(&self) {
        self.export_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// A snapshot of this moment, without what shards have counted.
    pub(crate) fn snapshot(&self, uptime: Duration) -> Snapshot {
        Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: COMMIT.unwrap_or_default().to_owned(),
            config_sha256: self.config_sha256.clone(),
            pid: std::process::id(),
            started_unix_us: self.started_unix_us,
            uptime_us: micros(uptime),
            taken_unix_us: unix_us(),
            client_connections_max: u64::from(self.client_connections_max.load(Ordering::Relaxed)),
            export_failures: self.export_failures.load(Ordering::Relaxed),
            process: process(),
            host: self.host(),
            ..Snapshot::default()
        }
    }

    fn host(&self) -> HostStats {
        let (stat, memory) = (text_of("/proc/stat"), text_of("/proc/meminfo"));
        let name = rustix::system::uname();
        HostStats {
            name: name.nodename().to_string_lossy().into_owned(),
            kernel: name.release().to_string_lossy().into_owned(),
            cpus: processors(&stat),
            memory_bytes: kibibytes(&memory, "MemTotal:"),
            memory_available_bytes: kibibytes(&memory, "MemAvailable:"),
            cpu_busy_ppm: self.busy_ppm(Times::read(&stat)),
            load1_hundredths: load1(&text_of("/proc/loadavg")),
        }
    }

    /// Who asks several times a second is told the same.
    fn busy_ppm(&self, times: Times) -> u32 {
        let mut last = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.elapsed() >= BUSY_SPAN {
            last.ppm = times.share_since(last.times);
            (last.at, last.times) = (Instant::now(), times);
        }
        last.ppm
    }
}

impl Times {
    /// Of `/proc/stat`.
    fn read(stat: &str) -> Self {
        let first = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).unwrap_or_default();
        // user, nice, system, idle, iowait, irq, softirq, steal; what guests use is counted in user
        let ticks: Vec<u64> = first.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        let sum = |ticks: &mut dyn Iterator<Item = &u64>| ticks.fold(0_u64, |sum, more| sum.saturating_add(*more));
        let (all, idle) = (sum(&mut ticks.iter()), sum(&mut ticks.iter().skip(3).take(2)));
        Self { busy: all.saturating_sub(idle), all }
    }

    /// In millionths.
    fn share_since(self, earlier: Self) -> u32 {
        let (busy, all) = (self.busy.saturating_sub(earlier.busy), self.all.saturating_sub(earlier.all));
        let ppm = busy.saturating_mul(1_000_000).checked_div(all).unwrap_or_default();
        u32::try_from(ppm.min(1_000_000)).unwrap_or_default()
    }
}

fn process() -> ProcessStats {
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    let (seconds, nanos) = (u64::try_from(cpu.tv_sec), u64::try_from(cpu.tv_nsec));
    ProcessStats {
        resident_bytes: kibibytes(&text_of("/proc/self/status"), "VmRSS:"),
        cpu_us: seconds.unwrap_or_default().saturating_mul(1_000_000) + nanos.unwrap_or_default() / 1000,
        open_fds: open_fds(),
        max_fds: getrlimit(Resource::Nofile).current.unwrap_or_default(),
    }
}

/// Kernels from 6.2 on tell it without a list of thousands.
fn open_fds() -> u64 {
    let told = fs::metadata("/proc/self/fd").map_or(0, |directory| directory.len());
    if told > 0 { told } else { fs::read_dir("/proc/self/fd").map_or(0, |list| list.count() as u64) }
}

fn text_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// As in `MemTotal:  8000 kB`.
fn kibibytes(text: &str, key: &str) -> u64 {
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or_default().saturating_mul(1024)
}

fn processors(stat: &str) -> u32 {
    let is_one =
        |line: &&str| line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    u32::try_from(stat.lines().filter(is_one).count()).unwrap_or_default()
}

/// As in `0.42 0.30 0.25 1/200 1234`, which has two digits always.
fn load1(text: &str) -> u32 {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.split_once('.').and_then(|(whole, part)| format!("{whole}{part:0<2}").parse().ok()).unwrap_or_default()
}

/// Two configurations with the same keys have the same; what is secret has no part in it.
fn sha256_of(config: &Config) -> String {
    let mut hash = Sha256::new();
    for entry in config.listing() {
        hash.update(format!("{} = {}\n", entry.key, entry.value));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Now, in microseconds since 1970 began.
pub(crate) fn unix_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str =
        "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\ncpu1 50 0 25 400 25 0 0 0 0 0\nintr 5\n";

    fn config() -> Config {
        let text = "[[database]]\nname = \"*\"\nhost = \"::1\"\npassword = \"secret\"\n[[user]]\nname = \"a\"\ntrust = [\"local\"]\n";
        Config::parse(text, "test").unwrap()
    }

    #[test]
    fn the_kernels_texts_are_read() {
        assert_eq!(Times::read(STAT), Times { busy: 150, all: 1000 });
        let later = Times { busy: 250, all: 1400 };
        assert_eq!(later.share_since(Times::read(STAT)), 250_000);
        assert_eq!(later.share_since(later), 0);
        assert_eq!(processors(STAT), 2);
        assert_eq!(kibibytes("MemTotal:       16 kB\nMemAvailable:    4 kB\n", "MemAvailable:"), 4096);
        assert_eq!([load1("0.42 0.30"), load1("12.05 1"), load1("")], [42, 1205, 0]);
        assert_eq!(Times::read("nonsense"), Times::default());
    }

    #[test]
    fn a_snapshot_knows_this_process_and_this_machine() {
        let snapshot = Machine::new(&config()).snapshot(Duration::from_secs(1));
        let (process, host) = (&snapshot.process, &snapshot.host);
        assert!(process.resident_bytes > 1 << 20 && process.open_fds > 2 && process.max_fds > process.open_fds);
        assert!(host.cpus > 0 && host.memory_bytes > host.memory_available_bytes && !host.kernel.is_empty());
        assert!(snapshot.taken_unix_us >= snapshot.started_unix_us && snapshot.started_unix_us > 0);
        assert_eq!((snapshot.uptime_us, snapshot.client_connections_max), (1_000_000, 10_000));
    }

    #[test]
    fn the_hash_of_a_configuration_tells_keys_apart_and_no_secrets() {
        let (one, mut other) = (config(), config());
        assert_eq!(sha256_of(&one).len(), 64);
        other.pool.size += 1;
        assert_ne!(sha256_of(&one), sha256_of(&other));
        let text = "[[database]]\nname = \"*\"\nhost = \"::1\"\npassword = \"another\"\n[[user]]\nname = \"a\"\ntrust = [\"local\"]\n";
        assert_eq!(sha256_of(&one), sha256_of(&Config::parse(text, "test").unwrap()));
    }
}
