//! `optimacore-bench run`: one load, told of while it goes on.

use std::env;
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde::Serialize;

use crate::generator::assignment::Assignment;
use crate::generator::measure::{self, Measurement, Tick};
use crate::generator::options::{Command, Options, RunOptions, rates};
use crate::generator::record::Record;
use crate::generator::results::{Results, Setup};
use crate::generator::scenario::{self, Mode, Scenario};
use crate::generator::schedule::{Pace, Rates};
use crate::generator::target::Target;
use crate::generator::trouble::Trouble;
use crate::generator::{curve, selfcheck, talk};
use crate::idle;
use crate::interrupt::Interrupt;
use crate::progress::Progress;

/// Everything on standard output as JSON.
#[derive(Debug, Serialize)]
struct Printed<'p> {
    schema: &'static str,
    #[serde(flatten)]
    setup: &'p Setup,
    results: &'p Results,
}

/// Does what the command line says.
///
/// # Errors
/// [`Trouble`] where there is an exit code for it.
pub fn run(options: &Options, progress: &mut Progress) -> anyhow::Result<()> {
    idle::raise_file_limit();
    let interrupt = Interrupt::listen()?;
    let result = match &options.command {
        Command::Run(options) => load(options, &interrupt, progress),
        Command::Curve(options) => curve::run(options, &interrupt, progress),
        Command::Check(options) => selfcheck::run(options, &interrupt, progress),
        Command::Scenarios { name } => scenarios(name.as_deref()),
    };
    // whatever failed because of it, failed because of it
    if result.is_err() && interrupt.is_set() { Err(Trouble::Interrupted.into()) } else { result }
}

/// A scenario of that name, or in that file.
pub(crate) fn read_scenario(name: &str, mode: Option<Mode>) -> anyhow::Result<Scenario> {
    let wrong = |error| anyhow::Error::from(Trouble::Scenario(error));
    match scenario::built_in(name) {
        Some(text) => scenario::read(name, text, mode).map_err(wrong),
        None if name.contains('/') || Path::new(name).extension().is_some() => {
            let text = fs::read_to_string(name)
                .map_err(|error| Trouble::Usage(format!("the scenario {name} cannot be read: {error}")))?;
            scenario::read(name, &text, mode).map_err(wrong)
        }
        None => {
            let names: Vec<&str> = scenario::names().collect();
            bail!(Trouble::Usage(format!("there is no scenario {name}; there are {}, and files", names.join(", "))))
        }
    }
}

fn scenarios(name: Option<&str>) -> anyhow::Result<()> {
    let mut out = io::stdout();
    if let Some(name) = name {
        out.write_all(read_scenario(name, None)?.text.as_bytes())?;
        return Ok(());
    }
    for name in scenario::names() {
        writeln!(out, "{name:16} {}", read_scenario(name, None)?.description)?;
    }
    Ok(())
}

