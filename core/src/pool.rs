//! One shard's part of the pools: which server connections there are, who waits for one, who gets which.
//!
//! A pool is (database, user). Its size is one number for the whole process; every shard holds a fixed part of it as
//! permits, and a connection exists only while its permit is taken. Membership is the state: a server connection sits in
//! exactly one list, and [`Shard::move_to`] is the only way from one to another.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::SessionAttrs;
use dbproto::auth::{ClientAuth, Credentials, Proofs};
use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};

use crate::bound::Common;
use crate::catalog::Catalog;
use crate::catalog::keeper::{DatabaseKey, News};
use crate::error::Failure;
use crate::pipe::{Flow, List, Mark, Seed, ServerId, Soil};
use fit::Pick;
use permit::Permits;
use place::{Fates, Turn};
use queue::Queue;
use slot::Supply;

use crate::server::secure::Way;
use crate::session::{Phase, Pin, Place, SessionId};
use crate::shard::{Shard, World};
use crate::stopwatch::{Ended, Spans, micros};
use crate::tls::Hosts;
use crate::upstream::Places;

mod fit;
pub(crate) mod home;
pub(crate) mod open;
pub(crate) mod permit;
mod place;
mod queue;
mod slot;
pub(crate) mod statement;

/// Names a pool on its shard.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct PoolId(pub(crate) u32);

/// Longest pause between attempts to connect.
const RETRY_MAX: Duration = Duration::from_millis(200);
const RETRY_MIN: Duration = Duration::from_millis(10);
/// Sets of start-up settings whose reported parameters are remembered.
const WELCOMES_MAX: usize = 256;

/// Values a server reports at login.
pub(crate) type Parameters = Rc<[Parameter]>;
/// Name and value.
pub(crate) type Parameter = (Box<[u8]>, Box<[u8]>);

/// How server connections of a pool are made.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Hosts as they are written in the configuration.
    pub(crate) host: Arc<str>,
    pub(crate) places: Places,
    /// What a server must be like to be used.
    pub(crate) attrs: SessionAttrs,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) credentials: Credentials,
    /// How each host is encrypted.
    pub(crate) tls: Hosts,
    /// How it may have us prove who we are.
    pub(crate) proofs: Proofs,
    /// What is run on every new connection before clients may have it, and again when it was cleaned.
    pub(crate) connect_query: Option<Arc<str>>,
    /// Settings that every new connection begins with.
    pub(crate) settings: Arc<[(String, String)]>,
}

impl Target {
    /// A login there.
    pub(crate) fn login(&self) -> ClientAuth {
        let mut nonce = [0; 18];
        crate::cancel::fill_random(&mut nonce);
        ClientAuth::with(self.user.as_bytes(), self.credentials.clone(), nonce).allowing(self.proofs)
    }
}

/// Whose credentials server connections are opened with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lending {
    /// Those that are configured.
    Fixed,
    /// Those that its clients have shown when they logged in, which are the same user there.
    Clients,
}

/// Whether a pool's catalog is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watch {
    /// Nobody whom that would serve has come yet.
    NotAsked,
    Asked,
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
    pub(crate) lending: Lending,
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
    /// Those in [`List::Draining`].
    pub(crate) draining: Vec<ServerId>,
    pub(crate) waiting: Queue,
    /// What all shards' parts of it have in common.
    pub(crate) common: Arc<Common>,
    pub(crate) supply: Supply,
    pub(crate) retry: Retry,
    /// Places that have failed.
    pub(crate) fates: Fates,
    /// When the last attempt to connect began.
    pub(crate) dialled_at: Option<Instant>,
    /// How the next connection tries to be encrypted, or not.
    pub(crate) way: Way,
    /// The minor version of the protocol that the next connection asks for.
    pub(crate) minor: u16,
    /// Whether somebody has been asked to read its catalog.
    pub(crate) watch: Watch,
    pub(crate) last_error: Option<String>,
    /// What servers report under a set of start-up settings, by its fingerprint.
    pub(crate) welcomes: HashMap<u64, Parameters, foldhash::fast::RandomState>,
    /// Whether an administrator holds it: no connection is given out or made.
    pub(crate) paused: bool,
    /// Connections of an older generation are closed as soon as they are free; 0 is older than any.
    pub(crate) generation: u64,
    pub(crate) stats: stats::PoolStats,
}

