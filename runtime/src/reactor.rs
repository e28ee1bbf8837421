//! What a shard runs ([`Reactor`]) and what it may ask of the world ([`Io`]).
//!
//! Both are traits without a word of io_uring in them, so that a test or a simulator can drive a shard without a kernel.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::batch::Expectation;
use crate::tls::{Agreed, Tls, TlsSide};

/// A shard's number, from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The reactor's own number for a socket; comes back with every event of it.
pub type Token = u64;

/// Whose a listening socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tenure {
    /// Ours alone: nobody listens when we do not.
    Own,
    /// Others have it too, and it goes on when we stop.
    Shared,
}

/// Names a socket of one shard. Once the socket is closed every call with its id does nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SocketId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl SocketId {
    /// Names no socket.
    pub const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };
}

/// Where to connect.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket's path.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A listener accepted a connection: CLOEXEC, not yet attached, so that it can still be handed to another shard.
    Accepted {
        /// The listener's token.
        token: Token,
        /// The connection.
        socket: OwnedFd,
    },
    /// A connect succeeded.
    Connected {
        /// The socket.
        socket: SocketId,
        /// Its token.
        token: Token,
    },
    /// Bytes came.
    Received {
        /// The socket.
        socket: SocketId,
        /// Its token.
        token: Token,
        /// The bytes; gone after the call.
        bytes: &'a [u8],
    },
    /// What [`Io::notify_drained`] asked for.
    Drained {
        /// The socket.
        socket: SocketId,
        /// Its token.
        token: Token,
    },
    /// What [`Io::detach`] asked for: nothing of the kernel's is under way on the connection any more, and the id is dead.
    Detached {
        /// Its token.
        token: Token,
        /// The connection, to be attached on whatever shard.
        socket: OwnedFd,
        /// Output that the kernel has not been given.
        output: BytesMut,
        /// Its TLS state, for [`Io::resume_tls`] on the other shard.
        tls: Option<Box<Tls>>,
    },
    /// The handshake that [`Io::start_tls`] began is complete; what is received and put out is plaintext from now on.
    Secured {
        /// The socket.
        socket: SocketId,
        /// Its token.
        token: Token,
        /// What was agreed on.
        agreed: Agreed,
    },
    /// The peer has sent its last byte. It may still read: the socket stays until it is closed here, or fails.
    Finished {
        /// The socket.
        socket: SocketId,
        /// Its token.
        token: Token,
    },
    /// The socket or its connect failed. The id is dead.
    Closed {
        /// The socket.
        socket: SocketId,
        /// Its token.
        token: Token,
        /// Why.
        cause: Closed,
    },
}

/// Why a socket ended.
#[derive(Debug)]
pub enum Closed {
    /// The peer sent its last byte, and whoever heard of it wanted nothing more.
    Eof,
    /// An error of the system.
    Error(io::Error),
    /// TLS failed: the peer broke it, or one side does not trust the other.
    Tls(rustls::Error),
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Eof => f.write_str("closed by the peer"),
            Self::Error(error) => error.fmt(f),
            // rustls shows the reasons it does not know of as they are for programmers
            Self::Tls(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(why))) => {
                write!(f, "TLS failed: invalid peer certificate: {why}")
            }
            Self::Tls(error) => write!(f, "TLS failed: {error}"),
        }
    }
}

/// Output that is at or below this many bytes counts as drained.
pub const LOW_WATER: usize = 64 * 1024;

/// What a shard's work has cost so far, and what has gone over its rings.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Load {
    /// CPU time of the shard's thread, the kernel's work for it included.
    pub busy: Duration,
    /// How long it was ready to run and its core was given to others, as of a tenth of a second ago at most while it works.
    pub kept_waiting: Duration,
    /// Messages that other shards were sent.
    pub messages_out: u64,
    /// Messages from other shards.
    pub messages_in: u64,
}

