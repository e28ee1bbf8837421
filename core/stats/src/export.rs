//! A directory with what a run has measured: `optimacore.prom`, `optimacore-<start>.ndjson`, `optimacore-<start>.hlog`, `run.json`.
//!
//! Each file is whole at every moment: those that are replaced are renamed into their place, those that grow do so by whole lines.
//! What cannot be written is kept for a while, within bounds, and written when that is possible again; nothing is waited for.
//! Lives on a thread of its own, or in `ctl`.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::Snapshot;
use crate::series::{Recorder, Run};
use crate::text;

mod grown;
mod moment;
mod paper;

use grown::Grown;
use paper::Note;

/// Lines that wait until they can be written; beyond that they are given up and the next file begins.
const WAITING_LEN_MAX: usize = 4 << 20;
/// How often `run.json` is brought up to date, in microseconds.
const PAPER_EVERY_US: u64 = 10_000_000;
/// Bytes of text for Prometheus in a second: with thousands of series it is replaced less often.
const TEXT_PER_SECOND: u64 = 1 << 20;
/// What the names of all files that are rotated begin with.
const PREFIX: &str = "optimacore-";

/// What is written where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory, which must be there.
    pub dir: PathBuf,
    /// The program, as in `run.json`.
    pub program: &'static str,
    /// The time between two ticks.
    pub interval: Duration,
    /// A file that is longer is rotated.
    pub file_len_max: u64,
    /// A file that is older is rotated.
    pub file_age_max: Duration,
    /// Rotated files together; the oldest are removed.
    pub total_len_max: u64,
}

impl Settings {
    /// Into this directory, as the data plane does it.
    #[must_use]
    pub const fn new(dir: PathBuf, interval: Duration) -> Self {
        Self {
            dir,
            program: "optimacore",
            interval,
            file_len_max: 64 << 20,
            file_age_max: Duration::from_secs(3600),
            total_len_max: 1 << 30,
        }
    }
}

/// See the module documentation.
#[derive(Debug)]
pub struct Exporter {
    settings: Settings,
    run: Run,
    config_sha256: String,
    recorder: Recorder,
    /// Lines that are not written yet, of either file.
    series: String,
    intervals: String,
    open: Option<Open>,
    /// Files of this run that do not grow any more.
    closed: Vec<Note>,
    /// When the last tick was.
    now_us: u64,
    /// When `run.json` was written.
    paper_us: u64,
    /// When `optimacore.prom` is to be replaced.
    text_us: u64,
}

/// The two files that grow.
#[derive(Debug)]
struct Open {
    began_us: u64,
    series: Grown,
    intervals: Grown,
}

impl Exporter {
    /// For the run that this snapshot is of. Touches nothing yet.
    #[must_use]
    pub fn new(settings: Settings, snapshot: &Snapshot) -> Self {
        let run = Run::of(snapshot);
        Self {
            recorder: Recorder::new(&run, settings.interval),
            settings,
            run,
            config_sha256: snapshot.config_sha256.clone(),
            series: String::new(),
            intervals: String::new(),
            open: None,
            closed: Vec::new(),
            now_us: snapshot.taken_unix_us,
            paper_us: 0,
            text_us: 0,
        }
    }

    /// Takes a line of [`crate::series::event`]; it is written with the next tick.
    pub fn event(&mut self, line: &str) {
        self.series.push_str(line);
        self.series.push('\n');
    }

    /// Writes what is new.
    ///
    /// # Errors
    /// What could not be written, with the name of the file. It is tried again with the next tick.
    pub fn tick(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let lines = self.recorder.tick(snapshot);
        if lines.is_empty() {
            return Ok(());
        }
        for line in lines {
            self.event(&line);
        }
        let before_us = self.now_us;
        self.now_us = snapshot.taken_unix_us;
        let span = (before_us.min(self.now_us), self.now_us);
        self.recorder.intervals().for_each(|interval| grown::write_interval(&mut self.intervals, &interval, span));
        let outcome = self.write_all(snapshot);
        if self.series.len() + self.intervals.len() > WAITING_LEN_MAX {
            self.give_up();
        }
        outcome
    }

    /// Brings everything to its end, and `run.json` up to date.
    ///
    /// # Errors
    /// As [`Exporter::tick`].
    pub fn finish(&mut self) -> io::Result<()> {
        self.append()?;
        self.write_paper()
    }

    /// What goes wrong with one file is no matter of the others.
    fn write_all(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let replaced = if self.now_us >= self.text_us { self.write_text(snapshot) } else { Ok(()) };
        let grown = self.append().and_then(|()| self.rotate());
        let is_due = self.now_us.saturating_sub(self.paper_us) >= PAPER_EVERY_US;
        let paper = if is_due { self.write_paper() } else { Ok(()) };
        replaced.and(grown).and(paper)
    }

