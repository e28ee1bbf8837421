//! What comes of requests is counted: how long they took, and by statement (see [`crate::tally`]). A reply that nobody gets is
//! not counted by statement: the request was issued again elsewhere, or its client has left.

use std::time::Instant;

use dbproto::message::backend::TransactionStatus;
use dbproto::pipeline::{Audience, Expect, Owed};

use super::Reply;
use crate::pipe::{List, Mark};
use crate::stopwatch::micros;
use crate::tally::{Ending, Failing, Tag, Way, rows_of};

impl Reply<'_> {
    /// A request that began then is done: its transaction has ended, or goes on.
    pub(super) fn note_transaction(&mut self, status: TransactionStatus, began: Instant, now: Instant) {
        if status != TransactionStatus::Idle {
            self.server.block_since.get_or_insert(began);
            return;
        }
        let us = micros(now.saturating_duration_since(self.server.block_since.take().unwrap_or(began)));
        self.pool.stats.transactions += 1;
        self.pool.stats.xact_us = self.pool.stats.xact_us.saturating_add(us);
    }

    /// An execution has ended.
    pub(super) fn count_call(&mut self, tag: Tag, ending: Ending) {
        let way = if self.server.list == List::Shared { Way::Shared } else { Way::Exclusive };
        if self.session.is_some() {
            self.tallies.on_executed(self.server.pool, tag, way, ending);
        }
    }

    pub(super) fn count_rows(&mut self, tag: Tag, command_tag: &[u8]) {
        if let Some(session) = self.session.as_deref_mut() {
            let rows = rows_of(command_tag);
            session.account.rows = session.account.rows.saturating_add(rows);
            self.tallies.on_rows(self.server.pool, tag, rows);
        }
    }

    pub(super) fn count_error(&mut self, owed: Owed) {
        let tag = Mark::tag_of(owed);
        if owed.expect == Expect::Execute {
            self.count_call(tag, Ending::Badly);
        } else if let Some(session) = self.session.as_deref_mut().filter(|_| owed.audience == Audience::Client) {
            if owed.expect.is_terminal() {
                // that it ended is counted when the server is ready again
                self.tallies.on_failed(self.server.pool, tag);
            } else {
                // of which statement of the group, is told by its Sync
                session.account.failure = Failing::Yes;
            }
        }
    }

    /// A request has ended; gives how many rows it gave or changed.
    pub(super) fn end_of_request(&mut self) -> u64 {
        let Some(session) = self.session.as_deref_mut() else { return 0 };
        session.record.requests += 1;
        std::mem::take(&mut session.account.rows)
    }

    /// A request has ended; gives the tag that its time is counted for.
    pub(super) fn count_ready(&mut self, owed: Owed) -> Tag {
        let tag = Mark::tag_of(owed);
        let Some(session) = self.session.as_deref_mut() else { return Tag::NONE };
        let failure = std::mem::take(&mut session.account.failure);
        if owed.expect == Expect::Sync {
            if failure == Failing::Yes {
                self.count_call(tag, Ending::Badly);
            }
        } else {
            self.count_call(tag, Ending::Well);
        }
        tag
    }
}
