//! What all shards know together.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use config::Config;
use crossbeam::channel::Sender;
use crossbeam::utils::CachePadded;
use runtime::ShardId;

use crate::admin::Petition;
use crate::bound::Bounds;
use crate::cancel::told::ToldCount;
use crate::catalog::keeper::WatchRequest;
use crate::clerk::Ask;
use crate::event::Events;
use crate::listen::alias::Aliases;
use crate::listen::line::LineRequest;
use crate::machine::Machine;
use crate::memory::MemoryBoard;
use crate::throttle::Throttle;
use crate::upstream::Directory;

/// What all shards know together.
pub(crate) struct Board {
    /// When the process began.
    pub(crate) started: Instant,
    /// What the process is, and what the kernel knows of it.
    pub(crate) machine: Machine,
    /// What happened to it.
    pub(crate) events: Events,
    /// Makes up answers for users that do not exist.
    pub(crate) mock_key: [u8; 32],
    /// Where each configured database is. For the control side: shards have what they were sent.
    pub(crate) directory: Directory,
    /// Where users are asked for.
    pub(crate) clerk: Sender<Ask>,
    pub(crate) throttle: Throttle,
    /// Bounds on what all shards have together.
    pub(crate) bounds: Bounds,
    pub(crate) memory: MemoryBoard,
    /// Who carries out what consoles ask.
    pub(crate) desk: Sender<Petition>,
    /// Where catalogs are asked for.
    pub(crate) keeper: Sender<WatchRequest>,
    /// Where connections are asked for that listen for sessions.
    pub(crate) lines: Sender<LineRequest>,
    /// Which client holds which backend.
    pub(crate) aliases: Aliases,
    /// Sessions that were told the process id of their backend.
    pub(crate) told: ToldCount,
    /// Clients of each shard.
    clients: Vec<CachePadded<AtomicU32>>,
    total: CachePadded<AtomicU32>,
}

impl Board {
    pub(crate) fn new(config: &Config, directory: Directory, shards: usize, asked: Asked) -> Self {
        let mut mock_key = [0; 32];
        crate::cancel::fill_random(&mut mock_key);
        Self {
            started: Instant::now(),
            machine: Machine::new(config),
            events: Events::default(),
            mock_key,
            bounds: Bounds::new(config),
            memory: MemoryBoard::new(config.limits.memory, shards),
            keeper: asked.keeper,
            lines: asked.lines,
            aliases: Aliases::default(),
            clerk: asked.clerk,
            desk: asked.desk,
            throttle: Throttle::new(config.auth.delay_max),
            directory,
            told: ToldCount::default(),
            clients: (0..shards).map(|_| CachePadded::default()).collect(),
            total: CachePadded::default(),
        }
    }

    /// Takes over from a new configuration what all shards know together.
    pub(crate) fn adopt(&self, config: &Config) {
        self.bounds.adopt(config);
        self.machine.adopt(config);
    }

    /// Counts a client in; gives how many there are now.
    pub(super) fn enter(&self, shard: ShardId) -> u32 {
        if let Some(count) = self.clients.get(usize::from(shard.0)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.total.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Whether no shard has a client.
    pub(super) fn is_empty(&self) -> bool {
        self.total.load(Ordering::Relaxed) == 0
    }

    pub(super) fn leave(&self, shard: ShardId) {
        if let Some(count) = self.clients.get(usize::from(shard.0)) {
            count.fetch_sub(1, Ordering::Relaxed);
        }
        self.total.fetch_sub(1, Ordering::Relaxed);
    }

    /// The shard with the fewest clients; `here` if none has fewer.
    pub(super) fn least_loaded(&self, here: ShardId) -> ShardId {
        let load = |index: usize| self.clients.get(index).map_or(u32::MAX, |count| count.load(Ordering::Relaxed));
        let mut best = (load(usize::from(here.0)), here);
        for index in 0..self.clients.len() {
            if load(index) < best.0 {
                best = (load(index), ShardId(u16::try_from(index).unwrap_or(u16::MAX)));
            }
        }
        best.1
    }
}

/// Where shards ask for what they must not wait for.
pub(crate) struct Asked {
    pub(crate) keeper: Sender<WatchRequest>,
    pub(crate) lines: Sender<LineRequest>,
    pub(crate) clerk: Sender<Ask>,
    pub(crate) desk: Sender<Petition>,
}
