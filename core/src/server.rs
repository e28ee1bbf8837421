//! The life of a server connection: dialled, logged in (`login`), read from (`reply`), told to go, dead.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use dbproto::message::frontend;
use runtime::Closed;

use crate::bound::Slot;
use crate::error::Failure;
use crate::pipe::{Cancel, Delivery, Flow, Goodbye, List, Owner, Server, ServerId, Soil, Streaming, Tail};
use crate::pool::PoolId;
use crate::session::{Left, Place, Session, SessionId};
use crate::shard::{Shard, World};
use crate::slab::TokenKind;
use secure::Hop;

pub(crate) mod login;
mod lost;
mod reply;
pub(crate) mod secure;

pub(crate) use lost::lose;
pub(crate) use reply::CLIENT_HIGH_WATER;

/// Unsent bytes of a server connection above which its session is not read from.
pub(crate) const SERVER_HIGH_WATER: usize = 256 * 1024;

/// How long a backend may take to end after it was told to.
const CLOSING_MAX: Duration = Duration::from_secs(5);

/// Who ended a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// We did: what it would have said next is not known.
    Ours,
    /// Postgres or the network did.
    Theirs,
}

impl Shard {
    /// Begins a new connection of a pool.
    pub(crate) fn dial(&mut self, io: &mut World<'_>, pool_id: PoolId, slot: Slot) {
        let (now, serial) = (io.now(), self.next_serial(io));
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        let Some(place) = pool.fates.choose(&pool.target.places, now).cloned() else {
            self.on_connect_failed(io, pool_id, "its host name cannot be looked up".to_owned());
            return;
        };
        let patience = pool.settings.server_connect_timeout;
        let give_up_at = now + pool.fates.patience(&place, &pool.target.places, now, patience);
        let login = login::ServerLogin::new(&pool.target);
        let hop = Hop::first(pool.target.tls_at(&place), pool.way);
        let (mut failed, address) = (None, place.address.clone());
        let servers = &mut self.servers;
        let inserted = servers.insert_with(|id| {
            let socket = io.connect(&place.address, id.token(TokenKind::Server));
            let mut server = match socket {
                Ok(socket) => Server::dialled(pool_id, socket, login, now),
                Err(error) => {
                    failed = Some(error.to_string());
                    Server::dialled(pool_id, runtime::SocketId::NONE, login, now)
                }
            };
            server.give_up_at = Some(give_up_at);
            server.hop = hop;
            server.serial = serial;
            server.address = place.address;
            server.user = pool.target.user.as_str().into();
            server.generation = pool.generation;
            server.slot = Some(slot);
            server
        });
        if let (Some(id), None) = (inserted, &failed) {
            tracing::trace!(?id, "a server connection is dialled");
            pool.open += 1;
            pool.connecting += 1;
            pool.dialled_at = Some(now);
            return;
        }
        if let Some(id) = inserted {
            self.servers.remove(id);
        }
        pool.fates.failed(&address, now);
        let error = failed.unwrap_or_else(|| "too many server connections".to_owned());
        self.on_connect_failed(io, pool_id, error);
    }

    /// The socket is connected: the start-up packet goes out, or the request for TLS.
    pub(crate) fn on_server_connected(&mut self, io: &mut World<'_>, id: ServerId) {
        self.open_login(io, id);
    }

    /// Bytes came from Postgres.
    pub(crate) fn on_server_bytes(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if server.list == List::Closing {
            return;
        }
        if let Some(pool) = self.pools.get_mut(server.pool.0 as usize) {
            pool.stats.bytes_from_server += bytes.len() as u64;
        }
        if server.input.is_empty() {
            let used = self.take_server_bytes(io, id, bytes);
            if let Some(server) = self.servers.get_mut(id) {
                server.input.extend_from_slice(bytes.get(used..).unwrap_or_default());
            }
        } else {
            server.input.extend_from_slice(bytes);
            let input = std::mem::take(&mut server.input);
            let used = self.take_server_bytes(io, id, &input);
            if let Some(server) = self.servers.get_mut(id)
                && used < input.len()
            {
                server.input = BytesMut::from(input.get(used..).unwrap_or_default());
            }
        }
        self.count_server_input(id);
        self.after_replies(io, id);
    }

