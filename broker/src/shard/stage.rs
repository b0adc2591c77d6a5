//! What a shard has changed but not yet committed, and what is to be done when it is.
//!
//! Changes are staged into the batch that is open. Batches are numbered; an effect (a reply, a
//! delivery, a message becoming visible) waits until its batch is written or durable.

mod bodies;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{GroupId, LeaseToken, LiteId, TenantId, Timestamp, TopicId};

use super::busy::Busy;
use super::counts::{Amount, Counts};
use super::due::Due;
use super::levels::Levels;
use crate::id_hash::IdHash;
use crate::kept::{KeptRow, KeptRows};
use crate::store::{
    Batch, BusyKey, Committer, DueKey, DueKind, DueRow, Key, LevelsKey, ShardId, ShardKey, ShardRow, Store, StoreError,
    Submission, Watermark,
};
use bodies::Bodies;

/// Batches that may be on their way to the store. With more, none would be larger than a message.
const UNWRITTEN_MAX: u64 = 2;
/// Bytes of an open batch above which the shard takes no more commands.
const OPEN_BYTES_MAX: usize = 4 << 20;

/// What the row of a cursor takes of a batch, roughly.
const TOUCHED_BYTES: usize = 256;

/// How long a drained lite topic keeps its ready row: one that drains and fills by turns writes it once.
const READY_LINGER: Duration = Duration::from_secs(1);

/// The open batch and what waits for batches.
pub(crate) struct Stage {
    shard: ShardId,
    store: Arc<Store>,
    kept: KeptRows,
    batch: Batch,
    bodies: Bodies,
    /// Cursors that changed in the open batch; each has its mark, so none is here twice.
    touched: Vec<(GroupId, LiteId)>,
    /// Number of the open batch.
    number: u64,
    /// Somebody waits for the open batch to be durable.
    sync: bool,
    /// Last batch that was submitted with a sync.
    synced: u64,
    mark: Watermark,
    row: ShardRow,
    now: Timestamp,
    lease_counter: u64,
    /// Lite topics that drained, each with the time when its ready row goes.
    lingering: VecDeque<(Timestamp, GroupId, LiteId)>,
    pub(super) levels: Levels,
    busy: HashMap<GroupId, Busy, IdHash>,
    pub(super) dues: Due<DueKey>,
    pub(super) counts: Counts,
    /// A read failed while changes were staged: the open batch must not be written.
    read_failed: Option<StoreError>,
    on_written: VecDeque<(u64, super::Effect)>,
    on_durable: VecDeque<(u64, super::Effect)>,
}

