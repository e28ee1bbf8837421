//! A snapshot as text for Prometheus (0.0.4) and for whoever reads OpenMetrics 1.0.
//!
//! Durations are given in buckets whose bounds are powers of the root of two, those of statements in powers of two: exactly those
//! of native histograms. A series of durations is there from the first of them on. No line carries a moment: who reads knows when.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::LazyLock;

use crate::metric::{Kind, METRICS, Metric, Unit, Value, View};
use crate::{Hist, Sketch, Snapshot};

/// Exponents of the least and the greatest bound: 10.8 µs and 11.3 s.
const HALVES: std::ops::RangeInclusive<i32> = -33..=7;

/// The type of the text of [`prometheus`].
pub const PROMETHEUS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The type of the text of [`openmetrics`].
pub const OPENMETRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The upper bound of a bucket.
struct Bound {
    /// In whole microseconds, which is all that durations are counted in.
    us: u64,
    /// In seconds, as it is written.
    text: String,
}

/// Of pools, and every second of them for statements.
static BOUNDS: LazyLock<[Vec<Bound>; 2]> = LazyLock::new(|| {
    let fine: Vec<Bound> = HALVES.map(bound).collect();
    let coarse = HALVES.filter(|half| half % 2 == 0).map(bound).collect();
    [fine, coarse]
});

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from ten to ten million")]
fn bound(half: i32) -> Bound {
    let whole = 2_f64.powi(half.div_euclid(2));
    let seconds = if half.rem_euclid(2) == 1 { whole * std::f64::consts::SQRT_2 } else { whole };
    Bound { us: (seconds * 1e6) as u64, text: format!("{seconds:?}") }
}

/// Which of the two texts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Prometheus,
    OpenMetrics,
}

/// The text format 0.0.4 of Prometheus.
#[must_use]
pub fn prometheus(snapshot: &Snapshot) -> String {
    write(snapshot, Form::Prometheus)
}

/// OpenMetrics 1.0.
#[must_use]
pub fn openmetrics(snapshot: &Snapshot) -> String {
    let mut out = write(snapshot, Form::OpenMetrics);
    out.push_str("# EOF\n");
    out
}

fn write(snapshot: &Snapshot, form: Form) -> String {
    let view = View::new(snapshot);
    let mut out = String::new();
    for metric in METRICS {
        let mut text = Text { out: &mut out, metric, form, begun: HashSet::new() };
        text.head();
        view.visit(metric, &mut |labels, value| text.sample(labels, value));
    }
    out
}

struct Text<'t> {
    out: &'t mut String,
    metric: &'static Metric,
    form: Form,
    /// Series that are there already: a name that is not UTF-8 could stand for several.
    begun: HashSet<String>,
}

impl Text<'_> {
    /// What OpenMetrics calls the family.
    fn family(&self) -> &'static str {
        let name = self.metric.name;
        match (self.form, self.metric.kind) {
            (Form::OpenMetrics, Kind::Counter) => name.strip_suffix("_total").unwrap_or(name),
            (Form::OpenMetrics, Kind::Info) => name.strip_suffix("_info").unwrap_or(name),
            (Form::OpenMetrics, Kind::Gauge | Kind::Histogram) | (Form::Prometheus, _) => name,
        }
    }

    fn head(&mut self) {
        let (family, metric) = (self.family(), self.metric);
        // before OpenMetrics a fact was a gauge that is 1
        let kind = match (self.form, metric.kind) {
            (Form::Prometheus, Kind::Info) => Kind::Gauge.name(),
            (_, kind) => kind.name(),
        };
        self.push(format_args!("# TYPE {family} {kind}\n"));
        if self.form == Form::OpenMetrics && metric.unit != Unit::Count {
            self.push(format_args!("# UNIT {family} {}\n", metric.unit.name()));
        }
        let help = metric.help.replace('\\', "\\\\").replace('\n', "\\n");
        let help = if self.form == Form::OpenMetrics { help.replace('"', "\\\"") } else { help };
        self.push(format_args!("# HELP {family} {help}\n"));
    }

    fn sample(&mut self, labels: &[&str], value: Value<'_>) {
        let labels = label_text(self.metric.labels, labels);
        let name = self.metric.name;
        match value {
            Value::Count(count) => self.line(name, &labels, format_args!("{count}")),
            Value::Micros(us) => self.line(name, &labels, format_args!("{}", seconds(us))),
            Value::Real(real) => self.line(name, &labels, format_args!("{real}")),
            Value::Hist(hist) => self.hist(&labels, hist),
            Value::Sketch(sketch) => self.sketch(&labels, sketch),
        }
    }

    fn hist(&mut self, labels: &str, hist: &Hist) {
        let [fine, _] = &*BOUNDS;
        self.buckets(labels, fine, hist.pairs(), hist.sum_us());
    }

    fn sketch(&mut self, labels: &str, sketch: &Sketch) {
        let [_, coarse] = &*BOUNDS;
        self.buckets(labels, coarse, sketch.pairs(), sketch.sum_us());
    }

    /// `pairs` are durations, ascending, with how often each was counted.
    fn buckets(&mut self, labels: &str, bounds: &[Bound], pairs: impl Iterator<Item = (u64, u64)>, sum_us: u64) {
        let mut pairs = pairs.peekable();
        if pairs.peek().is_none() || !self.begin(labels) {
            return;
        }
        let (name, comma) = (self.metric.name, if labels.is_empty() { "" } else { "," });
        let mut count: u64 = 0;
        for bound in bounds {
            while let Some((_, more)) = pairs.next_if(|(us, _)| *us <= bound.us) {
                count = count.saturating_add(more);
            }
            self.push(format_args!("{name}_bucket{{{labels}{comma}le=\"{}\"}} {count}\n", bound.text));
        }
        count = pairs.fold(count, |count, (_, more)| count.saturating_add(more));
        self.push(format_args!("{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}\n"));
        let braced = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        self.push(format_args!("{name}_sum{braced} {}\n", seconds(sum_us)));
        self.push(format_args!("{name}_count{braced} {count}\n"));
    }

    fn line(&mut self, name: &str, labels: &str, value: std::fmt::Arguments<'_>) {
        if !self.begin(labels) {
            return;
        }
        if labels.is_empty() {
            self.push(format_args!("{name} {value}\n"));
        } else {
            self.push(format_args!("{name}{{{labels}}} {value}\n"));
        }
    }

    /// Whether a series is not there yet.
    fn begin(&mut self, labels: &str) -> bool {
        self.begun.insert(labels.to_owned())
    }

    fn push(&mut self, text: std::fmt::Arguments<'_>) {
        // writing to a String cannot fail
        let _written: std::fmt::Result = self.out.write_fmt(text);
    }
}

