//! What waits in rows alone: ready rows that the group's scheduler does not know. After a start that is all of them; later those of
//! lite topics that no session takes, where many wait.
//!
//! Bringing one in needs its ready row and its cursor, which lie in order, and of most lite topics nothing else: the ready row says
//! what the head was when it was filed, and the cursor whether it still is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluicegate_protocol::{LiteId, Offset, Timestamp};
use sluicegate_scheduler::{Event, Head, Members};

use super::cursor::{Cursor, Held};
use super::group::Group;
use super::ledger::Ledger;
use super::levels::Levels;
use super::{Shard, lifecycle};
use crate::store::{CursorKey, CursorRow, Hint, Key as _, NameKey, ReadyKey, Scan, StoreError};

/// Ready rows that one turn brings in.
const PAGED_PER_TURN: usize = if cfg!(test) { 16 } else { 128 };
/// Lite topics that the scheduler knows although no session takes them: enough to be explained and listed, and their memory is
/// little.
const UNTAKEN_MAX: u64 = if cfg!(test) { 64 } else { 65_536 };
/// Entries of the scheduler that are looked at in one turn, for those that no session takes any more.
const ENTRIES_PER_TURN: usize = if cfg!(test) { 32 } else { 4_096 };
/// Cursor rows in a range are read at once if at least one in so many is wanted.
const DENSE: u64 = 8;

/// Lite topics that all shards have yet to bring before their schedulers, for whoever asks whether the broker is up.
#[derive(Debug, Default, Clone)]
pub(crate) struct Loading(Arc<AtomicU64>);

impl Loading {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn change(&self, before: u64, now: u64) {
        self.0.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }
}

impl Shard {
    /// Says how many are to be loaded, if that changed.
    pub(super) fn say_loading(&mut self) {
        let levels = &self.ledger.stage.levels;
        let now = self.groups.values().map(|group| group.to_load(levels)).sum();
        let before = std::mem::replace(&mut self.said_loading, now);
        if before != now {
            self.loading.change(before, now);
        }
    }
}

/// How far the scheduler knows what is ready.
#[derive(Debug, Default)]
pub(super) struct Paging {
    state: State,
    /// From which of the scheduler's entries on those are looked for that no session takes any more.
    leaving: Option<usize>,
}

#[derive(Debug, Default)]
enum State {
    /// It knows all.
    #[default]
    Done,
    /// It knows those before this key, or some were passed over.
    Reading { from: Vec<u8>, passed_over: bool },
    /// Some were passed over, since no session takes them.
    Waiting,
}

impl Paging {
    /// The scheduler knows nothing yet.
    pub(super) fn start(&mut self, from: Vec<u8>) {
        self.state = State::Reading { from, passed_over: false };
    }

    /// Whether there may be ready rows that the scheduler does not know.
    pub(super) fn is_behind(&self) -> bool {
        !matches!(self.state, State::Done)
    }

    /// A lite topic is not told to the scheduler.
    pub(super) fn pass_over(&mut self) {
        match &mut self.state {
            State::Done => self.state = State::Waiting,
            State::Reading { passed_over, .. } => *passed_over = true,
            State::Waiting => {}
        }
    }
}

impl Group {
    /// Lite topics that are being brought before the scheduler.
    fn to_load(&self, levels: &Levels) -> u64 {
        match self.paging.state {
            State::Reading { .. } => levels.of(self.id()).filed.saturating_sub(self.scheduler.waiting()),
            State::Done | State::Waiting => 0,
        }
    }

    /// Whether a lite topic of these members is told to the scheduler.
    pub(super) fn takes_in(&self, members: &Members) -> bool {
        self.sessions.take_all() || !members.is_empty() || self.scheduler.waiting() < UNTAKEN_MAX
    }

    /// A session takes all lite topics from now on.
    pub(super) fn taken_all(&mut self, ledger: &Ledger) {
        self.paging.leaving = None;
        if matches!(self.paging.state, State::Waiting) {
            self.paging.start(ReadyKey::of_group(ledger.stage.shard(), self.id()));
        }
    }

