//! What a policy keeps of tenants or lite topics.

use std::hash::{BuildHasherDefault, Hasher};

use indexmap::IndexMap;
use indexmap::map::Entry;
use serde::{Deserialize, Serialize};

/// Something for each id: of a tenant, or of a lite topic.
///
/// Several times faster than a `BTreeMap`, and as exact: the same calls leave it the same on every machine, since the order that it is
/// looked through in does not depend on how ids are hashed. That order is of no meaning, but it is encoded with the rest: what a state
/// holds goes on exactly as it was.
///
/// A policy has 16 MiB, so what it keeps needs a bound: [`sweep`](Self::sweep) forgets what makes no difference any more,
/// [`forget_one`](Self::forget_one) makes room.
///
/// ```
/// use sluicegate_plugin_sdk::ById;
///
/// let mut delivered = ById::new();
/// *delivered.entry(7, || 0_u64) += 1;
/// *delivered.entry(7, || 0_u64) += 1;
/// assert_eq!((delivered.get(7), delivered.get(8)), (Some(&2), None));
///
/// delivered.set(8, 9);
/// delivered.forget_one(32, |count| *count); // of those looked at, the one with the least
/// assert_eq!(delivered.iter().collect::<Vec<_>>(), [(8, &9)]);
/// ```
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ById<T> {
    kept: IndexMap<u64, T, BuildHasherDefault<IdHasher>>,
    /// Where it goes on to be looked through.
    turn: usize,
}

impl<T> ById<T> {
    /// With nothing in it.
    #[must_use]
    pub fn new() -> Self {
        Self { kept: IndexMap::default(), turn: 0 }
    }

    /// With nothing in it, and room for so many ids. What grows to tens of thousands moves all that is in it from time to time, which takes
    /// millions of instructions in the one call that it happens in; room that is not used takes next to no memory.
    #[must_use]
    pub fn with_room(ids: usize) -> Self {
        Self { kept: IndexMap::with_capacity_and_hasher(ids, BuildHasherDefault::default()), turn: 0 }
    }

    /// Ids with something kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether nothing is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether something is kept for this id.
    #[must_use]
    pub fn has(&self, id: u64) -> bool {
        !self.kept.is_empty() && self.kept.contains_key(&id)
    }

    /// What is kept for this id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&T> {
        self.kept.get(&id)
    }

    /// What is kept for this id, to be changed.
    #[must_use]
    pub fn get_mut(&mut self, id: u64) -> Option<&mut T> {
        self.kept.get_mut(&id)
    }

    /// What is kept for this id, after `first` is if there was nothing.
    pub fn entry(&mut self, id: u64, first: impl FnOnce() -> T) -> &mut T {
        match self.kept.entry(id) {
            Entry::Occupied(kept) => kept.into_mut(),
            Entry::Vacant(room) => room.insert(first()),
        }
    }

    /// The place of what is kept for this id, after `first` is if there was nothing. [`at`](Self::at) this place it is at hand for each row
    /// of a frame without a look-up; when something is forgotten, it may be [elsewhere](Self::is_at).
    pub fn place(&mut self, id: u64, first: impl FnOnce() -> T) -> usize {
        match self.kept.entry(id) {
            Entry::Occupied(kept) => kept.index(),
            Entry::Vacant(room) => {
                let place = room.index();
                room.insert(first());
                place
            }
        }
    }

    /// Whether what is kept for this id is in this place.
    #[must_use]
    pub fn is_at(&self, place: usize, id: u64) -> bool {
        self.kept.get_index(place).is_some_and(|(there, _)| *there == id)
    }

    /// What is in this place, to be changed.
    ///
    /// # Panics
    /// If there is nothing in this place any more.
    #[must_use]
    pub fn at(&mut self, place: usize) -> &mut T {
        &mut self.kept[place]
    }

    /// Keeps this for the id, in place of what was.
    pub fn set(&mut self, id: u64, value: T) -> Option<T> {
        self.kept.insert(id, value)
    }

    /// Keeps nothing for the id any more.
    pub fn forget(&mut self, id: u64) -> Option<T> {
        self.kept.swap_remove(&id)
    }

    /// All, to be changed, in the same order as [`iter`](Self::iter).
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.kept.values_mut()
    }

    /// All, in an order of no meaning that is the same after the same calls.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.kept.iter().map(|(id, value)| (*id, value))
    }

    /// Looks at so many, in turn at all, and forgets those of which this is true. After the last it begins anew with the next call.
    pub fn sweep(&mut self, looked_at: usize, mut is_of_no_use: impl FnMut(&T) -> bool) {
        if self.turn >= self.kept.len() {
            self.turn = 0;
            return;
        }
        for _ in 0..looked_at {
            match self.kept.get_index(self.turn) {
                // The last one comes to this place, and is next.
                Some((_, value)) if is_of_no_use(value) => drop(self.kept.swap_remove_index(self.turn)),
                Some(_) => self.turn += 1,
                None => break,
            }
        }
    }

    /// Forgets one of so many that are looked at, in turn of all: the one for which `worth` is least, of equals the first.
    pub fn forget_one<K: Ord>(&mut self, looked_at: usize, worth: impl Fn(&T) -> K) -> Option<(u64, T)> {
        // The last place is that of the newest, or will be.
        if self.turn.saturating_add(1) >= self.kept.len() {
            self.turn = 0;
        }
        let looked_at = self.turn..self.turn.saturating_add(looked_at).min(self.kept.len());
        let least = looked_at.min_by_key(|&place| worth(&self.kept[place]))?;
        self.turn = least + 1;
        self.kept.swap_remove_index(least)
    }
}

