//! What recent publishes of each producer became, so that a resend gets the first answer again.
//!
//! A producer that published nothing for [`RESENDS_KNOWN_FOR`] is forgotten: a row says when it is looked at, and is put again if it came back
//! since.

use std::collections::{HashMap, VecDeque};

use sluicegate_protocol::limits::{RESENDS_KNOWN_FOR, UNACKNOWLEDGED_PUBLISHES_MAX};
use sluicegate_protocol::{LiteId, Offset, ProducerId, Timestamp, TopicId};

use super::due::Due;
use super::removal::remove_all;
use super::stage::Stage;
use crate::id_hash::IdHash;
use crate::store::{Nothing, ReceiptsEndKey, ReceiptsKey, ReceiptsRow, Scan, ShardId, StoreError, StoredReceipt};

/// Producers that a shard keeps in memory; the rows of the others stay in the store.
const PRODUCERS_MAX: usize = 4_096;
/// Their receipts, of 24 bytes each.
const RECEIPTS_MAX: usize = 1 << 20;
/// Producers that are looked at in one turn.
const LOOKS_PER_TURN: usize = 16;

/// The recent publishes of one producer, by sequence.
#[derive(Debug, Default)]
struct Recent {
    receipts: VecDeque<StoredReceipt>,
    /// First sequence of each row in the store, with its highest.
    rows: VecDeque<(u64, u64)>,
    /// Receipts that the open batch took and no row has yet.
    unsaved: Vec<StoredReceipt>,
    /// The batch with the last row, and its time.
    saved: (u64, Timestamp),
    last_used: u64,
}

/// What a sequence was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// Not seen: publish it.
    New,
    /// It became this.
    Published(LiteId, Offset),
    /// It is older than any producer may resend; what became of it is forgotten.
    Forgotten,
}

/// Whose sequences these are: a producer counts for each topic on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) topic: TopicId,
    pub(crate) producer: ProducerId,
}

/// The recent publishes of all producers.
#[derive(Debug)]
pub(crate) struct Receipts {
    producers: HashMap<Source, Recent, IdHash>,
    /// Receipts in memory.
    count: usize,
    uses: u64,
    ends: Due<ReceiptsEndKey>,
}

impl Receipts {
    pub(crate) fn new(shard: ShardId) -> Self {
        let ends = Due::new(ReceiptsEndKey::of_shard(shard));
        Self { producers: HashMap::default(), count: 0, uses: 0, ends }
    }

    /// What this producer's sequence was before.
    pub(crate) fn before(&mut self, stage: &Stage, source: Source, sequence: u64) -> Result<Before, StoreError> {
        let recent = self.recent(stage, source)?;
        let Some(last) = recent.receipts.back().map(|receipt| receipt.sequence) else { return Ok(Before::New) };
        if sequence > last {
            return Ok(Before::New);
        }
        if last - sequence >= UNACKNOWLEDGED_PUBLISHES_MAX as u64 {
            return Ok(Before::Forgotten);
        }
        let found = recent.receipts.binary_search_by_key(&sequence, |receipt| receipt.sequence);
        // A gap is a publish that was refused: it left nothing, so it may be tried again.
        Ok(found.map_or(Before::New, |at| {
            let receipt = recent.receipts[at];
            Before::Published(LiteId(receipt.lite), Offset(receipt.offset))
        }))
    }

    /// Remembers a publish; [`Receipts::save`] writes it down.
    pub(crate) fn remember(&mut self, source: Source, sequence: u64, lite: LiteId, offset: Offset) {
        let recent = self.producers.get_mut(&source).expect("before was asked first");
        let receipt = StoredReceipt { sequence, lite: lite.0, offset: offset.0 };
        let at = recent.receipts.partition_point(|known| known.sequence < sequence);
        recent.receipts.insert(at, receipt);
        recent.unsaved.push(receipt);
        self.count += 1;
    }

