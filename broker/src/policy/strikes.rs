//! How often a policy failed: when a new guest may be made, and when there were too many.

use std::collections::VecDeque;
use std::time::Duration;

use sluicegate_protocol::Timestamp;

use super::fault::PolicyFault;

/// Faults within [`STRIKES_WITHIN`] that open the breaker.
const STRIKES_MAX: usize = 3;
/// See [`STRIKES_MAX`].
const STRIKES_WITHIN: Duration = Duration::from_mins(1);
/// After the first strike in a minute a new guest is made at once, after the next one so much later.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// A fault, counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault} (strike {strikes} in a minute)")]
pub(crate) struct Strike {
    /// What happened.
    pub(crate) fault: PolicyFault,
    /// Faults in the last minute, this one included.
    pub(crate) strikes: usize,
    /// There were too many, or no new guest could be made: unbind the policy.
    pub(crate) open: bool,
    /// The capsule that it left.
    pub(crate) capsule: String,
}

/// The strikes of one binding, of the last minute.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    at: VecDeque<Timestamp>,
}

impl Strikes {
    /// Counts one more, and answers how many there were in the last minute.
    pub(super) fn count(&mut self, now: Timestamp) -> usize {
        self.at.retain(|at| now.since(*at) < STRIKES_WITHIN);
        self.at.push_back(now);
        self.at.len()
    }

    /// There were too many.
    pub(super) fn are_too_many(&self) -> bool {
        self.at.len() >= STRIKES_MAX
    }

    /// When a new guest may be made, after the last strike.
    pub(super) fn restart_from(&self, now: Timestamp) -> Timestamp {
        match self.at.len() {
            0 | 1 => now,
            _ => now.plus(RESTART_AFTER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_strikes_within_a_minute_are_too_many_and_after_the_second_a_guest_is_made_later() {
        let (mut strikes, at) = (Strikes::default(), |second: u64| Timestamp::from_millis(1_000 * second));
        let told = [0, 50, 61, 70].map(|second| {
            let counted = strikes.count(at(second));
            (counted, strikes.are_too_many(), strikes.restart_from(at(second)))
        });
        let expected = [(1, false, at(0)), (2, false, at(51)), (2, false, at(62)), (3, true, at(71))];
        assert_eq!(told, expected);
    }
}
