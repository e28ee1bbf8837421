//! Snapshots as a stream of lines, each one JSON object: what is kept of a run, shown of it live, and read by the dashboard.
//!
//! A line is told apart by its first key. `schema`: the header, with every metric there is. `series`: the number by which a series
//! goes from then on. `statement`: the text of a statement's id. `event`: something happened. `t`: a tick, with what was counted
//! since the one before (`dt` microseconds ago), gauges that have changed, and durations as pairs of an upper bound in microseconds
//! and a count. A series that has been 0 all the time is not there.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use crate::Snapshot;
use crate::metric::{METRICS, Metric, Value, View};

mod ledger;

use ledger::{Entry, Gone, Kept};

/// The form of the lines.
pub const SCHEMA: &str = "optimacore.series/1";
/// The metric whose durations [`Recorder::intervals`] gives.
const INTERVALS_OF: &str = "optimacore_request_seconds";
/// As long as keys are mostly.
const KEY_LEN: usize = 96;
/// What is shown in the place of a text for all statements that are not counted singly.
const REST: &str = "(all others)";

/// Which run of which program it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Run {
    /// The program's version.
    pub version: String,
    /// What it was built from; empty if nobody said so.
    pub commit: String,
    /// Its process id.
    pub pid: u32,
    /// When it began: microseconds since 1970 began.
    pub start_us: u64,
    /// Where it runs.
    pub host: Host,
}

/// The machine of a run.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Its processors.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

impl Run {
    /// The run that a snapshot is of.
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        let host = &snapshot.host;
        Self {
            version: snapshot.version.clone(),
            commit: snapshot.commit.clone(),
            pid: snapshot.pid,
            start_us: snapshot.started_unix_us,
            host: Host {
                name: host.name.clone(),
                kernel: host.kernel.clone(),
                cpus: host.cpus,
                memory_bytes: host.memory_bytes,
            },
        }
    }
}

/// The line of something that happened.
#[must_use]
pub fn event(name: &str, unix_us: u64, text: &str) -> String {
    format!("{{\"event\":{},\"t\":{unix_us},\"text\":{}}}", quoted(name), quoted(text))
}

/// Durations of one pool and phase since the tick before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interval {
    /// As clients ask for it.
    pub database: String,
    /// As clients log in.
    pub user: String,
    /// Which of a request's times.
    pub phase: String,
    /// Upper bounds in microseconds, ascending, and counts; all shards together.
    pub pairs: Vec<(u64, u64)>,
}

/// Makes the lines of one stream. Remembers what it has told.
#[derive(Debug)]
pub struct Recorder {
    header: String,
    entries: HashMap<Box<str>, Entry>,
    statements: HashMap<Box<str>, Text>,
    /// A stream, or a file, that must be readable alone.
    epoch: u32,
    ticks: u64,
    ids: u32,
    last: Option<Last>,
    intervals: BTreeMap<[String; 3], BTreeMap<u64, u64>>,
}

/// The line of a statement.
#[derive(Debug)]
struct Text {
    line: Box<str>,
    /// When it was told; 0 is never.
    epoch: u32,
    seen: u64,
}

/// What there is to remember of the snapshot before.
#[derive(Clone, Copy, Debug)]
struct Last {
    uptime_us: u64,
    unix_us: u64,
    shards: usize,
}

impl Recorder {
    /// A stream of this run with so much time between two ticks.
    #[must_use]
    pub fn new(run: &Run, interval: Duration) -> Self {
        Self {
            header: header(run, interval),
            entries: HashMap::new(),
            statements: HashMap::new(),
            epoch: 1,
            ticks: 0,
            ids: 0,
            last: None,
            intervals: BTreeMap::new(),
        }
    }

    /// The first line.
    #[must_use]
    pub fn header(&self) -> String {
        self.header.clone()
    }

