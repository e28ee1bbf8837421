//! One shard: everything a core owns, and what it does when something happens.
//!
//! A shard is a state machine. The runtime calls it with events; it answers through [`World`]. It never waits, never
//! locks, and shares nothing with other shards but the [`Board`]'s few numbers.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use config::Config;
use crossbeam::channel::Sender;
use runtime::{Closed, Event, Expectation, Io, Reactor, ShardId, Tenure, Tls};
use stats::ShardStats;

use crate::admin::pinned::PinLog;
use crate::admin::{Levers, Order, Record, Withdrawal};
use crate::bound::LineId;
use crate::cancel::told::Told;
use crate::cancel::{CancelConnection, CancelSecret};
use crate::catalog::keeper::{DatabaseKey, News};
use crate::clerk::Answer;
use crate::deadline::Deadlines;
use crate::error::Failure;
use crate::listen::{Hubs, News as LineNews};
use crate::memory::Memory;
use crate::pace::Paces;
use crate::pipe::{Flow, Server, ServerId};
use crate::pool::permit::{Lent, PoolKey, Question};
use crate::pool::{Pool, PoolId};
use crate::replication::Candidate;
use crate::session::chronicle::SlowLog;
use crate::session::parting::Parting;
use crate::session::secure::Transport;
use crate::session::{Phase, Place, Session, SessionId, Start};
use crate::slab::{Key, Slab, TokenKind};
use crate::statement::Interner;
use crate::stock::Stock;
use crate::stopwatch::Stopwatch;
use crate::tally::Tallies;
use crate::tls::TlsState;
use crate::upstream::{Map, Places};

mod board;
mod drain;
mod turn;

pub(crate) use board::{Asked, Board};

/// What a shard may ask of its runtime.
pub(crate) type World<'a> = dyn Io<Message> + 'a;

/// Pause between looks at timeouts while something is expected to happen soon, and otherwise.
pub(crate) const TICK_SOON: Duration = Duration::from_millis(10);
const TICK_IDLE: Duration = Duration::from_secs(1);
/// Clients above the limit that are still told so; beyond, connections are closed without a word.
const REFUSED_MAX: u32 = 1000;

/// A client on its way to the shard that will serve it.
pub(crate) struct Newcomer {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: Option<IpAddr>,
    pub(crate) uid: Option<u32>,
    pub(crate) admission: Admission,
    /// Its encryption.
    pub(crate) tls: Option<Box<Tls>>,
    /// Who it is, if another shard has found that out, and what that shard had not yet sent and not yet read.
    pub(crate) start: Option<(Start, BytesMut, BytesMut)>,
}

/// A client's connection that the kernel has let go of: what was not sent, and its encryption.
type Left = (OwnedFd, BytesMut, Option<Box<Tls>>);

/// Whether there is room for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    Granted,
    /// It will be told that there is none.
    Refused,
}

/// What shards and the control side say to a shard.
pub(crate) enum Message {
    /// A client to serve.
    Client(Box<Newcomer>),
    /// A cancel request for one of its sessions.
    Cancel { index: u32, secret: CancelSecret },
    /// The same, for whoever was told this process id of a backend.
    CancelTold { process_id: u32, secret: CancelSecret },
    /// Stop: let transactions finish until then.
    Drain(Instant),
    /// A shard whose clients wait asks for a connection of this pool.
    AskPermit { question: Question, from: ShardId },
    /// A shard whose clients wait asks for an idle connection in this line to be closed.
    AskSlot { line: LineId, from: ShardId },
    /// A shard that has found the memory for buffers used up asks for the largest session to be closed.
    MakeRoom,
    /// A shard without permits asks for a connection that this pool is to keep.
    KeepWarm { key: PoolKey, from: ShardId },
    /// A permit, with its connection if there is one.
    Lent(Box<Lent>),
    /// News of a database's catalog.
    Catalog(News),
    /// Databases are elsewhere, or certificates have changed.
    Map(Arc<Map>),
    /// What a line has to tell; see [`crate::listen`].
    Line(Box<LineNews>),
    /// What was asked about somebody who wants to come in.
    Found(Box<Answer>),
    /// What the desk wants; see [`crate::admin`].
    Admin(Box<Order>),
    /// Tell what has been counted.
    Snapshot(Sender<Stock>),
}

