//! Replication connections: clients that ask for `replication=true` or `replication=database`.
//!
//! What such a client does is between it and PostgreSQL: it gets a server connection of its own, made with its own start-up
//! parameters, and bytes go through as they are until one side ends. The connection belongs to no pool's size, since it
//! would never come back; it counts for `max_connections` of its database and `max_server_connections` of its user, where
//! its client stands in line as others do. It is never given to anybody else.

use bytes::BytesMut;
use dbproto::frame::{self, HEAD_LEN};
use dbproto::startup;

use crate::bound::{Claim, Slot};
use crate::error::{Failure, Limited};
use crate::pipe::{Flow, List, Server, ServerId, Tail};
use crate::pool::{Parameter, PoolId, Target};
use crate::server::login::{Refusal, ServerLogin};
use crate::server::secure::Hop;
use crate::server::{CLIENT_HIGH_WATER, SERVER_HIGH_WATER};
use crate::session::{Phase, Place, SessionId, Start};
use crate::shard::{Shard, World};
use crate::slab::TokenKind;
use runtime::SocketId;
use runtime::reactor::LOW_WATER;

/// What is replicated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The cluster.
    Physical,
    /// A database.
    Logical,
}

impl Kind {
    /// The word for it in a start-up packet.
    const fn word(self) -> &'static [u8] {
        match self {
            Self::Physical => b"true",
            Self::Logical => b"database",
        }
    }

    /// The word for it in the console.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// Whether a start-up packet asks for replication, and with which other parameters.
pub(crate) enum Replication {
    No,
    Wanted(Kind, Box<[Parameter]>),
}

impl Replication {
    /// The parameters are PostgreSQL's to judge.
    pub(crate) fn of<'a>(kind: Kind, parameters: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Self {
        let ours = |name: &[u8]| matches!(name, b"user" | b"database" | b"replication") || name.starts_with(b"_pq_.");
        let parameters = parameters.filter(|(name, _)| !ours(name));
        Self::Wanted(kind, parameters.map(|(name, value)| (name.into(), value.into())).collect())
    }

    pub(crate) const fn kind(&self) -> Option<Kind> {
        match self {
            Self::No => None,
            Self::Wanted(kind, _) => Some(*kind),
        }
    }
}

/// What a start-up packet's `replication` asks for, read as PostgreSQL reads it.
pub(crate) fn wanted(value: &[u8]) -> Result<Option<Kind>, Failure> {
    let word = value.to_ascii_lowercase();
    let begins = |whole: &[u8], least: usize| word.len() >= least && whole.starts_with(&word);
    if value == b"database" {
        Ok(Some(Kind::Logical))
    } else if begins(b"true", 1) || begins(b"yes", 1) || begins(b"on", 2) || word == b"1" {
        Ok(Some(Kind::Physical))
    } else if begins(b"false", 1) || begins(b"no", 1) || begins(b"off", 2) || word == b"0" {
        Ok(None)
    } else {
        Err(Failure::InvalidReplication { value: String::from_utf8_lossy(value).into_owned() })
    }
}

/// A client that is to have its server connection as soon as there may be one more.
pub(crate) struct Candidate {
    session: SessionId,
    kind: Kind,
    parameters: Box<[Parameter]>,
}

/// How far a stream of messages has come: within one, or between two.
#[derive(Clone, Copy, Debug, Default)]
struct Boundary {
    /// Bytes of the present message that are still to come, once its length is known.
    left: usize,
    head: [u8; HEAD_LEN],
    head_len: usize,
}

impl Boundary {
    /// These have passed.
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let len = self.left.min(bytes.len());
                self.left -= len;
                bytes = bytes.get(len..).unwrap_or_default();
                continue;
            }
            let room = self.head.get_mut(self.head_len..).unwrap_or_default();
            let len = room.len().min(bytes.len());
            room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
            self.head_len += len;
            bytes = bytes.get(len..).unwrap_or_default();
            if self.head_len == HEAD_LEN {
                self.head_len = 0;
                // a length that cannot be is the other side's to refuse; until then nothing is between two messages
                self.left = match frame::head(&self.head) {
                    Ok(Some(head)) => head.len - HEAD_LEN,
                    Ok(None) | Err(_) => usize::MAX,
                };
            }
        }
    }

    const fn is_between(&self) -> bool {
        self.left == 0 && self.head_len == 0
    }
}