    /// The lines of all series and statements so far that are still there.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        let mut series: Vec<(u32, &Entry)> =
            self.entries.values().filter(|entry| entry.epoch == self.epoch).map(|entry| (entry.id, entry)).collect();
        series.sort_unstable_by_key(|(id, _)| *id);
        let statements = self.statements.values().filter(|text| text.epoch == self.epoch);
        let series = series.into_iter().map(|(_, entry)| entry.line());
        statements.map(|text| text.line.to_string()).chain(series).collect()
    }

    /// A tick in which nothing has happened, with every gauge as the last one left it: for who comes later.
    #[must_use]
    pub fn standing(&self) -> String {
        let mut gauges: Vec<(u32, f64)> = self
            .entries
            .values()
            .filter(|entry| entry.epoch == self.epoch)
            .filter_map(|entry| Some((entry.id, entry.gauge()?)))
            .collect();
        gauges.sort_unstable_by_key(|(id, _)| *id);
        let values: Vec<String> = gauges.into_iter().map(|(id, value)| format!("\"{id}\":{value}")).collect();
        format!("{{\"t\":{},\"dt\":0,\"v\":{{{}}}}}", self.last.map_or(0, |last| last.unix_us), values.join(","))
    }

    /// From here on the lines must be readable without those before: in a new file, behind its header.
    pub const fn begin_again(&mut self) {
        self.epoch += 1;
    }

    /// The lines of a snapshot: series and statements that are new, then the tick. None of a snapshot that is not later than the
    /// one before.
    pub fn tick(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let last = self.last.unwrap_or(Last { uptime_us: 0, unix_us: 0, shards: 0 });
        if snapshot.uptime_us <= last.uptime_us {
            return Vec::new();
        }
        self.ticks += 1;
        self.intervals.clear();
        // a shard that did not answer in time has not lost what it has counted
        let is_whole = snapshot.shards.len() >= last.shards;
        let view = View::new(snapshot);
        let mut out = Out { lines: Vec::new(), values: String::new() };
        if is_whole {
            self.tell_statements(&view, &mut out.lines);
        }
        for (index, metric) in METRICS.iter().enumerate() {
            match (metric.is_by_statement(), is_whole) {
                (false, _) => {
                    view.visit(metric, &mut |labels, value| self.put((index, metric), labels, value, &mut out))
                }
                (true, true) => self.put_statements((index, metric), &view, &mut out),
                (true, false) => {}
            }
        }
        if is_whole {
            self.forget(&mut out);
        }
        self.last = Some(Last {
            uptime_us: snapshot.uptime_us,
            unix_us: snapshot.taken_unix_us,
            shards: snapshot.shards.len().max(last.shards),
        });
        let dt = snapshot.uptime_us - last.uptime_us;
        out.lines.push(format!("{{\"t\":{},\"dt\":{dt},\"v\":{{{}}}}}", snapshot.taken_unix_us, out.values));
        out.lines
    }

    /// The durations of requests that the last tick told.
    pub fn intervals(&self) -> impl Iterator<Item = Interval> {
        self.intervals.iter().map(|([database, user, phase], pairs)| Interval {
            database: database.clone(),
            user: user.clone(),
            phase: phase.clone(),
            pairs: pairs.iter().map(|(us, count)| (*us, *count)).collect(),
        })
    }

    fn put(&mut self, of: (usize, &Metric), labels: &[&str], value: Value<'_>, out: &mut Out) {
        let key = key_of(of.0, labels);
        match self.entries.get_mut(key.as_str()) {
            Some(entry) if entry.is_unchanged(value) => {
                entry.seen = self.ticks;
                return;
            }
            None if ledger::is_nothing(value) => return,
            Some(_) | None => {}
        }
        if let Some(news) = self.note(&key, of.1, labels, (Kept::of(of.1.kind, value), None)) {
            self.write(&key, &news, out);
        }
    }

    /// What has changed of a series by what it is now; what has gone elsewhere must not be taken for new.
    fn note(&mut self, key: &str, metric: &Metric, labels: &[&str], now: (Kept, Option<&Kept>)) -> Option<Kept> {
        if !self.entries.contains_key(key) {
            self.ids += 1;
            self.entries.insert(key.into(), Entry::new(self.ids, metric, labels));
        }
        let entry = self.entries.get_mut(key)?;
        entry.seen = self.ticks;
        entry.advance(now.0, now.1, self.epoch)
    }

    /// Tells what has changed, and who it is if that is not known yet.
    fn write(&mut self, key: &str, news: &Kept, out: &mut Out) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.epoch != self.epoch {
            entry.epoch = self.epoch;
            out.lines.push(entry.line());
        }
        out.value(entry.id, news);
        if let (Kept::Durations(pairs), true) = (news, entry.is_called(INTERVALS_OF))
            && let [database, user, _, phase] = entry.labels()[..]
        {
            let key = [database, user, phase].map(str::to_owned);
            let sums = self.intervals.entry(key).or_default();
            pairs.iter().for_each(|(us, count)| *sums.entry(*us).or_default() += count);
        }
    }

    /// A statement that has to make room is counted with the rest from then on, all it has ever counted too. That was told
    /// before, under its own name, so the rest is told without it.
    fn put_statements(&mut self, of: (usize, &Metric), view: &View<'_>, out: &mut Out) {
        let (index, metric) = of;
        let rest_id = crate::statement::id(0);
        let mut gone = Gone::default();
        let mut rest: Vec<(Vec<String>, Kept)> = Vec::new();
        view.visit(metric, &mut |labels, value| {
            if labels.get(2).is_some_and(|id| *id == rest_id) {
                rest.push((labels.iter().map(|label| (*label).to_owned()).collect(), Kept::of(metric.kind, value)));
                return;
            }
            if let Some(entry) = self.entries.get(key_of(index, labels).as_str()) {
                gone.add(labels, entry.lost(metric.kind, value));
            }
            self.put(of, labels, value, out);
        });
        for entry in self.entries.values().filter(|entry| entry.is_called(metric.name) && entry.seen != self.ticks) {
            let labels = entry.labels();
            if labels.get(2).is_some_and(|id| *id != rest_id) {
                gone.add(&labels, Some(entry.kept().clone()));
            }
        }
        for (labels, now) in rest {
            let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
            let key = key_of(index, &labels);
            if let Some(news) = self.note(&key, metric, &labels, (now, gone.of(&labels))) {
                self.write(&key, &news, out);
            }
        }
    }

    fn tell_statements(&mut self, view: &View<'_>, lines: &mut Vec<String>) {
        for (id, statement) in view.statements() {
            let key = [id, &statement.database, &statement.user].join("\0");
            let text = self.statements.entry(key.into()).or_insert_with(|| {
                let text = statement.statement.as_deref().unwrap_or(REST);
                let line = format!(
                    "{{\"statement\":\"{id}\",\"database\":{},\"user\":{},\"text\":{}}}",
                    quoted(&statement.database),
                    quoted(&statement.user),
                    quoted(text)
                );
                Text { line: line.into(), epoch: 0, seen: 0 }
            });
            text.seen = self.ticks;
            if text.epoch != self.epoch {
                text.epoch = self.epoch;
                lines.push(text.line.to_string());
            }
        }
    }

    /// Lets go of series that are no longer there: statements come and go for as long as the process runs.
    fn forget(&mut self, out: &mut Out) {
        let (ticks, epoch) = (self.ticks, self.epoch);
        self.statements.retain(|_, text| text.seen == ticks);
        self.entries.retain(|_, entry| {
            if entry.seen == ticks {
                return true;
            }
            if entry.epoch == epoch && entry.gauge().is_some_and(|gauge| gauge != 0.0) {
                out.value(entry.id, &Kept::Gauge(0.0));
            }
            false
        });
    }
}

