//! A session's channels move from its home to the line, or from the line to a connection that is to be its home.
//!
//! Away: the home listens to the marks too; the line begins to listen to the channels and makes a mark. What the home hears before
//! the mark is told by it, what the line hears behind it by the line; then the home is cleaned and is anybody's. Home: the
//! connection that the session is promised begins to listen to the channels and to the marks, then the line makes a mark, and
//! it is the other way round. Until then the session's next request waits. A line that is lost meanwhile has made no mark: away,
//! the session keeps its connection; home, it is told that it may have missed something.

use std::sync::Arc;

use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};

use crate::catalog::keeper::DatabaseKey;
use crate::dress::{Dress, Setting};
use crate::listen::{
    CHANNELS_MAX, Channel, Ears, Hearing, Listening, Mark as LineMark, Missed, Order, Standing, Wish, about,
};
use crate::pipe::{List, Mark, Server, ServerId, Soil};
use crate::session::{Left, Pin, Place, SessionId};
use crate::shard::{Shard, World};

/// Bits of a passage's number below the shard's.
const NUMBER_BITS: u32 = 48;

/// Whether a mark has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    NotYet,
    Yes,
    /// It will not.
    Never,
}

/// Which way the channels move.
#[derive(Debug)]
enum Way {
    /// To the line; what the session wears from then on.
    Away { settings: Vec<Setting>, channels: Vec<Channel>, before: Vec<Channel> },
    /// To this connection.
    Home,
}

/// How far it has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// The connection is told to listen.
    Preparing,
    /// The mark is waited for.
    Marking,
    /// The connection is told not to listen to marks.
    Ending,
}

/// See the module documentation. It belongs to the connection.
#[derive(Debug)]
pub(crate) struct Passage {
    number: u64,
    pub(super) session: SessionId,
    way: Way,
    step: Step,
    /// Whether the connection has heard the mark, and the line.
    pub(super) native: Seen,
    pub(super) by_line: Seen,
}

impl Passage {
    fn new(number: u64, session: SessionId, way: Way) -> Box<Self> {
        Box::new(Self { number, session, way, step: Step::Preparing, native: Seen::NotYet, by_line: Seen::NotYet })
    }

    /// Whether the channels move to the line.
    pub(super) const fn is_away(&self) -> bool {
        matches!(self.way, Way::Away { .. })
    }
}

/// Whether names and payloads read on this connection as they do on the line.
fn reads_as_the_line(server: &Server) -> bool {
    let value = |name: &[u8]| server.parameters.iter().find(|(n, _)| **n == *name).map(|(_, value)| &**value);
    value(b"client_encoding") == Some(b"UTF8") || value(b"server_encoding") == Some(b"SQL_ASCII")
}

/// Puts a query of ours on a connection.
fn ask(io: &mut World<'_>, server: &mut Server, text: &[u8], mark: Mark) {
    // bounded: channels of one session are few and short
    if frontend::write_query(io.output(server.socket), text).is_ok() {
        server.pipeline.push(Owed::nobody(Expect::Query).marked(mark.encode()));
    }
}

impl Shard {
    fn key_of(&self, id: ServerId) -> Option<DatabaseKey> {
        let server = self.servers.get(id)?;
        Some(self.pool(server.pool)?.database.clone())
    }

    fn next_passage(&mut self, key: &DatabaseKey, id: ServerId) -> u64 {
        self.hubs.last += 1;
        // connections hear the marks of all shards
        let number = (u64::from(self.stats.shard) << NUMBER_BITS) | self.hubs.last;
        self.hubs.all.entry(key.clone()).or_default().passages.insert(number, id);
        number
    }