    /// A session is gone: what only it took need not be in memory.
    pub(super) fn session_gone(&mut self) {
        if self.scheduler.waiting() > UNTAKEN_MAX {
            self.paging.leaving = Some(0);
        }
    }

    /// Goes on with what is to come into memory, and with what is to leave it. True while there is more to do at once.
    pub(super) fn page(&mut self, ledger: &mut Ledger) -> Result<bool, StoreError> {
        self.page_out(ledger);
        let is_low = self.scheduler.waiting() < UNTAKEN_MAX / 2;
        if matches!(self.paging.state, State::Waiting) && is_low && self.paging.leaving.is_none() {
            self.paging.start(ReadyKey::of_group(ledger.stage.shard(), self.id()));
        }
        if matches!(self.paging.state, State::Reading { .. }) {
            self.page_in(ledger)?;
        }
        Ok(matches!(self.paging.state, State::Reading { .. }) || self.paging.leaving.is_some())
    }

    fn page_in(&mut self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let State::Reading { from, passed_over } = std::mem::take(&mut self.paging.state) else { return Ok(()) };
        if !self.takes_in(&Members::default()) && self.subscriptions.is_empty() {
            self.paging.state = State::Waiting;
            return Ok(());
        }
        let (mut rows, prefix) = (Vec::new(), ReadyKey::of_group(ledger.stage.shard(), self.id()));
        ledger.stage.store().scan(&prefix, &from, |key: ReadyKey, hint: Hint| {
            rows.push((key, hint));
            if rows.len() < PAGED_PER_TURN { Scan::More } else { Scan::Done }
        })?;
        let next = rows.last().filter(|_| rows.len() == PAGED_PER_TURN).map(|(key, _)| key.after());
        self.paging.state = match (next, passed_over) {
            (Some(from), passed_over) => State::Reading { from, passed_over },
            (None, true) => State::Waiting,
            (None, false) => State::Done,
        };
        rows.retain(|(key, _)| !self.scheduler.has_head(key.lite));
        let cursors = self.cursor_rows(ledger, &rows)?;
        for ((key, hint), cursor) in rows.iter().zip(cursors) {
            self.bring_in(ledger, key, hint, cursor.as_ref())?;
        }
        Ok(())
    }

    /// The cursor rows of these lite topics, which come in the order of their ids but for changes of the rank.
    fn cursor_rows(&self, ledger: &Ledger, rows: &[(ReadyKey, Hint)]) -> Result<Vec<Option<CursorRow>>, StoreError> {
        let (shard, group, store) = (ledger.stage.shard(), self.id(), ledger.stage.store());
        let mut found = Vec::with_capacity(rows.len());
        for run in rows.chunk_by(|(a, _), (b, _)| a.rank == b.rank) {
            let (first, last) = (run[0].0.lite, run[run.len() - 1].0.lite);
            if last.0 - first.0 > DENSE * run.len() as u64 {
                for (key, _) in run {
                    found.push(store.get(&CursorKey { shard, group, lite: key.lite })?);
                }
                continue;
            }
            let mut wanted = run.iter().map(|(key, _)| key.lite).peekable();
            let from = CursorKey { shard, group, lite: first }.encode();
            store.scan(&CursorKey::of_group(shard, group), &from, |key: CursorKey, row: CursorRow| {
                while wanted.next_if(|&lite| lite < key.lite).is_some() {
                    found.push(None);
                }
                if wanted.next_if_eq(&key.lite).is_some() {
                    found.push(Some(row));
                }
                if wanted.peek().is_some() { Scan::More } else { Scan::Done }
            })?;
            found.extend(wanted.map(|_| None));
        }
        Ok(found)
    }

    fn bring_in(
        &mut self,
        ledger: &mut Ledger,
        key: &ReadyKey,
        hint: &Hint,
        cursor: Option<&CursorRow>,
    ) -> Result<(), StoreError> {
        let is_in_memory = ledger.lites.get(key.lite).is_some();
        match cursor.and_then(|row| head_by_rows(hint, row)).filter(|_| !is_in_memory) {
            Some((head, cursor)) => self.list(ledger, key.lite, hint, head, &cursor),
            None => self.load_ready(ledger, key.lite, Some(key.rank)),
        }
    }

