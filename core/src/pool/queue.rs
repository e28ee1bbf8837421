//! Who waits for a server connection of a pool, the longest first.

use std::collections::VecDeque;

use crate::bound::Ticket;
use crate::error::{Failure, Limited};
use crate::pool::PoolId;
use crate::session::{Place, SessionId};
use crate::shard::{Shard, World};

/// One shard's part of a pool's queue. Where the queue is bounded, those in it hold tickets.
#[derive(Default)]
pub(crate) struct Queue(VecDeque<(SessionId, Option<Ticket>)>);

impl Queue {
    pub(crate) fn push_back(&mut self, id: SessionId) {
        self.0.push_back((id, None));
    }

    fn push_front(&mut self, id: SessionId) {
        self.0.push_front((id, None));
    }

    /// The session keeps this for as long as it waits.
    fn keep(&mut self, id: SessionId, ticket: Ticket) {
        if let Some((_, kept)) = self.0.iter_mut().rfind(|(other, _)| *other == id) {
            *kept = Some(ticket);
        }
    }

    pub(crate) fn pop_front(&mut self) -> Option<SessionId> {
        self.0.pop_front().map(|(id, _)| id)
    }

    pub(crate) fn remove(&mut self, id: SessionId) {
        self.0.retain(|(other, _)| *other != id);
    }

    /// Everybody; the queue is empty then.
    pub(crate) fn take_all(&mut self) -> Vec<SessionId> {
        self.0.drain(..).map(|(id, _)| id).collect()
    }

    pub(crate) fn front(&self) -> Option<SessionId> {
        self.0.front().map(|(id, _)| *id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = SessionId> {
        self.0.iter().map(|(id, _)| *id)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Shard {
    /// The connection that was being made ready for a session is lost: it goes on waiting where it was, in front.
    pub(crate) fn acquire_again(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.place = Place::Waiting;
        let pool_id = session.pool;
        if let Some(pool) = self.pool_mut(pool_id) {
            pool.waiting.push_front(id);
        }
        self.serve(io, pool_id);
        self.ask_for_permit(io, pool_id);
        self.hurry(io);
    }

    /// A session begins to wait: it is refused if too many do.
    pub(super) fn bound_queue(&mut self, io: &mut World<'_>, pool_id: PoolId, id: SessionId) {
        let Some(pool) = self.pools.get_mut(pool_id.0 as usize) else { return };
        let Some(limit) = pool.settings.queue_max else { return };
        if self.sessions.get(id).is_none_or(|session| session.place != Place::Waiting) {
            return;
        }
        if let Some(ticket) = pool.common.queue_up(limit) {
            pool.waiting.keep(id, ticket);
            return;
        }
        pool.waiting.remove(id);
        pool.stats.count_limit("queue_max");
        let failure = Failure::Limited(Limited::Queue { pool: pool.name.clone(), limit });
        self.fail_request(io, id, &failure);
    }
}