impl Stage {
    pub(crate) fn new(shard: ShardId, store: Arc<Store>, kept: KeptRows, row: ShardRow) -> Self {
        Self {
            shard,
            batch: Batch::new(&store),
            bodies: Bodies::default(),
            touched: Vec::new(),
            store,
            kept,
            number: 1,
            sync: false,
            synced: 0,
            mark: Watermark::default(),
            now: Timestamp(row.committed_at_us),
            row,
            lease_counter: 0,
            lingering: VecDeque::new(),
            levels: Levels::default(),
            busy: HashMap::default(),
            dues: Due::new(DueKey::of_shard(shard)),
            counts: Counts::default(),
            read_failed: None,
            on_written: VecDeque::new(),
            on_durable: VecDeque::new(),
        }
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Number of the open batch.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Batches up to this one survive the process.
    pub(crate) fn written(&self) -> u64 {
        self.mark.written
    }

    /// The time of the changes that are being staged.
    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Time goes on.
    pub(crate) fn at(&mut self, now: Timestamp) {
        self.now = self.now.max(now);
    }

    /// Nobody had the store open before.
    pub(crate) fn is_first_epoch(&self) -> bool {
        self.row.epoch <= 1
    }

    pub(crate) fn next_lite_id(&mut self) -> LiteId {
        let counter = self.row.next_lite;
        self.row.next_lite += 1;
        assert!(counter < 1 << 47, "lite ids of a shard are used up");
        LiteId(u64::from(self.shard.0) << 47 | counter)
    }

    pub(crate) fn next_token(&mut self) -> LeaseToken {
        self.lease_counter += 1;
        LeaseToken { epoch: self.row.epoch, counter: self.lease_counter }
    }

    /// Keeps a message's row in memory, if there is room.
    pub(crate) fn keep(&self, row: Bytes) -> Option<KeptRow> {
        self.kept.keep(row)
    }

    pub(crate) fn put<K: Key>(&mut self, key: &K, row: &K::Row) {
        self.batch.put(key, row);
    }

    pub(crate) fn put_encoded<K: Key>(&mut self, key: &K, row: &[u8]) {
        self.batch.put_encoded(key, row);
    }

    pub(crate) fn delete<K: Key>(&mut self, key: &K) {
        self.batch.delete(key);
    }

    pub(crate) fn delete_range<K: Key>(&mut self, from: &K, end: &K) {
        self.batch.delete_range(from, end);
    }

    pub(crate) fn delete_prefix<K: Key>(&mut self, prefix: &[u8]) {
        self.batch.delete_prefix::<K>(prefix);
    }

    pub(crate) fn delete_between<K: Key>(&mut self, from: &[u8], end: &[u8]) {
        self.batch.delete_between::<K>(from, end);
    }

    /// The last batch with anything that is staged by now.
    pub(crate) fn last_staged(&self) -> u64 {
        if self.is_empty() { self.number - 1 } else { self.number }
    }

    /// This cursor's row is to be put before the open batch is sent on its way.
    pub(crate) fn touch(&mut self, group: GroupId, lite: LiteId) {
        self.touched.push((group, lite));
    }

    /// The cursors whose rows are to be put.
    pub(crate) fn take_touched(&mut self) -> Vec<(GroupId, LiteId)> {
        std::mem::take(&mut self.touched)
    }

    /// A place among those that have open leases of the group.
    pub(super) fn enter_busy(&mut self, group: GroupId, lite: LiteId) -> u32 {
        self.busy.entry(group).or_default().enter(lite)
    }

    /// The place is free again.
    pub(super) fn leave_busy(&mut self, group: GroupId, place: u32) {
        if let Some(busy) = self.busy.get_mut(&group) {
            busy.leave(place);
        }
    }

    /// A group is deleted: nothing of it is counted any more.
    pub(super) fn forget_group(&mut self, group: GroupId) {
        self.levels.end(group);
        self.busy.remove(&group);
    }

    /// Puts the rows that say what the open batch changed of the groups' levels and busy places.
    pub(super) fn put_levels(&mut self) {
        let shard = self.shard;
        for (group, row) in self.levels.take_changed() {
            self.put(&LevelsKey { shard, group }, &row);
        }
        let pages: Vec<_> = self
            .busy
            .iter_mut()
            .flat_map(|(group, busy)| busy.take_changed().into_iter().map(|row| (*group, row)))
            .collect();
        for (group, (page, row)) in pages {
            self.put(&BusyKey { shard, group, page }, &row);
        }
    }

    /// What a change depends on cannot be read.
    pub(crate) fn read_failed(&mut self, error: StoreError) {
        self.read_failed.get_or_insert(error);
    }

    /// What a tenant with a name has.
    pub(super) fn amount_of_tenant(
        &mut self,
        topic: TopicId,
        tenant: Option<TenantId>,
        name: &str,
    ) -> Result<Amount, StoreError> {
        self.counts.of_tenant((&self.store, self.shard), (topic, tenant), name)
    }

    /// Puts the counts that changed into the open batch.
    ///
    /// # Errors
    /// Something could not be read: the batch must not be written.
    pub(super) fn put_counts(&mut self, name: impl Fn(TenantId) -> Option<Arc<str>>) -> Result<(), StoreError> {
        if let Some(error) = self.read_failed.take() {
            return Err(error);
        }
        self.counts.put(&mut self.batch, (&self.store, self.shard), name)
    }

    fn is_empty(&self) -> bool {
        self.batch.is_empty() && self.touched.is_empty() && self.bodies.is_swept()
    }

    /// The ready row of a lite topic that drained stays until [`READY_LINGER`] is over.
    pub(crate) fn linger(&mut self, group: GroupId, lite: LiteId) {
        self.lingering.push_back((self.now.plus(READY_LINGER), group, lite));
    }

    /// The next lite topic whose time to linger is over.
    pub(crate) fn lingered(&mut self) -> Option<(GroupId, LiteId)> {
        let now = self.now;
        self.lingering.pop_front_if(|(until, _, _)| *until <= now).map(|(_, group, lite)| (group, lite))
    }

    /// When [`Stage::lingered`] has something.
    pub(crate) fn lingers_until(&self) -> Option<Timestamp> {
        self.lingering.front().map(|(until, _, _)| *until)
    }

    /// Puts a row by which a lite topic is looked at, not before now. Answers when.
    pub(super) fn arm(&mut self, (kind, lite): (DueKind, LiteId), at: Timestamp, row: DueRow) -> Timestamp {
        // What was taken is over: a row that is put now has a later time.
        let at = at.max(Timestamp(self.now.0 + 1));
        self.batch.put(&DueKey { shard: self.shard, at, kind, lite }, &row);
        self.dues.armed(self.number, at);
        at
    }

    /// The next `due` row whose time has come. It goes with the open batch.
    pub(super) fn take_due(&mut self) -> Result<Option<(DueKey, DueRow)>, StoreError> {
        let taken = self.dues.take(&self.store, self.now)?;
        if let Some((key, _)) = &taken {
            self.batch.delete(key);
        }
        Ok(taken)
    }

    /// Does `effect` when all that is staged by now is as durable as `durability` says.
    pub(crate) fn then(&mut self, durability: Durability, effect: super::Effect) {
        // With nothing in the open batch, the effect hangs on batches that are on their way.
        let under_way = self.number - 1;
        let open = !self.is_empty();
        match durability {
            Durability::Os => self.on_written.push_back((self.last_staged(), effect)),
            Durability::Fsync if !open && under_way <= self.synced.max(self.mark.durable) => {
                self.on_durable.push_back((under_way, effect));
            }
            Durability::Fsync => {
                self.sync = true;
                self.on_durable.push_back((self.number, effect));
            }
        }
    }

    /// Whether the shard may take more commands.
    pub(crate) fn has_room(&self) -> bool {
        self.batch.bytes() + self.touched.len() * TOUCHED_BYTES < OPEN_BYTES_MAX
    }

    /// Whether anything waits for the store. What is written down to be deleted can wait for the next process.
    pub(crate) fn is_settled(&self) -> bool {
        let is_empty = self.batch.is_empty() && self.touched.is_empty() && self.bodies.is_remembered();
        is_empty && self.on_written.is_empty() && self.on_durable.is_empty()
    }

    /// Whether a consumer waits for an answer that the store holds up.
    pub(crate) fn owes_replies(&self) -> bool {
        let effects = self.on_written.iter().chain(&self.on_durable);
        effects.into_iter().any(|(_, effect)| matches!(effect, super::Effect::Reply(..)))
    }

    /// Whether there is an open batch and not too many are under way: what comes meanwhile makes it larger.
    pub(crate) fn is_due(&self) -> bool {
        let nothing = self.is_empty() && !self.sync;
        !nothing && self.number - 1 - self.mark.written < UNWRITTEN_MAX
    }

    /// Sends the open batch on its way.
    pub(crate) async fn submit(&mut self, committer: &Committer) -> Result<(), StoreError> {
        assert!(self.touched.is_empty(), "the rows of touched cursors are put first");
        self.row.committed_at_us = self.now.0;
        self.batch.put(&ShardKey { shard: self.shard }, &self.row);
        let batch = std::mem::replace(&mut self.batch, Batch::new(&self.store));
        let (number, sync) = (self.number, std::mem::take(&mut self.sync));
        self.number += 1;
        if sync {
            self.synced = number;
        }
        committer.submit(Submission { shard: self.shard, number, batch, sync }).await
    }

    /// The store got further.
    pub(crate) fn reached(&mut self, mark: Watermark) {
        self.dues.written(mark.written);
        self.bodies.written(mark.written);
        self.mark = mark;
    }

    /// Whether an effect waits for nothing any more: it was staged when its batch had got far enough already.
    pub(crate) fn has_due_effect(&self) -> bool {
        let due =
            |queue: &VecDeque<(u64, super::Effect)>, mark| queue.front().is_some_and(|(number, _)| *number <= mark);
        due(&self.on_written, self.mark.written) || due(&self.on_durable, self.mark.durable)
    }

    /// The next effect whose batch got far enough.
    pub(crate) fn next_effect(&mut self) -> Option<super::Effect> {
        let (written, durable) = (self.mark.written, self.mark.durable);
        let due = |queue: &mut VecDeque<(u64, super::Effect)>, mark| {
            queue.pop_front_if(|(number, _)| *number <= mark).map(|(_, effect)| effect)
        };
        due(&mut self.on_written, written).or_else(|| due(&mut self.on_durable, durable))
    }

    /// Everything that waits, when nothing can become durable any more.
    pub(crate) fn abandon(&mut self) -> impl Iterator<Item = super::Effect> {
        self.batch = Batch::new(&self.store);
        self.touched.clear();
        self.bodies.abandon();
        self.sync = false;
        self.on_written.drain(..).chain(self.on_durable.drain(..)).map(|(_, effect)| effect)
    }
}
