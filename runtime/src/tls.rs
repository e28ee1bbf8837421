//! TLS on a socket: records in, plaintext out, and the other way round. Knows no socket and no system call.
//!
//! The ring calls [`Tls::receive`] with what came and [`Tls::seal`] when it is about to send, so a reactor sees and writes
//! plaintext only. Handshakes, alerts and what was put out before TLS began wait in a buffer of their own and go first. A
//! connection that is idle owns no buffer: records are opened in one that the whole shard lends, and only the beginning of
//! a record that has not come whole is kept. Lives on the shard of its socket, and moves with it.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

/// Bytes that may wait for the rest of their record or handshake message; both are shorter.
const INCOMPLETE_LEN_MAX: usize = 96 * 1024;

/// Which side of a handshake a socket is.
#[derive(Clone, Debug)]
pub enum TlsSide {
    /// The peer begins it.
    Server(Arc<ServerConfig>),
    /// We begin it, with whom we take to be of that name.
    Client(Arc<ClientConfig>, ServerName<'static>),
}

/// What a handshake has agreed on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agreed {
    /// The protocol inside TLS, if both sides named one (ALPN).
    pub alpn: Option<Vec<u8>>,
    /// The peer's own certificate (DER), if it has shown one.
    pub certificate: Option<Vec<u8>>,
}

/// What came of bytes that were received.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The handshake has just been completed.
    pub(crate) agreed: Option<Agreed>,
    /// Nothing more will come, and why.
    pub(crate) end: Option<End>,
}

/// Why nothing more will come.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer has said so.
    PeerClosed,
    /// It broke the protocol, or one side does not trust the other; the alert that says so is ready to be sent.
    Broken(Error),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Handshaking,
    Open,
    /// Nothing of the reactor's is sent any more.
    Over,
}

enum Connection {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// The TLS state of one connection.
pub struct Tls {
    connection: Connection,
    /// The beginning of what has not come whole.
    incoming: BytesMut,
    /// To be sent as it is, before everything else.
    outgoing: BytesMut,
    stage: Stage,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tls({:?})", self.stage)
    }
}

/// What one step of the machine came to.
enum Step {
    /// There may be more to do.
    Again,
    /// It waits for the peer.
    Blocked,
    /// Data may be sent.
    Writable,
    PeerClosed,
    Broken(Error),
}

/// What to do once data may be sent.
enum Wish<'a> {
    Nothing,
    Encrypt(&'a [u8], &'a mut BytesMut),
    CloseNotify(&'a mut BytesMut),
}

impl Tls {
    /// Begins; `clear` goes out before the handshake, `received` has come of it already.
    pub(crate) fn new(side: TlsSide, clear: BytesMut, received: &[u8]) -> Result<Self, Error> {
        let connection = match side {
            TlsSide::Server(config) => Connection::Server(Box::new(UnbufferedServerConnection::new(config)?)),
            TlsSide::Client(config, name) => {
                Connection::Client(Box::new(UnbufferedClientConnection::new(config, name)?))
            }
        };
        Ok(Self { connection, incoming: BytesMut::from(received), outgoing: clear, stage: Stage::Handshaking })
    }

