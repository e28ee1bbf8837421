//! When a shard sleeps for several events instead of one.
//!
//! Where clients, PostgreSQL and the shard compete for the same cores, being woken for each message is what costs most: every
//! wake-up takes the core away from somebody who would have made more work for the next one. A shard that waits until a part of
//! the answers it expects has come handles them with one system call, and so do its peers. Measured on two cores with 64 clients
//! of pgbench: 30 events a turn instead of one, a quarter of the CPU per query, twice the throughput.
//!
//! Where the shard has its core to itself there is nothing to gain: it is woken at once. Which is the case is asked of the
//! scheduler (`/proc/thread-self/schedstat`: how long the thread was ready to run and was not let).

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

/// What a shard expects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Expectation {
    /// Requests that are under way.
    pub under_way: usize,
    /// What one takes, on the average, from being sent on to being answered.
    pub takes: Duration,
}

/// How to sleep before sleeping for a single event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Nap {
    /// It ends when so many events have come,
    pub(crate) events: usize,
    /// or after that.
    pub(crate) longest: Duration,
}

/// Requests under way below which each is answered at once.
const UNDER_WAY_MIN: usize = 4;
/// The part of them that is waited for, and the most events.
const PART: usize = 3;
const EVENTS_MAX: usize = 16;
/// The part of what a request takes that it may be held up by one nap, and the most.
const DELAY_PART: u32 = 2;
const DELAY_MAX: Duration = Duration::from_millis(1);
/// How often the scheduler is asked.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// The part of the time (one in so many) for which a thread must have been kept waiting.
const CONTENDED_PART: u32 = 50;

/// How many events to wait for, and how long.
fn nap(expected: Expectation) -> Option<Nap> {
    let longest = (expected.takes / DELAY_PART).min(DELAY_MAX);
    (expected.under_way >= UNDER_WAY_MIN && !longest.is_zero())
        .then(|| Nap { events: (expected.under_way / PART).clamp(2, EVENTS_MAX), longest })
}

/// One shard's judgement of its core. Lives on the shard's own thread.
#[derive(Debug)]
pub(crate) struct Contention {
    schedstat: Option<File>,
    looked_at: Instant,
    kept_waiting: Duration,
    is_contended: bool,
}

impl Contention {
    /// For the calling thread. Where the kernel does not tell, the core counts as contended.
    pub(crate) fn of_this_thread(now: Instant) -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        Self { schedstat, looked_at: now, kept_waiting: Duration::ZERO, is_contended: true }
    }

    /// How long the thread was kept waiting, when the scheduler was asked last.
    pub(crate) const fn kept_waiting(&self) -> Duration {
        self.kept_waiting
    }

    /// The nap to take, if one is worth it.
    pub(crate) fn nap(&mut self, now: Instant, expected: impl FnOnce() -> Expectation) -> Option<Nap> {
        let since = now.saturating_duration_since(self.looked_at);
        if since >= LOOK_PAUSE {
            self.looked_at = now;
            if let Some(total) = self.schedstat.as_ref().and_then(kept_waiting) {
                let waited = total.saturating_sub(self.kept_waiting);
                self.kept_waiting = total;
                self.is_contended = waited > since / CONTENDED_PART;
            }
        }
        if self.is_contended { nap(expected()) } else { None }
    }
}

/// How long the thread has been ready to run and was not let, since it began.
fn kept_waiting(schedstat: &File) -> Option<Duration> {
    let mut text = [0_u8; 96];
    let len = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(text.get(..len)?).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_requests_are_answered_at_once_and_many_in_bounded_batches() {
        let expect = |under_way, us| nap(Expectation { under_way, takes: Duration::from_micros(us) });
        assert_eq!(expect(1, 1000), None);
        assert_eq!(expect(3, 1000), None);
        assert_eq!(expect(8, 0), None, "nothing is known of what they take");
        assert_eq!(expect(8, 800), Some(Nap { events: 2, longest: Duration::from_micros(400) }));
        assert_eq!(expect(1000, 1_000_000), Some(Nap { events: EVENTS_MAX, longest: DELAY_MAX }));
    }

    #[test]
    fn the_scheduler_tells_how_long_a_thread_was_kept_waiting() {
        let file = File::open("/proc/thread-self/schedstat").unwrap();
        assert!(kept_waiting(&file).is_some());
    }
}
