//! Cancel requests: which session a key names, and how its statement is stopped.
//!
//! The key a client gets names its shard and its place there, so that a request that arrives on any shard finds it; the
//! secret proves that it is the client's. A statement that runs is stopped by a CancelRequest of our own to Postgres, and
//! the server connection takes nothing new until that has been dealt with: a late cancel must never hit what comes next.

use std::time::{Duration, Instant};

use dbproto::startup;
use runtime::{ShardId, SocketId};

use crate::admin::Withdrawal;
use crate::error::Failure;
use crate::pipe::{Cancel, ServerId};
use crate::server::secure::{Answer, Hop};
use crate::session::{Place, SessionId};
use crate::shard::{Message, Shard, World};
use crate::slab::{Key, TokenKind};

pub(crate) mod told;

/// Bits of a process id that hold the session's index; the shard's number is above them.
const INDEX_BITS: u32 = 23;
/// How long Postgres may take to deal with a cancel.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// A connection that carries a CancelRequest to Postgres.
pub(crate) struct CancelConnection {
    socket: SocketId,
    /// It is as well protected as the connection whose secret it carries.
    hop: Hop,
    server: ServerId,
    process_id: u32,
    secret: Vec<u8>,
    pub(crate) give_up_at: Instant,
}

/// Names a cancel connection on its shard.
pub(crate) type CancelId = Key<CancelConnection>;

/// The process id a client is told: which shard, which session. Never 0, which some clients take for none.
pub(crate) const fn process_id(shard: ShardId, session: SessionId) -> u32 {
    ((shard.0 as u32 & 0xff) << INDEX_BITS) | (session.index().wrapping_add(1) & ((1 << INDEX_BITS) - 1))
}

/// Fills `out` with bytes nobody can guess.
pub(crate) fn fill_random(out: &mut [u8]) {
    let mut at = 0;
    while let Some(rest) = out.get_mut(at..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(len) => at += len,
            Err(rustix::io::Errno::INTR) => {}
            // without it no key would be safe: there is no going on
            Err(_) => std::process::abort(),
        }
    }
}

/// A secret for a client's cancel key.
pub(crate) fn random_secret() -> u32 {
    let mut bytes = [0; 4];
    fill_random(&mut bytes);
    u32::from_be_bytes(bytes)
}

impl Shard {
    /// A client asks for the statement of whoever has this key to be cancelled.
    pub(crate) fn route_cancel(&mut self, io: &mut World<'_>, process_id: u32, secret: u32) {
        let index = (process_id & ((1 << INDEX_BITS) - 1)).wrapping_sub(1);
        let shard = ShardId(u16::try_from(process_id >> INDEX_BITS).unwrap_or(u16::MAX));
        if shard == io.shard() {
            self.cancel_session(io, index, secret);
        } else if usize::from(shard.0) < io.shard_count() && io.post(shard, Message::Cancel { index, secret }).is_err()
        {
            tracing::warn!("a cancel request was dropped because the ring to its shard is full");
        }
        self.route_cancel_told(io, process_id, secret);
    }

    pub(crate) fn cancel_session(&mut self, io: &mut World<'_>, index: u32, secret: u32) {
        if let Some(id) = self.sessions.key_at(index).filter(|id| self.process_id_told(*id).is_none()) {
            self.cancel_by_secret(io, id, secret);
        }
    }

