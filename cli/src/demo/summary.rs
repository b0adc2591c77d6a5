//! What a run comes to: the numbers of `--json`, the table and the report.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use sluicegate_protocol::Timestamp;

use super::audit::Audit;
use super::ledger::{Delivery, Ledger, Outcome};
use super::workload::{Class, Plan, PolicyLimits};

/// Longest wait that is told apart.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// A run in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Summary {
    /// Acknowledged publishes.
    pub(crate) published: u64,
    /// Deliveries, repeated ones too.
    pub(crate) delivered: u64,
    /// Messages that a worker acknowledged.
    pub(crate) acked: u64,
    /// Published, never acknowledged by a worker.
    pub(crate) lost: u64,
    /// Delivered again without cause.
    pub(crate) duplicated: u64,
    /// Dispatched out of order.
    pub(crate) order_violations: u64,
    /// Windows of a second with more than burst and rate.
    pub(crate) quota_violations: u64,
    /// Seconds in which the cost quota bound.
    pub(crate) quota_bound_seconds: u64,
    /// Seconds from the first arrival to the last dispatch.
    pub(crate) run_seconds: u64,
    /// Messages that cost less than was reserved.
    pub(crate) refunds: u64,
    /// Messages that cost more.
    pub(crate) debts: u64,
    /// The change of policy.
    pub(crate) swap: Swap,
    /// Per tenant class.
    pub(crate) classes: Vec<ClassSummary>,
    /// The first claim that does not hold, if any.
    pub(crate) violation: Option<String>,
}

/// The change of policy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Swap {
    /// Since the first arrival.
    pub(crate) at_ms: u64,
    /// Longest time without a dispatch around it, while somebody waited.
    pub(crate) gap_ms: f64,
}

/// A tenant class.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ClassSummary {
    /// Its name.
    pub(crate) name: &'static str,
    /// Tenants in it.
    pub(crate) tenants: u64,
    /// Messages that were acknowledged.
    pub(crate) messages: u64,
    /// Their measured cost.
    pub(crate) cost: u64,
    /// Messages that came to the head of their lite topic when the policy's bucket could not pay for them, replayed from
    /// the records.
    pub(crate) throttled: u64,
    /// From arrival to first dispatch.
    pub(crate) wait_ms: Waits,
}

/// Waits before and after the swap. A message that waited across it counts for neither.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Waits {
    /// Of messages dispatched before it.
    pub(crate) before: Percentiles,
    /// Of messages that arrived after it.
    pub(crate) after: Percentiles,
}

/// Percentiles in milliseconds; zero if there was no message.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    /// The median.
    pub(crate) p50: f64,
    /// What 1 in 10 exceeds.
    pub(crate) p90: f64,
    /// What 1 in 100 exceeds.
    pub(crate) p99: f64,
}

impl Percentiles {
    /// Of some waits; none if there is none.
    pub(crate) fn of(waits: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let max = u64::try_from(WAIT_MAX.as_micros()).expect("an hour in microseconds fits");
        let mut histogram = Histogram::<u64>::new_with_bounds(1, max, 3).expect("the bounds are in order");
        for wait in waits {
            histogram.saturating_record(u64::try_from(wait.as_micros()).unwrap_or(max).max(1));
        }
        let millis = |quantile| histogram.value_at_quantile(quantile) as f64 / 1_000.0;
        (!histogram.is_empty()).then(|| Self { p50: millis(0.5), p90: millis(0.9), p99: millis(0.99) })
    }
}

