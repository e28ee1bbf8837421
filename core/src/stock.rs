//! What a shard has counted, with the gauges as they are now.

use stats::{PoolStats, ShardStats, StatementStats};

use crate::listen::Hearing;
use crate::machine::micros;
use crate::pipe::List;
use crate::session::{Pin, Place};
use crate::shard::Shard;

/// All that a shard has counted.
pub(crate) struct Stock {
    pub(crate) shard: ShardStats,
    pub(crate) pools: Vec<PoolStats>,
    pub(crate) statements: Vec<StatementStats>,
}

impl Shard {
    /// A copy of everything.
    pub(crate) fn take_full_stock(&self) -> Stock {
        let (shard, pools) = self.take_stock();
        Stock { shard, pools, statements: self.take_tallies() }
    }

    /// A copy of what is counted by statement.
    pub(crate) fn take_tallies(&self) -> Vec<StatementStats> {
        self.tallies.copy(|id| {
            let pool = self.pool(id)?;
            Some((pool.stats.database.clone(), pool.stats.user.clone()))
        })
    }

    /// A copy of this shard's statistics.
    pub(crate) fn take_stock(&self) -> (ShardStats, Vec<PoolStats>) {
        let mut shard = self.stats.clone();
        let mut pools: Vec<PoolStats> = self.pools.iter().map(|pool| pool.stats.clone()).collect();
        for (stats, pool) in pools.iter_mut().zip(&self.pools) {
            stats.pool_size = u64::from(pool.settings.size);
            stats.permits_held = u64::from(pool.permits);
            stats.clients_waiting = pool.waiting.len() as u64;
            let first = pool.waiting.front().and_then(|id| self.sessions.get(id));
            stats.maxwait_us = first.map_or(0, |session| micros(session.waiting_since.elapsed()));
            shard.clients_waiting += stats.clients_waiting;
        }
        for session in self.sessions.values() {
            shard.clients += 1;
            shard.buffer_bytes += session.input.capacity() as u64;
            if let Place::Shared(_) | Place::Exclusive(_) | Place::Promised(_) = session.place
                && let Some(stats) = pools.get_mut(session.pool.0 as usize)
            {
                stats.clients_active += 1;
            }
            if let Some(ears) = &session.ears {
                shard.buffer_bytes += ears.untold.capacity() as u64;
                if let Some(stats) = pools.get_mut(session.pool.0 as usize) {
                    stats.clients_listening += u64::from(ears.hearing == Hearing::Line);
                }
            }
        }
        for server in self.servers.values() {
            shard.buffer_bytes += server.input.capacity() as u64;
            let Some(stats) = pools.get_mut(server.pool.0 as usize) else { continue };
            let pinned =
                server.holder.and_then(|id| self.sessions.get(id)).is_some_and(|session| session.pin != Pin::No);
            let gauge = match server.list {
                List::Connecting => &mut stats.servers_connecting,
                List::Idle => &mut stats.servers_idle,
                List::Shared | List::Draining => &mut stats.servers_busy_shared,
                List::Exclusive if pinned => &mut stats.servers_pinned,
                List::Relaying if server.login.is_some() => &mut stats.servers_connecting,
                List::Exclusive | List::Relaying => &mut stats.servers_exclusive,
                List::Working => &mut stats.servers_cleaning,
                List::Leaving(_) | List::Closing => continue,
            };
            *gauge += 1;
        }
        (shard, pools)
    }
}