    fn cancel_by_secret(&mut self, io: &mut World<'_>, id: SessionId, secret: u32) {
        let Some(session) = self.sessions.get(id).filter(|session| session.secret == secret) else { return };
        let (place, pool) = (session.place, session.pool);
        if self.cancel_console(io, id, Withdrawal::Cancelled) {
            return;
        }
        match place {
            Place::Idle | Place::Promised(_) => return,
            Place::Waiting => {
                self.stop_waiting(id);
                self.fail_request(io, id, &Failure::Cancelled);
            }
            Place::Shared(server) => self.cancel_shared(io, id, server),
            Place::Exclusive(server) => {
                if self.servers.get(server).is_none_or(|server| server.pipeline.is_empty()) {
                    return;
                }
                self.send_cancel(io, server);
            }
        }
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.requests_cancelled += 1;
        }
    }

    /// Asks Postgres to stop what runs on a server connection.
    pub(crate) fn send_cancel(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let (Cancel::None, Some((process_id, secret))) = (server.cancel, server.key.clone()) else { return };
        let give_up_at = io.now() + CANCEL_MAX;
        let made = self.cancels.insert_with(|id_of_cancel| {
            let socket = io.connect(&server.address, id_of_cancel.token(TokenKind::Cancel)).unwrap_or(SocketId::NONE);
            CancelConnection { socket, hop: server.hop.again(), server: id, process_id, secret, give_up_at }
        });
        let Some(cancel) = made else { return };
        if self.cancels.get(cancel).is_some_and(|cancel| cancel.socket == SocketId::NONE) {
            tracing::warn!("a cancel request could not be sent to PostgreSQL");
            self.cancels.remove(cancel);
            return;
        }
        server.cancel = Cancel::UnderWay;
        self.hurry(io);
    }

    pub(crate) fn on_cancel_connected(&mut self, io: &mut World<'_>, id: CancelId) {
        let Some(cancel) = self.cancels.get(id) else { return };
        match cancel.hop {
            Hop::Asking(_) => startup::write_ssl_request(io.output(cancel.socket)),
            Hop::Clear | Hop::Secured(_) => {
                startup::write_cancel(io.output(cancel.socket), cancel.process_id, &cancel.secret);
            }
            Hop::Handshaking(_) => {}
        }
    }

    /// Nothing is ever said on it but the answer to a request for TLS.
    pub(crate) fn on_cancel_bytes(&mut self, io: &mut World<'_>, id: CancelId, bytes: &[u8]) {
        let Some(cancel) = self.cancels.get_mut(id).filter(|cancel| matches!(cancel.hop, Hop::Asking(_))) else {
            return;
        };
        match cancel.hop.on_answer(io, cancel.socket, bytes) {
            Answer::Begun => {}
            // the connection it is for is encrypted, so this one was not to be in clear
            Answer::Clear => self.break_cancel(io, id, "PostgreSQL refuses TLS for it"),
            Answer::Failed(what) => self.break_cancel(io, id, &what),
        }
    }

    pub(crate) fn on_cancel_secured(&mut self, io: &mut World<'_>, id: CancelId) {
        if let Some(cancel) = self.cancels.get_mut(id) {
            cancel.hop.on_secured();
            self.on_cancel_connected(io, id);
        }
    }

    /// The cancel does not take place: what runs goes on.
    fn break_cancel(&mut self, io: &mut World<'_>, id: CancelId, why: &str) {
        tracing::warn!(why, "a cancel request could not be sent to PostgreSQL");
        if let Some(cancel) = self.cancels.remove(id) {
            io.close(cancel.socket);
            self.on_cancel_over(io, cancel.server);
        }
    }

    /// Postgres closes the connection when it has sent the signal.
    pub(crate) fn on_cancel_closed(&mut self, io: &mut World<'_>, id: CancelId) {
        if let Some(cancel) = self.cancels.remove(id) {
            self.on_cancel_over(io, cancel.server);
        }
    }

    /// Nobody knows when a cancel that Postgres does not deal with will hit: its server connection cannot be used any more.
    pub(crate) fn on_cancel_tick(&mut self, io: &mut World<'_>) {
        let now = io.now();
        for id in self.cancels.keys() {
            if self.cancels.get(id).is_some_and(|cancel| cancel.give_up_at <= now)
                && let Some(cancel) = self.cancels.remove(id)
            {
                io.close(cancel.socket);
                self.doubt(io, cancel.server, "PostgreSQL did not deal with a cancel request in time");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    #[test]
    fn a_process_id_is_positive_and_names_shard_and_session() {
        let mut slab = Slab::default();
        let now = Instant::now();
        let id = slab.insert_with(|_| crate::session::Session::accepted(SocketId::NONE, 1, None, now)).unwrap();
        let pid = process_id(ShardId(255), id);
        assert!(i32::try_from(pid).is_ok());
        assert_eq!(pid >> INDEX_BITS, 255);
        assert_eq!(pid & ((1 << INDEX_BITS) - 1), id.index() + 1);
    }

    #[test]
    fn random_bytes_fill_the_whole_buffer() {
        let mut bytes = [0; 64];
        fill_random(&mut bytes);
        assert!(bytes.chunks(8).all(|chunk| chunk.iter().any(|byte| *byte != 0)));
    }
}
