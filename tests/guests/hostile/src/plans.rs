//! Plans that no policy should make.

use std::time::Duration;

use sluicegate_plugin_sdk::{Answer, Column, Frame, Plan};

/// How many bad plans were made before, and for which frame the next one is.
pub(crate) struct BadPlan<'a> {
    pub(crate) frame: &'a Frame,
    pub(crate) round: u64,
}

impl BadPlan<'_> {
    pub(crate) fn too_many_answers(&self) -> Plan {
        (0..=self.frame.lites.len()).map(|_| Answer::serve()).collect()
    }

    pub(crate) fn unknown_verdicts(&self) -> Plan {
        self.frame.lites.iter().map(|_| Answer { verdict: 99, ..Answer::serve() }).collect()
    }

    /// Of no help, but no fault: as long as the contract lets it.
    pub(crate) fn throttled_forever(&self) -> Plan {
        self.frame.lites.iter().map(|_| Answer::throttle(Duration::MAX)).collect()
    }

    /// Each field at its ends, all of which the broker clamps: whatever it is, it lets messages run.
    pub(crate) fn extremes(&self) -> Plan {
        const LEAST: Answer = Answer {
            verdict: Answer::SERVE,
            band: 0,
            max_messages: 0,
            reason: 0,
            duration_us: 0,
            valid_us: 0,
            memo: 0,
        };
        const MOST: Answer = Answer {
            verdict: Answer::SERVE,
            band: u32::MAX,
            max_messages: u32::MAX,
            reason: u32::MAX,
            duration_us: u64::MAX,
            valid_us: u64::MAX,
            memo: u64::MAX,
        };
        let kinds = [
            LEAST,
            MOST,
            Answer { verdict: Answer::THROTTLE, duration_us: 0, ..MOST },
            Answer { band: Answer::BAND_OF_HEAD, ..LEAST },
            Answer { valid_us: u64::MAX, ..LEAST },
            Answer { valid_us: 0, ..MOST },
        ];
        let round = self.round as usize;
        let answers = (0..self.frame.lites.len()).map(|row| kinds[(row + round) % kinds.len()]).collect();
        let weight = [0, u32::MAX, 1][round % 3];
        let most = |at: usize| round % 4 == at;
        Plan {
            answers,
            weights: vec![weight; self.frame.tenants.len()],
            concurrency: if most(1) { 0 } else { u32::MAX },
            concurrency_valid_us: if most(2) { 0 } else { u64::MAX },
            refresh: if most(3) { 0 } else { u32::MAX },
            columns: vec![Column { key: u32::MAX, values: vec![u64::MAX; 3] }, Column { key: 0, values: Vec::new() }],
        }
    }
}
