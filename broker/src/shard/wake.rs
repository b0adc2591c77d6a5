//! Lite topics that sleep: held for so long that only their wake row stands for them. They come back into memory some time before
//! they may be served, so that the scheduler ends the hold at its instant.

use std::time::Duration;

use sluicegate_protocol::Timestamp;

use super::group::Group;
use super::ledger::Ledger;
use super::lifecycle;
use crate::store::{StoreError, WakeKey};

/// What is held for longer sleeps.
pub(super) const AWAKE_MAX: Duration = Duration::from_mins(1);
/// How long before its time a lite topic is woken. Less than [`AWAKE_MAX`], or it would fall asleep again.
const LEAD_MICROS: u64 = 30_000_000;
/// Lite topics that one turn wakes: each is read from the store.
const WOKEN_PER_TURN: usize = if cfg!(test) { 4 } else { 64 };

impl Group {
    /// When there is one to be woken.
    pub(super) fn wakes_at(&self) -> Option<Timestamp> {
        self.wakes.next().map(|at| Timestamp(at.0.saturating_sub(LEAD_MICROS)))
    }

    /// Wakes those whose time comes.
    pub(super) fn wake(&mut self, ledger: &mut Ledger) -> Result<(), StoreError> {
        self.wakes.written(ledger.stage.written());
        let until = ledger.stage.now().plus(Duration::from_micros(LEAD_MICROS));
        for _ in 0..WOKEN_PER_TURN {
            let Some((key, _)) = self.wakes.take(ledger.stage.store(), until)? else { break };
            self.wake_one(ledger, &key)?;
        }
        Ok(())
    }

    fn wake_one(&mut self, ledger: &mut Ledger, key: &WakeKey) -> Result<(), StoreError> {
        let group = self.id();
        if ledger.lite(key.lite)?.is_none() {
            return Ok(());
        }
        let Ledger { stage, lites, .. } = &mut *ledger;
        let lite = lites.get(key.lite).expect("it was just loaded");
        // The row may be deleted by a batch that is not written yet.
        if lite.cursor(group).is_none_or(|cursor| cursor.wakes_at != Some(key.at)) {
            return Ok(());
        }
        lifecycle::awake(stage, group, lite);
        self.announce(ledger, key.lite)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use sluicegate_protocol::admin::GroupSettings;
    use sluicegate_protocol::{GroupId, Position, TopicId};
    use sluicegate_scheduler::Scope;

    use super::*;
    use crate::shard::command::Outcome;
    use crate::shard::rig::{Consumer, Rig, SHARD, rows};
    use crate::shard::{OpenLeases, Verb};
    use crate::store::{ReadyKey, Store};

    const TOPIC: TopicId = TopicId(1);
    const GROUP: GroupId = GroupId(1);
    const HOUR: Duration = Duration::from_hours(1);

    fn groups() -> [(TopicId, GroupId, GroupSettings); 1] {
        [(TOPIC, GROUP, GroupSettings::default())]
    }

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        (directory, store)
    }

    /// Ready rows and wake rows.
    fn rows_of(store: &Store) -> (usize, usize) {
        let ready = rows::<ReadyKey>(store, &ReadyKey::of_group(SHARD, GROUP));
        (ready, rows::<WakeKey>(store, &WakeKey::of_group(SHARD, GROUP)))
    }

    fn names(count: u64) -> Vec<String> {
        (0..count).map(|number| format!("x{number}")).collect()
    }

    const fn suspend(duration: Duration) -> Verb {
        Verb::Suspend(duration, OpenLeases::RunOn)
    }

    #[tokio::test]
    async fn what_is_suspended_for_long_sleeps_in_its_row_and_wakes_at_its_time() {
        let (_directory, store) = store();
        let mut rig = Rig::start(&store, &groups());
        rig.publish_to(TOPIC, &names(20), None).await;
        let mut ends = BTreeMap::new();
        for name in &names(20)[..19] {
            let change = rig.operate(GROUP, name, suspend(HOUR)).await.unwrap();
            ends.insert(name.clone(), change.lite_topic.suspensions[0].until);
        }
        let stats = rig.stats(GROUP).await;
        assert_eq!((stats.asleep_lite_topics, stats.held_lite_topics, stats.waiting_lite_topics), (19, 19, 20));
        assert_eq!((rows_of(&store), stats.backlog), ((1, 19), 20));
        // A message more wakes nobody.
        rig.publish_to(TOPIC, &names(1), None).await;
        let stats = rig.stats(GROUP).await;
        assert_eq!((stats.asleep_lite_topics, stats.backlog), (19, 21));
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 100).await;
        let order = consumer.next().await;
        assert_eq!(order.name.as_str(), "x19");
        rig.settle(&consumer, &order, Outcome::Ack).await;
        assert!(consumer.next_within(Duration::from_millis(100)).await.is_none());
        rig.stop().await;

