//! One server connection and its queue of requests in flight.
//!
//! Postgres answers one connection strictly in order, so a connection is a pipe: requests go in at the tail and every reply
//! belongs to the head. A pipe is *exclusive* (one session's, while its transaction lasts) or *shared* (self-contained reads
//! of many sessions, back to back). Which it is is told by the list it sits in ([`List`]); only the pool moves it.
//!
//! Lives on one shard. It knows the protocol's queue ([`dbproto::pipeline`]) and what its connection wears, has prepared and
//! may have been left with; it does not know clients' bytes or the socket's.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use dbproto::message::backend::TransactionStatus;
use dbproto::pipeline::Pipeline;
use runtime::{Address, ShardId, SocketId};

use crate::bound::Slot;
use crate::deadline::Watched;
use crate::dress::Dress;
use crate::listen::{Listening, Passage};
use crate::memory::Share;
use crate::pool::{Parameter, PoolId};
use crate::probe::Findings;
use crate::replication::Relay;
use crate::server::login::ServerLogin;
use crate::server::secure::Hop;
use crate::session::login::reading;
use crate::session::{Reading, SessionId};
use crate::slab::Key;
use crate::statement::{PreparedSet, StatementId};
use crate::stopwatch::Flights;

mod mark;

pub(crate) use mark::{MARK_ID_MASK, Mark};

/// Names a server connection on its shard.
pub(crate) type ServerId = Key<Server>;

/// Values that a server reports; PostgreSQL has about fifteen, extensions may add some.
const PARAMETERS_MAX: usize = 128;
/// Longest name and value of one.
const PARAMETER_LEN_MAX: usize = 16 * 1024;

/// Whose request it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Session(SessionId),
    /// A session's that has left, was cancelled or was issued again elsewhere: the reply is swallowed.
    Orphan,
}

/// How far a reply has gone to its client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Delivery {
    /// Nothing was forwarded.
    Nothing,
    /// Something was forwarded: the request cannot be issued again.
    Begun,
}

/// Settings that travel with a request, because its pipe wears others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Luggage {
    /// None, or Postgres has accepted them.
    Done,
    /// They stand before the request, and Postgres has not accepted them yet.
    Ahead,
}

/// One request in flight on a shared pipe. It ends with the ReadyForQuery it is owed.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) owner: Owner,
    pub(crate) written_at: Instant,
    pub(crate) delivery: Delivery,
    pub(crate) luggage: Luggage,
}

/// The list of its pool a server connection sits in: this is its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum List {
    /// Connecting or logging in.
    Connecting,
    /// Nothing owed, free for anyone; may need cleaning or dressing first.
    Idle,
    /// Carries shared requests and takes more.
    Shared,
    /// Carries shared requests and takes no more until everything owed has arrived.
    Draining,
    /// Held by one session.
    Exclusive,
    /// Busy with something of ours: dressing, cleaning, rolling back.
    Working,
    /// A replication client's own, from its beginning to its end; see [`crate::replication`].
    Relaying,
    /// On its way to another shard, with its permit.
    Leaving(ShardId),
    /// Told to go; its permit comes back when the backend is gone.
    Closing,
}

impl List {
    /// Whether a connection in it is in use: for sessions, or being made ready for one.
    pub(crate) const fn is_in_use(self) -> bool {
        match self {
            Self::Shared | Self::Draining | Self::Exclusive | Self::Working => true,
            Self::Connecting | Self::Idle | Self::Relaying | Self::Leaving(_) | Self::Closing => false,
        }
    }
}

/// How a long message is being passed on while it arrives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Streaming {
    /// No long message is under way.
    None,
    /// So many bytes of it still go to a session.
    Forward(SessionId, usize),
    /// So many bytes of it are swallowed.
    Swallow(usize),
}

/// A cancel of what runs on this connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Cancel {
    /// None is under way.
    None,
    /// The cancel connection is open: nothing new is written until it has ended and all replies are in.
    UnderWay,
}

/// What sessions may have left behind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Soil {
    /// Nothing: proven by what ran.
    Clean,
    /// Session-local sequence values.
    Sequences,
    /// Anything.
    Unknown,
}

/// What a connection in [`List::Working`] is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    /// `DISCARD ALL`, for nobody in particular.
    Clean,
    /// Anything else.
    Other,
}

/// Whether Postgres has said that it will end a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Goodbye {
    NotSaid,
    Said,
    /// And the client whose connection it is has been told so.
    ToldClient,
}