    /// Stages what was remembered of this producer, and the end of what it cannot resend any more.
    pub(crate) fn save(&mut self, stage: &mut Stage, source: Source) {
        let Some(recent) = self.producers.get_mut(&source).filter(|recent| !recent.unsaved.is_empty()) else {
            return;
        };
        let mut receipts = std::mem::take(&mut recent.unsaved);
        receipts.sort_unstable_by_key(|receipt| receipt.sequence);
        let (first, highest) = (receipts[0].sequence, receipts[receipts.len() - 1].sequence);
        let (shard, now, Source { topic, producer }) = (stage.shard(), stage.now(), source);
        let row = ReceiptsRow { receipts, saved_at_us: now.0 };
        stage.put(&ReceiptsKey { shard, topic, producer, sequence: first }, &row);
        if recent.rows.is_empty() {
            let at = now.plus(RESENDS_KNOWN_FOR);
            stage.put(&ReceiptsEndKey { shard, at, topic, producer }, &Nothing);
            self.ends.armed(stage.number(), at);
        }
        recent.saved = (stage.number(), now);
        recent.rows.push_back((first, highest));
        let floor =
            recent.receipts.back().map_or(0, |last| last.sequence.saturating_sub(UNACKNOWLEDGED_PUBLISHES_MAX as u64));
        while recent.receipts.front().is_some_and(|receipt| receipt.sequence <= floor) {
            recent.receipts.pop_front();
            self.count -= 1;
        }
        while let Some((sequence, _)) = recent.rows.pop_front_if(|(_, highest)| *highest <= floor) {
            stage.delete(&ReceiptsKey { shard, topic, producer, sequence });
        }
        if self.count > RECEIPTS_MAX {
            self.forget_one(stage);
        }
    }

    /// The topic is deleted.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.producers.retain(|source, _| source.topic != topic);
        self.count = self.producers.values().map(|recent| recent.receipts.len()).sum();
    }

    /// When [`Receipts::delete_ended`] has something to do.
    pub(super) fn next_look(&self) -> Option<Timestamp> {
        self.ends.next()
    }

    /// The process ends: the next one forgets who did not come back.
    pub(super) fn give_up(&mut self) {
        self.ends.give_up();
    }

    /// Forgets producers that did not come back, for one turn.
    pub(super) fn delete_ended(&mut self, stage: &mut Stage) -> Result<(), StoreError> {
        self.ends.written(stage.written());
        let now = stage.now();
        if self.next_look().is_none_or(|at| at > now) {
            return Ok(());
        }
        for _ in 0..LOOKS_PER_TURN {
            let Some((end, _)) = self.ends.take(stage.store(), now)? else { break };
            stage.delete(&end);
            let source = Source { topic: end.topic, producer: end.producer };
            let prefix = ReceiptsKey::of_producer(end.shard, end.topic, end.producer);
            let saved_at = match self.producers.get(&source) {
                Some(recent) => (!recent.rows.is_empty()).then_some(recent.saved.1),
                None => last_saved(stage, source)?,
            };
            // None where its topic was deleted.
            let Some(saved_at) = saved_at else { continue };
            let at = saved_at.plus(RESENDS_KNOWN_FOR);
            if at > now {
                stage.put(&ReceiptsEndKey { at, ..end }, &Nothing);
                self.ends.armed(stage.number(), at);
                continue;
            }
            remove_all::<ReceiptsKey>(stage, &prefix)?;
            self.drop_from_memory(source);
        }
        Ok(())
    }

    fn recent(&mut self, stage: &Stage, source: Source) -> Result<&mut Recent, StoreError> {
        self.uses += 1;
        if !self.producers.contains_key(&source) {
            let recent = read(stage, source)?;
            if self.producers.len() >= PRODUCERS_MAX || self.count > RECEIPTS_MAX {
                self.forget_one(stage);
            }
            self.count += recent.receipts.len();
            self.producers.insert(source, recent);
        }
        let recent = self.producers.get_mut(&source).expect("it was there or was just inserted");
        recent.last_used = self.uses;
        Ok(recent)
    }

    /// One whose rows can be read again.
    fn forget_one(&mut self, stage: &Stage) {
        let is_stored = |recent: &Recent| recent.unsaved.is_empty() && recent.saved.0 <= stage.written();
        let stored = self.producers.iter().filter(|(_, recent)| is_stored(recent));
        if let Some((&oldest, _)) = stored.min_by_key(|(_, recent)| recent.last_used) {
            self.drop_from_memory(oldest);
        }
    }

    fn drop_from_memory(&mut self, source: Source) {
        if let Some(recent) = self.producers.remove(&source) {
            self.count -= recent.receipts.len();
        }
    }
}

