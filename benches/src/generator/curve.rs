//! `optimacore-bench curve`: latency against the rate that is offered, for several servers in turns.
//!
//! First the saturation of each is found by steps, then all are offered the same parts of the best one's, in rounds, so that a
//! slow minute of the machine hits all alike. What OptimaCore is meant to reach is judged at the end.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::generator::assignment::Assignment;
use crate::generator::command::{read_scenario, watched};
use crate::generator::measure::{self, Measurement};
use crate::generator::options::CurveOptions;
use crate::generator::peer::{self, Peer};
use crate::generator::results::{Results, Setup};
use crate::generator::scenario::{Mode, Scenario};
use crate::generator::schedule::{Law, Pace, Rates};
use crate::generator::scorecard::{self, Line, Measured};
use crate::generator::talk;
use crate::generator::trouble::Trouble;
use crate::idle;
use crate::interrupt::Interrupt;
use crate::machine::{Machine, utc_now};
use crate::program::{Pgbouncer, Programs};
use crate::progress::Progress;
use crate::report::Spread;
use crate::stack::{POOL_SIZE, Stack};

mod draw;
mod utilisation;

/// Saturation is the highest rate at which 99 of 100 answers come within this.
const P99_MS_MAX: f64 = 10.0;
/// The part of what is offered that must be answered in time.
const ACHIEVED_MIN: f64 = 0.98;
/// Steps towards saturation, in tenths of what a closed loop does.
const STEPS: std::ops::RangeInclusive<u32> = 2..=15;
/// The part of saturation at which targets are judged.
const JUDGED_AT: f64 = 0.7;
const WARM_UP: Duration = Duration::from_millis(500);

/// All of it.
#[derive(Debug, Serialize)]
struct Curve {
    schema: &'static str,
    started: String,
    machine: Machine,
    scenario: String,
    clients: u32,
    pool_size: u32,
    rounds: u32,
    seconds: f64,
    notes: Vec<String>,
    peers: Vec<PeerCurve>,
    scorecard: Vec<Line>,
}

/// One server's.
#[derive(Debug, Serialize)]
struct PeerCurve {
    name: String,
    /// Operations a second of a closed loop of all clients.
    closed_per_second: f64,
    /// The highest rate that it keeps up with.
    saturation_per_second: f64,
    /// How that was found.
    steps: Vec<Offer>,
    points: Vec<Point>,
}

/// A rate that was offered once.
#[derive(Clone, Debug, Serialize)]
struct Offer {
    per_second: f64,
    achieved_per_second: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    failed: u64,
    unsent: u64,
}

/// A rate, over all rounds.
#[derive(Debug, Serialize)]
struct Point {
    percent: u32,
    per_second: f64,
    offers: Vec<Offer>,
}

impl Offer {
    fn of(per_second: f64, results: &Results) -> Self {
        Self {
            per_second,
            achieved_per_second: results.achieved_per_second,
            p50_ms: results.response_ms.p50,
            p95_ms: results.response_ms.p95,
            p99_ms: results.response_ms.p99,
            p999_ms: results.response_ms.p999,
            failed: results.failed,
            unsent: results.unsent,
        }
    }

    /// Whether the server keeps up with it.
    fn is_kept_up_with(&self) -> bool {
        self.p99_ms <= P99_MS_MAX
            && self.achieved_per_second >= ACHIEVED_MIN * self.per_second
            && self.failed + self.unsent == 0
    }
}

impl Point {
    /// The median of something over all rounds.
    fn median(&self, of: impl Fn(&Offer) -> f64) -> f64 {
        Spread::of(self.offers.iter().map(of)).map_or(f64::NAN, |spread| spread.median)
    }
}

/// What goes on.
struct Bench<'b> {
    scenario: Scenario,
    clients: u32,
    cores: Vec<runtime::topology::CoreId>,
    dir: PathBuf,
    interrupt: &'b Interrupt,
    progress: &'b mut Progress,
}

