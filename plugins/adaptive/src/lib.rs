//! Finds how many leases may be open at once, from how long the work takes; and leaves alone what asks for it.
//!
//! For consumers in front of something whose capacity nobody knows or that changes: an inference server that batches, a model's API behind
//! a rate limit, autoscaled workers.
//!
//! ```json
//! { "initial": 8, "min": 1, "max": 200, "tolerance_percent": 50, "measure": "per_cost" }
//! ```
//!
//! | field | unit | default | range |
//! |---|---|---|---|
//! | `initial` | open leases to start with | 8 | `min` to `max` |
//! | `min`, `max` | open leases | 1, 256 | 1 to 1,000,000 |
//! | `tolerance_percent` | percent by which the work may take longer than at its best | 50 | 5 to 1,000 |
//! | `decrease_percent` | percent of the leases that are taken away when it takes longer, or fails | 20 | 1 to 90 |
//! | `failures_max_percent` | percent of deliveries that may fail | 10 | 0 to 100; 100 to let failures be |
//! | `window_ms` | milliseconds of the shortest window | 1,000 | 100 to 600,000 |
//! | `samples_min` | deliveries that end a window | 20 | 1 to 256 |
//! | `baseline_seconds` | seconds after which the best is measured anew | 600 | 10 to 86,400 |
//! | `measure` | `service` times, or `per_cost`: service times by measured cost | `service` | |
//! | `retry_after` | who waits when the work asks to be left alone: the `group` or the `tenant` | `group` | |
//!
//! **How.** Additive increase, multiplicative decrease, as TCP does it. Time goes in windows: at least `window_ms` and `samples_min`
//! deliveries that began after the last change, so that each window measures one number of leases and one jam is answered once. If the
//! median is within the tolerance of the **best** (the lowest median so far) and the leases were in use, there is one more; before the first
//! jam, twice as many. If it is above, or more than `failures_max_percent` failed, `decrease_percent` go.
//!
//! Why not the gradient (a new number from best by present latency at each step): it moves with every outlier, and the work here is
//! far from alike; a median and steps of one stand that, and two groups in front of one server come to even shares.
//!
//! The best ages: under steady load the lowest median would creep up with the jam that it is to detect. Every `baseline_seconds` one window
//! runs with half the leases, and its median is the best from then on, higher or lower; with `min` leases any window does that. Where a message's cost says how much work it is
//! (tokens), `per_cost` keeps long prompts from looking like a jam.
//!
//! **Retry-after.** A settle that says how long the work wants to be left alone (up to an hour) holds the whole group back that long, or its
//! tenant: a throttle for up to 20 s, a suspension, which no watchdog overrules, for up to a minute at a time beyond. For a group the open leases go down to `min` meanwhile and `decrease_percent` go for after it. What
//! had an answer may still be delivered for a second, `min` at a time. A delivery that says so, or began before the wait was over, is no
//! sample: neither a failure nor a time.
//!
//! With no deliveries nothing is learnt, and nothing changes. The number holds for a minute without a frame.
//!
//! Bound: 256 samples, 4,096 tenants that wait after a retry-after; beyond it the one whose wait ends first goes.

mod config;
mod pauses;
mod search;
mod window;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Answer, Descriptor, Feedback, Frame, Init, Plan, Policy, TenantView, export_policy};

pub use crate::config::{Config, Measure, RetryAfter};
use crate::pauses::Pauses;
use crate::search::Search;

/// How long an answer may be used: who is asked to wait is to stop soon.
const SERVE_VALID: Duration = Duration::from_secs(1);
/// How long the number of leases holds without a frame, and how long a row waits at a time: the most that the broker takes.
const MINUTE: Duration = Duration::from_mins(1);
/// The longest wait that is kept in memory; less than the watchdog's default.
const THROTTLE_MAX: Duration = Duration::from_secs(20);

/// Index of "served" in the reasons.
const SERVED: u32 = 0;
/// Index of "the work asked to be left alone" in the reasons.
const LEFT_ALONE: u32 = 1;
/// Index of "a tenant's work asked to be left alone" in the reasons.
const TENANT_LEFT_ALONE: u32 = 2;

/// The policy.
pub struct Adaptive {
    retry_after: RetryAfter,
    search: Search,
    pauses: Pauses,
}

/// What a new version goes on from.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    search: Search,
    pauses: Pauses,
}

impl Policy for Adaptive {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("adaptive", env!("CARGO_PKG_VERSION"))
            .reasons([
                "served",
                "what does the work asked to be left alone (retry-after)",
                "what does this tenant's work asked to be left alone (retry-after)",
            ])
            .config_schema(config::SCHEMA)
            .state_schema(2)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        config.check()?;
        let (retry_after, pauses) = (config.retry_after, Pauses::default());
        Ok(Self { retry_after, search: Search::new(config, init.now_us), pauses })
    }

    fn observe(&mut self, feedback: &Feedback) {
        if let Some(wait) = feedback.retry_after() {
            match self.retry_after {
                RetryAfter::Tenant => self.pauses.pause_tenant(feedback.tenant, wait, feedback.at_us),
                RetryAfter::Group => {
                    self.pauses.pause_group(wait, feedback.at_us);
                    self.search.left_alone(feedback, self.pauses.group_until_us());
                }
            }
            return;
        }
        self.search.settle(feedback);
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        let group = self.pauses.of_group(frame.now_us);
        if group.is_none() {
            self.search.advance(frame.now_us, frame.group.in_flight);
        }
        let answer = |tenant: &TenantView| match (group, self.pauses.of_tenant(tenant.tenant, frame.now_us)) {
            (Some(left), _) => held(left).because(LEFT_ALONE),
            (None, Some(left)) => held(left).because(TENANT_LEFT_ALONE),
            (None, None) => Answer::serve().valid_for(SERVE_VALID).because(SERVED),
        };
        let answers: Vec<Answer> = frame.tenants.iter().map(answer).collect();
        let plan: Plan = frame.lites.iter().map(|lite| answers[lite.tenant as usize]).collect();
        plan.concurrency(if group.is_some() { self.search.min() } else { self.search.leases() }, MINUTE)
    }

    fn snapshot(&self) -> Option<State> {
        Some(State { search: self.search.clone(), pauses: self.pauses.clone() })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.pauses = state.pauses;
        self.search.go_on_from(state.search, self.pauses.group_until_us());
        Ok(())
    }
}

fn held(left: Duration) -> Answer {
    if left > THROTTLE_MAX { Answer::suspend(left.min(MINUTE)) } else { Answer::throttle(left) }
}

export_policy!(Adaptive);

#[cfg(test)]
mod tests;
