//! Least time left first; what can no longer make it does not take the place of what can.
//!
//! A message's deadline is its `expires_at`. **Slack** is the time to it less what the work takes: the tenant's measured service time.
//!
//! | setting | unit | default |
//! |---|---|---|
//! | `slack_limits_ms` | milliseconds of slack below which a head is in band 9, 8, 7, … | 1000, 5000, 30000 |
//! | `late` | what becomes of a head that cannot make it: `dead_letter`, `drop` or `serve` | `dead_letter` |

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, Descriptor, Ewma, Feedback, Frame, Init, LiteView, Plan, Policy, export_policy,
};

/// Tenants whose service time is remembered; beyond it the one with the lowest id is forgotten.
const TENANTS_MAX: usize = 8_192;
/// A service time makes up one part in so many of its tenant's average.
const ONE_IN: u64 = 8;
/// The band of a head without a deadline: that of its priority.
const BAND_WITHOUT: u32 = Answer::BAND_OF_HEAD;

/// Indices into the reasons of the descriptor.
const NO_DEADLINE: u32 = 0;
const RANKED: u32 = 1;
const LATE: u32 = 2;

/// What an operator can set.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    slack_limits_ms: Vec<u64>,
    late: Late,
}

/// What becomes of a head that cannot make it.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Late {
    DeadLetter,
    Drop,
    Serve,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slack_limits_ms: vec![1_000, 5_000, 30_000],
            late: Late::DeadLetter,
        }
    }
}

/// What goes on after a restart or a new version.
#[derive(Serialize, Deserialize)]
pub struct State {
    service_us: BTreeMap<u64, Ewma>,
}

/// The policy.
pub struct Deadline {
    config: Config,
    /// Average service time by tenant, in microseconds.
    service_us: BTreeMap<u64, Ewma>,
}

impl Policy for Deadline {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"))
            .reasons([
                "no deadline",
                "ranked by the time left",
                "late: it cannot be done before its deadline",
            ])
            .state_schema(1)
    }

    fn new(_: &Init, config: Config) -> Result<Self, String> {
        if config.slack_limits_ms.len() > 9 || !config.slack_limits_ms.is_sorted() {
            return Err("config: slack_limits_ms must be at most 9 rising numbers".into());
        }
        Ok(Self {
            config,
            service_us: BTreeMap::new(),
        })
    }

    fn observe(&mut self, feedback: &Feedback) {
        if feedback.is_done() {
            self.service_us
                .entry(feedback.tenant)
                .and_modify(|average| average.add(feedback.service_us, ONE_IN))
                .or_insert(Ewma::of(feedback.service_us));
        }
        if self.service_us.len() > TENANTS_MAX {
            self.service_us.pop_first();
        }
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        frame
            .lites
            .iter()
            .map(|lite| self.answer(frame, lite))
            .collect()
    }

    fn snapshot(&self) -> Option<State> {
        Some(State {
            service_us: self.service_us.clone(),
        })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.service_us = state.service_us;
        Ok(())
    }
}

impl Deadline {
    fn answer(&self, frame: &Frame, lite: &LiteView) -> Answer {
        let Some(left) = lite.expires_in() else {
            return Answer {
                band: BAND_WITHOUT,
                ..Answer::serve().because(NO_DEADLINE)
            };
        };
        // The next head has a deadline of its own: ask again for it.
        let served = Answer::serve().messages(1);
        let Some(slack) =
            left.checked_sub(self.service(frame.tenant_of(lite).tenant))
        else {
            return match self.config.late {
                Late::DeadLetter => Answer::dead_letter(),
                Late::Drop => Answer::discard(),
                Late::Serve => served.in_band(0),
            }
            .because(LATE);
        };
        // Ask again when the slack comes to the next limit, so that it moves up while it waits.
        let limits = self
            .config
            .slack_limits_ms
            .iter()
            .map(|ms| Duration::from_millis(*ms));
        let below = limits.filter(|limit| *limit <= slack);
        let (rank, next) = (below.clone().count(), below.max().unwrap_or_default());
        let band = 9 - u8::try_from(rank).unwrap_or(9).min(9);
        served
            .in_band(band)
            .valid_for((slack - next).max(Duration::from_millis(10)))
            .because(RANKED)
    }

    /// What the tenant's work takes, if that is known.
    fn service(&self, tenant: u64) -> Duration {
        let average = self.service_us.get(&tenant);
        average.map_or(Duration::ZERO, |average| {
            Duration::from_micros(average.average())
        })
    }
}

export_policy!(Deadline);

#[cfg(test)]
mod tests {
    use sluicegate_plugin_sdk::TenantView;
    use sluicegate_plugin_sdk::simulation::{Load, Outcome, Simulation};

    use super::*;

    /// Voice turns, worth nothing after two seconds, that need seven of ten slots; and a pile of summaries that have ten minutes.
    fn group() -> Simulation {
        let load = |load: Load, seconds| {
            let work = Duration::from_millis(200)..=Duration::from_millis(600);
            load.each_its_own_lite()
                .service(work)
                .expires_after(Duration::from_secs(seconds))
        };
        let voice = load(Load::poisson(Duration::from_millis(57)), 2);
        let summaries = load(Load::at_once(1_500).starting(Duration::from_secs(30)), 600);
        Simulation::new()
            .slots(10)
            .tenant("voice", voice)
            .tenant("summaries", summaries)
    }

    const SPAN: Duration = Duration::from_secs(300);

    #[test]
    fn what_has_little_time_goes_first() {
        let (fair, outcome) = (group().run_fair(SPAN), group().run::<Deadline>("", SPAN));
        outcome.assert_wait_p99_below("voice", Duration::from_millis(1_000));
        let expired = |of: &Outcome| of.tenant("voice").counts.expired;
        assert!(
            expired(&fair) > 100 && expired(&outcome) == 0,
            "{fair}\n{outcome}"
        );
        assert!(outcome.tenant("summaries").counts.done > 500, "{outcome}");
    }

    #[test]
    fn slack_decides_the_band_and_what_is_late_is_refused() {
        let mut policy = Deadline::new(&Init::default(), Config::default()).unwrap();
        policy.observe(&Feedback {
            service_us: 500_000,
            ..Feedback::default()
        });
        let answer = |left_ms: u64| {
            let lite = LiteView {
                expires_in_us: left_ms * 1_000,
                ..LiteView::default()
            };
            let frame = Frame {
                tenants: vec![TenantView::default()],
                ..Frame::default()
            };
            let Answer { verdict, band, .. } = policy.answer(&frame, &lite);
            (verdict == Answer::SERVE).then_some(band)
        };
        assert_eq!(
            [400, 600, 1_600, 6_000, 60_000].map(answer),
            [None, Some(9), Some(8), Some(7), Some(6)]
        );
    }
}