    fn take_server_bytes(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) -> usize {
        match self.servers.get(id) {
            Some(server) if matches!(server.hop, Hop::Asking(_)) && server.login.is_some() => {
                self.on_tls_answer(io, id, bytes);
                bytes.len()
            }
            Some(server) if server.login.is_some() => {
                let used = self.on_login_bytes(io, id, bytes);
                let rest = bytes.get(used..).filter(|rest| !rest.is_empty());
                match (rest, self.servers.get(id)) {
                    (Some(rest), Some(server)) if server.list == List::Relaying && server.login.is_none() => {
                        self.relay_to_client(io, id, rest);
                        bytes.len()
                    }
                    _ => used,
                }
            }
            Some(server) if server.list == List::Relaying => {
                self.relay_to_client(io, id, bytes);
                bytes.len()
            }
            Some(server) if server.list != List::Closing => self.on_replies(io, id, bytes),
            Some(_) | None => bytes.len(),
        }
    }

    /// After the bytes of one turn: work that is done is gone on with.
    pub(crate) fn after_replies(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        if server.has_begun_unasked() {
            self.doubt(io, id, "it began a message that nobody asked for");
            return;
        }
        match server.list {
            List::Working if server.is_quiet() => {
                if server.status == dbproto::message::backend::TransactionStatus::Idle {
                    self.on_prepared(io, id);
                } else {
                    self.doubt(io, id, "it is in a transaction that nobody began");
                }
            }
            List::Exclusive => {
                self.note_idle(io.now(), id);
                self.go_on_in_group(id);
                self.go_on_if_answered(id);
                self.let_go_if_done(io, id);
            }
            List::Shared | List::Draining => self.after_shared(io, id),
            // its end comes in a moment: nobody is to have it meanwhile
            List::Idle if server.said_goodbye != Goodbye::NotSaid => {
                self.move_to(id, List::Closing);
                self.orphan_all(io, id, Ending::Theirs);
                if let Some(server) = self.servers.get_mut(id) {
                    server.give_up_at = Some(io.now() + CLOSING_MAX);
                }
            }
            List::Connecting | List::Idle | List::Working | List::Relaying | List::Leaving(_) | List::Closing => {}
        }
    }

    /// Its holder may have more for it that had to wait for the requests before it. These are answered, or an error has taken
    /// them with it, and the group that is open goes on.
    fn go_on_in_group(&mut self, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        let Some(holder) = server.holder else { return };
        let Some(session) = self.sessions.get_mut(holder) else { return };
        session.lift_vain_barrier(&server.pipeline);
        if server.pipeline.ready_count() == 0 && !server.is_quiet() && !session.input.is_empty() {
            self.ready.push_back(holder);
        }
    }

    /// From now on nothing is owed on a connection, if that is so.
    fn note_idle(&mut self, now: Instant, id: ServerId) {
        if let Some(server) = self.servers.get_mut(id).filter(|server| server.pipeline.is_empty()) {
            server.idle_since = now;
        }
    }

    /// Ends a connection in good order: Terminate, then wait for the backend to go.
    pub(crate) fn retire(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        if server.list == List::Closing {
            return;
        }
        self.say_goodbye(io, id);
    }

    fn say_goodbye(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        if server.tail == Tail::Torn {
            // whatever came now would be taken for the rest of the message
            io.close(server.socket);
            self.forget_server(io, id);
            return;
        }
        frontend::write_terminate(io.output(server.socket));
        if server.flow == Flow::Paused {
            // its end must be heard
            io.resume(server.socket);
        }
        self.move_to(id, List::Closing);
        if let Some(server) = self.servers.get_mut(id) {
            server.give_up_at = Some(io.now() + CLOSING_MAX);
        }
    }

