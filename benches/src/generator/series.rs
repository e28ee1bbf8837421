//! The series of a load: one JSON object a line, the first key says what it is. `benches/README.md` has the format.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::generator::host::Host;
use crate::generator::metric::{METRICS, Metric, Point, Reading};

/// What the format is called.
const SCHEMA: &str = "optimacore.series/1";

/// The first line.
#[derive(Debug, Serialize)]
struct Header<'h> {
    schema: &'static str,
    version: &'static str,
    commit: &'h str,
    program: &'static str,
    pid: u32,
    start_us: u64,
    interval_us: u64,
    host: &'h Host,
    metrics: &'static [Metric],
}

#[derive(Debug, Serialize)]
struct SeriesLine<'s> {
    series: usize,
    metric: &'s str,
    labels: BTreeMap<&'s str, &'s str>,
}

#[derive(Debug, Serialize)]
struct EventLine<'e> {
    event: &'e str,
    t: u64,
    text: &'e str,
}

#[derive(Debug, Serialize)]
struct TickLine {
    t: u64,
    dt: u64,
    v: BTreeMap<usize, Value>,
}

#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
enum Value {
    Whole(u64),
    Number(f64),
    Buckets(Vec<(u64, u64)>),
}

/// A file that is written. It is complete after each call.
#[derive(Debug)]
pub(crate) struct Series {
    out: BufWriter<File>,
    /// Numbers of the series that have been named: metric and labels.
    known: BTreeMap<(&'static str, Vec<String>), usize>,
    /// The last value of each gauge.
    levels: BTreeMap<usize, f64>,
}

/// From when, and of what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'o> {
    pub(crate) start_us: u64,
    pub(crate) commit: &'o str,
    pub(crate) host: &'o Host,
}

impl Series {
    /// Makes the file with its first line.
    pub(crate) fn create(path: &Path, origin: Origin<'_>) -> io::Result<Self> {
        let mut series =
            Self { out: BufWriter::new(File::create(path)?), known: BTreeMap::new(), levels: BTreeMap::new() };
        series.line(&Header {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            commit: origin.commit,
            program: "optimacore-bench",
            pid: std::process::id(),
            start_us: origin.start_us,
            interval_us: 1_000_000,
            host: origin.host,
            metrics: &METRICS,
        })?;
        series.out.flush()?;
        Ok(series)
    }

    /// Something has happened.
    pub(crate) fn event(&mut self, event: &str, t: u64, text: &str) -> io::Result<()> {
        self.line(&EventLine { event, t, text })?;
        self.out.flush()
    }

    /// What was counted in the time `dt` up to `t`, both in microseconds.
    pub(crate) fn tick(&mut self, (t, dt): (u64, u64), points: &[Point<'_>]) -> io::Result<()> {
        let mut v = BTreeMap::new();
        for point in points {
            let value = match &point.value {
                Reading::Count(0) => continue,
                Reading::Count(count) => Value::Whole(*count),
                Reading::Seconds(seconds) => Value::Number(round(*seconds)),
                Reading::Gauge(level) => Value::Number(round(*level)),
                Reading::Histogram(histogram) if histogram.is_empty() => continue,
                Reading::Histogram(histogram) => Value::Buckets(buckets(histogram)),
            };
            let id = self.id(point)?;
            if let (Reading::Gauge(_), Value::Number(level)) = (&point.value, &value)
                && self.levels.insert(id, *level) == Some(*level)
            {
                continue;
            }
            v.insert(id, value);
        }
        self.line(&TickLine { t, dt, v })?;
        self.out.flush()
    }

    /// The number of a series, which is named before it is used.
    fn id(&mut self, point: &Point<'_>) -> io::Result<usize> {
        let labels: Vec<String> = point.labels.iter().map(|label| (*label).to_owned()).collect();
        let key = (point.metric, labels);
        if let Some(id) = self.known.get(&key) {
            return Ok(*id);
        }
        let id = self.known.len();
        let names = METRICS.iter().find(|metric| metric.name == point.metric).map_or(&[][..], |metric| metric.labels);
        let labels = names.iter().copied().zip(point.labels.iter().copied()).collect();
        self.line(&SeriesLine { series: id, metric: point.metric, labels })?;
        self.known.insert(key, id);
        Ok(id)
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// Six digits behind the point are enough for anything here.
fn round(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Upper bounds and counts.
fn buckets(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_since_last_iteration())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_its_series_before_their_first_use_and_leaves_out_what_does_not_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.ndjson");
        let host = Host::look();
        let mut series = Series::create(&path, Origin { start_us: 5, commit: "abc", host: &host }).unwrap();
        let mut histogram = Histogram::new(3).unwrap();
        histogram.record_n(250, 3).unwrap();
        let points = |count| {
            [
                Point { metric: "optimacore_bench_sent_total", labels: vec![], value: Reading::Count(count) },
                Point { metric: "optimacore_bench_queued", labels: vec![], value: Reading::Gauge(2.0) },
                Point {
                    metric: "optimacore_bench_seconds",
                    labels: vec!["read", "response"],
                    value: Reading::Histogram(&histogram),
                },
            ]
        };
        series.tick((1_000, 900), &points(7)).unwrap();
        series.tick((2_000, 1_000), &points(0)).unwrap();
        series.event("stop", 2_001, "done").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with(r#"{"schema":"optimacore.series/1","version":"#), "{text}");
        assert_eq!(
            lines[3],
            r#"{"series":2,"metric":"optimacore_bench_seconds","labels":{"operation":"read","phase":"response"}}"#
        );
        assert_eq!(lines[4], r#"{"t":1000,"dt":900,"v":{"0":7,"1":2.0,"2":[[250,3]]}}"#);
        assert_eq!(lines[5], r#"{"t":2000,"dt":1000,"v":{"2":[[250,3]]}}"#);
        assert_eq!(lines[6], r#"{"event":"stop","t":2001,"text":"done"}"#);
    }
}
