//! A group's counters and levels, for operators and telemetry.

use sluicegate_protocol::admin::GroupStats;
use sluicegate_protocol::{Rate, Timestamp};

use super::command::GroupReport;
use super::group::Group;

impl Group {
    /// Counters and levels.
    pub(super) fn report(&self, now: Timestamp) -> GroupReport {
        let (scheduler, quotas, owed) =
            (self.scheduler.stats(), self.spec.settings.quotas, self.scheduler.quota_state());
        let stats = GroupStats {
            sessions: self.sessions.attached_count() as u64,
            in_flight: self.deadlines.len() as u64,
            waiting_lite_topics: scheduler.waiting,
            ready_lite_topics: scheduler.ready,
            held_lite_topics: scheduler.held,
            asking_lite_topics: scheduler.asking,
            backlog: scheduler.backlog,
            oldest_wait: scheduler.oldest_wait,
            gate_closed_until: scheduler.gate.filter(|until| *until > now),
            messages_left: quotas.messages.map(|rate| left(now, rate, owed.messages_tat_nanos)),
            cost_left: quotas.cost.map(|rate| left(now, rate, owed.cost_tat_nanos)),
            throttled: scheduler.throttled,
            refunds: scheduler.refunds,
            debts: scheduler.debts,
            policy_feedback_dropped: scheduler.feedback_dropped,
            ..self.stats
        };
        let policy_suspended_because = self.policy_suspended_because.clone();
        GroupReport { stats, policy_suspended_because, owes_replies: false }
    }
}

/// Units that a bucket has. What is owed is the time from now to its theoretical arrival time, a begun unit counted whole.
fn left(now: Timestamp, rate: Rate, tat_nanos: u64) -> u64 {
    let owed_nanos = u128::from(tat_nanos).saturating_sub(u128::from(now.as_micros()) * 1_000);
    let owed = owed_nanos.div_ceil(rate.unit_time().as_nanos());
    u64::from(rate.burst()).saturating_sub(u64::try_from(owed).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_the_burst_less_what_is_owed() {
        let (now, rate) = (Timestamp::from_millis(1_000), "10/s burst 5".parse().unwrap());
        let left_when_owed = |millis: u64| left(now, rate, (1_000 + millis) * 1_000_000);
        assert_eq!([0, 1, 100, 101, 500, 9_000].map(left_when_owed), [5, 4, 4, 3, 0, 0]);
        assert_eq!(left(now, rate, 0), 5, "nothing was ever taken");
    }
}
