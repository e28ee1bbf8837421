//! Permits, and the server connections they stand for, move to where they are needed.
//!
//! Every shard begins with a fair part of a pool's permits. One whose clients wait while all its permits are taken asks the
//! others: the question goes from shard to shard until one has a permit it does not use or a connection that is free. The
//! connection itself goes over the ring, so a client that waits on one core is served by what is idle on another without
//! Postgres having to make a new backend. Who has nothing free notes the question for a moment and gives the next connection
//! that becomes free, unless its own clients wait and it has no more than its fair part. A permit is taken away here before it
//! is added there, so the pool's size is never exceeded.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use runtime::{Address, ShardId, Tls};

use crate::bound::Slot;
use crate::pipe::{List, Server, ServerId, Soil};
use crate::pool::slot::Standing;
use crate::pool::{Parameter, PoolId};
use crate::server::secure::Hop;
use crate::shard::{Message, Shard, World};
use crate::slab::TokenKind;

/// Pause between two questions of one pool.
const ASK_PAUSE: Duration = Duration::from_millis(20);
/// How long a question is remembered where nothing was free; who still needs it has asked again by then.
const WANTED_MAX: Duration = Duration::from_millis(50);

/// Who uses which database: names a pool on every shard.
pub(crate) type PoolKey = (String, String);

/// Which pool a shard asks for what.
pub(crate) type Question = (PoolKey, Need);

/// One shard's state of asking and giving.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Permits {
    /// What it began with.
    pub(crate) fair: u32,
    /// What it asks for.
    pub(super) need: Need,
    /// When it may ask again.
    ask_after: Option<Instant>,
    /// Who wants the next connection that becomes free, and until when.
    wanted: Option<(ShardId, Instant)>,
}

impl Permits {
    pub(crate) fn new(fair: u32) -> Self {
        Self { fair, ..Self::default() }
    }
}

/// What a shard whose clients wait asks the others for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Need {
    /// A permit, with a connection or to make one.
    #[default]
    Permit,
    /// A connection: it has permits, but the database or the user may have no more.
    Connection,
}

/// A permit on its way to the shard that asked for it.
pub(crate) struct Lent {
    key: PoolKey,
    standing: Standing,
    connection: Option<LentConnection>,
}

/// A connection to Postgres with nothing owed and nothing half sent.
struct LentConnection {
    socket: OwnedFd,
    /// Its encryption, and what a cancel of it needs.
    tls: Option<Box<Tls>>,
    hop: Hop,
    /// What Postgres said while it was on its way out.
    input: BytesMut,
    cancel_key: Option<(u32, Vec<u8>)>,
    parameters: Vec<Parameter>,
    opened_at: Instant,
    generation: u64,
    address: Address,
    user: Box<str>,
    early: Duration,
    slot: Option<Slot>,
}

impl Shard {
    /// Asks the other shards for a connection, if clients wait here and all of ours are taken.
    pub(super) fn ask_for_permit(&mut self, io: &mut World<'_>, id: PoolId) {
        let now = io.now();
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        let paused = pool.permit_state.ask_after.is_some_and(|at| at > now);
        let need = pool.permit_state.need;
        let may_dial = pool.open < pool.permits && need == Need::Permit;
        if io.shard_count() < 2 || pool.waiting.is_empty() || may_dial || paused || pool.paused {
            return;
        }
        pool.permit_state.ask_after = Some(now + ASK_PAUSE);
        let key = (pool.stats.database.clone(), pool.stats.user.clone());
        let from = io.shard();
        pass_question_on(io, (key, need), from);
    }

    /// Another shard's clients wait for a connection.
    pub(crate) fn on_ask_permit(&mut self, io: &mut World<'_>, (key, need): Question, from: ShardId) {
        if from == io.shard() {
            // nobody had anything free
            return;
        }
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        if let Ok(id) = self.pool_for(shards, &key.1, &key.0)
            && self.can_spare(id)
        {
            let Some(pool) = self.pools.get(id.0 as usize) else { return };
            // a permit alone is of no use where no connection can be made with it
            let useless = need == Need::Connection || self.board.bounds.is_full(pool.supply.bound);
            if pool.open < pool.permits && !useless {
                self.give_permit(io, id, from);
                return;
            }
            if let Some(free) = pool.idle.iter().copied().find(|other| !self.is_home(*other)) {
                self.lend(io, free, from);
                return;
            }
            let home = pool.idle.first().copied();
            self.note_wanted(io, id, from);
            if let Some(home) = home {
                self.begin_probe(io, home);
            }
        }
        pass_question_on(io, (key, need), from);
    }

    /// Whether a permit of this shard's may go: its own clients do not need it, or it has more than its part.
    fn can_spare(&self, id: PoolId) -> bool {
        self.pools
            .get(id.0 as usize)
            .is_some_and(|pool| pool.permits > 0 && (pool.waiting.is_empty() || pool.permits > pool.permit_state.fair))
    }

