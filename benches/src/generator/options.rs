//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use crate::generator::scenario::Mode;
use crate::generator::schedule::Law;

/// A load generator for PostgreSQL and whatever speaks its protocol. Latency counts from when an operation was meant to begin,
/// so that a server that stands still is seen to.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "optimacore-bench",
    version,
    after_help = "benches/README.md says what the figures mean and how scenarios are written.\n\n\
                  Exit codes: 0 well; 1 a reply was wrong, or something failed; 2 the command line or a scenario is wrong; \
                  4 the server does not let us in; 5 it cannot be reached; 130 interrupted (what was measured is kept)"
)]
pub struct Options {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Puts a load on a server.
    Run(RunOptions),
    /// Latency against the rate that is offered, for several servers in turns; starts PostgreSQL and poolers by itself.
    Curve(CurveOptions),
    /// Measures its own error: the rate offered against the rate achieved, and its closed loop against pgbench.
    Check(CheckOptions),
    /// Names the scenarios that come with the program, or prints one.
    Scenarios {
        /// The one to print.
        name: Option<String>,
    },
}

/// A load.
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line, not a state")]
#[derive(Clone, Debug, clap::Args)]
pub struct RunOptions {
    /// A scenario that comes with the program, or a file.
    pub scenario: String,
    /// Where: postgres://user:password@host:port/database, or less of it; $PGPASSWORD is known.
    #[arg(short, long, value_name = "ADDRESS", default_value = "postgres://postgres@127.0.0.1:6432/postgres")]
    pub target: String,
    /// Operations a second; several in a row, each for its part of the time: 1000,2000,4000 or 1000..5000/5. Without it the
    /// loop is closed: each client begins the next operation when the one before has ended.
    #[arg(short, long, value_name = "RATES")]
    pub rate: Option<String>,
    /// Distances between operations.
    #[arg(long, value_enum, default_value = "even", requires = "rate")]
    pub arrivals: Law,
    /// How long a client pauses after each operation, in a closed loop.
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = duration, conflicts_with = "rate")]
    pub think: Duration,
    /// Time that counts.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub time: Duration,
    /// Time before it.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub warm_up: Duration,
    /// How long answers are waited for after it.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub drain: Duration,
    /// How connections are used.
    #[command(flatten)]
    pub connections: ConnectionOptions,
    /// How statements are sent by operations that do not say so themselves.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Does not make the scenario's data, and does not look whether it is there.
    #[arg(long)]
    pub no_setup: bool,
    /// A directory for the series, the histograms and run.json.
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Prints the results as JSON.
    #[arg(long)]
    pub json: bool,
    /// Cores that the generator runs on, as in 2,3 [default: the last one of each four].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cores: Option<Vec<u16>>,
    /// Where chance begins.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// How connections are used.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectionOptions {
    /// Connections.
    #[arg(short, long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub clients: u32,
    /// Operations under way on one connection at most.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub depth: u32,
    /// Further connections that log in and do nothing.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    pub idle: u32,
    /// Makes a connection anew after so many operations; 0 for never.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub reconnect_after: u32,
    /// Operations that may wait for a connection, of each core; what comes beyond is counted as not sent.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub queue: usize,
}

/// A curve.
#[expect(clippy::struct_excessive_bools, reason = "flags of the command line, not a state")]
#[derive(Clone, Debug, clap::Args)]
pub struct CurveOptions {
    /// A scenario that comes with the program, or a file.
    #[arg(default_value = "point-read")]
    pub scenario: String,
    /// The servers [default: PostgreSQL itself, pgbouncer and OptimaCore].
    #[arg(long, value_name = "FILE")]
    pub peers: Option<PathBuf>,
    /// One round of five rates of two seconds.
    #[arg(long)]
    pub quick: bool,
    /// How often each rate is offered to each server [default: 3].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: Option<u32>,
    /// How long each rate is offered [default: 4s].
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub time: Option<Duration>,
    /// Connections.
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub clients: u32,
    /// Cores that OptimaCore uses, as its runtime.cores.
    #[arg(long, value_name = "LIST", default_value = "auto")]
    pub plane_cores: String,
    /// OptimaCore's program [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    pub optimacore: Option<PathBuf>,
    /// Cores that the generator runs on [default: the last one of each four].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cores: Option<Vec<u16>>,
    /// A directory for everything that was measured [default: benches/results/curve-UTC].
    #[arg(short, long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Prints the results as JSON.
    #[arg(long)]
    pub json: bool,
}

/// A look at ourselves.
#[derive(Clone, Debug, clap::Args)]
pub struct CheckOptions {
    /// How often each is done.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub rounds: u32,
    /// How long each takes.
    #[arg(long, value_name = "TIME", default_value = "4s", value_parser = duration)]
    pub time: Duration,
    /// How far the rate achieved may be from the rate offered, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    pub rate_tolerance: f64,
    /// How far latency and rate may be from pgbench's, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    pub pgbench_tolerance: f64,
    /// Prints the results as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `10`, `10s`, `500ms`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit {
        "" | "s" => 1.0,
        "ms" => 1e-3,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a time is a number with ms, s, m or h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a time is a number with ms, s, m or h".to_owned())?;
    Duration::try_from_secs_f64(number * factor)
        .ok()
        .filter(|time| *time <= Duration::from_secs(7 * 24 * 3600))
        .ok_or_else(|| "a time is from 0 to a week".to_owned())
}

/// Most operations a second that make sense, and the least.
const RATES: (f64, f64) = (0.001, 10_000_000.0);
/// Most rates one after the other.
const RATES_COUNT_MAX: u32 = 1000;

/// `1000`, `1000,2000` or `1000..5000/5`.
///
/// # Errors
/// When it is none of these.
pub(crate) fn rates(text: &str) -> Result<Vec<f64>, String> {
    let wrong = || format!("{text}: rates are as in 1000 or 1000,2000,4000 or 1000..5000/5");
    let one = |text: &str| text.trim().parse::<f64>().ok().filter(|rate| (RATES.0..=RATES.1).contains(rate));
    if let Some((from, rest)) = text.split_once("..") {
        let (to, count) = rest.split_once('/').unwrap_or((rest, "10"));
        let (from, to) = one(from).zip(one(to)).ok_or_else(wrong)?;
        let count = count.parse().ok().filter(|count| (2..=RATES_COUNT_MAX).contains(count)).ok_or_else(wrong)?;
        let step = (to - from) / f64::from(count - 1);
        return Ok((0..count).map(|number| from + step * f64::from(number)).collect());
    }
    text.split(',').map(|rate| one(rate).ok_or_else(wrong)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn times_and_rates_are_read_as_people_write_them() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "1d", "-1s", "1e99", "NaN"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rates("100"), Ok(vec![100.0]));
        assert_eq!(rates("100,200"), Ok(vec![100.0, 200.0]));
        assert_eq!(rates("100..200/3"), Ok(vec![100.0, 150.0, 200.0]));
        for wrong in ["", "0", "-5", "NaN", "inf", "1..2/1", "1..2/x", "1,,2"] {
            assert!(rates(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_think_time_belongs_to_a_closed_loop() {
        let parse =
            |arguments: &[&str]| Options::try_parse_from([&["optimacore-bench", "run", "mix"], arguments].concat());
        assert!(parse(&["--think", "10ms"]).is_ok());
        assert!(parse(&["--rate", "10"]).is_ok());
        assert!(parse(&["--rate", "10", "--think", "10ms"]).is_err());
        assert!(parse(&["--arrivals", "poisson"]).is_err());
    }
}
