//! Whose reply is this, what does it mean, is the request done.
//!
//! Messages for one session that follow each other are one byte range and one copy; nothing is allocated per message.

use std::rc::Rc;
use std::time::Instant;

use bytes::BytesMut;
use dbproto::frame::{self, FrameHead, HEAD_LEN};
use dbproto::message::backend::{self, ErrorFields, TransactionStatus};
use dbproto::pipeline::{Audience, Outcome, Owed};

use runtime::reactor::LOW_WATER;

use crate::deadline::query_timeout_report;
use crate::pace::Paces;
use crate::pipe::{
    Asked, Delivery, Flow, List, Luggage, Mark, Owner, Server, ServerId, ServerUnnamed, Soil, Streaming, WorkFailure,
};
use crate::pool::Pool;
use crate::pool::statement::refusal;
use crate::server::lost::lose;
use crate::session::setting::Setting;
use crate::session::{Carrying, Deallocating, Resetting, Session, SessionId, Unnamed};
use crate::shard::{Shard, World};
use crate::statement::Interner;
use crate::stopwatch::{Ended, Flight, Stopwatch};
use crate::tally::{Ending, Tag, Tallies};

mod command;
mod count;
mod known;

use known::{changed_result, is_changed_result};

/// Messages longer than this are passed on while they arrive.
const WHOLE_LEN_MAX: usize = 16 * 1024;
/// Longest message that must be there whole before it is judged.
const JUDGED_LEN_MAX: usize = 1024 * 1024;
/// Bytes of one reply above which nobody waits behind it on a shared pipe.
const SHARED_REPLY_MAX: usize = 64 * 1024;
/// Unsent bytes of a client above which its server connection is not read from.
pub(crate) const CLIENT_HIGH_WATER: usize = 256 * 1024;

mod refusal;

/// Whether a message is a part of a reply, rather than its end.
const fn outcome_is_not_ready(tag: u8) -> bool {
    tag != b'Z'
}

/// Messages that may be passed on in parts: what they hold means nothing to us.
const fn may_stream(tag: u8) -> bool {
    matches!(tag, b'D' | b'd' | b'V' | b'T' | b't' | b'N' | b'A' | b'E')
}

/// A byte range on its way to one session.
struct Run {
    to: Option<SessionId>,
    start: usize,
}

/// What becomes of one message.
struct Placed {
    to: Option<SessionId>,
    /// A request on a shared pipe has ended with it.
    ends: Option<Owner>,
    /// What the session is sent in its place.
    instead: Option<BytesMut>,
    /// Whether the request that has ended is issued again.
    again: Again,
}

/// Whether a request that has ended is done with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Again {
    No,
    /// Its client has not heard of it.
    Yes,
}

impl Placed {
    const NOWHERE: Self = Self { to: None, ends: None, instead: None, again: Again::No };

    const fn at(to: Option<SessionId>) -> Self {
        Self { to, ..Self::NOWHERE }
    }
}

