//! Errors that do not reach a client as they came.

use bytes::BytesMut;

use super::{Placed, Reply};
use crate::pipe::{Goodbye, List};
use crate::session::Change;
use crate::statement::{NAME_PREFIX, Statement};

impl Reply<'_> {
    /// PostgreSQL ends the connection. That is nothing to a client who has it for a request only; in session mode it is the
    /// client's own, which ends with it and is told why by PostgreSQL.
    pub(super) fn fatal(&mut self) -> Placed {
        let own = self.pool.settings.mode == config::PoolMode::Session && self.server.list == List::Exclusive;
        let to = self.to.filter(|_| own && self.session.is_some());
        self.server.said_goodbye = if to.is_some() { Goodbye::ToldClient } else { Goodbye::Said };
        Placed::at(to)
    }

    /// An error that names a statement by a name of ours, with the session's name for it.
    pub(super) fn with_own_names(&self, body: &[u8]) -> Option<BytesMut> {
        let at = body.windows(NAME_PREFIX.len()).position(|part| part == NAME_PREFIX)?;
        let (before, rest) = body.split_at_checked(at)?;
        let digits = rest.get(NAME_PREFIX.len()..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (name, after) = rest.split_at_checked(NAME_PREFIX.len() + digits)?;
        let own = self.own_name(name)?;
        let mut out = BytesMut::new();
        let written = dbproto::message::write_frame(&mut out, b'E', |out| {
            for piece in [before, own, after] {
                out.extend_from_slice(piece);
            }
        });
        written.is_ok().then_some(out)
    }

    /// What the session calls the statement that has this name of ours; by now it may have closed it, or know a later form.
    fn own_name(&self, name: &[u8]) -> Option<&[u8]> {
        let session = self.session.as_deref()?;
        let known = || {
            let closed = session.changes.iter().filter_map(|change| match change {
                Change::Removed(name, statement) => Some((name, statement)),
                Change::Added(_) | Change::Unnamed(_) => None,
            });
            session.statements.iter().chain(closed)
        };
        let digits = std::str::from_utf8(name.get(NAME_PREFIX.len()..)?).ok()?;
        let there = digits.parse().ok().and_then(|id| self.server.prepared.statement(id));
        let same =
            |statement: &Statement| there.as_ref().is_some_and(|there| there.source.text == statement.source.text);
        let (own, _) = known()
            .find(|(_, statement)| statement.name().as_bytes() == name)
            .or_else(|| known().find(|(_, statement)| same(statement)))?;
        Some(own)
    }
}