/// What a server connection is that passes a replication client's bytes on.
pub(crate) struct Relay {
    session: SessionId,
    pub(crate) kind: Kind,
    parameters: Box<[Parameter]>,
    to_client: Boundary,
    to_server: Boundary,
}

impl Relay {
    /// The start-up packet with which PostgreSQL makes its backend a sender of WAL.
    pub(crate) fn write_startup(&self, out: &mut BytesMut, minor: u16, target: &Target) {
        let mut parameters: Vec<(&[u8], &[u8])> = vec![
            (b"user", target.user.as_bytes()),
            (b"database", target.database.as_bytes()),
            (b"replication", self.kind.word()),
        ];
        parameters.extend(self.parameters.iter().map(|(name, value)| (&**name, &**value)));
        startup::write_startup_of(out, minor, &parameters);
    }
}

impl Shard {
    /// A replication client has been let in.
    pub(crate) fn settle_replica(&mut self, io: &mut World<'_>, id: SessionId, mut start: Start) {
        let Replication::Wanted(kind, parameters) = std::mem::replace(&mut start.replication, Replication::No) else {
            return;
        };
        if kind == Kind::Physical
            && let Some(name) = self.name_for_cluster(&start.database)
        {
            start.database = name;
        }
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        let pool_id = match self.pool_with(shards, &start.user, &start.database, &start.shown) {
            Ok(pool_id) => pool_id,
            Err(failure) => {
                self.end_session(io, id, Some(&failure));
                return;
            }
        };
        if !self.take_seat(io, id, pool_id, &start) {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.phase = Phase::Replicating(kind);
        session.place = Place::Waiting;
        session.waiting_since = io.now();
        self.replicas.push_back(Candidate { session: id, kind, parameters });
        self.on_replica_tick(io);
        self.hurry(io);
    }

    /// Physical replication is of no database. What stands for one (`replication`, or the user's name) need not be configured
    /// where all databases are of one cluster.
    fn name_for_cluster(&self, name: &str) -> Option<String> {
        let (first, others) = self.places.split_first()?;
        let only = others.iter().all(|other| other == first);
        let unknown = self.config.database(name).is_none();
        self.config.databases.first().filter(|_| only && unknown).map(|database| database.name.clone())
    }

    /// Those that wait get their connections, if they may.
    pub(crate) fn on_replica_tick(&mut self, io: &mut World<'_>) {
        for candidate in std::mem::take(&mut self.replicas) {
            let waits = self.try_replica(io, candidate);
            self.replicas.extend(waits);
        }
    }

    /// Gives the candidate back if it must wait.
    fn try_replica(&mut self, io: &mut World<'_>, candidate: Candidate) -> Option<Candidate> {
        let id = candidate.session;
        let session = self.sessions.get(id).filter(|session| session.place == Place::Waiting)?;
        let (pool_id, since) = (session.pool, session.waiting_since);
        let pool = self.pool(pool_id)?;
        let waited = io.now().saturating_duration_since(since);
        if self.draining.is_some() {
            self.end_session(io, id, Some(&Failure::Shutdown));
            return None;
        }
        if waited >= pool.settings.query_wait_timeout {
            self.end_session(io, id, Some(&Failure::Limited(Limited::Replication { waited })));
            return None;
        }
        let resting = pool.retry.not_before.is_some_and(|at| at > io.now());
        if pool.paused || resting {
            return Some(candidate);
        }
        let own = Claim { since_us: self.board.us(since), held: 0 };
        match self.take_slot_beside(io, pool_id, own) {
            Some(slot) => {
                self.dial_replica(io, pool_id, candidate, slot);
                None
            }
            None => Some(candidate),
        }
    }

    fn dial_replica(&mut self, io: &mut World<'_>, pool_id: PoolId, candidate: Candidate, slot: Slot) {
        let (now, serial) = (io.now(), self.next_serial(io));
        let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
        let Candidate { session: session_id, kind, parameters } = candidate;
        let Some(place) = pool.fates.choose(&pool.target.places, now).cloned() else {
            let last_error = "its host name cannot be looked up".to_owned();
            let failure = Failure::UpstreamDown { address: pool.target.whereabouts(), last_error };
            self.end_session(io, session_id, Some(&failure));
            return;
        };
        let mut failed = None;
        let inserted = self.servers.insert_with(|id| {
            let socket = io.connect(&place.address, id.token(TokenKind::Server)).unwrap_or_else(|error| {
                failed = Some(error.to_string());
                SocketId::NONE
            });
            let mut server = Server::dialled(pool_id, socket, ServerLogin::bare(&pool.target), now);
            server.give_up_at = Some(now + pool.settings.server_connect_timeout);
            server.hop = Hop::first(pool.target.tls_at(&place), pool.way);
            server.address = place.address;
            server.serial = serial;
            server.user = pool.target.user.as_str().into();
            server.generation = pool.generation;
            server.slot = Some(slot);
            server.list = List::Relaying;
            server.holder = Some(session_id);
            let (to_client, to_server) = Default::default();
            let relay = Relay { session: session_id, kind, parameters, to_client, to_server };
            server.relay = Some(Box::new(relay));
            server
        });
        let Some(id) = inserted else {
            let what = "too many server connections".to_owned();
            self.end_session(io, session_id, Some(&Failure::Internal { what }));
            return;
        };
        if let Some(session) = self.sessions.get_mut(session_id) {
            session.place = Place::Exclusive(id);
        }
        if let Some(error) = failed {
            self.end_relay(io, id, None, error);
        }
        self.hurry(io);
    }

    /// The backend is ready: its client is told so, and from now on they are by themselves.
    pub(crate) fn begin_relay(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let Some(session) = server.relay.as_ref().map(|relay| relay.session) else { return };
        server.login = None;
        server.give_up_at = None;
        server.opened_at = io.now();
        let (parameters, pool) = (std::mem::take(&mut server.parameters), server.pool);
        if let Some(pool) = self.pools.get_mut(pool.0 as usize) {
            pool.fates.succeeded(&server.address);
        }
        self.on_connect_done(pool);
        self.write_welcome(io, session, &parameters);
    }

    /// Bytes of PostgreSQL's go to the client.
    pub(crate) fn relay_to_client(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let Some(relay) = server.relay.as_mut() else { return };
        let Some(session) = self.sessions.get_mut(relay.session) else { return };
        relay.to_client.pass(bytes);
        session.active_at = io.now();
        io.output(session.socket).extend_from_slice(bytes);
        self.stats.bytes_out += bytes.len() as u64;
        let high_water = if self.board.memory.is_short() { LOW_WATER } else { CLIENT_HIGH_WATER };
        if server.flow == Flow::Open && io.output_len(session.socket) > high_water {
            server.flow = Flow::Paused;
            server.stalled_since = io.now();
            io.pause(server.socket);
            io.notify_drained(session.socket);
        }
    }

    /// Bytes of the client's go to PostgreSQL, as soon as that is ready for them.
    pub(crate) fn relay_to_server(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId) {
        let (Some(session), Some(server)) = (self.sessions.get_mut(id), self.servers.get_mut(server_id)) else {
            return;
        };
        let Some(relay) = server.relay.as_mut().filter(|_| server.login.is_none()) else { return };
        if session.input.is_empty() || io.output_len(server.socket) > SERVER_HIGH_WATER {
            return;
        }
        let bytes = std::mem::take(&mut session.input);
        relay.to_server.pass(&bytes);
        server.head_since = io.now();
        io.output(server.socket).extend_from_slice(&bytes);
        if let Some(pool) = self.pools.get_mut(server.pool.0 as usize) {
            pool.stats.bytes_to_server += bytes.len() as u64;
        }
        if io.output_len(server.socket) > SERVER_HIGH_WATER && session.flow == Flow::Open {
            session.flow = Flow::Paused;
            io.pause(session.socket);
            io.notify_drained(server.socket);
        }
    }

    /// Whether a message for this client has begun and not ended: what it were told now would be taken for the rest of it.
    pub(crate) fn is_within_message(&self, id: SessionId) -> bool {
        let Some(Place::Exclusive(server)) = self.sessions.get(id).map(|session| session.place) else { return false };
        let relay = self.servers.get(server).and_then(|server| server.relay.as_ref());
        relay.is_some_and(|relay| !relay.to_client.is_between())
    }

    /// Of a replication client: whether what it has sent ends with a message's end.
    pub(crate) fn relayed_so_far(&self, id: SessionId) -> Option<bool> {
        let session = self.sessions.get(id)?;
        let Place::Exclusive(server) = session.place else { return None };
        let mut boundary = self.servers.get(server)?.relay.as_ref()?.to_server;
        boundary.pass(&session.input);
        Some(boundary.is_between())
    }

    /// The client has gone: PostgreSQL is told goodbye, if it would understand that.
    pub(crate) fn leave_relay(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.holder = None;
        let clean = server.login.is_none() && server.relay.as_ref().is_some_and(|relay| relay.to_server.is_between());
        if !clean {
            server.tail = Tail::Torn;
        }
        server.login = None;
        self.retire(io, id);
    }

    /// The server connection has ended, or is of no use. A login that may succeed another way is tried again.
    pub(crate) fn end_relay(&mut self, io: &mut World<'_>, id: ServerId, refusal: Option<Refusal>, error: String) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let (pool_id, socket) = (server.pool, server.socket);
        let logging_in = server.login.is_some();
        let Some(relay) = server.relay.as_mut() else { return };
        let (session, kind) = (relay.session, relay.kind);
        let parameters = std::mem::take(&mut relay.parameters);
        let address = server.address.to_string();
        let mut again = logging_in && self.try_otherwise(id, refusal.as_ref());
        // that all senders are taken says nothing of the place
        let elsewhere = |refusal: &Refusal| refusal.sqlstate.starts_with("57P");
        if logging_in && !again && refusal.as_ref().is_none_or(elsewhere) {
            // another place of the same database may do
            self.blame(io, id);
            again = self.has_another_place(io, pool_id);
        }
        io.close(socket);
        self.forget_server(io, id);
        if again {
            if let Some(waiting) = self.sessions.get_mut(session) {
                waiting.place = Place::Waiting;
                self.replicas.push_back(Candidate { session, kind, parameters });
            }
            return;
        }
        if !logging_in {
            // whatever there was to say PostgreSQL has said
            self.end_session(io, session, None);
            return;
        }
        let failure = match refusal {
            Some(Refusal { sqlstate, message }) => Failure::UpstreamRefused { sqlstate, message },
            None => Failure::UpstreamDown { address, last_error: error },
        };
        self.end_session(io, session, Some(&failure));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replication_is_asked_for_in_postgresqls_words() {
        for word in ["true", "TRUE", "t", "yes", "y", "on", "1"] {
            assert_eq!(wanted(word.as_bytes()), Ok(Some(Kind::Physical)), "{word}");
        }
        for word in ["false", "f", "no", "n", "off", "of", "0"] {
            assert_eq!(wanted(word.as_bytes()), Ok(None), "{word}");
        }
        assert_eq!(wanted(b"database"), Ok(Some(Kind::Logical)));
        for word in ["", "o", "2", "10", "truee", "Database", "data"] {
            assert!(wanted(word.as_bytes()).is_err(), "{word}");
        }
    }

    #[test]
    fn a_boundary_is_found_however_the_bytes_are_cut() {
        let stream = b"Z\0\0\0\x05Id\0\0\0\x0812349\0\0\0\x04";
        for size in 1..=stream.len() {
            let mut boundary = Boundary::default();
            let mut between = Vec::new();
            let mut at = 0;
            for part in stream.chunks(size) {
                boundary.pass(part);
                at += part.len();
                assert_eq!(boundary.is_between(), [6, 15, 20].contains(&at), "{at} in steps of {size}");
                between.extend(boundary.is_between().then_some(at));
            }
            assert_eq!(between.last(), Some(&stream.len()));
        }
        let mut broken = Boundary::default();
        broken.pass(b"d\0\0\0\0d\0\0\0\x04");
        assert!(!broken.is_between());
    }
}
