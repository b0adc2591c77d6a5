//! Rows in one vector, named by small keys that cost four bytes also when optional.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::ops::{Index, IndexMut};

/// Names a row of a [`Slab`] while the row exists; the number is used again afterwards.
pub(crate) struct Key<T>(NonZeroU32, PhantomData<fn() -> T>);

/// Rows with stable keys. A freed slot serves the next row, so a steady population allocates nothing.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<Key<T>>,
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, row: T) -> Key<T> {
        if let Some(key) = self.free.pop() {
            self.slots[key.index()] = Some(row);
            return key;
        }
        self.slots.push(Some(row));
        let number = u32::try_from(self.slots.len()).ok().and_then(NonZeroU32::new);
        Key(number.expect("fewer than 2^32 rows fit in memory"), PhantomData)
    }

    pub(crate) fn remove(&mut self, key: Key<T>) -> T {
        let row = self.slots[key.index()].take().expect("a key is dropped with its row");
        self.free.push(key);
        row
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key<T>, &T)> {
        (1u32..).zip(&self.slots).filter_map(|(number, slot)| {
            let key = Key(NonZeroU32::new(number).unwrap(), PhantomData);
            slot.as_ref().map(|row| (key, row))
        })
    }
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Index<Key<T>> for Slab<T> {
    type Output = T;

    fn index(&self, key: Key<T>) -> &T {
        self.slots[key.index()].as_ref().expect("a key is dropped with its row")
    }
}

impl<T> IndexMut<Key<T>> for Slab<T> {
    fn index_mut(&mut self, key: Key<T>) -> &mut T {
        self.slots[key.index()].as_mut().expect("a key is dropped with its row")
    }
}

impl<T> Key<T> {
    fn index(self) -> usize {
        self.0.get() as usize - 1
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
