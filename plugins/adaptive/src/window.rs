//! What was measured at one number of leases.

use serde::{Deserialize, Serialize};

/// Samples kept; a window with more has the median of its last ones.
pub(crate) const SAMPLES_MAX: usize = 256;

/// Deliveries that began and ended since the last change.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Window {
    samples: Vec<u64>,
    done: u32,
    failed: u32,
    in_flight_max: u32,
}

impl Window {
    pub(crate) fn done(&mut self, latency: u64) {
        match self.samples.len() < SAMPLES_MAX {
            true => self.samples.push(latency),
            false => self.samples[self.done as usize % SAMPLES_MAX] = latency,
        }
        self.done = self.done.saturating_add(1);
    }

    pub(crate) fn failed(&mut self) {
        self.failed = self.failed.saturating_add(1);
    }

    pub(crate) fn saw_in_flight(&mut self, leases: u32) {
        self.in_flight_max = self.in_flight_max.max(leases);
    }

    pub(crate) fn deliveries(&self) -> u32 {
        self.done.saturating_add(self.failed)
    }

    /// More failed than this percentage.
    pub(crate) fn has_failed(&self, max_percent: u32) -> bool {
        u64::from(self.failed) * 100 > u64::from(self.deliveries()) * u64::from(max_percent)
    }

    /// About so many leases were open at some time. A frame comes when a lease has just ended, so one is missing.
    pub(crate) fn has_used(&self, leases: u32) -> bool {
        self.in_flight_max.saturating_add(1 + leases / 4) >= leases
    }

    /// Of those that were done, if any was. Their order is lost.
    pub(crate) fn take_median(&mut self) -> Option<u64> {
        let middle = self.samples.len() / 2;
        (!self.samples.is_empty()).then(|| *self.samples.select_nth_unstable(middle).1)
    }

    pub(crate) fn clear(&mut self) {
        self.samples.clear();
        (self.done, self.failed, self.in_flight_max) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_of_the_last_samples() {
        let mut window = Window::default();
        assert_eq!(window.take_median(), None);
        for latency in [9, 1, 5] {
            window.done(latency);
        }
        assert_eq!(window.take_median(), Some(5));
        window.clear();
        (0..300).for_each(|latency| window.done(latency));
        assert_eq!((window.take_median(), window.deliveries()), (Some(172), 300));
    }

    #[test]
    fn few_leases_are_in_use_when_a_frame_comes_between_them() {
        let mut window = Window::default();
        assert!(window.has_used(1) && !window.has_used(2));
        window.saw_in_flight(5);
        assert!(window.has_used(8) && !window.has_used(9));
    }
}
