//! Cleaning what a session has left on its connections when it has gone: locks and channels do not outlive it, as they would
//! not on a connection of its own.

use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};

use crate::pipe::{List, Mark, ServerId, Soil};
use crate::pool::PoolId;
use crate::session::SessionId;
use crate::shard::{Shard, World};

impl Shard {
    /// A session has left: free connections that it may have left something on, and that nobody has had since, are cleaned.
    pub(crate) fn clean_after(&mut self, io: &mut World<'_>, pool_id: PoolId, session: SessionId) {
        let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
        let servers = &self.servers;
        let left = |id: &ServerId| {
            servers.get(*id).is_some_and(|server| server.soil == Soil::Unknown && server.last_session == Some(session))
        };
        let soiled: Vec<ServerId> = pool.idle.iter().copied().filter(left).collect();
        for id in soiled {
            self.clean(io, id);
        }
    }

    /// Cleans a quiet connection that nobody holds.
    pub(super) fn clean(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.work_failure = None;
        // a constant, and short
        if frontend::write_query(io.output(server.socket), b"DISCARD ALL").is_ok() {
            server.pipeline.push(Owed::nobody(Expect::Query).marked(Mark::Clean.encode()));
        }
        let pool = server.pool;
        self.move_to(id, List::Working);
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.cleanings += 1;
        }
    }
}
