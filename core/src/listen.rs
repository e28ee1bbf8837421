//! LISTEN for many sessions on one server connection.
//!
//! PostgreSQL remembers on the connection what it listens to, and keeps all the rules: what a transaction changes holds from its
//! COMMIT on, a rollback takes it back, names are folded and cut. So a session always runs LISTEN and UNLISTEN on a connection
//! of its own, which is its home from then on, and hears there what it listens to. A moment later, or when somebody else needs
//! that connection, PostgreSQL is asked for the channels ([`crate::probe`]), and they move to the *line*: one connection per
//! database that listens for the sessions of all shards ([`line`]). The other way round, before a request runs that could see
//! or change what its session listens to ([`wish`]), the channels move to the connection that will serve it.
//!
//! A move loses nothing and doubles nothing ([`passage`]). All backends that listen see the notifications of a database in one
//! order, so it takes a notification of our own, the *mark*, that both connections hear: what comes before it is
//! told by the one, what comes behind it by the other.
//!
//! Sessions, homes and passages live on their shard; a line is a thread of the control side, which tells the shards what it
//! hears.

use std::collections::{HashMap, HashSet};
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use bytes::BytesMut;
use crossbeam::channel::Sender;
use runtime::{Address, ShardId};

use crate::catalog::keeper::DatabaseKey;
use crate::pipe::ServerId;
use crate::pool::Target;
use crate::session::SessionId;

pub(crate) mod alias;
mod hear;
pub(crate) mod line;
mod passage;
mod wish;

pub(crate) use passage::Passage;
pub(crate) use wish::Wish;

/// Channels of one session that the line takes over; who listens to more keeps its connection.
const CHANNELS_MAX: usize = 256;
/// Bytes of notifications that wait for a client which does not read them.
const UNTOLD_MAX: usize = 4 * 1024 * 1024;

/// A channel's name, as PostgreSQL has folded and cut it.
pub(crate) type Channel = Arc<[u8]>;

/// What a shard wants of a line.
pub(crate) enum Order {
    /// To be connected, with these credentials from the next attempt on.
    Open(Target),
    /// The database is there now; a connection to where it was ends, and is made again if it was wanted.
    Move(Target),
    /// To listen to these channels for a shard, and then to make a mark.
    Join { mark: Mark, channels: Vec<Channel> },
    /// To make a mark.
    Mark(Mark),
    /// Nobody on this shard listens to these channels any more.
    Leave { shard: ShardId, channels: Vec<Channel> },
    /// The database is paused: no connection to it is wanted.
    Hold,
    /// It is not paused any more.
    Go,
}

/// Names a passage in the whole process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    pub(crate) shard: ShardId,
    pub(crate) number: u64,
}

impl Mark {
    fn payload(self) -> String {
        format!("{}.{}", self.shard.0, self.number)
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let (shard, number) = std::str::from_utf8(payload).ok()?.split_once('.')?;
        Some(Self { shard: ShardId(shard.parse().ok()?), number: number.parse().ok()? })
    }
}

/// What a line tells a shard.
pub(crate) enum News {
    /// There is one for this database.
    Made(Arc<Line>),
    /// It is connected, there, and listens to everything that is listened to.
    Up(DatabaseKey, Address),
    /// It is not connected, because it was lost or is not wanted.
    Down(DatabaseKey),
    /// These marks were not made, and what was to be listened to with them is not.
    Failed(DatabaseKey, Vec<Mark>),
    /// It has heard something.
    Heard(Arc<Batch>),
}

/// One thing a line has heard.
pub(crate) enum Heard {
    /// A notification; the frame that clients are told, and in it the backend's own process id.
    Notification { channel: Channel, process_id: u32, payload: Box<[u8]> },
    /// A mark.
    Mark(Mark),
}

/// Things a line has heard, in order.
pub(crate) struct Batch {
    pub(crate) line: Arc<Line>,
    pub(crate) all: Vec<Heard>,
    len: usize,
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.line.untold.fetch_sub(self.len, Ordering::AcqRel);
    }
}

/// What shards and the thread share of a line.
pub(crate) struct Line {
    pub(crate) key: DatabaseKey,
    /// The channel of marks: a name nobody guesses.
    pub(crate) marks: Box<[u8]>,
    orders: Sender<Order>,
    bell: UnixStream,
    /// Bytes that shards have not dealt with.
    untold: AtomicUsize,
    /// The process id of its backend; 0 while it is not connected.
    pub(crate) backend: AtomicU32,
    pub(crate) channels: AtomicU64,
    pub(crate) heard: AtomicU64,
    /// How often its connection was lost.
    pub(crate) losses: AtomicU64,
}

