//! Bodies that have rows of their own: who has each, and how those that nobody has any more go.
//!
//! Messages are deleted unseen, by their offsets. So what they had is found in table `body` when the batch that deletes them
//! is sent on its way, and goes with that batch; a long stretch is written down and goes on with the batches after it.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use sluicegate_protocol::limits::{CHUNK_BYTES_MAX, UPLOAD_CHUNK_BYTES};
use sluicegate_protocol::{LiteId, Offset};

use super::Stage;
use crate::id_hash::IdHash;
use crate::store::{
    BodyKey, BodyPlace, BodyRef, ChunkKey, Key as _, NOBODY, Nothing, Scan, ShareKey, ShareRow, StoreError, SweepKey,
};

/// Bodies that go with one batch.
const DROPPED_PER_BATCH: usize = 1_000;
/// Chunks that are deleted one by one; more are deleted as a range, which costs readers more.
const CHUNKS_ONE_BY_ONE_MAX: u32 = 256;

/// What is known of bodies beside the store.
#[derive(Debug, Default)]
pub(super) struct Bodies {
    /// What table `body` will say when the batches under way are written, each with its batch.
    changed: BTreeMap<BodyPlace, (Option<BodyRef>, u64)>,
    /// The same of table `share`.
    shared: HashMap<u64, (u64, u64), IdHash>,
    /// Stretches of table `body` that are to go.
    dropped: VecDeque<Dropped>,
}

#[derive(Debug)]
struct Dropped {
    from: BodyPlace,
    end: BodyPlace,
    /// Its row, so that the next process goes on with it.
    sweep: Option<SweepKey>,
}

impl Bodies {
    /// Whether nothing is to go.
    pub(super) fn is_swept(&self) -> bool {
        self.dropped.is_empty()
    }

    /// Whether all that is to go is written down.
    pub(super) fn is_remembered(&self) -> bool {
        self.dropped.iter().all(|dropped| dropped.sweep.is_some())
    }

    /// Batches up to this one are written: the store says itself what they changed.
    pub(super) fn written(&mut self, number: u64) {
        self.changed.retain(|_, (_, batch)| *batch > number);
        self.shared.retain(|_, (_, batch)| *batch > number);
    }

    /// Nothing can be written any more.
    pub(super) fn abandon(&mut self) {
        self.dropped.clear();
    }
}

/// The place of an upload under way.
fn upload(id: u64) -> BodyPlace {
    (NOBODY, Offset(id))
}

impl Stage {
    /// (nothing) -> uploading: a body that will have so many bytes. Nobody sees it, and a start deletes it.
    pub(in crate::shard) fn begin_body(&mut self, bytes: u64) -> BodyRef {
        // One that others read with its message is in one piece.
        let chunk_bytes = if bytes > CHUNK_BYTES_MAX as u64 { UPLOAD_CHUNK_BYTES } else { 0 };
        let body = self.next_body(bytes, chunk_bytes);
        self.set_body(upload(body.id), Some(body));
        body
    }

    /// (nothing) -> owned: a body that is at hand.
    pub(in crate::shard) fn put_body(&mut self, owner: BodyPlace, body: &Bytes) -> BodyRef {
        let placed = self.next_body(body.len() as u64, 0);
        let (shard, max) = (self.shard, placed.chunk_bytes());
        for number in 0..placed.chunks() {
            let from = number as usize * max;
            let chunk = &body[from..body.len().min(from + max)];
            self.batch.put_encoded(&ChunkKey { shard, body: placed.id, number }, chunk);
        }
        self.set_body(owner, Some(placed));
        placed
    }

    /// uploading -> owned
    pub(in crate::shard) fn end_upload(&mut self, owner: BodyPlace, body: BodyRef) {
        self.set_body(upload(body.id), None);
        self.set_body(owner, Some(body));
    }