    /// Tells the scheduler of a lite topic by its rows alone.
    fn list(
        &mut self,
        ledger: &mut Ledger,
        lite: LiteId,
        hint: &Hint,
        head: Head,
        cursor: &Cursor,
    ) -> Result<(), StoreError> {
        let now = ledger.stage.now();
        let members = if self.subscriptions.is_empty() {
            Members::default()
        } else {
            match ledger.stage.store().get(&NameKey { shard: ledger.stage.shard(), lite })? {
                Some(row) => self.subscriptions.members_of(&row.name),
                None => return Ok(()), // Its topic is being deleted.
            }
        };
        if !self.takes_in(&members) {
            self.paging.pass_over();
            return Ok(());
        }
        let (tenant, _) = ledger.lites.tenant_of(lite, hint.tenant.as_deref());
        for &Held { source, until, .. } in cursor.holds().iter().filter(|held| held.until > now) {
            self.scheduler.handle(now, Event::Held { lite, tenant, source, until });
        }
        // How many more wait is known when the lite topic is next read.
        self.scheduler.handle(now, Event::Head { lite, tenant, members, head, backlog: 1 });
        Ok(())
    }

    /// Brings a lite topic that has a ready row of this rank, or should have one, before the scheduler.
    pub(super) fn load_ready(
        &mut self,
        ledger: &mut Ledger,
        lite: LiteId,
        filed: Option<u8>,
    ) -> Result<(), StoreError> {
        let id = self.id();
        if ledger.lite(lite)?.is_none() {
            return Ok(());
        }
        let Ledger { stage, lites, .. } = &mut *ledger;
        let open = lites.get(lite).expect("it was just loaded");
        if open.cursor(id).is_none() {
            return Ok(());
        }
        lifecycle::refiled(stage, id, open, filed);
        self.announce(ledger, lite)
    }

    /// Takes those out of the scheduler that no session takes any more, where it has many.
    fn page_out(&mut self, ledger: &mut Ledger) {
        let Some(from) = self.paging.leaving else { return };
        if self.sessions.take_all() || self.scheduler.waiting() <= UNTAKEN_MAX {
            self.paging.leaving = None;
            return;
        }
        let is_here = |key| self.sessions.id(key).is_some();
        let (lites, next) = self.scheduler.unnamed(from, ENTRIES_PER_TURN, is_here);
        self.paging.leaving = next;
        let (group, now) = (self.id(), ledger.stage.now());
        for lite in lites {
            if self.scheduler.waiting() <= UNTAKEN_MAX {
                break;
            }
            self.unlist(now, lite);
            self.paging.pass_over();
            if let Some(cursor) = ledger.lites.get(lite).and_then(|lite| lite.cursor(group)) {
                cursor.unlisted();
            }
        }
    }

    /// The scheduler forgets the lite topic, but for its open leases.
    pub(super) fn unlist(&mut self, now: Timestamp, lite: LiteId) {
        self.scheduler.handle(now, Event::Emptied(lite));
        self.scheduler.handle(now, Event::Resumed { lite, source: None });
    }
}

