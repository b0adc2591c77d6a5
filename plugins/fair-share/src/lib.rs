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

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, ById, Descriptor, Entity, FairCounters, Feedback, Frame, Init, Plan, Policy, Standing, TenantView,
    export_policy,
};

use crate::config::Weights;
pub use crate::config::{Config, Tier};

/// The scheduler's weight of a tenant of weight 1 that used little: enough steps below it for those who used much.
const FULL: u32 = 100;

/// Index of "at or below the fair level" in the reasons.
const MODEST: u32 = 0;
/// Index of "above the fair level" in the reasons.
const HEAVY: u32 = 1;

/// The policy.
pub struct FairShare {
    weights: Weights,
    /// Of learnt tenants, where it is not the default.
    learnt: ById<u32>,
    heavy_min: f64,
    counters: FairCounters,
}

/// What a new version goes on from.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    counters: FairCounters,
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
            .state_schema(3)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        Ok(Self {
            weights: Weights::parse(&config)?,
            learnt: if config.tiers.is_empty() { ById::new() } else { ById::with_room(Entity::TOLD_MAX) },
            heavy_min: f64::from(config.heavy_min_percent) / 100.0,
            counters: FairCounters::new(
                Duration::from_secs(config.half_life_seconds),
                config.newcomer_percent,
                init.now_us,
            ),
        })
    }

    fn learn(&mut self, tenant: &Entity) {
        let weight = self.weights.of(tenant);
        match weight == self.weights.default {
            true => self.learnt.forget(tenant.id),
            false => self.learnt.set(tenant.id, weight),
        };
        // A restored counter has the weight of the configuration before.
        self.counters.set_weight(tenant.id, weight);
    }

    fn forget(&mut self, tenant: u64) {
        self.learnt.forget(tenant);
    }

    fn observe(&mut self, feedback: &Feedback) {
        let weight_of = |tenant| self.learnt.get(tenant).copied().unwrap_or(self.weights.default);
        match feedback.returned() {
            true => self.counters.returned(feedback.tenant, feedback.at_us),
            false => self.counters.done(feedback.tenant, feedback.cost_measured, feedback.at_us, weight_of),
        }
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.counters.advance(frame.now_us);
        let mut head_costs = vec![0; frame.tenants.len()];
        for lite in &frame.lites {
            let cost: &mut u64 = &mut head_costs[lite.tenant as usize];
            *cost = lite.head_cost.max(*cost);
        }
        let weight_of = |tenant| self.learnt.get(tenant).copied().unwrap_or(self.weights.default);
        let tenants = frame.tenants.iter().zip(head_costs);
        let working = |(view, head_cost): (&TenantView, u64)| {
            self.counters.working(view.tenant, view.in_flight, head_cost, weight_of)
        };
        let standings: Vec<Standing> = tenants.map(working).collect();
        let fair = self.counters.fair_level();
        let weight = |standing: &Standing| {
            let part = share(f64::from(standing.weight) * fair, standing.used);
            scaled(standing.weight, part.max(self.heavy_min))
        };
        let weights: Vec<u32> = standings.iter().map(weight).collect();
        let answer = |(standing, weight): (&Standing, &u32)| {
            Answer::serve().because(if *weight < standing.weight * FULL { HEAVY } else { MODEST })
        };
        let answers: Vec<Answer> = standings.iter().zip(&weights).map(answer).collect();
        let answers = frame.lites.iter().map(|lite| answers[lite.tenant as usize]).collect();
        Plan { answers, weights, ..Plan::default() }
    }

    fn snapshot(&self) -> Option<State> {
        Some(State { counters: self.counters.clone() })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.counters.take_over(state.counters)
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
