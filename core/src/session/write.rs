//! Putting a session's messages on the server connection it holds.
//!
//! Most go on as they came. Those that name a prepared statement are rewritten: a client's name means nothing on a
//! connection that many sessions use, so every statement has one name of ours there (see [`crate::statement`]), is prepared
//! before it is first bound, and answers that Postgres is not asked for are put in their place by us.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf as _, BytesMut};
use dbproto::frame::{self, Frame, FrameHead, HEAD_LEN};
use dbproto::message::MessageError;
use dbproto::message::frontend::{self, Bind, Named, Parse, Target, query_text, tag};
use dbproto::pipeline::{Expect, Owed};

use crate::catalog::Catalog;
use crate::error::Failure;
use crate::listen::Hearing;
use crate::pipe::{Before, Cancel, Flow, Mark, Server, ServerId, ServerUnnamed};
use crate::pool::Pool;
use crate::server::SERVER_HIGH_WATER;
use crate::session::hazard::{foreign, search_passing};
use crate::session::request::{REQUEST_LEN_MAX, is_frontend};
use crate::session::setting::Setting;
use crate::session::{Barrier, Change, Naming, Pin, Reading, Resetting, Session, SessionId, Unnamed};
use crate::shard::{Shard, World};
use crate::statement::{Interner, Preparation, Statement, StatementId, StatementSource, Wording};
use crate::tally::Tallies;

mod along;
mod count;
pub(crate) mod known;
mod long;
mod naming;
mod prepare;
mod refusal;
mod restore;
pub(crate) mod soil;

use known::Use;
use naming::{ends_many, names_statements};
use prepare::PreparedCounts;
use restore::Back;
use soil::Promise;

/// Longest Parse that is kept. A longer one of the unnamed statement is passed on, and can be bound up to its Sync only.
const PARSE_LEN_MAX: usize = 16 * 1024 * 1024;
/// What became of a message.
enum Written {
    /// It is on the connection, or was answered.
    Done,
    /// It must be there whole first, or nothing may be written yet.
    Wait,
}

impl Shard {
    /// Writes what the client has sent to the server connection it holds.
    pub(crate) fn pass_on(&mut self, io: &mut World<'_>, id: SessionId, server_id: ServerId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let mut input = std::mem::take(&mut session.input);
        let outcome = self.pass_frames(io, id, server_id, &mut input);
        if let Some(session) = self.sessions.get_mut(id) {
            session.input = input;
        }
        match outcome {
            Ok(()) => {
                let tags = self.poll_synthetic(server_id);
                self.write_synthetic(io, server_id, &tags);
                self.let_go_if_answered(io, server_id);
            }
            Err(Some(failure)) => self.end_session(io, id, Some(&failure)),
            Err(None) => self.end_session(io, id, None),
        }
    }

    /// A connection that was asked for nothing that is still owed is given up.
    fn let_go_if_answered(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        let done =
            server.is_quiet() && server.holder.and_then(|id| self.sessions.get(id)).is_some_and(|s| s.input.is_empty());
        if done && server.status == dbproto::message::backend::TransactionStatus::Idle {
            let pinned = server.holder.and_then(|id| self.sessions.get(id)).is_some_and(|s| s.pin != Pin::No);
            if !pinned {
                self.let_go_if_done(io, id);
            }
        }
    }

