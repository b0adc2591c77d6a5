//! Who got how much, for policies that share by keys of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Parts of a cost unit, so that a large weight still tells cheap messages apart.
const PER_UNIT: u128 = 1 << 20;

/// A virtual counter per key: what the key got, over its weight. Who has the lowest is next.
///
/// A key that had nothing to do for a while is lifted to the lowest of the others when it comes back, so that nobody saves up
/// a claim by being idle; a key that got more than others and then rests does not lose its debt by that. These are the
/// virtual counters of "Fairness in Serving Large Language Models" (OSDI 2024).
///
/// The broker shares among tenants by itself: this is for sharing among users of one tenant, models, or the like.
///
/// Integers only. At most so many keys are kept; beyond that the least served is forgotten, and starts at the lowest when it
/// comes back. It serialises, so a policy's state may hold it.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::FairCounters;
///
/// let mut served = FairCounters::new(1_000, Duration::from_secs(5));
/// served.seen(1, 0);
/// served.seen(2, 0);
/// served.charge(1, 300, 1);
/// served.charge(2, 300, 3);
/// assert_eq!((served.lead(1), served.lead(2)), (200, 0)); // 300 / 1 and 300 / 3
///
/// served.seen(3, 0); // new: at the lowest, not at zero
/// assert_eq!(served.lead(3), 0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct FairCounters {
    keys_max: usize,
    idle_after_us: u64,
    by_key: BTreeMap<u64, Counter>,
    /// The same counters, lowest first.
    order: BTreeSet<(u128, u64)>,
    /// No counter that is lifted starts below.
    floor: u128,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Counter {
    units: u128,
    seen_us: u64,
}

/// What is serialised.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    keys_max: usize,
    idle_after_us: u64,
    floor: u128,
    by_key: BTreeMap<u64, Counter>,
}

impl FairCounters {
    /// Without keys; at most so many, at least 1. A key is idle when it was not [seen](Self::seen) for this long.
    #[must_use]
    pub fn new(keys_max: usize, idle_after: Duration) -> Self {
        let idle_after_us = u64::try_from(idle_after.as_micros()).unwrap_or(u64::MAX);
        let (by_key, order) = (BTreeMap::new(), BTreeSet::new());
        Self { keys_max: keys_max.max(1), idle_after_us, by_key, order, floor: 0 }
    }

    /// The key has something to do. To be called for each key of a frame, before any is charged.
    pub fn seen(&mut self, key: u64, now_us: u64) {
        self.raise_floor(now_us);
        let before = self.by_key.get(&key).copied();
        let is_idle = before.is_none_or(|counter| self.is_idle(counter, now_us));
        let units = before.map_or(0, |counter| counter.units);
        let units = if is_idle { units.max(self.floor) } else { units };
        if before.is_none() {
            self.make_room();
        }
        let seen_us = before.map_or(now_us, |counter| counter.seen_us.max(now_us));
        self.set(key, Counter { units, seen_us });
    }

    /// The key got something: an estimate when it is served, or what was measured when it is done. A weight of 0 counts as 1. A key that
    /// was never seen, or is forgotten, starts at the lowest.
    pub fn charge(&mut self, key: u64, cost: u64, weight: u32) {
        let before = self.by_key.get(&key).copied();
        if before.is_none() {
            self.make_room();
        }
        let counter = before.unwrap_or(Counter { units: self.floor, seen_us: 0 });
        let units = counter.units.saturating_add(u128::from(cost) * PER_UNIT / u128::from(weight.max(1)));
        self.set(key, Counter { units, ..counter });
    }

    /// By how much the key is ahead of the lowest, in cost units over weight, rounded down; 0 for a key that is not known.
    #[must_use]
    pub fn lead(&self, key: u64) -> u64 {
        let lowest = self.order.first().map_or(self.floor, |&(units, _)| units).max(self.floor);
        let units = self.by_key.get(&key).map_or(0, |counter| counter.units);
        u64::try_from(units.saturating_sub(lowest) / PER_UNIT).unwrap_or(u64::MAX)
    }

    /// Keys that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether no key is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// Brings the floor to the lowest counter that is not idle. Those below it would be lifted when they come back, so nothing is lost with
    /// them.
    fn raise_floor(&mut self, now_us: u64) {
        while let Some(&(units, key)) = self.order.first() {
            self.floor = self.floor.max(units);
            if !self.is_idle(self.by_key[&key], now_us) {
                return;
            }
            self.forget_first();
        }
    }

    fn is_idle(&self, counter: Counter, now_us: u64) -> bool {
        now_us.saturating_sub(counter.seen_us) > self.idle_after_us
    }

