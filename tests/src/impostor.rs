//! A server that is not PostgreSQL: it says what a test has written down for it, and nothing that a test has not.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, BytesMut};
use dbproto::message::{backend, write_frame};
use dbproto::{frame, startup};

use crate::client::Message;

/// One connection to it.
#[derive(Debug)]
pub struct Visit {
    stream: TcpStream,
    input: BytesMut,
    /// The other side has said goodbye.
    left: bool,
    /// Which connection this is, from 0.
    pub number: usize,
}

impl Visit {
    /// Says something.
    pub fn say(&mut self, bytes: &[u8]) {
        // the other side may have had enough
        let _sent: std::io::Result<()> = self.stream.write_all(bytes);
    }

    fn fill(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(len) => {
                self.input.extend_from_slice(chunk.get(..len).unwrap_or_default());
                true
            }
            Err(error) => error.kind() == ErrorKind::Interrupted,
        }
    }

    /// Waits for the start-up packet; false when there is none, as of a cancel request.
    pub fn expect_startup(&mut self) -> bool {
        loop {
            match startup::parse(&self.input) {
                Ok(Some((startup::Startup::Start(_), len))) => {
                    self.input.advance(len);
                    return true;
                }
                Ok(None) => {}
                Ok(_) | Err(_) => return false,
            }
            if !self.fill() {
                return false;
            }
        }
    }

    /// The next message; none when the other side has hung up.
    pub fn expect(&mut self) -> Option<Message> {
        loop {
            match frame::split(&self.input) {
                Ok(Some((message, _))) => {
                    let (found, len) = (Message { tag: message.tag, body: message.body.to_vec() }, message.bytes.len());
                    self.input.advance(len);
                    self.left |= found.tag == b'X';
                    return Some(found);
                }
                Ok(None) => {}
                Err(_) => return None,
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// Waits for a Query or a Sync; gives the text of the Query or of the last Parse.
    pub fn expect_request(&mut self) -> Option<String> {
        let mut text = String::new();
        loop {
            let message = self.expect()?;
            let words = |from: &[u8]| {
                String::from_utf8_lossy(from.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
            };
            match message.tag {
                b'Q' => return Some(words(&message.body)),
                b'P' => {
                    let name = message.body.iter().position(|byte| *byte == 0).unwrap_or(0);
                    text = words(message.body.get(name + 1..).unwrap_or_default());
                }
                b'S' => return Some(text),
                b'X' => return None,
                _ => {}
            }
        }
    }

    /// Lets a client in without a password.
    pub fn let_in(&mut self) -> bool {
        let there = self.expect_startup();
        self.say(&welcome());
        there
    }

    /// Waits until the other side has hung up or says goodbye; what else it says is not heard.
    pub fn wait_for_the_end(&mut self) {
        while !self.left && !self.input.ends_with(b"X\0\0\0\x04") && self.fill() {}
    }

    /// Hangs up so that the other side hears of a reset.
    pub fn reset(self) {
        let _set: rustix::io::Result<()> = rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO));
    }
}

/// Messages that let a client in.
#[must_use]
pub fn welcome() -> Vec<u8> {
    let mut out = BytesMut::new();
    backend::write_authentication_ok(&mut out);
    for (name, value) in
        [("server_version", "15.0"), ("client_encoding", "UTF8"), ("standard_conforming_strings", "on")]
    {
        backend::write_parameter_status(&mut out, name.as_bytes(), value.as_bytes());
    }
    backend::write_backend_key_data(&mut out, 4242, b"abcd");
    out.extend_from_slice(READY);
    out.to_vec()
}

/// ReadyForQuery, idle.
pub const READY: &[u8] = b"Z\0\0\0\x05I";

/// A message with any body.
///
/// # Panics
/// When it is longer than messages are.
#[must_use]
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    write_frame(&mut out, tag, |out| out.extend_from_slice(body)).unwrap();
    out.to_vec()
}

/// A row of one column of text.
#[must_use]
pub fn row(value: &str) -> Vec<u8> {
    let mut body = BytesMut::new();
    body.put_u16(1);
    body.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    body.extend_from_slice(value.as_bytes());
    message(b'D', &body)
}

/// The whole reply to a Query that asks for one value.
#[must_use]
pub fn reply(value: &str) -> Vec<u8> {
    let mut description = BytesMut::new();
    description.put_u16(1);
    description.extend_from_slice(b"value\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    [message(b'T', &description), row(value), message(b'C', b"SELECT 1\0"), READY.to_vec()].concat()
}

/// The server. Takes no more connections when dropped.
#[derive(Debug)]
pub struct Impostor {
    port: u16,
    over: Arc<AtomicBool>,
    visits: Arc<AtomicUsize>,
}

impl Impostor {
    /// Listens; every connection is treated by `part` on a thread of its own.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(part: impl Fn(Visit) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let impostor = Self { port, over: Arc::default(), visits: Arc::default() };
        let (over, visits) = (Arc::clone(&impostor.over), Arc::clone(&impostor.visits));
        let part = Arc::new(part);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let number = visits.fetch_add(1, Ordering::Relaxed);
                let part = Arc::clone(&part);
                std::thread::spawn(move || part(Visit { stream, input: BytesMut::new(), left: false, number }));
            }
        });
        impostor
    }

    /// Where it listens on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many connections there have been, cancel requests among them.
    #[must_use]
    pub fn visits(&self) -> usize {
        self.visits.load(Ordering::Relaxed)
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // wakes the listener up
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}
