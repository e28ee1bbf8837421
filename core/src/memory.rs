//! The bound on all buffers together (`limits.memory`), and who gives way when it is reached.
//!
//! What is bounded: bytes that sockets have not taken yet, and what has come from clients and servers and is not used up.
//! Every shard counts its own and tells the others in steps. From three quarters of the bound on, results are read from
//! PostgreSQL only as fast as their clients read them; at the bound the session with the most in buffers is closed, whichever
//! shard it is on, one after the other until there is room.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam::utils::CachePadded;
use runtime::reactor::LOW_WATER;

use crate::error::{Failure, Limited};
use crate::pipe::Streaming;
use crate::session::{Place, SessionId};
use crate::shard::{Message, Shard, World};

/// Change of a shard's count that it tells the others.
const STEP: usize = 64 * 1024;

/// What all shards know of each other's buffers.
pub(crate) struct MemoryBoard {
    limit: Option<usize>,
    total: CachePadded<AtomicUsize>,
    /// What the session with the most in buffers has, on each shard that has looked.
    largest: Vec<CachePadded<AtomicUsize>>,
}

impl MemoryBoard {
    pub(crate) fn new(limit: Option<u64>, shards: usize) -> Self {
        Self {
            limit: limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            total: CachePadded::default(),
            largest: (0..shards).map(|_| CachePadded::default()).collect(),
        }
    }

    /// Whether it is time to read more slowly.
    pub(crate) fn is_short(&self) -> bool {
        self.limit.is_some_and(|limit| self.total.load(Ordering::Relaxed) >= limit - limit / 4)
    }

    fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.total.load(Ordering::Relaxed) >= limit)
    }
}

/// One shard's count.
#[derive(Default)]
pub(crate) struct Memory {
    /// Bytes of all [`Share`]s.
    held: Rc<Cell<usize>>,
    /// What the others have been told.
    told: usize,
    /// When the largest session is looked for again.
    look_after: Option<Instant>,
}

/// What one session or server connection holds of a shard's count; given back when it is dropped.
#[derive(Default)]
pub(crate) struct Share {
    len: usize,
    of: Option<Rc<Cell<usize>>>,
}

impl Share {
    fn set(&mut self, len: usize, all: &Rc<Cell<usize>>) {
        let of = self.of.get_or_insert_with(|| Rc::clone(all));
        of.set((of.get() + len).saturating_sub(self.len));
        self.len = len;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(of) = &self.of {
            of.set(of.get().saturating_sub(self.len));
        }
    }
}

impl Shard {
    /// A session's input has changed.
    pub(crate) fn count_input(&mut self, id: SessionId) {
        if self.board.memory.limit.is_some()
            && let Some(session) = self.sessions.get_mut(id)
        {
            session.share.set(session.input.len(), &self.memory.held);
        }
    }

    /// A server connection's input has changed.
    pub(crate) fn count_server_input(&mut self, id: crate::pipe::ServerId) {
        if self.board.memory.limit.is_some()
            && let Some(server) = self.servers.get_mut(id)
        {
            server.share.set(server.input.len(), &self.memory.held);
        }
    }

    /// Tells the others what has changed here; closes sessions if there is no room.
    pub(crate) fn keep_memory(&mut self, io: &mut World<'_>) {
        if self.board.memory.limit.is_none() {
            return;
        }
        let own = io.buffered() + self.memory.held.get();
        let (total, told) = (&self.board.memory.total, self.memory.told);
        if own.abs_diff(told) >= STEP || own == 0 && told > 0 {
            if own > told {
                total.fetch_add(own - told, Ordering::Relaxed);
            } else {
                total.fetch_sub(told - own, Ordering::Relaxed);
            }
            self.memory.told = own;
        }
        if self.board.memory.is_full() && self.memory.look_after.is_none_or(|at| at <= io.now()) {
            self.memory.look_after = Some(io.now() + crate::shard::TICK_SOON);
            self.make_room(io);
            self.hurry(io);
        }
    }

    /// Closes the session with the most in buffers, if it is here.
    pub(crate) fn make_room(&mut self, io: &mut World<'_>) {
        let held = |id: SessionId| {
            self.sessions.get(id).map_or(0, |session| session.share.len + io.output_len(session.socket))
        };
        let largest = self.sessions.keys().into_iter().map(|id| (held(id), id)).max_by_key(|(len, _)| *len);
        let own = largest.map_or(0, |(len, _)| len);
        let shard = usize::from(io.shard().0);
        if let Some(told) = self.board.memory.largest.get(shard) {
            told.store(own, Ordering::Relaxed);
        }
        let others = self.board.memory.largest.iter().enumerate().filter(|(index, _)| *index != shard);
        let theirs = others.map(|(index, len)| (len.load(Ordering::Relaxed), index)).max();
        match (largest, theirs) {
            (_, Some((theirs, index))) if theirs > own => self.ask_for_room(io, index),
            (Some((_, id)), _) if own > 0 => self.close_for_memory(io, id),
            _ => {
                for index in (0..io.shard_count()).filter(|index| *index != shard) {
                    self.ask_for_room(io, index);
                }
            }
        }
    }

    fn ask_for_room(&self, io: &mut World<'_>, index: usize) {
        if let Ok(index) = u16::try_from(index) {
            // asked again soon if the ring is full
            let _sent: Result<(), Message> = io.post(runtime::ShardId(index), Message::MakeRoom);
        }
    }

    /// Another shard has found the bound reached.
    pub(crate) fn on_make_room(&mut self, io: &mut World<'_>) {
        if self.memory.look_after.is_none_or(|at| at <= io.now()) {
            self.keep_memory(io);
        }
    }

    fn close_for_memory(&mut self, io: &mut World<'_>, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let (pool, unread) = (session.pool, io.output_len(session.socket));
        let torn = match session.place {
            Place::Exclusive(server) | Place::Shared(server) => self
                .servers
                .get(server)
                .is_some_and(|server| matches!(server.streaming, Streaming::Forward(to, left) if to == id && left > 0)),
            Place::Idle | Place::Waiting | Place::Promised(_) => false,
        };
        tracing::warn!(user = %session.user, unread, input = session.share.len, "limits.memory is reached: a client is closed");
        if let Some(pool) = self.pool_mut(pool) {
            pool.stats.count_limit("memory");
        }
        if torn || unread > LOW_WATER {
            self.cut_session(io, id);
        } else {
            self.end_session(io, id, Some(&Failure::Limited(Limited::Memory)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_counted_once_and_given_back() {
        let all = Rc::new(Cell::new(0));
        let (mut one, mut two) = (Share::default(), Share::default());
        one.set(10, &all);
        two.set(5, &all);
        one.set(3, &all);
        assert_eq!(all.get(), 8);
        drop(one);
        assert_eq!(all.get(), 5);
        two.set(0, &all);
        drop(two);
        assert_eq!(all.get(), 0);
    }

    #[test]
    fn it_is_short_before_it_is_full() {
        let board = MemoryBoard::new(Some(1000), 1);
        for (total, short, full) in [(749, false, false), (750, true, false), (1000, true, true)] {
            board.total.store(total, Ordering::Relaxed);
            assert_eq!((board.is_short(), board.is_full()), (short, full), "{total}");
        }
        assert!(!MemoryBoard::new(None, 1).is_short());
    }
}