/// Does it all.
pub(crate) fn run(options: &CurveOptions, interrupt: &Interrupt, progress: &mut Progress) -> anyhow::Result<()> {
    let specs = peer::read(options.peers.as_deref())?;
    let started = utc_now();
    let file_limit = idle::raise_file_limit();
    let programs = Programs::find(None, options.optimacore.as_deref())?;
    let machine = Machine::look(&programs, file_limit);
    let mut notes = Vec::new();
    let mut mode = None;
    if let Some(pgbouncer) = programs.pgbouncer.as_ref().filter(|pgbouncer| !Pgbouncer::is_preparing(pgbouncer)) {
        mode = Some(Mode::Unprepared);
        notes.push(format!("statements are parsed each time: {} cannot keep prepared ones", pgbouncer.version));
    }
    if cfg!(debug_assertions) {
        notes.push("this is not a release build; the figures mean nothing".to_owned());
    }
    let scenario = read_scenario(&options.scenario, mode)?;
    progress.begin("starting PostgreSQL and what stands before it");
    let (stack, cluster) = Stack::start(programs, &options.plane_cores, interrupt)?;
    let mut peers = Vec::new();
    for spec in &specs {
        match Peer::start(spec, &stack, interrupt)? {
            Some(peer) => peers.push(peer),
            None => notes.push(format!("{} is not installed and was left out", spec.name)),
        }
    }
    for peer in &peers {
        talk::prepare(&peer.target, &scenario.data, &mut |text| progress.update(text))?;
    }
    let dir = options.out.clone().unwrap_or_else(|| PathBuf::from(format!("benches/results/curve-{started}")));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let cores = measure::cores(options.cores.as_deref())?;
    let name = scenario.name.clone();
    let mut bench = Bench { scenario, clients: options.clients, cores, dir: dir.clone(), interrupt, progress };
    let (rounds, time, percents) = extent(options);
    let mut curves = bench.saturations(&mut peers, time.min(Duration::from_secs(2)))?;
    bench.offer_all(&mut peers, &mut curves, (rounds, time, &percents))?;
    let scorecard = bench.judge(&mut peers, &curves, stack.port(), time)?;
    let curve = Curve {
        schema: "optimacore.curve/1",
        started,
        machine,
        scenario: name,
        clients: options.clients,
        pool_size: POOL_SIZE,
        rounds,
        seconds: time.as_secs_f64(),
        notes,
        peers: curves,
        scorecard,
    };
    // the servers end before their directory goes
    drop((peers, cluster));
    let json = serde_json::to_string_pretty(&curve)?;
    fs::write(dir.join("curve.json"), json.clone() + "\n")
        .with_context(|| format!("cannot write to {}", dir.display()))?;
    let mut out = io::stdout();
    if options.json {
        writeln!(out, "{json}")?;
    } else {
        writeln!(out, "{}everything is in {}", draw::render(&curve), dir.display())?;
    }
    Ok(())
}

/// How often, how long, and which parts of the best saturation.
fn extent(options: &CurveOptions) -> (u32, Duration, Vec<u32>) {
    let (rounds, seconds, step) = if options.quick { (1, 2, 20) } else { (3, 4, 10) };
    let percents = (step..=100).step_by(usize::try_from(step).unwrap_or(10)).collect();
    (options.rounds.unwrap_or(rounds), options.time.unwrap_or_else(|| Duration::from_secs(seconds)), percents)
}

