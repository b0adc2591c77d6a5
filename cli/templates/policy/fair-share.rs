//! Who used much lately weighs less until the others have caught up, and tiers weigh what they pay for.
//!
//! The broker shares by weight among those who wait *now*. This policy remembers: a tenant that had the machines to itself for an hour
//! stands back for a while when somebody else comes.
//!
//! | setting | unit | default |
//! |---|---|---|
//! | `half_life_seconds` | seconds after which half of what was used is forgotten | 600 |
//! | `tiers` | weights by the tenant's label `tier` | none; a tenant without one weighs 10 |

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, Descriptor, Entity, Feedback, Frame, Init, Plan, Policy, export_policy,
};

/// Tenants whose use is remembered; beyond it the one with the lowest id is forgotten. All of them are looked at for the fair level, which
/// is paid with the fuel of one frame: 1 million if nothing waits.
const TENANTS_MAX: usize = 512;
/// The fair level changes slowly, and to compute it anew costs something for each tenant.
const LEVEL_EVERY_US: u64 = 1_000_000;
/// Weights in the configuration are multiplied by this, so that a part of a small one is still a weight.
const FULL: u64 = 100;
/// A tenant keeps at least a tenth of its weight, whatever it used.
const PART_MIN: u64 = FULL / 10;
const WEIGHT_DEFAULT: u32 = 10;

/// Indices into the reasons of the descriptor.
const AS_PAID: u32 = 0;
const USED_MUCH: u32 = 1;

/// What an operator can set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    half_life_seconds: u64,
    tiers: BTreeMap<String, u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            half_life_seconds: 600,
            tiers: BTreeMap::new(),
        }
    }
}

/// What a tenant used, as of a moment, and when it was seen last.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Used {
    cost: u64,
    at_us: u64,
    seen_us: u64,
}

/// The policy.
pub struct FairShare {
    config: Config,
    /// Learnt by name and label, so not part of the state: the broker tells them again.
    weights: BTreeMap<u64, u32>,
    state: State,
}

/// What goes on after a restart or a new version.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct State {
    /// By tenant: of all that were seen lately, also of those that used nothing.
    used: BTreeMap<u64, Used>,
    /// What each would have used for every unit of its weight, had all shared by weight.
    level: u64,
    level_at_us: u64,
}

impl Policy for FairShare {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .reasons([
                "weighs what its tier says",
                "weighs less: it used much lately",
            ])
            .state_schema(1)
    }

    fn new(_: &Init, config: Config) -> Result<Self, String> {
        if config.half_life_seconds == 0 {
            return Err("config: half_life_seconds must be at least 1".into());
        }
        if let Some((tier, weight)) = config
            .tiers
            .iter()
            .find(|(_, weight)| !(1..=100).contains(*weight))
        {
            return Err(format!(
                "config: tiers.{tier} is {weight}, it must be 1 to 100"
            ));
        }
        Ok(Self {
            config,
            weights: BTreeMap::new(),
            state: State::default(),
        })
    }

    /// `sluice group label GROUP TENANT tier=gold` sets the label.
    fn learn(&mut self, tenant: &Entity) {
        let weight = tenant
            .label("tier")
            .and_then(|tier| self.config.tiers.get(tier));
        self.weights
            .insert(tenant.id, weight.copied().unwrap_or(WEIGHT_DEFAULT));
    }

    fn forget(&mut self, tenant: u64) {
        self.weights.remove(&tenant);
    }

    fn observe(&mut self, feedback: &Feedback) {
        let used = self.used_by(feedback.tenant, feedback.at_us);
        used.cost = used.cost.saturating_add(feedback.cost_measured);
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        let (mut weights, mut reasons) = (Vec::new(), Vec::new());
        self.renew_level(frame.now_us);
        for view in &frame.tenants {
            let weight = self.weight(view.tenant);
            let used = self.used_by(view.tenant, frame.now_us).cost;
            let fair = self.state.level.saturating_mul(weight);
            let part = match used <= fair {
                true => FULL,
                false => u64::try_from(u128::from(FULL) * u128::from(fair) / u128::from(used))
                    .unwrap_or(FULL)
                    .max(PART_MIN),
            };
            weights.push(u32::try_from(weight * part).unwrap_or(u32::MAX));
            reasons.push(if part == FULL { AS_PAID } else { USED_MUCH });
        }
        let answers = frame
            .lites
            .iter()
            .map(|lite| Answer::serve().because(reasons[lite.tenant as usize]));
        Plan {
            weights,
            ..answers.collect()
        }
    }

    fn snapshot(&self) -> Option<State> {
        Some(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.state = state;
        Ok(())
    }
}

