//! What a shard tells a scrape: copies of what it counts. No list of lite topics is looked through.

use std::time::Duration;

use sluicegate_protocol::GroupId;

use super::{Group, GroupReport, Ledger, Shard};
use crate::metrics::{GroupSample, ShardSample};

impl Shard {
    pub(super) fn sample(&mut self, groups: &[GroupId]) -> ShardSample {
        ShardSample {
            groups: groups
                .iter()
                .filter_map(|id| self.groups.get(id).map(|group| sample(group, &self.ledger)))
                .collect(),
            lite_topics: self.ledger.stage.counts.lite_topics(),
            lite_topics_reclaimed: self.reclaimed_so_far,
            published: self.published_so_far,
        }
    }
}

fn sample(group: &Group, ledger: &Ledger) -> GroupSample {
    let GroupReport { stats, policy_runs, shadow, .. } = group.report(ledger);
    let now = ledger.stage.now();
    let mut meters = group.meters;
    meters.gate(now, stats.gate_closed_until);
    let shadow = shadow.map(|shadow| shadow.figures);
    let oldest_wait = stats.oldest_wait.map_or(Duration::ZERO, |since| now.since(since));
    GroupSample { group: group.id(), stats, meters, oldest_wait, policy_runs, shadow }
}