impl Line {
    /// Tells the thread what is wanted.
    pub(crate) fn order(&self, order: Order) {
        // there is always a thread while we live
        let _sent: Result<(), _> = self.orders.send(order);
        // full means that it will look anyway
        let _rung: std::io::Result<usize> = (&self.bell).write(&[1]);
    }

    /// Whether there is a connection.
    pub(crate) fn is_connected(&self) -> bool {
        self.backend.load(Ordering::Acquire) != 0
    }
}

/// Where a database's line stands, as far as a shard knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Standing {
    /// Nobody has asked for it, or it has gone.
    #[default]
    Down,
    /// It was asked for.
    Asked,
    Up,
}

/// One shard's sessions that listen in one database by its line.
#[derive(Default)]
pub(crate) struct Hub {
    pub(crate) line: Option<Arc<Line>>,
    standing: Standing,
    /// Where its connection goes, while it is up.
    place: Option<Address>,
    pub(crate) listeners:
        HashMap<Channel, HashSet<SessionId, foldhash::fast::RandomState>, foldhash::fast::RandomState>,
    /// Moves that are under way.
    passages: HashMap<u64, ServerId>,
}

/// A shard's part in all lines.
#[derive(Default)]
pub(crate) struct Hubs {
    pub(crate) all: HashMap<DatabaseKey, Hub>,
    /// Connections that listen for their sessions, for the line to take that over.
    homes: Vec<ServerId>,
    /// Numbers passages.
    last: u64,
}

/// A shard's part of a line.
#[derive(Clone, Debug)]
pub(crate) struct LineCount {
    pub(crate) database: String,
    /// The process id of its backend; none while it is not connected.
    pub(crate) backend: Option<u32>,
    pub(crate) channels: u64,
    /// Sessions of this shard.
    pub(crate) sessions: u64,
    pub(crate) heard: u64,
    pub(crate) losses: u64,
    key: DatabaseKey,
}

impl LineCount {
    /// Adds what another shard tells of the same line; gives it back if it is of another.
    pub(crate) fn add(&mut self, other: Self) -> Option<Self> {
        if self.key != other.key {
            return Some(other);
        }
        self.sessions += other.sessions;
        None
    }
}

/// Where a session hears what it listens to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hearing {
    /// By the line.
    Line,
    /// On the server connection that is its home, or that it holds.
    Home,
    /// Nowhere: it has let go of everything.
    Nowhere,
}

/// Whether a session may have missed something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Missed {
    Nothing,
    Perhaps,
}

/// What the line listens to for a session.
pub(crate) struct Ears {
    pub(crate) channels: Vec<Channel>,
    pub(crate) hearing: Hearing,
    /// Where the request at the front of its input may run.
    pub(crate) wish: Wish,
    /// What it is to be told as soon as it may be.
    pub(crate) untold: BytesMut,
    missed: Missed,
}

impl Ears {
    const fn new(channels: Vec<Channel>, untold: BytesMut) -> Self {
        Self { channels, hearing: Hearing::Home, wish: Wish::Home, untold, missed: Missed::Nothing }
    }
}

/// Whether a server connection listens for its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Listening {
    /// Not that anybody knows.
    No,
    Yes,
    /// Yes, and the line cannot take that over.
    ForGood,
}

/// Appends a name as an identifier.
fn quote(out: &mut Vec<u8>, name: &[u8]) {
    out.push(b'"');
    for byte in name {
        if *byte == b'"' {
            out.push(b'"');
        }
        out.push(*byte);
    }
    out.push(b'"');
}

/// Appends a statement about a channel.
fn about(out: &mut Vec<u8>, verb: &str, channel: &[u8]) {
    out.extend_from_slice(verb.as_bytes());
    out.push(b' ');
    quote(out, channel);
    out.extend_from_slice(b";\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_as_it_was_written_and_nothing_else_is_one() {
        let mark = Mark { shard: ShardId(3), number: 77 };
        assert_eq!(Mark::read(mark.payload().as_bytes()), Some(mark));
        for payload in ["", "3", "3.", ".7", "3.7.1", "a.b", "-1.2", "99999.1"] {
            assert_eq!(Mark::read(payload.as_bytes()), None, "{payload}");
        }
        assert_eq!(Mark::read(b"\xff.1"), None);
    }

    #[test]
    fn names_of_channels_are_quoted() {
        let mut out = Vec::new();
        about(&mut out, "LISTEN", b"it \"is\"; drop");
        assert_eq!(out, b"LISTEN \"it \"\"is\"\"; drop\";\n");
    }
}
