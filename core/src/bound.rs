//! Bounds on what all shards have together: clients, server connections, those who wait.
//!
//! Every bound is one number that all shards count on; what is taken is a value that gives itself back when it is dropped,
//! so a count cannot go wrong on any way out. Where pools compete for server connections, the one whose client has waited
//! longest says so ([`Line::claim`]): nobody who came later takes what becomes free, and pools that have more give one up.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use config::Config;

use crate::pool::permit::PoolKey;
use crate::shard::Board;

/// How long a claim holds unless it is made again, in microseconds.
const CLAIM_MAX_US: u64 = 50_000;
/// How long a client must have waited before a pool with work of its own gives a connection up for it: making a new one
/// costs PostgreSQL more than many requests.
const PATIENCE_US: u64 = 100_000;
/// Pause between two connections that are given up for a claim: one backend needs a while to go.
const YIELD_PAUSE_US: u64 = 20_000;
/// Bits of a claim that hold how many connections there are already.
const HELD_BITS: u32 = 16;

/// A count that may not pass its limit.
struct Quota {
    taken: AtomicU32,
    /// [`u32::MAX`] is none. A new one holds for whoever comes then.
    limit: AtomicU32,
}

impl Quota {
    fn new(limit: Option<u32>) -> Self {
        Self { taken: AtomicU32::new(0), limit: AtomicU32::new(limit.unwrap_or(u32::MAX)) }
    }

    fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    fn set_limit(&self, limit: Option<u32>) {
        self.limit.store(limit.unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    // counted without a limit too: one may be set later
    fn take(&self) -> bool {
        take_below(&self.taken, self.limit())
    }

    fn give(&self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }

    fn is_full(&self) -> bool {
        self.taken.load(Ordering::Acquire) >= self.limit()
    }
}

fn take_below(count: &AtomicU32, limit: u32) -> bool {
    count.fetch_update(Ordering::AcqRel, Ordering::Acquire, |taken| (taken < limit).then(|| taken + 1)).is_ok()
}

/// Who wants a server connection: since when its client waits, and how many its shard's part of the pool has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    pub(crate) since_us: u64,
    pub(crate) held: u32,
}

impl Claim {
    fn pack(self) -> u64 {
        (self.since_us << HELD_BITS) | u64::from(self.held.min((1 << HELD_BITS) - 1))
    }

    fn unpack(packed: u64) -> Self {
        let held = u32::try_from(packed & ((1 << HELD_BITS) - 1)).unwrap_or_default();
        Self { since_us: packed >> HELD_BITS, held }
    }
}

/// A bound on server connections for which several pools stand in line.
pub(crate) struct Line {
    quota: Quota,
    claim: AtomicU64,
    claimed_until_us: AtomicU64,
    yielded_us: AtomicU64,
}

impl Line {
    fn new(limit: Option<u32>) -> Self {
        Self {
            quota: Quota::new(limit),
            claim: AtomicU64::new(0),
            claimed_until_us: AtomicU64::new(0),
            yielded_us: AtomicU64::new(0),
        }
    }

    /// The claim of whoever has waited longest, if somebody waits.
    fn first(&self, now_us: u64) -> Option<Claim> {
        let holds = self.quota.limit() != u32::MAX && self.claimed_until_us.load(Ordering::Acquire) > now_us;
        holds.then(|| Claim::unpack(self.claim.load(Ordering::Acquire)))
    }

    /// Takes a place, unless there is none or somebody has waited longer.
    fn take(&self, own: Claim, now_us: u64) -> bool {
        if self.first(now_us).is_some_and(|first| first.since_us < own.since_us) || !self.quota.take() {
            return false;
        }
        self.withdraw(own.since_us);
        true
    }

    /// Notes that somebody waits for a place.
    fn claim(&self, own: Claim, now_us: u64) {
        if self.first(now_us).is_none_or(|first| own.since_us <= first.since_us) {
            self.claim.store(own.pack(), Ordering::Release);
            self.claimed_until_us.store(now_us + CLAIM_MAX_US, Ordering::Release);
        }
    }

    /// Whoever waited since then waits no more.
    fn withdraw(&self, since_us: u64) {
        if Claim::unpack(self.claim.load(Ordering::Acquire)).since_us == since_us {
            self.claimed_until_us.store(0, Ordering::Release);
        }
    }

    /// Whether a pool that could use a connection again should give it up.
    fn wants_one_of(&self, own: Option<Claim>, now_us: u64) -> bool {
        let Some(first) = self.first(now_us) else { return false };
        let Some(own) = own else { return true };
        let patient = now_us.saturating_sub(first.since_us) >= PATIENCE_US;
        let has_more = own.held >= first.held.saturating_add(2);
        let has_all = first.held == 0 && first.since_us < own.since_us;
        patient && (has_more || has_all)
    }

    /// Whether a connection may be given up now; one at a time.
    fn begin_yield(&self, now_us: u64) -> bool {
        let free = |at: u64| (at <= now_us).then_some(now_us + YIELD_PAUSE_US);
        self.yielded_us.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).is_ok()
    }
}