/// The head, if what the ready row says of it is still true; and the cursor. None where more must be read.
fn head_by_rows(hint: &Hint, row: &CursorRow) -> Option<(Head, Cursor)> {
    let head = hint.head?;
    let cursor = Cursor::from_row(row);
    let is_plain = !cursor.has_leases() && !cursor.leaving && cursor.wakes_at.is_none();
    let offset = Offset(head.offset);
    // The message was there when the row was filed, and is there as long as it is not settled.
    let is_head = cursor.head_offset(offset.next()) == Some(offset);
    (is_plain && is_head).then(|| {
        let head = Head {
            offset,
            published_at: Timestamp(head.published_at_us),
            priority: u8::try_from(head.priority).unwrap_or_default(),
            cost: head.cost,
            deliver_at: head.deliver_at_us.map(Timestamp),
            expires_at: head.expires_at_us.map(Timestamp),
            attempts: cursor.attempts_of(offset),
        };
        (head, cursor)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use sluicegate_protocol::admin::{Follows, GroupSettings};
    use sluicegate_protocol::{GroupId, TopicId};
    use sluicegate_scheduler::Scope;

    use super::*;
    use crate::shard::command::Outcome;
    use crate::shard::lite::Follower;
    use crate::shard::rig::{self, Consumer, Rig, SHARD, rows};
    use crate::shard::stage::Stage;
    use crate::store::{BusyKey, LevelsRow, Store};

    const TOPIC: TopicId = TopicId(1);
    const GROUP: GroupId = GroupId(1);
    const OTHER: GroupId = GroupId(2);
    const MANY: u64 = 200;

    fn one() -> [(TopicId, GroupId, GroupSettings); 1] {
        [(TOPIC, GROUP, GroupSettings::default())]
    }

    fn names(count: u64) -> Vec<String> {
        (0..count).map(|number| format!("{}/{number}", if number % 2 == 0 { "even" } else { "odd" })).collect()
    }

    fn store() -> (tempfile::TempDir, Arc<Store>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        (directory, store)
    }

    fn levels(store: &Store) -> LevelsRow {
        let key = crate::store::LevelsKey { shard: SHARD, group: GROUP };
        store.get(&key).unwrap().unwrap()
    }

    fn ready_rows(store: &Store) -> usize {
        rows::<ReadyKey>(store, &ReadyKey::of_group(SHARD, GROUP))
    }

    /// Takes so many deliveries and settles each; answers the offsets of each lite topic in the order of delivery.
    async fn drain(rig: &Rig, consumer: &mut Consumer, count: u64) -> BTreeMap<String, Vec<u64>> {
        let mut found = BTreeMap::<_, Vec<_>>::new();
        for _ in 0..count {
            let order = consumer.next().await;
            rig.settle(consumer, &order, Outcome::Ack).await;
            let (name, offset) = Consumer::place(&order);
            found.entry(name).or_default().push(offset.0);
        }
        found
    }

    #[tokio::test]
    async fn what_waits_beyond_memory_comes_once_and_in_order_also_after_a_restart() {
        let (_directory, store) = store();
        let mut rig = Rig::start(&store, &one());
        let names = names(MANY);
        for _ in 0..3 {
            rig.publish_to(TOPIC, &names, None).await;
        }
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 10).await;
        let before = drain(&rig, &mut consumer, 250).await;
        rig.detach(consumer).await;
        rig.until(GROUP, |stats| stats.in_flight == 0 && stats.backlog == 3 * MANY - 250).await;
        rig.stop().await;

        let mut rig = Rig::start(&store, &one());
        rig.publish_to(TOPIC, &names, None).await;
        let mut consumer = rig.attach(GROUP, 2, Scope::All, 10).await;
        let mut after = drain(&rig, &mut consumer, 4 * MANY - 250).await;
        for name in &names {
            let mut offsets = before.get(name).cloned().unwrap_or_default();
            offsets.extend(after.remove(name).unwrap_or_default());
            assert_eq!(offsets, [0, 1, 2, 3], "{name}");
        }
        let stats = rig.until(GROUP, |stats| stats.in_flight == 0).await;
        assert_eq!((stats.backlog, stats.waiting_lite_topics, stats.unloaded_lite_topics), (0, 0, 0));
        // Drained ready rows linger for a second.
        rig.until(GROUP, |_| ready_rows(&store) == 0).await;
        rig.stop().await;
        assert_eq!(levels(&store), LevelsRow::default());
    }

    #[tokio::test]
    async fn ready_rows_are_found_whatever_the_priorities_and_whenever_the_process_ends() {
        let (_directory, store) = store();
        let (names, mut found) = (names(40), BTreeMap::<_, Vec<_>>::new());
        let priorities = [9, 4, 0, 4, 7, 4, 4];
        for (life, &priority) in priorities.iter().enumerate() {
            let mut rig = Rig::start(&store, &one());
            rig.priority = priority;
            rig.publish_to(TOPIC, &names, None).await;
            let mut consumer = rig.attach(GROUP, 1, Scope::All, 10).await;
            // By turns all of them drain, or some; the end comes while drained rows linger.
            let count = if life % 2 == 0 { 40 } else { 25 };
            for (name, offsets) in drain(&rig, &mut consumer, count).await {
                found.entry(name).or_default().extend(offsets);
            }
            rig.detach(consumer).await;
            rig.until(GROUP, |stats| stats.in_flight == 0).await;
            rig.stop().await;
        }
        let rig = Rig::start(&store, &one());
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 10).await;
        let left = 40 * priorities.len() as u64 - found.values().map(|offsets| offsets.len() as u64).sum::<u64>();
        for (name, offsets) in drain(&rig, &mut consumer, left).await {
            found.entry(name).or_default().extend(offsets);
        }
        assert!(found.values().all(|offsets| offsets.iter().copied().eq(0..priorities.len() as u64)), "{found:?}");
        rig.until(GROUP, |_| ready_rows(&store) == 0).await;
        rig.stop().await;
        assert_eq!(levels(&store), LevelsRow::default());
    }

    #[tokio::test]
    async fn the_scheduler_knows_few_of_those_that_nobody_takes_and_all_that_somebody_does() {
        let (_directory, store) = store();
        let mut rig = Rig::start(&store, &one());
        rig.publish_to(TOPIC, &names(MANY), None).await;
        let unloaded = MANY - UNTAKEN_MAX;
        let stats = rig.until(GROUP, |stats| stats.waiting_lite_topics == MANY).await;
        assert_eq!((stats.unloaded_lite_topics, stats.ready_lite_topics, stats.backlog), (unloaded, UNTAKEN_MAX, MANY));

        let mut even = rig.attach(GROUP, 1, Scope::Named, 0).await;
        rig.subscribe(&mut even, &["odd/199".to_owned()], &["even/"]).await;
        // What it named is known beside the few that nobody takes.
        rig.until(GROUP, |stats| stats.ready_lite_topics > UNTAKEN_MAX).await;
        rig.stop().await;

        let rig = Rig::start(&store, &one());
        let mut even = rig.attach(GROUP, 1, Scope::Named, 10).await;
        rig.subscribe(&mut even, &["odd/199".to_owned()], &["even/"]).await;
        let found = drain(&rig, &mut even, MANY / 2 + 1).await;
        assert_eq!(found.len() as u64, MANY / 2 + 1);
        assert!(found.contains_key("odd/199") && found.contains_key("even/198"));
        assert!(even.next_within(Duration::from_millis(100)).await.is_none());

        let all = rig.attach(GROUP, 2, Scope::All, 0).await;
        rig.until(GROUP, |stats| stats.unloaded_lite_topics == 0 && stats.ready_lite_topics == MANY / 2 - 1).await;
        rig.detach(all).await;
        rig.until(GROUP, |stats| stats.ready_lite_topics == UNTAKEN_MAX && stats.backlog == MANY / 2 - 1).await;
        let mut all = rig.attach(GROUP, 3, Scope::All, 10).await;
        assert_eq!(drain(&rig, &mut all, MANY / 2 - 1).await.len() as u64, MANY / 2 - 1);
        rig.stop().await;
    }

    #[tokio::test]
    async fn open_leases_are_known_before_anything_else_is_read() {
        let (_directory, store) = store();
        let groups = [(TOPIC, GROUP, GroupSettings::default()), (TOPIC, OTHER, GroupSettings::default())];
        let mut rig = Rig::start(&store, &groups);
        rig.publish_to(TOPIC, &names(MANY), None).await;
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 150).await;
        let mut held = BTreeMap::new();
        for number in 0..MANY {
            let order = consumer.next().await;
            if number < 75 {
                // Which makes room for one more.
                rig.settle(&consumer, &order, Outcome::Ack).await;
            } else {
                held.insert(Consumer::place(&order), order);
            }
        }
        rig.until(GROUP, |stats| stats.in_flight == 125 && stats.backlog == 0).await;
        rig.stop().await;
        assert!(rows::<BusyKey>(&store, &BusyKey::of_group(SHARD, GROUP)) >= 2);

        let mut rig = Rig::start(&store, &groups);
        assert_eq!(rig.stats(GROUP).await.in_flight, 125);
        assert_eq!(rig.stats(OTHER).await.in_flight, 0);
        rig.publish_to(TOPIC, &names(MANY), None).await;
        // Its session is back, and settles what it held; nothing of it was delivered meanwhile.
        let mut consumer = rig.attach(GROUP, 1, Scope::All, 0).await;
        for order in held.values() {
            rig.settle(&consumer, order, Outcome::Ack).await;
        }
        let found = drain(&rig, &mut consumer, MANY).await;
        assert!(found.values().all(|offsets| *offsets == [1]), "{found:?}");
        rig.until(GROUP, |stats| stats.backlog == 0 && stats.in_flight == 0).await;
        rig.stop().await;
    }

    #[tokio::test]
    async fn what_only_a_deleted_group_held_back_goes_although_it_was_not_in_memory() {
        let (_directory, store) = store();
        let groups = [(TOPIC, GROUP, GroupSettings::default()), (TOPIC, OTHER, GroupSettings::default())];
        let mut rig = Rig::start(&store, &groups);
        rig.publish_to(TOPIC, &names(MANY), None).await;
        rig.operate(
            GROUP,
            "even/0",
            crate::shard::Verb::Suspend(Duration::from_hours(1), crate::shard::OpenLeases::RunOn),
        )
        .await
        .unwrap();
        let mut consumer = rig.attach(OTHER, 1, Scope::All, 10).await;
        drain(&rig, &mut consumer, MANY).await;
        rig.until(OTHER, |stats| stats.backlog == 0 && stats.in_flight == 0).await;
        let messages = |store: &Store| {
            let some = crate::store::MessageKey::of_lite(SHARD, LiteId(1));
            rows::<crate::store::MessageKey>(store, &some) as u64
        };
        assert_eq!(messages(&store), MANY);
        // After a start the scheduler knows them by their rows, and nothing is in memory.
        rig.stop().await;
        let rig = Rig::start(&store, &groups);
        let deletion = crate::catalog::Deletion::Group { id: GROUP, topic: TOPIC, shard: SHARD };
        let ((ended, _), (removed, is_removed)) = (tokio::sync::oneshot::channel(), tokio::sync::oneshot::channel());
        rig.send(crate::shard::Command::Remove(crate::shard::RemoveRequest { deletion, ended, removed })).await;
        is_removed.await.unwrap().unwrap();
        // Those of the other group linger for a second.
        rig.until(OTHER, |_| ready_rows(&store) == 0).await;
        rig.stop().await;
        assert_eq!(messages(&store), 0);
    }

    #[tokio::test]
    async fn lite_topics_that_are_only_read_leave_memory_although_nothing_is_written() {
        let (_directory, store) = store();
        let mut rig = Rig::start(&store, &one());
        rig.publish_to(TOPIC, &names(MANY), None).await;
        rig.stop().await;
        let row = crate::store::ShardRow::default();
        let stage = Stage::new(SHARD, Arc::clone(&store), crate::kept::KeptRows::default(), row);
        let mut ledger = Ledger::new(stage);
        ledger.topics.insert(TOPIC, rig::topic(TOPIC));
        ledger.groups_of.insert(TOPIC, vec![Follower { group: GROUP, follows: Follows::All }]);
        for id in 1..=MANY {
            let lite = ledger.lite(LiteId(id)).unwrap().unwrap();
            let visible = lite.visible;
            assert_eq!(lite.cursor(GROUP).unwrap().head_offset(visible), Some(Offset(0)));
            let written = ledger.stage.written();
            ledger.lites.evict(written);
        }
        assert!(ledger.lites.ids().len() < 40, "{} are in memory", ledger.lites.ids().len());
    }
}