    /// The next connection that becomes free goes there; one that is shared takes nobody on meanwhile.
    fn note_wanted(&mut self, io: &mut World<'_>, id: PoolId, from: ShardId) {
        let until = io.now() + WANTED_MAX;
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return };
        if pool.permit_state.wanted.is_none_or(|(_, at)| at <= io.now()) {
            pool.permit_state.wanted = Some((from, until));
            self.close_shortest_shared(id);
        }
    }

    /// Whether another shard waits for a connection that becomes free here.
    pub(super) fn is_wanted(&self, now: Instant, id: PoolId) -> bool {
        let wanted = self.pools.get(id.0 as usize).and_then(|pool| pool.permit_state.wanted);
        wanted.is_some_and(|(_, until)| until > now)
    }

    /// Who is to have the connection that has just become free here.
    pub(super) fn take_wanted(&mut self, now: Instant, id: PoolId) -> Option<ShardId> {
        let pool = self.pools.get_mut(id.0 as usize)?;
        let (to, until) = pool.permit_state.wanted.take()?;
        (until > now && self.can_spare(id)).then_some(to)
    }

    fn give_permit(&mut self, io: &mut World<'_>, id: PoolId, to: ShardId) {
        let Some(pool) = self.pools.get_mut(id.0 as usize).filter(|pool| pool.permits > 0) else { return };
        let (key, standing) = (pool.key(), pool.supply.give());
        pool.permits -= 1;
        if io.post(to, Message::Lent(Box::new(Lent { key, standing, connection: None }))).is_err() {
            pool.permits += 1;
            pool.supply.take(standing);
        }
    }

    /// Begins to give a free connection to another shard.
    pub(super) fn lend(&mut self, io: &mut World<'_>, id: ServerId, to: ShardId) {
        let Some(server) = self.servers.get(id) else { return };
        let socket = server.socket;
        if !server.is_quiet() || io.output_len(socket) > 0 {
            // what Postgres ignores after a COPY that has failed may still be on its way
            self.move_to(id, List::Idle);
            return;
        }
        self.move_to(id, List::Leaving(to));
        io.detach(socket);
    }

    /// The kernel has let go of a connection that is lent.
    pub(crate) fn on_server_detached(&mut self, io: &mut World<'_>, id: ServerId, left: (OwnedFd, Option<Box<Tls>>)) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let List::Leaving(to) = server.list else {
            // what it said meanwhile put it in doubt
            self.forget_server(io, id);
            return;
        };
        let pool_id = server.pool;
        let connection = LentConnection {
            socket: left.0,
            tls: left.1,
            hop: server.hop.clone(),
            input: std::mem::take(&mut server.input),
            cancel_key: server.key.clone(),
            parameters: std::mem::take(&mut server.parameters),
            opened_at: server.opened_at,
            generation: server.generation,
            address: server.address.clone(),
            user: std::mem::take(&mut server.user),
            early: server.early,
            slot: server.slot.take(),
        };
        self.servers.remove(id);
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        pool.permits = pool.permits.saturating_sub(1);
        pool.open = pool.open.saturating_sub(1);
        let (key, standing) = (pool.key(), pool.supply.give());
        if let Err(Message::Lent(lent)) =
            io.post(to, Message::Lent(Box::new(Lent { key, standing, connection: Some(connection) })))
        {
            // the ring is full: it stays
            self.on_lent(io, *lent);
        }
    }

    /// A permit has come, most often with its connection.
    pub(crate) fn on_lent(&mut self, io: &mut World<'_>, lent: Lent) {
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        let Lent { key, standing, connection } = lent;
        // it asked, so it has the pool
        let Ok(pool_id) = self.pool_for(shards, &key.1, &key.0) else { return };
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        pool.permits += 1;
        pool.supply.take(standing);
        pool.permit_state.ask_after = None;
        let Some(connection) = connection else {
            self.serve(io, pool_id);
            // where no connection can be made with it, one is asked for
            self.ask_for_permit(io, pool_id);
            return;
        };
        pool.open += 1;
        pool.stats.requests_relayed += u64::from(!pool.waiting.is_empty());
        let (now, serial) = (io.now(), self.next_serial(io));
        let inserted = self.servers.insert_with(|id| {
            let socket = io.attach(connection.socket, id.token(TokenKind::Server));
            if let Some(tls) = connection.tls {
                io.resume_tls(socket, tls);
            }
            let mut server = Server::lent(pool_id, socket, now);
            server.hop = connection.hop;
            server.key = connection.cancel_key;
            server.opened_at = connection.opened_at;
            server.serial = serial;
            server.generation = connection.generation;
            server.address = connection.address;
            server.user = connection.user;
            server.early = connection.early;
            server.slot = connection.slot;
            for (name, value) in &connection.parameters {
                server.set_parameter(name, value);
            }
            server
        });
        let Some(id) = inserted else {
            if let Some(pool) = self.pools.get_mut(pool_id.0 as usize) {
                pool.open -= 1;
            }
            return;
        };
        self.hurry(io);
        if connection.input.is_empty() {
            self.release(io, id);
        } else {
            self.move_to(id, List::Idle);
            self.on_server_bytes(io, id, &connection.input);
            self.serve(io, pool_id);
        }
    }

    /// A connection has ended: its permit goes where one is wanted.
    pub(crate) fn on_permit_free(&mut self, io: &mut World<'_>, id: PoolId) {
        // a pool that has become smaller may have more connections than permits for a while
        let free = self.pools.get(id.0 as usize).is_some_and(|pool| pool.open < pool.permits);
        if free && let Some(to) = self.take_wanted(io.now(), id) {
            self.give_permit(io, id, to);
        }
    }
}

/// Hands the question to the next shard; whoever asked asks again if the ring is full.
fn pass_question_on(io: &mut World<'_>, question: Question, from: ShardId) {
    let next = (usize::from(io.shard().0) + 1) % io.shard_count().max(1);
    let _sent: Result<(), Message> =
        io.post(ShardId(u16::try_from(next).unwrap_or_default()), Message::AskPermit { question, from });
}

impl Server {
    /// A connection that another shard has used; what it wears, has prepared and was left with is taken to be unknown.
    fn lent(pool: PoolId, socket: runtime::SocketId, now: Instant) -> Self {
        let mut server = Self::new(pool, socket, now);
        server.list = List::Working;
        server.soil = Soil::Unknown;
        server.unnamed = crate::pipe::ServerUnnamed::Unknown;
        server
    }
}
