//! A group's counters and levels, for operators and telemetry.

use sluicegate_protocol::Timestamp;
use sluicegate_protocol::admin::GroupStats;

use super::command::GroupReport;
use super::group::Group;

impl Group {
    /// Counters and levels.
    pub(super) fn report(&self, now: Timestamp) -> GroupReport {
        let (scheduler, quotas) = (self.scheduler.stats(), self.spec.settings.quotas);
        let (messages_left, cost_left) = self.scheduler.quota_left(now);
        let stats = GroupStats {
            sessions: self.sessions.attached_count() as u64,
            in_flight: self.deadlines.len() as u64,
            waiting_lite_topics: scheduler.waiting,
            ready_lite_topics: scheduler.ready,
            held_lite_topics: scheduler.held,
            asking_lite_topics: scheduler.asking,
            backlog: scheduler.backlog,
            oldest_wait: scheduler.oldest_wait,
            service_gap: self.scheduler.service_gap(),
            gate_closed_until: scheduler.gate.filter(|until| *until > now),
            messages_left: quotas.messages.map(|_| messages_left),
            cost_left: quotas.cost.map(|_| cost_left),
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
