//! Rows in chunks, named by small keys that cost four bytes also when optional.
//!
//! Chunks never move, so growth has no spike; a chunk whose last row goes gives its memory back.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

/// Rows of one chunk.
const CHUNK: usize = 1_024;

/// Names a row of a [`Slab`] while the row exists; the number is used again afterwards.
pub(crate) struct Key<T>(NonZeroU32, PhantomData<fn() -> T>);

/// Rows with stable keys. New rows fill one chunk, then the lowest one with room, so that a population that shrinks
/// empties the rest.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// The chunk that new rows go to, while it has room.
    filling: u32,
    /// Other chunks with a free slot.
    with_room: BTreeSet<u32>,
}

#[derive(Debug)]
struct Chunk<T> {
    /// Empty while no row is here.
    slots: Vec<Option<T>>,
    free: Vec<u16>,
    used: u16,
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, row: T) -> Key<T> {
        if self.chunks.get(self.filling as usize).is_none_or(|chunk| usize::from(chunk.used) == CHUNK) {
            self.filling = self.with_room.pop_first().unwrap_or_else(|| self.add_chunk());
        }
        let number = self.filling as usize;
        let chunk = &mut self.chunks[number];
        chunk.used += 1;
        let slot = if let Some(slot) = chunk.free.pop() {
            chunk.slots[usize::from(slot)] = Some(row);
            usize::from(slot)
        } else {
            if chunk.slots.is_empty() {
                chunk.slots.reserve_exact(CHUNK);
            }
            chunk.slots.push(Some(row));
            chunk.slots.len() - 1
        };
        Key::new(number * CHUNK + slot)
    }

    pub(crate) fn remove(&mut self, key: Key<T>) -> T {
        let (number, slot) = key.place();
        let chunk = &mut self.chunks[number];
        let row = chunk.slots[slot].take().expect("a key is dropped with its row");
        if usize::from(chunk.used) == CHUNK && number != self.filling as usize {
            self.with_room.insert(u32::try_from(number).expect("keys have 32 bits"));
        }
        chunk.used -= 1;
        if chunk.used == 0 {
            (chunk.slots, chunk.free) = (Vec::new(), Vec::new());
        } else {
            chunk.free.push(u16::try_from(slot).expect("a chunk has few slots"));
        }
        row
    }

    fn add_chunk(&mut self) -> u32 {
        let number = u32::try_from(self.chunks.len()).expect("keys have 32 bits");
        self.chunks.push(Chunk { slots: Vec::new(), free: Vec::new(), used: 0 });
        number
    }

    /// The rows in so many slots from slot `from` on, and the slot after them if there are more.
    pub(crate) fn page(&self, from: usize, slots: usize) -> (impl Iterator<Item = (Key<T>, &T)>, Option<usize>) {
        let all = self.chunks.len() * CHUNK;
        let end = from.saturating_add(slots).min(all);
        let row =
            |slot: usize| self.chunks[slot / CHUNK].slots.get(slot % CHUNK)?.as_ref().map(|row| (Key::new(slot), row));
        ((from..end).filter_map(row), (end < all).then_some(end))
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        self.chunks.iter().enumerate().flat_map(|(number, chunk)| {
            chunk
                .slots
                .iter()
                .enumerate()
                .filter_map(move |(slot, row)| row.as_ref().map(|row| (Key::new(number * CHUNK + slot), row)))
        })
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), filling: 0, with_room: BTreeSet::new() }
    }
}

impl<T> Index<Key<T>> for Slab<T> {
    type Output = T;

    fn index(&self, key: Key<T>) -> &T {
        let (number, slot) = key.place();
        self.chunks[number].slots[slot].as_ref().expect("a key is dropped with its row")
    }
}

impl<T> IndexMut<Key<T>> for Slab<T> {
    fn index_mut(&mut self, key: Key<T>) -> &mut T {
        let (number, slot) = key.place();
        self.chunks[number].slots[slot].as_mut().expect("a key is dropped with its row")
    }
}

impl<T> Key<T> {
    fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer than 2^32 rows fit in memory"), PhantomData)
    }

    /// From 0, close to 0 while there are few rows.
    pub(crate) fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    fn place(self) -> (usize, usize) {
        (self.index() / CHUNK, self.index() % CHUNK)
    }
}

// Derives would ask the same of `T`, which a key does not hold.
impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> PartialEq for Key<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Key<T> {}

impl<T> Hash for Key<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T> PartialOrd for Key<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Key<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_keep_their_keys_and_slots_are_used_again() {
        let mut slab = Slab::default();
        let keys: Vec<_> = (0..5_000).map(|row| slab.insert(row)).collect();
        assert!(keys.iter().enumerate().all(|(row, &key)| slab[key] == row));
        assert_eq!(slab.remove(keys[4_500]), 4_500);
        let again = slab.insert(70_000);
        assert_eq!((again, slab[again]), (keys[4_500], 70_000));
        assert_eq!(slab.iter().count(), 5_000);
    }

    #[test]
    fn a_chunk_without_rows_holds_no_memory_and_is_filled_again() {
        let mut slab = Slab::default();
        let keys: Vec<_> = (0..3 * CHUNK).map(|row| slab.insert(row)).collect();
        for &key in &keys[CHUNK..2 * CHUNK] {
            slab.remove(key);
        }
        assert_eq!(slab.chunks[1].slots.capacity(), 0);
        assert_eq!(slab.insert(1), Key::new(CHUNK));
        assert_eq!(slab.iter().count(), 2 * CHUNK + 1);
        assert_eq!(slab.chunks.len(), 3);
    }
}
