//! All that was measured: every run, and what follows from them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use crate::case::{Case, Peer};
use crate::dress::{Dress, PEERS};
use crate::idle::IdleFigures;
use crate::load::Figures;
use crate::machine::Machine;

/// A whole bench.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// When it began, UTC.
    pub started: String,
    /// On what.
    pub machine: Machine,
    /// How.
    pub settings: Settings,
    /// What a reader must know.
    pub notes: Vec<String>,
    /// The loads.
    pub cases: Vec<CaseReport>,
    /// Clients with settings of their own.
    pub dresses: Vec<DressReport>,
    /// The idle clients.
    pub idle: Vec<IdleFigures>,
}

/// How it was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// How often each case ran against each peer.
    pub rounds: u32,
    /// How long each run lasted.
    pub seconds: u64,
    /// pgbench's scale.
    pub scale: u32,
    /// Server connections of each proxy.
    pub pool_size: u32,
    /// OptimaCore's cores.
    pub cores: String,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// What it is.
    #[serde(flatten)]
    pub case: Case,
    /// What follows from the runs.
    pub summaries: Vec<Summary>,
    /// All runs, in the order they were made in.
    pub runs: Vec<Run>,
}

/// One case of clients with settings of their own.
#[derive(Clone, Debug, Serialize)]
pub struct DressReport {
    /// Its name.
    pub name: String,
    /// What they have set.
    pub dress: Dress,
    /// What follows from the runs.
    pub summaries: Vec<DressSummary>,
    /// All runs, in the order they were made in.
    pub runs: Vec<Run>,
}

/// What the runs of such a case against a peer give together.
#[derive(Clone, Debug, Serialize)]
pub struct DressSummary {
    /// Against whom.
    pub peer: Peer,
    /// Transactions a second.
    pub tps: Spread,
    /// Its ratio to the same peer's, in the same round, when nobody has set anything.
    pub tps_to_none: Option<Spread>,
    /// Its ratio to that of PostgreSQL itself.
    pub tps_to_direct: Option<Spread>,
    /// The proxy's CPU for a transaction, in microseconds.
    pub cpu_us: Option<Spread>,
    /// How busy the whole machine was, in percent of all its cores.
    pub machine_percent: Spread,
}

/// One run.
#[derive(Clone, Debug, Serialize)]
pub struct Run {
    /// Counted from 1.
    pub round: u32,
    /// Against whom.
    pub peer: Peer,
    /// What it gave.
    pub figures: Option<Figures>,
    /// Why it gave nothing.
    pub error: Option<String>,
}

/// What the runs of a case against a peer give together. Ratios are of runs of the same round.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Against whom.
    pub peer: Peer,
    /// Transactions a second.
    pub tps: Spread,
    /// Its ratio to that of PostgreSQL itself.
    pub tps_to_direct: Option<Spread>,
    /// Its ratio to that of pgbouncer.
    pub tps_to_pgbouncer: Option<Spread>,
    /// Mean latency in microseconds.
    pub latency_us: Spread,
    /// The proxy's CPU for a transaction, in microseconds.
    pub cpu_us: Option<Spread>,
    /// How busy the whole machine was, in percent of all its cores.
    pub machine_percent: Spread,
    /// Median latency in microseconds, where transactions were timed singly.
    pub p50_us: Option<Spread>,
    /// By how much it is more than that of PostgreSQL itself.
    pub p50_added_us: Option<Spread>,
}

/// What figures of several rounds are like.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The one in the middle, or between the two there.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
}

impl Spread {
    /// `None` for no figures.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let low = sorted.get((sorted.len() - 1) / 2)?;
        let high = sorted.get(sorted.len() / 2)?;
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }
}

impl CaseReport {
    /// Draws the conclusions.
    pub fn new(case: Case, runs: Vec<Run>) -> Self {
        let summaries = Peer::ALL.iter().filter_map(|peer| summarize(*peer, &runs)).collect();
        Self { name: case.name(), case, summaries, runs }
    }

    /// Why a peer has no figures.
    pub fn error(&self, peer: Peer) -> Option<&str> {
        self.runs.iter().filter(|run| run.peer == peer).find_map(|run| run.error.as_deref())
    }
}

impl DressReport {
    /// Draws the conclusions; `none` are the runs of [`Dress::None`].
    pub fn new(dress: Dress, runs: Vec<Run>, none: &[Run]) -> Self {
        let summaries = PEERS.iter().filter_map(|peer| summarize_dress(*peer, &runs, none)).collect();
        Self { name: dress.name(), dress, summaries, runs }
    }
}

