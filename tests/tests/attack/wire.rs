//! A connection that says anything and writes down what it hears.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use dbproto::message::backend::ErrorFields;
use dbproto::{frame, startup};

/// How long something that must come may take.
const AWAIT_MAX: Duration = Duration::from_secs(20);

/// What a case does.
pub(crate) enum Step {
    /// Sends bytes.
    Send(Vec<u8>),
    /// Waits for a message of this kind.
    Await(u8),
}

/// How far the connection of a case is when it begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Nothing has been said.
    Closed,
    /// The trusted user is logged in.
    Open,
    /// The other user has been asked for a SCRAM proof.
    Scram,
}

/// An attack.
pub(crate) struct Case {
    /// Its number in the list, and which way it is.
    pub(crate) id: &'static str,
    pub(crate) door: Door,
    pub(crate) steps: fn() -> Vec<Step>,
}

/// A start-up packet of version 3.0 with these parameters.
pub(crate) fn start(parameters: &[(&str, &str)]) -> Vec<u8> {
    let pairs: Vec<_> = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    let mut out = BytesMut::new();
    startup::write_startup(&mut out, &pairs);
    out.to_vec()
}

/// Hears what comes, and writes it down in a form in which two servers can be compared.
struct Wire {
    stream: TcpStream,
    input: BytesMut,
    heard: String,
    closed: bool,
}

impl Wire {
    fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(AWAIT_MAX)).unwrap();
        Self { stream, input: BytesMut::new(), heard: String::new(), closed: false }
    }

    fn send(&mut self, bytes: &[u8]) {
        // who has hung up does not read
        let _sent: std::io::Result<()> = self.stream.write_all(bytes);
    }

    /// Reads what comes within this time; gives whether anything did.
    fn read(&mut self, within: Duration) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        self.stream.set_read_timeout(Some(within.max(Duration::from_millis(1)))).unwrap();
        match self.stream.read(&mut chunk) {
            Ok(0) => self.closed = true,
            Ok(len) => self.input.extend_from_slice(chunk.get(..len).unwrap()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => self.closed = true,
        }
        true
    }

    /// Takes messages off what has come, up to one of this kind; gives whether it was there.
    fn take(&mut self, until: Option<u8>) -> bool {
        while let Ok(Some((message, _))) = frame::split(&self.input) {
            let (tag, len) = (message.tag, message.bytes.len());
            self.heard.push_str(&word(tag, message.body));
            self.input.advance(len);
            if until == Some(tag) {
                return true;
            }
        }
        false
    }

    fn await_tag(&mut self, tag: u8) {
        let until = Instant::now() + AWAIT_MAX;
        while !self.take(Some(tag)) && !self.closed {
            assert!(Instant::now() < until, "'{}' did not come after {}", char::from(tag), self.heard);
            self.read(AWAIT_MAX);
        }
    }

    /// Hears everything until nothing comes for so long; gives what was heard.
    fn finish(mut self, quiet: Duration) -> String {
        while !self.closed && self.read(quiet) {}
        self.take(None);
        if !self.input.is_empty() {
            let shown = self.input.get(..self.input.len().min(20)).unwrap_or_default();
            self.heard.push_str(&format!("bytes \"{}\" ", shown.escape_ascii()));
        }
        self.heard.push_str(if self.closed { "closed" } else { "open" });
        self.heard
    }
}

/// What of a message counts: errors by their SQLSTATE, rows by their content, the rest by its kind. What a server tells of
/// itself at login does not.
fn word(tag: u8, body: &[u8]) -> String {
    match tag {
        b'S' | b'K' | b'N' => String::new(),
        b'E' => {
            let fields = ErrorFields::new(body);
            let text = |field| String::from_utf8_lossy(fields.get(field).unwrap_or_default()).into_owned();
            format!("{}:{} ", text(b'V'), text(b'C'))
        }
        b'D' if body.len() < 200 => format!("D\"{}\" ", body.escape_ascii()),
        b'D' => format!("D of {} bytes ", body.len()),
        // whatever is wrong behind a login is told before or behind the word that its proof was good
        b'R' if body == [0; 4] => String::new(),
        b'R' => format!("R{} ", body.get(3).copied().unwrap_or_default()),
        b'Z' | b'C' | b'v' => format!("{}\"{}\" ", char::from(tag), body.escape_ascii()),
        other => format!("{} ", char::from(other)),
    }
}

/// Plays a case to a server and gives what was heard.
pub(crate) fn play(port: u16, case: &Case, quiet: Duration) -> String {
    let mut wire = Wire::open(port);
    match case.door {
        Door::Closed => {}
        Door::Open => {
            wire.send(&start(&[("user", "postgres"), ("database", "postgres")]));
            wire.await_tag(b'Z');
        }
        Door::Scram => {
            wire.send(&start(&[("user", "scrammed"), ("database", "postgres")]));
            wire.await_tag(b'R');
        }
    }
    for step in (case.steps)() {
        match step {
            Step::Send(bytes) => wire.send(&bytes),
            Step::Await(tag) => wire.await_tag(tag),
        }
    }
    wire.finish(quiet)
}
