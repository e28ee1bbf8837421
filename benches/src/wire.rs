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
pub struct Client(TcpStream);

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
        let len = u32::try_from(text.len() + 5)?;
        let mut message = vec![b'Q'];
        message.extend(len.to_be_bytes());
        message.extend(text.as_bytes());
        message.push(0);
        self.0.write_all(&message)?;
        self.expect_ready()
    }

    fn expect_ready(&mut self) -> anyhow::Result<()> {
        let mut refused = None;
        loop {
            let (tag, body) = match self.read_message() {
                Ok(message) => message,
                // what an ErrorResponse before it said is the better reason
                Err(error) => bail!(refused.unwrap_or_else(|| error.to_string())),
            };
            match tag {
                b'Z' => match refused {
                    Some(refused) => bail!(refused),
                    None => return Ok(()),
                },
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
    fn a_startup_message_counts_itself() {
        let message = startup();
        assert_eq!(usize::from(*message.get(3).unwrap()), message.len());
        assert!(message.ends_with(b"bench\0\0"));
    }
}
