//! The end of groups and topics: written down first; then nobody finds them; then their rows go, which may take a while.

use std::sync::Arc;

use sluicegate_protocol::admin::{DeletedGroup, DeletedTopic, Dependents};
use sluicegate_protocol::{ErrorCode, GroupName, TopicId, TopicName};
use tokio::sync::oneshot;

use super::Control;
use crate::broker::{send, stopping};
use crate::catalog::{Deletion, GroupSpec, TopicSpec};
use crate::refusal::Refusal;
use crate::shard::{Command, RemoveRequest, ShardId, TakenAway};
use crate::store::{Batch, ControlKind};

impl Control {
    /// Goes on with what the process before did not finish.
    pub(super) async fn resume_deletions(&mut self) {
        for deletion in self.catalog.deletions.clone() {
            tracing::info!(?deletion, "removing what is left");
            // A shard that is gone or has failed: the next start tries again.
            let _ = self.remove(deletion).await;
        }
    }

    pub(super) async fn delete_group(
        &mut self,
        name: &GroupName,
        dead_letters: Dependents,
    ) -> Result<DeletedGroup, Refusal> {
        let group = Arc::clone(self.group(name)?);
        let dead = self.catalog.topic(group.dead_letter).filter(|_| dead_letters == Dependents::Delete);
        let topics = dead.map_or_else(Vec::new, |dead| self.catalog.with_dead_letters(dead));
        if let Some(consumer) = self.consumers(&topics).first() {
            let why = format!("group `{}` consumes the dead letters of `{name}`: delete it first", consumer.name);
            return Err(in_use(&why, consumer));
        }
        let TakenAway { leases, .. } = self.take_away(&topics, &[group]).await?;
        tracing::info!(group = %name, leases, "group deleted");
        Ok(DeletedGroup { name: name.clone(), leases, dead_letter_topics: names(&topics) })
    }

    pub(super) async fn delete_topic(&mut self, name: &TopicName, groups: Dependents) -> Result<DeletedTopic, Refusal> {
        let unknown = || Refusal::new(ErrorCode::UnknownTopic, format!("topic `{name}` does not exist"));
        let topic = self.catalog.topics.get(name.as_str()).cloned().ok_or_else(unknown)?;
        let topics = self.catalog.with_dead_letters(&topic);
        let consumers = self.consumers(&topics);
        if let Some(consumer) = consumers.first().filter(|_| groups == Dependents::Keep) {
            let why = "delete it first, or with the topic (groups=delete)";
            let why = format!("group `{}` consumes topic `{name}` or its dead letters: {why}", consumer.name);
            return Err(in_use(&why, consumer));
        }
        let needs = |group: &&Arc<GroupSpec>| is_among(&topics, group.dead_letter) && !consumers.contains(group);
        if let Some(needing) = self.catalog.groups.values().find(needs) {
            let why = format!("topic `{name}` takes what group `{}` cannot process: delete that first", needing.name);
            return Err(in_use(&why, needing));
        }
        let answered =
            |asked: &&Arc<TopicSpec>| asked.settings.replies.as_ref() == Some(name) && !is_among(&topics, asked.id);
        if let Some(asked) = self.catalog.topics.values().find(answered) {
            let why =
                format!("topic `{name}` takes the replies to requests of topic `{}`: delete that first", asked.name);
            return Err(Refusal::new(ErrorCode::InUse, why).detail("topic", &asked.name));
        }
        let TakenAway { lite_topics, .. } = self.take_away(&topics, &consumers).await?;
        tracing::info!(topic = %name, lite_topics, groups = consumers.len(), "topic deleted");
        let dead_letters: Vec<_> = topics.into_iter().filter(|dead| dead.id != topic.id).collect();
        Ok(DeletedTopic {
            name: name.clone(),
            lite_topics,
            groups: consumers.iter().map(|group| group.name.clone()).collect(),
            dead_letter_topics: names(&dead_letters),
        })
    }

    fn consumers(&self, topics: &[Arc<TopicSpec>]) -> Vec<Arc<GroupSpec>> {
        self.catalog.groups.values().filter(|group| is_among(topics, group.topic)).cloned().collect()
    }

    /// From when this is written, they are gone: what a crash cuts short, the next start goes on with.
    async fn take_away(&mut self, topics: &[Arc<TopicSpec>], groups: &[Arc<GroupSpec>]) -> Result<TakenAway, Refusal> {
        let shard = |group: &GroupSpec| ShardId(u16::try_from(self.shard_of(group)).expect("shards are at most 1024"));
        let of_group =
            |group: &Arc<GroupSpec>| Deletion::Group { id: group.id, topic: group.topic, shard: shard(group) };
        let of_topic = |topic: &Arc<TopicSpec>| Deletion::Topic { id: topic.id, shard: topic.shard };
        let deletions: Vec<_> = groups.iter().map(of_group).chain(topics.iter().map(of_topic)).collect();
        let mut batch = Batch::new(&self.store);
        for group in groups {
            batch.delete_control(ControlKind::Group, group.name.as_str());
        }
        for topic in topics {
            batch.delete_control(ControlKind::Topic, &topic.name);
        }
        for deletion in &deletions {
            batch.put_control(ControlKind::Deletion, &deletion.key(), deletion);
        }
        self.write(batch).await?;
        for group in groups {
            self.catalog.groups.remove(&group.name);
        }
        for topic in topics {
            self.catalog.topics.remove(&topic.name);
        }
        self.show();
        let mut all = TakenAway::default();
        for deletion in deletions {
            let ended = self.remove(deletion).await?;
            all.leases += ended.leases;
            all.lite_topics += ended.lite_topics;
        }
        Ok(all)
    }

    /// Lets the shard remove what is deleted. The answer comes when nobody is served of it any more.
    pub(super) async fn remove(&mut self, deletion: Deletion) -> Result<TakenAway, Refusal> {
        self.catalog.deletions.insert(deletion);
        let ((ended, has_ended), (removed, is_removed)) = (oneshot::channel(), oneshot::channel());
        let shard = &self.shards[usize::from(deletion.shard().0)];
        send(shard, Command::Remove(RemoveRequest { deletion, ended, removed })).await?;
        self.removing.spawn(async move { matches!(is_removed.await, Ok(Ok(()))).then_some(deletion) });
        has_ended.await.map_err(|_| stopping())?
    }

    /// No row is left of it.
    pub(super) async fn removed(&mut self, deletion: Deletion) {
        let mut batch = Batch::new(&self.store);
        batch.delete_control(ControlKind::Deletion, &deletion.key());
        match self.write(batch).await {
            Ok(()) => drop(self.catalog.deletions.remove(&deletion)),
            // The next start looks for its rows again, and finds none.
            Err(refusal) => tracing::warn!(?deletion, %refusal, "the end of a deletion could not be written"),
        }
    }
}

fn is_among(topics: &[Arc<TopicSpec>], id: TopicId) -> bool {
    topics.iter().any(|topic| topic.id == id)
}

fn names(topics: &[Arc<TopicSpec>]) -> Vec<TopicName> {
    topics.iter().map(|topic| topic.topic_name()).collect()
}

fn in_use(why: &str, group: &GroupSpec) -> Refusal {
    Refusal::new(ErrorCode::InUse, why).detail("group", group.name.as_str())
}