/// What the shards' parts of one pool have in common.
#[derive(Default)]
pub(crate) struct Common {
    /// Server connections.
    open: AtomicU32,
    /// Sessions that are counted because the queue is bounded.
    queued: AtomicU32,
    /// Permits beyond the pool's size.
    reserve: AtomicU32,
}

impl Common {
    pub(crate) fn open(&self) -> u32 {
        self.open.load(Ordering::Acquire)
    }

    /// Takes a place in the pool's queue.
    pub(crate) fn queue_up(self: &Arc<Self>, limit: u32) -> Option<Ticket> {
        take_below(&self.queued, limit).then(|| Ticket(Arc::clone(self)))
    }

    /// Takes a permit beyond the pool's size.
    pub(crate) fn take_reserve(&self, limit: u32) -> bool {
        take_below(&self.reserve, limit)
    }

    pub(crate) fn give_reserve(&self) {
        self.reserve.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A place in the queue of a pool.
pub(crate) struct Ticket(Arc<Common>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.queued.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All bounds of a configuration.
pub(crate) struct Bounds {
    database_clients: Vec<Quota>,
    user_clients: Vec<Quota>,
    database_servers: Vec<Line>,
    user_servers: Vec<Line>,
    /// The users these numbers are of: those configured when the process began, for a reload may change their order.
    users: Vec<String>,
    /// Looked into when a shard makes its part of a pool, never afterwards.
    pools: Mutex<HashMap<PoolKey, Arc<Common>>>,
}

/// Which bounds hold for something: the numbers of a configured database and of a user, if that is configured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Bound {
    pub(crate) database: usize,
    pub(crate) user: Option<usize>,
}

/// Whose limit was reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Whose {
    Database,
    User,
}

/// Names one line in which pools stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LineId {
    Database(usize),
    User(usize),
}

impl LineId {
    pub(crate) fn holds_for(self, bound: Bound) -> bool {
        match self {
            Self::Database(number) => bound.database == number,
            Self::User(number) => bound.user == Some(number),
        }
    }
}

impl Bounds {
    pub(crate) fn new(config: &Config) -> Self {
        let (databases, users) = (&config.databases, &config.users);
        Self {
            database_clients: databases.iter().map(|database| Quota::new(database.max_client_connections)).collect(),
            user_clients: users.iter().map(|user| Quota::new(user.max_client_connections)).collect(),
            database_servers: databases.iter().map(|database| Line::new(database.max_connections)).collect(),
            user_servers: users.iter().map(|user| Line::new(user.max_server_connections)).collect(),
            users: users.iter().map(|user| user.name.clone()).collect(),
            pools: Mutex::default(),
        }
    }

    /// The number of a user.
    pub(crate) fn user(&self, name: &str) -> Option<usize> {
        self.users.iter().position(|user| user == name)
    }

    /// Takes the bounds of databases over from a new configuration; those of users need a restart.
    pub(crate) fn adopt(&self, config: &Config) {
        for (database, line) in config.databases.iter().zip(&self.database_servers) {
            line.quota.set_limit(database.max_connections);
        }
        for (database, quota) in config.databases.iter().zip(&self.database_clients) {
            quota.set_limit(database.max_client_connections);
        }
    }

    /// What all shards' parts of a pool have in common.
    pub(crate) fn common(&self, key: &PoolKey) -> Arc<Common> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(pools.entry(key.clone()).or_default())
    }

    fn lines(&self, bound: Bound) -> impl Iterator<Item = (LineId, &Line)> {
        let database = self.database_servers.get(bound.database).map(|line| (LineId::Database(bound.database), line));
        let user = bound.user.and_then(|user| Some((LineId::User(user), self.user_servers.get(user)?)));
        database.into_iter().chain(user)
    }

    fn line(&self, id: LineId) -> Option<&Line> {
        match id {
            LineId::Database(number) => self.database_servers.get(number),
            LineId::User(number) => self.user_servers.get(number),
        }
    }

    /// Stands in line for a server connection; gives the line that is full.
    pub(crate) fn claim(&self, bound: Bound, own: Claim, now_us: u64) -> Option<LineId> {
        self.lines(bound).for_each(|(_, line)| line.claim(own, now_us));
        self.lines(bound).find(|(_, line)| line.quota.is_full()).map(|(id, _)| id)
    }

    /// Whoever waited since then waits no more.
    pub(crate) fn withdraw(&self, bound: Bound, since_us: u64) {
        self.lines(bound).for_each(|(_, line)| line.withdraw(since_us));
    }

    /// Whether no connection can be made.
    pub(crate) fn is_full(&self, bound: Bound) -> bool {
        self.lines(bound).any(|(_, line)| line.quota.is_full())
    }

    /// Whether a connection that has become free is to be given up for another pool.
    pub(crate) fn must_yield(&self, bound: Bound, own: Option<Claim>, now_us: u64) -> bool {
        self.lines(bound).any(|(_, line)| line.wants_one_of(own, now_us) && line.begin_yield(now_us))
    }

    /// Whether an idle connection may be closed for somebody who stands in this line.
    pub(crate) fn begin_yield(&self, id: LineId, now_us: u64) -> bool {
        self.line(id).is_some_and(|line| line.begin_yield(now_us))
    }
}

