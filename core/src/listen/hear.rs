//! What sessions hear: by the line, or on a connection of their own, and when their clients are told.
//!
//! A client is told between two requests, never inside a reply. What it is not told yet is bounded: who does not read what it has
//! asked for is ended, so that nobody else waits for it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use dbproto::message::backend::{Notification, TransactionStatus, write_notification};
use dbproto::message::error::{ErrorReport, Severity, write_notice};

use crate::cancel::process_id;
use crate::catalog::keeper::DatabaseKey;
use crate::error::{Failure, Limited};
use crate::listen::line::LineRequest;
use crate::listen::passage::Seen;
use crate::listen::{
    Channel, Ears, Heard, Hearing, Hub, Line, LineCount, Listening, Missed, News, Order, Passage, Standing, UNTOLD_MAX,
};
use crate::pipe::{List, Server, ServerId, Soil};
use crate::pool::PoolId;
use crate::session::{Phase, Pin, Place, SessionId};
use crate::shard::{Shard, World};

/// How long a session keeps a connection that listens for it and that nobody else wants.
const LINGER: std::time::Duration = std::time::Duration::from_millis(100);

/// Whether a client may be told something now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Between two requests.
    Now,
    /// A reply is under way.
    Later,
}

impl Shard {
    /// A line tells something.
    pub(crate) fn on_line_news(&mut self, io: &mut World<'_>, news: News) {
        match news {
            News::Made(line) => {
                let hub = self.hubs.all.entry(line.key.clone()).or_default();
                hub.line = Some(line);
            }
            News::Up(key) => self.on_line_up(io, &key),
            News::Down(key) => self.on_line_down(io, &key),
            News::Failed(key, marks) => {
                for mark in marks {
                    self.on_mark(io, &key, mark.number, Seen::Never);
                }
            }
            News::Heard(batch) => {
                for heard in &batch.all {
                    match heard {
                        Heard::Mark(mark) if mark.shard == io.shard() => {
                            self.on_mark(io, &batch.line.key, mark.number, Seen::Yes);
                        }
                        Heard::Mark(_) => {}
                        Heard::Notification { channel, process_id, payload } => {
                            let told = Notification { process_id: *process_id, channel, payload };
                            self.on_heard(io, &batch.line.key, channel, told);
                        }
                    }
                }
            }
        }
    }

    fn on_line_up(&mut self, io: &mut World<'_>, key: &DatabaseKey) {
        self.hubs.all.entry(key.clone()).or_default().standing = Standing::Up;
        for id in self.line_sessions(key) {
            self.own_up(io, id);
        }
        for pool in self.pools_on(key) {
            self.offer_listeners(io, pool);
        }
    }

    fn on_line_down(&mut self, io: &mut World<'_>, key: &DatabaseKey) {
        let Some(hub) = self.hubs.all.get_mut(key) else { return };
        hub.standing = Standing::Down;
        let numbers: Vec<u64> = hub.passages.keys().copied().collect();
        for number in numbers {
            self.on_mark(io, key, number, Seen::Never);
        }
        let sessions = self.line_sessions(key);
        for id in &sessions {
            if let Some(ears) = self.sessions.get_mut(*id).and_then(|session| session.ears.as_mut()) {
                ears.missed = Missed::Perhaps;
            }
        }
        let pool = sessions.first().and_then(|id| self.sessions.get(*id)).map(|session| session.pool);
        if let Some(pool) = pool {
            self.want_line(pool);
        }
    }

    /// The sessions of a database that listen by its line.
    fn line_sessions(&self, key: &DatabaseKey) -> Vec<SessionId> {
        let Some(hub) = self.hubs.all.get(key) else { return Vec::new() };
        let all: HashSet<SessionId> = hub.listeners.values().flatten().copied().collect();
        let hears = |id: &SessionId| {
            let ears = self.sessions.get(*id).and_then(|session| session.ears.as_ref());
            ears.is_some_and(|ears| ears.hearing == Hearing::Line)
        };
        all.into_iter().filter(hears).collect()
    }

    /// The lines that this shard knows, and how many of its sessions listen by them.
    pub(crate) fn count_lines(&self) -> Vec<LineCount> {
        let count = |(key, hub): (&DatabaseKey, &Hub)| {
            let line = hub.line.as_ref()?;
            let backend = line.backend.load(Ordering::Acquire);
            Some(LineCount {
                database: key.1.clone(),
                backend: (backend != 0).then_some(backend),
                channels: line.channels.load(Ordering::Relaxed),
                sessions: self.line_sessions(key).len() as u64,
                heard: line.heard.load(Ordering::Relaxed),
                losses: line.losses.load(Ordering::Relaxed),
                key: key.clone(),
            })
        };
        self.hubs.all.iter().filter_map(count).collect()
    }