/// What a tick is made of.
struct Out {
    lines: Vec<String>,
    values: String,
}

impl Out {
    fn value(&mut self, id: u32, news: &Kept) {
        let comma = if self.values.is_empty() { "" } else { "," };
        // writing to a String cannot fail
        let _written: std::fmt::Result = write!(self.values, "{comma}\"{id}\":{news}");
    }
}

/// Found for every value of every tick, so it is made cheaply.
fn key_of(index: usize, labels: &[&str]) -> String {
    let mut key = String::with_capacity(KEY_LEN);
    // there are fewer metrics than characters
    key.extend(u32::try_from(index).ok().and_then(char::from_u32));
    for label in labels {
        key.push('\0');
        key.push_str(label);
    }
    key
}

/// As JSON.
fn quoted(text: &str) -> String {
    // fails for nothing that is text
    serde_json::to_string(text).unwrap_or_default()
}

#[derive(Serialize)]
struct Head<'h> {
    schema: &'static str,
    version: &'h str,
    commit: &'h str,
    pid: u32,
    start_us: u64,
    interval_us: u128,
    host: &'h Host,
    metrics: Vec<MetricHead>,
}

#[derive(Serialize)]
struct MetricHead {
    name: &'static str,
    r#type: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    normal: &'static str,
}

fn header(run: &Run, interval: Duration) -> String {
    let head = Head {
        schema: SCHEMA,
        version: &run.version,
        commit: &run.commit,
        pid: run.pid,
        start_us: run.start_us,
        interval_us: interval.as_micros(),
        host: &run.host,
        metrics: METRICS
            .iter()
            .map(|metric| MetricHead {
                name: metric.name,
                r#type: metric.kind.name(),
                unit: metric.unit.name(),
                labels: metric.labels,
                help: metric.help,
                normal: metric.normal,
            })
            .collect(),
    };
    // fails for nothing that is in it
    serde_json::to_string(&head).unwrap_or_default()
}

#[cfg(test)]
mod tests;
