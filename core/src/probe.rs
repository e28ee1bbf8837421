//! What has a session left on its server connection? Postgres is asked.
//!
//! A text does not tell what running it leaves behind: a function may set anything, a `DO` block may lock anything. So a
//! connection on which something ran that is not known to be harmless stays its session's (`Session::home`) until somebody
//! else needs it. Then, and only then, it is asked: what can be carried to another connection (settings, role) becomes the
//! session's dress, and what cannot (advisory locks, temporary objects, cursors, ...) pins the session for as long as it is
//! there.
//!
//! Pure: the question, and what the answer means.

use std::fmt::Write as _;

use dbproto::message::backend;

use crate::dress::{Setting, literal};
use crate::listen::Channel;

/// Settings a session may have; with more it keeps its connection.
pub(crate) const SETTINGS_MAX: usize = 64;

/// Names of settings of users' own that are asked for at most: `pg_settings` does not list them.
pub(crate) const CUSTOM_MAX: usize = 64;

/// What is there: kind, name, value. Kinds are [`BONDS`]', `n` for a channel it listens to, and `s` for a setting.
const QUESTION: &str = "SELECT 'l', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_locks \
    WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) \
    UNION ALL SELECT 't', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
    OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
    OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
    UNION ALL SELECT 'c', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) \
    UNION ALL SELECT 'p', '', '' WHERE EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) \
    UNION ALL SELECT 'n', channel, '' FROM pg_catalog.pg_listening_channels() channel \
    UNION ALL SELECT 's', name, setting FROM pg_catalog.pg_settings \
    WHERE source OPERATOR(pg_catalog.=) 'session' AND context OPERATOR(pg_catalog.<>) 'internal' \
    AND name OPERATOR(pg_catalog.!~) '^transaction_' \
    UNION ALL SELECT 's', 'role', pg_catalog.current_setting('role') \
    UNION ALL SELECT 'a', session_user::pg_catalog.text, ''";

/// Whether there are sequence values: a row, unless it fails for want of any (55000).
pub(crate) const SEQUENCES: &str = "SELECT 'q', '', '' WHERE pg_catalog.lastval() IS NOT NULL";

/// Why a session is kept on its connection, by the kind of the row.
const BONDS: [(u8, &str); 5] = [
    (b'q', crate::session::write::soil::SEQUENCES),
    (b'l', "advisory lock"),
    (b't', "temporary object"),
    (b'c', "WITH HOLD cursor"),
    (b'p', "prepared in SQL"),
];

/// Whether it is known which settings of users' own the database's functions set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Functions {
    Known,
    /// Their code must be searched.
    Unknown,
}

/// The question, with the settings of users' own whose names are known.
pub(crate) fn question<'a>(custom: impl Iterator<Item = &'a str>, functions: Functions) -> String {
    let mut out = QUESTION.to_owned();
    if functions == Functions::Unknown {
        let _written: Result<(), std::fmt::Error> = write!(
            out,
            " UNION ALL SELECT 's', name, pg_catalog.current_setting(name, true) FROM ({}) named",
            crate::catalog::facts::CUSTOM
        );
    }
    for name in custom.take(CUSTOM_MAX) {
        let name = literal(name);
        // writing to a String cannot fail
        let _written: Result<(), std::fmt::Error> =
            write!(out, " UNION ALL SELECT 's', {name}, pg_catalog.current_setting({name}, true)");
    }
    out
}

/// What was found on a connection.
#[derive(Default, Debug)]
pub(crate) struct Findings {
    bond: Option<&'static str>,
    settings: Vec<(String, String)>,
    channels: Vec<Channel>,
    session_user: Option<String>,
}

/// What that means for the session.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// It can go to any connection that wears these.
    Free(Vec<Setting>),
    /// It must stay.
    Bound(&'static str),
}

