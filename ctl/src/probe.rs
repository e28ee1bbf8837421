//! A client small enough to ask a server one thing: log in, run a statement, read one value.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use dbproto::auth::{ClientAuth, Step};
use dbproto::message::backend::{Authentication, ErrorFields, columns};
use dbproto::message::frontend;
use dbproto::{frame, startup};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const USER: &str = "postgres";
const DATABASE: &str = "postgres";

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// An address.
    Tcp(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

/// Runs a statement as `postgres` in `postgres`; the first column of the first row, if there is one and it is not NULL.
pub(crate) fn query(target: &Target, password: Option<&str>, sql: &str) -> anyhow::Result<Option<String>> {
    match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            converse(stream, password, sql)
        }
        Target::Unix(path) => {
            let stream = UnixStream::connect(path)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
            converse(stream, password, sql)
        }
    }
}

fn converse(mut stream: impl Read + Write, password: Option<&str>, sql: &str) -> anyhow::Result<Option<String>> {
    let mut auth = ClientAuth::new(USER.as_bytes(), password.map(str::as_bytes));
    let mut out = BytesMut::new();
    startup::write_startup(&mut out, &[(b"user", USER.as_bytes()), (b"database", DATABASE.as_bytes())]);
    let mut input = BytesMut::new();
    let mut asked = false;
    let mut value = None;
    loop {
        if !out.is_empty() {
            stream.write_all(&out.split())?;
        }
        let (tag, body) = next_message(&mut stream, &mut input)?;
        match tag {
            b'R' => {
                let step: Step = auth.handle(Authentication::read(&body)?, &mut out)?;
                debug_assert!(step == Step::Continue || out.is_empty(), "nothing follows the end of a login");
            }
            b'E' => {
                let fields = ErrorFields::new(&body);
                let text = |code| String::from_utf8_lossy(fields.get(code).unwrap_or_default()).into_owned();
                bail!("{} ({})", text(b'M'), text(b'C'));
            }
            b'D' if value.is_none() => {
                let first = columns(&body).next().transpose()?.flatten();
                value = first.map(|text| String::from_utf8_lossy(text).into_owned());
            }
            b'Z' if asked => {
                frontend::write_terminate(&mut out);
                stream.write_all(&out)?;
                return Ok(value);
            }
            b'Z' => {
                asked = true;
                frontend::write_query(&mut out, sql.as_bytes())?;
            }
            _ => {}
        }
    }
}

/// Reads one message: its tag and body.
pub(crate) fn next_message(stream: &mut impl Read, input: &mut BytesMut) -> anyhow::Result<(u8, BytesMut)> {
    loop {
        let len = frame::split(input)?.map(|(frame, _)| (frame.tag, frame.bytes.len()));
        if let Some((tag, len)) = len {
            let mut bytes = input.split_to(len);
            drop(bytes.split_to(5.min(len)));
            return Ok((tag, bytes));
        }
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).context("no answer")?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        input.extend_from_slice(buffer.get(..count).unwrap_or_default());
    }
}
