//! Shared pipes: self-contained reads of many sessions, back to back on one server connection.

use crate::pipe::{List, Owner, ServerId};
use crate::session::SessionId;
use crate::shard::{Shard, World};

impl Shard {
    /// After replies on a pipe that carries shared requests: an empty one is free again.
    pub(crate) fn after_shared(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        if matches!(server.list, List::Shared | List::Draining) && server.is_quiet() {
            self.release(io, id);
        }
    }

    /// A client cancels its shared request. Postgres is asked to stop only what nobody else stands behind.
    pub(crate) fn cancel_shared(&mut self, io: &mut World<'_>, session: SessionId, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        let alone = server.in_flight.len() == 1
            && server.in_flight.front().is_some_and(|request| request.owner == Owner::Session(session));
        if alone {
            self.move_to(id, List::Draining);
            self.send_cancel(io, id);
        }
    }
}
