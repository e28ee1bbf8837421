//! The rings between shards, one per ordered pair, and the doorbell that wakes a sleeping shard.

use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};

use crossbeam::utils::CachePadded;
use rtrb::{Consumer, Producer, RingBuffer};
use rustix::event::{EventfdFlags, eventfd};

/// Wakes one shard. Rung by others; the shard alone says when it sleeps.
#[derive(Debug)]
pub(crate) struct Doorbell {
    asleep: CachePadded<AtomicBool>,
    eventfd: OwnedFd,
}

impl Doorbell {
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: CachePadded::new(AtomicBool::new(false)), eventfd })
    }

    pub(crate) fn raw_fd(&self) -> RawFd {
        self.eventfd.as_raw_fd()
    }

    /// Call after a message has been put where the shard looks.
    pub(crate) fn ring(&self) {
        // pairs with the fence in `begin_sleep`: either the shard sees the message or we see it asleep
        fence(Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // the counter can only overflow after 2^64 rings; a full one wakes the shard all the same
            let _rung: Result<usize, rustix::io::Errno> = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// From now on a message rings; look for messages once more before sleeping.
    pub(crate) fn begin_sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Awake: messages are looked for anyway.
    pub(crate) fn end_sleep(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// Takes the rings that were counted, so that the next sleep sleeps.
    pub(crate) fn silence(&self) {
        let mut count = [0_u8; 8];
        let _silent: Result<usize, rustix::io::Errno> = rustix::io::read(&self.eventfd, &mut count);
    }
}

/// One shard's ends of all rings.
pub(crate) struct MeshEnd<M> {
    /// By receiving shard; `None` is this shard itself.
    pub(crate) outgoing: Vec<Option<Producer<M>>>,
    /// By sending shard.
    pub(crate) incoming: Vec<Option<Consumer<M>>>,
    pub(crate) doorbells: Arc<[Doorbell]>,
}

/// All ends for `count` shards, rings of `capacity` messages.
pub(crate) fn mesh<M>(count: usize, capacity: usize) -> rustix::io::Result<Vec<MeshEnd<M>>> {
    let doorbells: Arc<[Doorbell]> = (0..count).map(|_| Doorbell::new()).collect::<Result<Vec<_>, _>>()?.into();
    let mut ends: Vec<MeshEnd<M>> = (0..count)
        .map(|_| MeshEnd { outgoing: Vec::new(), incoming: Vec::new(), doorbells: Arc::clone(&doorbells) })
        .collect();
    for from in 0..count {
        let mut consumers: Vec<Option<Consumer<M>>> = Vec::new();
        if let Some(end) = ends.get_mut(from) {
            for to in 0..count {
                let pair = (from != to).then(|| RingBuffer::new(capacity));
                let (producer, consumer) = pair.map_or((None, None), |(p, c)| (Some(p), Some(c)));
                end.outgoing.push(producer);
                consumers.push(consumer);
            }
        }
        for (end, consumer) in ends.iter_mut().zip(consumers) {
            end.incoming.push(consumer);
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_ring_of_its_own_and_a_full_one_gives_the_message_back() {
        let mut ends = mesh::<u32>(3, 2).unwrap();
        assert!(ends[1].outgoing[1].is_none());
        let producer = ends[0].outgoing[2].as_mut().unwrap();
        producer.push(7).unwrap();
        producer.push(8).unwrap();
        assert!(producer.push(9).is_err());
        assert_eq!(ends[2].incoming[0].as_mut().unwrap().pop(), Ok(7));
        assert!(ends[2].incoming[1].as_mut().unwrap().pop().is_err());
    }
}
