//! What is counted by statement.

use rkyv::{Archive, Deserialize, Serialize};
use serde::ser::SerializeStruct as _;

/// Longest duration told apart from longer ones: about a minute.
const US_MAX: u64 = (1 << 26) - 1;
/// Shorter ones are counted exactly.
const EXACT_US: u64 = 16;

/// Durations in steps of an eighth of their size: coarser than [`crate::Hist`], and small enough to have one for every
/// statement. Takes what its longest duration needs, 1.5 KiB at most.
#[derive(Clone, PartialEq, Debug, Default, Archive, Serialize, Deserialize)]
pub struct Sketch(Vec<u64>);

impl Sketch {
    /// Counts a duration of so many microseconds.
    pub fn record_us(&mut self, us: u64) {
        let step = step_of(us);
        if self.0.len() <= step {
            self.0.resize(step + 1, 0);
        }
        if let Some(count) = self.0.get_mut(step) {
            *count = count.saturating_add(1);
        }
    }

    /// Counts all that another has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        self.0.iter_mut().zip(&other.0).for_each(|(own, more)| *own = own.saturating_add(*more));
    }

    /// Takes away what an earlier state had counted.
    pub fn subtract(&mut self, earlier: &Self) {
        self.0.iter_mut().zip(&earlier.0).for_each(|(own, less)| *own = own.saturating_sub(*less));
    }

    /// How many are counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |all, count| all.saturating_add(*count))
    }

    /// The duration in microseconds that a share of all stayed at or below, by the middle of its step; `None` when nothing is
    /// counted.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rank of a quantile, rounded up"
    )]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let all = self.count();
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut seen: u64 = 0;
        self.0.iter().enumerate().find_map(|(step, count)| {
            seen = seen.saturating_add(*count);
            (seen >= rank && *count > 0).then(|| middle_of(step))
        })
    }
}

impl Sketch {
    /// Upper bounds in microseconds, ascending, with how many were counted up to each and beyond the one before.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        let counted = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        counted.map(|(step, count)| (span_of(step).1, *count))
    }

    /// All of them together, each by the middle of its step.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        let steps = self.0.iter().enumerate();
        steps.fold(0, |sum, (step, count)| sum.saturating_add(middle_of(step).saturating_mul(*count)))
    }
}

impl serde::Serialize for Sketch {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Sketch", 4)?;
        out.serialize_field("count", &self.count())?;
        out.serialize_field("p50_us", &self.quantile(0.5))?;
        out.serialize_field("p95_us", &self.quantile(0.95))?;
        out.serialize_field("p99_us", &self.quantile(0.99))?;
        out.end()
    }
}

fn step_of(us: u64) -> usize {
    let us = us.min(US_MAX);
    if us < EXACT_US {
        return usize::try_from(us).unwrap_or_default();
    }
    let power = u64::from(us.ilog2());
    let eighth = (us >> (power - 3)) & 7;
    usize::try_from(EXACT_US + (power - 4) * 8 + eighth).unwrap_or_default()
}

fn middle_of(step: usize) -> u64 {
    let (from, to) = span_of(step);
    from + (to - from).div_ceil(2)
}

/// The shortest and the longest duration of a step, in microseconds.
fn span_of(step: usize) -> (u64, u64) {
    let step = step as u64;
    if step < EXACT_US {
        return (step, step);
    }
    let (power, eighth) = ((step - EXACT_US) / 8 + 4, (step - EXACT_US) % 8);
    let width = 1_u64 << (power - 3);
    ((8 + eighth) * width, (9 + eighth) * width - 1)
}

/// A fingerprint as it is written: 16 hexadecimal digits.
#[must_use]
pub fn id(fingerprint: u64) -> String {
    format!("{fingerprint:016x}")
}

/// One statement of one pool.
#[derive(Clone, PartialEq, Debug, Default, Archive, Serialize, Deserialize, serde::Serialize)]
pub struct StatementStats {
    /// The database, as clients ask for it.
    pub database: String,
    /// The user, as clients log in.
    pub user: String,
    /// Statements that differ in their constants only have the same; 0 for all those together that are not counted singly.
    #[serde(serialize_with = "as_digits")]
    pub fingerprint: u64,
    /// The statement without its constants.
    pub statement: Option<String>,
    /// How often it was executed, or was to be and failed.
    pub calls: u64,
    /// Rows it gave or changed, as PostgreSQL says when it is done.
    pub rows: u64,
    /// How often it failed.
    pub errors: u64,
    /// Of the calls, those that travelled with others' on a shared server connection.
    pub shared: u64,
    /// Those on a server connection of the session's own.
    pub exclusive: u64,
    /// Microseconds in which PostgreSQL worked on it.
    pub server_us: u64,
    /// From its request's arrival until it was written to a server connection.
    pub queue_time: Sketch,
    /// From then, or from the end of the reply ahead of it on that connection, to the end of its own reply.
    pub server_time: Sketch,
}