    /// For one more key. A state that was decoded may have more keys than its bound, or a bound of 0.
    fn make_room(&mut self) {
        while self.by_key.len() >= self.keys_max.max(1) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.order.pop_first() {
            self.by_key.remove(&key);
        }
    }

    fn set(&mut self, key: u64, counter: Counter) {
        if let Some(before) = self.by_key.insert(key, counter) {
            self.order.remove(&(before.units, key));
        }
        self.order.insert((counter.units, key));
    }
}

impl From<Kept> for FairCounters {
    fn from(Kept { keys_max, idle_after_us, floor, by_key }: Kept) -> Self {
        let order = by_key.iter().map(|(&key, counter)| (counter.units, key)).collect();
        Self { keys_max, idle_after_us, by_key, order, floor }
    }
}

impl From<FairCounters> for Kept {
    fn from(counters: FairCounters) -> Self {
        let FairCounters { keys_max, idle_after_us, by_key, floor, .. } = counters;
        Self { keys_max, idle_after_us, floor, by_key }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn counters() -> FairCounters {
        FairCounters::new(100, Duration::from_secs(5))
    }

    #[test]
    fn who_is_lowest_is_served_by_weight() {
        let mut counters = counters();
        let mut got = [0u64; 3];
        for _ in 0..6_000 {
            for key in 0..3 {
                counters.seen(key, 0);
            }
            let next = (0..3).min_by_key(|&key| counters.by_key[&key].units).unwrap();
            counters.charge(next, 7, u32::try_from(next).unwrap() + 1);
            got[usize::try_from(next).unwrap()] += 1;
        }
        assert!(got.iter().zip([1_000, 2_000, 3_000]).all(|(&got, due)| got.abs_diff(due) <= 1), "{got:?}");
    }

    #[test]
    fn idleness_saves_nothing_up() {
        let mut counters = counters();
        counters.seen(1, 0);
        for second in 0..100 {
            counters.seen(2, second * SECOND);
            counters.charge(2, 10, 1);
        }
        counters.seen(1, 100 * SECOND);
        assert_eq!((counters.lead(1), counters.lead(2)), (0, 0));
    }

    #[test]
    fn a_pause_shorter_than_idleness_keeps_the_claim() {
        let mut counters = counters();
        counters.seen(1, 0);
        counters.seen(2, 0);
        counters.charge(2, 10, 1);
        counters.seen(1, 5 * SECOND);
        assert_eq!((counters.lead(1), counters.lead(2)), (0, 10));
    }

    #[test]
    fn a_rest_does_not_forgive_what_was_got_before() {
        let mut counters = counters();
        counters.seen(1, 0);
        counters.seen(2, 0);
        counters.charge(2, 1_000, 1);
        for second in 0..60 {
            counters.seen(1, second * SECOND);
            counters.charge(1, 10, 1);
        }
        counters.seen(2, 60 * SECOND);
        assert_eq!(counters.lead(2), 400);
    }

    #[test]
    fn after_everybody_was_idle_all_start_alike() {
        let mut counters = counters();
        counters.seen(1, 0);
        counters.charge(1, 1_000, 1);
        counters.seen(2, 60 * SECOND);
        counters.seen(1, 60 * SECOND);
        assert_eq!((counters.lead(1), counters.lead(2)), (0, 0));
    }

    #[test]
    fn there_are_never_more_keys_than_allowed() {
        let mut counters = counters();
        for key in 0..1_000 {
            counters.seen(key, 0);
            counters.charge(key, key, 1);
            counters.charge(key + 5_000, 1, 0);
        }
        assert_eq!((counters.len(), counters.order.len()), (100, 100));
    }

    #[test]
    fn a_decoded_state_beyond_its_bound_comes_back_to_it() {
        for (bound, kept) in [(10, 10), (0, 1)] {
            let mut counters = counters();
            (0..50).for_each(|key| counters.seen(key, 0));
            counters.keys_max = bound;
            let bytes = postcard::to_allocvec(&counters).unwrap();
            let mut decoded: FairCounters = postcard::from_bytes(&bytes).unwrap();
            decoded.seen(99, 0);
            decoded.charge(100, 1, 1);
            assert_eq!((decoded.len(), decoded.order.len()), (kept, kept));
        }
    }

    #[test]
    fn a_state_goes_on_where_it_was() {
        let mut counters = counters();
        counters.seen(1, 0);
        counters.seen(2, 0);
        counters.charge(1, u64::MAX, 10_000);
        let bytes = postcard::to_allocvec(&counters).unwrap();
        assert_eq!(postcard::from_bytes::<FairCounters>(&bytes).unwrap(), counters);
    }
}