impl Shard {
    /// Places every message that is there; gives how many bytes were taken.
    pub(super) fn on_replies(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) -> usize {
        let mut at = self.go_on_streaming(io, id, bytes);
        let mut run = Run { to: None, start: at };
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let head = match frame::head(rest) {
                Ok(Some(head)) => head,
                Ok(None) => break,
                Err(error) => {
                    self.deliver(io, &run, bytes.get(run.start..at));
                    self.doubt(io, id, &error.to_string());
                    return bytes.len();
                }
            };
            let whole = rest.len() >= head.len;
            if !whole && (head.len <= WHOLE_LEN_MAX || !may_stream(head.tag)) {
                if head.len > JUDGED_LEN_MAX {
                    self.doubt(io, id, "it sent a message that is too long");
                    return bytes.len();
                }
                break;
            }
            if !whole && head.tag == b'E' && rest.len() < HEAD_LEN + 256 {
                break;
            }
            let body = rest.get(HEAD_LEN..head.len.min(rest.len())).unwrap_or_default();
            let placed = match self.place_message(io, id, head, body) {
                Ok(placed) => placed,
                Err(why) => {
                    self.deliver(io, &run, bytes.get(run.start..at));
                    self.doubt(io, id, &why);
                    return bytes.len();
                }
            };
            self.stats.messages_out += u64::from(placed.to.is_some());
            if let Some(instead) = placed.instead.filter(|_| whole) {
                self.deliver(io, &run, bytes.get(run.start..at));
                self.deliver(io, &Run { to: placed.to, start: 0 }, Some(&instead));
                at += head.len;
                run = Run { to: None, start: at };
                continue;
            }
            if placed.to != run.to {
                self.deliver(io, &run, bytes.get(run.start..at));
                run = Run { to: placed.to, start: at };
            }
            if !whole {
                self.begin_streaming(id, placed.to, head.len - rest.len());
                at = bytes.len();
                break;
            }
            at += head.len;
            let synthetic = self.poll_synthetic(id);
            if placed.ends.is_some() || !synthetic.is_empty() {
                self.deliver(io, &run, bytes.get(run.start..at));
                run = Run { to: None, start: at };
                self.write_synthetic(io, id, &synthetic);
            }
            match placed.ends {
                Some(Owner::Session(session)) if placed.again == Again::Yes => self.issue_again(session),
                Some(Owner::Session(session)) => {
                    self.finish_shared(io.now(), session);
                    self.tell_rest(io, session);
                }
                Some(Owner::Orphan) | None => {}
            }
        }
        self.deliver(io, &run, bytes.get(run.start..at));
        self.hold_back(io, id);
        at
    }

    fn deliver(&mut self, io: &mut World<'_>, run: &Run, bytes: Option<&[u8]>) {
        if let (Some(session), Some(bytes)) = (run.to.and_then(|id| self.sessions.get_mut(id)), bytes)
            && !bytes.is_empty()
        {
            self.stats.bytes_out += bytes.len() as u64;
            session.record.bytes_out += bytes.len() as u64;
            io.output(session.socket).extend_from_slice(bytes);
        }
    }

    fn begin_streaming(&mut self, id: ServerId, to: Option<SessionId>, left: usize) {
        if let Some(server) = self.servers.get_mut(id) {
            server.streaming = to.map_or(Streaming::Swallow(left), |session| Streaming::Forward(session, left));
        }
    }

    /// The rest of a long message comes first.
    fn go_on_streaming(&mut self, io: &mut World<'_>, id: ServerId, bytes: &[u8]) -> usize {
        let Some(server) = self.servers.get_mut(id) else { return bytes.len() };
        let (to, left) = match server.streaming {
            Streaming::None => return 0,
            Streaming::Forward(session, left) => (Some(session), left),
            Streaming::Swallow(left) => (None, left),
        };
        let used = left.min(bytes.len());
        server.streaming = match (to, left - used) {
            (_, 0) => Streaming::None,
            (Some(session), left) => Streaming::Forward(session, left),
            (None, left) => Streaming::Swallow(left),
        };
        self.deliver(io, &Run { to, start: 0 }, bytes.get(..used));
        if used == left {
            let synthetic = self.poll_synthetic(id);
            self.write_synthetic(io, id, &synthetic);
        }
        used
    }

    /// A slow client holds back the server connection it reads from.
    fn hold_back(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        let Some(session) = server.head_session().and_then(|id| self.sessions.get(id)) else { return };
        let high_water = if self.board.memory.is_short() { LOW_WATER } else { CLIENT_HIGH_WATER };
        let (socket, slow) = (session.socket, io.output_len(session.socket) > high_water);
        if (slow || server.reply_len > SHARED_REPLY_MAX) && server.depth() > 1 {
            self.evacuate(id);
        }
        let Some(server) = self.servers.get_mut(id) else { return };
        if server.flow == Flow::Open && slow {
            server.flow = Flow::Paused;
            server.stalled_since = io.now();
            io.pause(server.socket);
            io.notify_drained(socket);
        }
    }

    fn place_message(
        &mut self,
        io: &mut World<'_>,
        id: ServerId,
        head: FrameHead,
        body: &[u8],
    ) -> Result<Placed, String> {
        if head.tag == b'A' && body.len() + HEAD_LEN == head.len {
            let told = self.on_notification(io, id, body);
            return Ok(told.map_or(Placed::NOWHERE, |(to, frame)| Placed {
                to: Some(to),
                instead: Some(frame),
                ..Placed::NOWHERE
            }));
        }
        let now = io.now();
        let Self { servers, sessions, pools, paces, interner, tallies, times, .. } = self;
        let Some(server) = servers.get_mut(id) else { return Err(String::new()) };
        let outcome =
            server.pipeline.handle_backend(head.tag, body.first().copied()).map_err(|error| error.to_string())?;
        let to = server.head_session();
        let Some(pool) = pools.get_mut(server.pool.0 as usize) else { return Err(String::new()) };
        let session = to.and_then(|id| sessions.get_mut(id));
        let mut reply = Reply { id, server, session, to, pool, paces, interner, tallies, times };
        let placed = match outcome {
            Outcome::Asynchronous => reply.asynchronous(head.tag, body),
            Outcome::Part(audience) => reply.part(audience, head.tag, body),
            Outcome::Complete(owed) => reply.complete(owed, head.tag, body)?,
            Outcome::Error(owed) => reply.error(owed, body)?,
            Outcome::Ready(owed, status) => reply.ready(owed, status, now)?,
            Outcome::Copy(audience, _) => reply.copy(audience)?,
            Outcome::Farewell => {
                tracing::info!(message = %String::from_utf8_lossy(ErrorFields::new(body).get(b'M').unwrap_or_default()), "PostgreSQL ends a connection");
                reply.fatal()
            }
        };
        if placed.to.is_some()
            && placed.ends.is_none()
            && let Some(request) = reply.server.in_flight.front_mut()
        {
            request.delivery = Delivery::Begun;
        }
        if placed.ends.is_none() && outcome_is_not_ready(head.tag) {
            reply.server.reply_len += head.len;
        }
        Ok(placed)
    }

    /// Replies of ours whose turn has come, as tags.
    pub(crate) fn poll_synthetic(&mut self, id: ServerId) -> Vec<u8> {
        let mut tags = Vec::new();
        let Some(server) = self.servers.get_mut(id) else { return tags };
        while let Some(owed) = server.pipeline.poll_synthetic() {
            tags.push(if Mark::of(owed) == Mark::SyntheticClose { b'3' } else { b'1' });
            if let Some(session) = server.head_session().and_then(|id| self.sessions.get_mut(id)) {
                session.changes.pop_front();
            }
        }
        tags
    }

    pub(crate) fn write_synthetic(&mut self, io: &mut World<'_>, id: ServerId, tags: &[u8]) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if tags.is_empty() {
            return;
        }
        if let Some(request) = server.in_flight.front_mut() {
            request.delivery = Delivery::Begun;
        }
        let Some(session) = server.head_session().and_then(|id| self.sessions.get(id)) else { return };
        let out = io.output(session.socket);
        for tag in tags {
            if *tag == b'3' {
                backend::write_close_complete(out);
            } else {
                backend::write_parse_complete(out);
            }
        }
    }
}

