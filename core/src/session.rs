//! A client's logical life: who it is, what it has prepared and set, where its request is.
//!
//! `login` lets it in, `request` finds out what it asks for, `write` puts that on a server connection. Lives on one shard.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use dbproto::auth::Credentials;
use dbproto::auth::server::{Secret, ServerAuth};
use dbproto::pipeline::Pipeline;
use runtime::{ShardId, SocketId};

use crate::admin::Record;
use crate::admin::console::Console;
use crate::bound::Seat;
use crate::cancel::{CancelSecret, SecretLen};
use crate::clerk::Role;
use crate::dress::Dress;
use crate::listen::Ears;
use crate::memory::Share;
use crate::pipe::{Flow, ServerId};
use crate::pool::PoolId;
use crate::replication::{Kind, Replication};
use crate::session::parting::Coming;
use crate::session::secure::{Asked, Transport};
use crate::session::setting::Setting;
use crate::shard::Admission;
use crate::slab::Key;
use crate::statement::Statement;
use crate::tally::Account;

mod admit;
pub(crate) mod chronicle;
mod hazard;
pub(crate) mod login;
pub(crate) mod parting;
pub(crate) mod request;
pub(crate) mod secure;
pub(crate) mod setting;
mod sweep;
pub(crate) mod write;

/// Names a session on its shard.
pub(crate) type SessionId = Key<Session>;

/// How far a client has come.
pub(crate) enum Phase {
    /// Its start-up packet has not come.
    Startup,
    /// It is proving who it is.
    Authenticating(Box<Authenticating>),
    /// It waits to be told the server's parameters.
    Welcoming,
    /// It may send requests.
    Ready,
    /// It uses the console.
    Console(Box<Console>),
    /// It has, or waits for, a server connection that is its own; see [`crate::replication`].
    Replicating(Kind),
    /// Another shard will serve it.
    Leaving(Box<(ShardId, Start)>),
}

/// A login that is under way.
pub(crate) struct Authenticating {
    pub(crate) machine: Machine,
    pub(crate) start: Start,
    /// What is known of the user, as soon as it is.
    pub(crate) role: Option<Role>,
    pub(crate) gate: Gate,
}

/// What a login waits for.
pub(crate) enum Machine {
    /// To be told who the user is.
    Looking(Way),
    /// For a message of an exchange.
    Exchange(ServerAuth),
    /// For the password in clear text.
    Cleartext(Secret),
    /// To be told whether that was right.
    Checking,
}

/// How a client is asked who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    Trust,
    /// By whatever is known of its password.
    Own,
    Scram,
    /// As `Own`, and by MD5 where the password itself is known.
    Md5,
    Cleartext,
    Peer,
}

/// Whether what a client sends to prove itself may be looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Gate {
    /// That is not decided yet.
    Closed,
    /// Not before then.
    OpensAt(Instant),
}

/// What a start-up packet asked for.
pub(crate) struct Start {
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) settings: Vec<(String, String)>,
    /// What it has logged in with.
    pub(crate) shown: Credentials,
    /// What its protocol knows of cancel keys.
    pub(crate) secret_len: SecretLen,
    /// Whether, and with what, it asks for replication.
    pub(crate) replication: Replication,
}

/// Where a session's request is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// It has none.
    Idle,
    /// It waits for a server connection.
    Waiting,
    /// A server connection is being made ready for it.
    Promised(ServerId),
    /// It is on a shared pipe; its bytes are still at the front of the input.
    Shared(ServerId),
    /// It holds a server connection.
    Exclusive(ServerId),
}

/// The session's unnamed statement.
pub(crate) enum Unnamed {
    /// There is none.
    Absent,
    /// This one; it can be prepared anywhere.
    Is(Rc<Statement>),
    /// One too long to keep; it lives on the server connection the session holds.
    OnServer,
}

/// A change to the session's statements whose answer is outstanding, in the order sent.
pub(crate) enum Change {
    /// A Parse made this name.
    Added(Box<[u8]>),
    /// A Close took this name away.
    Removed(Box<[u8]>, Rc<Statement>),
    /// A Parse or Close took the place of this unnamed one.
    Unnamed(Unnamed),
}

impl Change {
    /// The name it is about, if there is one.
    pub(crate) const fn name(&self) -> Option<&[u8]> {
        match self {
            Self::Added(name) | Self::Removed(name, _) => Some(name),
            Self::Unnamed(_) => None,
        }
    }

    /// It did not happen.
    pub(crate) fn undo(self, session: &mut Session) {
        match self {
            Self::Added(name) => {
                session.statements.remove(&name);
            }
            Self::Removed(name, statement) => {
                session.statements.insert(name, statement);
            }
            Self::Unnamed(unnamed) => session.unnamed_was(unnamed),
        }
    }
}