impl Pool {
    pub(crate) fn new(name: String, target: Target, settings: config::Pool, permits: u32) -> Self {
        Self {
            name,
            target,
            lending: Lending::Fixed,
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
            draining: Vec::new(),
            waiting: Queue::default(),
            common: Arc::default(),
            supply: Supply::default(),
            retry: Retry { delay: Duration::ZERO, not_before: None },
            fates: Fates::default(),
            dialled_at: None,
            way: Way::First,
            minor: 0,
            watch: Watch::NotAsked,
            last_error: None,
            welcomes: HashMap::default(),
            paused: false,
            generation: 1,
            stats: stats::PoolStats::default(),
        }
    }

    /// A session has got a connection after so long.
    pub(crate) fn note_wait(&mut self, waited: Duration) {
        self.stats.assignments += 1;
        self.stats.wait_us = self.stats.wait_us.saturating_add(micros(waited));
    }

    /// PostgreSQL has answered a request.
    pub(crate) fn note_spans(&mut self, ended: &Ended, spans: Spans) {
        let stats = &mut self.stats;
        stats.query_us = stats.query_us.saturating_add(spans.server_us);
        if ended.session.is_some() {
            stats.queue_time.record_us(spans.queue_us);
            stats.pipe_wait_time.record_us(spans.pipe_wait_us);
            stats.server_time.record_us(spans.server_us);
            stats.proxy_time.record_us(spans.proxy_us);
        }
    }

    /// Whether something may be due soon.
    pub(crate) fn is_busy(&self) -> bool {
        !self.waiting.is_empty() || self.connecting > 0 || !self.shared.is_empty() || !self.draining.is_empty()
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
        let used = server.note_use(self.now, from);
        let Some(pool) = self.pools.get_mut(server.pool.0 as usize) else { return };
        pool.stats.busy_us = pool.stats.busy_us.saturating_add(micros(used));
        match from {
            List::Idle => pool.idle.retain(|other| *other != id),
            List::Shared => pool.shared.retain(|other| *other != id),
            List::Draining => pool.draining.retain(|other| *other != id),
            List::Connecting => pool.connecting = pool.connecting.saturating_sub(1),
            List::Exclusive | List::Working | List::Relaying | List::Leaving(_) | List::Closing => {}
        }
        match list {
            List::Idle => pool.idle.push(id),
            List::Shared => pool.shared.push(id),
            List::Draining => pool.draining.push(id),
            List::Connecting => pool.connecting += 1,
            List::Exclusive | List::Working | List::Relaying | List::Leaving(_) | List::Closing => {}
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
            let Some(pool) = self.pools.get_mut(pool_id.0 as usize).filter(|pool| !pool.paused) else { return };
            let Some(front) = pool.waiting.front() else { return };
            if self.sessions.get(front).is_none_or(|session| session.place != Place::Waiting) {
                pool.waiting.pop_front();
                continue;
            }
            self.forget_old_proof(front);
            if self.try_share(io, front) {
                self.take_front(pool_id, front);
                continue;
            }
            match self.pick(pool_id, front) {
                Pick::Fit(server) => {
                    self.take_front(pool_id, front);
                    self.prepare(io, server, front);
                }
                Pick::BeingAsked(server) => {
                    self.take_front(pool_id, front);
                    self.promise(server, front);
                }
                Pick::Ask(server) => {
                    self.begin_probe(io, server);
                    break;
                }
                Pick::Nothing => break,
            }
        }
        self.dial_for_waiting(io, pool_id);
        self.close_one_sharer(pool_id);
    }