    fn pools_on(&self, key: &DatabaseKey) -> Vec<PoolId> {
        (0..).map(PoolId).zip(&self.pools).filter(|(_, pool)| pool.database == *key).map(|(id, _)| id).collect()
    }

    /// The line of a pool's database is wanted; gives it if it is there.
    pub(super) fn want_line(&mut self, pool_id: PoolId) -> Option<Arc<Line>> {
        let pool = self.pools.get(pool_id.0 as usize).filter(|pool| !pool.paused)?;
        let hub = self.hubs.all.entry(pool.database.clone()).or_default();
        if hub.standing == Standing::Up {
            return hub.line.as_ref().map(Arc::clone);
        }
        let before = std::mem::replace(&mut hub.standing, Standing::Asked);
        if before == Standing::Down {
            let target = pool.target.clone();
            match &hub.line {
                Some(line) => line.order(Order::Open(target)),
                None => {
                    // without a thread for it, sessions keep their connections
                    let request = LineRequest { key: pool.database.clone(), target };
                    let _sent: Result<(), _> = self.board.lines.send(request);
                }
            }
        }
        None
    }

    /// The database of a pool is paused, or not any more.
    pub(crate) fn hold_line(&self, pool_id: PoolId, order: Order) {
        let line = self.pool(pool_id).and_then(|pool| self.hubs.all.get(&pool.database)?.line.as_ref());
        if let Some(line) = line {
            line.order(order);
        }
    }

    /// Whether the line of a pool's database is connected.
    pub(crate) fn has_line(&self, database: &DatabaseKey) -> bool {
        self.hubs.all.get(database).and_then(|hub| hub.line.as_ref()).is_some_and(|line| line.is_connected())
    }

    /// The line has heard a notification.
    fn on_heard(&mut self, io: &mut World<'_>, key: &DatabaseKey, channel: &Channel, told: Notification<'_>) {
        let Some(listeners) = self.hubs.all.get(key).and_then(|hub| hub.listeners.get(channel)) else { return };
        let listeners: Vec<SessionId> = listeners.iter().copied().collect();
        let process_id = self.board.aliases.of((key.0, told.process_id));
        let mut frame = BytesMut::new();
        if write_notification(&mut frame, Notification { process_id, ..told }).is_err() {
            return;
        }
        for id in listeners {
            let Some(session) = self.sessions.get(id) else { continue };
            if session.ears.as_ref().is_some_and(|ears| ears.hearing == Hearing::Line) {
                let order = self.order_of(id);
                self.inform(io, id, &frame, order);
            }
        }
    }

    /// The passage of a session's channels that is under way.
    fn passage_of(&self, id: SessionId) -> Option<&Passage> {
        let session = self.sessions.get(id)?;
        let promised = match session.place {
            Place::Promised(server) => Some(server),
            Place::Idle | Place::Waiting | Place::Shared(_) | Place::Exclusive(_) => None,
        };
        let passages =
            promised.into_iter().chain(session.home).filter_map(|id| self.servers.get(id)?.passage.as_deref());
        passages.into_iter().find(|passage| passage.session == id)
    }

    /// Whether what the line hears for a session may be told before what its home has heard.
    fn order_of(&self, id: SessionId) -> Moment {
        let behind = self.passage_of(id).is_some_and(|passage| passage.is_away() && passage.native == Seen::NotYet);
        if behind { Moment::Later } else { Moment::Now }
    }