/// Whether the last message written to a connection is there whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tail {
    Whole,
    /// Its client has left in the middle of it.
    Torn,
}

/// Whether a connection has been asked what its session has left there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// Yes, and nothing has run there since.
    Since,
    /// Not since something ran that may have changed the answer.
    NotSince,
}

/// Where the random numbers of a connection come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seed {
    /// Postgres chose.
    Random,
    /// A session may have chosen.
    Chosen,
}

/// Why a connection's own work failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WorkFailure {
    pub(crate) during: Mark,
    pub(crate) sqlstate: String,
    pub(crate) message: String,
}

/// A server connection. See the module documentation.
pub(crate) struct Server {
    pub(crate) pool: PoolId,
    /// Its number in the whole process, for the console.
    pub(crate) serial: u32,
    /// Where it goes.
    pub(crate) address: Address,
    /// As whom it has logged in.
    pub(crate) user: Box<str>,
    /// Which generation of its pool's connections it is of; see [`crate::pool::Pool::generation`].
    pub(crate) generation: u64,
    /// Its place within the bounds of all shards.
    pub(crate) slot: Option<Slot>,
    pub(crate) socket: SocketId,
    pub(crate) hop: Hop,
    pub(crate) list: List,
    /// If it is a replication client's. Then it is none of its pool's.
    pub(crate) relay: Option<Box<Relay>>,
    /// While it is in [`List::Connecting`].
    pub(crate) login: Option<Box<ServerLogin>>,
    /// While it is in [`List::Exclusive`]; none when the holder has left and its replies are swallowed.
    pub(crate) holder: Option<SessionId>,
    /// Who had it last.
    pub(crate) last_session: Option<SessionId>,
    /// The waiting session this connection is being made ready for.
    pub(crate) promised: Option<SessionId>,
    pub(crate) work_failure: Option<WorkFailure>,
    pub(crate) work: Work,
    pub(crate) tail: Tail,
    pub(crate) said_goodbye: Goodbye,
    /// While it is asked what its session has left there.
    pub(crate) findings: Option<Box<Findings>>,
    /// Whether something may have changed what it would find.
    pub(crate) asked: Asked,
    /// Whether it listens for its session.
    pub(crate) listening: Listening,
    /// While that moves to or from the line.
    pub(crate) passage: Option<Box<Passage>>,
    pub(crate) pipeline: Pipeline,
    /// What is known of the times of the requests that a ReadyForQuery is owed for.
    pub(crate) flights: Flights,
    pub(crate) in_flight: VecDeque<InFlight>,
    pub(crate) status: TransactionStatus,
    pub(crate) prepared: PreparedSet,
    /// Numbers the spans between Syncs; see [`PreparedSet::preparation`].
    pub(crate) group: u64,
    /// Which statement is the unnamed one on the connection.
    pub(crate) unnamed: ServerUnnamed,
    pub(crate) dress: Rc<Dress>,
    pub(crate) soil: Soil,
    /// How often something was written that may leave anything, and how often when `DISCARD ALL` was.
    pub(crate) soiled: u64,
    pub(crate) discarded_at: u64,
    pub(crate) seed: Seed,
    /// Reads in a row that could have been shared on a clean connection.
    pub(crate) dirty_reads: u32,
    /// A statement of the running transaction has changed the system catalog.
    pub(crate) catalog_touched: bool,
    /// Bytes of the reply at the head so far.
    pub(crate) reply_len: usize,
    /// The question what a statement gives, for which its holder waits.
    pub(crate) question: Question,
    /// Names to close after the present group (see `session::write`).
    pub(crate) leftovers: Vec<Box<[u8]>>,
    /// Values the server reported.
    pub(crate) parameters: Vec<Parameter>,
    /// How texts read under them.
    pub(crate) reading: Reading,
    pub(crate) input: BytesMut,
    /// What its input is counted as.
    pub(crate) share: Share,
    pub(crate) streaming: Streaming,
    pub(crate) cancel: Cancel,
    /// BackendKeyData, for cancels.
    pub(crate) key: Option<(u32, Vec<u8>)>,
    pub(crate) opened_at: Instant,
    /// So much sooner than others of its pool it is too old.
    pub(crate) early: Duration,
    /// Since when it is free, or, held by a session, since when nothing is owed.
    pub(crate) idle_since: Instant,
    /// Since when it is in use, if it is.
    pub(crate) used_since: Instant,
    /// When the transaction began that is open between two requests.
    pub(crate) block_since: Option<Instant>,
    /// Since when the reply at the head is due.
    pub(crate) head_since: Instant,
    /// Since when its holder's transaction runs.
    pub(crate) busy_since: Option<Instant>,
    /// When it was last held back for a client that does not read.
    pub(crate) stalled_since: Instant,
    /// When what runs was cancelled because it took too long.
    pub(crate) timed_out: Option<Instant>,
    pub(crate) watched: Watched,
    /// When a connection in [`List::Connecting`] or [`List::Closing`] is given up.
    pub(crate) give_up_at: Option<Instant>,
    pub(crate) flow: Flow,
}