/// As in `database="app",user="ann"`.
fn label_text(names: &[&str], values: &[&str]) -> String {
    let mut out = String::new();
    for (name, value) in names.iter().zip(values) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out
}

#[expect(clippy::cast_precision_loss, reason = "exact up to centuries of microseconds")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::{PoolStats, ShardStats, example};

    fn lines_of(text: &str, family: &str) -> String {
        let is_of = |line: &&str| {
            let line = line.strip_prefix("# ").and_then(|line| line.split_once(' ')).map_or(*line, |(_, rest)| rest);
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with([' ', '{', '_']))
        };
        text.lines().filter(is_of).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_counter_is_written_as_each_format_wants_it() {
        let snapshot = Snapshot {
            shards: vec![ShardStats { shard: 1, core: 3, logins: 7, ..ShardStats::default() }],
            ..Snapshot::default()
        };
        expect![[r#"
            # TYPE optimacore_shard_logins_total counter
            # HELP optimacore_shard_logins_total Clients that logged in.
            optimacore_shard_logins_total{shard="1",core="3"} 7
        "#]]
        .assert_eq(&lines_of(&prometheus(&snapshot), "optimacore_shard_logins"));
        expect![[r#"
            # TYPE optimacore_shard_logins counter
            # HELP optimacore_shard_logins Clients that logged in.
            optimacore_shard_logins_total{shard="1",core="3"} 7
        "#]]
        .assert_eq(&lines_of(&openmetrics(&snapshot), "optimacore_shard_logins"));
        let facts = openmetrics(&Snapshot { version: "1.2".into(), ..Snapshot::default() });
        assert!(facts.contains("# TYPE optimacore_build info\n") && facts.ends_with("\n# EOF\n"), "{facts}");
        assert!(facts.contains("optimacore_build_info{version=\"1.2\"} 1\n"), "{facts}");
        assert!(facts.contains("# UNIT optimacore_process_cpu_seconds seconds\n"), "{facts}");
    }

    #[test]
    fn bounds_are_powers_of_the_root_of_two() {
        let [fine, coarse] = &*BOUNDS;
        assert_eq!((fine.len(), coarse.len()), (41, 20));
        let [first, .., last] = &fine[..] else { panic!("bounds") };
        assert_eq!((first.us, last.us), (10, 11_313_708));
        for pair in fine.windows(2) {
            let [a, b] = [&pair[0], &pair[1]].map(|bound| bound.text.parse::<f64>().unwrap());
            assert!((b / a - std::f64::consts::SQRT_2).abs() < 1e-12, "{a} {b}");
        }
        assert!(fine.iter().any(|bound| bound.text == "1.0") && coarse.iter().any(|bound| bound.text == "8.0"));
    }

    #[test]
    fn buckets_are_cumulative_and_end_in_the_count() {
        let mut pool = PoolStats { database: "d".into(), user: "u".into(), ..PoolStats::default() };
        for us in [1, 10, 11, 990, 20_000_000] {
            pool.queue_time.record_us(us);
        }
        let snapshot = Snapshot { pools: vec![pool], ..Snapshot::default() };
        let text = lines_of(&prometheus(&snapshot), "optimacore_request_seconds");
        let counts: Vec<u64> = text
            .lines()
            .filter(|line| line.contains("_bucket"))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap())
            .collect();
        assert_eq!(counts.len(), 42);
        assert_eq!((counts[0], counts[1], counts[40], counts[41]), (2, 3, 4, 5));
        assert!(counts.is_sorted());
        assert!(text.contains("phase=\"queue\"} 5\n") && !text.contains("phase=\"server\""), "{text}");
        let sum: f64 =
            text.lines().find(|line| line.contains("_sum")).unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
        assert!((sum - 20.001_012).abs() < 0.2, "{sum}");
    }

    #[test]
    fn names_of_any_kind_are_escaped() {
        let pool = PoolStats { database: "a\"b\\c\nd".into(), user: "ü{},=".into(), ..PoolStats::default() };
        let text = prometheus(&Snapshot { pools: vec![pool], ..Snapshot::default() });
        assert!(text.contains(r#"{database="a\"b\\c\nd",user="ü{},=",shard="0"} 0"#), "{text}");
    }

    #[test]
    fn no_series_is_there_twice() {
        let mut snapshot = example::snapshot();
        snapshot.pools.extend(snapshot.pools.clone());
        let text = openmetrics(&snapshot);
        let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
