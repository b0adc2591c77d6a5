//! The topics and groups of the example, as `sluice topic create` and `sluice group create` would make them.

use sluicegate_client::admin::{
    CreateGroup, CreateTopic, GroupSettings, LogRetention, ReclaimMode, ReclaimSettings, Retention, TopicSettings,
};
use sluicegate_client::{GroupName, TopicName};
use sluicegate_example_broker::Broker;

/// A lease that nobody extends: how long the work of a killed agent waits for another.
const LEASE_MS: u64 = 1_000;
const TEN_MINUTES_MS: u64 = 600_000;

/// Where tasks come in.
pub(crate) fn tasks() -> TopicName {
    topic("tasks")
}

/// Where the planner asks the workers.
pub(crate) fn steps() -> TopicName {
    topic("steps")
}

/// Where the workers reply.
pub(crate) fn replies() -> TopicName {
    topic("steps.replies")
}

/// Where the results are.
pub(crate) fn results() -> TopicName {
    topic("results")
}

pub(crate) fn planners() -> GroupName {
    GroupName::parse("planners").expect("a good name")
}

pub(crate) fn workers() -> GroupName {
    GroupName::parse("workers").expect("a good name")
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a good name")
}

/// Makes all of them; what is there already stays.
pub(crate) async fn set_up(broker: &Broker) -> anyhow::Result<()> {
    let admin = broker.admin()?;
    // As `--for replies` makes one.
    let kept = TopicSettings {
        retention: Retention::Log(LogRetention { age_ms: Some(TEN_MINUTES_MS), bytes: None }),
        reclaim: ReclaimSettings { mode: ReclaimMode::Idle, after_ms: TEN_MINUTES_MS },
        ..TopicSettings::default()
    };
    let asks = TopicSettings { replies: Some(replies()), ..TopicSettings::default() };
    let topics = [(replies(), kept.clone()), (results(), kept), (steps(), asks), (tasks(), TopicSettings::default())];
    for (name, settings) in topics {
        admin.create_topic(&CreateTopic { name, settings }).await?;
    }
    for (group, topic) in [(planners(), tasks()), (workers(), steps())] {
        let settings = GroupSettings { lease_ms: LEASE_MS, ..GroupSettings::default() };
        admin.create_group(&CreateGroup::new(group, topic, settings)).await?;
    }
    Ok(())
}