impl Summary {
    /// Sums up a run that was audited. The last claim is judged here: light users wait less after the swap.
    ///
    /// It is judged by the 90th percentile: a machine that stands still for a fifth of a second makes the 99th of a run
    /// of 20 seconds what the stall was, whatever the policy does.
    pub(crate) fn new(plan: &Plan, ledger: &Ledger, swap_at: Timestamp, audit: &Audit) -> Self {
        let classes: Vec<_> = Class::ALL.map(|class| class_summary(class, plan, ledger, swap_at)).into();
        let light = classes.last().expect("there are three classes").wait_ms;
        let slower = (light.after.p90 >= light.before.p90).then(|| {
            format!(
                "light users' p90 wait is {:.1} ms after the swap and was {:.1} ms before",
                light.after.p90, light.before.p90
            )
        });
        Self {
            published: audit.published,
            delivered: audit.delivered,
            acked: audit.acked,
            lost: audit.lost,
            duplicated: audit.duplicated,
            order_violations: audit.order_violations,
            quota_violations: audit.quota_violations,
            quota_bound_seconds: audit.quota_bound_seconds,
            run_seconds: audit.run_seconds,
            refunds: audit.refunds,
            debts: audit.debts,
            swap: Swap {
                at_ms: u64::try_from(swap_at.since(ledger.started_at()).as_millis()).unwrap_or(u64::MAX),
                gap_ms: audit.swap_gap.as_secs_f64() * 1_000.0,
            },
            classes,
            violation: audit.violations.first().cloned().or(slower),
        }
    }
}

fn class_summary(class: Class, plan: &Plan, ledger: &Ledger, swap_at: Timestamp) -> ClassSummary {
    let is_in = |user: u32| plan.users[user as usize].class == class;
    let acked = || ledger.deliveries.iter().filter(|d| d.outcome == Outcome::Acked && is_in(d.user));
    let waits: Vec<_> = ledger.waits().into_iter().filter(|wait| is_in(wait.user)).collect();
    let before = waits.iter().filter(|wait| wait.dispatched_at < swap_at).map(super::ledger::Wait::length);
    let after = waits.iter().filter(|wait| wait.arrived_at >= swap_at).map(super::ledger::Wait::length);
    let none = Percentiles { p50: 0.0, p90: 0.0, p99: 0.0 };
    ClassSummary {
        name: class.name(),
        tenants: plan.users.iter().filter(|user| user.class == class).count() as u64,
        messages: acked().count() as u64,
        cost: acked().map(|delivery| u64::from(delivery.cost_actual)).sum(),
        throttled: throttled(ledger, swap_at, plan.policy, is_in),
        wait_ms: Waits {
            before: Percentiles::of(before).unwrap_or(none),
            after: Percentiles::of(after).unwrap_or(none),
        },
    }
}

/// Replays the tenants' buckets over what was dispatched after the swap, and counts the heads that had to wait for theirs.
fn throttled(ledger: &Ledger, swap_at: Timestamp, policy: PolicyLimits, is_in: impl Fn(u32) -> bool) -> u64 {
    let arrived: std::collections::HashMap<(u32, u64), Timestamp> =
        ledger.published.iter().map(|published| ((published.user, published.offset), published.arrived_at)).collect();
    let mut deliveries: Vec<Delivery> = ledger.by_dispatch();
    deliveries.retain(|delivery| delivery.dispatched_at >= swap_at && is_in(delivery.user));
    deliveries.sort_by_key(|delivery| (delivery.user, delivery.dispatched_at));

    let burst = f64::from(policy.burst);
    let mut throttled = 0;
    for user in deliveries.chunk_by(|a, b| a.user == b.user) {
        let (mut level, mut since, mut free_at) = (burst, swap_at, swap_at);
        for delivery in user {
            let arrived_at = arrived.get(&(delivery.user, delivery.offset)).copied().unwrap_or_default();
            let at_head = arrived_at.max(free_at).max(since);
            let grown =
                |to: Timestamp| (level + to.since(since).as_secs_f64() * f64::from(policy.rate_per_second)).min(burst);
            let price = f64::from(delivery.cost_estimate);
            throttled += u64::from(grown(at_head) < price.min(burst));
            level = grown(delivery.dispatched_at) - f64::from(delivery.cost_actual);
            since = delivery.dispatched_at;
            free_at = delivery.settled_at;
        }
    }
    throttled
}