impl Board {
    /// Microseconds since the process began.
    pub(crate) fn us(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX)
    }
}

/// A client's place among those of its database and user.
pub(crate) struct Seat {
    board: Arc<Board>,
    bound: Bound,
}

impl Seat {
    /// Takes one, or tells whose limit is reached.
    pub(crate) fn take(board: &Arc<Board>, bound: Bound) -> Result<Self, Whose> {
        let bounds = &board.bounds;
        if !bounds.database_clients.get(bound.database).is_none_or(Quota::take) {
            return Err(Whose::Database);
        }
        if !bound.user.and_then(|user| bounds.user_clients.get(user)).is_none_or(Quota::take) {
            if let Some(quota) = bounds.database_clients.get(bound.database) {
                quota.give();
            }
            return Err(Whose::User);
        }
        Ok(Self { board: Arc::clone(board), bound })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let bounds = &self.board.bounds;
        let database = bounds.database_clients.get(self.bound.database);
        let user = self.bound.user.and_then(|user| bounds.user_clients.get(user));
        database.into_iter().chain(user).for_each(Quota::give);
    }
}

/// A server connection's place among those of its pool, its database and its user.
pub(crate) struct Slot {
    board: Arc<Board>,
    common: Arc<Common>,
    bound: Bound,
}

impl Slot {
    /// Takes one for a client that waits, unless another one has waited longer.
    pub(crate) fn take(
        board: &Arc<Board>,
        common: &Arc<Common>,
        bound: Bound,
        own: Claim,
        now_us: u64,
    ) -> Option<Self> {
        let taken = board.bounds.lines(bound).take_while(|(_, line)| line.take(own, now_us)).count();
        if taken < board.bounds.lines(bound).count() {
            board.bounds.lines(bound).take(taken).for_each(|(_, line)| line.quota.give());
            return None;
        }
        common.open.fetch_add(1, Ordering::AcqRel);
        Some(Self { board: Arc::clone(board), common: Arc::clone(common), bound })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.common.open.fetch_sub(1, Ordering::AcqRel);
        self.board.bounds.lines(self.bound).for_each(|(_, line)| line.quota.give());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn claim(since_us: u64, held: u32) -> Claim {
        Claim { since_us, held }
    }

    #[test]
    fn a_claim_comes_back_as_it_was() {
        for claim in [claim(0, 0), claim(1 << 40, 7), claim(5, 65_535)] {
            assert_eq!(Claim::unpack(claim.pack()), claim);
        }
        assert_eq!(Claim::unpack(claim(5, 70_000).pack()), claim(5, 65_535));
    }

    #[test]
    fn whoever_has_waited_longest_takes_what_becomes_free() {
        let line = Line::new(Some(1));
        assert!(line.take(claim(10, 0), 10));
        assert!(!line.take(claim(20, 0), 20), "there is one");
        line.claim(claim(30, 1), 30);
        line.claim(claim(20, 0), 30);
        line.claim(claim(40, 1), 40);
        line.quota.give();
        assert!(!line.take(claim(40, 1), 50));
        assert!(line.take(claim(20, 0), 50));
        line.quota.give();
        assert!(line.take(claim(40, 1), 51), "the claim went with the place");
        line.claim(claim(60, 0), 60);
        line.quota.give();
        assert!(line.take(claim(70, 0), 60 + CLAIM_MAX_US), "a claim that is not made again is void");
        let now = 100 + CLAIM_MAX_US;
        line.claim(claim(80, 0), now);
        line.withdraw(90);
        assert!(line.first(now).is_some(), "that was another one");
        line.withdraw(80);
        assert_eq!(line.first(now), None);
    }

    #[test]
    fn pools_that_have_more_give_up_and_pools_that_have_as_much_do_not() {
        let line = Line::new(Some(4));
        let now = PATIENCE_US * 2;
        assert!(!line.wants_one_of(None, now), "nobody waits");
        line.claim(claim(10, 1), now);
        assert!(line.wants_one_of(None, now));
        assert!(line.wants_one_of(Some(claim(20, 3)), now));
        assert!(!line.wants_one_of(Some(claim(20, 2)), now));
        line.claim(claim(5, 0), now);
        assert!(line.wants_one_of(Some(claim(20, 1)), now));
        assert!(!line.wants_one_of(Some(claim(4, 1)), now));
        assert!(line.begin_yield(now));
        assert!(!line.begin_yield(now + 1), "one at a time");
        assert!(line.begin_yield(now + YIELD_PAUSE_US));
    }

    #[test]
    fn without_a_limit_nobody_stands_in_line_and_one_set_later_counts_all() {
        let line = Line::new(None);
        assert!(line.take(claim(1, 0), 1));
        line.claim(claim(0, 0), 1);
        assert_eq!(line.first(1), None);
        line.quota.set_limit(Some(1));
        assert!(line.quota.is_full() && !line.take(claim(0, 0), 1));
    }
}
