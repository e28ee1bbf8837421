//! Where may the request of a session run that listens by the line?
//!
//! Anywhere, if it is known to change nothing that lasts, to notify nobody and to open no transaction: then it can neither see nor
//! change what its session listens to. Everything else runs where PostgreSQL itself knows the session's channels.

use dbproto::frame;
use dbproto::message::frontend::{Bind, Parse, query_text, tag};
use dbproto::sql::Backslash;

use crate::listen::Hearing;
use crate::pipe::Soil;
use crate::pool::Pool;
use crate::session::setting::Setting;
use crate::session::{Naming, Reading, Session, SessionId, Unnamed};
use crate::shard::Shard;
use crate::verdict::judge;

/// See the module documentation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wish {
    /// On any connection.
    Anywhere,
    /// On one that listens to what the session listens to.
    Home,
}

impl Shard {
    /// Finds out where the request at the front of a session's input may run, if it listens by the line; `len` is where it ends,
    /// if that is known.
    pub(crate) fn note_wish(&mut self, id: SessionId, len: Option<usize>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.ears.as_ref().is_none_or(|ears| ears.hearing != Hearing::Line) {
            return;
        }
        let pool = self.pools.get(session.pool.0 as usize);
        let request = len.and_then(|len| session.input.get(..len));
        let harmless = pool.zip(request).is_some_and(|(pool, request)| is_harmless(session, pool, request).is_some());
        if let Some(ears) = &mut session.ears {
            ears.wish = if harmless { Wish::Anywhere } else { Wish::Home };
        }
    }
}

/// Something, if the whole request is.
fn is_harmless(session: &Session, pool: &Pool, request: &[u8]) -> Option<()> {
    if session.reading != Reading::Usual || session.naming != Naming::Ours {
        return None;
    }
    let catalog = pool.catalog()?;
    // in statement mode none outlasts its request
    let may_open = pool.settings.mode == config::PoolMode::Statement;
    let opens_transaction = |text: &[u8]| !may_open && opens_transaction(text);
    let text_is_harmless = |text: &[u8]| {
        let harmless = is_setting(text) || judge(text, Backslash::Literal, catalog).soil != Soil::Unknown;
        (harmless && !opens_transaction(text)).then_some(())
    };
    let mut rest = request;
    let mut parsed = false;
    while let Some((message, after)) = frame::split(rest).ok()? {
        rest = after;
        match message.tag {
            tag::QUERY => text_is_harmless(query_text(message.body).ok()?)?,
            tag::PARSE => {
                let parse = Parse::read(message.body).ok()?;
                text_is_harmless(parse.query)?;
                parsed |= parse.name.is_empty();
            }
            tag::BIND => {
                let bind = Bind::read(message.body).ok()?;
                let known = match (bind.statement.is_empty(), &session.unnamed) {
                    (true, _) if parsed => None,
                    (true, Unnamed::Is(statement)) => Some(statement),
                    (true, Unnamed::OnServer) => return None,
                    (true, Unnamed::Absent) => None,
                    // a name of this request's own was looked at when it was parsed
                    (false, _) => session.statements.get(bind.statement),
                };
                if let Some(statement) = known {
                    let text = &statement.source.text;
                    (statement.verdict(catalog).soil != Soil::Unknown || is_setting(text)).then_some(())?;
                    (!opens_transaction(text)).then_some(())?;
                }
            }
            tag::FUNCTION_CALL => return None,
            _ => {}
        }
    }
    Some(())
}

/// Whether a text is a setting that the session carries, and none of how names are written.
fn is_setting(text: &[u8]) -> bool {
    match Setting::read(text) {
        Some(Setting::Set { name, .. } | Setting::Reset { name } | Setting::Restore { name }) => {
            !name.contains("encoding")
        }
        Some(Setting::ResetAll | Setting::RestoreAll) | None => false,
    }
}

/// Whether a text may open a transaction that outlasts it.
fn opens_transaction(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    text.split(|byte| !is_part(byte))
        .any(|word| word.eq_ignore_ascii_case(b"begin") || word.eq_ignore_ascii_case(b"start"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_open_a_transaction_is_told_by_whole_words() {
        for text in ["BEGIN", "start transaction", "select 1;begin", "/**/begin/**/work"] {
            assert!(opens_transaction(text.as_bytes()), "{text}");
        }
        for text in ["", "select beginning, restart from t", "commit"] {
            assert!(!opens_transaction(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn settings_are_carried_but_not_those_of_encodings() {
        assert!(is_setting(b"set work_mem = '1MB'") && is_setting(b"reset work_mem"));
        for text in [
            "set client_encoding = latin1",
            "reset all",
            "set names 'latin1'",
            "listen x",
            "close all; unlisten *; reset all",
        ] {
            assert!(!is_setting(text.as_bytes()), "{text}");
        }
    }
}
