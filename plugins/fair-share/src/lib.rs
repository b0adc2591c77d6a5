//! Long-term fairness: who used much lately has a lower weight until the others have caught up. Tiers have more from the start.
//!
//! For a service that many share: the scheduler's own fairness divides what there is at each moment and forgets at once. Here who kept
//! the machines busy for the last hour goes behind those who come now.
//!
//! ```json
//! { "half_life_seconds": 1800, "tiers": [
//!     { "name": "gold", "weight": 10, "tenants": ["org/gold/*", "ada"] },
//!     { "name": "silver", "weight": 3 } ] }
//! ```
//!
//! | field | unit | default | range |
//! |---|---|---|---|
//! | `half_life_seconds` | seconds after which what was used counts half | 1,800 | 60 to 604,800 |
//! | `heavy_min_percent` | percent of its weight that a heavy user keeps | 10 | 1 to 100; 100 for tiers alone |
//! | `newcomer_percent` | percent of the fair level at which who comes (back) starts | 50 | 1 to 100 |
//! | `label` | key of the tenants' label that names their tier | `tier` | 1 to 128 bytes |
//! | `weight` | weight of a tenant without a tier | 1 | 1 to 100 |
//! | `tiers[].name` | value of the label | required | 1 to 128 bytes, each once |
//! | `tiers[].weight` | how much it is to have, next to the others | required | 1 to 100 |
//! | `tiers[].tenants` | names, or starts of names with `*` | none | 4,096 in all |
//!
//! A tenant's tier is the one that its label names, else the one that lists its name: an exact name before a prefix, a longer prefix
//! before a shorter one.
//!
//! **How.** Each tenant has a counter: what its deliveries cost, as measured, and, until that is known, its open leases at what its
//! deliveries cost on average (before the first, at its head's estimate). What was used fades by half in a half-life. The **fair level** is
//! what all have used by the sum of their weights. Who is at or below it has its tier's weight; who is at k times of it has 1/k of that. The
//! scheduler does the rest: it takes weights at dispatch, so the next pick is by the new ones.
//!
//! Weights and not bands, because a higher band goes strictly first: it would starve who used much, and take the messages' own priorities
//! away. Being away earns nothing: who comes after a minute without work starts at half of the fair level, so a crowd of new names does
//! not pass for a crowd of modest users. A weight is as old as the tenant's last frame: 10 s at most for those near the front.
//!
//! Bound: 16,384 tenants with a counter. Beyond it one with little on its counter is forgotten, and is a newcomer when it comes back.

mod config;
#[path = "../../token-bucket/src/names.rs"]
mod names;
mod usage;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Answer, Descriptor, Entity, Feedback, Frame, Init, LiteView, Plan, Policy, export_policy};

use crate::config::Tiers;
pub use crate::config::{Config, Tier};
use crate::usage::{Kept, Usage};

/// The scheduler's weight of a tenant of weight 1 that used little: enough steps below it for those who used much.
const FULL: u32 = 100;

/// Index of "at or below the fair level" in the reasons.
const MODEST: u32 = 0;
/// Index of "above the fair level" in the reasons.
const HEAVY: u32 = 1;

/// The policy.
pub struct FairShare {
    tiers: Tiers,
    /// Learnt tenants whose weight is not the default.
    weights: BTreeMap<u64, u32>,
    heavy_min: f64,
    usage: Usage,
    now_us: u64,
}

/// What a new version goes on from.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    counters: BTreeMap<u64, Kept>,
}

impl Policy for FairShare {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("fair-share", env!("CARGO_PKG_VERSION"))
            .reasons([
                "tenant used no more than its share lately",
                "tenant used more than its share lately: lower weight",
            ])
            .config_schema(config::SCHEMA)
            .state_schema(1)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        Ok(Self {
            tiers: Tiers::parse(&config)?,
            weights: BTreeMap::new(),
            heavy_min: f64::from(config.heavy_min_percent) / 100.0,
            usage: Usage::new(config.half_life_seconds, config.newcomer_percent, init.now_us),
            now_us: init.now_us,
        })
    }

    fn learn(&mut self, tenant: &Entity) {
        let weight = self.tiers.weight_of(tenant);
        match weight == self.tiers.default {
            true => self.weights.remove(&tenant.id),
            false => self.weights.insert(tenant.id, weight),
        };
        // A restored counter knows no weight yet.
        self.usage.set_weight(tenant.id, weight);
    }

    fn forget(&mut self, tenant: u64) {
        self.weights.remove(&tenant);
    }

    fn observe(&mut self, feedback: &Feedback) {
        let weight_of = |tenant| self.weights.get(&tenant).copied().unwrap_or(self.tiers.default);
        self.usage.settle(feedback, weight_of);
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.now_us = frame.now_us;
        self.usage.advance(frame.now_us);
        let mut head_costs = vec![0; frame.tenants.len()];
        for lite in &frame.lites {
            let cost: &mut u64 = &mut head_costs[lite.tenant as usize];
            *cost = lite.head_cost.max(*cost);
        }
        let weight_of = |tenant| self.weights.get(&tenant).copied().unwrap_or(self.tiers.default);
        let tenants = frame.tenants.iter().zip(head_costs);
        let used: Vec<_> = tenants.map(|(view, head_cost)| self.usage.of(view, head_cost, weight_of)).collect();
        let fair = self.usage.fair_level();
        let weight =
            |(tier, used): &(u32, f64)| scaled(*tier, share(f64::from(*tier) * fair, *used).max(self.heavy_min));
        let weights: Vec<u32> = used.iter().map(weight).collect();
        let is_heavy = |tenant: usize| weights[tenant] < used[tenant].0 * FULL;
        let reason = |lite: &LiteView| if is_heavy(lite.tenant as usize) { HEAVY } else { MODEST };
        let answers = frame.lites.iter().map(|lite| Answer::serve().because(reason(lite))).collect();
        Plan { answers, weights, ..Plan::default() }
    }

    fn snapshot(&self) -> Option<State> {
        Some(State { counters: self.usage.kept(self.now_us) })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.usage.restore(state.counters, self.tiers.default, self.now_us);
        Ok(())
    }
}

/// The part of its weight that a tenant is to have: 1 if it used no more than is fair.
fn share(fair: f64, used: f64) -> f64 {
    if used > fair { fair / used } else { 1.0 }
}

/// A part of a tier's weight, as the scheduler counts weights: at least 1.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and 10,000")]
fn scaled(weight: u32, share: f64) -> u32 {
    ((f64::from(weight * FULL) * share).round() as u32).max(1)
}

export_policy!(FairShare);

#[cfg(test)]
mod tests;
