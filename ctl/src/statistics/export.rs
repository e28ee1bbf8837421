//! `ctl stats --export DIR`: what `[stats] export_dir` does, from outside.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use signal_hook::consts::{SIGINT, SIGTERM};
use stats::Snapshot;
use stats::export::{Exporter, Settings};

use super::look;
use crate::terminal;

/// How often a signal is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How often somebody is told that something does not work.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Once, or with `watch` until a signal comes.
pub(super) fn run(socket: &Path, dir: &Path, watch: Option<Duration>) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let interval = watch.unwrap_or(Duration::from_secs(1));
    let first = look(socket)?;
    let mut run = Run { exporter: begin(dir, interval, &first), started_us: first.started_unix_us, complained: None };
    run.exporter.tick(&first)?;
    let mut next = Instant::now() + interval;
    while watch.is_some() && !stop.load(Ordering::Relaxed) {
        if Instant::now() < next {
            std::thread::sleep(LOOK_EVERY.min(next.saturating_duration_since(Instant::now())));
            continue;
        }
        next = (next + interval).max(Instant::now());
        if let Err(error) = run.tick(socket, dir, interval) {
            run.complain(&error);
        }
    }
    run.exporter.finish()?;
    Ok(ExitCode::SUCCESS)
}

fn begin(dir: &Path, interval: Duration, snapshot: &Snapshot) -> Exporter {
    Exporter::new(Settings::new(dir.to_owned(), interval), snapshot)
}

struct Run {
    exporter: Exporter,
    started_us: u64,
    complained: Option<Instant>,
}

impl Run {
    fn tick(&mut self, socket: &Path, dir: &Path, interval: Duration) -> anyhow::Result<()> {
        let snapshot = look(socket)?;
        if snapshot.started_unix_us != self.started_us {
            // another process: another run
            self.exporter.finish()?;
            self.exporter = begin(dir, interval, &snapshot);
            self.started_us = snapshot.started_unix_us;
        }
        Ok(self.exporter.tick(&snapshot)?)
    }

    fn complain(&mut self, error: &anyhow::Error) {
        if self.complained.is_none_or(|told| told.elapsed() >= COMPLAIN_EVERY) {
            self.complained = Some(Instant::now());
            terminal::complain(&format!("{} {error:#}; it is tried again", terminal::red("warning:")));
        }
    }
}
