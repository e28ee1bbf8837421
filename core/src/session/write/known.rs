//! Statements that are used after the catalog has changed: does one still give what its client was told?
//!
//! A connection that has the statement from before is asked by the Bind itself. On one that has not, it is prepared and its
//! columns are compared before anything runs. Where they differ, a client that asks for them with the same request has its
//! statement prepared anew and does not notice; any other is refused as PostgreSQL would refuse it. See [`crate::shape`].

use std::rc::Rc;

use bytes::BytesMut;
use dbproto::frame;
use dbproto::message::backend::TransactionStatus;
use dbproto::message::frontend::{self, Bind, Named, Target, tag};
use dbproto::message::{MessageError, write_frame};
use dbproto::pipeline::{Expect, Owed};

use super::{Judged, Writer};
use crate::pipe::{Mark, Question};
use crate::session::{Barrier, Healing};
use crate::statement::{Preparation, Statement};

/// Whether a message may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    Now,
    /// When Postgres has said what its statement gives.
    WhenKnown,
}

impl Writer<'_> {
    /// The state of the catalog that statements are known by.
    pub(super) const fn state(&self) -> u64 {
        self.interner.state(self.catalog_state)
    }

    /// Looks at the message at the front of `input` before it is written, if it uses a statement.
    pub(super) fn before_use(&mut self, out: &mut BytesMut, input: &[u8]) -> Result<Use, MessageError> {
        self.begin_group();
        let Ok(Some((message, _))) = frame::split(input) else { return Ok(Use::Now) };
        let Some(name) = used(message.tag, message.body) else { return Ok(Use::Now) };
        let Some(statement) = self.session.statements.get(name).map(Rc::clone) else { return Ok(Use::Now) };
        let state = self.state();
        if !statement.knowledge.is_told() || self.server.status == TransactionStatus::Failed {
            return Ok(Use::Now);
        }
        let needs = self.server.prepared.preparation(statement.id, self.server.group);
        // prepared under other settings it may be another statement
        let other = needs != Preparation::Ready && statement.source.under != self.under(statement.wording);
        if !statement.knowledge.needs_proof(state) && !other {
            return Ok(Use::Now);
        }
        let changed = self.is_to_be_refused(&statement);
        let alone = self.judged == Judged::Before
            || (self.server.status == TransactionStatus::Idle
                && self.server.pipeline.is_empty()
                && !self.server.pipeline.is_open());
        if let Some(len) = describes_itself(input).filter(|_| alone) {
            if needs == Preparation::Ready && !changed {
                let again = if self.judged == Judged::Before { None } else { input.get(..len) };
                self.session.healing = Healing::Possible(again.unwrap_or_default().into());
            } else {
                let under = self.under(statement.wording);
                let renewed = self.interner.renew(&statement, state, under);
                self.session.statements.insert(name.into(), renewed);
            }
            return Ok(Use::Now);
        }
        if self.judged == Judged::Before || needs == Preparation::Ready || changed {
            return Ok(Use::Now);
        }
        self.session.barrier = Barrier::UntilKnown;
        self.server.question = Question::Asked;
        let parses = self.prepared.parses;
        let present = self.prepare(out, &statement)?;
        present.knowledge.ask(state);
        if self.prepared.parses == parses && self.server.prepared.is_new(present.id) {
            // the client has just prepared the same by another name, and nobody has asked what that gives
            self.ask_shape(out, &present)?;
        }
        if !self.server.prepared.is_new(present.id) {
            // it was there, or the request has failed already and nothing of it is answered any more
            self.session.barrier = Barrier::Open;
            self.server.question = Question::None;
            return Ok(Use::Now);
        }
        write_frame(out, tag::FLUSH, |_| {})?;
        Ok(Use::WhenKnown)
    }

    /// Asks what a statement gives on this connection.
    pub(super) fn ask_shape(&mut self, out: &mut BytesMut, statement: &Statement) -> Result<(), MessageError> {
        frontend::write_describe(out, Target::Statement, statement.name().as_bytes())?;
        self.push(Owed::nobody(Expect::DescribeStatement).marked(Mark::Shape(statement.id).encode()));
        Ok(())
    }

    /// Whether a statement would give on this connection what its client was not told; PostgreSQL would refuse it.
    pub(super) fn is_to_be_refused(&mut self, statement: &Statement) -> bool {
        if self.server.status == TransactionStatus::Failed
            || self.server.prepared.preparation(statement.id, self.server.group) == Preparation::Ready
        {
            return false;
        }
        let under = self.under(statement.wording);
        if statement.source.under == under {
            return statement.knowledge.has_changed(self.state());
        }
        // it would be prepared as another one, of which others may have been told something else
        statement.knowledge.is_told()
            && self
                .interner
                .renew(statement, statement.source.generation, under)
                .knowledge
                .contradicts(&statement.knowledge)
    }

    /// Has a message refused in the place of the client's; what PostgreSQL would have said is put in for what it says.
    pub(super) fn refuse_changed(&mut self, out: &mut BytesMut, tag: u8) -> Result<(), MessageError> {
        let expect = if tag == tag::BIND { Expect::Bind } else { Expect::DescribeStatement };
        self.push(Owed::client(expect).marked(Mark::Changed.encode()));
        write_frame(out, tag, |_| {})
    }

    /// What is noted of a Bind of a statement that the connection has.
    pub(super) fn mark_of_bind(&mut self, statement: &Statement) -> Mark {
        let state = self.state();
        let knowledge = &statement.knowledge;
        let new = self.server.prepared.is_new(statement.id);
        self.bound = (new || !knowledge.is_told()).then_some(statement.id);
        // under other settings it may mean something else, which says nothing about what it was told
        if new || !knowledge.needs_proof(state) || statement.source.under != self.under(statement.wording) {
            return Mark::None;
        }
        knowledge.ask(state);
        Mark::Proof(statement.id)
    }
}