impl Report {
    /// As JSON.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// Keeps it in a directory, under the time it began.
    pub fn save(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        let path = dir.join(format!("{}.json", self.started));
        let unfinished = path.with_extension("tmp");
        let write = || {
            fs::create_dir_all(dir)?;
            fs::write(&unfinished, self.json()? + "\n")?;
            anyhow::Ok(fs::rename(&unfinished, &path)?)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

fn summarize(peer: Peer, runs: &[Run]) -> Option<Summary> {
    let own =
        || runs.iter().filter(move |run| run.peer == peer).filter_map(|run| Some((run.round, run.figures.as_ref()?)));
    let other = |round: u32, peer: Peer| {
        runs.iter().find(|run| run.round == round && run.peer == peer).and_then(|run| run.figures.as_ref())
    };
    let ratio = |to: Peer| {
        let ratios = own().filter_map(|(round, figures)| Some(figures.tps / other(round, to)?.tps));
        if to == peer { None } else { Spread::of(ratios) }
    };
    let p50 = |figures: &Figures| figures.percentiles.map(|percentiles| percentiles.p50 as f64);
    let added = own().filter_map(|(round, figures)| Some(p50(figures)? - p50(other(round, Peer::Direct)?)?));
    Some(Summary {
        peer,
        tps: Spread::of(own().map(|(_, figures)| figures.tps))?,
        tps_to_direct: ratio(Peer::Direct),
        tps_to_pgbouncer: ratio(Peer::Pgbouncer),
        latency_us: Spread::of(own().map(|(_, figures)| figures.latency_us))?,
        cpu_us: Spread::of(own().filter_map(|(_, figures)| figures.cpu_us)),
        machine_percent: Spread::of(own().map(|(_, figures)| figures.machine_percent))?,
        p50_us: Spread::of(own().filter_map(|(_, figures)| p50(figures))),
        p50_added_us: if peer == Peer::Direct { None } else { Spread::of(added) },
    })
}

fn summarize_dress(peer: Peer, runs: &[Run], none: &[Run]) -> Option<DressSummary> {
    let own =
        || runs.iter().filter(move |run| run.peer == peer).filter_map(|run| Some((run.round, run.figures.as_ref()?)));
    let ratio = |runs: &[Run], to: Peer| {
        let other = |round| runs.iter().find(|run| run.round == round && run.peer == to)?.figures.as_ref();
        Spread::of(own().filter_map(|(round, figures)| Some(figures.tps / other(round)?.tps)))
    };
    Some(DressSummary {
        peer,
        tps: Spread::of(own().map(|(_, figures)| figures.tps))?,
        tps_to_none: ratio(none, peer),
        tps_to_direct: if peer == Peer::Direct { None } else { ratio(runs, Peer::Direct) },
        cpu_us: Spread::of(own().filter_map(|(_, figures)| figures.cpu_us)),
        machine_percent: Spread::of(own().map(|(_, figures)| figures.machine_percent))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::CASES;
    use crate::load::Percentiles;

    fn run(round: u32, peer: Peer, tps: f64, p50: u64) -> Run {
        let figures = Figures {
            tps,
            latency_us: 1e6 / tps,
            transactions: 10,
            failed: 0,
            cpu_us: None,
            cpu_percent: None,
            machine_percent: 50.0,
            percentiles: Some(Percentiles { p50, p99: p50 }),
        };
        Run { round, peer, figures: Some(figures), error: None }
    }

    #[test]
    fn a_median_of_two_is_between_them() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0]), Some(Spread { median: 3.0, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([4.0, 1.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let failed = Run { round: 1, peer: Peer::Pgbouncer, figures: None, error: Some("no".into()) };
        let runs = vec![
            run(1, Peer::Direct, 100.0, 50),
            run(1, Peer::Optimacore, 50.0, 70),
            failed,
            run(2, Peer::Optimacore, 20.0, 75),
            run(2, Peer::Direct, 20.0, 60),
        ];
        let report = CaseReport::new(CASES[0], runs);
        assert_eq!(report.error(Peer::Pgbouncer), Some("no"));
        let [direct, optimacore] = report.summaries.as_slice() else { panic!("{:?}", report.summaries) };
        assert_eq!((direct.tps_to_direct, direct.p50_added_us), (None, None));
        assert_eq!(optimacore.tps_to_direct, Some(Spread { median: 0.75, min: 0.5, max: 1.0 }));
        assert_eq!(optimacore.p50_added_us, Some(Spread { median: 17.5, min: 15.0, max: 20.0 }));
        assert_eq!(optimacore.tps_to_pgbouncer, None);
    }

    #[test]
    fn what_settings_cost_is_a_ratio_of_the_same_peer_and_round() {
        let none =
            [run(1, Peer::Optimacore, 100.0, 1), run(2, Peer::Optimacore, 50.0, 1), run(1, Peer::Direct, 9.0, 1)];
        let runs = vec![run(2, Peer::Optimacore, 45.0, 1), run(1, Peer::Optimacore, 80.0, 1)];
        let report = DressReport::new(Dress::Four, runs, &none);
        let [summary] = report.summaries.as_slice() else { panic!("{:?}", report.summaries) };
        let ratio = summary.tps_to_none.unwrap();
        assert!((ratio.min - 0.8).abs() < 1e-9 && (ratio.max - 0.9).abs() < 1e-9, "{ratio:?}");
        assert_eq!(summary.tps_to_direct, None);
    }
}
