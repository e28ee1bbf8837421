//! The one table of all metrics: what each is called, what it means, and how it is read from a [`Snapshot`].
//!
//! Everything that has names of metrics in it is made from here: the texts for Prometheus ([`crate::text`]), the series
//! ([`crate::series`]), `METRICS.md` and what the dashboard knows of them ([`reference`]).

mod reference;
mod table;

pub use reference::{json, markdown};
pub use table::METRICS;

use crate::{Hist, PoolStats, ShardStats, Sketch, Snapshot, StatementStats};

/// Most labels that a metric has.
const LABELS_MAX: usize = 6;

/// How a metric's values behave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows while the process runs.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations, counted by size.
    Histogram,
    /// A fact that stands in the labels; the value is 1.
    Info,
}

impl Kind {
    /// As it is written: `counter`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Info => "info",
        }
    }
}

/// What a metric's values are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Durations, and moments since 1970 began.
    Seconds,
    /// Bytes.
    Bytes,
    /// Things.
    Count,
    /// A share of 1.
    Ratio,
}

impl Unit {
    /// As it is written: `seconds`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
            Self::Count => "count",
            Self::Ratio => "ratio",
        }
    }
}

/// A value of one series.
#[derive(Clone, Copy, Debug)]
pub enum Value<'s> {
    /// So many.
    Count(u64),
    /// So many microseconds, of a metric in seconds.
    Micros(u64),
    /// Anything else.
    Real(f64),
    /// Durations of a pool.
    Hist(&'s Hist),
    /// Durations of a statement.
    Sketch(&'s Sketch),
}

/// Who is told values, with the labels' values in the order of [`Metric::labels`].
pub type Put<'p> = dyn FnMut(&[&str], Value<'_>) + 'p;

