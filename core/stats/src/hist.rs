//! Durations, counted by size.
//!
//! The buckets are those of an HdrHistogram from 1 µs to 60 s, so that its tools read what comes from here; a test compares.
//! Counting is a shift and an addition. Memory is taken for as long as the longest duration seen asks for, octave by octave.

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
pub const US_MAX: u64 = 60_000_000;

/// How finely a [`Hist`] tells durations apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Grade {
    /// Three significant digits: steps of a thousandth. Takes 8 KiB for durations up to 2 ms and 4 KiB more for each doubling,
    /// 68 KiB at most.
    #[default]
    Fine,
    /// Steps of a thirtieth: 2.75 KiB at most.
    Coarse,
}

impl Grade {
    /// Each octave has two to the power of this many steps.
    const fn bits(self) -> u32 {
        match self {
            Self::Fine => 10,
            Self::Coarse => 5,
        }
    }
}

/// A histogram of durations; what lies outside of 1 µs to 60 s counts as the nearest bound. Takes no memory before the first is
/// recorded. Counts have 32 bits; what goes beyond is kept aside.
#[derive(Clone, Default)]
pub struct Hist {
    grade: Grade,
    counts: Vec<u32>,
    /// Steps that were full, with what was in them then.
    full: Vec<(usize, u64)>,
}

impl Hist {
    /// One that tells durations apart so finely.
    #[must_use]
    pub const fn graded(grade: Grade) -> Self {
        Self { grade, counts: Vec::new(), full: Vec::new() }
    }

    /// Counts a duration of so many microseconds.
    #[inline]
    pub fn record_us(&mut self, us: u64) {
        let step = self.step_of(us);
        match self.counts.get_mut(step) {
            Some(count) if *count < u32::MAX => *count += 1,
            Some(_) | None => self.add(step, 1),
        }
    }

    /// Counts so many durations of so many microseconds each.
    pub fn record_many_us(&mut self, us: u64, count: u64) {
        let step = self.step_of(us);
        self.add(step, count);
    }

    /// Counts all that another has counted.
    pub fn merge(&mut self, other: &Self) {
        for (us, count) in other.pairs() {
            self.record_many_us(us, count);
        }
    }

    /// Takes away what an earlier state of the same histogram had counted.
    pub fn subtract(&mut self, earlier: &Self) {
        let mut before = earlier.pairs().map(|(us, count)| (self.step_of(us), count)).peekable();
        let mut out = Self::graded(self.grade);
        for (step, count) in self.steps() {
            let mut less: u64 = 0;
            while let Some((other, count)) = before.next_if(|(other, _)| *other <= step) {
                less = less.saturating_add(if other == step { count } else { 0 });
            }
            out.add(step, count.saturating_sub(less));
        }
        *self = out;
    }

    /// The duration in microseconds that a share of all stayed at or below; `None` when nothing is counted.
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
        self.pairs().find_map(|(us, count)| {
            seen = seen.saturating_add(count);
            (seen >= rank).then_some(us)
        })
    }

    /// How many are counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.steps().fold(0, |all, (_, count)| all.saturating_add(count))
    }

    /// The longest, in microseconds; `None` when nothing is counted.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        self.quantile(1.0)
    }

    /// The longest duration in microseconds of each step that counts any, ascending, with how often it does.
    pub fn pairs(&self) -> impl Iterator<Item = (u64, u64)> {
        self.steps().map(|(step, count)| (self.end_of(step), count))
    }

    /// All of them together, each by the middle of its step.
    #[must_use]
    pub fn sum_us(&self) -> u64 {
        let middle = |step: usize| {
            let end = self.end_of(step);
            end - (end - self.end_of(step.saturating_sub(1)).min(end)) / 2
        };
        self.steps().fold(0, |sum, (step, count)| sum.saturating_add(middle(step).saturating_mul(count)))
    }

    /// Bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.counts.capacity() * size_of::<u32>() + self.full.capacity() * size_of::<(usize, u64)>()
    }

    fn steps(&self) -> impl Iterator<Item = (usize, u64)> {
        let full = |step: usize| self.full.iter().find(|(other, _)| *other == step).map_or(0, |(_, count)| *count);
        let counted = self.counts.iter().enumerate().map(|(step, count)| (step, u64::from(*count)));
        counted
            .map(
                move |(step, count)| {
                    if self.full.is_empty() { (step, count) } else { (step, count.saturating_add(full(step))) }
                },
            )
            .filter(|(_, count)| *count > 0)
    }

    #[inline]
    fn step_of(&self, us: u64) -> usize {
        let (us, bits) = (us.clamp(1, US_MAX), self.grade.bits());
        // within the first two octaves steps are a microsecond wide
        let shift = us.ilog2().saturating_sub(bits);
        usize::try_from((u64::from(shift) << bits) + (us >> shift)).unwrap_or_default()
    }

    /// The longest duration of a step.
    fn end_of(&self, step: usize) -> u64 {
        let (step, bits) = (step as u64, self.grade.bits());
        let shift = (step >> bits).saturating_sub(1);
        let end = ((step - (shift << bits) + 1) << shift) - 1;
        end.min(US_MAX)
    }

    fn add(&mut self, step: usize, count: u64) {
        if count == 0 {
            return;
        }
        if self.counts.len() <= step {
            let octave = 1_usize << self.grade.bits();
            let len = (step / octave + 1) * octave;
            self.counts.reserve_exact(len - self.counts.len());
            self.counts.resize(len, 0);
        }
        let Some(kept) = self.counts.get_mut(step) else { return };
        let sum = u64::from(*kept).saturating_add(count);
        match u32::try_from(sum) {
            Ok(sum) => *kept = sum,
            Err(_) => {
                *kept = 0;
                match self.full.iter_mut().find(|(other, _)| *other == step) {
                    Some((_, before)) => *before = before.saturating_add(sum),
                    None => self.full.push((step, sum)),
                }
            }
        }
    }
}

