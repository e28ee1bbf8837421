//! A connection on which something may be left belongs to the session that left it, until Postgres has been asked.
//!
//! Such a connection lies among the free ones, its session's `home`: the session has it back for its next request, and so
//! always sees what it has done. When somebody else needs it, it is asked ([`crate::probe`]), and its session is either free to go
//! to any connection, in what it wears from then on, or pinned. A pin that was found this way is looked at again when
//! clients wait and something has run since. When the session ends, its home is cleaned at once.

use std::rc::Rc;

use config::SequenceState;
use dbproto::message::backend::TransactionStatus;
use dbproto::message::frontend;
use dbproto::pipeline::{Expect, Owed};

use crate::dress::Dress;
use crate::pipe::{Asked, List, Mark, ServerId, Soil, Work};
use crate::pool::PoolId;
use crate::probe::{self, Answer, Findings, Functions};
use crate::session::{Left, Pin, Place, SessionId};
use crate::shard::{Shard, World};

impl Shard {
    /// The connection that may hold what a session has left, if there is one.
    pub(crate) fn home_of(&self, id: SessionId) -> Option<ServerId> {
        let home = self.sessions.get(id)?.home?;
        let server = self.servers.get(home)?;
        let is_home = server.last_session == Some(id)
            && server.soil == Soil::Unknown
            // one that ends answers nothing any more
            && server.list != List::Closing
            && (server.list == List::Idle || server.findings.is_some() || server.passage.is_some());
        is_home.then_some(home)
    }

    /// Whether a free connection may hold what a living session has left.
    pub(crate) fn is_home(&self, id: ServerId) -> bool {
        let owner = self.servers.get(id).and_then(|server| server.last_session);
        owner.is_some_and(|owner| self.home_of(owner) == Some(id))
    }

    /// Asks what is left on a connection; meanwhile its session waits.
    pub(crate) fn begin_probe(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let owner = server.last_session;
        let Some(pool) = self.pools.get_mut(server.pool.0 as usize) else { return };
        let catalog = pool.news.as_ref().and_then(|news| news.catalog.as_ref());
        let functions = if catalog.is_some() { Functions::Known } else { Functions::Unknown };
        let known = catalog.into_iter().flat_map(|catalog| catalog.custom.iter());
        let own = owner.and_then(|id| self.sessions.get(id)).into_iter().flat_map(|session| session.custom.iter());
        let question = probe::question(own.chain(known).map(|name| &**name), functions);
        // bounded: names are few and short
        if frontend::write_query(io.output(server.socket), question.as_bytes()).is_ok() {
            server.pipeline.push(Owed::nobody(Expect::Query).marked(Mark::Probe.encode()));
        }
        if pool.settings.sequence_state == SequenceState::Pin
            && frontend::write_query(io.output(server.socket), probe::SEQUENCES.as_bytes()).is_ok()
        {
            server.pipeline.push(Owed::nobody(Expect::Query).marked(Mark::Sequences.encode()));
        }
        server.findings = Some(Box::default());
        server.work_failure = None;
        server.asked = Asked::Since;
        // whatever was promised: what is found there must not go on to somebody else
        server.soil = Soil::Unknown;
        pool.stats.probes += 1;
        if let Some(holder) = server.holder
            && let Some(session) = self.sessions.get_mut(holder)
        {
            session.place = Place::Promised(id);
        }
        self.move_to(id, List::Working);
    }

