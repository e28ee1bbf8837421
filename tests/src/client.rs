//! A client that speaks the protocol by hand, so that a test sees each message.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use dbproto::auth::client::ClientAuth;
use dbproto::frame;
use dbproto::message::backend::{self, Authentication, ErrorFields};
use dbproto::startup;

use crate::request::Request;

/// How long a reply may take; nothing waits for it that goes well.
const REPLY_MAX: Duration = Duration::from_secs(30);

/// How many messages of a reply that does not end are shown.
const HEARD_MAX: usize = 5;

/// A message of the server's.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub tag: u8,
    /// What it says.
    pub body: Vec<u8>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.body.get(..100).unwrap_or(&self.body);
        write!(f, "{} \"{}\"", char::from(self.tag), shown.escape_ascii())
    }
}

/// An ErrorResponse or NoticeResponse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ErrorReply {
    /// ERROR, FATAL ...
    pub severity: String,
    /// SQLSTATE.
    pub code: String,
    /// The words.
    pub message: String,
    /// Its hint, if it has one.
    pub hint: String,
}

impl ErrorReply {
    /// Reads the body of an ErrorResponse.
    #[must_use]
    pub fn read(body: &[u8]) -> Self {
        let fields = ErrorFields::new(body);
        let text = |field: u8| String::from_utf8_lossy(fields.get(field).unwrap_or_default()).into_owned();
        Self { severity: text(b'V'), code: text(b'C'), message: text(b'M'), hint: text(b'H') }
    }
}

/// Everything up to a ReadyForQuery.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// All messages, the ReadyForQuery included.
    pub messages: Vec<Message>,
}

impl Reply {
    /// The tags in order.
    #[must_use]
    pub fn tags(&self) -> String {
        self.messages.iter().map(|message| char::from(message.tag)).collect()
    }

    /// The rows, NULL as `None`.
    ///
    /// # Panics
    /// When one is malformed.
    #[must_use]
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        self.with_tag(b'D')
            .map(|body| backend::columns(body).map(|column| column.unwrap().map(text)).collect())
            .collect()
    }

    /// The first column of each row.
    ///
    /// # Panics
    /// When it is NULL or malformed.
    #[must_use]
    pub fn values(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.into_iter().next().flatten().unwrap()).collect()
    }

    /// The only value.
    ///
    /// # Panics
    /// When there is not exactly one row.
    #[must_use]
    pub fn value(&self) -> String {
        let mut values = self.values();
        assert!(values.len() == 1, "{self:?}");
        values.remove(0)
    }

    /// Command tags.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.with_tag(b'C')
            .map(|body| String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned())
            .collect()
    }

    /// The first error.
    #[must_use]
    pub fn error(&self) -> Option<ErrorReply> {
        self.with_tag(b'E').next().map(ErrorReply::read)
    }

    /// SQLSTATE of the first error; empty when there is none.
    #[must_use]
    pub fn code(&self) -> String {
        self.error().map(|error| error.code).unwrap_or_default()
    }

    /// Transaction status at the end: `I`, `T` or `E`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn status(&self) -> char {
        self.with_tag(b'Z').last().and_then(|body| body.first()).map(|status| char::from(*status)).unwrap()
    }

    fn with_tag(&self, tag: u8) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().filter(move |message| message.tag == tag).map(|message| &message.body[..])
    }

    /// Itself, if nothing went wrong.
    ///
    /// # Panics
    /// When there is an error in it.
    pub fn good(self) -> Self {
        assert!(self.error().is_none(), "{self:?}");
        self
    }
}

/// Parameters of a Bind, none of them NULL.
#[must_use]
pub fn params<'a>(values: &[&'a str]) -> Vec<Option<&'a str>> {
    values.iter().copied().map(Some).collect()
}

/// A connection.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    input: BytesMut,
    /// The beginning of what was sent last, to be shown when there is no answer to it.
    asked: Vec<u8>,
    /// The first messages that came since, shown then too.
    heard: Vec<Message>,
    port: u16,
    /// The server may hang up in the middle of a message.
    may_tear: bool,
    /// Its cancel key.
    key: (u32, Vec<u8>),
    /// What the server reported at login.
    pub parameters: Vec<(String, String)>,
}

