//! A scrape: asks all shards at once, waits for a bounded time, prints.

use std::collections::HashMap;
use std::time::Duration;

use sluicegate_protocol::GroupId;
use sluicegate_protocol::admin::HealthStatus;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::group::GroupSample;
use super::histogram::Histogram;
use super::process::{Published, ShardSample};
use super::{GROUPS_MAX, text};
use crate::broker::Broker;
use crate::shard::{Command, ShardHandle};
use crate::store::StoreMemory;

/// How long a scrape waits for its shards. One that is busier for so long is missing in it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Everything that one scrape prints.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) groups: Vec<Group>,
    pub(super) groups_left_out: u64,
    pub(super) topics: u64,
    pub(super) lite_topics: u64,
    pub(super) lite_topics_reclaimed: u64,
    pub(super) deletions: u64,
    pub(super) published: Published,
    pub(super) shards_missing: u64,
    pub(super) connections: u64,
    pub(super) readers: u64,
    pub(super) read_messages: u64,
    pub(super) commits: u64,
    pub(super) syncs: Histogram,
    pub(super) store_memory: StoreMemory,
    pub(super) health: HealthStatus,
}

/// A group with its labels.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) topic: String,
    pub(super) sample: GroupSample,
}

/// All metrics as text.
pub(crate) async fn scrape(broker: &Broker) -> String {
    let catalog = broker.catalog();
    let shown: Vec<_> = catalog.groups.values().take(GROUPS_MAX).collect();
    let mut wanted = vec![Vec::new(); broker.shards().len()];
    let mut labels = HashMap::new();
    for group in shown {
        // A group's topic may be gone between two pictures of the catalog.
        let Some(topic) = catalog.topic(group.topic) else { continue };
        wanted[usize::from(topic.shard.0)].push(group.id);
        labels.insert(group.id, (group.name.as_str().to_owned(), topic.name.clone()));
    }
    let (samples, shards_missing) = ask(broker.shards(), wanted).await;
    let mut figures = Figures {
        groups: Vec::with_capacity(labels.len()),
        groups_left_out: catalog.groups.len().saturating_sub(GROUPS_MAX) as u64,
        topics: catalog.topics.len() as u64,
        lite_topics: 0,
        lite_topics_reclaimed: 0,
        deletions: catalog.deletions.len() as u64,
        published: Published::default(),
        shards_missing,
        connections: broker.meters.connections(),
        readers: broker.meters.readers(),
        read_messages: broker.meters.read_messages(),
        commits: broker.meters.commits(),
        syncs: broker.meters.syncs(),
        store_memory: broker.store.memory(),
        health: broker.health().0,
    };
    for shard in samples {
        figures.lite_topics += shard.lite_topics;
        figures.lite_topics_reclaimed += shard.lite_topics_reclaimed;
        figures.published.messages += shard.published.messages;
        figures.published.bytes += shard.published.bytes;
        for sample in shard.groups {
            let Some((name, topic)) = labels.remove(&sample.group) else { continue };
            figures.groups.push(Group { name, topic, sample });
        }
    }
    figures.groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    text::print(figures)
}

/// What the shards answer, and how many did not in time.
async fn ask(shards: &[ShardHandle], wanted: Vec<Vec<GroupId>>) -> (Vec<ShardSample>, u64) {
    let mut asking = JoinSet::new();
    for (shard, groups) in shards.iter().cloned().zip(wanted) {
        asking.spawn(tokio::time::timeout(PATIENCE, async move {
            let (reply, sample) = oneshot::channel();
            shard.send(Command::Sample { groups, reply }).await.ok()?;
            sample.await.ok()
        }));
    }
    let (mut samples, mut missing) = (Vec::with_capacity(shards.len()), 0);
    while let Some(answered) = asking.join_next().await {
        match answered {
            Ok(Ok(Some(sample))) => samples.push(sample),
            // Too busy, or ending; this task's only part that could panic is none of ours.
            Ok(Ok(None) | Err(_)) | Err(_) => missing += 1,
        }
    }
    (samples, missing)
}