    fn write_text(&mut self, snapshot: &Snapshot) -> io::Result<()> {
        let text = text::prometheus(snapshot);
        self.replace("optimacore.prom", text.as_bytes())?;
        self.text_us = self.now_us + (text.len() as u64).saturating_mul(1_000_000) / TEXT_PER_SECOND;
        Ok(())
    }

    /// Writes the lines that wait.
    fn append(&mut self) -> io::Result<()> {
        if self.open.is_none() {
            self.open = Some(self.begin()?);
            // it names a file that there was not
            self.paper_us = 0;
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        open.series.append(self.series.as_bytes())?;
        self.series.clear();
        open.intervals.append(self.intervals.as_bytes())?;
        self.intervals.clear();
        Ok(())
    }

    /// New files with their heads. One that is there already is of another run that began in the same second.
    fn begin(&self) -> io::Result<Open> {
        let head = self.recorder.header() + "\n";
        let start = moment::compact(self.now_us);
        for number in 1..100 {
            let mut name = format!("{PREFIX}{start}");
            if number > 1 {
                // writing to a String cannot fail
                let _written: std::fmt::Result = write!(name, "-{number}");
            }
            match Grown::begin(&self.settings.dir, &format!("{name}.ndjson"), head.as_bytes()) {
                Ok(series) => {
                    let head = grown::interval_head(self.now_us);
                    let intervals = Grown::begin(&self.settings.dir, &format!("{name}.hlog"), head.as_bytes());
                    return intervals.map(|intervals| Open { began_us: self.now_us, series, intervals });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{PREFIX}{start}.ndjson and a hundred more are there already")))
    }

    fn rotate(&mut self) -> io::Result<()> {
        let Some(open) = &self.open else { return Ok(()) };
        let age_us = self.now_us.saturating_sub(open.began_us);
        let len = open.series.len().max(open.intervals.len());
        if len < self.settings.file_len_max && u128::from(age_us) < self.settings.file_age_max.as_micros() {
            return Ok(());
        }
        // whatever comes of it, this one grows no more
        let Some(open) = self.open.take() else { return Ok(()) };
        self.recorder.begin_again();
        self.closed.push(open.intervals.note());
        let packed = open.series.pack(&self.settings.dir);
        self.closed.push(packed.as_ref().map_or_else(|_| open.series.note(), Clone::clone));
        self.remove_oldest()?;
        self.write_paper()?;
        packed.map(drop)
    }

    /// Too much waits: the file ends where it ends, and another one begins when that is possible.
    fn give_up(&mut self) {
        self.series.clear();
        self.intervals.clear();
        self.recorder.begin_again();
        if let Some(open) = self.open.take() {
            self.closed.extend([open.series.note(), open.intervals.note()]);
        }
    }

    /// Of all runs in this directory.
    fn remove_oldest(&mut self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.settings.dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = [".ndjson", ".ndjson.gz", ".hlog"].iter().any(|ending| name.ends_with(ending));
            if is_ours && name.starts_with(PREFIX) && entry.file_type()?.is_file() {
                files.push((name, entry.metadata()?.len()));
            }
        }
        // names tell when they began
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len)| len).sum();
        for (name, len) in files {
            if total <= self.settings.total_len_max {
                break;
            }
            fs::remove_file(self.settings.dir.join(&name)).map_err(|error| named(&name, &error))?;
            self.closed.retain(|note| note.name != name);
            total -= len;
        }
        Ok(())
    }

    fn write_paper(&mut self) -> io::Result<()> {
        let mut files = self.closed.clone();
        if let Some(open) = &self.open {
            files.extend([open.series.note(), open.intervals.note()]);
        }
        let paper = paper::write(&self.run, (self.settings.program, &self.config_sha256), self.now_us, &files);
        self.replace("run.json", paper.as_bytes())?;
        self.paper_us = self.now_us;
        Ok(())
    }

    /// Puts a file in the place of another, whole.
    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (path, next) =
            (self.settings.dir.join(name), self.settings.dir.join(format!(".{name}.{}", std::process::id())));
        let written = grown::write_new(&next, bytes).and_then(|()| fs::rename(&next, path));
        written.map_err(|error| {
            // what there is of it takes room that is wanted
            let _removed: io::Result<()> = fs::remove_file(&next);
            named(name, &error)
        })
    }
}

fn named(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

#[cfg(test)]
mod tests;