/// When a producer's last row was made; none without a row.
fn last_saved(stage: &Stage, Source { topic, producer }: Source) -> Result<Option<Timestamp>, StoreError> {
    let shard = stage.shard();
    let (prefix, first) =
        (ReceiptsKey::of_producer(shard, topic, producer), ReceiptsKey { shard, topic, producer, sequence: 0 });
    let last = stage.store().last::<ReceiptsKey>(&prefix, &first)?;
    Ok(last.map(|(_, row)| Timestamp(row.saved_at_us)))
}

fn read(stage: &Stage, source: Source) -> Result<Recent, StoreError> {
    let prefix = ReceiptsKey::of_producer(stage.shard(), source.topic, source.producer);
    let mut recent = Recent::default();
    stage.store().scan(&prefix, &prefix, |key: ReceiptsKey, row: ReceiptsRow| {
        let highest = row.receipts.last().map_or(key.sequence, |receipt| receipt.sequence);
        recent.rows.push_back((key.sequence, highest));
        recent.saved.1 = recent.saved.1.max(Timestamp(row.saved_at_us));
        recent.receipts.extend(row.receipts);
        Scan::More
    })?;
    recent.receipts.make_contiguous().sort_unstable_by_key(|receipt| receipt.sequence);
    Ok(recent)
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::GroupId;
    use sluicegate_protocol::admin::GroupSettings;

    use super::super::rig::{Rig, SHARD, rows};
    use super::*;
    use crate::kept::KeptRows;
    use crate::store::{ShardRow, Store};

    const TOPIC: TopicId = TopicId(1);
    const GROUP: GroupId = GroupId(2);

    /// Rows of both tables.
    fn rows_of(store: &Store) -> (usize, usize) {
        let receipts = rows::<ReceiptsKey>(store, &ReceiptsKey::of_topic(SHARD, TOPIC));
        (receipts, rows::<ReceiptsEndKey>(store, &ReceiptsEndKey::of_shard(SHARD)))
    }

    #[tokio::test]
    async fn a_producer_that_does_not_come_back_is_forgotten_and_one_that_does_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        let groups = [(TOPIC, GROUP, GroupSettings::default())];
        let mut rig = Rig::start(&store, &groups);
        for producer in [7, 8] {
            rig.producer = ProducerId(producer);
            rig.publish_to(TOPIC, &["x".into()], None).await;
        }
        rig.publish_to(TOPIC, &["x".into()], None).await;
        assert_eq!(rows_of(&store), (3, 2));
        rig.stop().await;

        let hour = std::time::Duration::from_hours(1);
        let mut rig = Rig::start_later(&store, &groups, RESENDS_KNOWN_FOR.saturating_sub(hour));
        rig.producer = ProducerId(8);
        rig.publish_to(TOPIC, &["x".into()], None).await;
        // What it may not resend any more is gone.
        assert_eq!(rows_of(&store), (2, 2));
        rig.stop().await;

        let rig = Rig::start_later(&store, &groups, 2 * hour);
        rig.until(GROUP, |_| rows_of(&store) == (1, 1)).await;
        rig.stop().await;
        let rig = Rig::start_later(&store, &groups, RESENDS_KNOWN_FOR);
        rig.until(GROUP, |_| rows_of(&store) == (0, 0)).await;
        rig.stop().await;
    }

    #[test]
    fn nothing_is_forgotten_that_cannot_be_read_yet() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        let mut stage = Stage::new(SHARD, store, KeptRows::default(), ShardRow::default());
        let mut receipts = Receipts::new(SHARD);
        let source = |producer: usize| Source { topic: TOPIC, producer: ProducerId(producer as u128) };
        for producer in 0..PRODUCERS_MAX + 10 {
            assert_eq!(receipts.before(&stage, source(producer), 1).unwrap(), Before::New);
            receipts.remember(source(producer), 1, LiteId(producer as u64), Offset(3));
            receipts.save(&mut stage, source(producer));
        }
        for producer in 0..PRODUCERS_MAX + 10 {
            let before = receipts.before(&stage, source(producer), 1).unwrap();
            assert_eq!(before, Before::Published(LiteId(producer as u64), Offset(3)));
        }
        assert_eq!(receipts.count, PRODUCERS_MAX + 10);
    }
}