    /// owned -> owned by one more message, which [`Stage::own_shared`] names.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::shard) fn share_body(&mut self, body: BodyRef) -> Result<(), StoreError> {
        let messages = self.owners(body.id)?;
        self.set_owners(body.id, messages + 1);
        Ok(())
    }

    /// The message that shares a body.
    pub(in crate::shard) fn own_shared(&mut self, owner: BodyPlace, body: BodyRef) {
        self.set_body(owner, Some(body));
    }

    /// uploading -> (nothing)
    pub(in crate::shard) fn drop_upload(&mut self, body: BodyRef) {
        self.drop_bodies(upload(body.id), upload(body.id + 1));
    }

    /// uploading -> (nothing), for all that an earlier process left behind; and what it had not finished to delete.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::shard) fn recover_bodies(&mut self) -> Result<(), StoreError> {
        self.drop_bodies(upload(0), upload(self.row.next_body));
        let (prefix, dropped) = (SweepKey::of_shard(self.shard), &mut self.bodies.dropped);
        self.store.scan(&prefix, &prefix, |key: SweepKey, _| {
            dropped.push_back(Dropped { from: key.from, end: key.end, sweep: Some(key) });
            Scan::More
        })
    }

    /// The messages of a lite topic from `from` up to, not including, `end` have no bodies any more.
    pub(in crate::shard) fn drop_bodies_of(&mut self, lite: LiteId, from: Offset, end: Offset) {
        if from < end {
            self.drop_bodies((lite, from), (lite, end));
        }
    }

    /// No message in this stretch has its body any more.
    pub(in crate::shard) fn drop_bodies(&mut self, from: BodyPlace, end: BodyPlace) {
        self.bodies.dropped.push_back(Dropped { from, end, sweep: None });
    }

    /// Whether bodies that were dropped have rows still.
    pub(in crate::shard) fn has_dropped_bodies(&self) -> bool {
        !self.bodies.is_swept()
    }

    /// Stages the end of dropped bodies, as many as one batch takes. What is left is written down.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::shard) fn sweep_bodies(&mut self) -> Result<(), StoreError> {
        let mut room = DROPPED_PER_BATCH;
        while room > 0
            && let Some(mut dropped) = self.bodies.dropped.pop_front()
        {
            let (found, next) = self.bodies_between(dropped.from, dropped.end, room)?;
            room = room.saturating_sub(found.len());
            for (place, body) in found {
                self.delete_body(place, body)?;
            }
            match next {
                Some(next) => {
                    dropped.from = next;
                    self.bodies.dropped.push_front(dropped);
                }
                None => dropped.sweep.iter().for_each(|row| self.batch.delete(row)),
            }
        }
        for dropped in self.bodies.dropped.iter_mut().filter(|dropped| dropped.sweep.is_none()) {
            let row = SweepKey { shard: self.shard, from: dropped.from, end: dropped.end };
            self.batch.put(&row, &Nothing);
            dropped.sweep = Some(row);
        }
        Ok(())
    }

    /// The bodies of a stretch, at most `max` of the store, and where the next ones begin if there may be more.
    #[expect(clippy::type_complexity, reason = "rows, and where they end")]
    fn bodies_between(
        &self,
        from: BodyPlace,
        end: BodyPlace,
        max: usize,
    ) -> Result<(Vec<(BodyPlace, BodyRef)>, Option<BodyPlace>), StoreError> {
        let changed = &self.bodies.changed;
        let staged = changed.range(from..end).filter_map(|(place, (body, _))| Some((*place, (*body)?)));
        let mut found: Vec<_> = staged.collect();
        let (mut read, mut next) = (0, None);
        let prefix = BodyKey::of_shard(self.shard);
        self.store.scan(&prefix, &BodyKey::at(self.shard, from).encode(), |key: BodyKey, body: BodyRef| {
            let place = key.place();
            if place >= end {
                return Scan::Done;
            }
            if read == max {
                next = Some(place);
                return Scan::Done;
            }
            if !changed.contains_key(&place) {
                found.push((place, body));
            }
            read += 1;
            Scan::More
        })?;
        Ok((found, next))
    }

    /// One message less has the body; without any it goes.
    fn delete_body(&mut self, place: BodyPlace, body: BodyRef) -> Result<(), StoreError> {
        self.set_body(place, None);
        let owners = self.owners(body.id)?;
        if owners > 1 {
            self.set_owners(body.id, owners - 1);
            return Ok(());
        }
        self.store.bodies_dropped(body.bytes);
        let key = |body, number| ChunkKey { shard: self.shard, body, number };
        if body.chunks() > CHUNKS_ONE_BY_ONE_MAX {
            self.batch.delete_range(&key(body.id, 0), &key(body.id + 1, 0));
            return Ok(());
        }
        for number in 0..body.chunks() {
            self.batch.delete(&key(body.id, number));
        }
        Ok(())
    }

    fn next_body(&mut self, bytes: u64, chunk_bytes: usize) -> BodyRef {
        let id = self.row.next_body;
        self.row.next_body += 1;
        BodyRef { id, bytes, chunk_bytes: u32::try_from(chunk_bytes).expect("a chunk is small") }
    }

    fn set_body(&mut self, place: BodyPlace, body: Option<BodyRef>) {
        let key = BodyKey::at(self.shard, place);
        match &body {
            Some(body) => self.batch.put(&key, body),
            None => self.batch.delete(&key),
        }
        self.bodies.changed.insert(place, (body, self.number));
    }

    /// How many messages have the body.
    fn owners(&self, body: u64) -> Result<u64, StoreError> {
        if let Some((messages, _)) = self.bodies.shared.get(&body) {
            return Ok(*messages);
        }
        let row = self.store.get(&ShareKey { shard: self.shard, body })?;
        Ok(row.map_or(1, |row| row.messages))
    }

    fn set_owners(&mut self, body: u64, messages: u64) {
        let key = ShareKey { shard: self.shard, body };
        match messages {
            1 => self.batch.delete(&key),
            _ => self.batch.put(&key, &ShareRow { messages }),
        }
        self.bodies.shared.insert(body, (messages, self.number));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kept::KeptRows;
    use crate::store::{Disk, Key, ShardId, ShardRow, Store, Watermark};

    const SHARD: ShardId = ShardId(0);
    const LITE: LiteId = LiteId(7);

    fn stage(store: &Arc<Store>, next_body: u64) -> Stage {
        Stage::new(SHARD, Arc::clone(store), KeptRows::default(), ShardRow { next_body, ..ShardRow::default() })
    }

    fn at(offset: u64) -> BodyPlace {
        (LITE, Offset(offset))
    }

    fn body() -> Bytes {
        vec![1; CHUNK_BYTES_MAX + 1].into()
    }

    /// Sends the open batch on its way, and says that the ones up to `written` are written.
    fn write(stage: &mut Stage, written: u64) {
        stage.sweep_bodies().unwrap();
        let batch = std::mem::replace(&mut stage.batch, crate::store::Batch::new(&stage.store));
        stage.store.write_control(batch).unwrap();
        stage.number += 1;
        stage.reached(Watermark { written, durable: written, failed: None });
    }

    fn rows<K: Key>(store: &Store, some_key: &K) -> usize {
        // Tag and shard.
        let (table, mut count) = (&some_key.encode()[..3], 0);
        store
            .scan(table, table, |_: K, _| {
                count += 1;
                Scan::More
            })
            .unwrap();
        count
    }

    /// Rows of tables chunk, body, share, sweep.
    fn all_rows(store: &Store) -> [usize; 4] {
        [
            rows(store, &ChunkKey { shard: SHARD, body: 0, number: 0 }),
            rows(store, &BodyKey::at(SHARD, at(0))),
            rows(store, &ShareKey { shard: SHARD, body: 0 }),
            rows(store, &SweepKey { shard: SHARD, from: at(0), end: at(0) }),
        ]
    }

    #[test]
    fn a_body_that_two_messages_have_goes_with_the_second_written_or_not() {
        for written in [0, u64::MAX] {
            let store = Disk::default().open().unwrap();
            let mut stage = stage(&store, 0);
            let shared = stage.put_body(at(0), &body());
            write(&mut stage, written);
            stage.share_body(shared).unwrap();
            stage.own_shared((LiteId(8), Offset(0)), shared);
            write(&mut stage, written);
            assert_eq!(all_rows(&store), [2, 2, 1, 0], "{written}");
            stage.drop_bodies_of(LITE, Offset(0), Offset(5));
            write(&mut stage, written);
            assert_eq!(all_rows(&store), [2, 1, 0, 0], "{written}");
            stage.drop_bodies_of(LiteId(8), Offset(0), Offset(5));
            write(&mut stage, written);
            assert_eq!(all_rows(&store), [0; 4], "{written}");
        }
    }

    #[test]
    fn a_body_that_moves_to_another_message_in_one_batch_stays() {
        let store = Disk::default().open().unwrap();
        let mut stage = stage(&store, 0);
        let moved = stage.put_body(at(0), &body());
        write(&mut stage, 0);
        stage.share_body(moved).unwrap();
        stage.own_shared(at(9), moved);
        stage.drop_bodies_of(LITE, Offset(0), Offset(1));
        write(&mut stage, 0);
        assert_eq!(all_rows(&store), [2, 1, 0, 0]);
    }

    #[test]
    fn what_was_staged_and_is_not_written_goes_too() {
        let store = Disk::default().open().unwrap();
        let mut stage = stage(&store, 0);
        stage.put_body(at(3), &body());
        stage.drop_bodies_of(LITE, Offset(0), Offset(9));
        write(&mut stage, 0);
        assert_eq!(all_rows(&store), [0; 4]);
    }

    #[test]
    fn more_bodies_than_a_batch_takes_go_with_the_next_ones_or_with_the_next_process() {
        let store = Disk::default().open().unwrap();
        let mut first = stage(&store, 0);
        let count = 2 * DROPPED_PER_BATCH as u64 + 500;
        for offset in 0..count {
            first.put_body(at(offset), &Bytes::from_static(b"x"));
        }
        write(&mut first, u64::MAX);
        first.drop_bodies_of(LITE, Offset(0), Offset(count));
        write(&mut first, u64::MAX);
        assert_eq!(all_rows(&store), [1_500, 1_500, 0, 1]);
        assert!(first.has_dropped_bodies());
        let mut next = stage(&store, count);
        next.recover_bodies().unwrap();
        for left in [[500, 500, 0, 1], [0; 4]] {
            write(&mut next, u64::MAX);
            assert_eq!(all_rows(&store), left);
        }
        assert!(!next.has_dropped_bodies());
    }

    #[test]
    fn uploads_of_an_earlier_process_go_and_those_of_this_one_stay() {
        let store = Disk::default().open().unwrap();
        let mut first = stage(&store, 0);
        let left = first.begin_body(5);
        first.batch.put_encoded(&ChunkKey { shard: SHARD, body: left.id, number: 0 }, b"hello");
        write(&mut first, u64::MAX);
        let mut next = stage(&store, left.id + 1);
        next.recover_bodies().unwrap();
        let begun = next.begin_body(5);
        next.batch.put_encoded(&ChunkKey { shard: SHARD, body: begun.id, number: 0 }, b"hello");
        write(&mut next, u64::MAX);
        assert_eq!(all_rows(&store), [1, 1, 0, 0]);
        assert!(store.get(&ChunkKey { shard: SHARD, body: begun.id, number: 0 }).unwrap().is_some());
        next.drop_upload(begun);
        write(&mut next, u64::MAX);
        assert_eq!(all_rows(&store), [0; 4]);
    }
}
