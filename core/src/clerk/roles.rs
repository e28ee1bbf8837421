//! Looks users up in PostgreSQL: one thread and one connection per configured database, none of the pools'.
//!
//! Questions are answered one after the other, so that the second of two for the same user finds the first one's answer. The
//! connection is made when it is needed and closed when it was not for a minute.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use config::{AuthQuery, Known};
use crossbeam::channel::{Receiver, RecvTimeoutError};
use dbproto::auth::server::{Method, Secret};
use dbproto::message::frontend::{self, Target as Of};
use runtime::ShardHandle;
use zeroize::{Zeroize as _, Zeroizing};

use super::cache::{Cache, Memory};
use super::{Account, Asker, Found, Login, Question, Role, answer};
use crate::catalog::keeper::Link;
use crate::pool::Target;
use crate::shard::{Board, Message};

/// How long an unused connection is kept.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Pause after a failure, in which nobody can be looked up.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// What is to be done.
pub(super) enum Task {
    /// Look up a user; the text is what it is called on this machine.
    Find(Question, Option<String>),
    /// What is remembered of a user is out of date.
    Forget(String),
}

/// See the module documentation.
pub(super) struct Roles {
    /// Which of the configured databases it is.
    number: usize,
    target: Target,
    board: Arc<Board>,
    query: AuthQuery,
    shards: Vec<ShardHandle<Message>>,
    mock_key: [u8; 32],
    cache: Cache,
    link: Option<Link>,
    /// By which method users prove who they are that have set their passwords lately.
    method: Option<Method>,
    failed_at: Option<Instant>,
}

impl Roles {
    pub(super) fn new(
        (number, target): (usize, Target),
        query: AuthQuery,
        shards: Vec<ShardHandle<Message>>,
        board: Arc<Board>,
    ) -> Self {
        let cache = Cache::new(query.cache_time, query.negative_cache_time);
        let mock_key = board.mock_key;
        Self { number, target, board, query, shards, mock_key, cache, link: None, method: None, failed_at: None }
    }

