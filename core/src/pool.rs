//! One shard's part of the pools: which server connections there are, who waits for one, who gets which.
//!
//! A pool is (database, user). Its size is one number for the whole process; every shard holds a fixed part of it as
//! permits, and a connection exists only while its permit is taken. Membership is the state: a server connection sits in
//! exactly one list, and [`Shard::move_to`] is the only way from one to another.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};
use runtime::Address;

use crate::bound::Common;
use crate::catalog::Catalog;
use crate::catalog::keeper::{DatabaseKey, News};
use crate::error::Failure;
use crate::pipe::{Flow, List, Mark, ServerId, Soil};
use permit::Permits;
use queue::Queue;
use slot::Supply;

use crate::session::{Phase, Pin, Place, SessionId};
use crate::shard::{Shard, World};

mod open;
pub(crate) mod permit;
mod queue;
mod slot;
pub(crate) mod statement;

/// Names a pool on its shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct PoolId(pub(crate) u32);

/// Longest pause between attempts to connect.
const RETRY_MAX: Duration = Duration::from_millis(200);
const RETRY_MIN: Duration = Duration::from_millis(10);
/// Reads that could be shared and are not because their own session soiled the connection, before it is cleaned for them.
const DIRTY_READS_MAX: u32 = 8;
/// Sets of start-up settings whose reported parameters are remembered.
const WELCOMES_MAX: usize = 256;

/// Values a server reports at login.
pub(crate) type Parameters = Rc<[Parameter]>;
/// Name and value.
pub(crate) type Parameter = (Box<[u8]>, Box<[u8]>);

/// How server connections of a pool are made.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    /// What is run on every new connection before clients may have it, and again when it was cleaned.
    pub(crate) connect_query: Option<Arc<str>>,
}

/// Attempts to connect: exponential backoff with jitter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retry {
    delay: Duration,
    pub(crate) not_before: Option<Instant>,
}

impl Retry {
    fn failed(&mut self, now: Instant, jitter: f64) {
        self.delay = (self.delay * 2).clamp(RETRY_MIN, RETRY_MAX);
        self.not_before = Some(now + self.delay.mul_f64(0.5 + jitter / 2.0));
    }

    fn succeeded(&mut self) {
        *self = Self { delay: Duration::ZERO, not_before: None };
    }
}

/// One shard's part of a pool.
pub(crate) struct Pool {
    pub(crate) name: String,
    pub(crate) target: Target,
    pub(crate) settings: config::Pool,
    /// Server connections this shard may have.
    pub(crate) permits: u32,
    pub(crate) permit_state: Permits,
    /// Which configured database it belongs to, and that database's own name.
    pub(crate) database: DatabaseKey,
    /// What is known of its catalog.
    pub(crate) news: Option<News>,
    /// Statements of this pool's that may have changed the catalog.
    pub(crate) catalog_changes: u64,
    /// Server connections it has, in whatever list.
    pub(crate) open: u32,
    pub(crate) connecting: u32,
    /// Free ones, the one used last at the end.
    pub(crate) idle: Vec<ServerId>,
    /// Those in [`List::Shared`].
    pub(crate) shared: Vec<ServerId>,
    pub(crate) waiting: Queue,
    /// What all shards' parts of it have in common.
    pub(crate) common: Arc<Common>,
    pub(crate) supply: Supply,
    pub(crate) retry: Retry,
    pub(crate) last_error: Option<String>,
    /// What servers report under a set of start-up settings, by its fingerprint.
    pub(crate) welcomes: HashMap<u64, Parameters, foldhash::fast::RandomState>,
    pub(crate) stats: stats::PoolStats,
}

impl Pool {
    pub(crate) fn new(name: String, target: Target, settings: config::Pool, permits: u32) -> Self {
        Self {
            name,
            target,
            settings,
            permits,
            permit_state: Permits::new(permits),
            database: DatabaseKey::default(),
            news: None,
            catalog_changes: 0,
            open: 0,
            connecting: 0,
            idle: Vec::new(),
            shared: Vec::new(),
            waiting: Queue::default(),
            common: Arc::default(),
            supply: Supply::default(),
            retry: Retry { delay: Duration::ZERO, not_before: None },
            last_error: None,
            welcomes: HashMap::default(),
            stats: stats::PoolStats::default(),
        }
    }