    fn pass_frames(
        &mut self,
        io: &mut World<'_>,
        id: SessionId,
        server_id: ServerId,
        input: &mut BytesMut,
    ) -> Result<(), Option<Failure>> {
        let Self { sessions, servers, interner, pools, stats, tallies, times, .. } = self;
        let (Some(session), Some(server)) = (sessions.get_mut(id), servers.get_mut(server_id)) else {
            return Ok(());
        };
        let before = io.output_len(server.socket);
        let worked = if server.pipeline.is_empty() { Before::Idle } else { Before::Busy };
        let Some(pool) = pools.get_mut(server.pool.0 as usize) else { return Ok(()) };
        // whether the next one may run, and where, is known when this one has ended
        let one_by_one = pool.settings.mode == config::PoolMode::Statement
            || session.ears.as_ref().is_some_and(|ears| ears.hearing == Hearing::Line);
        times.on_written(server_id);
        let mut writer = Writer::new(session, server, interner, (pool, tallies), io.now());
        while !input.is_empty() && writer.session.barrier == Barrier::Open && writer.server.cancel == Cancel::None {
            let out = io.output(writer.server.socket);
            if writer.session.stream_left > 0 {
                let len = writer.session.stream_left.min(input.len());
                let chunk = input.split_to(len);
                search_passing(writer.session, &chunk);
                out.extend_from_slice(&chunk);
                writer.session.stream_left -= len;
                if writer.session.stream_left == 0 {
                    writer.session.tail = None;
                }
            } else {
                let head = frame::head(input).map_err(broken)?;
                let Some(head) = head else { break };
                if head.tag == tag::TERMINATE {
                    if writer.server.is_finishing() {
                        // it leaves when it has its answers
                        break;
                    }
                    return Err(None);
                }
                if !is_frontend(head.tag) {
                    let what = format!("invalid frontend message type {}", head.tag);
                    return Err(Some(Failure::Protocol { what }));
                }
                match writer.message(out, head, input).map_err(|error| Some(malformed(error)))? {
                    Written::Done => writer.session.lift_vain_barrier(&writer.server.pipeline),
                    Written::Wait => break,
                }
            }
            if one_by_one && writer.server.pipeline.ready_count() > 0 {
                writer.session.barrier = Barrier::UntilReady;
            }
            if io.output_len(writer.server.socket) > SERVER_HIGH_WATER {
                if writer.session.flow == Flow::Open {
                    writer.session.flow = Flow::Paused;
                    io.pause(writer.session.socket);
                }
                io.notify_drained(writer.server.socket);
                break;
            }
        }
        let written = io.output_len(writer.server.socket).saturating_sub(before);
        let counts = writer.counts();
        if counts.messages > 0 {
            server.note_written(io.now(), worked);
        }
        counts.add_to(&mut pool.stats);
        pool.stats.bytes_to_server += written as u64;
        pool.stats.requests_exclusive += counts.requests;
        stats.messages_in += counts.messages;
        Ok(())
    }
}

fn broken(error: frame::FrameError) -> Option<Failure> {
    Some(Failure::Protocol { what: error.to_string() })
}

fn malformed(error: MessageError) -> Failure {
    Failure::Protocol { what: error.to_string() }
}

/// Whether it is known already that what is written leaves nothing behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Judged {
    /// It is found out while it is written.
    Here,
    /// It was proven before: the request is shared.
    Before,
}

/// Writes one session's messages to one connection.
pub(crate) struct Writer<'a> {
    session: &'a mut Session,
    server: &'a mut Server,
    interner: &'a mut Interner,
    tallies: &'a mut Tallies,
    now: Instant,
    /// Statements the connection may have prepared.
    limit: usize,
    /// What texts are judged by; none where nothing can be concluded.
    catalog: Option<&'a Catalog>,
    catalog_state: u64,
    judged: Judged,
    promise: Promise,
    /// Requests that were ended.
    requests: u64,
    messages: u64,
    prepared: PreparedCounts,
    /// Why the session has begun to keep its connection.
    pinned: Option<&'static str>,
    /// The statement of the Bind that was written last, if what it gives is worth noting.
    bound: Option<StatementId>,
}

/// What a writer has done, for the statistics.
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) messages: u64,
    prepared: PreparedCounts,
    pinned: Option<&'static str>,
}

impl Counts {
    /// Adds what is counted by pool, except requests.
    pub(crate) fn add_to(&self, stats: &mut stats::PoolStats) {
        stats.prepared_hits += self.prepared.hits;
        stats.prepared_parses += self.prepared.parses;
        stats.prepared_evicted += self.prepared.evicted;
        stats.client_parses += self.prepared.client_parses;
        stats.client_binds += self.prepared.client_binds;
        stats.settings_replayed += self.prepared.settings;
        if let Some(reason) = self.pinned {
            stats.count_pin(reason);
        }
    }
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        session: &'a mut Session,
        server: &'a mut Server,
        interner: &'a mut Interner,
        (pool, tallies): (&'a Pool, &'a mut Tallies),
        now: Instant,
    ) -> Self {
        let usual = session.reading == Reading::Usual && session.pin == Pin::No && session.home.is_none();
        let catalog = pool.catalog().filter(|_| usual);
        let limit = pool.settings.prepared_statements as usize;
        Self {
            session,
            server,
            interner,
            tallies,
            now,
            limit,
            catalog,
            catalog_state: pool.catalog_state(),
            judged: Judged::Here,
            promise: Promise { clean: pool.settings.server_clean, sequences: pool.settings.sequence_state },
            requests: 0,
            messages: 0,
            prepared: PreparedCounts::default(),
            pinned: None,
            bound: None,
        }
    }
}