/// What a shard runs. All calls come on the shard's own thread, one at a time.
pub trait Reactor: 'static {
    /// What shards and the control side say to each other.
    type Message: Send + 'static;
    /// The shard begins.
    fn on_start(&mut self, io: &mut dyn Io<Self::Message>);
    /// Something happened on a socket.
    fn on_event(&mut self, io: &mut dyn Io<Self::Message>, event: Event<'_>);
    /// Another shard sent a message.
    fn on_message(&mut self, io: &mut dyn Io<Self::Message>, from: ShardId, message: Self::Message);
    /// The control side sent a message.
    fn on_control(&mut self, io: &mut dyn Io<Self::Message>, message: Self::Message);
    /// The instant given to [`Io::set_timer`] has passed.
    fn on_timer(&mut self, io: &mut dyn Io<Self::Message>);
    /// Everything of this turn is done, and what was put out is about to be handed to the kernel; the time is read for this.
    fn on_turn_end(&mut self, now: Instant) {
        let _ = now;
    }
    /// What answers it expects. Asked before it sleeps; it may sleep until several have come (see [`Expectation`]).
    fn expects(&mut self, now: Instant) -> Expectation {
        let _ = now;
        Expectation::default()
    }
}

/// What a shard may ask of the world.
pub trait Io<M> {
    /// The time, read once per turn of the loop.
    fn now(&self) -> Instant;
    /// Which shard this is.
    fn shard(&self) -> ShardId;
    /// How many there are.
    fn shard_count(&self) -> usize;
    /// Accepts connections of a listening socket from now on.
    fn listen(&mut self, listener: OwnedFd, tenure: Tenure, token: Token);
    /// Closes all listeners of this shard.
    fn stop_listening(&mut self);
    /// Takes over a connected socket and receives from it.
    fn attach(&mut self, socket: OwnedFd, token: Token) -> SocketId;
    /// Begins to connect; [`Event::Connected`] or [`Event::Closed`] tells the outcome.
    ///
    /// # Errors
    /// When no socket can be made.
    fn connect(&mut self, address: &Address, token: Token) -> io::Result<SocketId>;
    /// Where to append what is to be sent; it leaves at the end of the turn.
    fn output(&mut self, socket: SocketId) -> &mut BytesMut;
    /// Bytes that the kernel has not taken yet.
    fn output_len(&self, socket: SocketId) -> usize;
    /// The descriptor of a socket, to ask the kernel about it.
    fn descriptor(&self, socket: SocketId) -> Option<BorrowedFd<'_>>;
    /// Bytes that the kernel has not taken yet, of all sockets, as of the end of the last turn.
    fn buffered(&self) -> usize;
    /// Asks for one [`Event::Drained`] when the output is at [`LOW_WATER`] or below.
    fn notify_drained(&mut self, socket: SocketId);
    /// Stops receiving; what the kernel had handed over already may still come.
    fn pause(&mut self, socket: SocketId);
    /// Receives again.
    fn resume(&mut self, socket: SocketId);
    /// Closes at once; what was not sent is lost.
    fn close(&mut self, socket: SocketId);
    /// Closes as soon as everything has been sent, after five seconds at the latest.
    fn close_after_output(&mut self, socket: SocketId);
    /// Gives the connection up, so that another shard can attach it. Nothing more is sent or received; what the kernel has
    /// under way ends first, so bytes may still come before [`Event::Detached`], or [`Event::Closed`] instead of it.
    fn detach(&mut self, socket: SocketId);
    /// Encrypts the connection from now on: what has been put out so far goes in clear, what is put out later is held back
    /// until the handshake is complete, which [`Event::Secured`] tells, or [`Event::Closed`] that it failed. `received` is
    /// what has come of the handshake already.
    ///
    /// # Errors
    /// When the configuration cannot serve.
    fn start_tls(&mut self, socket: SocketId, side: TlsSide, received: &[u8]) -> Result<(), rustls::Error>;
    /// Goes on with the TLS of a connection that was detached elsewhere and has just been attached.
    fn resume_tls(&mut self, socket: SocketId, tls: Box<Tls>);
    /// Sends a message to another shard; gives it back when the ring is full.
    ///
    /// # Errors
    /// The message, when it cannot be taken now.
    fn post(&mut self, to: ShardId, message: M) -> Result<(), M>;
    /// Asks for one [`Reactor::on_timer`]; replaces what was asked for before.
    fn set_timer(&mut self, at: Option<Instant>);
    /// What this shard has cost so far.
    fn load(&self) -> Load;
    /// Ends this shard's loop after this turn.
    fn stop(&mut self);
}