    /// A session's home was asked and listens to these channels, and nothing else is there that cannot be carried: they move to
    /// the line, if that can take them. Else the settings come back.
    pub(crate) fn begin_away(
        &mut self,
        io: &mut World<'_>,
        (session_id, id): (SessionId, ServerId),
        settings: Vec<Setting>,
        channels: Vec<Channel>,
    ) -> Result<(), Vec<Setting>> {
        let Some(server) = self.servers.get_mut(id) else { return Err(settings) };
        if channels.len() > CHANNELS_MAX || !reads_as_the_line(server) {
            server.listening = Listening::ForGood;
            return Err(settings);
        }
        let pool = server.pool;
        server.listening = Listening::Yes;
        let (Some(line), Some(key)) = (self.want_line(pool), self.key_of(id)) else {
            self.remember_home(id);
            return Err(settings);
        };
        let Some(session) = self.sessions.get_mut(session_id) else { return Err(settings) };
        let waits = session.place == Place::Promised(id);
        let ears = session.ears.get_or_insert_with(|| Box::new(Ears::new(Vec::new(), bytes::BytesMut::new())));
        let before = ears.channels.clone();
        let mut all = channels;
        if ears.hearing == Hearing::Line {
            // the home has not heard of these
            all.extend(before.iter().filter(|channel| !all.contains(channel)).map(Arc::clone).collect::<Vec<_>>());
        }
        ears.channels.clone_from(&all);
        ears.channels.extend(before.iter().filter(|channel| !all.contains(channel)).map(Arc::clone));
        self.tell_rest(io, session_id);
        self.add_channels(&key, session_id, &all);
        let number = self.next_passage(&key, id);
        let Some(server) = self.servers.get_mut(id) else { return Err(settings) };
        server.passage = Some(Passage::new(number, session_id, Way::Away { settings, channels: all, before }));
        server.promised = waits.then_some(session_id);
        server.work_failure = None;
        let mut text = Vec::new();
        about(&mut text, "LISTEN", &line.marks);
        ask(io, server, &text, Mark::Probe);
        self.move_to(id, List::Working);
        Ok(())
    }

    /// What a connection must be told to listen to before a session may have it for its next request.
    pub(crate) fn channels_to_bring(
        &mut self,
        io: &mut World<'_>,
        id: ServerId,
        session_id: SessionId,
    ) -> Option<Vec<u8>> {
        let session = self.sessions.get(session_id)?;
        let ears = session.ears.as_ref()?;
        if ears.hearing != Hearing::Line || ears.wish != Wish::Home {
            return None;
        }
        let channels = ears.channels.clone();
        let key = self.key_of(id)?;
        self.tell_rest(io, session_id);
        let number = self.next_passage(&key, id);
        let mut text = Vec::new();
        for channel in &channels {
            about(&mut text, "LISTEN", channel);
        }
        if let Some(line) = self.hubs.all.get(&key).and_then(|hub| hub.line.as_ref()) {
            about(&mut text, "LISTEN", &line.marks);
        }
        self.servers.get_mut(id)?.passage = Some(Passage::new(number, session_id, Way::Home));
        Some(text)
    }

    /// A connection is quiet on which a passage is under way; gives whether nothing else is to be done with it now.
    pub(crate) fn go_on_passage(&mut self, io: &mut World<'_>, id: ServerId) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        let Some(passage) = server.passage.as_mut() else { return false };
        let there = self.sessions.get(passage.session).is_some();
        let failed = server.work_failure.is_some();
        match (&passage.way, passage.step) {
            _ if !there => {
                self.end_passage(id);
                if let Some(server) = self.servers.get_mut(id) {
                    server.soil = Soil::Unknown;
                    server.promised = None;
                }
                self.clean(io, id);
                true
            }
            (Way::Home, Step::Preparing) if failed => {
                self.end_passage(id);
                false
            }
            (Way::Home, Step::Preparing) => false,
            (Way::Away { .. }, Step::Preparing) if failed => {
                self.refuse_passage(id);
                self.bind_listener(io, id);
                true
            }
            (Way::Away { .. }, Step::Preparing) => {
                self.order_mark(io, id);
                true
            }
            (_, Step::Marking) => {
                let (native, by_line) = (passage.native, passage.by_line);
                if by_line == Seen::Never || (native == Seen::Yes && by_line == Seen::Yes) {
                    self.on_marked(io, id, by_line);
                }
                true
            }
            (Way::Away { .. }, Step::Ending) => {
                self.end_passage(id);
                self.bind_listener(io, id);
                true
            }
            (Way::Home, Step::Ending) => {
                self.end_passage(id);
                false
            }
        }
    }

