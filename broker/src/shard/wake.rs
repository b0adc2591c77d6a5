//! Lite topics that sleep: held for so long that only their wake row stands for them. They come back into memory some time before
//! they may be served, so that the scheduler ends the hold at its instant.

use std::collections::VecDeque;
use std::time::Duration;

use sluicegate_protocol::Timestamp;

use super::group::Group;
use super::ledger::Ledger;
use super::lifecycle;
use super::stage::Stage;
use crate::store::{Key as _, Scan, StoreError, WakeKey};

/// What is held for longer sleeps.
pub(super) const AWAKE_MAX: Duration = Duration::from_mins(1);
/// How long before its time a lite topic is woken. Less than [`AWAKE_MAX`], or it would fall asleep again.
const LEAD: Duration = Duration::from_secs(30);
/// Lite topics that one turn wakes: each is read from the store.
const WOKEN_PER_TURN: usize = if cfg!(test) { 4 } else { 64 };

/// When the first of a group's lite topics wakes.
#[derive(Debug, Default)]
pub(super) struct Wakes {
    next: Option<Timestamp>,
    /// Rows before this key are dealt with: what falls asleep now wakes later.
    floor: Vec<u8>,
    /// Rows that a scan may not see yet: the batch that writes each, and its time.
    unwritten: VecDeque<(u64, Timestamp)>,
}

impl Wakes {
    /// What the rows say at a start.
    pub(super) fn read(ledger: &Ledger, prefix: Vec<u8>) -> Result<Self, StoreError> {
        let mut next = None;
        ledger.stage.store().scan(&prefix, &prefix, |key: WakeKey, _| {
            next = Some(key.at);
            Scan::Done
        })?;
        Ok(Self { next, floor: prefix, unwritten: VecDeque::new() })
    }

    /// A wake row is staged.
    pub(super) fn asleep(&mut self, stage: &Stage, at: Timestamp) {
        let written = stage.written();
        while self.unwritten.pop_front_if(|(batch, _)| *batch <= written).is_some() {}
        self.unwritten.push_back((stage.number(), at));
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }

    /// When there is one to be woken.
    pub(super) fn due_at(&self) -> Option<Timestamp> {
        self.next.map(|at| Timestamp(at.0.saturating_sub(u64::try_from(LEAD.as_micros()).expect("it is short"))))
    }
}

impl Group {
    /// Wakes those whose time comes.
    pub(super) fn wake(&mut self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let now = ledger.stage.now();
        if self.wakes.due_at().is_none_or(|at| at > now) {
            return Ok(());
        }
        let prefix = WakeKey::of_group(ledger.stage.shard(), self.id());
        let from = if self.wakes.floor.is_empty() { &prefix } else { &self.wakes.floor };
        let (until, mut due, mut next) = (now.plus(LEAD), Vec::new(), None);
        ledger.stage.store().scan(&prefix, from, |key: WakeKey, _| {
            if key.at > until || due.len() == WOKEN_PER_TURN {
                next = Some(key.at);
                return Scan::Done;
            }
            due.push(key);
            Scan::More
        })?;
        if let Some(last) = due.last() {
            self.wakes.floor = last.after();
        }
        let written = ledger.stage.written();
        let unwritten = self.wakes.unwritten.iter().filter(|(batch, _)| *batch > written).map(|(_, at)| *at).min();
        self.wakes.next = next.into_iter().chain(unwritten).min();
        for key in due {
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
    use std::sync::Arc;

    use sluicegate_protocol::admin::{GroupSettings, SeekTo};
    use sluicegate_protocol::{GroupId, TopicId};
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
        for name in &names(20)[..19] {
            rig.operate(GROUP, name, suspend(HOUR)).await.unwrap();
        }
        let ends = rig.now().plus(HOUR);
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
            assert!(
                order.dispatched_at.plus(Duration::from_millis(500)) >= ends,
                "{:?} before {ends:?}",
                order.dispatched_at
            );
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
        rig.operate(GROUP, "x0", Verb::Seek(SeekTo::Latest)).await.unwrap();
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