/// A question whose answer a session waits for in the middle of its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Question {
    None,
    Asked,
    Answered,
}

/// Which statement is the unnamed one on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ServerUnnamed {
    /// None, for certain.
    Absent,
    /// This one.
    Is(StatementId),
    /// Nobody knows: an error or a message too long to keep came between.
    Unknown,
}

/// What a connection did before something was written to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Before {
    Idle,
    Busy,
}

/// Whether bytes are taken from a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flow {
    /// Yes.
    Open,
    /// Not until the other side has drained.
    Paused,
}

impl Server {
    /// A connection that has just been dialled.
    pub(crate) fn dialled(pool: PoolId, socket: SocketId, login: ServerLogin, now: Instant) -> Self {
        let mut server = Self::new(pool, socket, now);
        server.login = Some(Box::new(login));
        server
    }

    /// A connection as Postgres gives it, in no list of its pool yet.
    pub(crate) fn new(pool: PoolId, socket: SocketId, now: Instant) -> Self {
        Self {
            pool,
            serial: 0,
            address: Address::Unix(PathBuf::new()),
            user: Box::default(),
            generation: 0,
            slot: None,
            socket,
            hop: Hop::Clear,
            list: List::Connecting,
            relay: None,
            login: None,
            holder: None,
            last_session: None,
            promised: None,
            work_failure: None,
            work: Work::Other,
            tail: Tail::Whole,
            said_goodbye: Goodbye::NotSaid,
            findings: None,
            asked: Asked::Since,
            listening: Listening::No,
            passage: None,
            pipeline: Pipeline::new(),
            flights: Flights::default(),
            in_flight: VecDeque::new(),
            status: TransactionStatus::Idle,
            prepared: PreparedSet::default(),
            group: 0,
            unnamed: ServerUnnamed::Absent,
            dress: Rc::default(),
            soil: Soil::Clean,
            soiled: 0,
            discarded_at: 0,
            seed: Seed::Random,
            dirty_reads: 0,
            catalog_touched: false,
            reply_len: 0,
            question: Question::None,
            leftovers: Vec::new(),
            parameters: Vec::new(),
            reading: Reading::Unusual,
            input: BytesMut::new(),
            share: Share::default(),
            streaming: Streaming::None,
            cancel: Cancel::None,
            key: None,
            opened_at: now,
            early: Duration::ZERO,
            idle_since: now,
            used_since: now,
            block_since: None,
            head_since: now,
            busy_since: None,
            stalled_since: now,
            timed_out: None,
            watched: Watched::No,
            give_up_at: None,
            flow: Flow::Open,
        }
    }

    /// Whether it has lived for so long, with its part of chance.
    pub(crate) fn is_older(&self, now: Instant, lifetime: Duration) -> bool {
        now.saturating_duration_since(self.opened_at) + self.early >= lifetime
    }

    /// It has come from another list; gives for how long it had been in use, if its use is over.
    pub(crate) fn note_use(&mut self, now: Instant, from: List) -> Duration {
        match (from.is_in_use(), self.list.is_in_use()) {
            (true, false) => return now.saturating_duration_since(self.used_since),
            (false, true) => self.used_since = now,
            (true, true) | (false, false) => {}
        }
        Duration::ZERO
    }

    /// A request has ended; its status stands already.
    pub(crate) fn note_ready(&mut self, now: Instant) {
        self.head_since = now;
        if self.status == TransactionStatus::Idle {
            self.busy_since = (!self.pipeline.is_empty()).then_some(now);
        }
        if self.cancel == Cancel::None {
            self.timed_out = None;
        }
    }

