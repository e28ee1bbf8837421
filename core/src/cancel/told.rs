//! Sessions that were told the process id of their backend.
//!
//! In session mode a client has one server connection from its login to its end, as it has with PostgreSQL itself, and the process
//! id of its cancel key is that of the backend: it stands in `pg_stat_activity`, `pg_locks` and notifications, and programs look
//! for it there. Such a number does not say where the session is, so a cancel request with one goes to every shard.
//!
//! Lives on one shard.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use runtime::ShardId;

use crate::session::SessionId;
use crate::shard::{Message, Shard, World};

/// Who was told which process id. Backends of several servers may have the same.
#[derive(Default)]
pub(crate) struct Told {
    sessions: HashMap<u32, Vec<SessionId>, foldhash::fast::RandomState>,
}

/// How many there are on all shards.
#[derive(Default)]
pub(crate) struct ToldCount(AtomicU32);

impl ToldCount {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn remove(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    fn is_none(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

impl Shard {
    /// A session will be told this process id, of its backend.
    pub(crate) fn tell(&mut self, id: SessionId, process_id: u32) {
        let Some(session) = self.sessions.get_mut(id).filter(|session| session.told.is_none()) else { return };
        session.told = Some(process_id);
        self.told.sessions.entry(process_id).or_default().push(id);
        self.board.told.add();
    }

    /// The process id of its backend that a session was told.
    pub(super) fn process_id_told(&self, id: SessionId) -> Option<u32> {
        self.sessions.get(id)?.told
    }

    /// A session that was told this is no more.
    pub(crate) fn forget_told(&mut self, id: SessionId, process_id: Option<u32>) {
        let Some(process_id) = process_id else { return };
        if let Some(sessions) = self.told.sessions.get_mut(&process_id) {
            sessions.retain(|other| *other != id);
            if sessions.is_empty() {
                self.told.sessions.remove(&process_id);
            }
        }
        self.board.told.remove();
    }

    /// A cancel request for whoever was told this process id, on whatever shard.
    pub(super) fn route_cancel_told(&mut self, io: &mut World<'_>, process_id: u32, secret: u32) {
        if self.board.told.is_none() {
            return;
        }
        for shard in (0..io.shard_count()).filter_map(|number| u16::try_from(number).ok().map(ShardId)) {
            if shard == io.shard() {
                self.cancel_told(io, process_id, secret);
            } else if io.post(shard, Message::CancelTold { process_id, secret }).is_err() {
                tracing::warn!("a cancel request was dropped because the ring to a shard is full");
            }
        }
    }

    /// The same, on this shard.
    pub(crate) fn cancel_told(&mut self, io: &mut World<'_>, process_id: u32, secret: u32) {
        let sessions = self.told.sessions.get(&process_id).cloned().unwrap_or_default();
        for id in sessions {
            self.cancel_by_secret(io, id, secret);
        }
    }
}
