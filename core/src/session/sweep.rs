//! What drivers send when a connection goes back to their own pool: `DISCARD ALL`, `RESET ALL`, a row of statements that let go of things.
//!
//! A session that has nothing on any server connection, and no settings but those it began with, is answered here: there is
//! nothing to let go of but what it has prepared, and that is ours.

use bytes::{Buf as _, BytesMut};
use dbproto::frame;
use dbproto::message::backend::{TransactionStatus, write_ready_for_query};
use dbproto::message::frontend::{query_text, tag};
use dbproto::message::result::{Field, Format, write_command_complete, write_data_row, write_row_description};
use dbproto::sql::{Backslash, Lexer, Token};

use crate::pipe::Soil;
use crate::session::{Naming, Pin, Reading, Session, SessionId, Unnamed};
use crate::shard::{Shard, World};

/// Longest text that is read.
const TEXT_LEN_MAX: usize = 256;
/// The type of what a function gives that gives nothing.
const VOID: u32 = 2278;
/// How such texts begin; a look at that spares the rest to nearly all others.
const BEGINNINGS: [&[u8]; 7] = [
    b"discard",
    b"reset all",
    b"deallocate",
    b"close all",
    b"unlisten",
    b"select pg_advisory_unlock_all",
    b"set session authorization",
];

/// One statement that lets go of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sweep {
    Everything,
    Plans,
    Sequences,
    Temporary,
    Settings,
    User,
    Statements,
    Cursors,
    Channels,
    Locks,
}

impl Sweep {
    /// The words it consists of, and its command tag.
    const ALL: [(Self, &str, &str); 11] = [
        (Self::Everything, "discard all", "DISCARD ALL"),
        (Self::Plans, "discard plans", "DISCARD PLANS"),
        (Self::Sequences, "discard sequences", "DISCARD SEQUENCES"),
        (Self::Temporary, "discard temp", "DISCARD TEMP"),
        (Self::Settings, "reset all", "RESET"),
        (Self::User, "set session authorization default", "SET"),
        (Self::Statements, "deallocate all", "DEALLOCATE ALL"),
        (Self::Statements, "deallocate prepare all", "DEALLOCATE ALL"),
        (Self::Cursors, "close all", "CLOSE CURSOR ALL"),
        (Self::Channels, "unlisten *", "UNLISTEN"),
        (Self::Locks, "select pg_advisory_unlock_all ( )", "SELECT 1"),
    ];
}

/// Reads a text that consists of such statements; none if it is anything else.
fn read(text: &[u8]) -> Option<Vec<(Sweep, &'static str)>> {
    let text = text.trim_ascii();
    let begins = |word: &&[u8]| text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word));
    if text.len() > TEXT_LEN_MAX || !BEGINNINGS.iter().any(begins) {
        return None;
    }
    let mut lexer = Lexer::new(text, Backslash::Unusual);
    let mut statements = vec![String::new()];
    while let Some(token) = lexer.poll_token().ok()? {
        let word = match token {
            Token::Word(word) | Token::Operator(word) => std::str::from_utf8(word).ok()?.to_ascii_lowercase(),
            Token::Punctuation(b';') => {
                statements.push(String::new());
                continue;
            }
            Token::Punctuation(byte) => char::from(byte).to_string(),
            Token::Quoted(_) | Token::String | Token::Number | Token::Parameter(_) | Token::Cast => return None,
        };
        let statement = statements.last_mut()?;
        if !statement.is_empty() {
            statement.push(' ');
        }
        statement.push_str(&word);
    }
    let known =
        |text: &String| Sweep::ALL.iter().find(|(_, words, _)| words == text).map(|(sweep, _, tag)| (*sweep, *tag));
    let sweeps: Vec<_> = statements.iter().filter(|text| !text.is_empty()).map(known).collect::<Option<_>>()?;
    // with others in one text PostgreSQL refuses it
    let together = sweeps.len() > 1 && sweeps.iter().any(|(sweep, _)| *sweep == Sweep::Everything);
    (!sweeps.is_empty() && !together).then_some(sweeps)
}