impl<T> Default for ById<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> FromIterator<(u64, T)> for ById<T> {
    fn from_iter<I: IntoIterator<Item = (u64, T)>>(pairs: I) -> Self {
        Self { kept: pairs.into_iter().collect(), turn: 0 }
    }
}

/// Ids are a broker's own numbers, mostly one after the other: a multiplication spreads them.
#[derive(Debug, Clone, Copy, Default)]
struct IdHasher(u64);

/// 2^64 over the golden ratio, odd.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn write_u64(&mut self, id: u64) {
        // The upper half depends on every bit of what is multiplied. Where a hash has 32 bits, the lower half is what counts.
        self.0 = (id ^ id >> 32).wrapping_mul(SPREAD).rotate_left(32);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0 ^ u64::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ids: std::ops::Range<u64>) -> ById<u64> {
        ids.map(|id| (id, id)).collect()
    }

    fn ids(by_id: &ById<u64>) -> Vec<u64> {
        by_id.iter().map(|(id, _)| id).collect()
    }

    #[test]
    fn a_sweep_comes_to_all_in_turn() {
        let mut by_id = of(0..10);
        let mut seen = Vec::new();
        for _ in 0..12 {
            by_id.sweep(3, |value| {
                seen.push(*value);
                value % 5 == 0
            });
        }
        assert!((0..10).all(|id| seen.contains(&id)), "{seen:?}");
        assert_eq!(by_id.len(), 8);
        assert!(!by_id.has(0) && !by_id.has(5));
        (0..3).for_each(|_| by_id.sweep(usize::MAX, |_| true));
        assert!(by_id.is_empty());
        by_id.sweep(5, |_| true);
    }

    #[test]
    fn beyond_a_bound_the_oldest_go_first_where_all_are_worth_the_same() {
        let mut by_id = of(0..4);
        for id in 4..12 {
            by_id.forget_one(1, |_| ());
            by_id.set(id, id);
        }
        let mut left = ids(&by_id);
        left.sort_unstable();
        assert_eq!(left, [8, 9, 10, 11]);
    }

    #[test]
    fn of_those_looked_at_the_one_of_least_worth_goes() {
        let mut by_id = of(0..10);
        by_id.forget_one(4, |value| 100 - value);
        assert!(!by_id.has(3));
        by_id.forget_one(100, |value| *value);
        assert!(!by_id.has(4));
        let mut nothing = ById::<u64>::new();
        nothing.forget_one(3, |value| *value);
        assert!(nothing.is_empty());
    }

    #[test]
    fn what_is_kept_stays_in_its_place_until_something_is_forgotten() {
        let mut by_id = of(0..3);
        let places = [by_id.place(2, || 9), by_id.place(7, || 70)];
        *by_id.at(places[0]) += 1;
        *by_id.at(places[1]) += 1;
        assert_eq!((by_id.get(2), by_id.get(7)), (Some(&3), Some(&71)));
        by_id.forget(0);
        assert!(by_id.is_at(places[0], 2) && !by_id.is_at(places[1], 7));
    }

    #[test]
    fn what_was_encoded_goes_on_as_if_it_had_not_been() {
        let mut by_id = of(0..40);
        by_id.sweep(7, |value| value % 3 == 0);
        by_id.forget(20);
        let mut again: ById<u64> = postcard::from_bytes(&postcard::to_allocvec(&by_id).unwrap()).unwrap();
        for id in 50..80 {
            let forgotten = [&mut by_id, &mut again].map(|by_id| {
                by_id.set(id, 80 - id);
                by_id.forget_one(4, |value| *value)
            });
            assert_eq!(forgotten[0], forgotten[1], "{id}");
        }
        assert_eq!(ids(&by_id), ids(&again));
        // A turn that nobody wrote is no place.
        let nonsense =
            postcard::to_allocvec(&(std::collections::BTreeMap::from([(1_u64, 2_u64)]), usize::MAX)).unwrap();
        let mut nonsense: ById<u64> = postcard::from_bytes(&nonsense).unwrap();
        assert_eq!(nonsense.forget_one(1, |value| *value), Some((1, 2)));
    }

    #[test]
    fn numbers_one_after_the_other_and_far_apart_are_spread_alike() {
        for step in [1, 2, 3, 1 << 16, 1 << 32, 1 << 48] {
            let slots = (0..256_u64).map(|number| {
                let mut hasher = IdHasher::default();
                hasher.write_u64(number * step);
                hasher.finish() & 0xff
            });
            let distinct: std::collections::BTreeSet<_> = slots.collect();
            assert!(distinct.len() > 100, "{} of 256 slots with a step of {step}", distinct.len());
        }
    }
}
