//! What clients cost that do nothing: memory for each, CPU for all.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

use crate::case::Peer;
use crate::interrupt::Interrupt;
use crate::stack::{CLIENTS_MAX, POOL_SIZE, Server};
use crate::usage::{self, Memory};
use crate::wire::Client;

/// Files we and the proxies want to have open at most.
const FILES_WANTED: u64 = 65_536;
/// Files that are not clients' sockets.
const FILES_SPARE: u64 = 500;
/// Clients from one source address; each needs a port of it, and a usual kernel has 28,000.
const CLIENTS_PER_SOURCE: u32 = 20_000;
/// How long the proxy has to settle before its CPU is watched.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// What idle clients cost a proxy.
#[derive(Clone, Debug, Serialize)]
pub struct IdleFigures {
    /// Whom.
    pub peer: Peer,
    /// How many there were.
    pub clients: u32,
    /// How long it took to connect them all, in seconds.
    pub connect_seconds: f64,
    /// Before they came.
    pub memory_before: Memory,
    /// With all of them logged in.
    pub memory_connected: Memory,
    /// After each has run one SELECT.
    pub memory_used: Memory,
    /// Growth of what is anonymous for each client logged in, in bytes.
    pub bytes_per_client: f64,
    /// The same after each has run one SELECT.
    pub bytes_per_used_client: f64,
    /// CPU while nothing happens, in percent of a core.
    pub cpu_percent: f64,
    /// How long it was watched for, in seconds.
    pub watched_seconds: f64,
}

/// Allows as many open files as can be, for us and for what we start.
pub fn raise_file_limit() -> u64 {
    let now = getrlimit(Resource::Nofile);
    let maximum = now.maximum.unwrap_or(u64::MAX);
    if maximum < FILES_WANTED {
        // only root may
        let more = Rlimit { current: Some(FILES_WANTED), maximum: Some(FILES_WANTED) };
        if setrlimit(Resource::Nofile, more).is_ok() {
            return FILES_WANTED;
        }
    }
    let current = maximum.min(FILES_WANTED).max(now.current.unwrap_or(u64::MAX));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: now.maximum }) {
        Ok(()) => current,
        Err(_) => now.current.unwrap_or(u64::MAX),
    }
}

/// How many idle clients there can be of those that are wanted.
pub fn clients_possible(wanted: u32, file_limit: u64) -> u32 {
    let files = u32::try_from(file_limit.saturating_sub(FILES_SPARE)).unwrap_or(u32::MAX);
    wanted.min(files).min(CLIENTS_MAX - POOL_SIZE)
}

/// Measures a proxy, best one that has just been started. Tells `progress` how many clients are connected.
pub fn measure(
    server: &mut Server,
    clients: u32,
    time: Duration,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(&str),
) -> anyhow::Result<IdleFigures> {
    let id = server.id();
    // what comes with the first client is not counted for each
    let mut first = Client::connect(Ipv4Addr::LOCALHOST, server.port)?;
    first.query("SELECT 1")?;
    interrupt.sleep(Duration::from_millis(500))?;
    let memory_before = usage::memory(id)?;
    let start = Instant::now();
    let mut connected = Vec::new();
    for index in 0..clients {
        interrupt.check()?;
        if index % 1000 == 0 {
            progress(&format!("{index} of {clients} clients connected"));
        }
        let client = Client::connect(source(index), server.port);
        connected.push(client.with_context(|| format!("client {} of {clients}", index + 1))?);
    }
    let connect_seconds = start.elapsed().as_secs_f64();
    progress(&format!("{clients} clients idle"));
    interrupt.sleep(SETTLE_TIME)?;
    let memory_connected = usage::memory(id)?;
    let (cpu_before, start) = (usage::cpu_us(id)?, Instant::now());
    interrupt.sleep(time)?;
    let used = usage::cpu_us(id)?.saturating_sub(cpu_before) as f64;
    let watched_seconds = start.elapsed().as_secs_f64();
    progress("one SELECT of each client");
    for client in &mut connected {
        interrupt.check()?;
        client.query("SELECT 1")?;
    }
    interrupt.sleep(SETTLE_TIME)?;
    let memory_used = usage::memory(id)?;
    server.check()?;
    let per_client = |memory: Memory| (memory.anonymous as f64 - memory_before.anonymous as f64) / f64::from(clients);
    Ok(IdleFigures {
        peer: server.peer,
        clients,
        connect_seconds,
        memory_before,
        memory_connected,
        memory_used,
        bytes_per_client: per_client(memory_connected),
        bytes_per_used_client: per_client(memory_used),
        cpu_percent: used / 1e4 / watched_seconds,
        watched_seconds,
    })
}

fn source(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + index / CLIENTS_PER_SOURCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_clients_are_as_many_as_files_allow() {
        assert_eq!(clients_possible(10_000, 65_536), 10_000);
        assert_eq!(clients_possible(10_000, 1_024), 524);
        assert_eq!(clients_possible(10_000, 100), 0);
        assert_eq!(clients_possible(100_000, u64::MAX), CLIENTS_MAX - POOL_SIZE);
    }

    #[test]
    fn sources_change_before_their_ports_run_out() {
        assert_eq!(source(19_999), Ipv4Addr::new(127, 0, 0, 1));
        assert_eq!(source(20_000), Ipv4Addr::new(127, 0, 0, 2));
    }
}