fn load(options: &RunOptions, interrupt: &Interrupt, progress: &mut Progress) -> anyhow::Result<()> {
    let usage = |text: String| anyhow::Error::from(Trouble::Usage(text));
    let scenario = read_scenario(&options.scenario, options.mode)?;
    let password = env::var("PGPASSWORD").ok();
    let target = Target::parse(&options.target, password).map_err(|error| usage(format!("{error:#}")))?;
    let rates = options.rate.as_deref().map(rates).transpose().map_err(usage)?.unwrap_or_default();
    if options.time.is_zero() {
        return Err(usage("the time that counts must be longer than 0".to_owned()));
    }
    if options.connections.depth > 1 && !scenario.is_pipelining() {
        let text = "has operations whose steps wait for each other, so --depth must be 1";
        return Err(usage(format!("{} {text}", scenario.name)));
    }
    let measurement = Measurement {
        cores: measure::cores(options.cores.as_deref())?,
        warm_up: options.warm_up,
        time: options.time,
        drain: options.drain,
        assignment: Assignment {
            pace: match rates.as_slice() {
                [] => Pace::Closed { think: options.think },
                some => Pace::Open { rates: Rates::new(some, options.warm_up, options.time), law: options.arrivals },
            },
            clients: options.connections.clients,
            idle: options.connections.idle,
            depth: options.connections.depth,
            reconnect_after: options.connections.reconnect_after,
            queue_max: options.connections.queue,
            workers: 1,
            seed: options.seed,
            target,
            scenario,
        },
    };
    if options.no_setup {
        talk::Talk::connect(&measurement.assignment.target)?;
    } else {
        let Assignment { target, scenario, .. } = &measurement.assignment;
        talk::prepare(target, &scenario.data, &mut |text| progress.update(text))?;
    }
    let setup = Setup::of(&measurement, &rates);
    let results = watched(measurement, &setup, options.out.as_deref(), (interrupt, progress))?;
    let mut out = io::stdout();
    if options.json {
        let printed = Printed { schema: "optimacore.bench/1", setup: &setup, results: &results };
        writeln!(out, "{}", serde_json::to_string_pretty(&printed)?)?;
    } else {
        write!(out, "{}", results.table(&setup))?;
    }
    if results.interrupted {
        bail!(Trouble::Interrupted);
    }
    if results.is_wrong() {
        bail!("{} replies were wrong", results.errors.get("wrong").copied().unwrap_or_default());
    }
    Ok(())
}

/// Does it, tells of it on the terminal, and writes it to the directory if there is to be one.
pub(crate) fn watched(
    measurement: Measurement,
    setup: &Setup,
    dir: Option<&Path>,
    (interrupt, progress): (&Interrupt, &mut Progress),
) -> anyhow::Result<Results> {
    let (time, warm_up) = (measurement.time, measurement.warm_up);
    let assignment = measurement.assignment.clone();
    progress.update(&format!("{}: connecting and warming up", assignment.scenario.name));
    let mut record: Option<Record> = None;
    let outcome = measurement.run(interrupt, &mut |tick: &Tick<'_>| {
        progress.update(&line(tick, time.as_secs_f64()));
        match (&mut record, dir) {
            (Some(record), _) => record.tick(tick, &assignment, warm_up),
            (None, None) => Ok(()),
            (None, Some(dir)) => {
                let mut new = Record::create(dir, tick.at)?;
                new.event("start", &format!("{} against {}", setup.scenario, setup.target))?;
                record = Some(new);
                Ok(())
            }
        }
    })?;
    progress.end();
    let results = Results::of(&outcome, &assignment);
    if let Some(record) = record {
        let path = record.finish((&assignment, setup), &results, &outcome).context("the run cannot be kept")?;
        progress.note(&format!("everything is in {}", path.parent().unwrap_or(&path).display()));
    }
    Ok(results)
}

/// How far it is and how it goes, for a terminal.
fn line(tick: &Tick<'_>, time: f64) -> String {
    const WIDTH: usize = 20;
    let part = (tick.elapsed.as_secs_f64() / time.max(1e-9)).min(1.0);
    let full = (0..WIDTH).filter(|mark| (*mark as f64) < part * WIDTH as f64).count();
    let (response, seconds) = (tick.sample.response(), tick.took.as_secs_f64().max(1e-9));
    format!(
        "[{:-<WIDTH$}] {:.0}/{time:.0} s  {:.0}/s of {:.0}  p50 {:.2}  p95 {:.2}  p99 {:.2}  p99.9 {:.2} ms  in flight {}  \
         failed {}  not sent {}",
        "#".repeat(full),
        tick.elapsed.as_secs_f64(),
        tick.sample.completed() as f64 / seconds,
        tick.sample.offered as f64 / seconds,
        response.ms(0.5),
        response.ms(0.95),
        response.ms(0.99),
        response.ms(0.999),
        tick.sample.level.in_flight,
        tick.total.failed(),
        tick.total.unsent,
    )
}