        // Two seconds before the end they are awake, and held still.
        let rig = Rig::start_later(&store, &groups(), HOUR.saturating_sub(Duration::from_secs(2)));
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 100).await;
        rig.until(GROUP, |stats| stats.asleep_lite_topics == 0 && stats.held_lite_topics == 19).await;
        let mut delivered = Vec::new();
        for _ in 0..20 {
            let order = consumer.next().await;
            assert!(order.dispatched_at >= ends[order.name.as_str()], "{} is early", order.name);
            rig.settle(&consumer, &order, Outcome::Ack).await;
            delivered.push(Consumer::place(&order));
        }
        delivered.sort();
        delivered.dedup();
        assert_eq!(delivered.len(), 20, "nothing comes twice: {delivered:?}");
        rig.until(GROUP, |_| rows_of(&store) == (0, 0)).await;
        rig.stop().await;
    }

    #[tokio::test]
    async fn a_sleeper_that_is_resumed_early_is_served_at_once() {
        let (_directory, store) = store();
        let mut rig = Rig::start(&store, &groups());
        rig.publish_to(TOPIC, &names(1), None).await;
        rig.operate(GROUP, "x0", suspend(HOUR)).await.unwrap();
        rig.operate(GROUP, "x0", suspend(2 * HOUR)).await.unwrap();
        assert_eq!(rows_of(&store), (0, 1));
        rig.stop().await;
        let rig = Rig::start(&store, &groups());
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 1).await;
        assert!(consumer.next_within(Duration::from_millis(100)).await.is_none());
        rig.operate(GROUP, "x0", Verb::Resume(None)).await.unwrap();
        assert_eq!(rows_of(&store), (1, 0));
        let order = consumer.next().await;
        rig.settle(&consumer, &order, Outcome::Suspend(HOUR)).await;
        // Its only message is put to sleep by its consumer, then passed over by an operator.
        rig.until(GROUP, |stats| stats.asleep_lite_topics == 1).await;
        rig.operate(GROUP, "x0", Verb::Seek(Position::Latest)).await.unwrap();
        let stats = rig.until(GROUP, |_| rows_of(&store) == (0, 0)).await;
        assert_eq!((stats.asleep_lite_topics, stats.waiting_lite_topics, stats.backlog), (0, 0, 0));
        rig.stop().await;
    }

    #[tokio::test]
    async fn a_head_that_is_not_due_for_long_sleeps_and_a_shorter_hold_leaves_it_asleep() {
        let (_directory, store) = store();
        let mut rig = Rig::start(&store, &groups());
        let at = rig.now().plus(HOUR);
        rig.publish_to(TOPIC, &names(3), Some(at)).await;
        rig.until(GROUP, |stats| stats.asleep_lite_topics == 3).await;
        rig.operate(GROUP, "x0", suspend(Duration::from_secs(5))).await.unwrap();
        rig.operate(GROUP, "x1", suspend(2 * HOUR)).await.unwrap();
        assert_eq!((rig.stats(GROUP).await.asleep_lite_topics, rows_of(&store)), (3, (0, 3)));
        rig.stop().await;
        let rig = Rig::start_later(&store, &groups(), HOUR);
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 10).await;
        let mut found = [consumer.next().await, consumer.next().await].map(|order| order.name.as_str().to_owned());
        found.sort();
        assert_eq!(found, ["x0", "x2"]);
        assert!(consumer.next_within(Duration::from_millis(100)).await.is_none());
        assert_eq!(rig.stats(GROUP).await.asleep_lite_topics, 1);
        rig.stop().await;
    }
}
