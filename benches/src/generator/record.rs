//! The directory that a load leaves behind: series, histograms, and `run.json`, which tells what they are.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::generator::assignment::Assignment;
use crate::generator::hlog::Hlog;
use crate::generator::host::Host;
use crate::generator::measure::{Outcome, Tick};
use crate::generator::metric::{self, Machine};
use crate::generator::results::{Results, Setup};
use crate::generator::schedule::Pace;
use crate::generator::series::{Origin, Series};
use crate::machine;
use crate::usage::{self, Cores};

/// A directory that is written.
#[derive(Debug)]
pub(crate) struct Record {
    dir: PathBuf,
    /// Names of the files in it.
    files: Vec<String>,
    series: Series,
    hlog: Hlog,
    host: Host,
    commit: String,
    start_us: u64,
    /// The machine and ourselves as of the last second.
    before: Option<(Cores, u64)>,
}

#[derive(Debug, Serialize)]
struct RunFile<'r> {
    schema: &'static str,
    program: &'static str,
    version: &'static str,
    commit: &'r str,
    config_sha256: String,
    host: &'r Host,
    start_us: u64,
    end_us: u64,
    files: Vec<FileFacts>,
    bench: Bench<'r>,
}

#[derive(Debug, Serialize)]
struct FileFacts {
    name: String,
    bytes: u64,
    sha256: String,
}

#[derive(Debug, Serialize)]
struct Bench<'r> {
    #[serde(flatten)]
    setup: &'r Setup,
    results: &'r Results,
}

impl Record {
    /// Makes the directory, if need be, and the files in it; counting began at `start`.
    pub(crate) fn create(dir: &Path, start: SystemTime) -> anyhow::Result<Self> {
        let start_us = micros(start);
        let host = Host::look();
        let commit = machine::commit().unwrap_or_default();
        let stamp = machine::utc(start_us / 1_000_000);
        let names = [format!("optimacore-{stamp}.ndjson"), format!("optimacore-{stamp}.hlog")];
        let [series, hlog] = names.clone().map(|name| dir.join(name));
        let origin = Origin { start_us, commit: &commit, host: &host };
        let make = || -> std::io::Result<_> {
            fs::create_dir_all(dir)?;
            Ok((Series::create(&series, origin)?, Hlog::create(&hlog, start_us)?))
        };
        let (series, hlog) = make().with_context(|| format!("cannot write to {}", dir.display()))?;
        let mut record =
            Self { dir: dir.to_owned(), files: names.into(), series, hlog, host, commit, start_us, before: None };
        record.before = record.look();
        Ok(record)
    }

    /// Something has happened.
    pub(crate) fn event(&mut self, event: &str, text: &str) -> anyhow::Result<()> {
        self.series.event(event, micros(SystemTime::now()), text).with_context(|| self.failure())
    }

    /// A second has passed.
    pub(crate) fn tick(&mut self, tick: &Tick<'_>, assignment: &Assignment, warm_up: Duration) -> anyhow::Result<()> {
        let machine = self.machine();
        let rate = match &assignment.pace {
            Pace::Open { rates, .. } => rates.at((warm_up + tick.elapsed - tick.took / 2).as_secs_f64()),
            Pace::Closed { .. } => None,
        };
        let time = (micros(tick.at), u64::try_from(tick.took.as_micros())?);
        let points = metric::points(tick, assignment, rate, machine);
        self.series.tick(time, &points).with_context(|| self.failure())?;
        for (operation, counted) in assignment.scenario.operations.iter().zip(&tick.sample.operations) {
            for (phase, latencies) in [("response", &counted.response), ("service", &counted.service)] {
                if !latencies.0.is_empty() {
                    let tag = format!("{}/{}/{phase}", assignment.scenario.name, operation.name);
                    self.hlog.write(&tag, time, &latencies.0).with_context(|| self.failure())?;
                }
            }
        }
        Ok(())
    }

    /// All is over: `run.json` is written. Gives its path.
    pub(crate) fn finish(
        mut self,
        (assignment, setup): (&Assignment, &Setup),
        results: &Results,
        outcome: &Outcome,
    ) -> anyhow::Result<PathBuf> {
        self.event("stop", if results.interrupted { "interrupted" } else { "the load has ended" })?;
        let fact = |name: &String| -> anyhow::Result<FileFacts> {
            let bytes = fs::read(self.dir.join(name))?;
            Ok(FileFacts { name: name.clone(), bytes: bytes.len() as u64, sha256: sha256(&bytes) })
        };
        let run = RunFile {
            schema: "optimacore.run/1",
            program: "optimacore-bench",
            version: env!("CARGO_PKG_VERSION"),
            commit: &self.commit,
            config_sha256: sha256(assignment.scenario.text.as_bytes()),
            host: &self.host,
            start_us: self.start_us,
            end_us: micros(outcome.end),
            files: self.files.iter().map(fact).collect::<anyhow::Result<_>>()?,
            bench: Bench { setup, results },
        };
        let path = self.dir.join("run.json");
        let unfinished = self.dir.join("run.json.tmp");
        let write = || -> anyhow::Result<()> {
            let mut file = File::create(&unfinished)?;
            serde_json::to_writer_pretty(&mut file, &run)?;
            file.write_all(b"\n")?;
            Ok(fs::rename(&unfinished, &path)?)
        };
        write().with_context(|| self.failure())?;
        Ok(path)
    }

    fn failure(&self) -> String {
        format!("cannot write to {}", self.dir.display())
    }

    fn look(&self) -> Option<(Cores, u64)> {
        Some((Cores::now().ok()?, usage::cpu_us(std::process::id()).ok()?))
    }

    fn machine(&mut self) -> Machine {
        let now = self.look();
        let machine = match (self.before, now) {
            (Some((cores, own)), Some((cores_now, own_now))) => Machine {
                busy: cores_now.busy_percent_since(cores) / 100.0,
                own: own_now.saturating_sub(own) as f64 / 1e6,
            },
            (None, _) | (_, None) => Machine { busy: 0.0, own: 0.0 },
        };
        self.before = now;
        machine
    }
}

/// Microseconds since 1970.
pub(crate) fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}
