//! How long tenants' work takes, in bounded memory.

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{ById, Ewma};

/// Averages kept; their encoded state stays below 1 MiB.
const AVERAGES_MAX: usize = 16_384;
/// Averages looked at for the oldest when there is no room.
const LOOKED_AT: usize = 32;
/// A new measurement makes up one part in so many of an average.
const ONE_IN: u64 = 8;
/// An average without a measurement for this long refuses nobody.
const TRUSTED_FOR_US: u64 = 60_000_000;

/// What a tenant's work takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Average {
    service_us: Ewma,
    /// When it was last measured, or a head was let through in order to be.
    at_us: u64,
    /// A head was let through since: what is measured next replaces it.
    is_stale: bool,
}

impl Average {
    /// What is taken for granted.
    pub(crate) const fn granted(service_us: u64) -> Self {
        Self { service_us: Ewma::of(service_us), at_us: u64::MAX, is_stale: false }
    }

    /// How long it takes, in microseconds.
    pub(crate) const fn service_us(self) -> u64 {
        self.service_us.average()
    }

    pub(crate) fn is_old(self, now_us: u64) -> bool {
        now_us.saturating_sub(self.at_us) > TRUSTED_FOR_US
    }

    /// The next late head waits for what comes of this one.
    pub(crate) fn let_through(&mut self, now_us: u64) {
        (self.at_us, self.is_stale) = (now_us, true);
    }

    pub(crate) fn was_let_through(self, now_us: u64) -> bool {
        self.is_stale && self.at_us == now_us
    }
}

/// The averages by tenant.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct ServiceTimes {
    by_tenant: ById<Average>,
}

impl ServiceTimes {
    pub(crate) fn of(&self, tenant: u64) -> Option<Average> {
        self.by_tenant.get(tenant).copied()
    }

    /// Counts a delivery that was done.
    pub(crate) fn measured(&mut self, tenant: u64, service_us: u64, at_us: u64) {
        if let Some(average) = self.by_tenant.get_mut(tenant) {
            average.at_us = average.at_us.max(at_us);
            match std::mem::take(&mut average.is_stale) {
                true => average.service_us = Ewma::of(service_us),
                false => average.service_us.add(service_us, ONE_IN),
            }
            return;
        }
        if self.by_tenant.len() >= AVERAGES_MAX {
            self.by_tenant.forget_one(LOOKED_AT, |average| average.at_us);
        }
        self.by_tenant.set(tenant, Average { at_us, ..Average::granted(service_us) });
    }

    /// Keeps that a head of the tenant was let through.
    pub(crate) fn let_through(&mut self, tenant: u64, now_us: u64) {
        if let Some(average) = self.by_tenant.get_mut(tenant) {
            average.let_through(now_us);
        }
    }

    /// Whether there are more than one instance keeps.
    pub(crate) fn are_too_many(&self) -> bool {
        self.by_tenant.len() > AVERAGES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_counts_an_eighth() {
        let mut times = ServiceTimes::default();
        times.measured(1, 800, 0);
        times.measured(1, 1_600, 0);
        assert_eq!(times.of(1).unwrap().service_us(), 900);
        times.measured(1, u64::MAX, 0);
        times.measured(1, 0, 0);
        assert_eq!(times.of(2), None);
    }

    #[test]
    fn beyond_the_bound_those_measured_longest_ago_go() {
        let mut times = ServiceTimes::default();
        (0..20_000).for_each(|tenant| times.measured(tenant, 1, if tenant % 2 == 0 { 1 } else { 1_000 }));
        assert_eq!(times.by_tenant.len(), 16_384);
        assert!(times.by_tenant.iter().filter(|(tenant, _)| tenant % 2 == 1).count() > 9_000);
        assert!(times.of(19_999).is_some());
    }
}