    /// The connection listens to marks: the line is to make one.
    fn order_mark(&mut self, io: &World<'_>, id: ServerId) {
        let Some(key) = self.key_of(id) else { return };
        let Some(hub) = self.hubs.all.get(&key) else { return };
        let Some(passage) = self.servers.get_mut(id).and_then(|server| server.passage.as_mut()) else { return };
        passage.step = Step::Marking;
        let mark = LineMark { shard: io.shard(), number: passage.number };
        match hub.line.as_ref().filter(|_| hub.standing == Standing::Up) {
            Some(line) => line.order(match &passage.way {
                Way::Away { channels, .. } => Order::Join { mark, channels: channels.clone() },
                Way::Home => Order::Mark(mark),
            }),
            None => passage.by_line = Seen::Never,
        }
    }

    /// A connection that a session is promised listens to what the line has listened to; gives whether the session must still
    /// wait for it.
    pub(crate) fn come_home(&mut self, io: &mut World<'_>, id: ServerId, session_id: SessionId) -> bool {
        let Some(server) = self.servers.get_mut(id) else { return false };
        if server.passage.as_ref().is_none_or(|passage| passage.step != Step::Preparing) {
            return false;
        }
        // it holds now what must be taken away before anybody else has it
        server.soil = Soil::Unknown;
        server.soiled += 1;
        server.listening = Listening::Yes;
        server.promised = Some(session_id);
        self.order_mark(io, id);
        let never =
            self.servers.get(id).and_then(|server| server.passage.as_ref()).is_some_and(|p| p.by_line == Seen::Never);
        if never {
            self.on_marked(io, id, Seen::Never);
        }
        true
    }

    /// The connection of a passage has heard a mark.
    pub(super) fn on_native_mark(&mut self, id: ServerId, payload: &[u8]) {
        let Some(passage) = self.servers.get_mut(id).and_then(|server| server.passage.as_mut()) else { return };
        if LineMark::read(payload).is_some_and(|mark| mark.number == passage.number) {
            passage.native = Seen::Yes;
        }
    }

    /// The line has heard a mark, or will not.
    pub(super) fn on_mark(&mut self, io: &mut World<'_>, key: &DatabaseKey, number: u64, seen: Seen) {
        let Some(id) = self.hubs.all.get_mut(key).and_then(|hub| hub.passages.remove(&number)) else { return };
        let Some(server) = self.servers.get_mut(id) else { return };
        let Some(passage) = server.passage.as_mut().filter(|passage| passage.number == number) else { return };
        passage.by_line = seen;
        let (away, session, marking) = (passage.is_away(), passage.session, passage.step == Step::Marking);
        if seen == Seen::Yes
            && let Some(ears) = self.sessions.get_mut(session).and_then(|session| session.ears.as_mut())
        {
            ears.hearing = if away { Hearing::Line } else { Hearing::Home };
        }
        let Some(server) = self.servers.get(id) else { return };
        if marking && server.list == List::Working && server.is_quiet() {
            self.go_on_passage(io, id);
        }
    }

    /// Both have heard the mark, or the line never will.
    fn on_marked(&mut self, io: &mut World<'_>, id: ServerId, by_line: Seen) {
        let Some(passage) = self.servers.get(id).and_then(|server| server.passage.as_ref()) else { return };
        let (away, session) = (passage.is_away(), passage.session);
        if away && by_line == Seen::Yes {
            self.finish_away(io, id);
            return;
        }
        if away {
            self.refuse_passage_keeping(id);
        } else {
            if let Some(ears) = self.sessions.get_mut(session).and_then(|session| session.ears.as_mut()) {
                ears.hearing = Hearing::Home;
                if by_line == Seen::Never {
                    ears.missed = Missed::Perhaps;
                }
            }
            if let Some(passage) = self.servers.get_mut(id).and_then(|server| server.passage.as_mut()) {
                passage.native = Seen::Yes;
                passage.by_line = by_line;
            }
            self.tell_rest(io, session);
            self.own_up(io, session);
        }
        let marks = self.key_of(id).and_then(|key| Some(self.hubs.all.get(&key)?.line.as_ref()?.marks.clone()));
        let Some(server) = self.servers.get_mut(id) else { return };
        if let Some(passage) = server.passage.as_mut() {
            passage.step = Step::Ending;
        }
        let mut text = Vec::new();
        about(&mut text, "UNLISTEN", &marks.unwrap_or_else(|| b"_optimacore".to_vec().into()));
        ask(io, server, &text, Mark::Probe);
    }