impl Findings {
    /// One row of the answer.
    pub(crate) fn add(&mut self, body: &[u8]) {
        let mut columns = backend::columns(body).map(|column| column.ok().flatten());
        let (Some(Some(kind)), name, value) = (columns.next(), columns.next().flatten(), columns.next().flatten())
        else {
            return;
        };
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        match kind {
            b"s" => {
                if let (Some(name), Some(value)) = (text(name), text(value)) {
                    let unset = (name == "role" && value == "none") || (name.contains('.') && value.is_empty());
                    if !unset {
                        self.settings.push((name, value));
                    }
                }
            }
            b"a" => self.session_user = text(name),
            b"n" => self.channels.extend(name.map(Channel::from)),
            _ => {
                let bond = BONDS.iter().find(|(other, _)| kind == [*other]);
                self.bond = self.bond.or_else(|| bond.map(|(_, reason)| *reason));
            }
        }
    }

    /// There are sequence values, of which no more can be said.
    pub(crate) fn add_sequences(&mut self) {
        self.bond.get_or_insert(crate::session::write::soil::SEQUENCES);
    }

    /// The channels the connection listens to.
    pub(crate) fn take_channels(&mut self) -> Vec<Channel> {
        std::mem::take(&mut self.channels)
    }

    /// What it means, for a connection that was logged in as `login_user`.
    pub(crate) fn answer(mut self, login_user: &str) -> Answer {
        if let Some(bond) = self.bond {
            return Answer::Bound(bond);
        }
        let Some(user) = self.session_user else {
            return Answer::Bound("state that could not be asked for");
        };
        if user != login_user {
            self.settings.push(("session_authorization".to_owned(), user));
        }
        if self.settings.len() > SETTINGS_MAX {
            return Answer::Bound("too many settings");
        }
        Answer::Free(self.settings.iter().map(|(name, value)| Setting::of_value(name, value)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[Option<&str>]) -> Vec<u8> {
        let mut out = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for column in columns {
            match column {
                Some(text) => {
                    out.extend(i32::try_from(text.len()).unwrap().to_be_bytes());
                    out.extend(text.as_bytes());
                }
                None => out.extend((-1_i32).to_be_bytes()),
            }
        }
        out
    }

    fn findings(rows: &[[Option<&str>; 3]]) -> Findings {
        let mut out = Findings::default();
        for columns in rows {
            out.add(&row(columns));
        }
        out
    }

    #[test]
    fn settings_can_be_carried_and_the_rest_cannot() {
        let user = [Some("a"), Some("me"), Some("")];
        let nothing = [[Some("s"), Some("role"), Some("none")], [Some("s"), Some("app.x"), None], user];
        assert_eq!(findings(&nothing).answer("me"), Answer::Free(Vec::new()));
        let some = [[Some("s"), Some("work_mem"), Some("64")], [Some("s"), Some("role"), Some("other")], user];
        let expected = vec![Setting::of_value("work_mem", "64"), Setting::of_value("role", "other")];
        assert_eq!(findings(&some).answer("me"), Answer::Free(expected));
        assert_eq!(
            findings(&[user]).answer("postgres"),
            Answer::Free(vec![Setting::of_value("session_authorization", "me")])
        );
        assert_eq!(findings(&[[Some("l"), None, None], user]).answer("me"), Answer::Bound("advisory lock"));
        let mut listening = findings(&[[Some("n"), Some("news"), Some("")], user]);
        assert_eq!(listening.take_channels(), [Channel::from(&b"news"[..])]);
        assert_eq!(listening.answer("me"), Answer::Free(Vec::new()));
        assert_eq!(findings(&[]).answer("me"), Answer::Bound("state that could not be asked for"));
    }

    #[test]
    fn rows_that_are_none_are_passed_over() {
        let mut found = findings(&[[Some("a"), Some("me"), Some("")]]);
        found.add(b"");
        found.add(b"\xff\xff\xff\xff\xff");
        assert_eq!(found.answer("me"), Answer::Free(Vec::new()));
    }

    #[test]
    fn names_of_users_own_are_quoted() {
        let text = question(["app.it's"].into_iter(), Functions::Known);
        assert!(text.ends_with("UNION ALL SELECT 's', 'app.it''s', pg_catalog.current_setting('app.it''s', true)"));
    }
}