impl StatementStats {
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (self.fingerprint, &self.database, &self.user) == (other.fingerprint, &other.database, &other.user)
    }

    /// Adds another shard's.
    pub fn add(&mut self, other: &Self) {
        for (own, more) in self.counters().into_iter().zip(other.clone().counters()) {
            *own = own.saturating_add(*more);
        }
        self.queue_time.merge(&other.queue_time);
        self.server_time.merge(&other.server_time);
    }

    /// Takes an earlier state away.
    pub fn subtract(&mut self, earlier: &Self) {
        for (own, less) in self.counters().into_iter().zip(earlier.clone().counters()) {
            *own = own.saturating_sub(*less);
        }
        self.queue_time.subtract(&earlier.queue_time);
        self.server_time.subtract(&earlier.server_time);
    }

    fn counters(&mut self) -> [&mut u64; 6] {
        let Self { calls, rows, errors, shared, exclusive, server_us, .. } = self;
        [calls, rows, errors, shared, exclusive, server_us]
    }
}

/// The parts of several shards put together; those on which PostgreSQL worked longest come first.
#[must_use]
pub fn total(parts: &[StatementStats]) -> Vec<StatementStats> {
    let mut sorted: Vec<&StatementStats> = parts.iter().collect();
    sorted.sort_by(|a, b| (a.fingerprint, &a.database, &a.user).cmp(&(b.fingerprint, &b.database, &b.user)));
    let mut out: Vec<StatementStats> = Vec::new();
    for part in sorted {
        match out.last_mut().filter(|last| last.is_same(part)) {
            Some(last) => last.add(part),
            None => out.push(part.clone()),
        }
    }
    out.sort_by_key(|statement| std::cmp::Reverse(statement.server_us));
    out
}

/// As 16 hexadecimal digits: programs that read JSON round numbers of this size.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn as_digits<S: serde::Serializer>(fingerprint: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{fingerprint:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_sixteenth() {
        for us in (0..2000).chain([4095, 4096, 70_000, 1 << 20, US_MAX]) {
            let mut sketch = Sketch::default();
            sketch.record_us(us);
            let found = sketch.quantile(0.5).unwrap();
            assert!(found.abs_diff(us) * 16 <= us, "{us}: {found}");
            let bounds: Vec<(u64, u64)> = sketch.pairs().collect();
            assert!(matches!(bounds[..], [(bound, 1)] if bound >= us && (bound - us) * 8 <= us), "{us}: {bounds:?}");
            assert_eq!(sketch.sum_us(), found);
        }
        let mut sketch = Sketch::default();
        (1..=1000).for_each(|us| sketch.record_us(us));
        for (share, exact) in [(0.5, 500), (0.95, 950), (0.99, 990)] {
            let found = sketch.quantile(share).unwrap();
            assert!(found.abs_diff(exact) * 16 <= exact, "{share}: {found}");
        }
        assert_eq!(Sketch::default().quantile(0.5), None);
    }

    #[test]
    fn a_sketch_is_small_whatever_it_counts() {
        let mut sketch = Sketch::default();
        sketch.record_us(u64::MAX);
        assert!(sketch.0.len() * size_of::<u64>() <= 1600, "{}", sketch.0.len());
        assert!(sketch.quantile(0.5).unwrap() > 60_000_000);
    }

    fn statement(user: &str, fingerprint: u64, us: u64) -> StatementStats {
        let mut out = StatementStats { user: user.into(), fingerprint, calls: 1, server_us: us, ..Default::default() };
        out.server_time.record_us(us);
        out
    }

    #[test]
    fn parts_are_put_together_and_the_heaviest_comes_first() {
        let parts = [statement("a", 1, 5), statement("b", 1, 100), statement("a", 1, 7), statement("a", 2, 50)];
        let all = total(&parts);
        let seen: Vec<_> =
            all.iter().map(|one| (one.user.as_str(), one.fingerprint, one.calls, one.server_us)).collect();
        assert_eq!(seen, [("b", 1, 1, 100), ("a", 2, 1, 50), ("a", 1, 2, 12)]);
        assert_eq!(all[2].server_time.count(), 2);
        assert_eq!(all[2].server_time.pairs().collect::<Vec<_>>(), [(5, 1), (7, 1)]);
        let mut rest = all[2].clone();
        rest.subtract(&parts[0]);
        assert_eq!((rest.calls, rest.server_time.quantile(0.5)), (1, Some(7)));
    }
}
