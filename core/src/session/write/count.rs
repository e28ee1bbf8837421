//! What is written is counted by statement; see [`crate::tally`].

use dbproto::pipeline::{Audience, Expect, Owed};
use dbproto::sql::Backslash;

use super::Writer;
use crate::pipe::Mark;
use crate::server::lose;
use crate::session::{Reading, Unnamed};
use crate::statement::Statement;
use crate::tally::{Tag, Text};

impl Writer<'_> {
    /// Notes what is owed for what is being written.
    pub(super) fn push(&mut self, owed: Owed) {
        self.requests += u64::from(owed.expect.is_terminal() && owed.audience == Audience::Client);
        self.begin_flight(owed.expect);
        let before = self.server.pipeline.ready_count();
        self.server.pipeline.push(owed);
        // not where it is passed over after an error, or swallowed by a COPY
        if self.server.pipeline.ready_count() > before {
            self.server.flights.end();
            self.session.arrived_at = self.session.came_at;
        }
        let dropped: Vec<Owed> = self.server.pipeline.drain_dropped().collect();
        lose(self.server, Some(self.session), &dropped);
        if owed.expect == Expect::Sync {
            self.server.group += 1;
        }
    }

    /// Gives for how many microseconds the request has waited that is being written.
    fn begin_flight(&mut self, expect: Expect) -> u64 {
        self.server.flights.begin(expect, self.now, self.session.arrived_at)
    }

    const fn backslash(&self) -> Backslash {
        match self.session.reading {
            Reading::Usual => Backslash::Literal,
            Reading::Unusual => Backslash::Unusual,
        }
    }

    /// The text of a Query is about to run; `fingerprint` is 0 where it is not known.
    pub(super) fn count_text(&mut self, text: &[u8], fingerprint: u64) {
        let text = Text { text, backslash: self.backslash(), fingerprint };
        self.session.account.bound = self.tallies.tag(self.server.pool, &text);
    }

    /// A statement was bound.
    pub(super) fn count_statement(&mut self, statement: &Statement) {
        let tag = statement.tag(self.tallies, self.server.pool, self.backslash());
        self.count_bound(tag);
    }

    pub(super) fn count_unnamed(&mut self) {
        let tag = match &self.session.unnamed {
            Unnamed::Is(statement) => statement.tag(self.tallies, self.server.pool, self.backslash()),
            Unnamed::OnServer => self.tallies.rest(),
            Unnamed::Absent => Tag::NONE,
        };
        self.count_bound(tag);
    }

    /// What runs next is counted there.
    pub(super) fn count_bound(&mut self, tag: Tag) {
        let account = &mut self.session.account;
        account.bound = tag;
        if account.first == Tag::NONE {
            account.first = tag;
        }
    }

    /// A message of the client's that is owed this is being written; gives its mark.
    pub(super) fn count_sent(&mut self, expect: Expect) -> u32 {
        let account = &mut self.session.account;
        let (tag, begins) = match expect {
            Expect::Execute => (account.bound, false),
            Expect::Query | Expect::FunctionCall => (account.bound, true),
            // where nothing was bound nothing has run
            Expect::Sync => (account.first, account.first != Tag::NONE),
            Expect::Parse
            | Expect::Bind
            | Expect::DescribeStatement
            | Expect::DescribePortal
            | Expect::Close
            | Expect::CopyEnd
            | Expect::CopyData
            | Expect::Synthetic => (Tag::NONE, false),
        };
        if begins {
            account.first = Tag::NONE;
            let waited_us = self.begin_flight(expect);
            self.tallies.on_sent(self.server.pool, tag, waited_us);
        }
        Mark::counted(tag)
    }
}
