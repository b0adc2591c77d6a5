//! Earliest deadline first: what has least time left goes first, and what can no longer make it does not take the place of what can.
//!
//! For requests that are worth nothing when they come late: a voice turn, a bid, a page that somebody waits for. A message's deadline is
//! its `expires_at`.
//!
//! ```json
//! { "slack_limits_ms": [500, 2000, 10000, 60000], "late": "dead_letter", "service_default_ms": 800 }
//! ```
//!
//! | field | unit | default | range |
//! |---|---|---|---|
//! | `slack_limits_ms` | milliseconds of slack below which a head is in band 9, 8, 7, … | 1000, 5000, 30000, 120000 | 1 to 9 rising numbers, 1 to 86,400,000 |
//! | `no_deadline_band` | band of a head without a deadline | 4 | 0 to 9, or `null` for its priority |
//! | `late` | what becomes of a head that cannot make it: `dead_letter`, `drop` or `serve` | `dead_letter` | |
//! | `service_default_ms` | milliseconds that a delivery takes, until the tenant's were measured | 0 | 0 to 86,400,000 |
//! | `rerank_per_second` | lite topics that are ranked anew in a second while they wait | 5,000 | 0 to 100,000; 0 for never |
//!
//! **Slack** is the time to the deadline less what the work is likely to take: the tenant's measured service times, averaged, each new one
//! counting an eighth; those of work that was done. What is above the last limit is in the band below the last (here 5).
//!
//! Inside a band tenants share as the scheduler has it, by weight and cost: who sends a thousand urgent messages does not shut out who
//! sends one. Between bands deadlines rule, except for every 20th dispatch, which the scheduler gives to lower bands. A tenant that
//! sends all with short deadlines is served first: deadlines are trusted as priorities are.
//!
//! **Late** is what has less than no slack. It is refused on measurements (or on a default that is not 0) that are less than a minute old:
//! after that one head of the tenant is let through, to measure again, and stays so until it is delivered. What the
//! next takes that is done is the average from then on: one that a slow hour left behind refuses nobody for long.
//!
//! A head is ranked when it could run, then once its slack has come to the next limit and it is near the front; and in turn while it waits,
//! `rerank_per_second` at most. With 50,000 that wait the default ranks each anew every 10 s.
//!
//! Bound: 16,384 tenants with an average. Beyond it one of those measured longest ago is forgotten.

mod config;
mod service;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{Answer, Descriptor, Feedback, Frame, Init, LiteView, Plan, Policy, export_policy};

use crate::config::Rules;
pub use crate::config::{Config, Late};
use crate::service::{Average, ServiceTimes};

/// The shortest time in which a head is ranked again by itself, so that heads close to a limit do not ask without end.
const VALID_MIN_US: u64 = 10_000;
/// The longest.
const VALID_MAX_US: u64 = 10_000_000;
/// For so long after the last head that a shorter slack would raise, others are ranked anew.
const RERANK_FOR_US: u64 = 60_000_000;
/// More often the broker does not take it.
const REFRESH_EVERY_US: u64 = 10_000;
/// Most that one frame can have ranked anew.
const REFRESH_MAX: u64 = 1_024;

/// Index of "no deadline" in the reasons.
const NO_DEADLINE: u32 = 0;
/// Index of "by its deadline" in the reasons.
const RANKED: u32 = 1;
/// Index of "urgent" in the reasons.
const URGENT: u32 = 2;
/// Index of "late" in the reasons.
const LATE: u32 = 3;
/// Index of "late, but served" in the reasons.
const LATE_SERVED: u32 = 4;

/// The policy.
pub struct Deadline {
    rules: Rules,
    state: State,
}

/// What a new version goes on from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    times: ServiceTimes,
    /// Until when it is worth having those that wait ranked anew.
    rerank_until_us: u64,
    reranked_us: u64,
}