/// Why a session keeps its server connection beyond a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pin {
    /// It does not.
    No,
    /// It has state there that cannot be carried to another connection and that only its end or `DISCARD ALL` takes away;
    /// what, for the statistics.
    Because(&'static str),
    /// Postgres has been asked and such state found; it may go away.
    Found(&'static str),
}

/// Whether a session has left something on its home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// Nothing that its texts show.
    Unlikely,
    /// They look as if: without its home the session cannot go on as if nothing had happened.
    Likely,
}

/// What a Query that changes prepared statements will have done when it completes.
pub(crate) enum Deallocating {
    /// Nothing of the kind is under way.
    No,
    /// `DEALLOCATE name`.
    Name(Box<[u8]>),
}

/// By which names the session's prepared statements go on its server connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Naming {
    /// By ours, so that it can move.
    Ours,
    /// By its own, because its SQL names them too.
    Own,
}

/// Whether the request that runs takes settings back to their beginnings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Resetting {
    No,
    Yes,
}

/// Whether further messages of the client's may be written while the last one is unanswered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Barrier {
    /// Yes.
    Open,
    /// No: the last one changes what later ones mean.
    UntilReady,
    /// No: whether its statement still gives what it was told is being asked.
    UntilKnown,
}

/// What becomes of a request whose statement, as Postgres finds, gives something else than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Healing {
    /// The client is told.
    No,
    /// It asks what it will be given, so its statement can be prepared anew and the request issued again. Its bytes, unless
    /// they are still in the input.
    Possible(Box<[u8]>),
    /// That happens as soon as Postgres has passed over what was sent.
    Due(Box<[u8]>),
}

/// How much of the client's input is passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Skip {
    /// Nothing.
    No,
    /// The rest of the message that is arriving: it was answered with an error.
    Message,
    /// Everything up to the next Sync: the request was answered with an error.
    ToSync,
}

/// Whether the session's texts read as SQL usually does (`standard_conforming_strings`, `client_encoding`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reading {
    Usual,
    /// Nothing is concluded from them.
    Unusual,
}

/// How a session's settings may come to a shared pipe that wears others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carrying {
    /// With each request.
    Along,
    /// Only worn by the connection: they were refused once when they came along.
    Worn,
}

/// Whether a request is known to be fast and small.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Weight {
    /// Its kind has been seen to be.
    Light,
    /// It is not, or not known to be: nobody is to wait behind it.
    Unknown,
}

/// A proven read. It may stand between requests of other sessions if it is light, and can be issued again as long as nothing
/// of its reply was forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shareable {
    pub(crate) len: usize,
    pub(crate) kind: u64,
    /// Of its text; see [`crate::tally`].
    pub(crate) fingerprint: u64,
    pub(crate) weight: Weight,
    /// The state of the catalog it was proven by.
    pub(crate) catalog_state: u64,
}

impl Shareable {
    pub(crate) fn is_light(&self) -> bool {
        self.weight == Weight::Light
    }
}

