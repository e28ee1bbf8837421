//! `ctl admin`: a command for the data plane's console, and what it answers, as a table or JSON.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::BytesMut;
use dbproto::auth::{ClientAuth, Step};
use dbproto::message::backend::{Authentication, ErrorFields, columns};
use dbproto::message::frontend;
use dbproto::startup;
use serde_json::{Map, Value, json};

use crate::{probe, statistics, terminal};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(
    after_help = "For example: `ctl admin show pools`, `ctl admin --json show stats`, `ctl admin pause app`, `ctl admin reload`; \
                        `ctl admin show help` tells them all. The password is taken from PGPASSWORD. Exit code 1 when the command is refused."
)]
pub(crate) struct Options {
    /// Where the data plane listens: an address, a name, or the directory of its Unix socket. Default: PGHOST, or 127.0.0.1.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Its port. Default: PGPORT, or 6432.
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// A user of `admin.admin_users` or `admin.stats_users`. Default: PGUSER, or postgres.
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Print JSON, a line for each command: what is shown as a list of objects, other commands as an object.
    #[arg(long)]
    json: bool,
    /// The command; several between semicolons.
    #[arg(required = true, value_name = "COMMAND", trailing_var_arg = true)]
    command: Vec<String>,
}

/// What came of one command.
#[derive(Default)]
struct Outcome {
    /// The columns, and which hold numbers.
    columns: Vec<(String, bool)>,
    rows: Vec<Vec<Option<String>>>,
    notices: Vec<String>,
    tag: String,
}

/// An error of the console's.
struct Refused(String);

pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let given = |own: Option<&String>, name: &str, default: &str| {
        let from_outside = || std::env::var(name).ok().filter(|value| !value.is_empty());
        own.cloned().or_else(from_outside).unwrap_or_else(|| default.to_owned())
    };
    let host = given(options.host.as_ref(), "PGHOST", "127.0.0.1");
    let port = given(options.port.map(|port| port.to_string()).as_ref(), "PGPORT", "6432");
    let port: u16 = port.parse().with_context(|| format!("PGPORT is {port}"))?;
    let user = given(options.user.as_ref(), "PGUSER", "postgres");
    let command = options.command.join(" ");
    let told = connect(&host, port)
        .with_context(|| format!("cannot reach a data plane at {host} port {port}"))
        .and_then(|stream| ask(stream, &user, &command));
    let (outcomes, refused) = told?;
    for outcome in &outcomes {
        terminal::print(&if options.json { outcome.to_json().to_string() } else { outcome.to_text() })?;
    }
    match refused {
        None => Ok(ExitCode::SUCCESS),
        Some(Refused(why)) => Err(anyhow!(why)),
    }
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

fn connect(host: &str, port: u16) -> anyhow::Result<Box<dyn Stream>> {
    if host.starts_with('/') {
        return Ok(Box::new(UnixStream::connect(Path::new(host).join(format!(".s.PGSQL.{port}")))?));
    }
    let mut last = anyhow!("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(Box::new(stream));
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// Logs in and asks; some commands take as long as clients take to be done. Gives what was answered before an error, and that.
fn ask(mut stream: impl Stream, user: &str, command: &str) -> anyhow::Result<(Vec<Outcome>, Option<Refused>)> {
    let password = std::env::var("PGPASSWORD").ok();
    let mut auth = ClientAuth::new(user.as_bytes(), password.as_ref().map(String::as_bytes));
    let (mut out, mut input) = (BytesMut::new(), BytesMut::new());
    let parameters: [(&[u8], &[u8]); 3] =
        [(b"user", user.as_bytes()), (b"database", b"optimacore"), (b"application_name", b"ctl admin")];
    startup::write_startup(&mut out, &parameters);
    let mut asked = false;
    let (mut outcomes, mut refused, mut now) = (Vec::new(), None, Outcome::default());
    loop {
        if !out.is_empty() {
            stream.write_all(&out.split())?;
        }
        let next = probe::next_message(&mut stream, &mut input);
        let (tag, body) = match next {
            // SHUTDOWN ends the process before it says that it is ready for more
            Err(_) if !outcomes.is_empty() => return Ok((outcomes, refused)),
            next => next?,
        };
        match tag {
            b'R' => {
                let step: Step = auth.handle(Authentication::read(&body)?, &mut out)?;
                debug_assert!(step == Step::Continue || out.is_empty(), "nothing follows the end of a login");
            }
            b'T' => now.columns = described(&body),
            b'D' => {
                let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
                let row: Result<Vec<_>, _> = columns(&body).map(|column| column.map(|value| value.map(text))).collect();
                now.rows.push(row?);
            }
            b'N' => now.notices.push(message(&body)),
            b'C' => {
                now.tag = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(&body)).into_owned();
                outcomes.push(std::mem::take(&mut now));
            }
            b'E' if asked => refused = Some(Refused(message(&body))),
            b'E' => bail!("{}", message(&body)),
            b'Z' if asked => {
                frontend::write_terminate(&mut out);
                stream.write_all(&out)?;
                return Ok((outcomes, refused));
            }
            b'Z' => {
                asked = true;
                frontend::write_query(&mut out, command.as_bytes())?;
            }
            _ => {}
        }
    }
}

/// The words of an error or notice, with detail and hint.
fn message(body: &[u8]) -> String {
    let fields = ErrorFields::new(body);
    let text = |code| fields.get(code).map(|text| String::from_utf8_lossy(text).into_owned());
    let (detail, hint) = (text(b'D'), text(b'H'));
    let code = text(b'C').filter(|code| code != "00000").map(|code| format!(" ({code})"));
    let more = [detail, hint].into_iter().flatten().map(|text| format!("\n{text}"));
    let head = text(b'M').unwrap_or_default() + &code.unwrap_or_default();
    more.fold(head, |all, text| all + &text)
}

/// Names of a RowDescription's columns, and which hold numbers.
fn described(body: &[u8]) -> Vec<(String, bool)> {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut out = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, field) = rest.split_at(end);
        let oid = field.get(7..).and_then(|field| field.first_chunk::<4>()).map(|oid| u32::from_be_bytes(*oid));
        // int8, int4, numeric
        out.push((String::from_utf8_lossy(name).into_owned(), matches!(oid, Some(20 | 23 | 1700))));
        rest = field.get(19..).unwrap_or_default();
    }
    out
}