// what crosses is moved several times: the larger parts of messages are boxed
const _: () = assert!(size_of::<Message>() <= 192);

/// See the module documentation.
pub(crate) struct Shard {
    pub(crate) config: Arc<Config>,
    pub(crate) board: Arc<Board>,
    /// What new connections are encrypted with.
    pub(crate) tls: Arc<TlsState>,
    /// Where each configured database is.
    pub(crate) places: Arc<[Places]>,
    pub(crate) sessions: Slab<Session>,
    pub(crate) servers: Slab<Server>,
    pub(crate) cancels: Slab<CancelConnection>,
    /// Sessions that were told the process id of their backend.
    pub(crate) told: Told,
    pub(crate) pools: Vec<Pool>,
    /// Pools by database and user.
    pub(crate) pool_index: HashMap<(String, String), PoolId>,
    pub(crate) interner: Interner,
    /// How long requests of each kind take.
    pub(crate) paces: Paces,
    /// Where their times go.
    pub(crate) times: Stopwatch,
    pub(crate) slow_log: SlowLog,
    /// What is counted by statement.
    pub(crate) tallies: Tallies,
    /// Catalogs, for pools that are still to open.
    pub(crate) news: HashMap<DatabaseKey, News>,
    /// What is listened to for sessions.
    pub(crate) hubs: Hubs,
    /// Sessions that may be able to go on.
    pub(crate) ready: VecDeque<SessionId>,
    /// Server connections that whoever holds them may be done with.
    pub(crate) done_with: VecDeque<ServerId>,
    /// Clients that have not logged in, the one to give up first in front.
    starting: VecDeque<(Instant, SessionId)>,
    /// Clients whose proof is looked at then.
    pub(crate) held: Vec<(Instant, SessionId)>,
    /// Clients that have sent their last byte and may have gone.
    pub(crate) parting: Vec<Parting>,
    /// Replication clients that wait for a server connection.
    pub(crate) replicas: VecDeque<Candidate>,
    /// While stopping: until when transactions may go on.
    pub(crate) draining: Option<Instant>,
    /// When limits on time are to be looked at.
    pub(crate) deadlines: Deadlines,
    pub(crate) memory: Memory,
    pub(crate) rng: fastrand::Rng,
    /// When this turn began.
    pub(crate) now: Instant,
    pub(crate) stats: ShardStats,
    /// How an administrator has set things.
    pub(crate) levers: Arc<Levers>,
    /// Connections that have got a number here.
    pub(crate) serials: u32,
    /// Pins that the log has not told of.
    pub(crate) pin_log: PinLog,
    next_tick: Option<Instant>,
    listeners: Vec<Listener>,
    is_unix: Vec<bool>,
}

/// Where clients come.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) tenure: Tenure,
    pub(crate) is_unix: bool,
}

impl Shard {
    pub(crate) fn new(config: Arc<Config>, board: Arc<Board>, core: u16, listeners: Vec<Listener>) -> Self {
        let (map, now) = (board.directory.map(), Instant::now());
        let is_unix = listeners.iter().map(|listener| listener.is_unix).collect();
        Self {
            tls: Arc::clone(&map.tls),
            places: Arc::clone(&map.places),
            board,
            sessions: Slab::default(),
            servers: Slab::default(),
            cancels: Slab::default(),
            told: Told::default(),
            pools: Vec::new(),
            pool_index: HashMap::new(),
            interner: Interner::default(),
            paces: Paces::default(),
            times: Stopwatch::new(now),
            slow_log: SlowLog::default(),
            tallies: Tallies::new(config.stats.statements),
            news: HashMap::new(),
            hubs: Hubs::default(),
            ready: VecDeque::new(),
            done_with: VecDeque::new(),
            starting: VecDeque::new(),
            held: Vec::new(),
            parting: Vec::new(),
            replicas: VecDeque::new(),
            draining: None,
            deadlines: Deadlines::default(),
            memory: Memory::default(),
            rng: fastrand::Rng::new(),
            now,
            stats: ShardStats { core, ..ShardStats::default() },
            levers: Arc::default(),
            serials: 0,
            pin_log: PinLog::default(),
            next_tick: None,
            config,
            listeners,
            is_unix,
        }
    }

    /// Timeouts are looked at soon.
    pub(crate) fn hurry(&mut self, io: &mut World<'_>) {
        self.tick_within(io, TICK_SOON);
    }

