//! Which settings many requests have in common: a connection is dressed for those, and all others travel with their requests.

use std::time::{Duration, Instant};

use crate::pipe::{Server, Soil};
use crate::pool::PoolId;
use crate::session::{Reading, SessionId};
use crate::shard::Shard;

/// Different settings that are counted at once; more than a shard has connections for is not needed.
const COUNTED_MAX: usize = 16;
/// Requests after which what was counted counts for half.
const HALVED_AT: u32 = 512;
/// Requests before which nothing is known.
const KNOWN_AT: u32 = 64;
/// How long a connection that is being dressed may take before another is.
const DRESSING_MAX: Duration = Duration::from_secs(1);

/// How many of the last requests had which settings.
#[derive(Default)]
pub(crate) struct Fashion {
    counted: Vec<Counted>,
    all: u32,
}

struct Counted {
    /// Fingerprint of the settings.
    dress: u64,
    count: u32,
    /// When a connection was last dressed so, and for whom.
    dressed: Option<(Instant, SessionId)>,
}

impl Fashion {
    /// A shared request of a session that wears this.
    pub(crate) fn note(&mut self, dress: u64) {
        self.all += 1;
        if let Some(counted) = self.counted.iter_mut().find(|counted| counted.dress == dress) {
            counted.count += 1;
        } else if self.counted.len() < COUNTED_MAX {
            self.counted.push(Counted { dress, count: 1, dressed: None });
        }
        if self.all >= HALVED_AT {
            self.all /= 2;
            self.counted.iter_mut().for_each(|counted| counted.count /= 2);
            self.counted.retain(|counted| counted.count > 0);
        }
    }

    /// Whether at least half the requests are of these settings that one of so many connections would have if all had as many.
    pub(crate) fn is_common(&self, dress: u64, connections: u32) -> bool {
        let count = self.counted.iter().find(|counted| counted.dress == dress).map_or(0, |counted| counted.count);
        self.all >= KNOWN_AT && u64::from(count) * 2 * u64::from(connections) >= u64::from(self.all)
    }

    /// Whether a connection may be dressed so for this session; if so, none is for another one for a while.
    fn take_turn(&mut self, dress: u64, session: SessionId, now: Instant) -> bool {
        let Some(counted) = self.counted.iter_mut().find(|counted| counted.dress == dress) else { return false };
        match counted.dressed {
            Some((at, whom)) if now < at + DRESSING_MAX => at == now && whom == session,
            Some(_) | None => {
                counted.dressed = Some((now, session));
                true
            }
        }
    }
}

impl Shard {
    /// Whether an idle connection is to be dressed for a session whose settings would have to travel: they are common, no
    /// connection wears them, and there is one that wears nothing common.
    pub(crate) fn is_worth_dressing(&mut self, now: Instant, pool_id: PoolId, id: SessionId) -> bool {
        let (Some(pool), Some(session)) = (self.pools.get(pool_id.0 as usize), self.sessions.get(id)) else {
            return false;
        };
        let dress = session.dress.fingerprint();
        let is_first = pool.waiting.front().is_none_or(|front| front == id);
        if !is_first || !pool.fashion.is_common(dress, pool.permits) {
            return false;
        }
        let all = || pool.idle.iter().chain(&pool.shared).filter_map(|other| self.servers.get(*other));
        let free = |server: &Server| {
            server.soil != Soil::Unknown
                && server.reading == Reading::Usual
                && !pool.fashion.is_common(server.dress.fingerprint(), pool.permits)
        };
        let idle = || pool.idle.iter().filter_map(|other| self.servers.get(*other));
        if all().any(|server| server.dress.fingerprint() == dress) || !idle().any(free) {
            return false;
        }
        self.pools.get_mut(pool_id.0 as usize).is_some_and(|pool| pool.fashion.take_turn(dress, id, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Key;

    #[test]
    fn what_one_of_a_few_wears_is_common_and_what_one_of_many_wears_is_not() {
        let mut fashion = Fashion::default();
        for _ in 0..KNOWN_AT / 4 - 1 {
            (0..4).for_each(|dress| fashion.note(dress));
        }
        assert!(!fashion.is_common(1, 4), "too little is known");
        for _ in 0..1000 {
            (0..4).for_each(|dress| fashion.note(dress));
        }
        assert!((0..4).all(|dress| fashion.is_common(dress, 4)));
        for _ in 0..1000 {
            (0..64).for_each(|dress| fashion.note(dress));
        }
        assert!((0..64).all(|dress| !fashion.is_common(dress, 4)));
        for _ in 0..1000 {
            fashion.note(7);
        }
        assert!(fashion.is_common(7, 4), "however many others there were");
        assert!(fashion.counted.len() <= COUNTED_MAX);
    }

    #[test]
    fn one_connection_is_dressed_at_a_time() {
        let (mut fashion, now) = (Fashion::default(), Instant::now());
        let (one, other) = (Key::from_token(1).1, Key::from_token(2).1);
        fashion.note(7);
        assert!(fashion.take_turn(7, one, now));
        assert!(fashion.take_turn(7, one, now), "it is asked about more than once");
        assert!(!fashion.take_turn(7, other, now));
        assert!(!fashion.take_turn(7, one, now + DRESSING_MAX / 2));
        assert!(fashion.take_turn(7, other, now + DRESSING_MAX));
        assert!(!fashion.take_turn(8, one, now), "nobody has worn it");
    }
}