    /// The line listens for the session: its home is anybody's again, once it is clean.
    fn finish_away(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(passage) = self.end_passage(id) else { return };
        let Way::Away { settings, channels, before } = passage.way else { return };
        let session_id = passage.session;
        self.stop_waiting(session_id);
        if let Some(key) = self.key_of(id) {
            let gone: Vec<Channel> = before.into_iter().filter(|channel| !channels.contains(channel)).collect();
            self.drop_channels(io, &key, session_id, &gone);
        }
        if let Some(session) = self.sessions.get_mut(session_id) {
            session.dress = Dress::of(settings).into();
            session.pin = Pin::No;
            session.home = None;
            session.left = Left::Unlikely;
            session.place = Place::Idle;
            session.record.note_pin(session.pin, io.now());
            if let Some(ears) = session.ears.as_mut() {
                ears.channels = channels;
            }
        }
        self.tell_rest(io, session_id);
        self.ready.push_back(session_id);
        let Some(server) = self.servers.get_mut(id) else { return };
        server.promised = None;
        let pool = server.pool;
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.listens_moved += 1;
        }
        self.clean(io, id);
    }

    /// The channels stay where they are.
    fn refuse_passage(&mut self, id: ServerId) {
        self.refuse_passage_keeping(id);
        self.end_passage(id);
    }

    /// As [`Shard::refuse_passage`], but the passage still has something to do.
    fn refuse_passage_keeping(&mut self, id: ServerId) {
        let Some(passage) = self.servers.get_mut(id).and_then(|server| server.passage.as_mut()) else { return };
        let session = passage.session;
        let Way::Away { before, channels, .. } = &mut passage.way else { return };
        let (before, channels) = (std::mem::take(before), std::mem::take(channels));
        if let Some(ears) = self.sessions.get_mut(session).and_then(|session| session.ears.as_mut()) {
            // the line goes on listening to what it was to listen to anew; nobody hears that
            ears.channels = before;
            for channel in channels {
                if !ears.channels.contains(&channel) {
                    ears.channels.push(channel);
                }
            }
        }
    }

    /// A session whose channels the line does not take over keeps its connection.
    fn bind_listener(&mut self, io: &mut World<'_>, id: ServerId) {
        let owner = self.servers.get(id).and_then(|server| server.last_session);
        if let Some(owner) = owner {
            self.bind(io, id, owner, "LISTEN");
        }
    }

    pub(crate) fn end_passage(&mut self, id: ServerId) -> Option<Box<Passage>> {
        let key = self.key_of(id);
        let passage = self.servers.get_mut(id)?.passage.take()?;
        if let Some(hub) = key.and_then(|key| self.hubs.all.get_mut(&key)) {
            hub.passages.remove(&passage.number);
        }
        Some(passage)
    }

    /// A connection is lost on which a passage was under way.
    pub(crate) fn lose_passage(&mut self, io: &mut World<'_>, id: ServerId) {
        self.refuse_passage_keeping(id);
        let Some(passage) = self.end_passage(id) else { return };
        if let Some(session) = self.sessions.get_mut(passage.session)
            && session.place == Place::Promised(id)
        {
            session.place = Place::Idle;
            if let Some(server) = self.servers.get_mut(id) {
                server.promised = None;
            }
            self.ready.push_back(passage.session);
        }
        self.fall_back(io, passage.session);
    }

    /// The session that hears on a connection what it listens to.
    pub(crate) fn listener_at(&self, id: ServerId) -> Option<SessionId> {
        let server = self.servers.get(id)?;
        let at_home = |id_of: &SessionId| self.sessions.get(*id_of).is_some_and(|session| session.home == Some(id));
        server.holder.or_else(|| server.last_session.filter(at_home))
    }

    /// A session has lost the connection on which it listened, and goes on: the line listens for it, and it may have missed
    /// something.
    pub(crate) fn fall_back(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let pool = session.pool;
        let Some(ears) = session.ears.as_mut().filter(|ears| ears.hearing == Hearing::Home) else { return };
        ears.hearing = Hearing::Line;
        ears.missed = Missed::Perhaps;
        if self.want_line(pool).is_some() {
            self.own_up(io, id);
        }
    }
}