/// The statement that a message names.
fn used(tag: u8, body: &[u8]) -> Option<&[u8]> {
    let name = match tag {
        tag::BIND => Bind::read(body).ok()?.statement,
        tag::DESCRIBE => Named::read(body).ok().filter(|named| named.target == Target::Statement)?.name,
        _ => return None,
    };
    (!name.is_empty()).then_some(name)
}

/// The length of a request that runs one statement and asks what it gives, in whatever form it comes: whoever sends that
/// needs no memory of what the statement gave before.
pub(crate) fn describes_itself(input: &[u8]) -> Option<usize> {
    let mut rest = input;
    for (place, expected) in [tag::BIND, tag::DESCRIBE, tag::EXECUTE, tag::SYNC].into_iter().enumerate() {
        let (message, after) = frame::split(rest).ok()??;
        let fits = message.tag == expected
            && match place {
                0 => Bind::read(message.body).is_ok_and(|bind| {
                    bind.portal.is_empty() && bind.result_format_count().is_ok_and(|count| count <= 1)
                }),
                1 => {
                    Named::read(message.body).is_ok_and(|named| named.target == Target::Portal && named.name.is_empty())
                }
                2 => message.body.first() == Some(&0),
                _ => true,
            };
        if !fits {
            return None;
        }
        rest = after;
    }
    Some(input.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(formats: &[u8], describe: Target) -> BytesMut {
        let mut out = BytesMut::new();
        let mut rest = vec![0, 1, 0, 1, 0, 2, 0, 0, 0, 1, b'x', 255, 255, 255, 255];
        rest.extend(formats);
        frontend::write_bind(&mut out, b"", b"s", &rest).unwrap();
        frontend::write_describe(&mut out, describe, b"").unwrap();
        frontend::write_execute(&mut out, b"", 0).unwrap();
        frontend::write_sync(&mut out);
        out
    }

    #[test]
    fn a_request_that_asks_what_it_gets_is_told_by_its_messages_and_formats() {
        let mut whole = request(&[0, 0], Target::Portal);
        let len = whole.len();
        frontend::write_query(&mut whole, b"select 1").unwrap();
        assert_eq!(describes_itself(&whole), Some(len));
        assert_eq!(describes_itself(&whole[..len - 1]), None);
        assert!(describes_itself(&request(&[0, 1, 0, 1], Target::Portal)).is_some());
        assert_eq!(describes_itself(&request(&[0, 2, 0, 0, 0, 1], Target::Portal)), None, "a format for each column");
        assert_eq!(describes_itself(&request(&[0, 0], Target::Statement)), None);
    }
}
