//! The group that works.

use std::time::Duration;

use sluicegate_protocol::admin::{BackOff, GroupSettings};

use crate::{Concurrency, Quotas};

/// A consumer group, and who works in it.
///
/// ```
/// use sluicegate_protocol::admin::GroupSettings;
/// use sluicegate_scheduler::simulation::Group;
///
/// let mut settings = GroupSettings::default();
/// settings.quotas.cost = Some("90000/min".parse().unwrap());
/// let group = Group { settings, sessions: 4, slots: 8, ..Group::default() };
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its settings. Quotas, concurrency, attempts, back-off and the watchdog count here, the others do not.
    pub settings: GroupSettings,
    /// Consumers, all there from the start to the end; default 1. Each takes all lite topics.
    pub sessions: u32,
    /// Messages that each of them works on at once; default 10. Its load is the part of them that is in work.
    pub slots: u32,
    /// Decides the seeds that a policy sees; default 0.
    pub seed: u64,
}

impl Default for Group {
    fn default() -> Self {
        Self { settings: GroupSettings::default(), sessions: 1, slots: 10, seed: 0 }
    }
}

impl Group {
    pub(super) fn concurrency(&self) -> Concurrency {
        let settings = self.settings.concurrency;
        let (group, tenant) = (settings.group.unwrap_or(u32::MAX), settings.tenant.unwrap_or(u32::MAX));
        Concurrency { group, tenant, lite: settings.lite_topic }
    }

    pub(super) fn quotas(&self) -> Quotas {
        Quotas { messages: self.settings.quotas.messages, cost: self.settings.quotas.cost }
    }

    /// Leases that may be open at once.
    pub(super) fn capacity(&self) -> u64 {
        (u64::from(self.sessions) * u64::from(self.slots)).min(self.concurrency().group.into())
    }

    /// The delay after so many failed attempts.
    pub(super) fn back_off(&self, attempts: u32) -> Duration {
        let GroupSettings { retry_back_off, retry_initial_ms, retry_max_ms, .. } = self.settings;
        let doubled = retry_initial_ms.saturating_mul(1 << attempts.saturating_sub(1).min(40)).min(retry_max_ms);
        Duration::from_millis(match retry_back_off {
            BackOff::Fixed => retry_initial_ms,
            BackOff::Exponential => doubled,
        })
    }
}
