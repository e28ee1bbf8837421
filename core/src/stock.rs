//! What a shard has counted, with the gauges as they are now.

use runtime::Load;
use stats::{PoolStats, ShardStats, StatementStats};

use crate::error::Failure;
use crate::listen::Hearing;
use crate::pipe::List;
use crate::session::{Pin, Place, SessionId};
use crate::shard::Shard;
use crate::stopwatch::micros;

/// All that a shard has counted.
pub(crate) struct Stock {
    pub(crate) shard: ShardStats,
    pub(crate) pools: Vec<PoolStats>,
    pub(crate) statements: Vec<StatementStats>,
}

impl Shard {
    /// A copy of everything, with what it has cost so far.
    pub(crate) fn take_full_stock(&self, load: &Load) -> Stock {
        let (mut shard, pools) = self.take_stock();
        shard.busy_us = micros(load.busy);
        shard.kept_waiting_us = micros(load.kept_waiting);
        (shard.ring_messages_out, shard.ring_messages_in) = (load.messages_out, load.messages_in);
        Stock { shard, pools, statements: self.take_tallies() }
    }

    /// A client is told of a failure.
    pub(crate) fn count_failure(&mut self, id: SessionId, failure: &Failure) {
        let pool = self.sessions.get(id).filter(|session| session.seat.is_some()).map(|session| session.pool);
        match pool.and_then(|pool| self.pools.get_mut(pool.0 as usize)) {
            Some(pool) => pool.stats.count_plane_error(failure.sqlstate().as_bytes()),
            None => self.stats.count_error(failure.sqlstate().as_bytes()),
        }
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
            let longest = pool.waiting.iter().find_map(|id| self.sessions.get(id));
            stats.maxwait_us =
                longest.map_or(0, |session| micros(self.now.saturating_duration_since(session.waiting_since)));
            stats.target = pool.target.whereabouts();
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
            if server.list.is_in_use() {
                stats.busy_us += micros(self.now.saturating_duration_since(server.used_since));
            }
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
