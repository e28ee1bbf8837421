//! Durations, counted by size.

use std::cmp::Ordering;
use std::fmt;

use hdrhistogram::Histogram;
use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::tuple::ArchivedTuple2;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::with::{ArchiveWith, DeserializeWith, SerializeWith};
use rkyv::{Place, rend};
use serde::ser::SerializeStruct as _;

/// Longest duration told apart from longer ones: a minute.
const US_MAX: u64 = 60_000_000;

/// A histogram of durations from 1 µs to 60 s with two significant digits; what lies outside counts as the nearest bound.
/// Takes no memory before the first is recorded, then about 20 KiB.
#[derive(Clone, Default)]
pub struct Hist(Option<Box<Histogram<u64>>>);

impl Hist {
    /// Counts a duration of so many microseconds.
    #[inline]
    pub fn record_us(&mut self, us: u64) {
        self.record(us, 1);
    }

    /// Counts so many durations of so many microseconds each.
    #[inline]
    pub fn record_many_us(&mut self, us: u64, count: u64) {
        self.record(us, count);
    }

    /// Counts all that another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (us, count) in other.pairs() {
            self.record(us, count);
        }
    }

    /// Takes away what an earlier state of the same histogram had counted.
    pub fn subtract(&mut self, earlier: &Self) {
        let (ours, theirs): (Vec<_>, Vec<_>) = (self.pairs().collect(), earlier.pairs().collect());
        let mut theirs = theirs.into_iter().peekable();
        self.0 = None;
        for (us, count) in ours {
            while theirs.next_if(|(other, _)| other.cmp(&us) == Ordering::Less).is_some() {}
            let before = theirs.next_if(|(other, _)| *other == us).map_or(0, |(_, count)| count);
            self.record(us, count.saturating_sub(before));
        }
    }

    /// The duration in microseconds that a share of all stayed at or below; `None` when nothing is counted.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        self.0.as_ref().filter(|hist| !hist.is_empty()).map(|hist| hist.value_at_quantile(share))
    }

    /// How many are counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, |hist| hist.len())
    }

    /// The longest, in microseconds; `None` when nothing is counted.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.quantile(1.0)
    }

    /// Durations in microseconds, ascending, with how often each was counted.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        let recorded = self.0.iter().flat_map(|hist| hist.iter_recorded());
        recorded.map(|step| (step.value_iterated_to().min(US_MAX), step.count_at_value()))
    }

    /// All of them together, as exact as each is kept.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        let Some(hist) = &self.0 else { return 0 };
        let one = |value, count: u64| hist.median_equivalent(value).min(US_MAX).saturating_mul(count);
        let all = hist.iter_recorded().map(|step| one(step.value_iterated_to(), step.count_at_value()));
        all.fold(0, u64::saturating_add)
    }

    fn record(&mut self, us: u64, count: u64) {
        if count == 0 {
            return;
        }
        if self.0.is_none() {
            self.0 = empty().map(Box::new);
        }
        if let Some(hist) = &mut self.0 {
            hist.saturating_record_n(us.clamp(1, US_MAX), count);
        }
    }
}

// fails only for bounds and digits that make no sense, and these do
fn empty() -> Option<Histogram<u64>> {
    Histogram::new_with_bounds(1, US_MAX, 2).ok()
}

/// What [`Hist::pairs`] give, as others can write it.
pub(crate) fn histogram(pairs: &[(u64, u64)]) -> Option<Histogram<u64>> {
    let mut out = empty()?;
    pairs.iter().for_each(|(us, count)| out.saturating_record_n((*us).clamp(1, US_MAX), *count));
    Some(out)
}

impl PartialEq for Hist {
    fn eq(&self, other: &Self) -> bool {
        self.pairs().eq(other.pairs())
    }
}

impl fmt::Debug for Hist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.pairs()).finish()
    }
}

impl serde::Serialize for Hist {
    /// What is shown of it: how many, and the quantiles in microseconds.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Hist", 6)?;
        out.serialize_field("count", &self.count())?;
        out.serialize_field("p50_us", &self.quantile(0.5))?;
        out.serialize_field("p95_us", &self.quantile(0.95))?;
        out.serialize_field("p99_us", &self.quantile(0.99))?;
        out.serialize_field("p999_us", &self.quantile(0.999))?;
        out.serialize_field("max_us", &self.max())?;
        out.end()
    }
}

/// How a [`Hist`] travels: as its pairs.
#[derive(Debug)]
pub struct AsPairs;

type ArchivedPairs = ArchivedVec<ArchivedTuple2<rend::u64_le, rend::u64_le>>;

impl ArchiveWith<Hist> for AsPairs {
    type Archived = ArchivedPairs;
    type Resolver = VecResolver;

    fn resolve_with(hist: &Hist, resolver: VecResolver, out: Place<ArchivedPairs>) {
        ArchivedVec::resolve_from_len(hist.pairs().count(), resolver, out);
    }
}

impl<S: Fallible + Allocator + Writer + ?Sized> SerializeWith<Hist, S> for AsPairs {
    fn serialize_with(hist: &Hist, serializer: &mut S) -> Result<VecResolver, S::Error> {
        let pairs: Vec<(u64, u64)> = hist.pairs().collect();
        ArchivedPairs::serialize_from_slice(&pairs, serializer)
    }
}

impl<D: Fallible + ?Sized> DeserializeWith<ArchivedPairs, Hist, D> for AsPairs {
    fn deserialize_with(pairs: &ArchivedPairs, _: &mut D) -> Result<Hist, D::Error> {
        let mut hist = Hist::default();
        for pair in pairs.iter() {
            hist.record(pair.0.to_native(), pair.1.to_native());
        }
        Ok(hist)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hist(values: impl IntoIterator<Item = u64>) -> Hist {
        let mut hist = Hist::default();
        values.into_iter().for_each(|us| hist.record_us(us));
        hist
    }

    #[test]
    fn quantiles_are_right_within_a_hundredth() {
        let hist = hist(1..=10_000);
        for (share, exact) in [(0.5, 5000), (0.95, 9500), (0.99, 9900), (0.999, 9990)] {
            let us = hist.quantile(share).unwrap();
            assert!(us.abs_diff(exact) * 100 <= exact, "{share}: {us}");
        }
        assert_eq!(hist.count(), 10_000);
        assert_eq!(Hist::default().quantile(0.5), None);
    }

    #[test]
    fn what_lies_outside_counts_as_the_nearest_bound() {
        let hist = hist([0, u64::MAX]);
        assert_eq!(hist.pairs().collect::<Vec<_>>(), [(1, 1), (US_MAX, 1)]);
    }

    #[test]
    fn merging_and_subtracting_are_each_others_opposite() {
        let (a, b) = (hist((0..5000).map(|i| i * 7)), hist((0..3000).map(|i| i * i)));
        let mut both = a.clone();
        both.merge(&b);
        assert_eq!(both.count(), 8000);
        both.subtract(&a);
        assert_eq!(both, b);
        both.subtract(&b);
        assert_eq!((both.count(), both.quantile(0.5)), (0, None));
        both.subtract(&b);
        assert_eq!(both.count(), 0);
    }
}
