//! Batch work waits while the consumers are busy, and for its hours; interactive work is always served.
//!
//! For one pool of GPUs that answers people by day and embeds, evaluates and summarises with what is left, or at night.
//!
//! ```json
//! { "busy_above": 0.8, "idle_below": 0.6, "windows": ["22:00-06:00", "12:00-13:00"], "step_max_seconds": 900 }
//! ```
//!
//! | field | unit | default | range |
//! |---|---|---|---|
//! | `label`, `label_value` | the label that marks a lite topic or a tenant as batch | `class`, `batch` | 1 to 128 bytes |
//! | `property_at_least` | a head whose numeric property `batch` is this or more is batch | none | |
//! | `priority_at_most` | a head of this priority or lower is batch | none | 0 to 8 |
//! | `busy_above` | load above which batch waits, of 1 | 0.8 | above 0, to 1; 1 for windows alone |
//! | `idle_below` | load below which it may run again, of 1 | 0.6 | above 0, to `busy_above` |
//! | `windows` | times of day in UTC in which batch may run: `HH:MM-HH:MM`, also over midnight | any time | up to 24 |
//! | `step_min_seconds` | seconds of the shortest hold | 5 | 1 to 3,600 |
//! | `step_max_seconds` | seconds of the longest hold | 1,800 | `step_min_seconds` to 86,400 |
//! | `batch_band` | band in which batch runs when it may | 0 | 0 to 9 |
//!
//! One mark is enough. The load is the highest that a consumer of the group reports (`Consumer::load` in the Rust client); who never
//! reports is idle. With windows batch runs inside them only, and then only while the consumers are not busy.
//!
//! **When batch comes back.** While the consumers are busy a batch lite topic is held for half of the time that they have been busy so far,
//! `step_min_seconds` to `step_max_seconds`. So when the load falls, the last of them is back after half of the time that it was high,
//! and no later than `step_max_seconds`; an operator has it back at once by `sluice lite resume --source policy`. No hold goes beyond the next
//! start of a window. Up to a minute a hold is a throttle, in memory; from there on it is a suspension, and the lite topic costs no memory.
//!
//! When the load rises, what waits in the batch band is asked about anew, 1,024 lite topics at a time, as soon as a frame comes; an answer that
//! let batch run ends after 5 s in any case. What runs, runs on.
//!
//! Bound: 114,688 lite topics and as many tenants that are marked by label; beyond it the mark of the oldest is forgotten.

mod config;
mod marked;
mod windows;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Answer, Descriptor, Entity, Frame, Init, Plan, Policy, export_policy};

pub use crate::config::Config;
use crate::config::Rules;
use crate::marked::Marked;

/// The numeric message property that may mark a head. What a policy wants is fixed before it is configured.
const PROPERTY: &str = "batch";
/// How long batch may run without being asked about again: the load may change at any time.
const BATCH_VALID: Duration = Duration::from_secs(5);
/// The longest time that holds are throttles, one after the other; less than the watchdog's default.
const THROTTLED_MAX: Duration = Duration::from_secs(20);
/// Lite topics in the batch band that are asked about anew by one frame while batch has to wait.
const REFRESH: u32 = 1_024;

/// Index of "interactive" in the reasons.
const INTERACTIVE: u32 = 0;
/// Index of "batch may run" in the reasons.
const MAY_RUN: u32 = 1;
/// Index of "batch waits for idle consumers" in the reasons.
const BUSY: u32 = 2;
/// Index of "batch waits for its window" in the reasons.
const CLOSED: u32 = 3;

/// The policy.
pub struct BusyIdle {
    rules: Rules,
    lites: Marked,
    tenants: Marked,
    busy_since_us: Option<u64>,
}

/// What a new version goes on from.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    busy_since_us: Option<u64>,
}

impl Policy for BusyIdle {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("busy-idle", env!("CARGO_PKG_VERSION"))
            .reasons([
                "interactive: always served",
                "batch: the consumers have room",
                "batch: waits until the consumers are less busy",
                "batch: waits for its time of day",
            ])
            .wants([PROPERTY])
            .learns_lites()
            .config_schema(config::SCHEMA)
            .state_schema(1)
    }

    fn new(_: &Init, config: Config) -> Result<Self, String> {
        let rules = Rules::parse(config)?;
        Ok(Self { rules, lites: Marked::default(), tenants: Marked::default(), busy_since_us: None })
    }

    fn learn(&mut self, tenant: &Entity) {
        self.tenants.set(tenant.id, self.rules.marks(tenant));
    }

    fn forget(&mut self, tenant: u64) {
        self.tenants.set(tenant, false);
    }

    fn learn_lite(&mut self, lite: &Entity) {
        self.lites.set(lite.id, self.rules.marks(lite));
    }

    fn forget_lite(&mut self, lite: u64) {
        self.lites.set(lite, false);
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.observe_load(frame.group.load_ppm, frame.now_us);
        let interactive = Answer::serve().because(INTERACTIVE);
        let (batch, refresh) = match self.hold(frame.now_us) {
            Some(hold) => (hold, REFRESH),
            None => (self.run(frame.now_us), 0),
        };
        let tenants: Vec<bool> = frame.tenants.iter().map(|tenant| self.tenants.has(tenant.tenant)).collect();
        let answers = frame.lites.iter().enumerate().map(|(row, lite)| {
            let by_label = || tenants[lite.tenant as usize] || self.lites.has(lite.lite);
            let is_batch = self.rules.marks_head(lite.priority, || frame.number(0, row)) || by_label();
            if is_batch { batch } else { interactive }
        });
        answers.collect::<Plan>().refresh(refresh)
    }

    fn snapshot(&self) -> Option<State> {
        Some(State { busy_since_us: self.busy_since_us })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.busy_since_us = state.busy_since_us;
        Ok(())
    }
}

impl BusyIdle {
    /// Busy from above one limit until below the other: a load between them changes nothing.
    fn observe_load(&mut self, load_ppm: u32, now_us: u64) {
        if load_ppm > self.rules.busy_above_ppm {
            self.busy_since_us.get_or_insert(now_us);
        } else if load_ppm < self.rules.idle_below_ppm {
            self.busy_since_us = None;
        }
    }

    /// What batch has to wait for before it is asked about again, if for anything.
    fn hold(&self, now_us: u64) -> Option<Answer> {
        let Rules { windows, step_min, step_max, .. } = &self.rules;
        let opens_in = windows.opens_in(now_us);
        if !windows.is_open(now_us) {
            return Some(held(opens_in.min(*step_max), opens_in).because(CLOSED));
        }
        let busy_for = Duration::from_micros(now_us.saturating_sub(self.busy_since_us?));
        let hold = (busy_for / 2).clamp(*step_min, *step_max).min(opens_in);
        Some(held(hold, busy_for + hold).because(BUSY))
    }

    fn run(&self, now_us: u64) -> Answer {
        let valid = BATCH_VALID.min(self.rules.windows.closes_in(now_us));
        Answer::serve().in_band(self.rules.batch_band).valid_for(valid).because(MAY_RUN)
    }
}

/// A hold of something that will have been held for so long in all.
fn held(hold: Duration, in_all: Duration) -> Answer {
    if in_all > THROTTLED_MAX { Answer::suspend(hold) } else { Answer::throttle(hold) }
}

export_policy!(BusyIdle);

#[cfg(test)]
mod tests;