    fn tick_within(&mut self, io: &mut World<'_>, pause: Duration) {
        let at = io.now() + pause;
        self.tick_at(io, at);
    }

    /// Timeouts are looked at then, or sooner.
    pub(crate) fn tick_at(&mut self, io: &mut World<'_>, at: Instant) {
        if self.next_tick.is_none_or(|tick| tick > at) {
            self.next_tick = Some(at);
            io.set_timer(Some(at));
        }
    }

    fn on_accepted(&mut self, io: &mut World<'_>, listener: u32, socket: OwnedFd) {
        let peer = match self.is_unix.get(listener as usize) {
            Some(true) => None,
            _ => match rustix::net::getpeername(&socket).ok().flatten().map(std::net::SocketAddr::try_from) {
                Some(Ok(address)) => Some(address.ip().to_canonical()),
                // it has gone already
                _ => return,
            },
        };
        let to = self.board.least_loaded(io.shard());
        let count = self.board.enter(to);
        let limit = self.config.limits.max_client_connections;
        let admission = if count > limit { Admission::Refused } else { Admission::Granted };
        if count > limit.saturating_add(REFUSED_MAX) || self.draining.is_some() {
            self.board.leave(to);
            return;
        }
        let uid = match peer {
            Some(_) => None,
            None => rustix::net::sockopt::socket_peercred(&socket).ok().map(|whose| whose.uid.as_raw()),
        };
        let newcomer = Box::new(Newcomer { socket, peer, uid, admission, tls: None, start: None });
        if to == io.shard() {
            self.adopt(io, newcomer);
        } else if let Err(Message::Client(newcomer)) = io.post(to, Message::Client(newcomer)) {
            self.board.leave(to);
            self.board.enter(io.shard());
            self.adopt(io, newcomer);
        } else {
            self.stats.handed_over += 1;
        }
    }

    /// Another shard's client becomes ours; it has been counted.
    fn adopt(&mut self, io: &mut World<'_>, newcomer: Box<Newcomer>) {
        let now = io.now();
        let serial = self.next_serial(io);
        let Newcomer { socket, peer, uid, admission, tls, start } = *newcomer;
        let inserted = self.sessions.insert_with(|id| {
            let socket = io.attach(socket, id.token(TokenKind::Session));
            let mut session = Session::accepted(socket, CancelSecret::random(), peer, now);
            session.admission = admission;
            session.record = Record::new(serial, now);
            session.uid = uid;
            if let Some(tls) = tls {
                io.resume_tls(socket, tls);
                session.transport = Transport::Secured;
            }
            session
        });
        let Some(id) = inserted else {
            self.board.leave(io.shard());
            return;
        };
        match start {
            Some((start, output, input)) => {
                if let Some(session) = self.sessions.get_mut(id) {
                    io.output(session.socket).extend_from_slice(&output);
                    session.input = input;
                }
                self.settle_newcomer(io, id, start);
            }
            None => {
                self.tell_arrival(id);
                self.starting.push_back((now + self.config.limits.auth_timeout, id));
            }
        }
        self.tick_within(io, TICK_IDLE);
    }

