//! What a worker has counted since it was last asked.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

/// Longest latency that is told apart, in microseconds; longer ones count as this.
const LATENCY_US_MAX: u64 = 600_000_000;
/// Kinds of errors of which the text is kept.
const TEXTS_MAX: usize = 20;

/// Latencies in microseconds, three significant digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(pub(crate) Histogram<u64>);

impl Latencies {
    pub(crate) fn new() -> Self {
        // the bounds are right, so there is always one
        let made = Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).or_else(|_| Histogram::new(3));
        Self(made.unwrap_or_else(|_| unreachable!("three digits are allowed")))
    }

    pub(crate) fn record(&mut self, duration: std::time::Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if !other.0.is_empty() {
            // the bounds are the same
            let _added = self.0.add(&other.0);
        }
    }

    /// The latency that this part of all does not exceed, in milliseconds.
    pub(crate) fn ms(&self, quantile: f64) -> f64 {
        self.0.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// One operation's part.
#[derive(Clone, Debug)]
pub(crate) struct OperationSample {
    /// Those that ended well.
    pub(crate) completed: u64,
    /// From when they were meant to begin to their last reply.
    pub(crate) response: Latencies,
    /// From when they were sent.
    pub(crate) service: Latencies,
    /// From when they were meant to begin to when they were sent.
    pub(crate) wait: Latencies,
}

/// All that is counted.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Operations that were meant to begin.
    pub(crate) offered: u64,
    /// Operations that began.
    pub(crate) sent: u64,
    /// Those that never could, because as many as are allowed to were waiting already.
    pub(crate) unsent: u64,
    /// By class: two characters of SQLSTATE, or a word.
    pub(crate) errors: BTreeMap<String, u64>,
    /// The first text of each class.
    pub(crate) texts: BTreeMap<String, String>,
    /// Of each operation of the scenario.
    pub(crate) operations: Vec<OperationSample>,
    /// From the first packet of a connection to its first ReadyForQuery.
    pub(crate) connect: Latencies,
    /// Connections made.
    pub(crate) connects: u64,
    /// Bytes that came.
    pub(crate) received: u64,
    /// As of now.
    pub(crate) level: Level,
}

/// How things stand.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Level {
    /// Operations sent and not answered.
    pub(crate) in_flight: u64,
    /// Operations that wait for a connection.
    pub(crate) queued: u64,
    /// Connections that are used.
    pub(crate) open: u64,
    /// Connections that only are there.
    pub(crate) idle: u64,
}

impl OperationSample {
    fn new() -> Self {
        Self { completed: 0, response: Latencies::new(), service: Latencies::new(), wait: Latencies::new() }
    }

    fn add(&mut self, other: &Self) {
        self.completed += other.completed;
        self.response.add(&other.response);
        self.service.add(&other.service);
        self.wait.add(&other.wait);
    }
}

impl Sample {
    /// Nothing, of so many operations.
    pub(crate) fn new(operations: usize) -> Self {
        Self {
            offered: 0,
            sent: 0,
            unsent: 0,
            errors: BTreeMap::new(),
            texts: BTreeMap::new(),
            operations: (0..operations).map(|_| OperationSample::new()).collect(),
            connect: Latencies::new(),
            connects: 0,
            received: 0,
            level: Level::default(),
        }
    }

    /// An error of a class.
    pub(crate) fn error(&mut self, class: &str, text: impl FnOnce() -> String) {
        self.errors_are(class, 1);
        if self.texts.len() < TEXTS_MAX && !self.texts.contains_key(class) {
            self.texts.insert(class.to_owned(), text());
        }
    }

    fn errors_are(&mut self, class: &str, more: u64) {
        match self.errors.get_mut(class) {
            Some(count) => *count += more,
            None => drop(self.errors.insert(class.to_owned(), more)),
        }
    }

    /// What another worker counted in the same time.
    pub(crate) fn add_worker(&mut self, other: &Self) {
        let (own, level) = (self.level, other.level);
        self.add_later(other);
        self.level = Level {
            in_flight: own.in_flight + level.in_flight,
            queued: own.queued + level.queued,
            open: own.open + level.open,
            idle: own.idle + level.idle,
        };
    }

    /// What was counted after it.
    pub(crate) fn add_later(&mut self, other: &Self) {
        self.offered += other.offered;
        self.sent += other.sent;
        self.unsent += other.unsent;
        self.connects += other.connects;
        self.received += other.received;
        for (class, count) in &other.errors {
            self.errors_are(class, *count);
        }
        for (class, text) in &other.texts {
            if self.texts.len() < TEXTS_MAX {
                self.texts.entry(class.clone()).or_insert_with(|| text.clone());
            }
        }
        for (own, other) in self.operations.iter_mut().zip(&other.operations) {
            own.add(other);
        }
        self.connect.add(&other.connect);
        self.level = other.level;
    }

    /// Operations that ended well.
    pub(crate) fn completed(&self) -> u64 {
        self.operations.iter().map(|operation| operation.completed).sum()
    }

    /// Operations and connections that did not.
    pub(crate) fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Response times of all operations.
    pub(crate) fn response(&self) -> Latencies {
        let mut all = Latencies::new();
        for operation in &self.operations {
            all.add(&operation.response);
        }
        all
    }

    /// Service times of all operations.
    pub(crate) fn service(&self) -> Latencies {
        let mut all = Latencies::new();
        for operation in &self.operations {
            all.add(&operation.service);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_workers_counted_is_added_up() {
        let mut one = Sample::new(1);
        one.offered = 3;
        one.level.in_flight = 2;
        one.error("53", || "first".into());
        one.operations[0].response.record(Duration::from_millis(5));
        let mut other = one.clone();
        other.error("53", || "second".into());
        one.add_worker(&other);
        assert_eq!((one.offered, one.level.in_flight, one.failed()), (6, 4, 3));
        assert_eq!(one.texts["53"], "first");
        assert_eq!(one.response().0.len(), 2);
        assert!((one.response().ms(0.5) - 5.0).abs() < 0.01);
    }

    #[test]
    fn a_latency_beyond_all_bounds_counts_as_the_longest() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(10_000));
        latencies.record(Duration::ZERO);
        assert_eq!((latencies.0.len(), latencies.0.min()), (2, 1));
        assert!(latencies.ms(1.0) >= 600_000.0);
    }
}
