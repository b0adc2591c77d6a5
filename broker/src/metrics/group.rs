//! What a shard counts for a group beside [`GroupStats`], and the copy that a scrape gets.

use std::time::Duration;

use sluicegate_protocol::admin::{GroupStats, PolicyRuns, ShadowFigures};
use sluicegate_protocol::{GroupId, Timestamp};

use super::histogram::Histogram;

/// How a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Ack,
    Retry,
    Suspend,
    DeadLetter,
    /// Its deadline or its session's grace passed.
    Expired,
    /// Its consumer closed in order without settling.
    Returned,
    /// An operator took it away, or a newer owner of the lite topic.
    Revoked,
}

/// Why a message went to the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buried {
    Consumer,
    /// It was tried as often as the group allows.
    Attempts,
    Policy,
    /// Its `expires_at` passed.
    Expired,
}

/// Why a message was settled without delivery and without a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Skipped {
    Policy,
    /// Its `expires_at` passed.
    Expired,
    /// By skip, seek or purge.
    Operator,
    /// It was the first of a log that was too old or had too many bytes.
    Trimmed,
    /// Who asked wants no reply any more.
    Cancelled,
}

impl Ended {
    pub(super) const ALL: [(Self, &'static str); 7] = [
        (Self::Ack, "ack"),
        (Self::Retry, "retry"),
        (Self::Suspend, "suspend"),
        (Self::DeadLetter, "dead_letter"),
        (Self::Expired, "expired"),
        (Self::Returned, "returned"),
        (Self::Revoked, "revoked"),
    ];
}

impl Buried {
    pub(super) const ALL: [(Self, &'static str); 4] = [
        (Self::Consumer, "consumer"),
        (Self::Attempts, "attempts"),
        (Self::Policy, "policy"),
        (Self::Expired, "expired"),
    ];
}

impl Skipped {
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::Policy, "policy"),
        (Self::Expired, "expired"),
        (Self::Operator, "operator"),
        (Self::Trimmed, "trimmed"),
        (Self::Cancelled, "cancelled"),
    ];
}

/// Counters of one group since the broker started. Its shard owns them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct GroupMeters {
    ended: [u64; Ended::ALL.len()],
    buried: [u64; Buried::ALL.len()],
    skipped: [u64; Skipped::ALL.len()],
    /// From when a message could be had to its dispatch.
    pub(crate) wait: Histogram,
    /// From dispatch to settle.
    pub(crate) service: Histogram,
    gate_closed: Duration,
    /// The gate closed here, and opens then.
    gate: Option<(Timestamp, Timestamp)>,
}

impl GroupMeters {
    pub(crate) fn ended(&mut self, how: Ended) {
        self.ended[how as usize] += 1;
    }

    pub(crate) fn buried(&mut self, why: Buried) {
        self.buried[why as usize] += 1;
    }

    pub(crate) fn skipped(&mut self, why: Skipped, count: u64) {
        self.skipped[why as usize] += count;
    }

    /// The quotas keep the gate closed until then, or not at all; to be told after each dispatch.
    pub(crate) fn gate(&mut self, now: Timestamp, closed_until: Option<Timestamp>) {
        if let Some((since, until)) = self.gate.take() {
            self.gate_closed += now.min(until).since(since);
        }
        self.gate = closed_until.filter(|&until| until > now).map(|until| (now, until));
    }
}

/// What a scrape gets of one group.
#[derive(Debug, Clone)]
pub(crate) struct GroupSample {
    pub(crate) group: GroupId,
    pub(crate) stats: GroupStats,
    pub(crate) meters: GroupMeters,
    /// How long the head waits that waits longest; 0 when none does.
    pub(crate) oldest_wait: Duration,
    /// Where the frames of its policy are answered; none without one.
    pub(crate) policy_runs: Option<PolicyRuns>,
    /// What came of its shadow; none without one.
    pub(crate) shadow: Option<ShadowFigures>,
}

impl GroupSample {
    pub(super) fn ended(&self, how: Ended) -> u64 {
        self.meters.ended[how as usize]
    }

    pub(super) fn buried(&self, why: Buried) -> u64 {
        self.meters.buried[why as usize]
    }

    pub(super) fn skipped(&self, why: Skipped) -> u64 {
        self.meters.skipped[why as usize]
    }

    pub(super) fn gate_closed_seconds(&self) -> f64 {
        self.meters.gate_closed.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_where_their_counters_are() {
        assert!(Ended::ALL.iter().enumerate().all(|(index, (ended, _))| *ended as usize == index));
        assert!(Buried::ALL.iter().enumerate().all(|(index, (buried, _))| *buried as usize == index));
        assert!(Skipped::ALL.iter().enumerate().all(|(index, (skipped, _))| *skipped as usize == index));
    }

    #[test]
    fn the_gate_counts_while_it_is_closed_and_no_longer() {
        let (mut meters, at) = (GroupMeters::default(), Timestamp::from_millis);
        meters.gate(at(1_000), Some(at(1_500)));
        meters.gate(at(1_200), Some(at(1_500)));
        meters.gate(at(2_000), None);
        meters.gate(at(3_000), None);
        assert_eq!(meters.gate_closed, Duration::from_millis(500));
    }
}
