//! Who waits because what does the work asked to be left alone.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Longest wait that is taken at its word.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// Tenants that wait at once.
const TENANTS_MAX: usize = 4_096;

/// Until when the group and tenants wait.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pauses {
    group_until_us: u64,
    tenants_until_us: BTreeMap<u64, u64>,
}

impl Pauses {
    pub(crate) fn pause_group(&mut self, wait: Duration, now_us: u64) {
        self.group_until_us = self.group_until_us.max(end(wait, now_us));
    }

    /// Beyond the bound the wait that ends first is forgotten.
    pub(crate) fn pause_tenant(&mut self, tenant: u64, wait: Duration, now_us: u64) {
        let until_us = self.tenants_until_us.entry(tenant).or_default();
        *until_us = end(wait, now_us).max(*until_us);
        if self.tenants_until_us.len() <= TENANTS_MAX {
            return;
        }
        self.tenants_until_us.retain(|_, until_us| *until_us > now_us);
        if self.tenants_until_us.len() > TENANTS_MAX {
            let first = self.tenants_until_us.iter().min_by_key(|(_, until_us)| **until_us).map(|(tenant, _)| *tenant);
            self.tenants_until_us.remove(&first.expect("it is longer than its bound"));
        }
    }

    /// When the group's wait is over, or was.
    pub(crate) fn group_until_us(&self) -> u64 {
        self.group_until_us
    }

    /// How long the group still waits, if it does.
    pub(crate) fn of_group(&self, now_us: u64) -> Option<Duration> {
        left(self.group_until_us, now_us)
    }

    /// How long the tenant still waits, if it does. A wait that is over is forgotten.
    pub(crate) fn of_tenant(&mut self, tenant: u64, now_us: u64) -> Option<Duration> {
        if self.tenants_until_us.is_empty() {
            return None;
        }
        let left = left(*self.tenants_until_us.get(&tenant)?, now_us);
        if left.is_none() {
            self.tenants_until_us.remove(&tenant);
        }
        left
    }
}

fn end(wait: Duration, now_us: u64) -> u64 {
    now_us.saturating_add(u64::try_from(wait.min(PAUSE_MAX).as_micros()).expect("an hour"))
}

fn left(until_us: u64, now_us: u64) -> Option<Duration> {
    until_us.checked_sub(now_us).filter(|left_us| *left_us > 0).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wait_counts_and_none_is_longer_than_an_hour() {
        let mut pauses = Pauses::default();
        pauses.pause_group(Duration::from_secs(10), 0);
        pauses.pause_group(Duration::from_secs(5), 0);
        assert_eq!(pauses.of_group(1_000_000), Some(Duration::from_secs(9)));
        assert_eq!(pauses.of_group(10_000_000), None);
        pauses.pause_group(Duration::MAX, 0);
        assert_eq!(pauses.of_group(0), Some(PAUSE_MAX));
    }

    #[test]
    fn beyond_the_bound_the_wait_that_ends_first_is_forgotten() {
        let mut pauses = Pauses::default();
        (0..=TENANTS_MAX as u64).for_each(|tenant| pauses.pause_tenant(tenant, Duration::from_secs(9_999 - tenant), 0));
        assert_eq!(pauses.tenants_until_us.len(), TENANTS_MAX);
        assert_eq!(pauses.of_tenant(TENANTS_MAX as u64 + 1, 0), None);
        pauses.pause_tenant(9_999, Duration::from_secs(1), 1 << 40);
        assert_eq!(pauses.tenants_until_us.len(), 1);
        assert_eq!(pauses.of_tenant(9_999, 1 << 41), None);
        assert!(pauses.tenants_until_us.is_empty());
    }
}
