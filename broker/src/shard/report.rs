//! A group's counters and levels, for operators and telemetry.

use sluicegate_protocol::admin::GroupStats;

use super::command::GroupReport;
use super::group::Group;
use super::ledger::Ledger;
use crate::policy::BoundPolicy;

impl Group {
    /// Counters and levels.
    pub(super) fn report(&self, ledger: &Ledger) -> GroupReport {
        let (now, levels) = (ledger.stage.now(), ledger.stage.levels.of(self.id()));
        let unloaded = if self.paging.is_behind() { levels.filed.saturating_sub(self.scheduler.waiting()) } else { 0 };
        let (scheduler, quotas) = (self.scheduler.stats(), self.spec.settings.quotas);
        let (messages_left, cost_left) = self.scheduler.quota_left(now);
        let stats = GroupStats {
            sessions: self.sessions.attached_count() as u64,
            in_flight: self.deadlines.len() as u64,
            waiting_lite_topics: scheduler.waiting + levels.asleep + unloaded,
            unloaded_lite_topics: unloaded,
            asleep_lite_topics: levels.asleep,
            ready_lite_topics: scheduler.ready,
            held_lite_topics: scheduler.held + levels.asleep,
            asking_lite_topics: scheduler.asking,
            backlog: levels.unsettled.saturating_sub(self.deadlines.len() as u64),
            oldest_wait: scheduler.oldest_wait,
            service_gap: self.scheduler.service_gap(),
            gate_closed_until: scheduler.gate.filter(|until| *until > now),
            messages_left: quotas.messages.map(|_| messages_left),
            cost_left: quotas.cost.map(|_| cost_left),
            throttled: scheduler.throttled,
            policy_starved: scheduler.starved,
            refunds: scheduler.refunds,
            debts: scheduler.debts,
            policy_feedback_dropped: scheduler.feedback_dropped + self.stats.policy_feedback_dropped,
            ..self.stats
        };
        let policy_suspended_because = self.deciding.suspended_because.clone();
        let policy_runs = self.deciding.policy.as_ref().map(BoundPolicy::runs);
        GroupReport {
            stats,
            policy_suspended_because,
            policy_runs,
            last_strike: self.last_strike.clone(),
            shadow: self.shadow(),
            owes_replies: false,
        }
    }
}
