//! Errors that do not reach a client as they came.

use bytes::BytesMut;

use super::{Placed, Reply};
use crate::pipe::{Goodbye, List};
use crate::statement::NAME_PREFIX;

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
        let statements = &self.session.as_deref()?.statements;
        let (own, _) = statements.iter().find(|(_, statement)| statement.name().as_bytes() == name)?;
        let mut out = BytesMut::new();
        let written = dbproto::message::write_frame(&mut out, b'E', |out| {
            for piece in [before, own, after] {
                out.extend_from_slice(piece);
            }
        });
        written.is_ok().then_some(out)
    }
}
