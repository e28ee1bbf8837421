//! Statement mode: a server connection is kept for one request, so no transaction may outlast one.
//!
//! What a request leaves open is found by the status that ends it, whatever began it. The client is told in front of that
//! status, which becomes idle, and the transaction is rolled back before anybody gets the connection. Nothing further of the
//! client's is written until then (the barrier in `session::write`).

use bytes::BytesMut;
use dbproto::message::backend::{self, TransactionStatus};

use crate::error::{Disposition, Failure, Limited};
use crate::listen::Listening;
use crate::pipe::ServerId;
use crate::session::{Pin, Session, SessionId};
use crate::shard::{Shard, World};

/// What a client is told in place of the ReadyForQuery that says that a transaction is open.
pub(crate) fn refusal() -> BytesMut {
    let mut out = BytesMut::new();
    Failure::Limited(Limited::StatementMode).write(&mut out, Disposition::Keep);
    backend::write_ready_for_query(&mut out, TransactionStatus::Idle);
    out
}

impl Shard {
    /// Takes a connection with an open transaction from its session.
    pub(super) fn take_back_transaction(&mut self, io: &mut World<'_>, id: ServerId, holder: SessionId) {
        let Some(session) = self.sessions.get_mut(holder) else { return };
        let listens = self.servers.get(id).is_some_and(|server| server.listening != Listening::No);
        if session.pin != Pin::No || listens {
            // what it keeps there would be lost with the transaction
            self.end_session(io, holder, Some(&Failure::Limited(Limited::StatementMode)));
            return;
        }
        Session::leave_server(session);
        session.active_at = io.now();
        self.ready.push_back(holder);
        self.abandon(io, id);
    }
}