/// How the values of a metric are read. What is read of a part is told with the labels beyond those of the part.
#[derive(Clone, Copy, Debug)]
enum Read {
    /// From the whole.
    Whole(fn(&Snapshot, &mut Put<'_>)),
    /// From each shard: `shard`, `core`.
    Shard(fn(&ShardStats, &mut Put<'_>)),
    /// From each shard's part of a pool: `database`, `user`, `shard`.
    Pool(fn(&PoolStats, &mut Put<'_>)),
    /// From each statement of a pool, all shards together: `database`, `user`, `statement`.
    Statement(fn(&StatementStats, &mut Put<'_>)),
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As in `optimacore_requests_total`.
    pub name: &'static str,
    /// How its values behave.
    pub kind: Kind,
    /// What its values are.
    pub unit: Unit,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it means.
    pub help: &'static str,
    /// What is normal, and what is not.
    pub normal: &'static str,
    read: Read,
}

impl Metric {
    const fn new(name: &'static str, kind: Kind, unit: Unit) -> Self {
        Self { name, kind, unit, labels: &[], help: "", normal: "", read: Read::Whole(|_, _| {}) }
    }

    const fn means(self, help: &'static str, normal: &'static str) -> Self {
        Self { help, normal, ..self }
    }

    const fn whole(self, labels: &'static [&'static str], read: fn(&Snapshot, &mut Put<'_>)) -> Self {
        Self { labels, read: Read::Whole(read), ..self }
    }

    const fn shard(self, labels: &'static [&'static str], read: fn(&ShardStats, &mut Put<'_>)) -> Self {
        Self { labels, read: Read::Shard(read), ..self }
    }

    const fn pool(self, labels: &'static [&'static str], read: fn(&PoolStats, &mut Put<'_>)) -> Self {
        Self { labels, read: Read::Pool(read), ..self }
    }

    const fn statement(self, labels: &'static [&'static str], read: fn(&StatementStats, &mut Put<'_>)) -> Self {
        Self { labels, read: Read::Statement(read), ..self }
    }

    /// Whether it is counted by statement.
    #[must_use]
    pub const fn is_by_statement(&self) -> bool {
        matches!(self.read, Read::Statement(_))
    }
}

/// A snapshot, ready to be read metric by metric.
#[derive(Debug)]
pub struct View<'s> {
    snapshot: &'s Snapshot,
    shards: Vec<(String, String)>,
    pool_shards: Vec<String>,
    statements: Vec<(String, StatementStats)>,
}

impl<'s> View<'s> {
    /// Of a snapshot with everything since the start.
    #[must_use]
    pub fn new(snapshot: &'s Snapshot) -> Self {
        let statements = crate::statement::total(&snapshot.statements);
        Self {
            snapshot,
            shards: snapshot.shards.iter().map(|shard| (shard.shard.to_string(), shard.core.to_string())).collect(),
            pool_shards: snapshot.pools.iter().map(|pool| pool.shard.to_string()).collect(),
            statements: statements.into_iter().map(|one| (crate::statement::id(one.fingerprint), one)).collect(),
        }
    }

    /// The snapshot.
    #[must_use]
    pub const fn snapshot(&self) -> &'s Snapshot {
        self.snapshot
    }

    /// The statements, each with its id.
    pub fn statements(&self) -> impl Iterator<Item = (&str, &StatementStats)> {
        self.statements.iter().map(|(id, statement)| (id.as_str(), statement))
    }

    /// Tells all values of a metric.
    pub fn visit(&self, metric: &Metric, put: &mut Put<'_>) {
        match metric.read {
            Read::Whole(read) => read(self.snapshot, put),
            Read::Shard(read) => {
                for (stats, (shard, core)) in self.snapshot.shards.iter().zip(&self.shards) {
                    read(stats, &mut |more, value| with_labels(&[shard, core], more, value, put));
                }
            }
            Read::Pool(read) => {
                for (stats, shard) in self.snapshot.pools.iter().zip(&self.pool_shards) {
                    let own = [stats.database.as_str(), &stats.user, shard];
                    read(stats, &mut |more, value| with_labels(&own, more, value, put));
                }
            }
            Read::Statement(read) => {
                for (id, stats) in &self.statements {
                    let own = [stats.database.as_str(), &stats.user, id];
                    read(stats, &mut |more, value| with_labels(&own, more, value, put));
                }
            }
        }
    }
}

fn with_labels(own: &[&str], more: &[&str], value: Value<'_>, put: &mut Put<'_>) {
    let mut labels = [""; LABELS_MAX];
    let mut count = 0;
    for (place, label) in labels.iter_mut().zip(own.iter().chain(more)) {
        *place = label;
        count += 1;
    }
    put(labels.get(..count).unwrap_or_default(), value);
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::example;

    #[test]
    fn names_follow_the_rules_of_prometheus_and_openmetrics() {
        let mut families = HashSet::new();
        for metric in METRICS {
            let name = metric.name;
            let rest = name.strip_prefix("optimacore_").unwrap_or_else(|| panic!("{name}"));
            assert!(
                rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
                "{name}"
            );
            let base = match metric.kind {
                Kind::Counter => name.strip_suffix("_total").unwrap_or_else(|| panic!("{name} is a counter")),
                Kind::Info => name.strip_suffix("_info").unwrap_or_else(|| panic!("{name} is an info")),
                Kind::Gauge | Kind::Histogram => {
                    assert!(!name.ends_with("_total") && !name.ends_with("_info"), "{name}");
                    name
                }
            };
            if metric.unit != Unit::Count {
                assert!(base.ends_with(&format!("_{}", metric.unit.name())), "{name} is in {}", metric.unit.name());
            }
            assert!(families.insert(base), "{name} is there twice");
            assert!(metric.kind != Kind::Histogram || metric.unit == Unit::Seconds, "{name}");
            assert!(metric.help.ends_with('.') && metric.help.len() > 10, "{name}");
            assert!(!metric.normal.is_empty() && !metric.normal.ends_with('.'), "{name}");
            assert!(metric.labels.len() <= LABELS_MAX, "{name}");
        }
    }

    #[test]
    fn every_metric_has_values_and_each_a_value_for_every_label() {
        let snapshot = example::snapshot();
        let view = View::new(&snapshot);
        for metric in METRICS {
            let mut seen = HashSet::new();
            view.visit(metric, &mut |labels, value| {
                assert_eq!(labels.len(), metric.labels.len(), "{}", metric.name);
                assert!(seen.insert(labels.join("\0")), "{} {labels:?} is told twice", metric.name);
                let fits = match value {
                    Value::Count(_) => metric.unit != Unit::Seconds,
                    Value::Micros(_) => metric.unit == Unit::Seconds && metric.kind != Kind::Histogram,
                    Value::Real(real) => real.is_finite() && matches!(metric.kind, Kind::Gauge | Kind::Info),
                    Value::Hist(_) | Value::Sketch(_) => metric.kind == Kind::Histogram,
                };
                assert!(fits, "{} is told {value:?}", metric.name);
            });
            assert!(!seen.is_empty(), "{} is never told", metric.name);
        }
    }

    /// What is counted and in no metric is counted for nothing.
    #[test]
    fn everything_that_is_counted_is_in_a_metric() {
        let table = include_str!("metric/table.rs");
        let counted = include_str!("counter.rs").split("#[cfg(test)]").next().unwrap_or_default();
        let fields = counted.lines().filter_map(|line| {
            let line = line.strip_prefix("        ")?;
            let name = line.strip_suffix(',')?.split(':').next()?;
            name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(name)
        });
        let fields: Vec<&str> = fields.collect();
        assert!(fields.len() > 40, "{fields:?}");
        for field in fields {
            let is_label = matches!(field, "shard" | "core" | "database" | "user");
            assert!(is_label || table.contains(&format!(".{field}")), "{field} is in no metric");
        }
    }
}
