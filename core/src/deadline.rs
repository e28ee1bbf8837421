//! Limits on how long requests, transactions and idleness may last.
//!
//! Nothing is done per request. A server connection that clients use is looked at when the shortest of its limits has passed
//! since the last look: what began after that look cannot be overdue before, so every limit is met to the timer's grain.
//! A client is looked at when it would have been idle for long enough if it had done nothing since. Both are kept in the
//! order of their times, so idle ones cost nothing.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use config::{Timeout, Timeouts};
use dbproto::message::backend::TransactionStatus;

use crate::error::{Disposition, Failure, Limited};
use crate::pipe::{Cancel, Flow, List, Server, ServerId, Streaming};
use crate::session::{Phase, Place, Session, SessionId};
use crate::shard::{Shard, World};
use crate::slab::Key;

/// How long a statement may take to stop after it was cancelled, before the connection is given up.
const STOPPING_MAX: Duration = Duration::from_secs(1);
/// Shortest pause between two looks at one thing.
const LOOK_PAUSE: Duration = Duration::from_millis(1);

/// A limit on time that a client can reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Limit {
    Query,
    Transaction,
    IdleTransaction,
    ClientIdle,
    ClientStall,
}

impl Limit {
    /// Its key in the configuration.
    pub(crate) const fn key(self) -> &'static str {
        match self {
            Self::Query => "query_timeout",
            Self::Transaction => "transaction_timeout",
            Self::IdleTransaction => "idle_transaction_timeout",
            Self::ClientIdle => "client_idle_timeout",
            Self::ClientStall => "client_stall_timeout",
        }
    }

    const fn of(self, timeouts: &Timeouts) -> Timeout {
        match self {
            Self::Query => timeouts.query,
            Self::Transaction => timeouts.transaction,
            Self::IdleTransaction => timeouts.idle_transaction,
            Self::ClientIdle => timeouts.client_idle,
            Self::ClientStall => timeouts.client_stall,
        }
    }
}

/// Whether something is among the deadlines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Watched {
    No,
    Yes,
}

/// When to look at what.
struct Due<T> {
    at: Instant,
    key: Key<T>,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl<T> Eq for Due<T> {}
impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

/// Things to look at, the first to come in front.
struct Queue<T>(BinaryHeap<Reverse<Due<T>>>);

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self(BinaryHeap::new())
    }
}

impl<T> Queue<T> {
    fn push(&mut self, at: Instant, key: Key<T>) {
        self.0.push(Reverse(Due { at, key }));
    }

    /// The next thing whose time has come.
    fn pop_due(&mut self, now: Instant) -> Option<Key<T>> {
        let due = self.0.peek().is_some_and(|Reverse(due)| due.at <= now);
        if due { self.0.pop().map(|Reverse(due)| due.key) } else { None }
    }

    fn next(&self) -> Option<Instant> {
        self.0.peek().map(|Reverse(due)| due.at)
    }
}

/// See the module documentation.
#[derive(Default)]
pub(crate) struct Deadlines {
    servers: Queue<Server>,
    clients: Queue<Session>,
}

impl Shard {
    /// Clients use this server connection: its limits are kept from now on.
    pub(crate) fn watch_server(&mut self, io: &mut World<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(id).filter(|server| server.watched == Watched::No) else { return };
        let shortest = self.pools.get(server.pool.0 as usize).and_then(|pool| pool.settings.timeouts.shortest_in_use());
        let Some(shortest) = shortest else { return };
        server.watched = Watched::Yes;
        let at = io.now() + shortest;
        self.deadlines.servers.push(at, id);
        self.tick_at(io, at);
    }

    /// A client is logged in: it may not be idle for ever.
    pub(crate) fn watch_client(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.active_at = io.now();
        let pool = self.pools.get(session.pool.0 as usize);
        let Some(limit) = pool.and_then(|pool| pool.settings.timeouts.client_idle.duration()) else { return };
        let at = io.now() + limit;
        self.deadlines.clients.push(at, id);
        self.tick_at(io, at);
    }

