//! One connection that waits for its answers: to make a scenario's data and to look at it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use dbproto::auth::client::ClientAuth;
use dbproto::frame;
use dbproto::message::backend::{Authentication, ErrorFields, columns};
use dbproto::message::frontend;
use dbproto::startup;
use runtime::Address;

use crate::generator::scenario::Data;
use crate::generator::target::Target;
use crate::generator::trouble::Trouble;

/// Longest wait for a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);
/// Longest wait for an answer: data may take a while to be made.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(300);
/// Longest message.
const MESSAGE_LEN_MAX: usize = 1 << 20;

/// A connection that has logged in.
#[derive(Debug)]
pub(crate) struct Talk {
    stream: TcpStream,
    input: BytesMut,
}

/// Rows of columns; `None` is NULL.
pub(crate) type Rows = Vec<Vec<Option<String>>>;

impl Talk {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`Trouble::Unreachable`] or [`Trouble::Refused`].
    pub(crate) fn connect(target: &Target) -> anyhow::Result<Self> {
        let unreachable = |reason: String| Trouble::Unreachable { target: target.shown.clone(), reason };
        let Address::Tcp(address) = target.address else {
            bail!(Trouble::Usage("only TCP is spoken here".to_owned()));
        };
        let open = || {
            let stream = TcpStream::connect_timeout(&address, CONNECT_TIME_MAX)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(ANSWER_TIME_MAX))?;
            stream.set_write_timeout(Some(ANSWER_TIME_MAX))?;
            Ok(stream)
        };
        let stream = open().map_err(|error: std::io::Error| unreachable(error.to_string()))?;
        let mut talk = Self { stream, input: BytesMut::new() };
        let (user, database) = (target.user.as_bytes(), target.database.as_bytes());
        let mut out = BytesMut::new();
        startup::write_startup(
            &mut out,
            &[(b"user", user), (b"database", database), (b"application_name", b"optimacore-bench")],
        );
        talk.stream.write_all(&out).map_err(|error| unreachable(error.to_string()))?;
        let mut auth = ClientAuth::new(user, target.password.as_deref().map(str::as_bytes));
        loop {
            let (tag, body) = talk.receive().map_err(|error| unreachable(format!("{error:#}")))?;
            match tag {
                b'R' => {
                    let refused = |reason: String| Trouble::of_login(&target.shown, "login", &reason);
                    let request = Authentication::read(&body).map_err(|error| refused(error.to_string()))?;
                    out.clear();
                    auth.handle(request, &mut out).map_err(|error| refused(error.to_string()))?;
                    talk.stream.write_all(&out).map_err(|error| unreachable(error.to_string()))?;
                }
                b'E' => {
                    let (class, text) = error_of(&body);
                    bail!(Trouble::of_login(&target.shown, &class, &text));
                }
                b'Z' => return Ok(talk),
                _ => {}
            }
        }
    }

    /// Runs statements; gives all rows.
    ///
    /// # Errors
    /// What the server says, or that it says nothing.
    pub(crate) fn query(&mut self, text: &str) -> anyhow::Result<Rows> {
        let mut out = BytesMut::new();
        frontend::write_query(&mut out, text.as_bytes())?;
        self.stream.write_all(&out)?;
        let mut rows = Rows::new();
        let mut error = None;
        loop {
            let (tag, body) = self.receive()?;
            match tag {
                b'D' => rows.push(row(&body)?),
                b'E' => error = Some(error_of(&body).1),
                b'Z' => match error {
                    Some(error) => bail!("{error}"),
                    None => return Ok(rows),
                },
                _ => {}
            }
        }
    }

    /// Runs a statement; gives the first column of the first row.
    pub(crate) fn value(&mut self, text: &str) -> anyhow::Result<Option<String>> {
        Ok(self.query(text)?.into_iter().next().and_then(|row| row.into_iter().next()).flatten())
    }

    fn receive(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        loop {
            if let Some((frame, rest)) = frame::split(&self.input)? {
                let (tag, body, left) = (frame.tag, frame.body.to_vec(), rest.len());
                let consumed = self.input.len() - left;
                drop(self.input.split_to(consumed));
                return Ok((tag, body));
            }
            if self.input.len() > MESSAGE_LEN_MAX {
                bail!("a message is far too long");
            }
            let mut buffer = [0; 8192];
            match self.stream.read(&mut buffer).context("no answer")? {
                0 => bail!("the server has closed the connection"),
                len => self.input.extend_from_slice(buffer.get(..len).unwrap_or_default()),
            }
        }
    }
}

/// Makes the data of a scenario, unless it is there; in any case it is as it must be afterwards.
///
/// # Errors
/// When it cannot be made, or is wrong even so.
pub(crate) fn prepare(target: &Target, data: &Data, told: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let mut talk = Talk::connect(target)?;
    if data.checks.is_empty() || fault(&mut talk, data).is_some() {
        for (number, statement) in (1..).zip(&data.setup) {
            told(&format!("making the data: {number} of {}", data.setup.len()));
            talk.query(statement).with_context(|| format!("the data cannot be made by: {statement}"))?;
        }
        if let Some(fault) = fault(&mut talk, data) {
            bail!("the data is not as the scenario needs it: {fault}");
        }
    }
    Ok(())
}

/// The first check that does not hold.
fn fault(talk: &mut Talk, data: &Data) -> Option<String> {
    data.checks.iter().find_map(|(query, wanted)| match talk.value(query) {
        Ok(Some(found)) if found == *wanted => None,
        Ok(found) => Some(format!("{query} gives {} instead of {wanted}", found.as_deref().unwrap_or("nothing"))),
        Err(error) => Some(format!("{query}: {error:#}")),
    })
}

fn row(body: &[u8]) -> anyhow::Result<Vec<Option<String>>> {
    let text = |column: Option<&[u8]>| column.map(|column| String::from_utf8_lossy(column).into_owned());
    Ok(columns(body).map(|column| column.map(text)).collect::<Result<_, _>>()?)
}

fn error_of(body: &[u8]) -> (String, String) {
    let fields = ErrorFields::new(body);
    let text = |code| String::from_utf8_lossy(fields.get(code).unwrap_or_default()).into_owned();
    let code = text(b'C');
    (code.get(..2).unwrap_or_default().to_owned(), format!("{code}: {}", text(b'M')))
}
