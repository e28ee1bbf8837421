//! `optimacore-bench check`: how wrong the generator itself is. The rate it achieves against the rate it was asked for, and what
//! it measures in a closed loop against what pgbench does under the same load.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::bail;
use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use serde::Serialize;

use crate::case::{Carrier, Case, Extent, Mode as PgbenchMode, Script};
use crate::generator::assignment::Assignment;
use crate::generator::command::{read_scenario, watched};
use crate::generator::measure::{self, Measurement};
use crate::generator::options::CheckOptions;
use crate::generator::peer;
use crate::generator::results::{Results, Setup};
use crate::generator::schedule::{Law, Pace, Rates};
use crate::generator::target::Target;
use crate::generator::trouble::Trouble;
use crate::interrupt::Interrupt;
use crate::load;
use crate::program::Programs;
use crate::progress::Progress;
use crate::report::Spread;
use crate::stack::{Server, Stack};

/// Rates that are offered.
const RATES: [f64; 3] = [100.0, 1_000.0, 4_000.0];
/// Clients of the closed loop.
const CLIENTS: [u32; 3] = [1, 4, 16];
const WARM_UP: Duration = Duration::from_millis(500);

/// One comparison.
#[derive(Clone, Debug, Serialize)]
struct Comparison {
    what: String,
    /// What it must be like: the rate asked for, or pgbench's figure.
    reference: f64,
    /// What the generator has.
    own: f64,
    /// By how much it is off, in percent: the median over all rounds.
    off_percent: f64,
    tolerance_percent: f64,
    good: bool,
}

impl Comparison {
    /// Of pairs of the same round: reference and own.
    fn new(what: String, pairs: &[(f64, f64)], tolerance_percent: f64) -> Self {
        let median =
            |figures: &mut dyn Iterator<Item = f64>| Spread::of(figures).map_or(f64::NAN, |spread| spread.median);
        let off = median(&mut pairs.iter().map(|(reference, own)| (own / reference - 1.0) * 100.0));
        Self {
            what,
            reference: median(&mut pairs.iter().map(|(reference, _)| *reference)),
            own: median(&mut pairs.iter().map(|(_, own)| *own)),
            off_percent: off,
            tolerance_percent,
            good: off.abs() <= tolerance_percent,
        }
    }
}

/// What goes on.
struct Check<'c> {
    options: &'c CheckOptions,
    target: Target,
    cluster: Server,
    stack: Stack,
    interrupt: &'c Interrupt,
    progress: &'c mut Progress,
}

/// Does it all.
///
/// # Errors
/// When something is further off than it may be.
pub(crate) fn run(options: &CheckOptions, interrupt: &Interrupt, progress: &mut Progress) -> anyhow::Result<()> {
    // no data plane is part of it, but the programs are looked for together
    let programs = Programs::find_without_plane()?;
    progress.begin("starting PostgreSQL and making its tables");
    let (stack, cluster) = Stack::start(programs, "auto", interrupt)?;
    let target = peer::local(cluster.port);
    let mut check = Check { options, target, cluster, stack, interrupt, progress };
    let mut comparisons = check.rates()?;
    comparisons.extend(check.pgbench()?);
    let mut out = io::stdout();
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&comparisons)?)?;
    } else {
        writeln!(out, "{}", table(&comparisons))?;
    }
    let bad = comparisons.iter().filter(|comparison| !comparison.good).count();
    if bad > 0 {
        bail!("{bad} of {} are further off than they may be", comparisons.len());
    }
    Ok(())
}

impl Check<'_> {
    fn load(&mut self, pace: Pace, rates: &[f64], clients: u32) -> anyhow::Result<Results> {
        let measurement = Measurement {
            cores: measure::cores(None)?,
            warm_up: WARM_UP,
            time: self.options.time,
            drain: Duration::from_secs(2),
            assignment: Assignment {
                scenario: read_scenario("pgbench-select", None)?,
                target: self.target.clone(),
                pace,
                clients,
                idle: 0,
                depth: 1,
                reconnect_after: 0,
                queue_max: 10_000,
                workers: 1,
                seed: 1,
            },
        };
        let setup = Setup::of(&measurement, rates);
        let results = watched(measurement, &setup, None, (self.interrupt, self.progress))?;
        if results.interrupted {
            bail!(Trouble::Interrupted);
        }
        if results.failed > 0 {
            bail!("operations have failed: {:?}", results.error_texts);
        }
        Ok(results)
    }

    /// The rate offered and the rate achieved, against the rate asked for.
    fn rates(&mut self) -> anyhow::Result<Vec<Comparison>> {
        let mut out = Vec::new();
        for rate in RATES {
            let (mut offered, mut achieved) = (Vec::new(), Vec::new());
            for round in 1..=self.options.rounds {
                self.progress.begin(&format!("{rate}/s, round {round}"));
                let rates = Rates::new(&[rate], WARM_UP, self.options.time);
                let results = self.load(Pace::Open { rates, law: Law::Even }, &[rate], 16)?;
                offered.push((rate, results.offered_per_second));
                achieved.push((rate, results.achieved_per_second));
            }
            let tolerance = self.options.rate_tolerance;
            out.push(Comparison::new(format!("offered at {rate}/s"), &offered, tolerance));
            out.push(Comparison::new(format!("achieved at {rate}/s"), &achieved, tolerance));
        }
        Ok(out)
    }

    /// Transactions a second and mean latency of a closed loop, against pgbench's.
    fn pgbench(&mut self) -> anyhow::Result<Vec<Comparison>> {
        let mut out = Vec::new();
        for clients in CLIENTS {
            let case = Case {
                script: Script::Select,
                mode: PgbenchMode::Prepared,
                clients,
                carrier: Carrier::Plain,
                extent: Extent::Full,
            };
            let (mut rates, mut latencies) = (Vec::new(), Vec::new());
            for round in 1..=self.options.rounds {
                self.progress.begin(&format!("{clients} clients, round {round}"));
                let theirs = load::run(&self.stack, &mut self.cluster, &case, self.options.time, self.interrupt)?;
                let own = self.load(Pace::Closed { think: Duration::ZERO }, &[], clients)?;
                rates.push((theirs.tps, own.achieved_per_second));
                latencies.push((theirs.latency_us / 1e3, own.response_ms.mean));
            }
            let tolerance = self.options.pgbench_tolerance;
            out.push(Comparison::new(format!("transactions/s of {clients} clients"), &rates, tolerance));
            out.push(Comparison::new(format!("mean latency of {clients} clients, ms"), &latencies, tolerance));
        }
        Ok(out)
    }
}

fn table(comparisons: &[Comparison]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED);
    table.set_header(["", "asked for, or pgbench", "optimacore-bench", "off by", "may be", ""]);
    for comparison in comparisons {
        table.add_row([
            comparison.what.clone(),
            format!("{:.3}", comparison.reference),
            format!("{:.3}", comparison.own),
            format!("{:+.2} %", comparison.off_percent),
            format!("{} %", comparison.tolerance_percent),
            if comparison.good { "good" } else { "too far off" }.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_off_is_the_median_of_the_rounds() {
        let pairs = [(100.0, 101.0), (200.0, 208.0), (100.0, 99.0)];
        let comparison = Comparison::new("x".into(), &pairs, 2.0);
        assert!((comparison.off_percent - 1.0).abs() < 1e-9 && comparison.good);
        assert!(!Comparison::new("x".into(), &pairs, 0.5).good);
        assert!(!Comparison::new("x".into(), &[], 5.0).good, "nothing measured is not good");
    }
}