    /// Looks at everything whose time has come.
    pub(crate) fn on_deadline_tick(&mut self, io: &mut World<'_>) {
        let now = io.now();
        while let Some(id) = self.deadlines.servers.pop_due(now) {
            match self.look_at_server(io, id) {
                Some(at) => self.deadlines.servers.push(at.max(now + LOOK_PAUSE), id),
                None => {
                    if let Some(server) = self.servers.get_mut(id) {
                        server.watched = Watched::No;
                    }
                }
            }
        }
        while let Some(id) = self.deadlines.clients.pop_due(now) {
            if let Some(at) = self.look_at_client(io, id) {
                self.deadlines.clients.push(at.max(now + LOOK_PAUSE), id);
            }
        }
        for at in [self.deadlines.servers.next(), self.deadlines.clients.next()].into_iter().flatten() {
            self.tick_at(io, at);
        }
    }

    /// Ends what is overdue on a server connection; gives when to look again, if clients still use it.
    fn look_at_server(&mut self, io: &mut World<'_>, id: ServerId) -> Option<Instant> {
        let now = io.now();
        let server = self.servers.get(id)?;
        if !matches!(server.list, List::Exclusive | List::Shared | List::Draining) {
            return None;
        }
        let timeouts = self.pools.get(server.pool.0 as usize)?.settings.timeouts;
        let pause = timeouts.shortest_in_use()?;
        let mut next = now + pause;
        let holder = server.holder.and_then(|id| self.sessions.get(id));
        for (limit, since) in clocks(server, holder) {
            let (Some(since), Some(duration)) = (since, limit.of(&timeouts).duration()) else { continue };
            let stopping = server.timed_out.filter(|at| limit == Limit::Query && *at >= since);
            let at = stopping.map_or(since + duration, |at| at + STOPPING_MAX);
            if at <= now {
                self.on_server_overdue(io, id, limit, duration);
                // if the connection lives on, it is to be seen what becomes of it
                return Some(now + pause.min(STOPPING_MAX));
            }
            next = next.min(at);
        }
        Some(next)
    }

    fn on_server_overdue(&mut self, io: &mut World<'_>, id: ServerId, limit: Limit, after: Duration) {
        let Some(server) = self.servers.get_mut(id) else { return };
        let (pool, now) = (server.pool, io.now());
        let asked_before = server.timed_out.is_some_and(|at| at >= server.head_since);
        if limit == Limit::Query && !asked_before {
            server.timed_out = Some(now);
            let shared = server.list != List::Exclusive;
            if let Some(pool) = self.pool_mut(pool) {
                pool.stats.count_limit(limit.key());
            }
            if shared {
                self.evacuate(id);
            }
            self.send_cancel(io, id);
            return;
        }
        if limit != Limit::Query
            && let Some(pool) = self.pool_mut(pool)
        {
            pool.stats.count_limit(limit.key());
        }
        self.end_user(io, id, &Failure::Limited(Limited::Time { limit, after }));
        let busy = self.servers.get(id).is_some_and(|server| server.list != List::Closing && !server.is_quiet());
        let in_use = self.servers.get(id).is_some_and(|server| server.list != List::Working);
        // a shared pipe whose head only does not read goes on: the rest of its reply is swallowed
        if busy && in_use && limit != Limit::ClientStall {
            self.doubt(io, id, limit.key());
        }
    }

    /// Ends the session that a server connection works for.
    fn end_user(&mut self, io: &mut World<'_>, id: ServerId, failure: &Failure) {
        let Some(server) = self.servers.get(id) else { return };
        let Some(session) = server.head_session() else { return };
        let torn = matches!(server.streaming, Streaming::Forward(to, left) if to == session && left > 0);
        let unread = matches!(failure, Failure::Limited(Limited::Time { limit: Limit::ClientStall, .. }));
        if let Some(pool) = self.pool(server.pool) {
            tracing::info!(pool = pool.name, %failure, "a client is closed");
        }
        if torn || unread {
            self.cut_session(io, session);
        } else {
            self.end_session(io, session, Some(failure));
        }
    }