impl Outcome {
    fn to_text(&self) -> String {
        let mut lines = self.notices.clone();
        if self.columns.is_empty() {
            if self.notices.is_empty() || self.tag != "SHOW" {
                lines.push(self.tag.clone());
            }
        } else {
            let head: Vec<&str> = self.columns.iter().map(|(name, _)| name.as_str()).collect();
            let cell = |value: &Option<String>| value.clone().unwrap_or_default();
            let rows = self.rows.iter().map(|row| row.iter().map(cell).collect());
            let numbers: Vec<usize> =
                (0..).zip(&self.columns).filter(|(_, (_, is))| *is).map(|(index, _)| index).collect();
            let table = statistics::table_aligned(&head, |column| numbers.contains(&column), rows).to_string();
            lines.extend(table.lines().map(|line| line.trim_end().to_owned()));
        }
        lines.join("\n")
    }

    fn to_json(&self) -> Value {
        if self.columns.is_empty() {
            return json!({ "command": self.tag, "notices": self.notices });
        }
        let value = |text: &Option<String>, number: bool| match text {
            None => Value::Null,
            Some(text) if number => text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number)),
            Some(text) => json!(text),
        };
        let row = |row: &Vec<Option<String>>| {
            let named = self.columns.iter().zip(row);
            Value::Object(
                named.map(|((name, number), text)| (name.clone(), value(text, *number))).collect::<Map<_, _>>(),
            )
        };
        Value::Array(self.rows.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    fn outcome() -> Outcome {
        Outcome {
            columns: vec![("database".into(), false), ("cl_active".into(), true), ("load_balance_hosts".into(), false)],
            rows: vec![
                vec![Some("app".into()), Some("12".into()), None],
                vec![Some("pgbouncer".into()), Some("1".into()), None],
            ],
            notices: Vec::new(),
            tag: "SHOW".into(),
        }
    }

    #[test]
    fn what_is_shown_is_a_table_or_json() {
        let lines = [" database   cl_active  load_balance_hosts", " app               12", " pgbouncer          1"];
        assert_eq!(outcome().to_text(), lines.join("\n"));
        expect![[r#"[{"cl_active":12,"database":"app","load_balance_hosts":null},{"cl_active":1,"database":"pgbouncer","load_balance_hosts":null}]"#]]
            .assert_eq(&outcome().to_json().to_string());
    }

    #[test]
    fn other_commands_tell_their_name_and_what_there_is_to_know() {
        let done = Outcome { notices: vec!["pool.size: 2 -> 3".into()], tag: "RELOAD".into(), ..Outcome::default() };
        assert_eq!(done.to_text(), "pool.size: 2 -> 3\nRELOAD");
        assert_eq!(done.to_json().to_string(), r#"{"command":"RELOAD","notices":["pool.size: 2 -> 3"]}"#);
        let help = Outcome { notices: vec!["Commands".into()], tag: "SHOW".into(), ..Outcome::default() };
        assert_eq!(help.to_text(), "Commands");
    }
}
