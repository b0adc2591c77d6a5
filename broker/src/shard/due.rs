//! Rows that are looked at when their time has come: of the tables `due`, `wake` and `dedup_end`.
//!
//! They are read from a remembered floor on, so that those which were taken before are not gone over again.

use std::collections::VecDeque;

use sluicegate_protocol::Timestamp;

use crate::store::{Scan, Store, StoreError, TimedKey};

/// Rows that are read at once.
const READ_AT_ONCE: usize = 64;

/// The rows of a table whose time comes, the earliest first. A row that is put must be for a later time than any that was taken.
#[derive(Debug)]
pub(super) struct Due<K: TimedKey> {
    prefix: Vec<u8>,
    /// No row that is written, and not taken yet, has an earlier time.
    next: Timestamp,
    /// Rows before this key were taken.
    floor: Vec<u8>,
    /// Batches with rows that cannot be read yet, each with the earliest time.
    unwritten: VecDeque<(u64, Timestamp)>,
    taken: VecDeque<(K, K::Row)>,
}

impl<K: TimedKey> Due<K> {
    /// The rows whose keys start so. What the store holds is not known yet.
    pub(super) fn new(prefix: Vec<u8>) -> Self {
        let (unwritten, taken) = (VecDeque::new(), VecDeque::new());
        Self { floor: prefix.clone(), prefix, next: Timestamp(0), unwritten, taken }
    }

    /// This batch puts a row with a time that has not come yet.
    pub(super) fn armed(&mut self, batch: u64, at: Timestamp) {
        match self.unwritten.back_mut() {
            Some((number, earliest)) if *number == batch => *earliest = at.min(*earliest),
            Some(_) | None => self.unwritten.push_back((batch, at)),
        }
    }

    /// Batches up to this one can be read.
    pub(super) fn written(&mut self, batch: u64) {
        while let Some((_, at)) = self.unwritten.pop_front_if(|(number, _)| *number <= batch) {
            self.next = self.next.min(at);
        }
    }

    /// When a row can be taken; none before more is written.
    pub(super) fn next(&self) -> Option<Timestamp> {
        if !self.taken.is_empty() {
            return Some(Timestamp(0));
        }
        (self.next < self.readable_until()).then_some(self.next)
    }

    /// The next row whose time is no later than `until`. It is in the store until the caller deletes it.
    pub(super) fn take(&mut self, store: &Store, until: Timestamp) -> Result<Option<(K, K::Row)>, StoreError> {
        if self.taken.is_empty() && self.next().is_some_and(|next| next <= until) {
            self.read(store, until)?;
        }
        Ok(self.taken.pop_front())
    }

    /// The process ends: what is due is left to the next.
    pub(super) fn give_up(&mut self) {
        self.taken.clear();
        self.unwritten.clear();
        self.next = Timestamp::MAX;
    }

    fn read(&mut self, store: &Store, until: Timestamp) -> Result<(), StoreError> {
        let readable = self.readable_until();
        let (taken, mut next) = (&mut self.taken, Timestamp::MAX);
        store.scan(&self.prefix, &self.floor, |key: K, row: K::Row| {
            if key.at() > until || key.at() >= readable || taken.len() == READ_AT_ONCE {
                next = key.at();
                return Scan::Done;
            }
            taken.push_back((key, row));
            Scan::More
        })?;
        self.next = next;
        if let Some((last, _)) = taken.back() {
            self.floor = last.after();
        }
        Ok(())
    }

    /// What is earlier is written, if it is there at all: the floor must not pass a row that cannot be read yet.
    fn readable_until(&self) -> Timestamp {
        self.unwritten.iter().map(|(_, at)| *at).min().unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::LiteId;

    use super::*;
    use crate::store::{Batch, DueKey, DueKind, DueRow, ShardId};

    const SHARD: ShardId = ShardId(3);

    struct Rig {
        _directory: tempfile::TempDir,
        store: std::sync::Arc<Store>,
        dues: Due<DueKey>,
    }

    impl Rig {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path(), None).unwrap();
            Self { _directory: directory, store, dues: Due::new(DueKey::of_shard(SHARD)) }
        }

        fn put(&self, at: u64, lite: u64) {
            let mut batch = Batch::new(&self.store);
            let key = DueKey { shard: SHARD, at: Timestamp(at), kind: DueKind::Reclaim, lite: LiteId(lite) };
            batch.put(&key, &DueRow { reclaim_changes: 0 });
            self.store.write_control(batch).unwrap();
        }

        /// All that can be taken at this time.
        fn taken(&mut self, now: u64) -> Vec<u64> {
            let mut lites = Vec::new();
            while let Some((key, _)) = self.dues.take(&self.store, Timestamp(now)).unwrap() {
                lites.push(key.lite.0);
            }
            lites
        }
    }

    #[test]
    fn rows_are_taken_once_in_the_order_of_their_times() {
        let mut rig = Rig::new();
        for lite in 0..200 {
            rig.put(1_000 - lite, lite);
        }
        assert_eq!(rig.dues.next(), Some(Timestamp(0)), "nothing is known of the store");
        assert_eq!(rig.taken(900), (100..200).rev().collect::<Vec<_>>());
        assert_eq!((rig.taken(900), rig.dues.next()), (Vec::new(), Some(Timestamp(901))));
        assert_eq!(rig.taken(2_000).len(), 100);
        assert_eq!(rig.dues.next(), None);
    }

    #[test]
    fn a_row_that_cannot_be_read_yet_is_not_passed() {
        let mut rig = Rig::new();
        rig.put(10, 1);
        rig.put(30, 3);
        rig.dues.armed(7, Timestamp(20));
        assert_eq!(rig.taken(40), [1]);
        assert_eq!(rig.dues.next(), None, "nothing can be taken before batch 7 is written");
        rig.put(20, 2);
        rig.dues.written(7);
        assert_eq!((rig.dues.next(), rig.taken(40)), (Some(Timestamp(20)), vec![2, 3]));
    }

    #[test]
    fn a_row_that_is_armed_is_found_when_its_time_comes() {
        let mut rig = Rig::new();
        assert!(rig.taken(5).is_empty());
        rig.dues.armed(1, Timestamp(50));
        rig.dues.armed(1, Timestamp(40));
        rig.put(40, 4);
        rig.put(50, 5);
        rig.dues.written(1);
        assert_eq!((rig.dues.next(), rig.taken(39)), (Some(Timestamp(40)), Vec::new()));
        assert_eq!(rig.taken(60), [4, 5]);
    }
}
