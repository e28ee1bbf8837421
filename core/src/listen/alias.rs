//! Whose backend is that? Notifications carry the process id of the backend that sent them, and a client knows itself and
//! others by the process ids that we have told them.
//!
//! A table of fixed size that the shards share without a lock: every entry is one number, and who finds none says what Postgres
//! has said. It names the session that held the connection last, which for a session's own connection is itself.

use std::sync::atomic::{AtomicU64, Ordering};

/// Entries; server connections at once are fewer by far.
const SLOTS: usize = 8192;
/// Places at which one backend is looked for.
const PLACES: usize = 4;

/// See the module documentation.
pub(crate) struct Aliases {
    slots: Box<[AtomicU64]>,
}

impl Default for Aliases {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect() }
    }
}

/// Which backend: of which configured database, and its process id.
pub(crate) type Backend = (usize, u32);

fn key((database, process_id): Backend) -> u64 {
    // process ids have 22 bits at most on Linux; of databases with the same last byte one may be taken for the other
    (u64::from(process_id) ^ ((database as u64 & 0xff) << 24)) & 0xffff_ffff
}

impl Aliases {
    fn places(&self, key: u64) -> impl Iterator<Item = &AtomicU64> {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let first = usize::try_from(hash).unwrap_or_default();
        (0..PLACES).filter_map(move |place| self.slots.get((first + place) % SLOTS))
    }

    /// A client holds a backend; `client` is the process id it was told.
    pub(crate) fn note(&self, backend: Backend, client: u32) {
        let key = key(backend);
        let entry = (key << 32) | u64::from(client);
        let mut free = None;
        for place in self.places(key) {
            let there = place.load(Ordering::Relaxed);
            if there >> 32 == key && there != 0 {
                place.store(entry, Ordering::Release);
                return;
            }
            if there == 0 && free.is_none() {
                free = Some(place);
            }
        }
        // whoever is pushed out is known by its backend's own number
        if let Some(place) = free.or_else(|| self.places(key).next()) {
            place.store(entry, Ordering::Release);
        }
    }

    /// A backend is gone.
    pub(crate) fn forget(&self, backend: Backend) {
        let key = key(backend);
        for place in self.places(key) {
            let there = place.load(Ordering::Relaxed);
            if there >> 32 == key {
                // another shard may have taken the place meanwhile
                let _ours: Result<u64, u64> = place.compare_exchange(there, 0, Ordering::Release, Ordering::Relaxed);
            }
        }
    }

    /// The process id by which a backend's client knows itself; the backend's own if it is nobody's.
    pub(crate) fn of(&self, backend: Backend) -> u32 {
        let key = key(backend);
        let found = self.places(key).map(|place| place.load(Ordering::Acquire));
        let found = found.filter(|there| *there != 0).find(|there| there >> 32 == key);
        found.map_or(backend.1, |there| u32::try_from(there & 0xffff_ffff).unwrap_or(backend.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_known_by_who_held_it_last_until_it_is_gone() {
        let aliases = Aliases::default();
        assert_eq!(aliases.of((0, 4711)), 4711);
        aliases.note((0, 4711), 1);
        aliases.note((0, 4712), 2);
        aliases.note((0, 4711), 3);
        assert_eq!((aliases.of((0, 4711)), aliases.of((0, 4712)), aliases.of((1, 4711))), (3, 2, 4711));
        aliases.forget((0, 4711));
        assert_eq!((aliases.of((0, 4711)), aliases.of((0, 4712))), (4711, 2));
    }

    #[test]
    fn more_backends_than_places_are_never_taken_for_each_other() {
        let aliases = Aliases::default();
        for process_id in 1..40_000 {
            aliases.note((0, process_id), process_id + 1_000_000);
        }
        let known = (1..40_000).filter(|id| aliases.of((0, *id)) == id + 1_000_000).count();
        let unknown = (1..40_000).filter(|id| aliases.of((0, *id)) == *id).count();
        assert_eq!(known + unknown, 39_999);
        assert!(known > 1000, "{known}");
    }
}
