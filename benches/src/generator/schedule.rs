//! When operations are meant to begin: at a constant rate or in steps, evenly or by chance (Poisson), or whenever a client is
//! free. What is meant does not depend on how the server does: that is what makes an open loop.

use std::time::Duration;

/// How clients are kept busy.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Pace {
    /// Operations begin when they are meant to, whatever has come of those before.
    Open {
        /// How often.
        rates: Rates,
        /// At which distances.
        law: Law,
    },
    /// Each client begins the next operation so long after the one before has ended.
    Closed {
        /// How long.
        think: Duration,
    },
}

/// The distances between arrivals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Law {
    /// All alike.
    Even,
    /// By chance, as where many act for themselves: exponentially distributed.
    Poisson,
}

/// Rates one after the other.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Rates(Vec<Stretch>);

/// A time with one rate.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Stretch {
    /// Its end, in seconds from the start.
    end: f64,
    /// Operations a second.
    rate: f64,
}

impl Rates {
    /// These rates for parts of `time` of the same length; before them the first one for `warm_up`.
    pub(crate) fn new(rates: &[f64], warm_up: Duration, time: Duration) -> Self {
        let part = time.as_secs_f64() / rates.len().max(1) as f64;
        let stretches = (1..).zip(rates);
        Self(
            stretches
                .map(|(number, rate)| Stretch { end: warm_up.as_secs_f64() + part * f64::from(number), rate: *rate })
                .collect(),
        )
    }

    /// When, in seconds from the start, so many arrivals have been; `None` when there are not so many.
    fn when(&self, arrivals: f64) -> Option<f64> {
        let (mut begin, mut before) = (0.0, 0.0);
        for stretch in &self.0 {
            let after = before + (stretch.end - begin) * stretch.rate;
            if arrivals < after {
                return Some(begin + (arrivals - before) / stretch.rate);
            }
            (begin, before) = (stretch.end, after);
        }
        None
    }

    /// The rate at that time after the start; `None` after the end.
    pub(crate) fn at(&self, time: f64) -> Option<f64> {
        self.0.iter().find(|stretch| time < stretch.end).map(|stretch| stretch.rate)
    }
}

/// One worker's part of the arrivals.
#[derive(Debug)]
pub(crate) struct Schedule {
    rates: Rates,
    law: Law,
    /// How many workers share them.
    workers: f64,
    /// The number of the next one among those of all workers, from 0; a fraction where they come by chance.
    arrival: f64,
    /// Seconds from the start to it.
    next: Option<f64>,
    random: fastrand::Rng,
}

impl Schedule {
    /// The part of that worker of so many. All their even arrivals together are even.
    pub(crate) fn new(rates: Rates, law: Law, (worker, workers): (u16, u16), random: fastrand::Rng) -> Self {
        let workers = f64::from(workers.max(1));
        let mut schedule = Self { rates, law, workers, arrival: 0.0, next: None, random };
        schedule.arrival = match law {
            Law::Even => f64::from(worker),
            Law::Poisson => schedule.distance(),
        };
        schedule.next = schedule.rates.when(schedule.arrival);
        schedule
    }

    /// When the next one is meant to be.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.next.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    }

    /// It has come; there may be another one.
    pub(crate) fn advance(&mut self) {
        self.arrival += self.distance();
        self.next = self.next.and_then(|_| self.rates.when(self.arrival));
    }

    /// Arrivals of all workers from one of ours to the next.
    fn distance(&mut self) -> f64 {
        match self.law {
            Law::Even => self.workers,
            // never the logarithm of zero
            Law::Poisson => -(1.0 - self.random.f64()).ln() * self.workers,
        }
    }

    /// Nothing comes any more.
    pub(crate) fn end(&mut self) {
        self.next = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(rates: &[f64], law: Law, share: (u16, u16)) -> Vec<f64> {
        let rates = Rates::new(rates, Duration::ZERO, Duration::from_secs(10));
        let mut schedule = Schedule::new(rates, law, share, fastrand::Rng::with_seed(7));
        let mut out = Vec::new();
        while let Some(next) = schedule.next() {
            out.push(next.as_secs_f64());
            schedule.advance();
        }
        out
    }

    #[test]
    fn even_arrivals_are_as_many_as_asked_for_and_those_of_all_workers_are_even() {
        assert_eq!(times(&[100.0], Law::Even, (0, 1)).len(), 1000);
        let mut all: Vec<f64> = (0..3).flat_map(|worker| times(&[30.0], Law::Even, (worker, 3))).collect();
        all.sort_by(f64::total_cmp);
        assert_eq!(all.len(), 300);
        assert!(all.windows(2).all(|pair| (pair[1] - pair[0] - 1.0 / 30.0).abs() < 1e-6));
    }

    #[test]
    fn steps_follow_each_other() {
        let times = times(&[10.0, 100.0], Law::Even, (0, 1));
        assert_eq!(times.iter().filter(|time| **time < 5.0).count(), 50);
        assert_eq!(times.len(), 550);
    }

    #[test]
    fn arrivals_by_chance_have_the_rate_and_the_spread_of_chance() {
        let times = times(&[1000.0], Law::Poisson, (0, 1));
        // five standard deviations of the count
        assert!((times.len() as f64 - 10_000.0).abs() < 500.0, "{}", times.len());
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let long = gaps.iter().filter(|gap| **gap > 0.001).count() as f64 / gaps.len() as f64;
        assert!((long - (-1.0_f64).exp()).abs() < 0.03, "{long}");
    }

    #[test]
    fn the_first_rate_is_that_of_the_warm_up() {
        let rates = Rates::new(&[5.0, 7.0], Duration::from_secs(2), Duration::from_secs(4));
        assert_eq!(
            [0.0, 3.9, 4.1, 5.9, 6.0].map(|time| rates.at(time)),
            [Some(5.0), Some(5.0), Some(7.0), Some(7.0), None]
        );
    }
}