impl RawClient {
    /// A connection on which nothing has been said.
    ///
    /// # Panics
    /// When nobody listens.
    #[must_use]
    pub fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(REPLY_MAX)).unwrap();
        stream.set_write_timeout(Some(REPLY_MAX)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            input: BytesMut::new(),
            asked: Vec::new(),
            heard: Vec::new(),
            port,
            may_tear: false,
            key: Default::default(),
            parameters: Vec::new(),
        }
    }

    /// Its connection, to be written to while replies are read.
    ///
    /// # Panics
    /// When descriptors are used up.
    #[must_use]
    pub fn writer(&self) -> TcpStream {
        self.stream.try_clone().unwrap()
    }

    /// Logs in.
    ///
    /// # Errors
    /// What the server said.
    ///
    /// # Panics
    /// When the server breaks the protocol, or hangs up without a word.
    pub fn connect(port: u16, parameters: &[(&str, &str)], password: Option<&str>) -> Result<Self, ErrorReply> {
        let mut client = Self::open(port);
        client.send_startup(parameters);
        let user = parameters.iter().find(|(name, _)| *name == "user").map_or("", |(_, user)| user);
        client.log_in(user, password).map(|_| client)
    }

    /// Sends the start-up packet.
    pub fn send_startup(&mut self, parameters: &[(&str, &str)]) {
        self.send_startup_of(0, parameters);
    }

    /// Sends a start-up packet that asks for protocol 3.`minor`.
    pub fn send_startup_of(&mut self, minor: u16, parameters: &[(&str, &str)]) {
        let pairs: Vec<_> = parameters.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let mut out = BytesMut::new();
        startup::write_startup_of(&mut out, minor, &pairs);
        self.send(&out);
    }

    /// Says that nothing more is sent, and goes on reading.
    ///
    /// # Panics
    /// When the server has hung up.
    pub fn finish_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).unwrap();
    }

    /// Goes through the login behind a start-up packet; gives the messages that came before AuthenticationOk.
    ///
    /// # Errors
    /// What the server said.
    ///
    /// # Panics
    /// When the server breaks the protocol, or hangs up without a word.
    pub fn log_in(&mut self, user: &str, password: Option<&str>) -> Result<Vec<Message>, ErrorReply> {
        let mut auth = ClientAuth::new(user.as_bytes(), password.map(str::as_bytes));
        let mut before = Vec::new();
        loop {
            let message = self.receive();
            match message.tag {
                b'R' => {
                    let mut out = BytesMut::new();
                    let request = Authentication::read(&message.body).unwrap();
                    auth.handle(request, &mut out).unwrap_or_else(|error| panic!("{error}: {message:?}"));
                    self.send(&out);
                    before.push(message);
                }
                b'E' => return Err(ErrorReply::read(&message.body)),
                b'S' => {
                    let (name, value) = backend::parameter_status(&message.body).unwrap();
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    self.parameters.push((text(name), text(value)));
                }
                b'K' => {
                    let (process_id, secret) = backend::backend_key_data(&message.body).unwrap();
                    self.key = (process_id, secret.to_vec());
                }
                b'Z' => return Ok(before),
                _ => before.push(message),
            }
        }
    }

    /// Sends bytes.
    ///
    /// # Panics
    /// When they are not taken.
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap();
    }

    /// Sends bytes to a server that may have hung up.
    ///
    /// # Errors
    /// When it has.
    pub fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.asked = bytes.get(..200).unwrap_or(bytes).to_vec();
        self.heard.clear();
        self.stream.write_all(bytes)
    }

    /// The next message, `None` when the server has hung up.
    ///
    /// # Panics
    /// When neither comes in time, or what comes is no message.
    pub fn try_receive(&mut self) -> Option<Message> {
        loop {
            if let Some((frame, _)) = frame::split(&self.input).unwrap() {
                let (message, len) = (Message { tag: frame.tag, body: frame.body.to_vec() }, frame.bytes.len());
                self.input.advance(len);
                if self.heard.len() < HEARD_MAX && message.body.len() < 1000 {
                    self.heard.push(message.clone());
                }
                return Some(message);
            }
            let wanted = frame::head(&self.input).unwrap().map_or(0, |head| head.len);
            self.input.reserve(wanted.saturating_sub(self.input.len()));
            if !self.fill() {
                let whole = self.input.is_empty() || self.may_tear;
                assert!(whole, "hung up in the middle of a message: {}", self.input.escape_ascii());
                return None;
            }
        }
    }

    /// Reads more; gives whether there was.
    fn fill(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(len) => {
                self.input.extend(chunk.get(..len).unwrap());
                len > 0
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => {
                panic!("no reply ({error}) to: {}; it began with {:?}", self.asked.escape_ascii(), self.heard)
            }
        }
    }

    /// The next message.
    ///
    /// # Panics
    /// When none comes.
    pub fn receive(&mut self) -> Message {
        self.try_receive().unwrap_or_else(|| panic!("the server has hung up"))
    }

    /// One byte, as the answer to an SSLRequest is.
    ///
    /// # Panics
    /// When none comes.
    pub fn receive_byte(&mut self) -> u8 {
        if self.input.is_empty() {
            assert!(self.fill(), "the server has hung up");
        }
        self.input.get_u8()
    }

    /// One byte of whatever comes; `None` when the server has hung up.
    ///
    /// # Panics
    /// When neither comes in time.
    pub fn try_receive_byte(&mut self) -> Option<u8> {
        if self.input.is_empty() && !self.fill() {
            return None;
        }
        Some(self.input.get_u8())
    }

    /// Everything up to the next ReadyForQuery.
    ///
    /// # Panics
    /// When it does not come.
    pub fn reply(&mut self) -> Reply {
        let mut reply = Reply::default();
        loop {
            match self.try_receive() {
                Some(message) => reply.messages.push(message),
                None => panic!("the server has hung up after {reply:?}"),
            }
            if reply.messages.last().is_some_and(|message| message.tag == b'Z') {
                return reply;
            }
        }
    }

    /// Everything up to a message of this kind, which is included.
    ///
    /// # Panics
    /// When it does not come.
    pub fn receive_until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = vec![self.receive()];
        while messages.last().is_some_and(|message| message.tag != tag) {
            messages.push(self.receive());
        }
        messages
    }

    /// What comes before the server hangs up.
    ///
    /// # Panics
    /// When it does not hang up.
    pub fn receive_to_end(&mut self) -> Vec<Message> {
        std::iter::from_fn(|| self.try_receive()).collect()
    }

    /// What comes up to the next ReadyForQuery, or before the server hangs up.
    ///
    /// # Panics
    /// When neither happens.
    pub fn receive_to_end_or_ready(&mut self) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        while messages.last().is_none_or(|message| message.tag != b'Z') {
            match self.try_receive() {
                Some(message) => messages.push(message),
                None => break,
            }
        }
        messages
    }

    /// Everything up to the next ReadyForQuery, or `None` when the server hangs up before it, be it within a message.
    ///
    /// # Panics
    /// When neither happens.
    pub fn reply_unless_cut(&mut self) -> Option<Reply> {
        let mut reply = Reply::default();
        loop {
            while let Some((frame, _)) = frame::split(&self.input).unwrap() {
                let (message, len) = (Message { tag: frame.tag, body: frame.body.to_vec() }, frame.bytes.len());
                self.input.advance(len);
                let last = message.tag == b'Z';
                reply.messages.push(message);
                if last {
                    return Some(reply);
                }
            }
            if !self.fill() {
                return None;
            }
        }
    }

    /// The error with which the server hangs up.
    ///
    /// # Panics
    /// When there is none, or it does not hang up.
    pub fn farewell(&mut self) -> ErrorReply {
        let messages = self.receive_to_end();
        let last = messages.iter().rfind(|message| message.tag == b'E');
        last.map(|message| ErrorReply::read(&message.body)).unwrap_or_else(|| panic!("no error: {messages:?}"))
    }

    /// Sends a simple query and gives its reply.
    ///
    /// # Panics
    /// When there is none.
    pub fn query(&mut self, text: &str) -> Reply {
        self.ask(&Request::new().query(text))
    }

    /// Sends a request that ends with one Sync or is one Query, and gives its reply.
    ///
    /// # Panics
    /// When there is none.
    pub fn ask(&mut self, request: &Request) -> Reply {
        self.send(request.bytes());
        self.reply()
    }

    /// Its cancel key: process id and secret.
    #[must_use]
    pub fn key(&self) -> (u32, Vec<u8>) {
        self.key.clone()
    }

    /// Asks for what it is doing to be cancelled, and waits until the server has taken note.
    ///
    /// # Panics
    /// When nobody listens.
    pub fn cancel(&self) {
        send_cancel(self.port, &self.key());
    }

    /// Hangs up at once, with whatever is unread thrown away.
    pub fn hang_up(self) {
        // the server may have done so already
        let _shut: io::Result<()> = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

impl RawClient {
    /// Lets the server hang up in the middle of a message, as it must when the message cannot be had to its end.
    pub fn may_be_torn(&mut self) {
        self.may_tear = true;
    }

    /// Hangs up as a process that crashes does: the peer hears of a reset, not of an end.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }
}

/// Sends a cancel request and waits until the server has taken note.
///
/// # Panics
/// When nobody listens.
pub fn send_cancel(port: u16, (process_id, secret): &(u32, Vec<u8>)) {
    let mut canceller = RawClient::open(port);
    let mut out = BytesMut::new();
    startup::write_cancel(&mut out, *process_id, secret);
    canceller.send(&out);
    assert!(canceller.receive_to_end().is_empty(), "a cancel request is not answered");
}