    /// Serves until nobody can ask any more.
    pub(super) fn run(mut self, tasks: &Receiver<Task>) {
        loop {
            match tasks.recv_timeout(IDLE_MAX) {
                Ok(Task::Find(question, system_user)) => self.find(&question, system_user),
                Ok(Task::Forget(user)) => self.cache.forget(&user, Instant::now()),
                Err(RecvTimeoutError::Timeout) => self.link = None,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn find(&mut self, question: &Question, system_user: Option<String>) {
        let account = match self.cache.recall(&question.user, Instant::now()) {
            Memory::Found(role) => Account::Known(role.clone()),
            Memory::Missing => Account::Nobody(self.method),
            Memory::Nothing => self.look_up(&question.user),
        };
        self.tell(question.asker, account, system_user);
    }

    fn tell(&self, asker: Asker, account: Account, system_user: Option<String>) {
        answer(&self.shards, asker, Found::Person(account, system_user));
    }

    fn look_up(&mut self, user: &str) -> Account {
        if self.failed_at.is_some_and(|at| at.elapsed() < RETRY_PAUSE) {
            return Account::Unknowable;
        }
        // a connection that was idle may be dead by now: that is not yet a failure
        let outcome = match self.ask(user) {
            Err(Trouble::Lost(_)) if self.link.take().is_some() => self.ask(user),
            outcome => outcome,
        };
        match outcome {
            Ok(mut role) => {
                self.failed_at = None;
                if let Some(role) = role.as_mut().filter(|role| role.secret.is_none()) {
                    // asked for in the same way as that of somebody there is not
                    let method = self.method.unwrap_or(Method::Scram);
                    role.secret = Some(Secret::mock(method, &self.mock_key, user.as_bytes()));
                }
                self.cache.remember(user, role.clone(), Instant::now());
                role.map_or(Account::Nobody(self.method), Account::Known)
            }
            Err(trouble) => {
                self.link = None;
                if self.failed_at.is_none() {
                    let address = self.target.whereabouts();
                    tracing::warn!(address, database = self.target.database, error = %trouble, "users cannot be looked up");
                }
                self.failed_at = Some(Instant::now());
                Account::Unknowable
            }
        }
    }

    fn ask(&mut self, user: &str) -> Result<Option<Role>, Trouble> {
        if self.link.is_none() {
            // what this role or database has set for itself must not change what the query means
            let settings = [
                ("application_name", "optimacore users"),
                ("search_path", "pg_catalog"),
                ("statement_timeout", "10000"),
            ];
            self.target.places = self.board.directory.places(self.number);
            self.target.tls = self.board.directory.tls(self.number);
            let mut link = Link::open_with(&self.target, &settings).map_err(Trouble::Fresh)?;
            let kind = link.query("SHOW password_encryption").map_err(Trouble::Fresh)?;
            let kind = kind.first().and_then(|row| row.first()).cloned().flatten();
            self.method = Some(if kind.as_deref() == Some(b"md5") { Method::Md5 } else { Method::Scram });
            self.link = Some(link);
        }
        let Some(link) = &mut self.link else { return Ok(None) };
        let request = request(&self.query.query, user).map_err(Trouble::Fresh)?;
        let mut rows = link.rows_of(&request).map_err(|error| {
            // PostgreSQL's own words are an answer, if not the one that was wanted
            if error.kind() == io::ErrorKind::Other { Trouble::Fresh(error) } else { Trouble::Lost(error) }
        })?;
        let role = match rows.as_slice() {
            [] => Ok(None),
            [row] => read_role(row, user, &self.mock_key).map_err(Trouble::Fresh),
            [_, _, ..] => Err(Trouble::Fresh(io::Error::other("the query gave more than one row"))),
        };
        rows.iter_mut().flatten().flatten().for_each(|value| value.zeroize());
        role
    }
}

/// Why a user could not be looked up.
enum Trouble {
    /// A connection that was there is lost.
    Lost(io::Error),
    /// It would not be better at once.
    Fresh(io::Error),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lost(error) | Self::Fresh(error) => error.fmt(f),
        }
    }
}

/// The query with the name as its parameter.
fn request(query: &str, user: &str) -> io::Result<BytesMut> {
    let len = i32::try_from(user.len()).map_err(io::Error::other)?;
    // no formats, one value, results as text
    let mut values = vec![0, 0, 0, 1];
    values.extend_from_slice(&len.to_be_bytes());
    values.extend_from_slice(user.as_bytes());
    values.extend_from_slice(&[0, 0]);
    let mut out = BytesMut::new();
    frontend::write_parse(&mut out, b"", query.as_bytes(), &[0, 0]).map_err(io::Error::other)?;
    frontend::write_bind(&mut out, b"", b"", &values).map_err(io::Error::other)?;
    frontend::write_describe(&mut out, Of::Portal, b"").map_err(io::Error::other)?;
    frontend::write_execute(&mut out, b"", 2).map_err(io::Error::other)?;
    frontend::write_sync(&mut out);
    Ok(out)
}

/// Name, secret, and if they are there: whether it may log in, and the seconds until the password ends.
fn read_role(row: &[Option<Vec<u8>>], user: &str, mock_key: &[u8; 32]) -> io::Result<Option<Role>> {
    let text =
        |index: usize| row.get(index).and_then(Option::as_deref).and_then(|value| std::str::from_utf8(value).ok());
    if row.len() < 2 {
        return Err(io::Error::other("the query gives fewer than two columns"));
    }
    if text(0) != Some(user) {
        return Err(io::Error::other("the query gave another user than it was asked for"));
    }
    let secret = text(1).map(|text| Zeroizing::new(text.to_owned())).filter(|text| !text.is_empty());
    let known = secret.map(|text| (text.starts_with("SCRAM-SHA-256$"), Known::read(&text)));
    let mut role = match known {
        // what begins like a verifier and is none is no password either
        Some((true, Known::Plain(_))) | None => Role::of(None),
        Some((_, known)) => Role::read(&known, user, mock_key),
    };
    if text(2).is_some_and(|text| text.starts_with('f')) {
        role.login = Login::Denied;
    }
    if let Some(seconds) = text(3) {
        let seconds: f64 =
            seconds.parse().map_err(|_| io::Error::other("the fourth column is no number of seconds"))?;
        let left = Duration::try_from_secs_f64(seconds.clamp(0.0, 1e9)).unwrap_or_default();
        role.ends = Instant::now().checked_add(left);
    }
    Ok(Some(role))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(values: &[Option<&str>]) -> Vec<Option<Vec<u8>>> {
        values.iter().map(|value| value.map(|value| value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_row_has_two_to_four_columns() {
        let read = |values: &[Option<&str>]| read_role(&row(values), "ann", &[0; 32]);
        let md5 = "md53175bce1d3201d16594cebf9d7eb3f9d";
        let role = read(&[Some("ann"), Some(md5)]).unwrap().unwrap();
        assert!(role.secret.is_some() && role.plain.is_none() && role.ends.is_none());
        assert_eq!(role.login, Login::Allowed);
        let role = read(&[Some("ann"), Some("secret"), Some("f"), Some("-1")]).unwrap().unwrap();
        assert!(role.secret.is_some() && role.plain.is_some() && role.ends.is_some_and(|ends| ends <= Instant::now()));
        assert_eq!(role.login, Login::Denied);
        let role = read(&[Some("ann"), None, Some("t"), None]).unwrap().unwrap();
        assert!(role.secret.is_none() && role.ends.is_none());
        assert!(read(&[Some("ann"), Some("SCRAM-SHA-256$x")]).unwrap().unwrap().secret.is_none());
        assert!(read(&[Some("bob"), Some(md5)]).is_err());
        assert!(read(&[Some("ann")]).is_err());
        assert!(read(&[Some("ann"), Some(md5), Some("t"), Some("soon")]).is_err());
    }
}
