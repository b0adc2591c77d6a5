//! Idempotency keys: what was published under a key is not published again before its window ends.
//!
//! The store knows the keys. In memory are only those whose rows are not written yet, since the store cannot answer for
//! them: as many as the open batch and those under way hold. Keys that have ended are met by nobody; a turn now and then
//! deletes a bounded number of them, in the order of their ends.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sluicegate_protocol::{IdempotencyKey, LiteId, Offset, Timestamp};

use super::due::Due;
use super::removal::remove_all;
use super::stage::Stage;
use crate::id_hash::IdHash;
use crate::store::{DedupEndKey, DedupKey, DedupRow, Nothing, ShardId, StoreError};

/// Keys that have ended and are looked at in one turn.
const ENDED_PER_TURN: usize = 256;
/// How long keys that have ended wait for others, so that they are deleted together.
const ENDED_LINGER: Duration = Duration::from_secs(1);

/// What tells a message from all others of its lite topic, and whether it is the same when it comes again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Idempotency {
    pub(crate) key: IdempotencyKey,
    /// SHA-256.
    pub(crate) body_digest: [u8; 32],
}

/// The idempotency keys of a shard.
pub(super) struct Keys {
    unwritten: HashMap<LiteId, HashMap<IdempotencyKey, Unwritten>, IdHash>,
    /// Batches with keys that are not written yet, the oldest first.
    batches: VecDeque<StagedKeys>,
    ends: Due<DedupEndKey>,
}

/// A row that the store does not show yet.
struct Unwritten {
    /// The batch that it is in.
    number: u64,
    row: DedupRow,
}

/// The keys of one batch.
struct StagedKeys {
    number: u64,
    keys: Vec<(LiteId, IdempotencyKey)>,
}

impl Keys {
    /// Looks for what ended while no process ran as soon as it can.
    pub(super) fn new(shard: ShardId) -> Self {
        let ends = Due::new(DedupEndKey::of_shard(shard));
        Self { unwritten: HashMap::default(), batches: VecDeque::new(), ends }
    }

    /// What was published under this key, if its window has not ended.
    pub(super) fn find(
        &self,
        stage: &Stage,
        lite: LiteId,
        key: &IdempotencyKey,
    ) -> Result<Option<DedupRow>, StoreError> {
        let row = self.row(stage, lite, key)?;
        Ok(row.filter(|row| Timestamp(row.until_us) > stage.now()))
    }

    /// Stages what was published under this key, with its message.
    pub(super) fn remember(
        &mut self,
        stage: &mut Stage,
        lite: LiteId,
        Idempotency { key, body_digest }: Idempotency,
        offset: Offset,
        window: Duration,
    ) {
        let (shard, number, until) = (stage.shard(), stage.number(), stage.now().plus(window));
        let row = DedupRow { offset: offset.0, body_digest: body_digest.to_vec(), until_us: until.0 };
        stage.put(&DedupKey { shard, lite, key: key.clone() }, &row);
        stage.put(&DedupEndKey { shard, until, lite, key: key.clone() }, &Nothing);
        if self.batches.back().is_none_or(|batch| batch.number != number) {
            self.batches.push_back(StagedKeys { number, keys: Vec::new() });
        }
        let batch = self.batches.back_mut().expect("it was there or was just pushed");
        batch.keys.push((lite, key.clone()));
        self.unwritten.entry(lite).or_default().insert(key, Unwritten { number, row });
        self.ends.armed(number, until);
    }

    /// A lite topic is deleted, and its keys with it. What says when they end goes at its time, as do the keys of one whose life ends
    /// by itself: nobody asks for them, since its id never comes again.
    pub(super) fn forget(&self, stage: &mut Stage, lite: LiteId) -> Result<(), StoreError> {
        let shard = stage.shard();
        for key in self.unwritten.get(&lite).into_iter().flat_map(HashMap::keys) {
            stage.delete(&DedupKey { shard, lite, key: key.clone() });
        }
        remove_all::<DedupKey>(stage, &DedupKey::of_lite(shard, lite))
    }

    /// When [`Keys::delete_ended`] has something to do.
    pub(super) fn next_look(&self) -> Option<Timestamp> {
        self.ends.next().map(|end| end.plus(ENDED_LINGER))
    }

    /// The process ends: the next one deletes what has ended.
    pub(super) fn give_up(&mut self) {
        self.ends.give_up();
    }

    /// Deletes keys that have ended, for one turn.
    pub(super) fn delete_ended(&mut self, stage: &mut Stage) -> Result<(), StoreError> {
        self.forget_written(stage.written());
        let now = stage.now();
        if self.next_look().is_none_or(|at| at > now) {
            return Ok(());
        }
        for _ in 0..ENDED_PER_TURN {
            let Some((end, _)) = self.ends.take(stage.store(), now)? else { break };
            let row = self.row(stage, end.lite, &end.key)?;
            // The key may have begun another window since.
            if row.is_some_and(|row| Timestamp(row.until_us) <= now) {
                stage.delete(&DedupKey { shard: end.shard, lite: end.lite, key: end.key.clone() });
            }
            stage.delete(&end);
        }
        Ok(())
    }

    fn row(&self, stage: &Stage, lite: LiteId, key: &IdempotencyKey) -> Result<Option<DedupRow>, StoreError> {
        if let Some(unwritten) = self.unwritten.get(&lite).and_then(|keys| keys.get(key)) {
            return Ok(Some(unwritten.row.clone()));
        }
        stage.store().get(&DedupKey { shard: stage.shard(), lite, key: key.clone() })
    }

    fn forget_written(&mut self, written: u64) {
        self.ends.written(written);
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.number <= written) {
            for (lite, key) in batch.keys {
                let Some(keys) = self.unwritten.get_mut(&lite) else { continue };
                // A later batch may have begun another window.
                if keys.get(&key).is_some_and(|unwritten| unwritten.number <= written) {
                    keys.remove(&key);
                }
                if keys.is_empty() {
                    self.unwritten.remove(&lite);
                }
            }
        }
    }
}