impl FairShare {
    fn weight(&self, tenant: u64) -> u64 {
        self.weights
            .get(&tenant)
            .copied()
            .unwrap_or(WEIGHT_DEFAULT)
            .into()
    }

    fn half_life_us(&self) -> u64 {
        self.config.half_life_seconds.saturating_mul(1_000_000)
    }

    /// What the tenant used, as of now; it is seen thereby.
    fn used_by(&mut self, tenant: u64, now_us: u64) -> &mut Used {
        let half_life_us = self.half_life_us();
        if self.state.used.len() >= TENANTS_MAX && !self.state.used.contains_key(&tenant) {
            self.state.used.pop_first();
        }
        let used = self.state.used.entry(tenant).or_insert(Used {
            cost: 0,
            at_us: now_us,
            seen_us: now_us,
        });
        *used = Used {
            cost: left(*used, now_us, half_life_us),
            at_us: now_us.max(used.at_us),
            seen_us: now_us,
        };
        used
    }

    /// Who was not seen for a half-life, and used little before, does not count any more.
    fn renew_level(&mut self, now_us: u64) {
        if now_us.saturating_sub(self.state.level_at_us) < LEVEL_EVERY_US {
            return;
        }
        let half_life_us = self.half_life_us();
        let weight_of = &self.weights;
        let (mut all, mut weights) = (0_u64, 0_u64);
        self.state.used.retain(|tenant, used| {
            let cost = left(*used, now_us, half_life_us);
            let counts = cost > 0 || now_us.saturating_sub(used.seen_us) < half_life_us;
            if counts {
                all = all.saturating_add(cost);
                weights += u64::from(weight_of.get(tenant).copied().unwrap_or(WEIGHT_DEFAULT));
            }
            counts
        });
        (self.state.level, self.state.level_at_us) = (all / weights.max(1), now_us);
    }
}

/// Half of it is gone after a half-life, a quarter is left after two; between them it falls evenly.
fn left(Used { cost, at_us, .. }: Used, now_us: u64, half_life_us: u64) -> u64 {
    let passed = now_us.saturating_sub(at_us);
    let halvings = u32::try_from(passed / half_life_us).unwrap_or(u32::MAX);
    let left = cost.checked_shr(halvings).unwrap_or(0);
    // In parts of 2^16: a division of 128 bits takes most of a frame's fuel when there are many tenants.
    let part = ((passed % half_life_us) / (half_life_us >> 16).max(1)).min(1 << 16);
    let half = left / 2;
    left - ((half >> 16) * part + ((half & 0xffff) * part >> 16))
}

export_policy!(FairShare);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluicegate_plugin_sdk::simulation::{Load, Simulation};

    use super::*;

    /// One tenant has the slots to itself for ten minutes before the other comes.
    fn group() -> Simulation {
        let flood = Load::at_once(50_000)
            .lites(40)
            .cost(100)
            .service(Duration::from_millis(200));
        let late = flood.clone().starting(Duration::from_secs(600));
        Simulation::new()
            .slots(10)
            .tenant("early", flood)
            .tenant("late", late)
    }

    const SPAN: Duration = Duration::from_secs(720);

    #[test]
    fn who_comes_late_catches_up() {
        let (fair, outcome) = (group().run_fair(SPAN), group().run::<FairShare>("", SPAN));
        assert!(
            outcome.tenant("late").cost > fair.tenant("late").cost * 6 / 5,
            "{fair}\n{outcome}"
        );
        outcome.assert_nobody_starves(Duration::ZERO);
    }

    #[test]
    fn a_tier_weighs_what_the_configuration_says() {
        let flood = Load::at_once(20_000)
            .lites(40)
            .cost(100)
            .service(Duration::from_millis(200));
        let simulation = Simulation::new()
            .tenant("gold", flood.clone())
            .tenant("free", flood);
        let simulation = simulation.tenant_label("gold", "tier", "gold");
        let outcome =
            simulation.run::<FairShare>(r#"{"tiers": {"gold": 30}}"#, Duration::from_secs(300));
        outcome.assert_share("gold", 75.0, 2.0);
    }

    #[test]
    fn half_is_forgotten_after_a_half_life() {
        let used = Used {
            cost: 1_000,
            at_us: 0,
            seen_us: 0,
        };
        let after =
            [0, 300, 600, 1_200, 1 << 40].map(|second| left(used, second * 1_000_000, 600_000_000));
        assert_eq!(after, [1_000, 750, 500, 250, 0]);
    }
}