    /// Ends a connection whose protocol state is not certain: what runs is cancelled, everybody on it is told, and nothing
    /// that it still says is believed.
    pub(crate) fn doubt(&mut self, io: &mut World<'_>, id: ServerId, why: &str) {
        let Some(server) = self.servers.get(id) else { return };
        if server.list == List::Closing {
            return;
        }
        if let Some(holder) = server.holder.filter(|_| server.list == List::Relaying) {
            // nobody else is on it
            self.end_session(io, holder, Some(&Failure::Shutdown));
            return;
        }
        tracing::debug!(why, "a server connection is closed");
        let (pool, busy) = (server.pool, !server.pipeline.is_empty() || server.pipeline.is_open());
        let torn = server.holder.and_then(|id| self.sessions.get(id)).is_some_and(|session| session.stream_left > 0);
        // in the middle of a COPY, Terminate is a message that does not belong there
        let torn = torn || server.pipeline.is_copying_in();
        if torn && let Some(server) = self.servers.get_mut(id) {
            server.tail = Tail::Torn;
        }
        if busy {
            self.send_cancel(io, id);
        }
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.closes_in_doubt += 1;
        }
        // first out of everybody's reach, then those on it are told
        self.move_to(id, List::Closing);
        self.orphan_all(io, id, Ending::Ours);
        self.say_goodbye(io, id);
    }

    /// A server connection ended or could not be made.
    pub(crate) fn on_server_closed(&mut self, io: &mut World<'_>, id: ServerId, cause: &Closed) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let (list, pool) = (server.list, server.pool);
        let failure = server.login.as_mut().and_then(|login| login.refusal.take());
        match list {
            List::Connecting => {
                let again = failure.is_some() && self.try_otherwise(id, failure.as_ref());
                match (failure, cause) {
                    (Some(refusal), _) if again => {
                        self.on_connect_failed(io, pool, format!("{} ({})", refusal.message, refusal.sqlstate));
                    }
                    (Some(refusal), _) => {
                        if refusal.is_passing() {
                            self.blame(io, id);
                        }
                        self.on_login_refused(io, pool, refusal);
                    }
                    (None, Closed::Tls(_)) => self.on_tls_failed(io, id, cause.to_string()),
                    (None, Closed::Eof | Closed::Error(_)) => {
                        self.blame(io, id);
                        self.on_connect_failed(io, pool, cause.to_string());
                    }
                }
            }
            List::Closing => {}
            List::Relaying => {
                self.end_relay(io, id, failure, cause.to_string());
                return;
            }
            List::Idle | List::Shared | List::Draining | List::Exclusive | List::Working | List::Leaving(_) => {
                tracing::info!(%cause, "a server connection was lost");
                self.move_to(id, List::Closing);
                self.orphan_all(io, id, Ending::Theirs);
            }
        }
        self.forget_server(io, id);
    }

    /// The backend is gone: its permit is free again.
    pub(crate) fn forget_server(&mut self, io: &mut World<'_>, id: ServerId) {
        self.move_to(id, List::Closing);
        let Some(server) = self.servers.remove(id) else { return };
        let (pool_id, counted) = (server.pool, server.relay.is_none());
        if let (Some(pool), Some((backend, _))) = (self.pool(pool_id), &server.key) {
            self.board.aliases.forget((pool.database.0, *backend));
        }
        // its place is free before anybody is served
        drop(server);
        if let Some(pool) = self.pool_mut(pool_id).filter(|_| counted) {
            pool.open = pool.open.saturating_sub(1);
            pool.give_reserve_back();
        }
        self.on_permit_free(io, pool_id);
        self.serve(io, pool_id);
        self.keep_warm(io, pool_id);
    }

    /// Everybody who has something under way on this connection is told or served elsewhere.
    fn orphan_all(&mut self, io: &mut World<'_>, id: ServerId, ending: Ending) {
        self.lose_passage(io, id);
        let listener = self.listener_at(id);
        let Some(server) = self.servers.get_mut(id) else { return };
        let in_flight = std::mem::take(&mut server.in_flight);
        let (holder, promised) = (server.holder.take(), server.promised.take());
        // what it had left there is lost, and it must not go on as if it were not
        let owner = server.last_session.filter(|_| server.soil == Soil::Unknown && holder.is_none());
        let torn = match std::mem::replace(&mut server.streaming, Streaming::None) {
            Streaming::Forward(session, left) if left > 0 => Some(session),
            Streaming::Forward(..) | Streaming::None | Streaming::Swallow(_) => None,
        };
        if let Some(session) = torn {
            // half a message cannot be followed by anything
            self.cut_session(io, session);
        }
        for request in in_flight {
            if let Owner::Session(session) = request.owner {
                match request.delivery {
                    Delivery::Nothing if self.may_issue_again(session) => self.issue_again(session),
                    Delivery::Nothing | Delivery::Begun => self.fail_in_flight(io, session, id),
                }
            }
        }
        let has_lost = |session: &Session| session.home == Some(id) && session.left == Left::Likely;
        let owner = owner.filter(|owner| self.sessions.get(*owner).is_some_and(has_lost));
        if let Some(owner) = owner {
            let address = self.upstream_of(id);
            self.end_session(io, owner, Some(&Failure::ConnectionLost { address }));
        }
        if let Some(session) = promised.filter(|session| Some(*session) != owner) {
            // nothing of its request was written
            self.acquire_again(io, session);
        }
        if let Some(session) = holder {
            self.fail_holder(io, session, id, ending);
        }
        if let Some(listener) = listener {
            self.fall_back(io, listener);
        }
    }

    /// Whether a request may be tried on another connection when its own was lost: once, since it may be the cause.
    fn may_issue_again(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        std::mem::replace(&mut session.losses, 1) == 0
    }

    /// A proven read of which no byte was forwarded is issued again; its bytes are still in the session's input.
    pub(crate) fn issue_again(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.place = Place::Idle;
        let pool = session.pool;
        self.ready.push_back(id);
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.requests_retried += 1;
        }
    }

    fn upstream_of(&self, id: ServerId) -> String {
        self.servers.get(id).map_or_else(String::new, |server| server.address.to_string())
    }

    fn fail_in_flight(&mut self, io: &mut World<'_>, session: SessionId, server: ServerId) {
        let address = self.upstream_of(server);
        if self.sessions.get(session).is_some() {
            self.fail_request(io, session, &Failure::ConnectionLost { address });
        }
    }

    /// The session that held a lost connection: outside a transaction and between requests it goes on, otherwise it ends.
    fn fail_holder(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId, ending: Ending) {
        let address = self.upstream_of(server_id);
        let Some(server) = self.servers.get(server_id) else { return };
        let in_transaction = server.status != dbproto::message::backend::TransactionStatus::Idle;
        let (owed, open) = (server.pipeline.client_ready_count(), server.pipeline.is_open());
        let told = server.said_goodbye == Goodbye::ToldClient;
        let own = self.pool(server.pool).is_some_and(|pool| pool.settings.mode == config::PoolMode::Session);
        let Some(session) = self.sessions.get_mut(id) else { return };
        let pinned = own || session.pin != crate::session::Pin::No || session.left == Left::Likely;
        let failure = match (owed, in_transaction) {
            (0, false) if !open => Failure::ConnectionLost { address },
            _ => Failure::OutcomeUnknown { address },
        };
        // of a request that was not begun nothing is lost
        if (ending == Ending::Ours && owed > 0)
            || in_transaction
            || pinned
            || open
            // what it has sent behind the lost request was meant to follow it
            || (owed > 0 && !session.input.is_empty())
            || session.stream_left > 0
            || !Session::is_ready(session)
        {
            self.end_session(io, id, Some(&failure).filter(|_| !told));
            return;
        }
        Session::leave_server(session);
        let out = io.output(session.socket);
        for _ in 0..owed {
            failure.write(out, crate::error::Disposition::Keep);
            dbproto::message::backend::write_ready_for_query(out, dbproto::message::backend::TransactionStatus::Idle);
        }
        if owed > 0 {
            self.count_failure(id, &failure);
        }
        self.ready.push_back(id);
    }

    /// Connections whose time to connect or to go is over.
    pub(crate) fn on_server_tick(&mut self, io: &mut World<'_>) {
        let now = io.now();
        let overdue: Vec<ServerId> = self
            .servers
            .keys()
            .into_iter()
            .filter(|id| self.servers.get(*id).and_then(|server| server.give_up_at).is_some_and(|at| at <= now))
            .collect();
        for id in overdue {
            let Some(server) = self.servers.get(id) else { continue };
            let (pool, list) = (server.pool, server.list);
            if list == List::Relaying {
                self.end_relay(io, id, None, "no answer in time".to_owned());
                continue;
            }
            io.close(server.socket);
            if list == List::Connecting {
                self.blame(io, id);
                self.on_connect_failed(io, pool, "no answer in time".to_owned());
            }
            self.forget_server(io, id);
        }
    }

    /// The cancel connection for this server has ended.
    pub(crate) fn on_cancel_over(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.cancel = Cancel::None;
        match server.holder {
            Some(holder) => self.ready.push_back(holder),
            None if server.list == List::Exclusive && !server.is_quiet() => {
                // its client has left in the middle of something that nobody will end
                self.doubt(io, id, "its client left while it was cancelled");
                return;
            }
            None => {}
        }
        self.after_replies(io, id);
    }
}