impl Policy for Deadline {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("deadline", env!("CARGO_PKG_VERSION"))
            .reasons([
                "no deadline",
                "ranked by the time left to its deadline",
                "urgent: hardly any time left to its deadline",
                "late: it cannot be done before its deadline",
                "late, and served all the same",
            ])
            .config_schema(config::SCHEMA)
            .state_schema(4)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        let rules = Rules::parse(config)?;
        let state = State { times: ServiceTimes::default(), rerank_until_us: 0, reranked_us: init.now_us };
        Ok(Self { rules, state })
    }

    fn observe(&mut self, feedback: &Feedback) {
        if feedback.is_done() {
            self.state.times.measured(feedback.tenant, feedback.service_us, feedback.at_us);
        }
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        let averages = frame.tenants.iter().map(|tenant| self.state.times.of(tenant.tenant));
        let mut averages: Vec<Average> = averages.map(|average| average.unwrap_or(self.rules.unmeasured)).collect();
        let answer = |lite: &LiteView| match lite.expires_in() {
            None => self.without_deadline(),
            Some(_) => self.by_deadline(lite, &mut averages[lite.tenant as usize], frame.now_us),
        };
        let answers: Vec<Answer> = frame.lites.iter().map(answer).collect();
        for (tenant, average) in frame.tenants.iter().zip(averages) {
            if average.was_let_through(frame.now_us) {
                self.state.times.let_through(tenant.tenant, frame.now_us);
            }
        }
        if answers.iter().any(|answer| answer.reason == RANKED) {
            self.state.rerank_until_us = frame.now_us.saturating_add(RERANK_FOR_US);
        }
        let refresh = self.refresh(frame.now_us);
        Plan { answers, ..Plan::default() }.refresh(refresh)
    }

    fn snapshot(&self) -> Option<State> {
        Some(self.state.clone())
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        if state.times.are_too_many() {
            return Err("it has averages of more tenants than this version keeps".into());
        }
        self.state = state;
        Ok(())
    }
}

impl Deadline {
    fn without_deadline(&self) -> Answer {
        let answer = Answer::serve().messages(1).because(NO_DEADLINE);
        self.rules.no_deadline_band.map_or(answer, |band| answer.in_band(band))
    }

    fn by_deadline(&self, lite: &LiteView, average: &mut Average, now_us: u64) -> Answer {
        let Some(slack_us) = lite.expires_in_us.checked_sub(average.service_us()) else {
            return self.late(lite, average, now_us);
        };
        let (band, falls_at_us) = self.rules.band(slack_us);
        let valid_us = (slack_us - falls_at_us).clamp(VALID_MIN_US, VALID_MAX_US);
        let reason = if band == 9 { URGENT } else { RANKED };
        // The head after this one has a deadline of its own.
        Answer { valid_us, ..Answer::serve().in_band(band).messages(1).because(reason) }
    }

    fn late(&self, lite: &LiteView, average: &mut Average, now_us: u64) -> Answer {
        let served = Answer::serve().in_band(9).messages(1).because(LATE_SERVED);
        let let_through = let_through_memo(lite);
        if lite.memo == let_through {
            return served.remember(let_through);
        }
        if average.is_old(now_us) {
            average.let_through(now_us);
            return served.remember(let_through);
        }
        match self.rules.late {
            Late::Serve => served,
            Late::DeadLetter => Answer::dead_letter().because(LATE),
            Late::Drop => Answer::discard().because(LATE),
        }
    }

    /// How many lite topics to have ranked anew: what has come together since the last time.
    fn refresh(&mut self, now_us: u64) -> u32 {
        let passed_us = now_us.saturating_sub(self.state.reranked_us).min(1_000_000);
        let due = (passed_us * self.rules.rerank_per_second / 1_000_000).min(REFRESH_MAX);
        if now_us > self.state.rerank_until_us || passed_us < REFRESH_EVERY_US || due == 0 {
            return 0;
        }
        self.state.reranked_us = now_us;
        u32::try_from(due).expect("it is at most 1,024")
    }
}

/// Says of which delivery the memo speaks: the head's offset + 1, and its attempt. Never 0.
fn let_through_memo(lite: &LiteView) -> u64 {
    (lite.head_offset.wrapping_add(1) << 16) | u64::from(lite.attempts & 0xffff)
}

export_policy!(Deadline);

#[cfg(test)]
mod tests;
