//! What a stream has told of each series, and what is new.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use super::quoted;
use crate::metric::{Kind, Metric, Value};

/// A value that is kept, and a difference of two.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Kept {
    /// A count of things.
    Count(u64),
    /// A count of microseconds, told in seconds.
    Micros(u64),
    Gauge(f64),
    /// Upper bounds in microseconds and counts.
    Durations(Vec<(u64, u64)>),
}

impl fmt::Display for Kept {
    /// As in a tick.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Micros(us) => write!(f, "{}", seconds(*us)),
            Self::Gauge(value) => write!(f, "{value}"),
            Self::Durations(pairs) => {
                f.write_str("[")?;
                for (index, (us, count)) in pairs.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}[{us},{count}]")?;
                }
                f.write_str("]")
            }
        }
    }
}

impl Kept {
    /// A value as it is now.
    pub(super) fn of(kind: Kind, value: Value<'_>) -> Self {
        match (kind, value) {
            (Kind::Counter, Value::Count(count)) => Self::Count(count),
            (Kind::Counter, Value::Micros(us)) => Self::Micros(us),
            (Kind::Gauge | Kind::Info | Kind::Histogram, Value::Count(count)) => Self::Gauge(real(count)),
            (Kind::Gauge | Kind::Info | Kind::Histogram, Value::Micros(us)) => Self::Gauge(seconds(us)),
            (_, Value::Real(value)) => Self::Gauge(value),
            (_, Value::Hist(hist)) => Self::Durations(hist.pairs().collect()),
            (_, Value::Sketch(sketch)) => Self::Durations(sketch.pairs().collect()),
        }
    }

    /// What there is more than in `earlier`. Less is nothing.
    pub(super) fn beyond(&self, earlier: &Self) -> Self {
        match (self, earlier) {
            (Self::Count(now), Self::Count(before)) => Self::Count(now.saturating_sub(*before)),
            (Self::Micros(now), Self::Micros(before)) => Self::Micros(now.saturating_sub(*before)),
            (Self::Durations(now), Self::Durations(before)) => Self::Durations(pairs_beyond(now, before)),
            _ => self.clone(),
        }
    }

    fn add(&mut self, more: &Self) {
        match (self, more) {
            (Self::Count(own), Self::Count(more)) | (Self::Micros(own), Self::Micros(more)) => {
                *own = own.saturating_add(*more);
            }
            (Self::Durations(own), Self::Durations(more)) => {
                let mut sums: BTreeMap<u64, u64> = own.iter().copied().collect();
                for (us, count) in more {
                    let sum = sums.entry(*us).or_default();
                    *sum = sum.saturating_add(*count);
                }
                *own = sums.into_iter().collect();
            }
            _ => {}
        }
    }

    fn is_nothing(&self) -> bool {
        match self {
            Self::Count(count) | Self::Micros(count) => *count == 0,
            Self::Gauge(value) => *value == 0.0,
            Self::Durations(pairs) => pairs.is_empty(),
        }
    }
}

/// Whether a series with this value need not be there.
pub(super) fn is_nothing(value: Value<'_>) -> bool {
    match value {
        Value::Count(count) | Value::Micros(count) => count == 0,
        Value::Real(value) => value == 0.0,
        Value::Hist(hist) => hist.count() == 0,
        Value::Sketch(sketch) => sketch.count() == 0,
    }
}

/// Both ascend.
fn pairs_beyond(now: &[(u64, u64)], before: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut before = before.iter().peekable();
    let mut out = Vec::new();
    for (us, count) in now {
        while before.next_if(|(other, _)| other < us).is_some() {}
        let earlier = before.next_if(|(other, _)| other == us).map_or(0, |(_, count)| *count);
        if *count > earlier {
            out.push((*us, count - earlier));
        }
    }
    out
}

