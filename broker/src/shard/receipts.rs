//! What recent publishes of each producer became, so that a resend gets the first answer again.

use std::collections::{HashMap, VecDeque};

use sluicegate_protocol::limits::UNACKNOWLEDGED_PUBLISHES_MAX;
use sluicegate_protocol::{LiteId, Offset, ProducerId, TopicId};

use super::stage::Stage;
use crate::id_hash::IdHash;
use crate::store::{ReceiptsKey, ReceiptsRow, Scan, StoreError, StoredReceipt};

/// Producers that a shard keeps in memory; the rows of the others stay in the store.
const PRODUCERS_MAX: usize = 4_096;

/// The recent publishes of one producer, by sequence.
#[derive(Debug, Default)]
struct Recent {
    receipts: VecDeque<StoredReceipt>,
    /// First sequence of each row in the store, with its highest.
    rows: VecDeque<(u64, u64)>,
    /// Receipts that the open batch took and no row has yet.
    unsaved: Vec<StoredReceipt>,
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
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    producers: HashMap<Source, Recent, IdHash>,
    uses: u64,
}

impl Receipts {
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
    }

    /// Stages what was remembered of this producer, and the end of what it cannot resend any more.
    pub(crate) fn save(&mut self, stage: &mut Stage, source: Source) {
        let Some(recent) = self.producers.get_mut(&source).filter(|recent| !recent.unsaved.is_empty()) else {
            return;
        };
        let mut receipts = std::mem::take(&mut recent.unsaved);
        receipts.sort_unstable_by_key(|receipt| receipt.sequence);
        let (first, highest) = (receipts[0].sequence, receipts[receipts.len() - 1].sequence);
        let (shard, Source { topic, producer }) = (stage.shard(), source);
        stage.put(&ReceiptsKey { shard, topic, producer, sequence: first }, &ReceiptsRow { receipts });
        recent.rows.push_back((first, highest));
        let floor =
            recent.receipts.back().map_or(0, |last| last.sequence.saturating_sub(UNACKNOWLEDGED_PUBLISHES_MAX as u64));
        while recent.receipts.front().is_some_and(|receipt| receipt.sequence <= floor) {
            recent.receipts.pop_front();
        }
        while let Some((sequence, _)) = recent.rows.pop_front_if(|(_, highest)| *highest <= floor) {
            stage.delete(&ReceiptsKey { shard, topic, producer, sequence });
        }
    }

    /// The topic is deleted.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.producers.retain(|source, _| source.topic != topic);
    }

    fn recent(&mut self, stage: &Stage, source: Source) -> Result<&mut Recent, StoreError> {
        self.uses += 1;
        if !self.producers.contains_key(&source) {
            let recent = read(stage, source)?;
            self.forget_one();
            self.producers.insert(source, recent);
        }
        let recent = self.producers.get_mut(&source).expect("it was there or was just inserted");
        recent.last_used = self.uses;
        Ok(recent)
    }

    fn forget_one(&mut self) {
        if self.producers.len() < PRODUCERS_MAX {
            return;
        }
        let idle = self.producers.iter().filter(|(_, recent)| recent.unsaved.is_empty());
        if let Some((&oldest, _)) = idle.min_by_key(|(_, recent)| recent.last_used) {
            self.producers.remove(&oldest);
        }
    }
}

fn read(stage: &Stage, source: Source) -> Result<Recent, StoreError> {
    let prefix = ReceiptsKey::of_producer(stage.shard(), source.topic, source.producer);
    let mut recent = Recent::default();
    stage.store().scan(&prefix, &prefix, |key: ReceiptsKey, row: ReceiptsRow| {
        let highest = row.receipts.last().map_or(key.sequence, |receipt| receipt.sequence);
        recent.rows.push_back((key.sequence, highest));
        recent.receipts.extend(row.receipts);
        Scan::More
    })?;
    recent.receipts.make_contiguous().sort_unstable_by_key(|receipt| receipt.sequence);
    Ok(recent)
}