impl Session {
    /// Whether nothing of it is on a server connection, and no setting other than it began with.
    fn has_nothing_elsewhere(&self) -> bool {
        self.pin == Pin::No
            && self.home.is_none()
            && self.ears.is_none()
            && self.changes.is_empty()
            && self.naming == Naming::Ours
            && self.reading == Reading::Usual
            && self.dress.fingerprint() == self.login_dress.fingerprint()
            // else a function of somebody's own could be meant
            && self.dress.settings().iter().all(|setting| &*setting.name != "search_path")
    }
}

impl Shard {
    /// Answers the request at the front of an idle session's input, if it lets go of what is not there.
    pub(super) fn sweep(&mut self, io: &mut World<'_>, id: SessionId, len: usize) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let plain = self.pools.get(session.pool.0 as usize).is_some_and(|pool| pool.target.connect_query.is_none());
        let request = session.input.get(..len).unwrap_or_default();
        let Ok(Some((message, _))) = frame::split(request) else { return false };
        if message.tag != tag::QUERY || !plain || !session.has_nothing_elsewhere() {
            return false;
        }
        let Some(sweeps) = query_text(message.body).ok().and_then(read) else { return false };
        session.input.advance(len.min(session.input.len()));
        // as any simple query does
        session.unnamed = Unnamed::Absent;
        for (sweep, _) in &sweeps {
            match sweep {
                Sweep::Everything => {
                    session.statements.clear();
                    session.custom.clear();
                }
                Sweep::Statements => session.statements.clear(),
                Sweep::Plans
                | Sweep::Sequences
                | Sweep::Temporary
                | Sweep::Settings
                | Sweep::User
                | Sweep::Cursors
                | Sweep::Channels
                | Sweep::Locks => {}
            }
        }
        answer(io.output(session.socket), &sweeps);
        let pool = session.pool;
        if sweeps.iter().any(|(sweep, _)| matches!(sweep, Sweep::Everything | Sweep::Sequences)) {
            self.forget_sequences(id, pool);
        }
        true
    }

    /// The values of sequences that a session has used are nobody's any more.
    fn forget_sequences(&mut self, id: SessionId, pool: crate::pool::PoolId) {
        let Some(pool) = self.pools.get(pool.0 as usize) else { return };
        for server in pool.idle.iter().chain(&pool.shared).chain(&pool.draining).copied() {
            if let Some(server) = self.servers.get_mut(server)
                && server.last_session == Some(id)
                && server.soil == Soil::Sequences
            {
                server.last_session = None;
            }
        }
    }
}

/// What PostgreSQL would answer.
fn answer(out: &mut BytesMut, sweeps: &[(Sweep, &'static str)]) {
    for (sweep, tag) in sweeps {
        if *sweep == Sweep::Locks {
            let field = Field { name: "pg_advisory_unlock_all", type_oid: VOID, type_len: 4, format: Format::Text };
            // bounded
            let _written: Result<(), _> = write_row_description(out, [field].into_iter());
            let _written: Result<(), _> = write_data_row(out, [Some(b"")].into_iter());
        }
        write_command_complete(out, tag);
    }
    write_ready_for_query(out, TransactionStatus::Idle);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_only_let_go_are_read() {
        let kinds =
            |text: &str| read(text.as_bytes()).map(|all| all.iter().map(|(sweep, _)| *sweep).collect::<Vec<_>>());
        assert_eq!(kinds(" Discard ALL; "), Some(vec![Sweep::Everything]));
        assert_eq!(kinds("DEALLOCATE PREPARE ALL"), Some(vec![Sweep::Statements]));
        assert_eq!(
            kinds("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;"),
            Some(vec![Sweep::Locks, Sweep::Cursors, Sweep::Channels, Sweep::Settings])
        );
        for text in [
            "",
            ";",
            "discard all; reset all",
            "close all; select 1",
            "deallocate a",
            "select pg_advisory_unlock_all(), f()",
            "set session authorization 'x'",
            "discard \"all\"",
            "unlisten a",
        ] {
            assert_eq!(kinds(text), None, "{text}");
        }
    }
}