/// A client connection.
pub(crate) struct Session {
    pub(crate) socket: SocketId,
    /// The secret of its cancel key.
    pub(crate) secret: CancelSecret,
    /// The process id it was told, if that is a backend's; see [`crate::cancel::told`].
    pub(crate) told: Option<u32>,
    /// Where the client is; none for the Unix socket.
    pub(crate) peer: Option<IpAddr>,
    /// Which user of this machine it is; none by TCP.
    pub(crate) uid: Option<u32>,
    pub(crate) transport: Transport,
    /// What its proof of who it is may be bound to, until it is let in.
    pub(crate) channel: Option<Arc<[u8]>>,
    /// The common name of its certificate, until it is let in.
    pub(crate) certified: Option<Box<str>>,
    pub(crate) phase: Phase,
    pub(crate) admission: Admission,
    pub(crate) place: Place,
    pub(crate) pool: PoolId,
    /// Its place among the clients of its database and user.
    pub(crate) seat: Option<Seat>,
    pub(crate) user: Box<str>,
    /// The settings of its start-up packet.
    pub(crate) login_dress: Rc<Dress>,
    /// The settings its requests run under.
    pub(crate) dress: Rc<Dress>,
    pub(crate) carrying: Carrying,
    pub(crate) statements: HashMap<Box<[u8]>, Rc<Statement>, foldhash::fast::RandomState>,
    pub(crate) changes: VecDeque<Change>,
    pub(crate) unnamed: Unnamed,
    pub(crate) deallocating: Deallocating,
    pub(crate) naming: Naming,
    pub(crate) resetting: Resetting,
    pub(crate) pin: Pin,
    /// The connection on which something may be left that belongs to this session; nobody else has it unless Postgres has
    /// been asked what is there.
    pub(crate) home: Option<ServerId>,
    pub(crate) left: Left,
    /// What a line listens to for it, and what it is still to be told.
    pub(crate) ears: Option<Box<Ears>>,
    /// Settings of users' own that it has named.
    pub(crate) custom: Vec<Box<str>>,
    pub(crate) barrier: Barrier,
    pub(crate) healing: Healing,
    /// Changes of settings that are under way, and how many of them Postgres has accepted.
    pub(crate) settings: Vec<Setting>,
    pub(crate) settings_done: usize,
    /// The request at the front of the input, if it is a proven read.
    pub(crate) shareable: Option<Shareable>,
    /// The kind of the request that runs, for [`crate::pace`]; 0 for none.
    pub(crate) kind: u64,
    /// What is counted by statement.
    pub(crate) account: Account,
    /// How its statements read.
    pub(crate) reading: Reading,
    pub(crate) skip: Skip,
    /// Whether it will send more.
    pub(crate) coming: Coming,
    pub(crate) input: BytesMut,
    /// What its input is counted as.
    pub(crate) share: Share,
    /// Bytes of a long message that are still to be passed on to the server connection.
    pub(crate) stream_left: usize,
    /// The end of what has passed of a long Query.
    pub(crate) tail: Option<Vec<u8>>,
    pub(crate) waiting_since: Instant,
    /// When its last bytes came, and when those of the request did that is the next to be written.
    pub(crate) came_at: Instant,
    pub(crate) arrived_at: Instant,
    /// How often the connection was lost under the request that runs.
    pub(crate) losses: u32,
    /// When it last sent something or was answered.
    pub(crate) active_at: Instant,
    pub(crate) flow: Flow,
    pub(crate) record: Record,
    /// Why it leaves, where the log is to tell.
    pub(crate) farewell: Option<Box<str>>,
}

impl Session {
    /// What its unnamed statement is before the next change of it that is outstanding.
    pub(crate) fn unnamed_was(&mut self, unnamed: Unnamed) {
        let next = self.changes.iter_mut().find_map(|change| match change {
            Change::Unnamed(before) => Some(before),
            Change::Added(_) | Change::Removed(..) => None,
        });
        *next.unwrap_or(&mut self.unnamed) = unnamed;
    }

    /// What the barrier stands for is not going to be answered: an error came before it, and Postgres passes over everything up
    /// to the Sync, which the client may go on to send.
    pub(crate) fn lift_vain_barrier(&mut self, pipeline: &Pipeline) {
        if self.barrier == Barrier::UntilReady && pipeline.ready_count() == 0 {
            self.barrier = Barrier::Open;
            self.deallocating = Deallocating::No;
            self.resetting = Resetting::No;
        }
    }

    /// Whether how the request ends that is written decides what comes behind it means.
    pub(crate) fn changes_meaning(&self) -> bool {
        !self.settings.is_empty() || self.resetting == Resetting::Yes || self.healing != Healing::No
    }

    /// A client that has just connected.
    pub(crate) fn accepted(socket: SocketId, secret: CancelSecret, peer: Option<IpAddr>, now: Instant) -> Self {
        Self {
            socket,
            secret,
            told: None,
            peer,
            uid: None,
            transport: Transport::Clear(Asked::Nothing),
            channel: None,
            certified: None,
            phase: Phase::Startup,
            admission: Admission::Granted,
            place: Place::Idle,
            pool: PoolId::default(),
            seat: None,
            user: Box::default(),
            login_dress: Rc::default(),
            dress: Rc::default(),
            carrying: Carrying::Along,
            statements: HashMap::default(),
            changes: VecDeque::new(),
            unnamed: Unnamed::Absent,
            deallocating: Deallocating::No,
            naming: Naming::Ours,
            resetting: Resetting::No,
            pin: Pin::No,
            home: None,
            left: Left::Unlikely,
            ears: None,
            custom: Vec::new(),
            barrier: Barrier::Open,
            healing: Healing::No,
            settings: Vec::new(),
            settings_done: 0,
            shareable: None,
            kind: 0,
            account: Account::default(),
            reading: Reading::Unusual,
            skip: Skip::No,
            coming: Coming::More,
            input: BytesMut::new(),
            share: Share::default(),
            stream_left: 0,
            tail: None,
            waiting_since: now,
            came_at: now,
            arrived_at: now,
            losses: 0,
            active_at: now,
            flow: Flow::Open,
            record: Record::new(0, now),
            farewell: None,
        }
    }
}