/// One series.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: u32,
    /// In which stream its line was told last; 0 is none.
    pub(super) epoch: u32,
    /// The tick that saw it last.
    pub(super) seen: u64,
    metric: &'static str,
    labels: Box<[(&'static str, Box<str>)]>,
    kept: Kept,
    /// In which stream its value was told last, if it is a gauge.
    told: u32,
}

impl Entry {
    pub(super) fn new(id: u32, metric: &Metric, labels: &[&str]) -> Self {
        let kept = match metric.kind {
            Kind::Counter if metric.unit == crate::metric::Unit::Seconds => Kept::Micros(0),
            Kind::Counter => Kept::Count(0),
            Kind::Gauge | Kind::Info => Kept::Gauge(0.0),
            Kind::Histogram => Kept::Durations(Vec::new()),
        };
        let labels = metric.labels.iter().copied().zip(labels.iter().map(|label| Box::from(*label))).collect();
        Self { id, epoch: 0, seen: 0, metric: metric.name, labels, kept, told: 0 }
    }

    pub(super) fn is_called(&self, metric: &str) -> bool {
        self.metric == metric
    }

    pub(super) fn labels(&self) -> Vec<&str> {
        self.labels.iter().map(|(_, value)| &**value).collect()
    }

    pub(super) const fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Its value, if it is a gauge.
    pub(super) const fn gauge(&self) -> Option<f64> {
        match self.kept {
            Kept::Gauge(value) => Some(value),
            Kept::Count(_) | Kept::Micros(_) | Kept::Durations(_) => None,
        }
    }

    /// The line that says which series it is.
    pub(super) fn line(&self) -> String {
        let labels: Vec<String> =
            self.labels.iter().map(|(name, value)| format!("\"{name}\":{}", quoted(value))).collect();
        format!("{{\"series\":{},\"metric\":\"{}\",\"labels\":{{{}}}}}", self.id, self.metric, labels.join(","))
    }

    /// Takes what it is now; gives what there is to tell. `gone` came to a counter from elsewhere, where it was told.
    pub(super) fn advance(&mut self, now: Kept, gone: Option<&Kept>, epoch: u32) -> Option<Kept> {
        if let Kept::Gauge(_) = now {
            let is_news = self.told != epoch || self.kept != now;
            self.told = epoch;
            self.kept = now.clone();
            return is_news.then_some(now);
        }
        let mut news = now.beyond(&self.kept);
        if let Some(gone) = gone {
            news = news.beyond(gone);
        }
        self.kept = now;
        (!news.is_nothing()).then_some(news)
    }

    /// What a counter has lost; it cannot lose anything but to where it is counted now.
    pub(super) fn lost(&self, kind: Kind, value: Value<'_>) -> Option<Kept> {
        if self.is_unchanged(value) {
            return None;
        }
        let lost = self.kept.beyond(&Kept::of(kind, value));
        (!lost.is_nothing()).then_some(lost)
    }

    /// Whether there is certainly nothing new: durations that are as many as before are the same.
    pub(super) fn is_unchanged(&self, value: Value<'_>) -> bool {
        match (&self.kept, value) {
            (Kept::Durations(pairs), Value::Hist(hist)) => hist.count() == sum(pairs),
            (Kept::Durations(pairs), Value::Sketch(sketch)) => sketch.count() == sum(pairs),
            (Kept::Count(before), Value::Count(now)) | (Kept::Micros(before), Value::Micros(now)) => *before == now,
            _ => false,
        }
    }
}

fn sum(pairs: &[(u64, u64)]) -> u64 {
    pairs.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
}

/// What statements of each pool had counted that are not there any more.
#[derive(Default)]
pub(super) struct Gone(HashMap<String, Kept>);

impl Gone {
    pub(super) fn add(&mut self, labels: &[&str], lost: Option<Kept>) {
        let Some(lost) = lost else { return };
        match self.0.get_mut(&pool_key(labels)) {
            Some(sum) => sum.add(&lost),
            None => drop(self.0.insert(pool_key(labels), lost)),
        }
    }

    /// What has gone to the series with these labels.
    pub(super) fn of(&self, labels: &[&str]) -> Option<&Kept> {
        self.0.get(&pool_key(labels))
    }
}

/// All labels but the statement's.
fn pool_key(labels: &[&str]) -> String {
    labels.iter().take(2).chain(labels.iter().skip(3)).copied().collect::<Vec<_>>().join("\0")
}

#[expect(clippy::cast_precision_loss, reason = "JSON has no more")]
fn real(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "exact up to centuries of microseconds")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