    /// Gives a client that has been let in to another shard, as soon as the kernel has let go of its socket.
    pub(crate) fn hand_on(&mut self, io: &mut World<'_>, id: SessionId, to: ShardId, start: Start) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.phase = Phase::Leaving(Box::new((to, start)));
            io.detach(session.socket);
        }
    }

    fn on_session_detached(&mut self, io: &mut World<'_>, id: SessionId, left: Left) {
        let (socket, output, tls) = left;
        let Some(session) = self.sessions.remove(id) else { return };
        self.board.leave(io.shard());
        let Phase::Leaving(leaving) = session.phase else { return };
        let (to, start) = *leaving;
        self.board.enter(to);
        let start = Some((start, output, session.input));
        let (peer, uid) = (session.peer, session.uid);
        let newcomer = Box::new(Newcomer { socket, peer, uid, admission: Admission::Granted, tls, start });
        if io.post(to, Message::Client(newcomer)).is_err() {
            // the other shard is drowning in messages; the client may come again
            tracing::warn!("a client was turned away because the ring to its shard is full");
            self.board.leave(to);
        }
    }

    /// The session is no more.
    pub(crate) fn drop_session(&mut self, io: &mut World<'_>, id: SessionId) {
        self.stop_waiting(id);
        self.cancel_console(io, id, Withdrawal::Gone);
        self.drop_ears(io, id);
        if let Some(session) = self.sessions.remove(id) {
            self.tell_departure(&session);
            self.forget_told(id, session.told);
            self.board.leave(io.shard());
            let in_vain = match session.phase {
                Phase::Startup | Phase::Authenticating(_) | Phase::Welcoming => true,
                Phase::Ready | Phase::Console(_) | Phase::Replicating(_) | Phase::Leaving(_) => false,
            };
            if in_vain {
                self.stats.login_failures += 1;
            }
        }
    }

    fn on_client_drained(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        if matches!(session.phase, Phase::Console(_)) {
            self.ready.push_back(id);
        } else if let Place::Exclusive(server) | Place::Shared(server) = session.place
            && let Some(server) = self.servers.get_mut(server)
            && server.flow == Flow::Paused
        {
            server.flow = Flow::Open;
            io.resume(server.socket);
        }
        self.ready.push_back(id);
    }

    fn on_server_drained(&mut self, id: ServerId) {
        if let Some(holder) = self.servers.get(id).and_then(|server| server.holder) {
            self.ready.push_back(holder);
        }
    }

    /// Goes on with every session that may be able to.
    fn run_ready(&mut self, io: &mut World<'_>) {
        loop {
            if let Some(id) = self.ready.pop_front() {
                self.process(io, id);
            } else if let Some(id) = self.done_with.pop_front() {
                self.let_go_if_done(io, id);
            } else {
                break;
            }
        }
    }

    fn on_starting_tick(&mut self, io: &mut World<'_>) {
        let now = io.now();
        while let Some((_, id)) = self.starting.pop_front_if(|(at, _)| *at <= now) {
            let late = self
                .sessions
                .get(id)
                .is_some_and(|session| matches!(session.phase, Phase::Startup | Phase::Authenticating(_)));
            if late {
                let after = self.config.limits.auth_timeout;
                self.end_session(io, id, Some(&Failure::LoginTimeout { after }));
            }
        }
    }

    fn on_tick(&mut self, io: &mut World<'_>) {
        self.next_tick = None;
        self.on_starting_tick(io);
        self.on_held_tick(io);
        self.on_replica_tick(io);
        self.on_parting_tick(io);
        self.on_slow_tick();
        self.on_deadline_tick(io);
        self.on_server_tick(io);
        self.on_cancel_tick(io);
        for index in 0..self.pools.len() {
            self.on_pool_tick(io, PoolId(u32::try_from(index).unwrap_or(u32::MAX)));
        }
        self.run_ready(io);
        self.keep_memory(io);
        self.on_drain_tick(io);
        let soon = self.draining.is_some()
            || self.cancels.len() > 0
            || !self.held.is_empty()
            || !self.replicas.is_empty()
            || self.pools.iter().any(Pool::is_busy);
        if soon {
            self.tick_within(io, TICK_SOON);
        } else if self.servers.len() > 0 || !self.starting.is_empty() || self.pools.iter().any(Pool::is_cold) {
            self.tick_within(io, TICK_IDLE);
        }
    }
}

impl Reactor for Shard {
    type Message = Message;

    fn on_start(&mut self, io: &mut dyn Io<Message>) {
        self.stats.shard = io.shard().0;
        for (index, listener) in (0..).zip(std::mem::take(&mut self.listeners)) {
            io.listen(listener.socket, listener.tenure, Key::<Listener>::at(index).token(TokenKind::Listener));
        }
    }

