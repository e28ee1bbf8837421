//! One run of pgbench, and what it says.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use serde::Serialize;

use crate::case::{Case, Peer};
use crate::interrupt::Interrupt;
use crate::process::Process;
use crate::stack::{Server, Stack};
use crate::usage::{self, Cores};
use crate::wire::DATABASE;

/// How much longer than asked a run may take.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// What one run gave.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Transactions a second, connecting not counted.
    pub tps: f64,
    /// The mean over all transactions, in microseconds.
    pub latency_us: f64,
    /// How many transactions were done.
    pub transactions: u64,
    /// How many of them failed.
    pub failed: u64,
    /// CPU of the proxy for each transaction, in microseconds; of nobody when there is no proxy.
    pub cpu_us: Option<f64>,
    /// CPU of the proxy while it ran, in percent of a core.
    pub cpu_percent: Option<f64>,
    /// How busy the whole machine was while it ran, in percent of all its cores.
    pub machine_percent: f64,
    /// Percentiles of single transactions, where these were timed, in microseconds.
    pub percentiles: Option<Percentiles>,
}

/// Latencies of single transactions in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half are no slower.
    pub p50: u64,
    /// 99 of 100 are no slower.
    pub p99: u64,
}

/// What pgbench says of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Summary {
    tps: f64,
    latency_us: f64,
    transactions: u64,
    failed: u64,
}

/// Runs a case against a server.
pub fn run(
    stack: &Stack,
    server: &mut Server,
    case: &Case,
    time: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<Figures> {
    server.check()?;
    let dir = stack.path("transactions");
    let mut command = stack.pgbench(server.port, case.carrier);
    command.args(case.arguments()).args(["-n", "-T", &time.as_secs().to_string()]);
    if case.is_timed_singly() {
        remake(&dir)?;
        command.arg("-l").arg(format!("--log-prefix={}", dir.join("log").display()));
    }
    command.arg(DATABASE);
    let proxy = (server.peer != Peer::Direct).then(|| server.id());
    let cpu = || proxy.map(usage::cpu_us).transpose();
    let (cores_before, cpu_before, start) = (Cores::now()?, cpu()?, Instant::now());
    let mut pgbench = Process::start("pgbench", &mut command, &stack.path("pgbench.log"), Signal::TERM)?;
    let status = pgbench.wait(time + DELAY_MAX, interrupt)?;
    let (cores_after, cpu_after, elapsed) = (Cores::now()?, cpu()?, start.elapsed());
    let output = pgbench.output();
    server.check()?;
    if !status.success() {
        bail!("{}", complaint(&output).unwrap_or("pgbench has failed without a word"));
    }
    let summary = parse(&output).with_context(|| format!("cannot understand pgbench:\n{output}"))?;
    if summary.transactions == 0 {
        bail!("no transaction was done");
    }
    let used = cpu_before.zip(cpu_after).map(|(before, after)| after.saturating_sub(before) as f64);
    Ok(Figures {
        tps: summary.tps,
        latency_us: summary.latency_us,
        transactions: summary.transactions,
        failed: summary.failed,
        cpu_us: used.map(|used| used / summary.transactions as f64),
        cpu_percent: used.map(|used| used / 1e4 / elapsed.as_secs_f64()),
        machine_percent: cores_after.busy_percent_since(cores_before),
        percentiles: if case.is_timed_singly() { Some(read_percentiles(&dir)?) } else { None },
    })
}

fn remake(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    Ok(fs::create_dir(dir)?)
}

fn parse(output: &str) -> Option<Summary> {
    // before version 14 there are two lines on tps; the last is the one without connecting
    let tps = output.lines().rev().find_map(|line| number(line.strip_prefix("tps = ")?))?;
    let field = |name: &str| output.lines().find_map(|line| number(line.strip_prefix(name)?));
    let count = |name: &str| {
        let text = output.lines().find_map(|line| line.strip_prefix(name))?;
        text.split(['/', ' ']).next()?.parse().ok()
    };
    Some(Summary {
        tps,
        latency_us: field("latency average = ")? * 1000.0,
        transactions: count("number of transactions actually processed: ")?,
        failed: count("number of failed transactions: ").unwrap_or(0),
    })
}

fn number(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

/// The first thing pgbench complains of.
fn complaint(output: &str) -> Option<&str> {
    output.lines().find(|line| line.contains("error:") || line.contains("ERROR") || line.contains("FATAL"))
}

/// Of all files of a run's log. Each line is a transaction, its third word the time it took.
fn read_percentiles(dir: &Path) -> anyhow::Result<Percentiles> {
    let mut times = Vec::new();
    for entry in fs::read_dir(dir)? {
        let text = fs::read_to_string(entry?.path())?;
        times.extend(text.lines().filter_map(transaction_time));
    }
    percentiles(&mut times).context("pgbench's log of transactions is empty")
}

fn transaction_time(line: &str) -> Option<u64> {
    line.split_whitespace().nth(2)?.parse().ok()
}

fn percentiles(times: &mut [u64]) -> Option<Percentiles> {
    times.sort_unstable();
    let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied();
    Some(Percentiles { p50: at(50)?, p99: at(99)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
pgbench (15.13)
transaction type: <builtin: select only>
scaling factor: 10
query mode: simple
number of clients: 16
number of threads: 2
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 63301
number of failed transactions: 2 (0.003%)
latency average = 0.758 ms
initial connection time = 11.612 ms
tps = 21110.934 (without initial connection time)
";

    #[test]
    fn a_summary_is_read() {
        let summary = parse(OUTPUT).unwrap();
        assert_eq!(summary, Summary { tps: 21110.934, latency_us: 758.0, transactions: 63301, failed: 2 });
    }

    #[test]
    fn an_older_summary_is_read() {
        let old = "number of transactions actually processed: 100/100\nlatency average = 2.000 ms\n\
                   tps = 400.5 (including connections establishing)\ntps = 500.5 (excluding connections establishing)\n";
        let summary = parse(old).unwrap();
        assert_eq!(summary, Summary { tps: 500.5, latency_us: 2000.0, transactions: 100, failed: 0 });
    }

    #[test]
    fn what_is_no_summary_is_refused() {
        assert_eq!(parse("pgbench: error: connection to server failed\n"), None);
        assert_eq!(complaint("pgbench (15)\npgbench: error: no\nmore\n"), Some("pgbench: error: no"));
    }

    #[test]
    fn percentiles_are_of_the_third_column() {
        let log: String = (1..=101).map(|time| format!("0 {time} {time} 0 1700000000 5\n")).collect();
        let mut times: Vec<u64> = log.lines().filter_map(transaction_time).collect();
        assert_eq!(percentiles(&mut times), Some(Percentiles { p50: 51, p99: 100 }));
        assert_eq!(percentiles(&mut []), None);
    }
}