/// What [`Hist::pairs`] give, in the form that other programs read: as fine as [`Grade::Fine`].
pub(crate) fn histogram(pairs: &[(u64, u64)]) -> Option<Histogram<u64>> {
    // fails only for bounds and digits that make no sense, and these do
    let mut out = Histogram::new_with_bounds(1, US_MAX, 3).ok()?;
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
            hist.record_many_us(pair.0.to_native(), pair.1.to_native());
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
    fn quantiles_are_right_within_a_thousandth() {
        let hist = hist(1..=1_000_000);
        for (share, exact) in [(0.5, 500_000), (0.95, 950_000), (0.99, 990_000), (0.999, 999_000)] {
            let us = hist.quantile(share).unwrap();
            assert!(us.abs_diff(exact) * 1000 <= exact, "{share}: {us}");
        }
        assert_eq!(hist.count(), 1_000_000);
        assert!(hist.sum_us().abs_diff(500_000_500_000) < 500_000_000, "{}", hist.sum_us());
        assert_eq!(Hist::default().quantile(0.5), None);
    }

    #[test]
    fn the_steps_are_those_of_an_hdr_histogram_of_three_digits() {
        let other = Histogram::<u64>::new_with_bounds(1, US_MAX, 3).unwrap();
        for us in (1..5000).chain((0..2000).map(|i| 1 + i * i * 14)).chain([US_MAX - 1, US_MAX]) {
            let [(end, 1)] = hist([us]).pairs().collect::<Vec<_>>()[..] else { panic!("{us}") };
            assert_eq!(end, other.highest_equivalent(us).min(US_MAX), "{us}");
        }
    }

    #[test]
    fn what_lies_outside_counts_as_the_nearest_bound() {
        for grade in [Grade::Fine, Grade::Coarse] {
            let mut hist = Hist::graded(grade);
            hist.record_us(0);
            hist.record_us(u64::MAX);
            assert_eq!(hist.pairs().collect::<Vec<_>>(), [(1, 1), (US_MAX, 1)]);
        }
    }

    #[test]
    fn memory_is_what_is_said_of_it() {
        assert_eq!(Hist::default().bytes(), 0);
        assert_eq!(hist([1, 2047]).bytes(), 8 * 1024);
        assert_eq!(hist([2048]).bytes(), 12 * 1024);
        assert_eq!(hist([u64::MAX]).bytes(), 68 * 1024);
        let mut coarse = Hist::graded(Grade::Coarse);
        coarse.record_us(u64::MAX);
        assert_eq!(coarse.bytes(), 2816);
        for us in 1..100_000 {
            let mut one = Hist::graded(Grade::Coarse);
            one.record_us(us);
            assert!(one.max().unwrap().abs_diff(us) * 30 <= us, "{us}");
        }
    }

    #[test]
    fn a_step_that_is_full_loses_nothing() {
        let mut hist = hist([7, 9]);
        hist.record_many_us(7, u64::from(u32::MAX));
        let before = hist.clone();
        hist.record_us(7);
        hist.record_many_us(7, u64::from(u32::MAX) * 3);
        let all = 2 + u64::from(u32::MAX) * 4;
        assert_eq!(hist.pairs().collect::<Vec<_>>(), [(7, all), (9, 1)]);
        hist.subtract(&before);
        assert_eq!(hist.pairs().collect::<Vec<_>>(), [(7, 1 + u64::from(u32::MAX) * 3)]);
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