    /// Whether something is to be looked at soon.
    pub(crate) fn is_restless(&self) -> bool {
        !self.waiting.is_empty() || self.connecting > 0 || !self.shared.is_empty()
    }

    /// The catalog, unless it is not known or out of date.
    pub(crate) fn catalog(&self) -> Option<&Catalog> {
        let news = self.news.as_ref()?;
        news.catalog.as_deref().filter(|catalog| catalog.version == news.watch.version())
    }

    /// A number for the state of the catalog as far as it is known.
    pub(crate) fn catalog_state(&self) -> u64 {
        let known = self.news.as_ref().map_or(0, |news| {
            let serial = news.catalog.as_ref().map_or(0, |catalog| catalog.serial);
            news.watch.version().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ serial
        });
        known.wrapping_add(self.catalog_changes << 32)
    }

    /// A statement may have changed the catalog.
    pub(crate) fn note_catalog_change(&mut self) {
        self.catalog_changes += 1;
        if let Some(news) = &self.news {
            news.watch.note_change();
        }
    }

    pub(crate) fn remember_welcome(&mut self, fingerprint: u64, parameters: Parameters) {
        if self.welcomes.len() >= WELCOMES_MAX {
            self.welcomes.clear();
        }
        self.welcomes.insert(fingerprint, parameters);
    }
}

