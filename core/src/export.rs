//! The thread that writes what is measured into the directory of `[stats] export_dir`.
//!
//! It asks shards as the statistics socket does. What it cannot write costs statistics and nothing else: it is counted
//! (`optimacore_export_failures_total`), said once a minute, and tried again.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use runtime::ShardHandle;
use stats::Snapshot;
use stats::export::{Exporter, Settings};
use stats::series;

use crate::event::Place;
use crate::machine;
use crate::plane::take_snapshot;
use crate::shard::{Board, Message};

/// How often somebody is told that nothing can be written.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The thread.
pub(crate) struct Export {
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

/// Starts it, where there is something to do for it.
pub(crate) fn start(
    config: &config::Stats,
    shards: &[ShardHandle<Message>],
    board: &Arc<Board>,
) -> io::Result<Option<Export>> {
    let Some(dir) = &config.export_dir else { return Ok(None) };
    let settings =
        Settings { total_len_max: config.export_size_max, ..Settings::new(dir.clone(), config.export_interval) };
    let (stop, stopped) = crossbeam::channel::bounded(1);
    let (shards, board) = (shards.to_vec(), Arc::clone(board));
    let writer =
        Writer { settings, shards, board, exporter: None, events: Place::default(), trouble: Trouble::default() };
    let thread = std::thread::Builder::new().name("export".to_owned()).spawn(move || writer.run(&stopped))?;
    Ok(Some(Export { stop, thread }))
}

impl Export {
    /// Brings the files to their end.
    pub(crate) fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::warn!("the export of statistics did not end well");
        }
    }
}

struct Writer {
    settings: Settings,
    shards: Vec<ShardHandle<Message>>,
    board: Arc<Board>,
    /// None before the first snapshot.
    exporter: Option<Exporter>,
    /// Up to where events have been written.
    events: Place,
    trouble: Trouble,
}

impl Writer {
    fn run(mut self, stopped: &Receiver<()>) {
        let mut next = Instant::now();
        while stopped.recv_deadline(next) == Err(RecvTimeoutError::Timeout) {
            // a tick that took too long is not made up for
            next = (next + self.settings.interval).max(Instant::now());
            let snapshot = take_snapshot(&self.shards, &self.board);
            self.tick(&snapshot);
        }
        self.finish();
    }

    fn tick(&mut self, snapshot: &Snapshot) {
        let exporter = self.exporter.get_or_insert_with(|| {
            let mut new = Exporter::new(self.settings.clone(), snapshot);
            let text = format!("optimacore {}", snapshot.version);
            new.event(&series::event("start", snapshot.started_unix_us, &text));
            new
        });
        self.board.events.since(&mut self.events).iter().for_each(|line| exporter.event(line));
        let outcome = exporter.tick(snapshot);
        if outcome.is_err() {
            self.board.machine.count_export_failure();
        }
        self.trouble.on_outcome(&self.settings, outcome);
    }

    /// The shards have ended; what they counted in the last moment nobody knows.
    fn finish(&mut self) {
        let Some(exporter) = &mut self.exporter else { return };
        self.board.events.since(&mut self.events).iter().for_each(|line| exporter.event(line));
        exporter.event(&series::event("stop", machine::unix_us(), ""));
        let outcome = exporter.finish();
        self.trouble.on_outcome(&self.settings, outcome);
    }
}

/// What goes wrong for a while.
#[derive(Default)]
struct Trouble {
    failures: u64,
    told: Option<Instant>,
}

impl Trouble {
    fn on_outcome(&mut self, settings: &Settings, outcome: io::Result<()>) {
        let dir = settings.dir.display();
        match outcome {
            Ok(()) if self.failures > 0 => {
                tracing::info!(%dir, failures = self.failures, "statistics are exported again");
                *self = Self::default();
            }
            Ok(()) => {}
            Err(error) => {
                self.failures += 1;
                if self.told.is_none_or(|told| told.elapsed() >= COMPLAIN_EVERY) {
                    self.told = Some(Instant::now());
                    tracing::warn!(%dir, %error, failures = self.failures, "statistics cannot be exported; clients notice nothing");
                }
            }
        }
    }
}
