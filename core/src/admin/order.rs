//! What the desk tells a shard to do.

use std::sync::Arc;

use config::Config;
use dbproto::auth::Credentials;

use crate::admin::command::Scope;
use crate::admin::survey::reply;
use crate::admin::{Cut, Levers, Order, Presence, State};
use crate::error::Failure;
use crate::listen;
use crate::pipe::{List, ServerId, Streaming};
use crate::pool::open::{share_of, turn_of};
use crate::pool::permit::PoolKey;
use crate::pool::{Lending, PoolId};
use crate::session::{Phase, Place, SessionId};
use crate::shard::{Shard, World};

impl Shard {
    pub(crate) fn on_order(&mut self, io: &mut World<'_>, order: Order) {
        match order {
            Order::Count(to) => reply(&to, self.count(io)),
            Order::Survey { from, reply: to } => reply(&to, self.survey(io, from)),
            Order::Levers(levers) => self.set_levers(io, levers),
            Order::Reconnect { scope, generation } => {
                for id in self.pools_of(&scope) {
                    self.age(io, id, generation);
                }
            }
            Order::Kill(scope) => self.kill(io, &scope),
            Order::KillClient { id, reply: to } => reply(&to, self.kill_client(io, id)),
            Order::TakePermits { key, count, reply: to } => reply(&to, self.take_permits(io, &key, count)),
            Order::Adopt { config, generation, reply: to } => reply(&to, self.adopt_config(io, config, generation)),
            Order::Beat(to) => reply(&to, ()),
            Order::StopListening => io.stop_listening(),
            Order::DismissWaiting => self.dismiss_waiting(io),
            Order::Answer { session, answer } => self.on_answer(io, session, answer),
        }
    }

    /// A number that no other connection of the process has at the same time.
    pub(crate) fn next_serial(&mut self, io: &World<'_>) -> u32 {
        self.serials = self.serials.wrapping_add(1);
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        // positive, as the type of the column is signed
        self.serials.wrapping_mul(shards).wrapping_add(u32::from(io.shard().0)) & 0x7fff_ffff
    }

    fn pools_of(&self, scope: &Scope) -> Vec<PoolId> {
        let pools = (0..).map(PoolId).zip(&self.pools);
        pools.filter(|(_, pool)| scope.holds(&pool.stats.database)).map(|(id, _)| id).collect()
    }

    fn set_levers(&mut self, io: &mut World<'_>, levers: Arc<Levers>) {
        let before = std::mem::replace(&mut self.levers, levers);
        for id in self.pools_of(&Scope::All) {
            let Some(pool) = self.pools.get_mut(id.0 as usize) else { continue };
            let paused = self.levers.pauses(&pool.stats.database);
            let watch = pool.news.as_ref().map(|news| Arc::clone(&news.watch));
            match (std::mem::replace(&mut pool.paused, paused), paused) {
                (false, true) => {
                    watch.iter().for_each(|watch| watch.hold());
                    self.hold_line(id, listen::Order::Hold);
                    self.empty(io, id);
                }
                (true, false) => {
                    watch.iter().for_each(|watch| watch.let_go());
                    self.hold_line(id, listen::Order::Go);
                    self.serve(io, id);
                }
                (false, false) | (true, true) => {}
            }
        }
        if before.state == State::Suspended && self.levers.state != State::Suspended {
            self.ready.extend(self.sessions.keys());
        }
        self.hurry(io);
    }

    /// Free connections end now, shared ones take no more requests and end when they have answered.
    fn empty(&mut self, io: &mut World<'_>, id: PoolId) {
        let Some(pool) = self.pool(id) else { return };
        let (idle, shared) = (pool.idle.clone(), pool.shared.clone());
        for server in shared {
            self.move_to(server, List::Draining);
        }
        for server in idle {
            self.dismiss(io, server);
        }
    }

    /// A free connection is not wanted any more: it ends, after it has been asked if its session may have left something there.
    pub(crate) fn dismiss(&mut self, io: &mut World<'_>, id: ServerId) {
        if self.is_home(id) {
            self.begin_probe(io, id);
        } else {
            self.retire(io, id);
        }
    }

    /// Connections made before this generation are closed as soon as they are free.
    fn age(&mut self, io: &mut World<'_>, id: PoolId, generation: u64) {
        if let Some(pool) = self.pool_mut(id) {
            pool.generation = generation;
        }
        self.empty(io, id);
        self.serve(io, id);
        self.hurry(io);
    }

    fn kill(&mut self, io: &mut World<'_>, scope: &Scope) {
        let pools = self.pools_of(scope);
        let among = |pool: &PoolId| pools.contains(pool);
        for id in self.sessions.keys() {
            let of_pool = self.sessions.get(id).is_some_and(|session| {
                matches!(session.phase, Phase::Welcoming | Phase::Ready) && among(&session.pool)
            });
            if of_pool {
                self.end_at_once(io, id);
            }
        }
        for id in self.servers.keys() {
            if self.servers.get(id).is_some_and(|server| among(&server.pool)) {
                self.kill_server(io, id);
            }
        }
    }

