//! Batch work waits while the consumers are busy; everything else is always served.
//!
//! A lite topic is batch if its first message had the property `label.class` with the value `batch`. The load is what consumers report
//! (`Consumer::load` in the Rust client), the highest of the group.
//!
//! | setting | unit | default |
//! |---|---|---|
//! | `busy_above_percent` | load above which batch waits | 80 |
//! | `idle_below_percent` | load below which it may run again | 60 |
//! | `hold_max_seconds` | the longest that a lite topic is held before it is asked about again | 1,800 |

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Answer, Descriptor, Entity, Frame, Init, Plan, Policy, export_policy};

/// Batch lite topics that are remembered; beyond it the oldest is taken for interactive.
const BATCH_MAX: usize = 100_000;
/// The band in which batch runs when it may: below everything else, 0 is the last.
const BATCH_BAND: u8 = 0;
/// The load may change at any time, so that an answer which lets batch run ends soon.
const BATCH_VALID: Duration = Duration::from_secs(5);
/// The shortest hold, so that a short peak costs little.
const HOLD_MIN: Duration = Duration::from_secs(5);
/// Up to here a hold is kept in memory; a longer one is a suspension, which costs none and outlives a restart.
const THROTTLE_MAX: Duration = Duration::from_secs(60);

/// Indices into the reasons of the descriptor.
const INTERACTIVE: u32 = 0;
const ROOM: u32 = 1;
const BUSY: u32 = 2;

/// What an operator can set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    busy_above_percent: u32,
    idle_below_percent: u32,
    hold_max_seconds: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            busy_above_percent: 80,
            idle_below_percent: 60,
            hold_max_seconds: 1_800,
        }
    }
}

/// What goes on after a restart or a new version.
#[derive(Serialize, Deserialize)]
pub struct State {
    busy_since_us: Option<u64>,
}

/// The policy.
pub struct BusyIdle {
    config: Config,
    batch: BTreeSet<u64>,
    busy_since_us: Option<u64>,
}

impl Policy for BusyIdle {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .reasons([
                "interactive",
                "batch: the consumers have room",
                "batch: waits until the consumers are less busy",
            ])
            .learns_lites()
            .state_schema(1)
    }

    fn new(_: &Init, config: Config) -> Result<Self, String> {
        if config.idle_below_percent > config.busy_above_percent || config.busy_above_percent > 100
        {
            return Err("config: idle_below_percent must be at most busy_above_percent, and that at most 100".into());
        }
        Ok(Self {
            config,
            batch: BTreeSet::new(),
            busy_since_us: None,
        })
    }

    /// Lite topics with labels are told before they are mentioned in a frame.
    fn learn_lite(&mut self, lite: &Entity) {
        if lite.label("class") == Some("batch") {
            self.batch.insert(lite.id);
        }
        if self.batch.len() > BATCH_MAX {
            self.batch.pop_first();
        }
    }

    fn forget_lite(&mut self, lite: u64) {
        self.batch.remove(&lite);
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        // Busy from above one limit until below the other: a load between them changes nothing.
        if frame.group.load_ppm > self.config.busy_above_percent * 10_000 {
            self.busy_since_us.get_or_insert(frame.now_us);
        } else if frame.group.load_ppm < self.config.idle_below_percent * 10_000 {
            self.busy_since_us = None;
        }
        let (batch, refresh) = match self.busy_since_us {
            // What was let run a moment ago, and still waits, is asked about again now.
            Some(since_us) => (self.hold(frame.now_us.saturating_sub(since_us)), 1_024),
            None => (
                Answer::serve()
                    .in_band(BATCH_BAND)
                    .valid_for(BATCH_VALID)
                    .because(ROOM),
                0,
            ),
        };
        let interactive = Answer::serve().because(INTERACTIVE);
        let answer = |lite: u64| {
            if self.batch.contains(&lite) {
                batch
            } else {
                interactive
            }
        };
        frame
            .lites
            .iter()
            .map(|row| answer(row.lite))
            .collect::<Plan>()
            .refresh(refresh)
    }

    fn snapshot(&self) -> Option<State> {
        Some(State {
            busy_since_us: self.busy_since_us,
        })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.busy_since_us = state.busy_since_us;
        Ok(())
    }
}

impl BusyIdle {
    /// Half as long as the consumers are busy already: when they get less busy, batch is back after half of that time.
    fn hold(&self, busy_for_us: u64) -> Answer {
        let longest = Duration::from_secs(self.config.hold_max_seconds).max(HOLD_MIN);
        let hold = Duration::from_micros(busy_for_us / 2).clamp(HOLD_MIN, longest);
        let held = if hold > THROTTLE_MAX {
            Answer::suspend(hold)
        } else {
            Answer::throttle(hold)
        };
        held.because(BUSY)
    }
}

export_policy!(BusyIdle);

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::simulation::{Load, Simulation};

    use super::*;

    /// Ten minutes in which people ask for all ten slots between the second and the sixth minute, and batch would take them all.
    fn group() -> Simulation {
        let (minute, work) = (Duration::from_secs(60), Duration::from_millis(500));
        let people = Load::poisson(Duration::from_millis(52))
            .starting(minute * 2)
            .ending(minute * 6);
        let people = people.each_its_own_lite().service(work);
        let batch = Load::at_once(8_000)
            .lites(50)
            .service(Duration::from_secs(2))
            .label("class", "batch");
        Simulation::new()
            .slots(10)
            .tenant("people", people)
            .tenant("night", batch)
    }

    const SPAN: Duration = Duration::from_secs(600);

    #[test]
    fn batch_steps_back_while_people_work() {
        let (fair, outcome) = (group().run_fair(SPAN), group().run::<BusyIdle>("", SPAN));
        let (without, with) = (fair.wait_p99("people"), outcome.wait_p99("people"));
        assert!(
            with < without / 2,
            "{without:?} without, {with:?} with\n{fair}\n{outcome}"
        );
        assert!(outcome.tenant("night").counts.done > 0, "{outcome}");
    }

    #[test]
    fn a_long_busy_time_makes_holds_longer_and_then_suspensions() {
        let policy = BusyIdle::new(&Init::default(), Config::default()).unwrap();
        let held = [0, 60, 600, 36_000].map(|seconds| policy.hold(seconds * 1_000_000));
        let seconds = held.map(|answer| (answer.verdict, answer.duration_us / 1_000_000));
        let (throttle, suspend) = (Answer::THROTTLE, Answer::SUSPEND);
        assert_eq!(
            seconds,
            [
                (throttle, 5),
                (throttle, 30),
                (suspend, 300),
                (suspend, 1_800)
            ]
        );
    }
}