    /// Ends a client that has been idle for too long; gives when to look again.
    fn look_at_client(&mut self, io: &mut World<'_>, id: SessionId) -> Option<Instant> {
        let now = io.now();
        let session = self.sessions.get(id)?;
        let limit = self.pools.get(session.pool.0 as usize)?.settings.timeouts.client_idle.duration()?;
        let since = match session.place {
            _ if !matches!(session.phase, Phase::Ready) => None,
            Place::Idle => Some(session.active_at),
            Place::Exclusive(server) => self
                .servers
                .get(server)
                .filter(|server| server.is_quiet() && server.status == TransactionStatus::Idle)
                .map(|server| server.idle_since.max(session.active_at)),
            Place::Waiting | Place::Promised(_) | Place::Shared(_) => None,
        };
        let at = since.map_or(now + limit, |since| since + limit);
        if at > now {
            return Some(at);
        }
        if let Some(pool) = self.pool_mut(session.pool) {
            pool.stats.count_limit(Limit::ClientIdle.key());
        }
        self.end_session(io, id, Some(&Failure::Limited(Limited::Time { limit: Limit::ClientIdle, after: limit })));
        None
    }
}

/// Since when each limit of a server connection in use runs; the one that says most comes first.
fn clocks(server: &Server, holder: Option<&Session>) -> [(Limit, Option<Instant>); 4] {
    let works = !server.pipeline.is_empty();
    let began = server.in_flight.front().map_or(server.head_since, |request| request.written_at.max(server.head_since));
    let held = holder.is_some();
    // the beginning of a message whose rest has not come
    let begun_at = holder.filter(|session| !session.input.is_empty()).map(|session| session.active_at);
    let idle_since = server.idle_since.max(server.head_since).max(begun_at.unwrap_or(server.head_since));
    let read_by = server.head_session();
    let in_transaction = server.status != TransactionStatus::Idle || server.pipeline.is_open();
    // while a cancel is dealt with it is us who hold the client's messages back
    let inside = server.cancel == Cancel::None && (in_transaction || begun_at.is_some());
    [
        (Limit::ClientStall, Some(server.stalled_since).filter(|_| server.flow == Flow::Paused && read_by.is_some())),
        (Limit::IdleTransaction, Some(idle_since).filter(|_| held && !works && inside)),
        (Limit::Transaction, server.busy_since.filter(|_| held)),
        (Limit::Query, Some(began).filter(|_| works && (held || !server.in_flight.is_empty()))),
    ]
}

/// What a client is told in place of PostgreSQL's words when its request was cancelled by [`Limit::Query`].
pub(crate) fn query_timeout_report(server: &Server, timeouts: &Timeouts) -> Option<BytesMut> {
    let after = timeouts.query.duration().filter(|_| server.timed_out.is_some())?;
    let mut out = BytesMut::new();
    Failure::Limited(Limited::Time { limit: Limit::Query, after }).write(&mut out, Disposition::Keep);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_first_comes_first_and_nothing_before_its_time() {
        let mut queue = Queue::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        for (ms, index) in [(30, 3), (10, 1), (20, 2)] {
            queue.push(at(ms), Key::<()>::at(index));
        }
        assert_eq!(queue.next(), Some(at(10)));
        assert!(queue.pop_due(at(9)).is_none());
        assert_eq!(queue.pop_due(at(25)).map(Key::index), Some(1));
        assert_eq!(queue.pop_due(at(25)).map(Key::index), Some(2));
        assert!(queue.pop_due(at(25)).is_none());
        assert_eq!(queue.next(), Some(at(30)));
    }
}