/// One message, and everything it may change.
struct Reply<'a> {
    id: ServerId,
    server: &'a mut Server,
    /// The session at the head, unless it has left.
    session: Option<&'a mut Session>,
    to: Option<SessionId>,
    pool: &'a mut Pool,
    paces: &'a mut Paces,
    interner: &'a mut Interner,
    tallies: &'a mut Tallies,
    times: &'a mut Stopwatch,
}

impl Reply<'_> {
    fn for_audience(&self, audience: Audience) -> Placed {
        let to = match audience {
            Audience::Client => self.to,
            Audience::Nobody => None,
        };
        Placed::at(to)
    }

    fn asynchronous(&mut self, tag: u8, body: &[u8]) -> Placed {
        if tag == b'S'
            && let Ok((name, value)) = backend::parameter_status(body)
        {
            let before = self.server.set_parameter(name, value);
            if let Some(placed) = self.take_back(name, before.as_deref()) {
                return placed;
            }
        }
        // on a shared pipe values and notifications belong to nobody; notices belong to the request that is being answered
        let held = match tag {
            // what our own dressing changes, the client knows already
            b'S' => self.server.list == List::Exclusive || self.server.findings.is_some(),
            _ => true,
        } && (self.server.list == List::Exclusive || self.server.holder.is_some());
        let wanted = tag == b'N' || held;
        Placed::at(self.to.filter(|_| wanted))
    }

    /// When the connection falls back to a value of its own where the session falls back to one of its start-up packet, the
    /// session is told that, if it had another.
    fn take_back(&self, name: &[u8], before: Option<&[u8]>) -> Option<Placed> {
        let session = self.session.as_deref()?;
        if session.resetting == Resetting::No && !session.settings.iter().any(Setting::is_reset) {
            return None;
        }
        let mut began = session.login_dress.settings().iter();
        began.find(|setting| setting.name.as_bytes().eq_ignore_ascii_case(name))?;
        let told = self.pool.welcomes.get(&session.login_dress.fingerprint())?;
        let (_, value) = told.iter().find(|(other, _)| **other == *name)?;
        if before == Some(value) {
            return Some(Placed::NOWHERE);
        }
        let mut out = BytesMut::new();
        backend::write_parameter_status(&mut out, name, value);
        Some(Placed { instead: Some(out), ..Placed::at(self.to) })
    }

    fn part(&mut self, audience: Audience, tag: u8, body: &[u8]) -> Placed {
        if tag == b'C' && audience == Audience::Client {
            if body == b"SET\0" && self.server.pipeline.head().is_some_and(|head| Mark::of(head) == Mark::Restore) {
                // our own words behind the client's
                return Placed::NOWHERE;
            }
            let head = self.server.pipeline.head();
            self.count_rows(head.map_or(Tag::NONE, Mark::tag_of), body);
            self.command_tag(body);
        } else if tag == b't' {
            self.note_types(body);
        } else if tag == b'C' && body == b"DISCARD ALL\0" {
            self.server.forget_everything();
        } else if tag == b'C' && body == b"DISCARD SEQUENCES\0" && self.server.soil == Soil::Sequences {
            self.server.soil = Soil::Clean;
        } else if tag == b'D'
            && audience == Audience::Nobody
            && let Some(findings) = &mut self.server.findings
        {
            findings.add(body);
        }
        self.for_audience(audience)
    }

    fn complete(&mut self, owed: Owed, tag: u8, body: &[u8]) -> Result<Placed, String> {
        if tag == b'C' && owed.audience == Audience::Client {
            self.count_rows(Mark::tag_of(owed), body);
            self.command_tag(body);
        }
        match Mark::of(owed) {
            // a portal that is suspended has not ended
            Mark::Counted(at) if tag != b's' => self.count_call(at, Ending::Well),
            Mark::ClientParse(id) => {
                self.server.prepared.on_parsed(id);
                if let Some(session) = self.session.as_deref_mut() {
                    session.changes.pop_front();
                }
            }
            Mark::SyntheticParse(_) | Mark::UnnamedParse | Mark::UnnamedClose => {
                if let Some(session) = self.session.as_deref_mut() {
                    session.changes.pop_front();
                }
            }
            Mark::OwnParse(id) => self.server.prepared.on_parsed(id),
            Mark::Evict(id) => self.server.prepared.on_evicted(id),
            Mark::Shape(id) => self.answered(id, tag, body)?,
            Mark::Told(id) => self.told(id, tag, body),
            Mark::Proof(id) => self.proven(id),
            Mark::None
            | Mark::SyntheticClose
            | Mark::OwnUnnamed
            | Mark::Clean
            | Mark::Dress
            | Mark::Changed
            | Mark::Probe
            | Mark::Restore
            | Mark::Sequences
            | Mark::Counted(_) => {}
            Mark::Luggage => {
                if let Some(request) = self.server.in_flight.front_mut() {
                    request.luggage = Luggage::Done;
                }
            }
        }
        Ok(self.for_audience(owed.audience))
    }

    fn error(&mut self, owed: Owed, body: &[u8]) -> Result<Placed, String> {
        let fields = ErrorFields::new(body);
        let fatal = fields.get(b'V').is_some_and(|severity| severity == b"FATAL" || severity == b"PANIC");
        let mark = Mark::of(owed);
        if mark == Mark::Sequences && !fatal {
            // 55000: there are none; else there are some that may not be looked at
            if let (Some(findings), false) = (&mut self.server.findings, fields.get(b'C') == Some(b"55000")) {
                findings.add_sequences();
            }
            return Ok(Placed::NOWHERE);
        }
        self.pool.stats.count_error(fields.get(b'C').unwrap_or_default());
        if fatal {
            return Ok(self.fatal());
        }
        self.count_error(owed);
        if matches!(mark, Mark::Clean | Mark::Dress | Mark::Probe) {
            let text = |code| String::from_utf8_lossy(fields.get(code).unwrap_or_default()).into_owned();
            let failure = WorkFailure { during: mark, sqlstate: text(b'C'), message: text(b'M') };
            self.server.work_failure.get_or_insert(failure);
            return Ok(Placed::NOWHERE);
        }
        if self.server.in_flight.front().is_some_and(|request| request.luggage == Luggage::Ahead) {
            // Postgres passes over what follows up to some Sync: of none of it is known whose reply comes next
            if let Some(session) = self.session.as_deref_mut() {
                session.carrying = Carrying::Worn;
            }
            let message = String::from_utf8_lossy(fields.get(b'M').unwrap_or_default());
            return Err(format!("the settings of a shared request were refused: {message}"));
        }
        if let Some(session) = self.session.as_deref_mut() {
            // what the request has set is undone with it
            session.settings.clear();
            session.settings_done = 0;
        }
        let heals = is_changed_result(&fields) && self.changed(mark) == Again::Yes;
        self.lose(owed);
        self.server.unnamed = ServerUnnamed::Unknown;
        // a Parse of ours fails for the client's statement: it is the client that must hear of it
        let ours = matches!(mark, Mark::OwnParse(_) | Mark::OwnUnnamed | Mark::Shape(_));
        if heals {
            return Ok(Placed::NOWHERE);
        }
        if mark == Mark::Changed {
            return Ok(Placed { instead: Some(changed_result()), ..Placed::at(self.to) });
        }
        let placed = self.for_audience(if ours { Audience::Client } else { owed.audience });
        let cancelled = fields.get(b'C') == Some(b"57014");
        let late = cancelled.then(|| query_timeout_report(self.server, &self.pool.settings.timeouts)).flatten();
        Ok(Placed { instead: late.or_else(|| self.with_own_names(body)), ..placed })
    }

    /// Takes back what a failed item and those skipped with it had promised, what was promised last first.
    fn lose(&mut self, owed: Owed) {
        let all: Vec<Owed> = std::iter::once(owed).chain(self.server.pipeline.drain_dropped()).collect();
        lose(self.server, self.session.as_deref_mut(), &all);
        if Mark::of(owed) == Mark::UnnamedParse
            && let Some(session) = self.session.as_deref_mut()
        {
            // a Parse that fails takes the one before away; one that is passed over does not
            session.unnamed_was(Unnamed::Absent);
        }
    }

    fn ready(&mut self, owed: Owed, status: TransactionStatus, now: Instant) -> Result<Placed, String> {
        self.server.status = status;
        if !self.server.in_flight.is_empty() && status != TransactionStatus::Idle {
            return Err("a shared request left a transaction open".to_owned());
        }
        let since = self.server.head_since;
        let flight = self.server.flights.pop(self.server.pipeline.ready_count());
        let flight = flight.unwrap_or_else(|| Flight::new(since, 0));
        self.server.note_ready(now);
        let shared = self.server.in_flight.pop_front();
        let began = flight.written.max(since);
        let len = std::mem::take(&mut self.server.reply_len);
        if owed.audience == Audience::Client {
            let written = shared.as_ref().map_or(began, |request| request.written_at);
            self.paces.note_any(now.saturating_duration_since(written));
            self.note_transaction(status, began, now);
            let kind = self.session.as_deref_mut().map_or(0, |session| std::mem::take(&mut session.kind));
            let tag = self.count_ready(owed);
            let (server, pool, session) = (self.id, self.server.pool, self.to.filter(|_| self.session.is_some()));
            let rows = self.end_of_request();
            self.times.on_ended(Ended { server, pool, session, flight, due: began, kind, tag, len, rows });
        }
        if self.server.catalog_touched && status == TransactionStatus::Idle {
            self.server.catalog_touched = false;
            self.pool.note_catalog_change();
        }
        self.change_settings(status);
        if let Some(session) = self.session.as_deref_mut() {
            session.resetting = Resetting::No;
            if owed.audience == Audience::Client {
                session.deallocating = Deallocating::No;
            }
        }
        let ends = shared.map(|request| request.owner);
        if owed.audience == Audience::Client && self.begin_again() == Again::Yes {
            self.times.on_unheard();
            return Ok(Placed { ends, again: Again::Yes, ..Placed::NOWHERE });
        }
        let instead = self.refuse_transaction(owed);
        Ok(Placed { instead, ends, ..self.for_audience(owed.audience) })
    }

    /// In statement mode a transaction may not outlast its request.
    fn refuse_transaction(&mut self, owed: Owed) -> Option<BytesMut> {
        let open = self.server.status != TransactionStatus::Idle && owed.audience == Audience::Client;
        if !open || self.pool.settings.mode != config::PoolMode::Statement {
            return None;
        }
        self.pool.stats.count_plane_error(b"0A000");
        Some(refusal())
    }

    /// A request that changed settings is done: they are the session's from now on.
    fn change_settings(&mut self, status: TransactionStatus) {
        let Some(session) = self.session.as_deref_mut().filter(|session| !session.settings.is_empty()) else { return };
        let settings = std::mem::take(&mut session.settings);
        let all_done = std::mem::take(&mut session.settings_done) == settings.len();
        let mut wear = (Rc::clone(&session.dress), Rc::clone(&self.server.dress));
        let carried = all_done
            && status == TransactionStatus::Idle
            && settings.iter().all(|setting| {
                let next = setting.change(&wear.0, &wear.1, &session.login_dress);
                next.is_some_and(|next| {
                    wear = next;
                    true
                })
            });
        if carried {
            if self.pool.target.connect_query.is_some() && settings.iter().any(Setting::is_reset) {
                self.server.soil = Soil::Unknown;
            }
            (session.dress, self.server.dress) = wear;
            session.reading = self.server.reading;
        } else {
            // what came of it is asked for when somebody else needs the connection
            self.server.soil = Soil::Unknown;
            self.server.asked = Asked::NotSince;
        }
    }

    fn copy(&mut self, audience: Audience) -> Result<Placed, String> {
        if self.server.in_flight.is_empty() {
            Ok(self.for_audience(audience))
        } else {
            Err("a shared request began a COPY".to_owned())
        }
    }
}