    /// Takes bytes from the wire; appends what they say to `plain`. `scratch` is an empty buffer that is lent.
    pub(crate) fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>, scratch: &mut BytesMut) -> Heard {
        if self.stage == Stage::Over {
            return Heard::default();
        }
        if self.incoming.is_empty() {
            std::mem::swap(&mut self.incoming, scratch);
        }
        self.incoming.extend_from_slice(bytes);
        let mut heard = Heard::default();
        while heard.end.is_none() {
            match self.step(plain, Wish::Nothing) {
                Step::Again => {}
                Step::Blocked => break,
                Step::Writable => {
                    if self.stage == Stage::Handshaking {
                        self.stage = Stage::Open;
                        heard.agreed = Some(self.agreed());
                    }
                    break;
                }
                Step::PeerClosed => heard.end = Some(End::PeerClosed),
                Step::Broken(error) => heard.end = Some(End::Broken(error)),
            }
        }
        if heard.end.is_none() && self.incoming.len() > INCOMPLETE_LEN_MAX {
            heard.end = Some(End::Broken(Error::General("a record or handshake message is too long".to_owned())));
        }
        if matches!(heard.end, Some(End::Broken(_))) {
            self.give_up();
        }
        if self.incoming.is_empty() {
            std::mem::swap(&mut self.incoming, scratch);
            self.incoming = BytesMut::new();
            scratch.clear();
        }
        heard
    }

    /// Moves everything that can be sent to `wire`, encrypted.
    ///
    /// # Errors
    /// When nothing more can be encrypted on this connection.
    pub(crate) fn seal(&mut self, output: &mut BytesMut, wire: &mut BytesMut) -> Result<(), Error> {
        wire.extend_from_slice(&self.outgoing);
        self.outgoing = BytesMut::new();
        match self.stage {
            Stage::Handshaking => {}
            Stage::Over => output.clear(),
            Stage::Open if output.is_empty() => {}
            Stage::Open => {
                let sealed = self.when_writable(|| Wish::Encrypt(output, wire));
                output.clear();
                sealed?;
            }
        }
        Ok(())
    }

    /// Says goodbye behind everything that was sealed before.
    pub(crate) fn seal_goodbye(&mut self, wire: &mut BytesMut) {
        if self.stage == Stage::Open {
            // without it the connection ends all the same
            let _sealed: Result<(), Error> = self.when_writable(|| Wish::CloseNotify(wire));
            self.stage = Stage::Over;
        }
    }

    /// Whether plaintext can be sent now.
    pub(crate) fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    /// Bytes that wait to be sent as they are.
    pub(crate) fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    /// What the kernel was given and has not taken goes first.
    pub(crate) fn put_back(&mut self, mut wire: BytesMut) {
        wire.extend_from_slice(&self.outgoing);
        self.outgoing = wire;
    }

    /// Only the alert that is due is still sent.
    fn give_up(&mut self) {
        self.stage = Stage::Over;
        // an error leaves its alert behind. The machine gives that before it looks at its input again, which it must not: it has
        // given up half-way through, and may take what is left for something else
        let mut nothing = Vec::new();
        while self.state().wants_write() {
            self.step(&mut nothing, Wish::Nothing);
        }
        self.incoming = BytesMut::new();
    }

    fn when_writable<'a>(&mut self, wish: impl FnOnce() -> Wish<'a>) -> Result<(), Error> {
        let mut nothing = Vec::new();
        loop {
            match self.step(&mut nothing, Wish::Nothing) {
                Step::Again => {}
                Step::Writable => break,
                Step::Blocked | Step::PeerClosed => return Err(Error::HandshakeNotComplete),
                Step::Broken(error) => return Err(error),
            }
        }
        match self.step(&mut nothing, wish()) {
            Step::Writable => Ok(()),
            Step::Broken(error) => Err(error),
            Step::Again | Step::Blocked | Step::PeerClosed => Err(Error::EncryptError),
        }
    }

    fn step(&mut self, plain: &mut Vec<u8>, wish: Wish<'_>) -> Step {
        let (used, step) = match &mut self.connection {
            Connection::Server(connection) => {
                advance(connection.process_tls_records(&mut self.incoming), plain, &mut self.outgoing, wish)
            }
            Connection::Client(connection) => {
                advance(connection.process_tls_records(&mut self.incoming), plain, &mut self.outgoing, wish)
            }
        };
        self.incoming.advance(used.min(self.incoming.len()));
        step
    }

    fn state(&self) -> &CommonState {
        match &self.connection {
            Connection::Server(connection) => connection,
            Connection::Client(connection) => connection,
        }
    }

    fn agreed(&self) -> Agreed {
        let state = self.state();
        let certificate = state.peer_certificates().and_then(<[_]>::first).map(|der| der.to_vec());
        Agreed { alpn: state.alpn_protocol().map(<[u8]>::to_vec), certificate }
    }
}

/// Deals with what the machine says; gives how many bytes of its input are done with.
fn advance<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Vec<u8>,
    outgoing: &mut BytesMut,
    wish: Wish<'_>,
) -> (usize, Step) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Step::Broken(error),
                None => break Step::Again,
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => {
            let mut encode = |out: &mut [u8]| match data.encode(out) {
                Err(EncodeError::InsufficientSize(short)) => Err(Some(short.required_size)),
                Err(EncodeError::AlreadyEncoded) => Err(None),
                Ok(len) => Ok(len),
            };
            append(outgoing, 0, &mut encode).map_or_else(Step::Broken, |()| Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // it is in the buffer that is sent next
            data.done();
            Step::Again
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => fulfil(traffic, wish),
        Ok(ConnectionState::BlockedHandshake) => Step::Blocked,
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Step::PeerClosed,
        // early data is never offered nor accepted
        Ok(_) => Step::Broken(Error::General("an unknown state of TLS".to_owned())),
        Err(error) => Step::Broken(error),
    };
    (discard, step)
}

fn fulfil<Data>(mut traffic: WriteTraffic<'_, Data>, wish: Wish<'_>) -> Step {
    let size = |done: Result<usize, EncryptError>| match done {
        Err(EncryptError::InsufficientSize(short)) => Err(Some(short.required_size)),
        Err(EncryptError::EncryptExhausted) => Err(None),
        Ok(len) => Ok(len),
    };
    let done = match wish {
        Wish::Nothing => Ok(()),
        // a record of 16 KiB at most adds some 22 bytes
        Wish::Encrypt(data, wire) => {
            append(wire, data.len() + data.len() / 512 + 64, &mut |out| size(traffic.encrypt(data, out)))
        }
        Wish::CloseNotify(wire) => append(wire, 64, &mut |out| size(traffic.queue_close_notify(out))),
    };
    done.map_or_else(Step::Broken, |()| Step::Writable)
}

/// How many bytes were written; or how much room that needs, if room is what is missing.
type Written = Result<usize, Option<usize>>;

/// Appends what `write` writes, which says how much room it needs when it was given too little.
fn append(out: &mut BytesMut, expected: usize, write: &mut dyn FnMut(&mut [u8]) -> Written) -> Result<(), Error> {
    let start = out.len();
    let mut room = expected;
    loop {
        out.resize(start + room, 0);
        match write(out.get_mut(start..).unwrap_or_default()) {
            Ok(len) => {
                out.truncate(start + len);
                return Ok(());
            }
            Err(Some(needed)) if needed > room => room = needed,
            Err(_) => {
                out.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}

#[cfg(test)]
mod tests;