    /// A notification has come on a server connection; gives whom it is for and the frame, if that holds the connection, and
    /// tells others itself.
    pub(crate) fn on_notification(
        &mut self,
        io: &mut World<'_>,
        id: ServerId,
        body: &[u8],
    ) -> Option<(SessionId, BytesMut)> {
        let told = Notification::read(body).ok()?;
        let server = self.servers.get_mut(id)?;
        let pool = self.pools.get(server.pool.0 as usize)?;
        let marks = self.hubs.all.get(&pool.database).and_then(|hub| hub.line.as_ref()).map(|line| &*line.marks);
        if marks == Some(told.channel) {
            self.on_native_mark(id, told.payload);
            return None;
        }
        let held = server.list == List::Exclusive;
        let at_home = matches!(server.list, List::Idle | List::Working) && server.soil == Soil::Unknown;
        let owner = match server.holder {
            Some(holder) if held || server.findings.is_some() => holder,
            _ => server.passage.as_ref().map(|passage| passage.session).or(server.last_session).filter(|_| at_home)?,
        };
        let backend = (pool.database.0, told.process_id);
        let own = server.key.as_ref().is_some_and(|(pid, _)| *pid == told.process_id);
        let process_id = if own {
            self.sessions.get(owner).and_then(|session| session.told).unwrap_or_else(|| process_id(io.shard(), owner))
        } else {
            self.board.aliases.of(backend)
        };
        let mut frame = BytesMut::new();
        write_notification(&mut frame, Notification { process_id, ..told }).ok()?;
        if held {
            if let Some(pool) = self.pools.get_mut(server.pool.0 as usize) {
                pool.stats.notifications += 1;
            }
            return Some((owner, frame));
        }
        let moment = match &server.passage {
            Some(passage) => passage.native_moment()?,
            None if self.sessions.get(owner)?.home == Some(id) => Moment::Now,
            None => return None,
        };
        if let Some(server) = self.servers.get_mut(id)
            && server.listening == Listening::No
        {
            // by whatever function it was told to
            server.listening = Listening::Yes;
            self.remember_home(id);
        }
        self.inform(io, owner, &frame, moment);
        None
    }

