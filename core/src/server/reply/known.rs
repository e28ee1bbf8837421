//! What replies tell of prepared statements: what they give, whether that has changed, by which name their client knows them.

use std::rc::Rc;

use bytes::BytesMut;
use dbproto::message::backend::ErrorFields;
use dbproto::message::write_frame;

use super::{Again, Reply};
use crate::pipe::{List, Mark, Question, ServerId};
use crate::session::{Barrier, Healing};
use crate::shape::{Comparison, Shape};
use crate::shard::Shard;
use crate::statement::{Statement, StatementId};

impl Shard {
    /// A session that has waited in the middle of its request for what its statement gives goes on.
    pub(in crate::server) fn go_on_if_answered(&mut self, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if server.question == Question::Answered {
            server.question = Question::None;
            if server.list == List::Exclusive {
                self.ready.extend(server.holder);
            }
        }
    }
}

impl Reply<'_> {
    /// The types of a statement's parameters.
    pub(super) fn note_types(&self, body: &[u8]) {
        if let Some(Mark::Told(id) | Mark::Shape(id)) = self.server.pipeline.head().map(Mark::of)
            && let Some(statement) = self.server.prepared.statement(id)
        {
            statement.knowledge.note_types(body);
        }
    }

    /// Postgres has said what a statement gives that was prepared here just now.
    pub(super) fn answered(&mut self, id: StatementId, tag: u8, body: &[u8]) -> Result<(), String> {
        let waits = std::mem::replace(&mut self.server.question, Question::None) == Question::Asked;
        if waits {
            self.server.question = Question::Answered;
            if let Some(session) = self.session.as_deref_mut().filter(|it| it.barrier == Barrier::UntilKnown) {
                session.barrier = Barrier::Open;
            }
        }
        let Some(statement) = self.server.prepared.statement(id) else { return Ok(()) };
        match (statement.knowledge.compare(Shape::of(tag, body)), waits) {
            (Comparison::Same, true) => statement.knowledge.confirm(),
            (Comparison::Same, false) => {}
            (Comparison::Other, true) => {
                statement.knowledge.refute();
                self.server.prepared.doubt(id);
            }
            (Comparison::Other, false) => {
                // it runs already, and its rows must not reach a client that takes them for something else
                self.interner.distrust();
                return Err("a statement gives something else than before".to_owned());
            }
        }
        Ok(())
    }

    /// The client hears what its statement gives.
    pub(super) fn told(&mut self, id: StatementId, tag: u8, body: &[u8]) {
        let Some(statement) = self.server.prepared.statement(id) else { return };
        let Some(shape) = Shape::of(tag, body) else { return };
        if statement.knowledge.tell(shape) == Comparison::Other {
            // others were told something else: from now on this one knows another statement than they
            self.interner.distrust();
            self.server.prepared.doubt(id);
            if let Some(renewed) = self.renew(&statement) {
                renewed.knowledge.tell(shape);
            }
        }
    }

    /// Postgres has run a statement that it had from before: what it gives has not changed.
    pub(super) fn proven(&self, id: StatementId) {
        if let Some(statement) = self.server.prepared.statement(id) {
            statement.knowledge.confirm();
        }
    }

    /// Postgres refuses a statement because it gives something else than before. Gives whether the request is issued again.
    pub(super) fn changed(&mut self, mark: Mark) -> Again {
        let Mark::Proof(id) = mark else {
            // which others are concerned is not known
            self.interner.distrust();
            return Again::No;
        };
        let Some(statement) = self.server.prepared.statement(id) else { return Again::No };
        statement.knowledge.refute();
        let Some(session) = self.session.as_deref_mut() else { return Again::No };
        let Healing::Possible(bytes) = std::mem::replace(&mut session.healing, Healing::No) else { return Again::No };
        session.healing = Healing::Due(bytes);
        self.renew(&statement);
        Again::Yes
    }

    /// The session's statement is from now on what it is when it is prepared now.
    fn renew(&mut self, statement: &Rc<Statement>) -> Option<Rc<Statement>> {
        let state = self.interner.state(self.pool.catalog_state());
        let renewed = self.interner.renew(statement, state, statement.source.under);
        let session = self.session.as_deref_mut()?;
        for own in session.statements.values_mut().filter(|own| own.id == statement.id) {
            *own = Rc::clone(&renewed);
        }
        Some(renewed)
    }

    /// Postgres is ready: a request that is to be issued again goes back to the front of the input.
    pub(super) fn begin_again(&mut self) -> Again {
        let Some(session) = self.session.as_deref_mut() else { return Again::No };
        match std::mem::replace(&mut session.healing, Healing::No) {
            Healing::Due(bytes) => {
                if !bytes.is_empty() {
                    let behind = std::mem::replace(&mut session.input, BytesMut::from(&*bytes));
                    session.input.extend_from_slice(&behind);
                }
                Again::Yes
            }
            Healing::No | Healing::Possible(_) => Again::No,
        }
    }
}

/// Where PostgreSQL finds that a result has changed: by this drivers tell that error from others of its kind.
const FINDER: &[u8] = b"RevalidateCachedQuery";

/// Whether an error says that a statement gives something else than when it was prepared.
pub(super) fn is_changed_result(fields: &ErrorFields<'_>) -> bool {
    fields.get(b'C') == Some(b"0A000") && fields.get(b'R') == Some(FINDER)
}

/// That error, as PostgreSQL words it.
pub(super) fn changed_result() -> BytesMut {
    let mut out = BytesMut::new();
    let message = b"cached plan must not change result type";
    // bounded
    let _written: Result<(), _> = write_frame(&mut out, b'E', |out| {
        let fields = [(b'S', &b"ERROR"[..]), (b'V', b"ERROR"), (b'C', b"0A000"), (b'M', message), (b'R', FINDER)];
        for (code, text) in fields {
            out.extend_from_slice(&[code]);
            out.extend_from_slice(text);
            out.extend_from_slice(&[0]);
        }
        out.extend_from_slice(&[0]);
    });
    out
}
