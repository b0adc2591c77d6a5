//! What is left of groups and topics that were deleted.

use std::sync::Arc;

use sluicegate_protocol::admin::GroupSettings;
use tokio::sync::oneshot;

use super::*;
use crate::shard::rig::{self, SHARD, rows};
use crate::shard::{Command, ToProducer};
use crate::store::Store;

const KEPT: TopicId = TopicId(1);
const DOOMED: TopicId = TopicId(2);

/// A shard whose topics have their own number for a group.
struct Rig(rig::Rig);

impl std::ops::Deref for Rig {
    type Target = rig::Rig;

    fn deref(&self) -> &rig::Rig {
        &self.0
    }
}

impl std::ops::DerefMut for Rig {
    fn deref_mut(&mut self) -> &mut rig::Rig {
        &mut self.0
    }
}

impl Rig {
    fn start(store: &Arc<Store>, topics: &[TopicId]) -> Self {
        let with_group = |&topic: &TopicId| (topic, GroupId(topic.0), GroupSettings::default());
        Self(rig::Rig::start(store, &topics.iter().map(with_group).collect::<Vec<_>>()))
    }

    /// Deletes the topic and its group; answers what tells that it is done.
    async fn delete(&self) -> Vec<Told<()>> {
        let mut all = Vec::new();
        for deletion in [group_of(DOOMED), Deletion::Topic { id: DOOMED, shard: SHARD }] {
            let (has_ended, is_removed) = self.start_delete(deletion).await;
            has_ended.await.unwrap().unwrap();
            all.push(is_removed);
        }
        all
    }

    /// Deletes something; what tells that nobody is served of it, and that it is done.
    async fn start_delete(&self, deletion: Deletion) -> (Told<TakenAway>, Told<()>) {
        let ((ended, has_ended), (removed, is_removed)) = (oneshot::channel(), oneshot::channel());
        self.send(Command::Remove(RemoveRequest { deletion, ended, removed })).await;
        (has_ended, is_removed)
    }

    async fn stop(self) {
        self.0.stop().await;
    }
}

type Told<T> = oneshot::Receiver<Result<T, Refusal>>;

fn group_of(topic: TopicId) -> Deletion {
    Deletion::Group { id: GroupId(topic.0), topic, shard: SHARD }
}

/// Rows of lite topics, names, tails, messages, cursors, ready, leases, counts, buckets, receipts, idempotency keys.
fn all_rows(store: &Store) -> [usize; 11] {
    let (lite, group, topic, shard) = (LiteId(1), GroupId(1), KEPT, SHARD);
    [
        rows::<LiteKey>(store, &LiteKey::of_topic(shard, topic)),
        rows::<NameKey>(store, &NameKey { shard, lite }.encode()),
        rows::<TailKey>(store, &TailKey { shard, lite }.encode()),
        rows::<MessageKey>(store, &MessageKey::of_lite(shard, lite)),
        rows::<CursorKey>(store, &CursorKey::of_group(shard, group)),
        rows::<ReadyKey>(store, &ReadyKey::of_group(shard, group)),
        rows::<LeaseKey>(store, &LeaseKey::of_group(shard, group)),
        rows::<CountKey>(store, &CountKey { shard, topic }.encode()),
        rows::<BucketKey>(store, &BucketKey { shard, group }.encode()),
        rows::<ReceiptsKey>(store, &ReceiptsKey::of_topic(shard, topic)),
        rows::<DedupKey>(store, &DedupKey::of_lite(shard, lite)),
    ]
}

/// Lite topics of both topics by turns, and more of the doomed one in a row than a turn looks at.
async fn filled(store: &Arc<Store>) -> Rig {
    let mut rig = Rig::start(store, &[KEPT, DOOMED]);
    for doomed in [1, 3, 2_000] {
        rig.publish(KEPT, 2).await;
        rig.publish(DOOMED, doomed).await;
    }
    assert_eq!(all_rows(store), [2_010, 2_010, 0, 2_010, 2_010, 2_010, 0, 2, 0, 6, 2_010]);
    rig
}

const ROWS_OF_KEPT: [usize; 11] = [6, 6, 0, 6, 6, 6, 0, 1, 0, 3, 6];

#[tokio::test]
async fn no_row_is_left_of_a_topic_and_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), None).unwrap();
    let rig = filled(&store).await;
    for removed in rig.delete().await {
        removed.await.unwrap().unwrap();
    }
    assert_eq!(all_rows(&store), ROWS_OF_KEPT);
    rig.stop().await;
}

#[tokio::test]
async fn what_a_stop_cut_short_is_removed_by_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), None).unwrap();
    let rig = filled(&store).await;
    drop(rig.delete().await);
    rig.stop().await;
    let left = all_rows(&store);
    assert!(left[3] > ROWS_OF_KEPT[3], "it was done already: {left:?}");
    let rig = Rig::start(&store, &[KEPT]);
    for removed in rig.delete().await {
        removed.await.unwrap().unwrap();
    }
    assert_eq!(all_rows(&store), ROWS_OF_KEPT);
    rig.stop().await;
}

#[tokio::test]
async fn a_lite_topic_that_ends_in_the_batch_that_made_it_leaves_no_row() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), None).unwrap();
    let mut rig = Rig::start(&store, &[KEPT]);
    // Nothing lets the shard run between the two.
    let mut published = rig.start_publish(KEPT, 1).await;
    let (reply, deleted) = oneshot::channel();
    let lite = LiteName::parse("x1").unwrap();
    rig.send(Command::DeleteLite { topic: KEPT, lite, reply }).await;
    assert_eq!(deleted.await.unwrap().unwrap().messages, 1);
    assert!(matches!(published.recv().await, Some(ToProducer::Receipts(_))));
    // But how many lite topics there are, and what the producer sent.
    assert_eq!(all_rows(&store), [0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0]);
    rig.stop().await;
}

#[tokio::test]
async fn a_cursor_that_the_open_batch_changes_goes_with_its_group() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), None).unwrap();
    let mut rig = Rig::start(&store, &[KEPT, DOOMED]);
    rig.publish(DOOMED, 1).await;
    // Nothing lets the shard run between the two: their cursors have no row yet.
    let mut published = rig.start_publish(DOOMED, 3).await;
    let (_, removed) = rig.start_delete(group_of(DOOMED)).await;
    removed.await.unwrap().unwrap();
    assert!(matches!(published.recv().await, Some(ToProducer::Receipts(_))));
    rig.stop().await;
    // Without a group all messages are kept.
    assert_eq!(all_rows(&store), [4, 4, 0, 4, 0, 0, 0, 1, 0, 2, 4]);
}

#[tokio::test]
async fn a_cursor_that_the_open_batch_changes_goes_with_its_topic() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path(), None).unwrap();
    let mut rig = Rig::start(&store, &[KEPT, DOOMED]);
    let mut published = rig.start_publish(DOOMED, 3).await;
    let (_, group) = rig.start_delete(group_of(DOOMED)).await;
    let (_, topic) = rig.start_delete(Deletion::Topic { id: DOOMED, shard: SHARD }).await;
    for removed in [group, topic] {
        removed.await.unwrap().unwrap();
    }
    assert!(matches!(published.recv().await, Some(ToProducer::Receipts(_))));
    rig.stop().await;
    assert_eq!(all_rows(&store), [0; 11]);
}
