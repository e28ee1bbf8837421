//! How long requests of each kind take, and how much they answer: only what has been seen to be fast and small is shared.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use runtime::Expectation;

use crate::pipe::{List, Server};
use crate::slab::Slab;

/// Kinds that are remembered.
const KINDS_MAX: usize = 16 * 1024;
/// A request that takes longer holds up others too much.
const SHARED_US_MAX: u32 = 10_000;
/// A longer answer does not travel between others.
const SHARED_LEN_MAX: u32 = 32 * 1024;

/// What was seen of one kind: moving averages.
#[derive(Clone, Copy, Debug)]
struct Pace {
    us: u32,
    len: u32,
}

/// Lives on one shard; kinds are [`crate::verdict::Verdict::kind`], mixed with the pool.
#[derive(Default)]
pub(crate) struct Paces {
    kinds: HashMap<u64, Pace, foldhash::fast::RandomState>,
    /// Of all requests: from being written to the end of the reply.
    any_us: u32,
    /// How many were under way when they were last counted.
    under_way: usize,
    counted_at: Option<Instant>,
}

/// Requests under way are counted that often at most: a number that is a little old does.
const COUNT_PAUSE: Duration = Duration::from_micros(200);

impl Paces {
    /// A request of this kind took so long and answered so many bytes.
    pub(crate) fn note(&mut self, kind: u64, us: u64, len: usize) {
        let us = u32::try_from(us).unwrap_or(u32::MAX);
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        if self.kinds.len() >= KINDS_MAX && !self.kinds.contains_key(&kind) {
            self.kinds.clear();
        }
        let pace = self.kinds.entry(kind).or_insert(Pace { us, len });
        pace.us = pace.us - pace.us / 8 + us / 8;
        pace.len = pace.len - pace.len / 8 + len / 8;
    }

    /// Some request took so long from being written to the end of its reply.
    pub(crate) fn note_any(&mut self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.any_us = self.any_us - self.any_us / 16 + us / 16;
    }

    /// What answers the shard may expect soon.
    pub(crate) fn expects(&mut self, now: Instant, servers: &Slab<Server>) -> Expectation {
        if self.counted_at.is_none_or(|at| now.saturating_duration_since(at) >= COUNT_PAUSE) {
            self.counted_at = Some(now);
            let of = |server: &Server| match server.list {
                List::Shared | List::Draining => server.depth(),
                List::Exclusive | List::Working => usize::from(!server.pipeline.is_empty()),
                List::Connecting | List::Idle | List::Relaying | List::Leaving(_) | List::Closing => 0,
            };
            self.under_way = servers.values().map(of).sum();
        }
        Expectation { under_way: self.under_way, takes: Duration::from_micros(u64::from(self.any_us)) }
    }

    /// Whether requests of this kind have been seen to be fast and small.
    pub(crate) fn is_light(&self, kind: u64) -> bool {
        self.kinds.get(&kind).is_some_and(|pace| pace.us <= SHARED_US_MAX && pace.len <= SHARED_LEN_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_light_once_it_was_seen_to_be_and_no_longer_than_that() {
        let mut paces = Paces::default();
        assert!(!paces.is_light(1));
        paces.note(1, 200, 100);
        assert!(paces.is_light(1));
        for _ in 0..20 {
            paces.note(1, 100_000, 100);
        }
        assert!(!paces.is_light(1));
        for _ in 0..40 {
            paces.note(1, 100, 100);
        }
        assert!(paces.is_light(1));
        paces.note(2, 100, 1_000_000);
        assert!(!paces.is_light(2));
    }
}
