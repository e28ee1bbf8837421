//! When a pool makes connections: for those who wait, to stay warm, from its reserve; and when it gives one up for others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::ShardId;

use crate::bound::{Bound, Claim, LineId, Slot};
use crate::pipe::ServerId;
use crate::pool::permit::{Need, PoolKey};
use crate::pool::{Pool, PoolId, Watch};
use crate::session::SessionId;
use crate::shard::{Message, Shard, World};

/// Pause between two questions to the other shards.
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// An attempt that has not been answered for so long does not hold up the next.
const SILENCE_MAX: Duration = Duration::from_millis(400);
/// How long a connection of the same pool on another shard is waited for, before others are closed, in microseconds.
const LEND_FIRST_US: u64 = 20_000;

/// What a pool needs beyond permits to have connections.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Supply {
    pub(crate) bound: Bound,
    /// Permits of this shard's that are beyond the pool's size.
    pub(crate) reserve_held: u32,
    /// When other shards may be asked again.
    ask_after: Option<Instant>,
}

/// Whether a permit is beyond its pool's size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Standing {
    Regular,
    Reserve,
}

impl Supply {
    /// A permit of this shard's goes to another shard; one beyond the pool's size first.
    pub(super) fn give(&mut self) -> Standing {
        if self.reserve_held == 0 {
            return Standing::Regular;
        }
        self.reserve_held -= 1;
        Standing::Reserve
    }

    /// A permit has come from another shard.
    pub(super) fn take(&mut self, standing: Standing) {
        self.reserve_held += u32::from(standing == Standing::Reserve);
    }

    fn may_ask(&mut self, now: Instant) -> bool {
        let may = self.ask_after.is_none_or(|at| at <= now);
        if may {
            self.ask_after = Some(now + ASK_PAUSE);
        }
        may
    }
}

impl Pool {
    /// Whether it has fewer connections than it is to keep.
    pub(crate) fn is_cold(&self) -> bool {
        // where only replication clients have come there may be no such database
        let used = self.watch == Watch::Asked;
        used && !self.paused && self.common.open() < self.settings.min_pool_size
    }

    /// Whether a connection can be attempted now.
    fn may_dial(&self, now: Instant) -> bool {
        let paused = self.retry.not_before.is_some_and(|at| at > now);
        // after a failure one attempt at a time finds out whether Postgres is back, unless nothing is heard of it
        let probing = self.retry.not_before.is_some()
            && self.connecting > 0
            && self.dialled_at.is_some_and(|at| now.saturating_duration_since(at) < SILENCE_MAX);
        self.open < self.permits && !paused && !probing && !self.paused
    }
}

impl Shard {
    /// Dials for those that wait while there are permits.
    pub(super) fn dial_for_waiting(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        loop {
            let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
            let wanted = pool.waiting.len() > pool.connecting as usize;
            if !wanted || !pool.may_dial(io.now()) {
                return;
            }
            let Some(own) = self.claim_of(pool_id) else { return };
            match self.take_slot(io.now(), pool_id, own) {
                Some(slot) => {
                    self.note_need(pool_id, Need::Permit);
                    self.dial(io, pool_id, slot);
                }
                None => {
                    self.note_need(pool_id, Need::Connection);
                    self.stand_in_line(io, pool_id, own);
                    return;
                }
            }
        }
    }

    fn note_need(&mut self, pool_id: PoolId, need: Need) {
        if let Some(pool) = self.pool_mut(pool_id) {
            pool.permit_state.need = need;
        }
    }

    /// A session waits no more: if it stood in line, it does so no more.
    pub(super) fn leave_line(&self, pool_id: PoolId, id: SessionId) {
        let Some(pool) = self.pool(pool_id).filter(|pool| pool.permit_state.need == Need::Connection) else { return };
        if let Some(session) = self.sessions.get(id) {
            let since_us = self.board.us(session.waiting_since);
            self.board.bounds.withdraw(pool.supply.bound, since_us);
        }
    }

    /// How long the first client here has waited, and how many connections this part of the pool has; none if nobody waits.
    fn claim_of(&self, pool_id: PoolId) -> Option<Claim> {
        let pool = self.pool(pool_id)?;
        let session = self.sessions.get(pool.waiting.front()?)?;
        Some(Claim { since_us: self.board.us(session.waiting_since), held: pool.open })
    }

    fn take_slot(&self, now: Instant, pool_id: PoolId, own: Claim) -> Option<Slot> {
        let pool = self.pool(pool_id)?;
        Slot::take(&self.board, &pool.common, pool.supply.bound, own, self.board.us(now))
    }

    /// A place for a connection that is none of the pool's, or the next step towards one.
    pub(crate) fn take_slot_beside(&mut self, io: &mut World<'_>, pool_id: PoolId, own: Claim) -> Option<Slot> {
        let bound = self.pool(pool_id)?.supply.bound;
        let slot = Slot::take(&self.board, &Arc::default(), bound, own, self.board.us(io.now()));
        if slot.is_none() {
            self.stand_in_line(io, pool_id, own);
        }
        slot
    }

    /// All connections that the database or the user may have are taken: whoever has an idle one is to close it.
    fn stand_in_line(&mut self, io: &mut World<'_>, pool_id: PoolId, own: Claim) {
        let (now, now_us) = (io.now(), self.board.us(io.now()));
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        let Some(line) = self.board.bounds.claim(pool.supply.bound, own, now_us) else { return };
        if io.shard_count() > 1 && now_us.saturating_sub(own.since_us) < LEND_FIRST_US {
            // another shard's part of this pool may lend one, which costs less than a new one
            return;
        }
        let may_ask = pool.supply.may_ask(now);
        if !self.close_idle_for(io, line) && may_ask {
            let from = io.shard();
            self.pass_slot_question_on(io, line, from);
        }
    }