    /// Postgres has answered.
    pub(super) fn on_probed(&mut self, io: &mut World<'_>, id: ServerId, mut findings: Findings) {
        let owner = self.servers.get(id).and_then(|server| server.last_session);
        let at_home = |owner: &SessionId| self.sessions.get(*owner).is_some_and(|session| session.home == Some(id));
        if let Some(owner) = owner.filter(at_home) {
            // it may stand in the queue, where nobody looks while the pool is paused
            self.stop_waiting(owner);
        }
        let Some(server) = self.servers.get_mut(id) else { return };
        server.holder = None;
        server.promised = None;
        server.dirty_reads = 0;
        let failed = server.work_failure.take().is_some();
        let owner = server.last_session;
        let channels = findings.take_channels();
        let answer = findings.answer(&server.user);
        let owner = owner.and_then(|id| self.sessions.get_mut(id).map(|session| (id, session)));
        let Some((owner, session)) = owner.filter(|(_, session)| session.home == Some(id)) else {
            self.clean(io, id);
            return;
        };
        let bound = match answer {
            Answer::Bound(reason) => Some(reason),
            Answer::Free(_) if failed => Some("state that could not be asked for"),
            Answer::Free(settings) if !channels.is_empty() => {
                match self.begin_away(io, (owner, id), settings, channels) {
                    Ok(()) => return,
                    Err(_) => Some("LISTEN"),
                }
            }
            Answer::Free(settings) => {
                session.dress = Rc::new(Dress::of(settings));
                None
            }
        };
        if let Some(reason) = bound {
            self.bind(io, id, owner, reason);
            return;
        }
        self.drop_ears_at_home(io, owner);
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(owner)) else { return };
        session.pin = Pin::No;
        session.home = None;
        session.left = Left::Unlikely;
        session.place = Place::Idle;
        server.last_session = None;
        self.ready.push_back(owner);
        self.release(io, id);
    }

    /// A session keeps its connection for what is there.
    pub(crate) fn bind(&mut self, io: &mut World<'_>, id: ServerId, owner: SessionId, reason: &'static str) {
        let (Some(server), Some(session)) = (self.servers.get_mut(id), self.sessions.get_mut(owner)) else { return };
        let pool_id = server.pool;
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        if session.pin == Pin::No {
            pool.stats.count_pin(reason);
        }
        session.pin = Pin::Found(reason);
        if let Some(reason) = session.record.note_pin(session.pin, io.now()) {
            self.pin_log.note(&self.board.desk, (&pool.stats.database, &session.dress), reason);
        }
        session.place = Place::Exclusive(id);
        server.promised = None;
        server.holder = Some(owner);
        self.move_to(id, List::Exclusive);
        self.ready.push_back(owner);
        self.serve(io, pool_id);
    }

    /// Nobody may see any more what is left on a free connection.
    pub(crate) fn clean(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id) else { return };
        if !server.is_quiet() || server.list == List::Closing {
            // whatever is under way ends first, and comes here then
            return;
        }
        server.last_session = None;
        server.work_failure = None;
        server.work = Work::Clean;
        self.end_passage(id);
        let Some(server) = self.servers.get_mut(id) else { return };
        let connect_query =
            self.pools.get(server.pool.0 as usize).and_then(|pool| pool.target.connect_query.as_deref());
        for text in std::iter::once("DISCARD ALL").chain(connect_query) {
            if frontend::write_query(io.output(server.socket), text.as_bytes()).is_ok() {
                server.pipeline.push(Owed::nobody(Expect::Query).marked(Mark::Clean.encode()));
            }
        }
        let pool = server.pool;
        self.move_to(id, List::Working);
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.cleanings += 1;
        }
    }

    /// Clients wait and nothing is free: connections that sessions keep are asked, if something has changed there.
    pub(super) fn look_at_pins(&mut self, io: &mut World<'_>, pool_id: PoolId) {
        let Some(pool) = self.pool(pool_id) else { return };
        if pool.waiting.is_empty() {
            return;
        }
        let kept = self.servers.keys().into_iter().find(|id| {
            self.servers.get(*id).is_some_and(|server| {
                server.pool == pool_id
                    && server.list == List::Exclusive
                    && server.asked == Asked::NotSince
                    && server.status == TransactionStatus::Idle
                    && server.is_quiet()
                    && server.holder.and_then(|id| self.sessions.get(id)).is_some_and(|session| {
                        matches!(session.pin, Pin::Found(_)) && session.input.is_empty() && session.stream_left == 0
                    })
            })
        });
        if let Some(id) = kept {
            let holder = self.servers.get(id).and_then(|server| server.holder);
            if let Some(session) = holder.and_then(|id| self.sessions.get_mut(id)) {
                session.home = Some(id);
            }
            self.begin_probe(io, id);
        }
    }
}