impl Shard {
    pub(crate) fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(id.0 as usize)
    }

    pub(crate) fn pool_mut(&mut self, id: PoolId) -> Option<&mut Pool> {
        self.pools.get_mut(id.0 as usize)
    }

    /// Moves a server connection to another list of its pool.
    pub(crate) fn move_to(&mut self, id: ServerId, list: List) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let from = std::mem::replace(&mut server.list, list);
        let Some(pool) = self.pools.get_mut(server.pool.0 as usize) else { return };
        match from {
            List::Idle => pool.idle.retain(|other| *other != id),
            List::Shared => pool.shared.retain(|other| *other != id),
            List::Connecting => pool.connecting = pool.connecting.saturating_sub(1),
            List::Draining | List::Exclusive | List::Working | List::Leaving(_) | List::Closing => {}
        }
        match list {
            List::Idle => pool.idle.push(id),
            List::Shared => pool.shared.push(id),
            List::Connecting => pool.connecting += 1,
            List::Draining | List::Exclusive | List::Working | List::Leaving(_) | List::Closing => {}
        }
    }

    /// Gives a session a server connection of its own, now or when one is free.
    pub(crate) fn acquire(&mut self, io: &mut World<'_>, id: SessionId) {
        let now = io.now();
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.place = Place::Waiting;
        session.waiting_since = now;
        let pool_id = session.pool;
        if let Some(pool) = self.pool_mut(pool_id) {
            pool.waiting.push_back(id);
        }
        self.serve(io, pool_id);
        if self.sessions.get(id).is_some_and(|session| session.place == Place::Waiting) {
            self.ask_for_permit(io, pool_id);
            self.hurry(io);
            self.bound_queue(io, pool_id, id);
        }
    }

    /// Gives free connections to those that wait, and dials more while there are permits.
    pub(crate) fn serve(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        loop {
            let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
            let Some(front) = pool.waiting.front() else { return };
            let Some(session) = self.sessions.get(front).filter(|session| session.place == Place::Waiting) else {
                pool.waiting.pop_front();
                continue;
            };
            if session.shareable.is_some() && self.try_share(io, front) {
                if let Some(pool) = self.pools.get_mut(pool_id.0 as usize) {
                    pool.waiting.pop_front();
                }
                self.leave_line(pool_id, front);
                continue;
            }
            let (Some(pool), Some(session)) = (self.pools.get_mut(pool_id.0 as usize), self.sessions.get(front)) else {
                return;
            };
            let dress = session.dress.fingerprint();
            let servers = &self.servers;
            let fits = |id: &ServerId| {
                servers.get(*id).is_some_and(|server| {
                    server.dress.fingerprint() == dress
                        && (server.soil == Soil::Clean || server.last_session == Some(front))
                })
            };
            let best = pool.idle.iter().rev().take(16).copied().find(fits).or_else(|| pool.idle.last().copied());
            let Some(server) = best else { break };
            pool.waiting.pop_front();
            self.leave_line(pool_id, front);
            self.prepare(io, server, front);
        }
        self.dial_for_waiting(io, pool_id);
        self.close_one_sharer(pool_id);
    }

    /// A waiter that needs a pipe of its own closes the shortest shared one to joiners.
    fn close_one_sharer(&mut self, pool_id: PoolId) {
        let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
        if !pool.waiting.is_empty() && pool.open >= pool.permits {
            self.close_shortest_shared(pool_id);
        }
    }

    fn close_shortest_shared(&mut self, pool_id: PoolId) {
        let Some(pool) = self.pools.get(pool_id.0 as usize) else { return };
        let depth = |id: &ServerId| self.servers.get(*id).map_or(usize::MAX, crate::pipe::Server::depth);
        if let Some(shortest) = pool.shared.iter().copied().min_by_key(depth) {
            self.move_to(shortest, List::Draining);
        }
    }

    /// Makes an idle connection fit for a session: cleans it, dresses it, hands it over.
    fn prepare(&mut self, io: &mut World<'_>, id: ServerId, session_id: SessionId) {
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(session_id)) else {
            return;
        };
        // the session that left something behind may have it back, but not for ever: clean, the connection could be shared
        server.dirty_reads = if session.shareable.is_some() { server.dirty_reads + 1 } else { 0 };
        let stranger = server.last_session != Some(session_id) || server.dirty_reads >= DIRTY_READS_MAX;
        let connect_query = self.pools.get(server.pool.0 as usize).and_then(|pool| pool.target.connect_query.clone());
        // a setting falls back to what it was at login, not to what connect_query made of it
        let lost = connect_query.is_some() && session.dress.lacks_some_of(&server.dress);
        let clean = match server.soil {
            _ if lost => Some(&b"DISCARD ALL"[..]),
            Soil::Unknown if stranger => Some(&b"DISCARD ALL"[..]),
            Soil::Sequences if stranger => Some(&b"DISCARD SEQUENCES"[..]),
            Soil::Clean | Soil::Sequences | Soil::Unknown => None,
        };
        let worn = match clean {
            Some(b"DISCARD ALL") => Rc::default(),
            _ => Rc::clone(&server.dress),
        };
        let mut change = session.dress.change_from(&worn).join("\n;");
        if clean.is_none() && change.is_empty() {
            self.hand_over(io, id, session_id);
            return;
        }
        server.promised = Some(session_id);
        server.work_failure = None;
        session.place = Place::Promised(id);
        let mut query = |text: &[u8], mark: Mark| {
            // bounded: settings come from a start-up packet or a short statement
            if frontend::write_query(io.output(server.socket), text).is_ok() {
                server.pipeline.push(Owed::nobody(Expect::Query).marked(mark.encode()));
            }
        };
        if let Some(text) = clean {
            query(text, Mark::Clean);
            if let Some(text) = connect_query.filter(|_| text == b"DISCARD ALL") {
                query(text.as_bytes(), Mark::Clean);
            }
        }
        if !change.is_empty() {
            change.push_str("\n;");
            query(change.as_bytes(), Mark::Dress);
        }
        let pool = server.pool;
        self.move_to(id, List::Working);
        if clean.is_some()
            && let Some(pool) = self.pool_mut(pool)
        {
            pool.stats.cleanings += 1;
        }
    }

    /// What [`Shard::prepare`] asked for has been answered.
    pub(crate) fn on_prepared(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let promised = server.promised.take();
        let failure = server.work_failure.take();
        if failure.as_ref().is_some_and(|failure| failure.during != Mark::Dress) {
            tracing::warn!(?failure, "a server connection could not be cleaned and is closed");
            self.doubt(io, id, "it could not be cleaned");
            if let Some(session) = promised {
                self.acquire_again(io, session);
            }
            return;
        }
        let session = promised.and_then(|id| self.sessions.get(id).map(|session| (id, session)));
        let Some((session_id, session)) = session else {
            // the client has left meanwhile; what the connection wears now is not known
            server.soil = Soil::Unknown;
            self.release(io, id);
            return;
        };
        if let Some(failure) = failure {
            server.soil = Soil::Unknown;
            server.last_session = None;
            let refused = Failure::UpstreamRefused { sqlstate: failure.sqlstate, message: failure.message };
            self.release(io, id);
            self.end_session(io, session_id, Some(&refused));
            return;
        }
        server.dress = Rc::clone(&session.dress);
        server.soil = Soil::Clean;
        self.hand_over(io, id, session_id);
    }

    /// Gives a session a connection that is fit for it.
    fn hand_over(&mut self, io: &mut World<'_>, id: ServerId, session_id: SessionId) {
        self.move_to(id, List::Exclusive);
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(session_id)) else {
            return;
        };
        server.holder = Some(session_id);
        server.last_session = Some(session_id);
        server.head_since = io.now();
        server.idle_since = io.now();
        server.busy_since = None;
        server.timed_out = None;
        session.place = Place::Exclusive(id);
        session.shareable = None;
        let waited = io.now().saturating_duration_since(session.waiting_since);
        let welcoming = matches!(session.phase, Phase::Welcoming);
        if let Some(pool) = self.pools.get_mut(server.pool.0 as usize) {
            pool.stats.queue_time.record_us(u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
        }
        self.watch_server(io, id);
        if welcoming {
            self.welcome_from(io, session_id, id);
        } else {
            self.ready.push_back(session_id);
        }
    }

    /// An exclusive pipe has nothing owed: the session gives it up unless a transaction or a pin keeps it.
    pub(crate) fn let_go_if_done(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let idle = server.status == dbproto::message::backend::TransactionStatus::Idle;
        if server.list != List::Exclusive || !server.is_quiet() {
            return;
        }
        let Some(holder) = server.holder else {
            self.abandon(io, id);
            return;
        };
        let Some(session) = self.sessions.get_mut(holder) else { return };
        session.barrier = crate::session::Barrier::Open;
        let mode = self.pools.get(server.pool.0 as usize).map(|pool| pool.settings.mode);
        if idle && session.stream_left == 0 && self.draining.is_some() && session.input.is_empty() {
            self.end_session(io, holder, Some(&Failure::Shutdown));
            return;
        }
        if !idle && mode == Some(config::PoolMode::Statement) {
            self.take_back_transaction(io, id, holder);
            return;
        }
        let keeps = !idle
            || session.stream_left > 0
            || session.pin != Pin::No
            || (mode == Some(config::PoolMode::Session) && matches!(session.phase, Phase::Ready));
        let more = !session.input.is_empty();
        if !keeps {
            session.place = Place::Idle;
            session.active_at = io.now();
            if matches!(session.unnamed, crate::session::Unnamed::OnServer) {
                session.unnamed = crate::session::Unnamed::Absent;
            }
            server.holder = None;
            self.release(io, id);
        }
        if more {
            self.ready.push_back(holder);
        }
    }

    /// A connection whose holder has left in good order or not: rolled back if need be, then free for others.
    pub(crate) fn abandon(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        server.holder = None;
        if !server.is_quiet() {
            self.doubt(io, id, "its client left in the middle of a request");
            return;
        }
        server.soil = Soil::Unknown;
        if server.status == dbproto::message::backend::TransactionStatus::Idle {
            self.release(io, id);
            return;
        }
        if frontend::write_query(io.output(server.socket), b"ROLLBACK").is_ok() {
            server.pipeline.push(Owed::nobody(Expect::Query).marked(Mark::Clean.encode()));
        }
        self.move_to(id, List::Working);
    }

    /// Puts a quiet connection among the free ones, or closes it if its time is over, and serves who waits.
    pub(crate) fn release(&mut self, io: &mut World<'_>, id: ServerId) {
        let now = io.now();
        let Some(server) = self.servers.get_mut(id) else { return };
        server.idle_since = now;
        if server.flow == Flow::Paused {
            // held back for a client that has its whole reply now
            server.flow = Flow::Open;
            io.resume(server.socket);
        }
        let pool_id = server.pool;
        let (Some(pool), Some(server)) = (self.pool(pool_id), self.servers.get(id)) else { return };
        let old = server.is_older(now, pool.settings.server_lifetime);
        if old || self.draining.is_some() || self.must_yield(now, pool_id) {
            self.retire(io, id);
        } else if let Some(to) = self.take_wanted(now, pool_id) {
            self.lend(io, id, to);
        } else {
            self.move_to(id, List::Idle);
        }
        self.serve(io, pool_id);
    }

    /// The pool's timeouts: waiters, idle connections, attempts to connect.
    pub(crate) fn on_pool_tick(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        let now = io.now();
        let Some(pool) = self.pool(pool_id) else { return };
        let (wait, idle, life) =
            (pool.settings.query_wait_timeout, pool.settings.server_idle_timeout, pool.settings.server_lifetime);
        let overdue: Vec<SessionId> = pool
            .waiting
            .iter()
            .take_while(|id| {
                self.sessions
                    .get(*id)
                    .is_none_or(|s| s.place != Place::Waiting || now.saturating_duration_since(s.waiting_since) >= wait)
            })
            .collect();
        for id in overdue {
            if let Some(pool) = self.pool_mut(pool_id) {
                pool.waiting.pop_front();
            }
            self.on_wait_timeout(io, pool_id, id);
        }
        let Some(pool) = self.pool(pool_id) else { return };
        let mut spare = pool.common.open().saturating_sub(pool.settings.min_pool_size);
        let stale: Vec<ServerId> = pool
            .idle
            .iter()
            .copied()
            .filter(|id| {
                self.servers.get(*id).is_some_and(|server| {
                    let unused = spare > 0 && now.saturating_duration_since(server.idle_since) >= idle;
                    spare -= u32::from(unused);
                    unused || server.is_older(now, life)
                })
            })
            .collect();
        for id in stale {
            self.retire(io, id);
        }
        self.on_share_tick(io, pool_id);
        self.serve(io, pool_id);
        self.keep_warm(io, pool_id);
        self.on_reserve_tick(io, pool_id);
        self.ask_for_permit(io, pool_id);
    }

    fn on_wait_timeout(&mut self, io: &mut World<'_>, pool_id: PoolId, id: SessionId) {
        let Some(session) = self.sessions.get(id).filter(|session| session.place == Place::Waiting) else { return };
        let waited = io.now().saturating_duration_since(session.waiting_since);
        self.leave_line(pool_id, id);
        let Some(pool) = self.pool_mut(pool_id) else { return };
        pool.stats.wait_timeouts += 1;
        let failure = match &pool.last_error {
            Some(error) => {
                Failure::UpstreamDown { address: pool.target.address.to_string(), last_error: error.clone() }
            }
            None => Failure::QueueTimeout { pool: pool.name.clone(), limit: pool.settings.size, waited },
        };
        self.fail_request(io, id, &failure);
    }

    /// An attempt to connect has failed; it is repeated after a pause.
    pub(crate) fn on_connect_failed(&mut self, io: &mut World<'_>, pool_id: PoolId, error: String) {
        let (now, jitter) = (io.now(), self.rng.f64());
        let Some(pool) = self.pool_mut(pool_id) else { return };
        pool.stats.connect_failures += 1;
        pool.retry.failed(now, jitter);
        if pool.last_error.as_ref() != Some(&error) {
            tracing::warn!(pool = pool.name, address = %pool.target.address, error, "cannot connect to PostgreSQL");
        }
        pool.last_error = Some(error);
    }

    /// A connection is logged in.
    pub(crate) fn on_connect_done(&mut self, pool_id: PoolId) {
        let Some(pool) = self.pool_mut(pool_id) else { return };
        pool.stats.connects += 1;
        pool.retry.succeeded();
        if pool.last_error.take().is_some() {
            tracing::info!(pool = pool.name, address = %pool.target.address, "PostgreSQL answers again");
        }
    }
}