impl Bench<'_> {
    /// A load on a server; kept in a directory of this name, if there is one.
    fn load(
        &mut self,
        peer: &mut Peer,
        rate: Option<f64>,
        time: Duration,
        name: Option<&str>,
    ) -> anyhow::Result<Results> {
        peer.check()?;
        let rates: Vec<f64> = rate.into_iter().collect();
        let measurement = Measurement {
            cores: self.cores.clone(),
            warm_up: WARM_UP,
            time,
            drain: Duration::from_secs(2),
            assignment: Assignment {
                scenario: self.scenario.clone(),
                target: peer.target.clone(),
                pace: match rate {
                    None => Pace::Closed { think: Duration::ZERO },
                    Some(_) => Pace::Open { rates: Rates::new(&rates, WARM_UP, time), law: Law::Poisson },
                },
                clients: self.clients,
                idle: 0,
                depth: 1,
                reconnect_after: 0,
                queue_max: 10_000,
                workers: 1,
                seed: 1,
            },
        };
        let setup = Setup::of(&measurement, &rates);
        let dir = name.map(|name| self.dir.join(name));
        let results = watched(measurement, &setup, dir.as_deref(), (self.interrupt, self.progress))?;
        if results.interrupted {
            bail!(Trouble::Interrupted);
        }
        if results.is_wrong() {
            bail!("{} gave wrong replies: {:?}", peer.name, results.error_texts);
        }
        peer.check()?;
        Ok(results)
    }

    /// Finds the saturation of each server.
    fn saturations(&mut self, peers: &mut [Peer], time: Duration) -> anyhow::Result<Vec<PeerCurve>> {
        let mut curves = Vec::new();
        for peer in peers {
            self.progress.begin(&format!("finding the saturation of {}", peer.name));
            let closed = self.load(peer, None, time, None)?.achieved_per_second;
            let mut steps: Vec<Offer> = Vec::new();
            let mut saturation = 0.0;
            for tenths in STEPS {
                let rate = closed * f64::from(tenths) / 10.0;
                let mut offer = Offer::of(rate, &self.load(peer, Some(rate), time, None)?);
                if !offer.is_kept_up_with() {
                    // a hiccup of the machine is no saturation
                    steps.push(offer);
                    offer = Offer::of(rate, &self.load(peer, Some(rate), time, None)?);
                }
                let kept_up = offer.is_kept_up_with();
                steps.push(offer);
                if !kept_up {
                    break;
                }
                saturation = rate;
            }
            curves.push(PeerCurve {
                name: peer.name.clone(),
                closed_per_second: closed,
                saturation_per_second: saturation,
                steps,
                points: Vec::new(),
            });
        }
        Ok(curves)
    }

    /// Offers parts of the best saturation to all.
    fn offer_all(
        &mut self,
        peers: &mut [Peer],
        curves: &mut [PeerCurve],
        (rounds, time, percents): (u32, Duration, &[u32]),
    ) -> anyhow::Result<()> {
        let best = curves.iter().map(|curve| curve.saturation_per_second).fold(0.0, f64::max);
        // where nobody keeps up with anything there is a curve still
        let best =
            if best > 0.0 { best } else { curves.iter().map(|curve| curve.closed_per_second).fold(0.0, f64::max) };
        for curve in &mut *curves {
            curve.points = percents
                .iter()
                .map(|percent| Point {
                    percent: *percent,
                    per_second: best * f64::from(*percent) / 100.0,
                    offers: Vec::new(),
                })
                .collect();
        }
        let count = peers.len();
        for round in 1..=rounds {
            for (number, percent) in percents.iter().enumerate() {
                self.progress.begin(&format!("round {round} of {rounds}: {percent} % of {best:.0}/s"));
                // each comes first, second and so on in turns
                let first = (usize::try_from(round)? + number) % count;
                for index in (0..count).cycle().skip(first).take(count) {
                    let (Some(peer), Some(curve)) = (peers.get_mut(index), curves.get_mut(index)) else { continue };
                    let Some(point) = curve.points.get_mut(number) else { continue };
                    let name = format!("{}-{percent:03}", peer.name);
                    let kept = (round == rounds).then_some(name.as_str());
                    let results = self.load(peer, Some(point.per_second), time, kept)?;
                    point.offers.push(Offer::of(point.per_second, &results));
                }
            }
        }
        Ok(())
    }

    /// Looks at OptimaCore at 70 % of its own saturation.
    fn judge(
        &mut self,
        peers: &mut [Peer],
        curves: &[PeerCurve],
        postgres: u16,
        time: Duration,
    ) -> anyhow::Result<Vec<Line>> {
        let Some((peer, curve)) = peers.iter_mut().zip(curves).find(|(peer, _)| peer.is_optimacore()) else {
            return Ok(Vec::new());
        };
        let rate = curve.saturation_per_second * JUDGED_AT;
        if rate <= 0.0 {
            return Ok(Vec::new());
        }
        self.progress.begin("judging OptimaCore at 70 % of its saturation");
        let watch = utilisation::Watch::begin(postgres)?;
        let results = self.load(peer, Some(rate), time, Some("judged"))?;
        let busy = watch.end();
        Ok(scorecard::lines(&Measured {
            saturation: curve.saturation_per_second,
            p95: results.response_ms.p95,
            p99: results.response_ms.p99,
            utilisation: busy.map(|busy| busy / f64::from(POOL_SIZE)),
        }))
    }
}
