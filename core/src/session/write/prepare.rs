//! Making sure that a statement is on the connection before it is used there.

use std::rc::Rc;

use bytes::BytesMut;
use dbproto::frame::Frame;
use dbproto::message::MessageError;
use dbproto::message::backend::TransactionStatus;
use dbproto::message::frontend::{self, Parse, Target};
use dbproto::pipeline::{Expect, Owed};

use super::{Judged, Writer};
use crate::pipe::{Mark, ServerUnnamed, Soil};
use crate::session::hazard::foreign;
use crate::session::{Change, Resetting, Unnamed};
use crate::statement::{Preparation, Statement, StatementName, Wording};

/// How often the connection had a statement, was given one, and lost one for want of room.
#[derive(Clone, Copy, Default)]
pub(super) struct PreparedCounts {
    pub(super) hits: u64,
    pub(super) parses: u64,
    pub(super) evicted: u64,
    pub(super) client_parses: u64,
    pub(super) client_binds: u64,
    /// Settings that came along with a request.
    pub(super) settings: u64,
}

impl Writer<'_> {
    /// What is written to a connection that owes nothing begins a group.
    pub(super) fn begin_group(&mut self) {
        if self.server.pipeline.is_empty() && !self.server.pipeline.is_open() {
            self.server.group += 1;
        }
    }

    /// Lets Postgres itself say that the name is taken: it is made to be.
    pub(super) fn refuse_duplicate(
        &mut self,
        out: &mut BytesMut,
        message: Frame<'_>,
        name: &[u8],
    ) -> Result<(), MessageError> {
        // never one of our own names, whatever the client calls it
        let (name, parse) = (foreign(name), Parse::read(message.body)?);
        if !self.server.leftovers.iter().any(|taken| **taken == *name) {
            frontend::write_parse(out, &name, b"", &[0, 0])?;
            self.push(Owed::nobody(Expect::Parse));
        }
        frontend::write_parse(out, &name, parse.query, parse.types)?;
        self.push(Owed::client(Expect::Parse));
        self.server.leftovers.push(name.into());
        Ok(())
    }

    pub(super) fn close_leftovers(&mut self, out: &mut BytesMut) -> Result<(), MessageError> {
        if self.server.leftovers.is_empty() {
            return Ok(());
        }
        for name in std::mem::take(&mut self.server.leftovers) {
            frontend::write_close(out, Target::Statement, &name)?;
            self.push(Owed::nobody(Expect::Close));
        }
        frontend::write_sync(out);
        self.push(Owed::nobody(Expect::Sync));
        Ok(())
    }

    /// Writes a Parse under our name, with what must stand before it. What it is owed is the caller's to note.
    pub(super) fn write_parse(
        &mut self,
        out: &mut BytesMut,
        statement: &Rc<Statement>,
        needs: Preparation,
    ) -> Result<(), MessageError> {
        if needs == Preparation::CloseAndParse {
            frontend::write_close(out, Target::Statement, statement.name().as_bytes())?;
            self.push(Owed::nobody(Expect::Close));
        }
        self.prepared.parses += 1;
        while let Some(oldest) = self.server.prepared.evict(self.limit.max(1)) {
            self.prepared.evicted += 1;
            frontend::write_close(out, Target::Statement, StatementName::new(oldest).as_bytes())?;
            self.push(Owed::nobody(Expect::Close).marked(Mark::Evict(oldest).encode()));
        }
        frontend::write_parse(out, statement.name().as_bytes(), &statement.source.text, statement.types())
    }

    /// Fingerprint of the settings under which Postgres would read a statement now.
    pub(super) fn under(&self, wording: Wording) -> u64 {
        let changing = !self.session.settings.is_empty() || self.session.resetting == Resetting::Yes;
        match wording {
            // what is in force is not known (`SET LOCAL`): what is prepared now is nobody else's
            _ if changing || self.server.soil == Soil::Unknown => (1 << 63) | u64::from(self.session.record.id),
            Wording::Names => self.session.dress.names() >> 1,
            Wording::Constants => self.session.dress.constants() >> 1,
        }
    }

    /// A statement that must be prepared now, under the settings that are in force now: under those it was prepared with before
    /// it may have meant something else, and it is not to be taken for that.
    fn as_of_now(&mut self, statement: &Rc<Statement>) -> Rc<Statement> {
        let source = &statement.source;
        let under = self.under(statement.wording);
        if source.under == under {
            return Rc::clone(statement);
        }
        let present = self.interner.renew(statement, source.generation, under);
        // its client expects of it what it was told of the other
        present.knowledge.inherit(&statement.knowledge);
        for known in self.session.statements.values_mut().filter(|known| known.id == statement.id) {
            *known = Rc::clone(&present);
        }
        present
    }

    /// Makes sure the connection has a statement; gives the one it has.
    pub(super) fn prepare(
        &mut self,
        out: &mut BytesMut,
        statement: &Rc<Statement>,
    ) -> Result<Rc<Statement>, MessageError> {
        let mut statement = Rc::clone(statement);
        if self.server.prepared.preparation(statement.id, self.server.group) != Preparation::Ready {
            statement = self.as_of_now(&statement);
        }
        self.prepare_as_it_is(out, &statement)?;
        Ok(statement)
    }

    /// The same for one whose meaning no setting decides.
    pub(super) fn prepare_as_it_is(
        &mut self,
        out: &mut BytesMut,
        statement: &Rc<Statement>,
    ) -> Result<(), MessageError> {
        match self.server.prepared.preparation(statement.id, self.server.group) {
            Preparation::Ready => self.prepared.hits += 1,
            needs @ (Preparation::Parse | Preparation::CloseAndParse) => {
                self.write_parse(out, statement, needs)?;
                self.server.prepared.on_parse_sent(statement, self.server.group);
                self.push(Owed::nobody(Expect::Parse).marked(Mark::OwnParse(statement.id).encode()));
                if statement.knowledge.is_told() {
                    self.ask_shape(out, statement)?;
                }
            }
        }
        Ok(())
    }

    /// The connection has the statement, but Postgres might refuse to prepare anything: it is asked, by a name that is closed after.
    pub(super) fn ask_whether_it_prepares(
        &mut self,
        out: &mut BytesMut,
        statement: &Rc<Statement>,
        name: &[u8],
    ) -> Result<(), MessageError> {
        let name = foreign(name);
        // one that the client has closed since may still be there
        frontend::write_close(out, Target::Statement, &name)?;
        self.push(Owed::nobody(Expect::Close));
        frontend::write_parse(out, &name, &statement.source.text, statement.types())?;
        self.push(Owed::client(Expect::Parse).marked(Mark::SyntheticParse(statement.id).encode()));
        self.server.leftovers.push(name.into());
        Ok(())
    }

    /// Whether Postgres might refuse to prepare anything now, for an error in the transaction.
    pub(super) fn may_be_in_failed_transaction(&self) -> bool {
        self.judged == Judged::Here
            && (self.server.status == TransactionStatus::Failed || self.server.pipeline.ready_count() > 0)
    }

    /// A Query takes the unnamed statement away.
    pub(super) fn forget_unnamed(&mut self) {
        self.session.unnamed = Unnamed::Absent;
        self.server.unnamed = ServerUnnamed::Unknown;
    }

    /// The session's unnamed statement will be another one, unless an error comes before.
    pub(super) fn change_unnamed(&mut self, to: Unnamed) {
        let before = std::mem::replace(&mut self.session.unnamed, to);
        // what is shared stands alone, and may be issued again elsewhere: nothing of it is outstanding for the session
        if self.judged == Judged::Here {
            self.session.changes.push_back(Change::Unnamed(before));
        }
    }

    /// Whether the connection's unnamed statement is the session's.
    pub(super) fn is_unnamed_there(&self) -> bool {
        match &self.session.unnamed {
            Unnamed::OnServer => true,
            Unnamed::Is(statement) => self.server.unnamed == ServerUnnamed::Is(statement.id),
            Unnamed::Absent => self.server.unnamed == ServerUnnamed::Absent,
        }
    }

    /// Makes sure the connection's unnamed statement is the session's.
    pub(super) fn restore_unnamed(&mut self, out: &mut BytesMut) -> Result<(), MessageError> {
        if self.is_unnamed_there() {
            return Ok(());
        }
        match &self.session.unnamed {
            Unnamed::OnServer => Ok(()),
            Unnamed::Is(statement) => {
                let statement = self.as_of_now(&Rc::clone(statement));
                self.session.unnamed = Unnamed::Is(Rc::clone(&statement));
                frontend::write_parse(out, b"", &statement.source.text, &statement.source.types)?;
                self.server.unnamed = ServerUnnamed::Is(statement.id);
                self.push(Owed::nobody(Expect::Parse).marked(Mark::OwnUnnamed.encode()));
                Ok(())
            }
            Unnamed::Absent => {
                frontend::write_close(out, Target::Statement, b"")?;
                self.server.unnamed = ServerUnnamed::Absent;
                self.push(Owed::nobody(Expect::Close));
                Ok(())
            }
        }
    }
}
