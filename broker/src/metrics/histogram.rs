//! Histograms of durations with fixed bounds: one for an owner, one for a thread that others look at.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::micros;

/// Upper bounds of buckets: from a sync of the disk to an agent's task. One bucket more has no bound.
const BOUNDS_US: [u64; 19] = [
    100,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    1_800_000_000,
];
const BUCKETS: usize = BOUNDS_US.len() + 1;

/// Durations, counted by bucket.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Histogram {
    buckets: [u64; BUCKETS],
    sum_us: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        let us = micros(duration);
        self.buckets[bucket(us)] += 1;
        self.sum_us = self.sum_us.saturating_add(us);
    }

    pub(super) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Upper bound in seconds, and how many were in that bucket alone.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_US.iter().map(|&us| us as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.buckets).collect()
    }
}

/// A histogram that one thread fills while others read it.
#[derive(Debug, Default)]
pub(crate) struct SharedHistogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

impl SharedHistogram {
    pub(crate) fn record(&self, duration: Duration) {
        let us = micros(duration);
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// As it is about now: a duration that is being recorded may be in one part and not yet in the other.
    pub(super) fn read(&self) -> Histogram {
        let buckets = std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed));
        Histogram { buckets, sum_us: self.sum_us.load(Ordering::Relaxed) }
    }
}

fn bucket(us: u64) -> usize {
    BOUNDS_US.partition_point(|&bound| bound < us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_in_the_first_bucket_that_holds_it() {
        let (mut owned, shared) = (Histogram::default(), SharedHistogram::default());
        for duration in
            [Duration::ZERO, Duration::from_micros(100), Duration::from_micros(101), Duration::from_hours(1)]
        {
            owned.record(duration);
            shared.record(duration);
        }
        let filled: Vec<_> = owned.buckets().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.000_1, 2), (0.000_5, 1), (f64::INFINITY, 1)]);
        assert_eq!((owned.count(), shared.read().buckets()), (4, owned.buckets()));
        assert!((owned.sum_seconds() - 3_600.000_201).abs() < 1e-9);
    }
}