    /// Ends a session wherever it is.
    fn end_at_once(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let torn = match session.place {
            Place::Shared(server) | Place::Exclusive(server) => self
                .servers
                .get(server)
                .is_some_and(|server| matches!(server.streaming, Streaming::Forward(to, left) if to == id && left > 0)),
            Place::Idle | Place::Waiting | Place::Promised(_) => false,
        };
        if torn {
            // half a message has been sent: what came behind it would be taken for its rest
            self.cut_session(io, id);
        } else {
            self.end_session(io, id, Some(&Failure::Shutdown));
        }
    }

    fn kill_server(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get(id) else { return };
        match server.list {
            List::Closing => {}
            List::Idle => self.retire(io, id),
            List::Connecting => {
                io.close(server.socket);
                self.forget_server(io, id);
            }
            List::Shared | List::Draining | List::Exclusive | List::Working | List::Leaving(_) => {
                self.doubt(io, id, "an administrator killed it");
            }
        }
    }

    fn kill_client(&mut self, io: &mut World<'_>, number: u32) -> Presence {
        let is_it = |id: &SessionId| {
            self.sessions
                .get(*id)
                .is_some_and(|session| session.record.id == number && !matches!(session.phase, Phase::Leaving(_)))
        };
        let Some(id) = self.sessions.keys().into_iter().find(is_it) else { return Presence::Absent };
        let place = self.sessions.get(id).map(|session| session.place);
        self.end_at_once(io, id);
        if let Some(Place::Exclusive(server)) = place {
            self.kill_server(io, server);
        }
        Presence::Here
    }

    /// Permits of a pool that has become smaller go; connections beyond what is left end when they are free.
    fn take_permits(&mut self, io: &mut World<'_>, key: &PoolKey, count: u32) -> u32 {
        let Some(id) = self.pool_index.get(key).copied() else { return 0 };
        let Some(pool) = self.pools.get_mut(id.0 as usize) else { return 0 };
        // what it holds of the reserve is not of the pool's size
        let taken = count.min(pool.permits.saturating_sub(pool.supply.reserve_held));
        pool.permits -= taken;
        let surplus = pool.open.saturating_sub(pool.permits) as usize;
        let idle: Vec<ServerId> = pool.idle.iter().take(surplus).copied().collect();
        let (found, shared) = (idle.len(), pool.shared.clone());
        for server in idle {
            self.dismiss(io, server);
        }
        for server in shared.into_iter().take(surplus - found) {
            self.move_to(server, List::Draining);
        }
        taken
    }

    /// A new configuration: what can change at once does. Gives the permits that pools have too many now.
    fn adopt_config(&mut self, io: &mut World<'_>, config: Arc<Config>, generation: u64) -> Vec<Cut> {
        self.config = config;
        let shards = u32::try_from(io.shard_count()).unwrap_or(1);
        let mut cuts = Vec::new();
        for id in self.pools_of(&Scope::All) {
            let Some(pool) = self.pool(id) else { continue };
            let key: PoolKey = (pool.stats.database.clone(), pool.stats.user.clone());
            let Some(found) = self.config.databases.get(pool.database.0) else { continue };
            // what clients have lent stays lent
            let shown = match pool.lending {
                Lending::Clients => pool.target.credentials.clone(),
                Lending::Fixed => Credentials::None,
            };
            let place = (pool.database.0, found);
            let (target, lending) = self.target_for(place, Arc::clone(&pool.target.places), (&key.0, &key.1), &shown);
            let mut settings = self.config.pool_for(found, &key.1);
            settings.min_pool_size = settings.min_pool_size.min(settings.size);
            let turn = turn_of(&key.1, &key.0);
            let share = |size| share_of(size, shards, u32::from(io.shard().0), turn);
            let (had, has) = (share(pool.settings.size), share(settings.size));
            let Some(pool) = self.pools.get_mut(id.0 as usize) else { continue };
            pool.settings = settings;
            pool.permit_state.fair = has;
            pool.permits += has.saturating_sub(had);
            if had > has {
                cuts.push(Cut { shard: io.shard(), key, count: had - has });
            }
            pool.lending = lending;
            if pool.target.user != target.user || pool.target.credentials != target.credentials {
                if let Some(news) = &pool.news {
                    news.watch.retarget(target.clone());
                }
                pool.target = target;
                pool.welcomes.clear();
                self.age(io, id, generation);
            } else {
                self.serve(io, id);
            }
        }
        cuts
    }

    fn dismiss_waiting(&mut self, io: &mut World<'_>) {
        for id in self.sessions.keys() {
            if self.sessions.get(id).is_some_and(|session| session.place == Place::Waiting) {
                self.end_session(io, id, Some(&Failure::Shutdown));
            }
        }
    }
}