    /// Tells a client something that it has not asked for just now, as soon as it may be told.
    fn inform(&mut self, io: &mut World<'_>, id: SessionId, frame: &[u8], moment: Moment) {
        let moving = self.passage_of(id).is_some();
        let Some(session) = self.sessions.get_mut(id).filter(|session| matches!(session.phase, Phase::Ready)) else {
            return;
        };
        let between = matches!(session.place, Place::Idle | Place::Waiting | Place::Promised(_));
        let waiting = session.ears.as_ref().map_or(0, |ears| ears.untold.len());
        if io.output_len(session.socket).saturating_add(waiting).saturating_add(frame.len()) > UNTOLD_MAX {
            let pool = session.pool;
            if let Some(pool) = self.pool_mut(pool) {
                pool.stats.count_limit("notifications");
            }
            self.end_session(io, id, Some(&Failure::Limited(Limited::Unread { bytes: UNTOLD_MAX })));
            return;
        }
        let pool = session.pool;
        if between && moment == Moment::Now {
            let out = io.output(session.socket);
            // what waits during a passage comes behind all that may be told now
            if let Some(ears) = session.ears.as_mut().filter(|_| !moving) {
                out.extend_from_slice(&std::mem::take(&mut ears.untold));
            }
            out.extend_from_slice(frame);
        } else {
            let ears = session.ears.get_or_insert_with(|| Box::new(Ears::new(Vec::new(), BytesMut::new())));
            ears.untold.extend_from_slice(frame);
        }
        self.stats.messages_out += 1;
        self.stats.bytes_out += frame.len() as u64;
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.notifications += u64::from(frame.first() == Some(&b'A'));
        }
    }

    /// A session's reply is complete: it is told what has come meanwhile.
    pub(crate) fn tell_rest(&mut self, io: &mut World<'_>, id: SessionId) {
        let ready =
            self.sessions.get(id).and_then(|session| session.ears.as_ref()).is_some_and(|e| !e.untold.is_empty());
        if !ready || self.order_of(id) == Moment::Later {
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let between = matches!(session.place, Place::Idle | Place::Waiting | Place::Promised(_));
        if let Some(ears) = session.ears.as_mut().filter(|_| between) {
            let untold = std::mem::take(&mut ears.untold);
            io.output(session.socket).extend_from_slice(&untold);
        }
    }

    /// A session that may have missed notifications is told so.
    pub(super) fn own_up(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(ears) = session.ears.as_mut() else { return };
        if std::mem::replace(&mut ears.missed, Missed::Nothing) == Missed::Nothing {
            return;
        }
        let mut out = BytesMut::new();
        let report = ErrorReport {
            severity: Severity::Warning,
            sqlstate: "01000",
            message: "notifications may have been lost",
            detail: Some("The connection to PostgreSQL that listens for this session was lost; it listens again now."),
            hint: Some("Read anew what the notifications tell of."),
        };
        write_notice(&mut out, &report);
        self.inform(io, id, &out, Moment::Now);
    }

    /// From now on the line listens to these channels for a session too; gives those that are new on this shard.
    pub(super) fn add_channels(&mut self, key: &DatabaseKey, id: SessionId, channels: &[Channel]) {
        let hub = self.hubs.all.entry(key.clone()).or_default();
        for channel in channels {
            hub.listeners.entry(Arc::clone(channel)).or_default().insert(id);
        }
    }

    /// A session does not listen to these channels any more, not by the line.
    pub(super) fn drop_channels(&mut self, io: &World<'_>, key: &DatabaseKey, id: SessionId, channels: &[Channel]) {
        let Some(hub) = self.hubs.all.get_mut(key) else { return };
        let mut left = Vec::new();
        for channel in channels {
            if let Some(listeners) = hub.listeners.get_mut(channel) {
                listeners.remove(&id);
                if listeners.is_empty() {
                    hub.listeners.remove(channel);
                    left.push(Arc::clone(channel));
                }
            }
        }
        if let Some(line) = hub.line.as_ref().filter(|_| !left.is_empty()) {
            line.order(Order::Leave { shard: io.shard(), channels: left });
        }
    }

    /// A session listens to nothing any more, or is no more.
    pub(crate) fn drop_ears(&mut self, io: &World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(ears) = session.ears.take() else { return };
        if let Some(key) = self.pools.get(session.pool.0 as usize).map(|pool| pool.database.clone()) {
            self.drop_channels(io, &key, id, &ears.channels);
        }
    }

    /// What a session listened to it heard at home, and does not listen to any more.
    pub(crate) fn drop_ears_at_home(&mut self, io: &mut World<'_>, id: SessionId) {
        let ears = self.sessions.get(id).and_then(|session| session.ears.as_ref());
        if ears.is_some_and(|ears| ears.hearing != Hearing::Line) {
            self.tell_rest(io, id);
            self.drop_ears(io, id);
        }
    }

    /// Whether a session has let go of everything by `DISCARD ALL`.
    pub(crate) fn is_deaf(&self, id: SessionId) -> bool {
        let ears = self.sessions.get(id).and_then(|session| session.ears.as_ref());
        ears.is_some_and(|ears| ears.hearing == Hearing::Nowhere)
    }

    /// A session has a home that listens for it: the line is to take that over soon.
    pub(crate) fn note_listening(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id).filter(|server| server.listening == Listening::Yes) else { return };
        let pool = server.pool;
        if self.pool(pool).is_some_and(|pool| pool.settings.mode != config::PoolMode::Session) {
            self.want_line(pool);
            self.remember_home(id);
            let at = io.now() + LINGER;
            self.tick_at(io, at);
        }
    }

    pub(super) fn remember_home(&mut self, id: ServerId) {
        if !self.hubs.homes.contains(&id) {
            self.hubs.homes.push(id);
        }
    }

    /// Whether a session holds a connection only because it listens there.
    fn is_kept_for_listening(&self, server: &Server) -> bool {
        let holder = server.holder.and_then(|id| self.sessions.get(id));
        server.list == List::Exclusive
            && server.status == TransactionStatus::Idle
            && holder.is_some_and(|session| {
                session.pin == Pin::Found("LISTEN") && session.input.is_empty() && session.stream_left == 0
            })
    }

    /// Connections that are kept only because they listen are asked, so that the line can take over.
    pub(crate) fn offer_listeners(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        let now = io.now();
        let Some(pool) = self.pool(pool_id) else { return };
        if pool.settings.mode == config::PoolMode::Session || pool.paused {
            return;
        }
        let hurried = !pool.waiting.is_empty();
        let mut homes = std::mem::take(&mut self.hubs.homes);
        homes.retain(|id| self.servers.get(*id).is_some_and(|server| server.listening == Listening::Yes));
        let mine: Vec<ServerId> = homes
            .iter()
            .copied()
            .filter(|id| {
                self.servers.get(*id).is_some_and(|server| {
                    server.pool == pool_id
                        && server.is_quiet()
                        && (hurried || now.saturating_duration_since(server.idle_since) >= LINGER)
                        && (self.is_home(*id) && server.list == List::Idle || self.is_kept_for_listening(server))
                })
            })
            .collect();
        self.hubs.homes = homes;
        if mine.is_empty() || self.want_line(pool_id).is_none() {
            return;
        }
        for id in mine {
            let holder = self.servers.get(id).and_then(|server| server.holder);
            if let Some(session) = holder.and_then(|id| self.sessions.get_mut(id)) {
                session.home = Some(id);
            }
            self.begin_probe(io, id);
        }
    }
}

impl Passage {
    /// When a client is told what its connection hears; none for what the line tells it.
    fn native_moment(&self) -> Option<Moment> {
        match (self.is_away(), self.native) {
            (true, Seen::NotYet) => Some(Moment::Now),
            (true, Seen::Yes | Seen::Never) | (false, Seen::NotYet) => None,
            (false, Seen::Yes | Seen::Never) if self.by_line == Seen::NotYet => Some(Moment::Later),
            (false, Seen::Yes | Seen::Never) => Some(Moment::Now),
        }
    }
}