    fn on_event(&mut self, io: &mut dyn Io<Message>, event: Event<'_>) {
        self.note_turn(io);
        match event {
            Event::Accepted { token, socket } => {
                let (_, listener) = Key::<Listener>::from_token(token);
                self.on_accepted(io, listener.index(), socket);
            }
            Event::Connected { token, .. } => match Key::<()>::from_token(token).0 {
                TokenKind::Server => self.on_server_connected(io, Key::from_token(token).1),
                TokenKind::Cancel => self.on_cancel_connected(io, Key::from_token(token).1),
                TokenKind::Session | TokenKind::Listener => {}
            },
            Event::Secured { token, agreed, .. } => match Key::<()>::from_token(token).0 {
                TokenKind::Session => self.on_client_secured(io, Key::from_token(token).1, &agreed),
                TokenKind::Server => self.on_server_secured(io, Key::from_token(token).1, &agreed),
                TokenKind::Cancel => self.on_cancel_secured(io, Key::from_token(token).1),
                TokenKind::Listener => {}
            },
            Event::Received { token, bytes, .. } => match Key::<()>::from_token(token).0 {
                TokenKind::Session => self.on_client_bytes(io, Key::from_token(token).1, bytes),
                TokenKind::Server => self.on_server_bytes(io, Key::from_token(token).1, bytes),
                TokenKind::Cancel => self.on_cancel_bytes(io, Key::from_token(token).1, bytes),
                TokenKind::Listener => {}
            },
            Event::Drained { token, .. } => match Key::<()>::from_token(token).0 {
                TokenKind::Session => self.on_client_drained(io, Key::from_token(token).1),
                TokenKind::Server => self.on_server_drained(Key::from_token(token).1),
                TokenKind::Cancel | TokenKind::Listener => {}
            },
            Event::Detached { token, socket, output, tls } => match Key::<()>::from_token(token).0 {
                TokenKind::Session => self.on_session_detached(io, Key::from_token(token).1, (socket, output, tls)),
                TokenKind::Server => self.on_server_detached(io, Key::from_token(token).1, (socket, tls)),
                TokenKind::Cancel | TokenKind::Listener => {}
            },
            Event::Finished { token, socket } => match Key::<()>::from_token(token).0 {
                TokenKind::Session => self.on_client_finished(io, Key::from_token(token).1),
                TokenKind::Server => {
                    // a backend that says nothing more does not listen either
                    io.close(socket);
                    self.on_server_closed(io, Key::from_token(token).1, &Closed::Eof);
                }
                TokenKind::Cancel => {
                    io.close(socket);
                    self.on_cancel_closed(io, Key::from_token(token).1);
                }
                TokenKind::Listener => {}
            },
            Event::Closed { token, cause, .. } => match Key::<()>::from_token(token).0 {
                TokenKind::Session => self.on_client_closed(io, Key::from_token(token).1, &cause),
                TokenKind::Server => self.on_server_closed(io, Key::from_token(token).1, &cause),
                TokenKind::Cancel => self.on_cancel_closed(io, Key::from_token(token).1),
                TokenKind::Listener => {}
            },
        }
        self.run_ready(io);
        self.keep_memory(io);
    }

    fn on_message(&mut self, io: &mut dyn Io<Message>, _from: ShardId, message: Message) {
        self.on_control(io, message);
    }

    fn on_control(&mut self, io: &mut dyn Io<Message>, message: Message) {
        self.note_turn(io);
        match message {
            Message::Client(newcomer) => self.adopt(io, newcomer),
            Message::Cancel { index, secret } => self.cancel_session(io, index, &secret),
            Message::CancelTold { process_id, secret } => self.cancel_told(io, process_id, &secret),
            Message::Drain(until) => self.drain(io, until),
            Message::AskPermit { question, from } => self.on_ask_permit(io, question, from),
            Message::AskSlot { line, from } => self.on_ask_slot(io, line, from),
            Message::MakeRoom => self.on_make_room(io),
            Message::KeepWarm { key, from } => self.on_keep_warm(io, key, from),
            Message::Lent(lent) => self.on_lent(io, *lent),
            Message::Catalog(news) => self.on_news(&news),
            Message::Map(map) => {
                self.on_tls_state(Arc::clone(&map.tls));
                self.on_places(io, &map.places);
            }
            Message::Line(news) => self.on_line_news(io, *news),
            Message::Found(answer) => self.on_found(io, *answer),
            Message::Admin(order) => self.on_order(io, *order),
            Message::Snapshot(reply) => {
                // the asker may have given up
                let _sent: Result<(), _> = reply.send(self.take_full_stock(&io.load()));
            }
        }
        self.run_ready(io);
    }

    fn on_timer(&mut self, io: &mut dyn Io<Message>) {
        self.note_turn(io);
        self.on_tick(io);
    }

    fn on_turn_end(&mut self, now: Instant) {
        self.settle_times(now);
    }

    fn expects(&mut self, now: Instant) -> Expectation {
        self.paces.expects(now, &self.servers)
    }
}
