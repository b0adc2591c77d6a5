//! Finds how many messages may be in work at once, from how long the work takes; and leaves alone what asks for it.
//!
//! For consumers in front of something whose capacity nobody knows: an inference server that batches, a model's API behind a rate limit.
//! One more at a time while the work is about as fast as at its best, a fifth less when it takes longer or fails.
//!
//! | setting | unit | default |
//! |---|---|---|
//! | `initial` | open leases to start with | 8 |
//! | `max` | open leases | 256 |
//! | `tolerance_percent` | percent by which the work may take longer than at its best | 50 |

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, Descriptor, Feedback, Frame, Init, Plan, Policy, export_policy,
};

/// Deliveries after which a number of leases is judged, and the least time for that.
const WINDOW_SAMPLES: usize = 20;
const WINDOW_US: u64 = 1_000_000;
/// The best is measured anew after so many windows: what was possible yesterday may not be today.
const BEST_WINDOWS: u32 = 300;
/// How long a cap, or a hold, lasts without another word: the most that the broker takes.
const MINUTE: Duration = Duration::from_secs(60);
/// An answer that lets messages run ends soon, since the work may ask to be left alone at any time.
const SERVE_VALID: Duration = Duration::from_secs(1);

/// Indices into the reasons of the descriptor.
const SERVED: u32 = 0;
const LEFT_ALONE: u32 = 1;

/// What an operator can set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    initial: u32,
    max: u32,
    tolerance_percent: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            initial: 8,
            max: 256,
            tolerance_percent: 50,
        }
    }
}

/// All that it knows: a new instance goes on with it after a restart, a fault or a new version.
#[derive(Clone, Serialize, Deserialize)]
pub struct State {
    leases: u32,
    /// The lowest median service time, in microseconds, and the windows since it was measured.
    best_us: Option<u64>,
    windows: u32,
    /// Until when what does the work wants to be left alone.
    paused_until_us: u64,
    /// Service times and failures of deliveries that began with so many leases, and since when there are so many.
    service_us: Vec<u64>,
    failed: usize,
    since_us: u64,
    /// The most leases that were open in this window: what is not used is not raised.
    used: u32,
}

/// The policy.
pub struct Adaptive {
    config: Config,
    state: State,
}

impl Policy for Adaptive {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .reasons(["served", "what does the work asked to be left alone"])
            .state_schema(1)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        if config.initial == 0 || config.initial > config.max {
            return Err("config: initial must be 1 to max".into());
        }
        let state = State {
            leases: config.initial,
            best_us: None,
            windows: 0,
            paused_until_us: 0,
            service_us: Vec::new(),
            failed: 0,
            since_us: init.now_us,
            used: 0,
        };
        Ok(Self { config, state })
    }

    fn observe(&mut self, feedback: &Feedback) {
        if let Some(wait) = feedback.retry_after() {
            let wait_us = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            self.state.paused_until_us = self
                .state
                .paused_until_us
                .max(feedback.at_us.saturating_add(wait_us));
            return;
        }
        // What began before the last change says nothing of the present number.
        let began_us = feedback.at_us.saturating_sub(feedback.service_us);
        if began_us < self.state.since_us
            || feedback.returned()
            || self.state.service_us.len() >= 256
        {
            return;
        }
        self.state.service_us.push(feedback.service_us);
        self.state.failed += usize::from(feedback.has_failed());
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        let left_us = self.state.paused_until_us.saturating_sub(frame.now_us);
        if left_us > 0 {
            let hold =
                Answer::throttle(Duration::from_micros(left_us).min(MINUTE)).because(LEFT_ALONE);
            return frame.lites.iter().map(|_| hold).collect();
        }
        self.state.used = self.state.used.max(frame.group.in_flight);
        let lasted_us = frame.now_us.saturating_sub(self.state.since_us);
        if self.state.service_us.len() >= WINDOW_SAMPLES && lasted_us >= WINDOW_US {
            self.judge(frame.now_us);
        }
        let served = Answer::serve().valid_for(SERVE_VALID).because(SERVED);
        let plan: Plan = frame.lites.iter().map(|_| served).collect();
        plan.concurrency(self.state.leases, MINUTE)
    }

    fn snapshot(&self) -> Option<State> {
        Some(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.state = State {
            leases: state.leases.clamp(1, self.config.max),
            ..state
        };
        Ok(())
    }
}

impl Adaptive {
    /// A window is over: more leases, fewer, or as many.
    fn judge(&mut self, now_us: u64) {
        let state = &mut self.state;
        state.service_us.sort_unstable();
        let median = state.service_us[state.service_us.len() / 2];
        let best = state.best_us.filter(|_| state.windows < BEST_WINDOWS);
        state.windows = if best.is_some_and(|best| best <= median) {
            state.windows + 1
        } else {
            0
        };
        let best = best.map_or(median, |best| best.min(median));
        let tolerated = u128::from(best) * u128::from(100 + self.config.tolerance_percent) / 100;
        let is_slow = u128::from(median) > tolerated;
        let has_failed = state.failed * 10 > state.service_us.len();
        if is_slow || has_failed {
            state.leases = (state.leases - state.leases.div_ceil(5)).max(1);
        } else if state.used >= state.leases {
            state.leases = (state.leases + 1).min(self.config.max);
        }
        state.best_us = Some(best);
        state.service_us.clear();
        (state.failed, state.used, state.since_us) = (0, 0, now_us);
    }
}

export_policy!(Adaptive);

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::GroupView;
    use sluicegate_plugin_sdk::simulation::{Load, Simulation};

    use super::*;

    /// Plays a server that takes 100 ms for each of up to 20 at once, and proportionally longer beyond.
    fn found_after(seconds: u64, policy: &mut Adaptive) -> u32 {
        let mut leases = policy.state.leases;
        for second in 1..=seconds {
            let service_us = 100_000 * u64::from(leases.max(20)) / 20;
            let at_us = second * 1_100_000;
            let done = Feedback {
                at_us,
                service_us,
                retry_after_us: u64::MAX,
                ..Feedback::default()
            };
            (0..20).for_each(|_| policy.observe(&done));
            let group = GroupView {
                in_flight: leases,
                ..GroupView::default()
            };
            leases = policy
                .decide(&Frame {
                    now_us: at_us,
                    group,
                    ..Frame::default()
                })
                .concurrency;
        }
        leases
    }

    #[test]
    fn it_finds_what_the_work_bears() {
        let mut policy = Adaptive::new(&Init::default(), Config::default()).unwrap();
        assert!(
            (18..=31).contains(&found_after(120, &mut policy)),
            "{}",
            policy.state.leases
        );
        let mut again = Adaptive::new(&Init::default(), Config::default()).unwrap();
        again.restore(policy.snapshot().unwrap()).unwrap();
        assert_eq!(
            again.state.leases, policy.state.leases,
            "a new version goes on from what was found"
        );
    }

    #[test]
    fn nothing_is_delivered_while_the_work_wants_to_be_left_alone() {
        let load = Load::every(Duration::from_millis(100))
            .each_its_own_lite()
            .service(Duration::from_millis(50));
        let load = load.failing(2).retry_after(Duration::from_secs(5));
        let outcome = Simulation::new()
            .tenant("ada", load)
            .run::<Adaptive>("", Duration::from_secs(300));
        assert!(outcome.tenant("ada").counts.throttled > 0, "{outcome}");
        outcome.assert_nobody_starves(Duration::from_secs(1));
    }
}
