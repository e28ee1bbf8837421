//! Permits move to where they are needed.
//!
//! Every shard begins with a fair part of a pool's permits. One whose clients wait while all its permits are taken asks the
//! others, one after the other; who has a permit to spare, or more than its fair part, gives one up, never its last. It is taken
//! away here before it is added there, so the pool's size is never exceeded.

use std::time::{Duration, Instant};

use runtime::ShardId;

use crate::pool::PoolId;
use crate::shard::{Message, Shard, World};

/// Pause between two questions of one pool.
const ASK_PAUSE: Duration = Duration::from_millis(20);

/// Who uses which database: names a pool on every shard.
pub(crate) type PoolKey = (String, String);

/// One shard's state of asking and giving.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Permits {
    /// What it began with.
    pub(crate) fair: u32,
    /// When it may ask again.
    ask_after: Option<Instant>,
    /// Who is asked next, counted from this shard.
    ask_offset: u16,
    pub(crate) giving: Giving,
}

/// Whether another shard waits for a permit of this one's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Giving {
    #[default]
    Nothing,
    /// The next connection that becomes free is closed for it.
    Wanted(ShardId),
    /// The permit of the next connection that has ended goes there.
    Closing(ShardId),
}

impl Permits {
    pub(crate) fn new(fair: u32) -> Self {
        Self { fair, ..Self::default() }
    }
}

impl Shard {
    /// Asks another shard for a permit, if clients wait here and all of ours are taken.
    pub(super) fn ask_for_permit(&mut self, io: &mut World<'_>, id: PoolId) {
        let (now, here, shards) = (io.now(), io.shard().0, io.shard_count());
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        let paused = pool.permit_state.ask_after.is_some_and(|at| at > now);
        if shards < 2 || pool.waiting.is_empty() || pool.open < pool.permits || paused {
            return;
        }
        let others = u16::try_from(shards).unwrap_or(u16::MAX) - 1;
        let offset = pool.permit_state.ask_offset % others + 1;
        pool.permit_state.ask_offset = offset;
        pool.permit_state.ask_after = Some(now + ASK_PAUSE);
        let to = usize::from(here + offset) % shards;
        let key = (pool.stats.database.clone(), pool.stats.user.clone());
        // when the ring is full the question is asked again later
        let _sent: Result<(), Message> =
            io.post(ShardId(u16::try_from(to).unwrap_or_default()), Message::AskPermit { key, from: io.shard() });
    }

    /// Another shard's clients wait for a permit.
    pub(crate) fn on_ask_permit(&mut self, io: &mut World<'_>, key: PoolKey, from: ShardId) {
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        let Ok(id) = self.pool_for(shards, &key.1, &key.0) else { return };
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        let spare = pool.waiting.is_empty() || pool.permits > pool.permit_state.fair;
        if pool.permits <= 1 || !spare {
            return;
        }
        if pool.open < pool.permits {
            self.give_permit(io, id, from);
        } else if let Some(oldest) = pool.idle.first().copied() {
            pool.permit_state.giving = Giving::Closing(from);
            self.retire(io, oldest);
        } else if pool.permit_state.giving == Giving::Nothing {
            pool.permit_state.giving = Giving::Wanted(from);
        }
    }

    fn give_permit(&mut self, io: &mut World<'_>, id: PoolId, to: ShardId) {
        let Some(pool) = self.pools.get_mut(id.0 as usize).filter(|pool| pool.permits > 1) else { return };
        pool.permits -= 1;
        let key = (pool.stats.database.clone(), pool.stats.user.clone());
        if io.post(to, Message::Permit(key)).is_err() {
            pool.permits += 1;
        }
    }

    /// A connection is free: whether it is to be closed because its permit is wanted elsewhere.
    pub(super) fn is_given_up(&mut self, id: PoolId) -> bool {
        let Some(pool) = self.pools.get_mut(id.0 as usize).filter(|pool| pool.permits > 1) else { return false };
        let Giving::Wanted(to) = pool.permit_state.giving else { return false };
        pool.permit_state.giving = Giving::Closing(to);
        true
    }

    /// A connection has ended: its permit goes where it was promised.
    pub(crate) fn on_permit_free(&mut self, io: &mut World<'_>, id: PoolId) {
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        if let Giving::Closing(to) = pool.permit_state.giving {
            pool.permit_state.giving = Giving::Nothing;
            self.give_permit(io, id, to);
        }
    }

    /// A permit has come from another shard.
    pub(crate) fn on_permit(&mut self, io: &mut World<'_>, key: &PoolKey) {
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        // it asked, so it has the pool
        let Ok(id) = self.pool_for(shards, &key.1, &key.0) else { return };
        if let Some(pool) = self.pool_mut(id) {
            pool.permits += 1;
            pool.permit_state.ask_after = None;
        }
        self.serve(io, id);
    }
}
