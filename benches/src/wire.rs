//! Just enough of the PostgreSQL protocol to be an idle client: log in without a password, run a statement, read until the
//! server is ready.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};
use socket2::{Domain, Socket, Type};

/// The user of everything here.
pub(crate) const USER: &str = "bench";
/// The database of everything here: the one initdb makes.
pub(crate) const DATABASE: &str = "postgres";
const PROTOCOL: i32 = 3 << 16;
const TIME_MAX: Duration = Duration::from_secs(30);
/// Longest message we expect.
const MESSAGE_LEN_MAX: usize = 64 * 1024;

/// A client that has logged in.
#[derive(Debug)]
pub struct Client(pub(crate) TcpStream);

impl Client {
    /// Connects from a source address to a port of 127.0.0.1 and logs in.
    pub fn connect(source: Ipv4Addr, port: u16) -> anyhow::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // unbound, a port is chosen when the other end is known, so that each other end has all ports
        if source != Ipv4Addr::LOCALHOST {
            socket.bind(&SocketAddr::from((source, 0)).into()).with_context(|| format!("cannot use {source}"))?;
        }
        socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
        let mut client = Self(socket.into());
        client.0.set_nodelay(true)?;
        client.0.set_read_timeout(Some(TIME_MAX))?;
        client.0.set_write_timeout(Some(TIME_MAX))?;
        client.0.write_all(&startup())?;
        client.expect_ready().context("log-in")?;
        Ok(client)
    }

    /// Runs statements and forgets what they give.
    pub fn query(&mut self, text: &str) -> anyhow::Result<()> {
        self.query_value(text).map(|_| ())
    }

    /// Runs a statement; gives the first column of its last row.
    pub fn query_value(&mut self, text: &str) -> anyhow::Result<Option<String>> {
        let mut body = text.as_bytes().to_vec();
        body.push(0);
        self.0.write_all(&message(b'Q', &body))?;
        self.expect_ready()
    }

    /// Sends messages that end with a Sync, and waits until they are answered.
    pub(crate) fn send(&mut self, messages: &[u8]) -> anyhow::Result<()> {
        self.0.write_all(messages)?;
        self.expect_ready().map(|_| ())
    }

    fn expect_ready(&mut self) -> anyhow::Result<Option<String>> {
        let mut refused = None;
        let mut value = None;
        loop {
            let (tag, body) = match self.read_message() {
                Ok(message) => message,
                // what an ErrorResponse before it said is the better reason
                Err(error) => bail!(refused.unwrap_or_else(|| error.to_string())),
            };
            match tag {
                b'Z' => match refused {
                    Some(refused) => bail!(refused),
                    None => return Ok(value),
                },
                b'D' => value = first_column(&body),
                b'E' => refused = Some(error_text(&body)),
                b'R' if body != [0; 4] => bail!("a password is asked for"),
                _ => (),
            }
        }
    }

    fn read_message(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut tag = [0];
        self.0.read_exact(&mut tag)?;
        let mut len = [0; 4];
        self.0.read_exact(&mut len)?;
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX).saturating_sub(4);
        if len > MESSAGE_LEN_MAX {
            return Err(io::Error::other("a message is far too long"));
        }
        let mut body = vec![0; len];
        self.0.read_exact(&mut body)?;
        let [tag] = tag;
        Ok((tag, body))
    }
}

/// A message as it travels.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    out.extend(body);
    out
}

/// The first column of a DataRow; `None` for NULL.
fn first_column(body: &[u8]) -> Option<String> {
    let (len, rest) = body.get(2..)?.split_first_chunk::<4>()?;
    let value = rest.get(..usize::try_from(i32::from_be_bytes(*len)).ok()?)?;
    Some(String::from_utf8_lossy(value).into_owned())
}

fn startup() -> Vec<u8> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for text in ["user", USER, "database", DATABASE, "application_name", "bench", ""] {
        body.extend(text.as_bytes());
        body.push(0);
    }
    let len = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    let mut out = len.to_be_bytes().to_vec();
    out.extend(body);
    out
}

/// The field `M` of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let text = body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"M"));
    String::from_utf8_lossy(text.unwrap_or(b"an error without a text")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_message() {
        assert_eq!(error_text(b"SFATAL\0C53300\0Mtoo many clients\0\0"), "too many clients");
        assert_eq!(error_text(b"\0"), "an error without a text");
    }

    #[test]
    fn the_first_column_of_a_row_is_read() {
        assert_eq!(first_column(b"\0\x02\0\0\0\x02ab\0\0\0\x01c").as_deref(), Some("ab"));
        assert_eq!(first_column(b"\0\x01\xff\xff\xff\xff"), None);
        assert_eq!(first_column(b"\0\x01\0\0\0\x09ab"), None);
    }

    #[test]
    fn a_startup_message_counts_itself() {
        let message = startup();
        assert_eq!(usize::from(*message.get(3).unwrap()), message.len());
        assert!(message.ends_with(b"bench\0\0"));
    }
}
