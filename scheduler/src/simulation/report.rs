//! What a run came to.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, TenantId};

use super::digest::Digest;
use super::meter::QuotaUse;
use super::readiness::Starvation;
use super::series::Sample;
use crate::WorkResult;

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// How long it was, in virtual time.
    pub span: Duration,
    /// Every tenant that published.
    pub tenants: BTreeMap<TenantId, TenantReport>,
    /// Every delivery, in their order.
    pub deliveries: Vec<Delivery>,
    /// Tenants second by second, in the order of time. A second in which a tenant is as it was in the one before has none.
    pub samples: Vec<Sample>,
    /// Questions to the policy.
    pub asks: u64,
    /// Those that it did not answer as it must. Built-in fair scheduling did.
    pub faults: u64,
    /// What was wrong with the first of them.
    pub first_fault: Option<String>,
    /// The worst of the lite topics that waited although nothing stood in its way; none if there was no such wait.
    pub starvation: Option<Starvation>,
    /// The greatest of all [`crate::Scheduler::service_gap`]s: cost / weight in cost units, within a band.
    pub service_gap_max: u64,
    /// What it took of the quota in messages, if there is one.
    pub messages_quota: Option<QuotaUse>,
    /// What it took of the quota in cost units, if there is one.
    pub cost_quota: Option<QuotaUse>,
    /// How much of all slots was in work, 0 to 1.
    pub utilisation: f64,
    /// Of all decisions.
    pub digest: Digest,
}

/// What a tenant had of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantReport {
    /// How many of its messages met what.
    pub counts: Counts,
    /// From publish to first delivery. Of those that still wait, so far: they wait at least that long; of those that were never delivered
    /// (expired, dropped, dead-lettered by the policy), until that.
    pub waits: Waits,
    /// What its deliveries turned out to cost.
    pub cost: u64,
    /// Its part of what all deliveries cost, 0 to 1.
    pub share: f64,
    /// What it got over what it was due by its weight, in those seconds in which it and others always had something that could run; none
    /// if there was no such second. 1 is fair. Priorities count as unfair.
    pub fair_ratio: Option<f64>,
}

/// How many messages, deliveries or verdicts there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages published.
    pub published: u64,
    /// Deliveries, retries included.
    pub delivered: u64,
    /// Messages done.
    pub done: u64,
    /// Attempts that failed and were tried again.
    pub retried: u64,
    /// Messages dead-lettered: by the policy, or after their last attempt.
    pub dead_lettered: u64,
    /// Messages that the policy dropped.
    pub dropped: u64,
    /// Messages whose time was over before they were delivered.
    pub expired: u64,
    /// Verdicts of the policy to throttle.
    pub throttled: u64,
    /// Verdicts of the policy to suspend.
    pub suspended: u64,
    /// Messages that wait at the end.
    pub waiting: u64,
}

/// One delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Whose.
    pub tenant: TenantId,
    /// Of which lite topic.
    pub lite: LiteId,
    /// Which message in it.
    pub offset: Offset,
    /// From 1.
    pub attempt: u32,
    /// The band that it was served from.
    pub band: u8,
    /// Its estimated cost.
    pub cost: u64,
    /// What it turns out to cost.
    pub measured: u64,
    /// Since the start.
    pub published_at: Duration,
    /// Since the start.
    pub delivered_at: Duration,
    /// Since the start, and what came of it; none if it is in work at the end.
    pub ended: Option<(Duration, WorkResult)>,
}

impl Delivery {
    /// From publish to this delivery.
    pub fn wait(&self) -> Duration {
        self.delivered_at.saturating_sub(self.published_at)
    }

    /// From delivery to settle, if it was settled.
    pub fn service(&self) -> Option<Duration> {
        self.ended.map(|(at, _)| at.saturating_sub(self.delivered_at))
    }
}

/// Waits, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Waits(Vec<Duration>);

impl Waits {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them, the shortest first.
    pub fn iter(&self) -> impl Iterator<Item = Duration> + '_ {
        self.0.iter().copied()
    }

    /// The wait that so many of a thousand do not exceed; zero without any.
    ///
    /// ```
    /// use std::time::Duration;
    /// use sluicegate_scheduler::simulation::Waits;
    /// let waits: Waits = (1..=1_000).map(Duration::from_millis).collect();
    /// assert_eq!([waits.quantile(500), waits.quantile(990), waits.max()], [500, 990, 1_000].map(Duration::from_millis));
    /// ```
    pub fn quantile(&self, of_1000: usize) -> Duration {
        let rank = (self.0.len() * of_1000).div_ceil(1_000).max(1);
        self.0.get(rank - 1).copied().unwrap_or_else(|| self.max())
    }

    /// The longest; zero without any.
    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl FromIterator<Duration> for Waits {
    fn from_iter<I: IntoIterator<Item = Duration>>(waits: I) -> Self {
        let mut waits: Vec<Duration> = waits.into_iter().collect();
        waits.sort_unstable();
        Self(waits)
    }
}

impl Report {
    /// Of all tenants together.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for tenant in self.tenants.values() {
            all += tenant.counts;
        }
        all
    }

    /// Jain's index over the [`TenantReport::fair_ratio`]s: 1 if all got what they were due, 1 / n if one of n got everything. 1 if
    /// nobody competed.
    pub fn fairness(&self) -> f64 {
        let ratios: Vec<f64> = self.tenants.values().filter_map(|tenant| tenant.fair_ratio).collect();
        let (sum, squares) =
            ratios.iter().fold((0.0, 0.0), |(sum, squares), ratio| (sum + ratio, squares + ratio * ratio));
        if squares > 0.0 { sum * sum / (ratios.len() as f64 * squares) } else { 1.0 }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.published += other.published;
        self.delivered += other.delivered;
        self.done += other.done;
        self.retried += other.retried;
        self.dead_lettered += other.dead_lettered;
        self.dropped += other.dropped;
        self.expired += other.expired;
        self.throttled += other.throttled;
        self.suspended += other.suspended;
        self.waiting += other.waiting;
    }
}