    /// Another shard's clients stand in this line.
    pub(crate) fn on_ask_slot(&mut self, io: &mut World<'_>, line: LineId, from: ShardId) {
        if from != io.shard() && !self.close_idle_for(io, line) {
            self.pass_slot_question_on(io, line, from);
        }
    }

    fn pass_slot_question_on(&self, io: &mut World<'_>, line: LineId, from: ShardId) {
        let next = next_shard(io);
        // whoever asked asks again if the ring is full
        if next != from {
            let _sent: Result<(), Message> = io.post(next, Message::AskSlot { line, from });
        }
    }

    /// Closes the connection that has been idle longest of those in a line; gives whether there was one.
    fn close_idle_for(&mut self, io: &mut World<'_>, line: LineId) -> bool {
        let pools = self.pools.iter().filter(|pool| line.holds_for(pool.supply.bound));
        let idle = pools.flat_map(|pool| pool.idle.iter().copied());
        // one that a session has left something on goes only when nobody misses that
        let order = |id: &ServerId| (self.is_home(*id), self.servers.get(*id).map(|server| server.idle_since));
        let Some(oldest) = idle.min_by_key(order) else { return false };
        if self.is_home(oldest) {
            self.begin_probe(io, oldest);
        } else if self.board.bounds.begin_yield(line, self.board.us(io.now())) {
            self.retire(io, oldest);
        }
        true
    }

    /// Whether a connection that has become free is to be given up for a pool that has waited longer or has fewer.
    pub(super) fn must_yield(&self, now: Instant, pool_id: PoolId) -> bool {
        let Some(pool) = self.pool(pool_id) else { return false };
        self.board.bounds.must_yield(pool.supply.bound, self.claim_of(pool_id), self.board.us(now))
    }

    /// Makes connections that the pool is to keep, here or on a shard that has permits.
    pub(crate) fn keep_warm(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        let now = io.now();
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        if !pool.is_cold() || !pool.waiting.is_empty() || self.draining.is_some() {
            return;
        }
        if pool.open >= pool.permits {
            let key = pool.key();
            if io.shard_count() > 1 && pool.supply.may_ask(now) {
                // the others find out for themselves
                let _sent: Result<(), Message> = io.post(next_shard(io), Message::KeepWarm { key, from: io.shard() });
            }
            return;
        }
        // several shards may do so at once: one dials at a time, and what is too much is idle and closed
        if pool.connecting == 0 && pool.may_dial(now) {
            let own = Claim { since_us: self.board.us(now), held: pool.open };
            if let Some(slot) = self.take_slot(now, pool_id, own) {
                self.dial(io, pool_id, slot);
                self.hurry(io);
            }
        }
    }

    /// A shard that has no permit left asks for a connection to be kept.
    pub(crate) fn on_keep_warm(&mut self, io: &mut World<'_>, key: PoolKey, from: ShardId) {
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        let Ok(id) = self.pool_for(shards, &key.1, &key.0) else { return };
        self.watch_catalog(id);
        if self.pool(id).is_some_and(|pool| pool.open < pool.permits) {
            self.keep_warm(io, id);
            self.hurry(io);
        } else if next_shard(io) != from {
            let next = next_shard(io);
            let _sent: Result<(), Message> = io.post(next, Message::KeepWarm { key, from });
        }
    }

    /// Takes permits beyond the pool's size for clients that have waited for long, and gives back those nobody needs.
    pub(super) fn on_reserve_tick(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        let now = io.now();
        let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
        let (size, after) = (pool.settings.reserve_pool_size, pool.settings.reserve_pool_timeout);
        let late = pool
            .waiting
            .front()
            .and_then(|id| self.sessions.get(id))
            .is_some_and(|session| size > 0 && now.saturating_duration_since(session.waiting_since) >= after);
        let idle_long = |id: &ServerId| {
            self.servers.get(*id).is_some_and(|server| now.saturating_duration_since(server.idle_since) >= after)
        };
        let spare = pool.idle.iter().copied().find(|id| idle_long(id) && !self.is_home(*id));
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        if late && !pool.paused && pool.open >= pool.permits && pool.common.take_reserve(size) {
            pool.permits += 1;
            pool.supply.reserve_held += 1;
            pool.stats.count_limit("reserve_pool_timeout");
            self.serve(io, pool_id);
            return;
        }
        if pool.supply.reserve_held > 0 && pool.waiting.is_empty() {
            if pool.open < pool.permits {
                pool.give_reserve_back();
            } else if let Some(spare) = spare {
                self.retire(io, spare);
            }
        }
    }
}

impl Pool {
    /// A connection has ended or was not made: what is beyond the pool's size is not kept.
    pub(crate) fn give_reserve_back(&mut self) {
        if self.supply.reserve_held > 0 && self.permits > 0 {
            self.supply.reserve_held -= 1;
            self.permits -= 1;
            self.common.give_reserve();
        }
    }

    /// What it is called on every shard.
    pub(crate) fn key(&self) -> PoolKey {
        (self.stats.database.clone(), self.stats.user.clone())
    }
}

fn next_shard(io: &World<'_>) -> ShardId {
    let next = (usize::from(io.shard().0) + 1) % io.shard_count().max(1);
    ShardId(u16::try_from(next).unwrap_or_default())
}
