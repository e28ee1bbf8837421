//! A slab whose keys carry a generation, so that a key to something that is gone finds nothing.
//!
//! Lives on one shard. Keys travel as the runtime's tokens: 32 bits of generation, 2 bits of kind, 30 bits of index.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// What a token of the runtime points at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TokenKind {
    /// A session's socket.
    Session,
    /// A server connection.
    Server,
    /// A connection that carries a CancelRequest to Postgres.
    Cancel,
    /// A listener.
    Listener,
}

/// A key into a [`Slab`] of `T`.
pub(crate) struct Key<T> {
    index: u32,
    generation: u32,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Key<T> {}
impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.generation == other.generation
    }
}
impl<T> Eq for Key<T> {}
impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.index, self.generation).hash(state);
    }
}
impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// Entries at once; what 30 bits of index can name.
const INDEX_MAX: u32 = (1 << 30) - 1;

impl<T> Key<T> {
    /// The first key of an index.
    pub(crate) const fn at(index: u32) -> Self {
        Self { index, generation: 0, of: PhantomData }
    }

    pub(crate) const fn index(self) -> u32 {
        self.index
    }

    pub(crate) fn token(self, kind: TokenKind) -> runtime::Token {
        let kind = match kind {
            TokenKind::Session => 0_u64,
            TokenKind::Server => 1,
            TokenKind::Cancel => 2,
            TokenKind::Listener => 3,
        };
        (u64::from(self.generation) << 32) | (kind << 30) | u64::from(self.index)
    }

    /// The kind and the key a token was made of.
    pub(crate) fn from_token(token: runtime::Token) -> (TokenKind, Self) {
        let kind = match (token >> 30) & 3 {
            0 => TokenKind::Session,
            1 => TokenKind::Server,
            2 => TokenKind::Cancel,
            _ => TokenKind::Listener,
        };
        let index = u32::try_from(token & u64::from(INDEX_MAX)).unwrap_or_default();
        let generation = u32::try_from(token >> 32).unwrap_or_default();
        (kind, Self { index, generation, of: PhantomData })
    }
}

struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values of one kind, found by [`Key`].
pub(crate) struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0 }
    }
}

impl<T> Slab<T> {
    /// Puts in what `make` builds from its own key; `None` when the slab is full.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Key<T>) -> T) -> Option<Key<T>> {
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                let index = u32::try_from(self.slots.len()).ok().filter(|index| *index < INDEX_MAX)?;
                self.slots.push(Slot { generation: 0, value: None });
                index
            }
        };
        let slot = self.slots.get_mut(index as usize)?;
        let key = Key { index, generation: slot.generation, of: PhantomData };
        slot.value = Some(make(key));
        self.len += 1;
        Some(key)
    }

    pub(crate) fn remove(&mut self, key: Key<T>) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        self.len -= 1;
        Some(value)
    }

    pub(crate) fn get(&self, key: Key<T>) -> Option<&T> {
        self.slots.get(key.index as usize).filter(|slot| slot.generation == key.generation)?.value.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: Key<T>) -> Option<&mut T> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?.value.as_mut()
    }

    /// The entry at an index, whatever its generation.
    pub(crate) fn key_at(&self, index: u32) -> Option<Key<T>> {
        let slot = self.slots.get(index as usize)?;
        slot.value.as_ref()?;
        Some(Key { index, generation: slot.generation, of: PhantomData })
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Places there are, taken or free.
    pub(crate) const fn slots(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn keys(&self) -> Vec<Key<T>> {
        (0..).zip(&self.slots).filter_map(|(index, _)| self.key_at(index)).collect()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_to_something_removed_finds_nothing() {
        let mut slab = Slab::default();
        let first = slab.insert_with(|_| "first").unwrap();
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert_with(|_| "second").unwrap();
        assert_eq!(second.index(), first.index());
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn a_token_carries_kind_and_key() {
        let mut slab = Slab::default();
        let gone = slab.insert_with(|_| 0).unwrap();
        slab.remove(gone);
        let key = slab.insert_with(|_| 7).unwrap();
        for kind in [TokenKind::Session, TokenKind::Server, TokenKind::Cancel, TokenKind::Listener] {
            assert_eq!(Key::<i32>::from_token(key.token(kind)), (kind, key));
        }
    }
}