    fn take_front(&mut self, pool_id: PoolId, front: SessionId) {
        if let Some(pool) = self.pool_mut(pool_id) {
            pool.waiting.pop_front();
        }
        self.leave_line(pool_id, front);
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
        if let Some(reason) = session.record.note_pin(session.pin, io.now())
            && let Some(pool) = self.pools.get(server.pool.0 as usize)
        {
            self.pin_log.note(&self.board.desk, (&pool.stats.database, &session.dress), reason);
        }
        if self.is_deaf(holder) {
            self.drop_ears(io, holder);
        }
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(holder)) else { return };
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
            if server.soil == Soil::Unknown {
                session.home = Some(id);
                session.reading = server.reading;
            } else {
                session.home = None;
                session.left = crate::session::Left::Unlikely;
            }
            if matches!(session.unnamed, crate::session::Unnamed::OnServer) {
                session.unnamed = crate::session::Unnamed::Absent;
            }
            server.holder = None;
            self.tell_rest(io, holder);
            self.note_listening(io, id);
            self.release(io, id);
        } else if idle
            && mode == Some(config::PoolMode::Session)
            && session.pin == Pin::No
            && session.stream_left == 0
            && session.dress.fingerprint() != server.dress.fingerprint()
        {
            // DISCARD ALL has taken away what the session began with
            session.waiting_since = io.now();
            self.prepare(io, id, holder);
            return;
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
        let clean = self.pools.get(server.pool.0 as usize).map(|pool| pool.settings.server_clean);
        if clean != Some(config::ServerClean::Never) {
            server.soil = Soil::Unknown;
        }
        if server.status == dbproto::message::backend::TransactionStatus::Idle {
            if server.soil == Soil::Unknown {
                self.clean(io, id);
            } else {
                self.release(io, id);
            }
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
        let (pool_id, generation, foreseeable) = (server.pool, server.generation, server.seed == Seed::Chosen);
        let (Some(pool), Some(server)) = (self.pool(pool_id), self.servers.get(id)) else { return };
        // nothing that cleans a connection takes away a seed: what comes next could be foreseen
        let old = foreseeable || server.is_older(now, pool.settings.server_lifetime);
        // somebody waits for it to go: the session that has left something there is not waited for
        let unwanted = generation < pool.generation || pool.paused || pool.open > pool.permits;
        let owner = server.last_session.filter(|_| server.soil == Soil::Unknown);
        let home = owner.and_then(|owner| self.sessions.get(owner)).is_some_and(|session| session.home == Some(id));
        if self.draining.is_some() || (!home && (old || unwanted || self.must_yield(now, pool_id))) {
            self.retire(io, id);
        } else if !home && let Some(to) = self.take_wanted(now, pool_id) {
            self.lend(io, id, to);
        } else {
            self.move_to(id, List::Idle);
            if home && (unwanted || self.is_wanted(now, pool_id)) {
                self.begin_probe(io, id);
            }
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
            if self.is_home(id) {
                self.begin_probe(io, id);
            } else {
                self.retire(io, id);
            }
        }
        self.on_share_tick(io, pool_id);
        self.look_at_pins(io, pool_id);
        self.offer_listeners(io, pool_id);
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
            Some(error) => Failure::UpstreamDown { address: pool.target.whereabouts(), last_error: error.clone() },
            None => Failure::QueueTimeout { pool: pool.name.clone(), limit: pool.settings.size, waited },
        };
        self.fail_request(io, id, &failure);
    }

    /// An attempt to connect has failed; it is repeated after a pause.
    pub(crate) fn on_connect_failed(&mut self, io: &mut World<'_>, pool_id: PoolId, error: String) {
        let (now, jitter) = (io.now(), self.rng.f64());
        let Some(pool) = self.pool_mut(pool_id) else { return };
        pool.stats.connect_failures += 1;
        match pool.fates.take_turn(&pool.target.places, now) {
            Turn::Next => pool.retry.succeeded(),
            Turn::Stay => pool.retry.failed(now, jitter),
        }
        if pool.last_error.as_ref() != Some(&error) {
            tracing::warn!(
                pool = pool.name,
                address = pool.target.whereabouts(),
                error,
                "cannot connect to PostgreSQL"
            );
        }
        pool.last_error = Some(error);
    }

    /// A connection is logged in.
    pub(crate) fn on_connect_done(&mut self, pool_id: PoolId) {
        let Some(pool) = self.pool_mut(pool_id) else { return };
        pool.stats.connects += 1;
        pool.retry.succeeded();
        if pool.last_error.take().is_some() {
            tracing::info!(pool = pool.name, address = pool.target.whereabouts(), "PostgreSQL answers again");
        }
    }
}