    /// Something was written for its holder.
    pub(crate) fn note_written(&mut self, now: Instant, before: Before) {
        if before == Before::Idle {
            self.head_since = now;
        }
        self.busy_since.get_or_insert(now);
    }

    /// Requests in flight.
    pub(crate) fn depth(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether nothing is owed and nothing is half sent or half read.
    pub(crate) fn is_quiet(&self) -> bool {
        self.pipeline.is_empty()
            && !self.pipeline.is_open()
            && self.in_flight.is_empty()
            && self.streaming == Streaming::None
            && self.input.is_empty()
            && self.cancel == Cancel::None
    }

    /// Whether it works for whole requests only, and will be quiet when they are answered.
    pub(crate) fn is_finishing(&self) -> bool {
        !self.pipeline.is_empty() && !self.pipeline.is_open() && self.cancel == Cancel::None
    }

    /// Whether it has begun a message that nobody asked for, other than those that may come at any time.
    pub(crate) fn has_begun_unasked(&self) -> bool {
        self.login.is_none()
            && self.pipeline.is_empty()
            && self.streaming == Streaming::None
            && self.input.first().is_some_and(|tag| !matches!(tag, b'A' | b'E' | b'N' | b'S'))
    }

    /// The session the next reply is for, if it is for one.
    pub(crate) fn head_session(&self) -> Option<SessionId> {
        match self.in_flight.front() {
            Some(InFlight { owner: Owner::Session(session), .. }) => Some(*session),
            Some(InFlight { owner: Owner::Orphan, .. }) => None,
            None => self.holder,
        }
    }

    /// `DISCARD ALL` has been done.
    pub(crate) fn forget_everything(&mut self) {
        self.prepared.clear();
        self.unnamed = ServerUnnamed::Absent;
        self.dress = Rc::default();
        self.dirty_reads = 0;
        self.soil = Soil::Clean;
        self.listening = Listening::No;
    }

    /// PostgreSQL's release: 15, 18.
    pub(crate) fn major(&self) -> Option<u32> {
        let (_, value) = self.parameters.iter().find(|(name, _)| **name == *b"server_version")?;
        let digits = value.split(|byte| !byte.is_ascii_digit()).next()?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Notes a value the server reported; gives the one before. What is more than servers report is not kept.
    pub(crate) fn set_parameter(&mut self, name: &[u8], value: &[u8]) -> Option<Box<[u8]>> {
        if name.len() + value.len() > PARAMETER_LEN_MAX {
            return None;
        }
        let full = self.parameters.len() >= PARAMETERS_MAX;
        let before = match self.parameters.iter_mut().find(|(n, _)| **n == *name) {
            Some((_, old)) => Some(std::mem::replace(old, value.into())),
            None if full => return None,
            None => {
                self.parameters.push((name.into(), value.into()));
                None
            }
        };
        self.reading = reading(&self.parameters);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_made_together_do_not_end_together() {
        let now = Instant::now();
        let mut server = Server::new(PoolId(0), SocketId::NONE, now);
        let (age, lifetime) = (Duration::from_secs(95), Duration::from_secs(100));
        assert!(!server.is_older(now + age, lifetime));
        server.early = Duration::from_secs(5);
        assert!(server.is_older(now + age, lifetime));
    }

    #[test]
    fn a_connection_is_in_use_from_leaving_the_free_ones_to_coming_back() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut server = Server::new(PoolId(0), SocketId::NONE, start);
        let used: Vec<_> = [
            (10, List::Idle),
            (20, List::Working),
            (30, List::Exclusive),
            (100, List::Idle),
            (150, List::Shared),
            (170, List::Closing),
        ]
        .into_iter()
        .map(|(ms, list)| {
            let from = std::mem::replace(&mut server.list, list);
            server.note_use(at(ms), from).as_millis()
        })
        .collect();
        assert_eq!(used, [0, 0, 0, 80, 0, 20]);
    }

    #[test]
    fn the_release_is_read_from_what_the_server_reports() {
        let mut server = Server::new(PoolId(0), SocketId::NONE, Instant::now());
        assert_eq!(server.major(), None);
        for (reported, major) in
            [("15.18 (Debian 15.18-0+deb12u1)", Some(15)), ("18.4", Some(18)), ("19devel", Some(19)), ("x", None)]
        {
            server.set_parameter(b"server_version", reported.as_bytes());
            assert_eq!(server.major(), major, "{reported}");
        }
    }
}