/// Writes a whole shared request.
///
/// # Errors
/// When a message is malformed; nothing more can be said about the connection then.
pub(crate) fn write_shared(mut writer: Writer<'_>, out: &mut BytesMut, request: &[u8]) -> Result<Counts, MessageError> {
    writer.judged = Judged::Before;
    writer.before_use(out, request)?;
    writer.bring_along(out)?;
    let mut rest = request;
    while let Ok(Some((message, after))) = frame::split(rest) {
        writer.whole(out, message)?;
        rest = after;
    }
    Ok(writer.counts())
}

/// Whether a request is one simple Query.
pub(crate) fn is_query(request: &[u8]) -> bool {
    request.first() == Some(&tag::QUERY)
}

impl Writer<'_> {
    const fn counts(&self) -> Counts {
        Counts { requests: self.requests, messages: self.messages, prepared: self.prepared, pinned: self.pinned }
    }

    fn message(&mut self, out: &mut BytesMut, head: FrameHead, input: &mut BytesMut) -> Result<Written, MessageError> {
        let whole = input.len() >= head.len;
        if !whole && head.len <= REQUEST_LEN_MAX {
            return Ok(Written::Wait);
        }
        if whole && head.tag != tag::SYNC && self.server.pipeline.is_skipping() {
            // Postgres would pass over it
            input.advance(head.len);
            return Ok(Written::Done);
        }
        if whole && self.must_wait(head.tag, input.get(..head.len).unwrap_or_default()) {
            if self.server.pipeline.is_group_undecided() {
                frontend::write_flush(out);
            }
            return Ok(Written::Wait);
        }
        if !whole && head.tag == tag::BIND {
            return self.long_bind(out, head, input);
        }
        if !whole && head.tag == tag::PARSE {
            let unnamed = input.get(HEAD_LEN) == Some(&0);
            if !unnamed && head.len > PARSE_LEN_MAX {
                return Err(MessageError::TooLong);
            }
            if head.len <= PARSE_LEN_MAX {
                return Ok(Written::Wait);
            }
            self.change_unnamed(Unnamed::OnServer);
            self.server.unnamed = ServerUnnamed::Unknown;
            self.push(Owed::client(Expect::Parse).marked(Mark::UnnamedParse.encode()));
            return Ok(self.stream(out, head, input));
        }
        if !whole {
            if head.tag == tag::QUERY {
                // too long to be judged, but not to be searched while it passes
                self.soil_unseen();
                self.session.tail = Some(Vec::new());
                search_passing(self.session, input);
                self.count_bound(self.tallies.rest());
            }
            self.verbatim(head.tag);
            return Ok(self.stream(out, head, input));
        }
        if self.before_use(out, input)? == Use::WhenKnown {
            return Ok(Written::Wait);
        }
        let bytes = input.split_to(head.len);
        let message = Frame { tag: head.tag, bytes: &bytes, body: bytes.get(HEAD_LEN..).unwrap_or_default() };
        self.whole(out, message)?;
        Ok(Written::Done)
    }

    fn whole(&mut self, out: &mut BytesMut, message: Frame<'_>) -> Result<(), MessageError> {
        self.messages += 1;
        self.begin_group();
        self.bound = self.bound.filter(|_| message.tag == tag::DESCRIBE);
        self.prepared.client_parses += u64::from(message.tag == tag::PARSE);
        self.prepared.client_binds += u64::from(message.tag == tag::BIND);
        let written = match message.tag {
            tag::PARSE => self.parse(out, message),
            tag::BIND => self.bind(out, message),
            tag::DESCRIBE => self.describe(out, message),
            tag::CLOSE => self.close(out, message),
            tag::QUERY => self.query(out, message),
            tag::FLUSH if !message.body.is_empty() => Err(MessageError::Malformed),
            other => {
                self.verbatim(other);
                out.extend_from_slice(message.bytes);
                if other == tag::SYNC {
                    if self.session.changes_meaning() {
                        // what comes next may mean something else under the new settings
                        self.session.barrier = Barrier::UntilReady;
                    }
                    self.close_leftovers(out)?;
                }
                Ok(())
            }
        };
        match written {
            Err(MessageError::Malformed) if self.judged == Judged::Here => self.refuse(out, message.tag),
            Ok(()) | Err(MessageError::Malformed | MessageError::TooLong) => written,
        }
    }

    /// Notes a change of settings that the session will carry, if this text is one and nothing stands in the way.
    fn carry(&mut self, text: &[u8], back: Option<&Back>) -> bool {
        let alone = self.server.pipeline.ready_count() == 0
            && self.server.status == dbproto::message::backend::TransactionStatus::Idle
            && self.session.reading == Reading::Usual
            && self.session.pin == Pin::No;
        let Some(setting) = Some(text).filter(|_| alone).and_then(Setting::read) else { return false };
        self.session.settings.push(match (setting, back) {
            (Setting::Reset { name }, Some(_)) => Setting::Restore { name },
            (Setting::ResetAll, Some(_)) => Setting::RestoreAll,
            (setting, _) => setting,
        });
        true
    }

    /// What running this statement leaves on the connection.
    fn soil_of(&mut self, statement: &Statement) {
        if self.judged == Judged::Before {
            return;
        }
        if self.carry(&statement.source.text, None) {
            return;
        }
        self.soil_of_judged(statement);
        if names_statements(&statement.source.text) && ends_many(&statement.source.text) {
            self.session.resetting = Resetting::Yes;
            self.server.discarded_at = self.server.soiled;
        }
    }

    /// Notes what is owed for a message that is passed on as it is.
    fn verbatim(&mut self, tag: u8) {
        if tag == tag::FUNCTION_CALL {
            self.soil_unseen();
            self.count_bound(self.tallies.rest());
        }
        let expect = match tag {
            tag::QUERY => {
                self.forget_unnamed();
                Expect::Query
            }
            tag::DESCRIBE => Expect::DescribePortal,
            tag::EXECUTE => Expect::Execute,
            tag::SYNC => Expect::Sync,
            tag::FUNCTION_CALL => Expect::FunctionCall,
            tag::COPY_DONE | tag::COPY_FAIL => Expect::CopyEnd,
            tag::COPY_DATA => Expect::CopyData,
            _ => return,
        };
        let mark = self.count_sent(expect);
        self.push(Owed::client(expect).marked(mark));
    }

    fn parse(&mut self, out: &mut BytesMut, message: Frame<'_>) -> Result<(), MessageError> {
        let parse = Parse::read(message.body)?;
        if self.judged == Judged::Here && names_statements(parse.query) {
            self.give_own_names(out)?;
        }
        if self.session.naming == Naming::Own && !parse.name.is_empty() {
            frontend::write_parse(out, &foreign(parse.name), parse.query, parse.types)?;
            self.push(Owed::client(Expect::Parse));
            return Ok(());
        }
        let source = StatementSource {
            text: parse.query.into(),
            types: parse.types.into(),
            generation: self.state(),
            under: self.under(Wording::of(parse.query)),
        };
        if parse.name.is_empty() {
            let statement = self.interner.intern(Arc::new(source));
            self.server.unnamed = ServerUnnamed::Is(statement.id);
            self.change_unnamed(Unnamed::Is(statement));
            self.push(Owed::client(Expect::Parse).marked(Mark::UnnamedParse.encode()));
            out.extend_from_slice(message.bytes);
            return Ok(());
        }
        if self.session.statements.contains_key(parse.name) {
            return self.refuse_duplicate(out, message, parse.name);
        }
        let statement = self.interner.intern(Arc::new(source));
        self.session.statements.insert(parse.name.into(), Rc::clone(&statement));
        self.session.changes.push_back(Change::Added(parse.name.into()));
        match self.server.prepared.preparation(statement.id, self.server.group) {
            Preparation::Ready if self.may_be_in_failed_transaction() => {
                self.ask_whether_it_prepares(out, &statement, parse.name)?
            }
            Preparation::Ready => {
                self.prepared.hits += 1;
                self.push(Owed::client(Expect::Synthetic).marked(Mark::SyntheticParse(statement.id).encode()));
            }
            needs @ (Preparation::Parse | Preparation::CloseAndParse) => {
                self.write_parse(out, &statement, needs)?;
                self.server.prepared.on_parse_sent(&statement, self.server.group);
                self.push(Owed::client(Expect::Parse).marked(Mark::ClientParse(statement.id).encode()));
            }
        }
        Ok(())
    }

    fn soil_of_unnamed(&mut self) {
        match &self.session.unnamed {
            Unnamed::Is(statement) => {
                let statement = Rc::clone(statement);
                self.soil_of(&statement);
            }
            Unnamed::OnServer => self.soil_unseen(),
            Unnamed::Absent => {}
        }
    }

    fn bind(&mut self, out: &mut BytesMut, message: Frame<'_>) -> Result<(), MessageError> {
        let bind = Bind::read(message.body)?;
        if bind.statement.is_empty() {
            self.restore_unnamed(out)?;
            self.soil_of_unnamed();
            self.count_unnamed();
            self.push(Owed::client(Expect::Bind));
            out.extend_from_slice(message.bytes);
            return Ok(());
        }
        match self.session.statements.get(bind.statement).map(Rc::clone) {
            Some(statement) if self.is_to_be_refused(&statement) => self.refuse_changed(out, tag::BIND)?,
            Some(statement) => {
                let statement = self.prepare(out, &statement)?;
                self.soil_of(&statement);
                self.count_statement(&statement);
                frontend::write_bind(out, bind.portal, statement.name().as_bytes(), bind.rest)?;
                let mark = self.mark_of_bind(&statement);
                self.push(Owed::client(Expect::Bind).marked(mark.encode()));
            }
            None => {
                frontend::write_bind(out, bind.portal, &foreign(bind.statement), bind.rest)?;
                self.push(Owed::client(Expect::Bind));
            }
        }
        Ok(())
    }

    fn describe(&mut self, out: &mut BytesMut, message: Frame<'_>) -> Result<(), MessageError> {
        let describe = Named::read(message.body)?;
        if describe.target == Target::Portal {
            let mark = self.bound.take().map_or(Mark::None, Mark::Told);
            self.push(Owed::client(Expect::DescribePortal).marked(mark.encode()));
            out.extend_from_slice(message.bytes);
            return Ok(());
        }
        let mut mark = Mark::None;
        if describe.name.is_empty() {
            self.restore_unnamed(out)?;
            out.extend_from_slice(message.bytes);
        } else if let Some(statement) = self.session.statements.get(describe.name).map(Rc::clone) {
            if self.is_to_be_refused(&statement) {
                return self.refuse_changed(out, tag::DESCRIBE);
            }
            let statement = self.prepare(out, &statement)?;
            frontend::write_describe(out, Target::Statement, statement.name().as_bytes())?;
            mark = Mark::Told(statement.id);
        } else {
            frontend::write_describe(out, Target::Statement, &foreign(describe.name))?;
        }
        self.push(Owed::client(Expect::DescribeStatement).marked(mark.encode()));
        Ok(())
    }

    fn close(&mut self, out: &mut BytesMut, message: Frame<'_>) -> Result<(), MessageError> {
        let close = Named::read(message.body)?;
        let mut mark = Mark::None;
        if close.target == Target::Statement && !close.name.is_empty() {
            if let Some((name, statement)) = self.session.statements.remove_entry(close.name) {
                self.session.changes.push_back(Change::Removed(name, statement));
                self.push(Owed::client(Expect::Synthetic).marked(Mark::SyntheticClose.encode()));
                return Ok(());
            }
            frontend::write_close(out, Target::Statement, &foreign(close.name))?;
        } else {
            if close.target == Target::Statement {
                self.change_unnamed(Unnamed::Absent);
                self.server.unnamed = ServerUnnamed::Unknown;
                mark = Mark::UnnamedClose;
            }
            out.extend_from_slice(message.bytes);
        }
        self.push(Owed::client(Expect::Close).marked(mark.encode()));
        Ok(())
    }

    fn query(&mut self, out: &mut BytesMut, message: Frame<'_>) -> Result<(), MessageError> {
        if self.judged == Judged::Before {
            let kind = self.session.shareable.map_or(0, |request| request.fingerprint);
            self.count_text(query_text(message.body)?, kind);
            self.verbatim(tag::QUERY);
            out.extend_from_slice(message.bytes);
            return Ok(());
        }
        let text = query_text(message.body)?;
        if names_statements(text) {
            self.count_text(text, 0);
            if self.naming_query(out, text)? {
                return Ok(());
            }
        }
        let back = self.way_back(text);
        let kind = if self.carry(text, back.as_ref()) {
            self.session.barrier = Barrier::UntilReady;
            0
        } else {
            self.soil(text)
        };
        self.count_text(text, kind);
        if self.session.resetting == Resetting::Yes {
            self.server.discarded_at = self.server.soiled;
        }
        if let Some(back) = back {
            return self.write_back(out, &back);
        }
        self.verbatim(tag::QUERY);
        out.extend_from_slice(message.bytes);
        Ok(())
    }
}
