//! A token bucket per tenant: who asks for more than the rate waits, and nobody else notices.
//!
//! | setting | unit | default |
//! |---|---|---|
//! | `rate_per_second` | cost units (tokens, say) per second, for each tenant | 1,000 |
//! | `burst` | cost units that a rested tenant may use at once | 5,000 |

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, Descriptor, Feedback, Frame, Init, LiteView, Plan, Policy, TokenBucket, export_policy,
};

/// Buckets that are kept. The state must fit into 1 MiB, and to look through them is paid with the frame's fuel; a full bucket need
/// not be remembered.
const BUCKETS_MAX: usize = 4_096;
/// A tenant that waits is asked about again this soon, though its bucket may take longer to fill.
const THROTTLE_MAX: Duration = Duration::from_secs(10);

/// Indices into the reasons of the descriptor. `sluice lite explain` shows their texts.
const WITHIN_RATE: u32 = 0;
const OVER_RATE: u32 = 1;

/// What an operator can set. A misspelt setting is refused, not ignored.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    rate_per_second: u32,
    burst: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rate_per_second: 1_000,
            burst: 5_000,
        }
    }
}

/// What goes on after a restart, a fault or a new version.
#[derive(Serialize, Deserialize)]
pub struct State {
    buckets: BTreeMap<u64, TokenBucket>,
}

/// The policy.
pub struct PerTenant {
    config: Config,
    /// By the tenant's id. Use ordered maps: a `HashMap` is in another order in each run.
    buckets: BTreeMap<u64, TokenBucket>,
}

impl Policy for PerTenant {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .reasons(["within rate", "over rate"])
            .state_schema(1)
    }

    fn new(_: &Init, config: Config) -> Result<Self, String> {
        if config.burst == 0 {
            return Err("config: burst must be at least 1".into());
        }
        Ok(Self {
            config,
            buckets: BTreeMap::new(),
        })
    }

    /// A delivery ended: its estimate was paid, what it really cost is known now.
    fn observe(&mut self, feedback: &Feedback) {
        if feedback.returned() {
            return; // It comes back, and is paid for already.
        }
        let (paid, used, now_us) = (
            feedback.cost_estimate,
            feedback.cost_measured,
            feedback.at_us,
        );
        let bucket = self.bucket(feedback.tenant, now_us);
        bucket.charge(used.saturating_sub(paid), now_us);
        bucket.give_back(paid.saturating_sub(used), now_us);
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        if self.buckets.len() > BUCKETS_MAX {
            self.buckets
                .retain(|_, bucket| !bucket.is_full(frame.now_us));
        }
        while self.buckets.len() > BUCKETS_MAX {
            self.buckets.pop_first();
        }
        frame
            .lites
            .iter()
            .map(|lite| self.answer(frame, lite))
            .collect()
    }

    fn snapshot(&self) -> Option<State> {
        Some(State {
            buckets: self.buckets.clone(),
        })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.buckets = state.buckets;
        // The configuration may be another one by now.
        let Config {
            rate_per_second,
            burst,
        } = self.config;
        for bucket in self.buckets.values_mut() {
            bucket.set_rate(micros(rate_per_second), burst, 0);
        }
        Ok(())
    }
}

impl PerTenant {
    fn bucket(&mut self, tenant: u64, now_us: u64) -> &mut TokenBucket {
        let Config {
            rate_per_second,
            burst,
        } = self.config;
        self.buckets
            .entry(tenant)
            .or_insert_with(|| TokenBucket::full(micros(rate_per_second), burst, now_us))
    }

    fn answer(&mut self, frame: &Frame, lite: &LiteView) -> Answer {
        // The broker keeps a word for each lite topic: here, which head was paid for. A head that waits
        // for a free consumer is asked about again, and must not pay twice.
        let paid = (lite.head_offset.wrapping_add(1) << 16) | u64::from(lite.attempts & 0xffff);
        let served = Answer::serve()
            .messages(1)
            .because(WITHIN_RATE)
            .remember(paid);
        if lite.memo == paid {
            return served;
        }
        let bucket = self.bucket(frame.tenant_of(lite).tenant, frame.now_us);
        if bucket.take(lite.head_cost, frame.now_us) {
            return served;
        }
        let wait = bucket.time_until(lite.head_cost.min(bucket.burst()), frame.now_us);
        Answer::throttle(wait.min(THROTTLE_MAX)).because(OVER_RATE)
    }
}

/// A bucket counts in millionths of a unit per second.
fn micros(rate_per_second: u32) -> u64 {
    u64::from(rate_per_second) * 1_000_000
}

export_policy!(PerTenant);

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::simulation::{Load, Simulation};

    use super::*;

    const TEN_MINUTES: Duration = Duration::from_secs(600);

    /// Ten minutes of virtual time, with the broker's own scheduler.
    fn group() -> Simulation {
        let load = |load: Load| {
            load.lites(20)
                .cost(50..=150)
                .service(Duration::from_millis(100))
        };
        let quiet = load(Load::poisson(Duration::from_millis(200)));
        let flood = load(Load::at_once(100_000));
        Simulation::new()
            .slots(30)
            .tenant("quiet", quiet)
            .tenant("flood", flood)
    }

    #[test]
    fn a_flood_gets_its_rate_and_does_not_slow_the_others() {
        let outcome = group().run::<PerTenant>("", TEN_MINUTES);
        outcome
            .assert_wait_p99_below("quiet", Duration::from_millis(10))
            .assert_nobody_starves(Duration::from_secs(1));
        let (cost, most) = (outcome.tenant("flood").cost, 5_000 + 1_000 * 600);
        assert!(
            cost <= most && cost > most * 9 / 10,
            "{cost}, at most {most}\n{outcome}"
        );
    }

    #[test]
    fn without_it_the_flood_takes_more() {
        let (fair, limited) = (
            group().run_fair(TEN_MINUTES),
            group().run::<PerTenant>("", TEN_MINUTES),
        );
        assert!(
            fair.tenant("flood").cost > 5 * limited.tenant("flood").cost,
            "{fair}\n{limited}"
        );
    }

    #[test]
    fn the_same_traffic_is_decided_the_same() {
        let digest = || group().run::<PerTenant>("", TEN_MINUTES).digest();
        assert_eq!(digest(), digest());
    }
}
