//! What every engine must do. Each test runs over RocksDB and over memory, with and without the fault layer around it.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tokio::sync::watch;

use super::engine::{Direction, Engine, Family, KeyRange, Scan};
use super::faults::{Fault, Faults, Faulty};
use super::memory::Disk;
use super::options::FAMILIES;
use super::rocks::Rocks;
use super::space::{Source, Space};
use super::{Batch, Committer, OpenError, ShardId, ShardKey, ShardRow, Store, StoreError, Submission, Watermark};
use crate::clock::Clock;
use crate::metrics::Meters;

/// Something that can be opened again and again.
enum Medium {
    Rocks(tempfile::TempDir),
    Memory(Disk),
    /// RocksDB behind the fault layer.
    Faulty(tempfile::TempDir, Faults),
}

impl Medium {
    fn all() -> [Self; 3] {
        let directory = || tempfile::tempdir().expect("a temporary directory");
        [Self::Rocks(directory()), Self::Memory(Disk::default()), Self::Faulty(directory(), Faults::default())]
    }

    fn engine(&self) -> Result<Box<dyn Engine>, OpenError> {
        Ok(match self {
            Self::Rocks(directory) => Box::new(Rocks::open(directory.path())?),
            Self::Memory(disk) => Box::new(disk.engine()),
            Self::Faulty(directory, faults) => {
                Box::new(Faulty::new(Box::new(Rocks::open(directory.path())?), faults.clone()))
            }
        })
    }

    fn store(&self) -> Arc<Store> {
        over(self.engine().unwrap())
    }
}

fn over(engine: Box<dyn Engine>) -> Arc<Store> {
    let space = Space::new(Source::Told(Faults::default().free_bytes()), None);
    Store::over(engine, space, std::path::Path::new("medium")).unwrap()
}

fn all_rows(engine: &dyn Engine, family: Family) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows(engine, family, &KeyRange { from: &[], end: None, direction: Direction::Ascending }, usize::MAX)
}

fn rows(engine: &dyn Engine, family: Family, range: &KeyRange<'_>, max: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let scanned = engine.scan(family, range, &mut |key, row| {
        found.push((key.to_vec(), row.to_vec()));
        Ok(if found.len() == max { Scan::Done } else { Scan::More })
    });
    scanned.unwrap();
    found
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, Vec<u8>, Vec<u8>),
    Delete(usize, Vec<u8>),
    DeleteRange(usize, Vec<u8>, Vec<u8>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![0_u8..3, Just(255)], 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    let row = proptest::collection::vec(any::<u8>(), 0..8);
    prop_oneof![
        4 => (0..FAMILIES.len(), key(), row).prop_map(|(family, key, row)| Step::Put(family, key, row)),
        1 => (0..FAMILIES.len(), key()).prop_map(|(family, key)| Step::Delete(family, key)),
        1 => (0..FAMILIES.len(), key(), key()).prop_map(|(family, a, b)| Step::DeleteRange(family, a.clone().min(b.clone()), a.max(b))),
    ]
}

/// What an engine holds after these batches, in the simplest way to say it.
fn model(batches: &[Vec<Step>]) -> BTreeMap<(usize, Vec<u8>), Vec<u8>> {
    let mut rows = BTreeMap::new();
    for step in batches.iter().flatten() {
        match step {
            Step::Put(family, key, row) => drop(rows.insert((*family, key.clone()), row.clone())),
            Step::Delete(family, key) => drop(rows.remove(&(*family, key.clone()))),
            Step::DeleteRange(family, from, end) => {
                rows.retain(|(of, key), _: &mut Vec<u8>| of != family || key < from || key >= end);
            }
        }
    }
    rows
}

fn write(engine: &dyn Engine, steps: &[Step]) {
    let mut changes = engine.batch();
    for step in steps {
        match step {
            Step::Put(family, key, row) => changes.put(FAMILIES[*family], key, row),
            Step::Delete(family, key) => changes.delete(FAMILIES[*family], key),
            Step::DeleteRange(family, from, end) => changes.delete_range(FAMILIES[*family], from, end),
        }
    }
    assert_eq!(changes.count(), steps.len());
    changes.write().unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn batches_are_applied_in_order_and_scans_go_both_ways(
        batches in proptest::collection::vec(proptest::collection::vec(step(), 0..12), 1..8),
        from in key(), end in proptest::option::of(key()), max in 1..6_usize,
    ) {
        let expected = model(&batches);
        for medium in Medium::all() {
            let engine = medium.engine().unwrap();
            for steps in &batches {
                write(&*engine, steps);
            }
            for (number, family) in FAMILIES.into_iter().enumerate() {
                let rows_of = |key: &[u8]| engine.get(family, key).unwrap().map(|row| row.to_vec());
                let of_family: Vec<_> = expected.iter().filter(|((of, _), _)| *of == number)
                    .map(|((_, key), row)| (key.clone(), row.clone())).collect();
                prop_assert_eq!(&all_rows(&*engine, family), &of_family);
                prop_assert_eq!(rows_of(&from), expected.get(&(number, from.clone())).cloned());
                // Some are there and some are not.
                let (bytes, one) = ([0, 1, 2, 255], |byte: u8| vec![byte]);
                let keys: Vec<_> = bytes.iter().flat_map(|&byte| [one(byte), [one(byte), from.clone()].concat()]).collect();
                let together = engine.get_many(family, &keys).unwrap();
                let together: Vec<_> = together.into_iter().map(|row| row.map(|row| row.to_vec())).collect();
                prop_assert_eq!(together, keys.iter().map(|key| rows_of(key)).collect::<Vec<_>>());
                let mut inside: Vec<_> = of_family.into_iter()
                    .filter(|(key, _)| *key >= from && end.as_ref().is_none_or(|end| key < end)).collect();
                for direction in [Direction::Ascending, Direction::Descending] {
                    let range = KeyRange { from: &from, end: end.as_deref(), direction };
                    prop_assert_eq!(&rows(&*engine, family, &range, max)[..], &inside[..inside.len().min(max)]);
                    inside.reverse();
                }
            }
            engine.sync().unwrap();
            drop(engine);
            let reopened = medium.engine().unwrap();
            let found: Vec<_> = FAMILIES.into_iter().flat_map(|family| all_rows(&*reopened, family)).collect();
            prop_assert_eq!(found, expected.iter().map(|((_, key), row)| (key.clone(), row.clone())).collect::<Vec<_>>());
        }
    }
}

#[test]
fn readers_see_all_of_a_batch_or_nothing() {
    for medium in Medium::all() {
        let engine = medium.engine().unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for number in 0_u32..400 {
                    let mut changes = engine.batch();
                    for key in 0_u8..8 {
                        changes.put(Family::Rows, &[key], &number.to_be_bytes());
                    }
                    changes.write().unwrap();
                }
            });
            while !writer.is_finished() {
                let rows = all_rows(&*engine, Family::Rows);
                assert!(rows.is_empty() || rows.len() == 8, "{rows:?}");
                assert!(rows.iter().all(|(_, row)| *row == rows[0].1), "{rows:?}");
            }
        });
        assert_eq!(all_rows(&*engine, Family::Rows).len(), 8);
    }
}

#[test]
fn a_scan_ends_with_the_error_of_its_visitor() {
    for medium in Medium::all() {
        let engine = medium.engine().unwrap();
        write(&*engine, &[Step::Put(1, vec![1], vec![])]);
        let range = KeyRange { from: &[], end: None, direction: Direction::Ascending };
        let failed = || StoreError::Read("the visitor".into());
        assert_eq!(engine.scan(Family::Rows, &range, &mut |_, _| Err(failed())), Err(failed()));
    }
}

#[test]
fn a_second_opener_is_refused_or_fences_the_first() {
    for medium in Medium::all() {
        let first = medium.engine().unwrap();
        write(&*first, &[Step::Put(1, vec![1], vec![1])]);
        let late = || {
            let mut changes = first.batch();
            changes.put(Family::Rows, &[2], &[2]);
            changes.write()
        };
        match medium.engine() {
            Err(OpenError::InUse(_)) => {
                late().unwrap();
                first.sync().unwrap();
            }
            Err(other) => panic!("{other}"),
            Ok(second) => {
                assert!(matches!(late(), Err(StoreError::Fenced { .. })));
                assert!(matches!(first.sync(), Err(StoreError::Fenced { .. })));
                write(&*second, &[Step::Put(1, vec![3], vec![3])]);
                assert_eq!(all_rows(&*second, Family::Rows), [(vec![1], vec![1]), (vec![3], vec![3])]);
            }
        }
    }
}

/// A committer for two shards, and how far each got.
fn committer(store: &Arc<Store>) -> (Committer, Vec<watch::Receiver<Watermark>>) {
    let (marks, watches) = (0..2).map(|_| watch::channel(Watermark::default())).unzip();
    let clock = Clock::start(sluicegate_protocol::Timestamp(0));
    (Committer::start((Arc::clone(store), clock, Meters::default()), marks), watches)
}

fn submission(store: &Arc<Store>, number: u64, sync: bool) -> Submission {
    let mut batch = Batch::new(store);
    let row = ShardRow { epoch: 1, committed_at_us: 2, next_lite: number, next_body: 0 };
    batch.put(&ShardKey { shard: ShardId(1) }, &row);
    Submission { shard: ShardId(1), number, batch, sync }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watermark_moves_for_the_shard_alone_and_what_is_durable_survives_a_power_cut() {
    for medium in Medium::all() {
        let store = medium.store();
        let (committer, mut marks) = committer(&store);
        for (number, sync) in [(1, false), (2, true), (3, false)] {
            committer.submit(submission(&store, number, sync)).await.unwrap();
        }
        let mark = marks[1].wait_for(|mark| mark.written == 3 && mark.durable >= 2).await.unwrap().clone();
        assert_eq!(mark.failed, None);
        assert_eq!(*marks[0].borrow(), Watermark::default());
        let durable = mark.durable;
        if let Medium::Memory(disk) = &medium {
            disk.cut_power();
        }
        let row = store.get(&ShardKey { shard: ShardId(1) }).unwrap().unwrap();
        assert!(row.next_lite >= durable, "{row:?}");
        committer.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_more_is_durable_and_another_opening_decides() {
    let faults = Faults::default();
    let directory = tempfile::tempdir().unwrap();
    let disk = Disk::default();
    let engines: [Box<dyn Engine>; 2] = [Box::new(Rocks::open(directory.path()).unwrap()), Box::new(disk.engine())];
    for engine in engines {
        let store = over(Box::new(Faulty::new(engine, faults.clone())));
        let (committer, mut marks) = committer(&store);
        committer.submit(submission(&store, 1, true)).await.unwrap();
        marks[1].wait_for(|mark| mark.durable == 1).await.unwrap();
        faults.once(Fault::SyncFails);
        committer.submit(submission(&store, 2, true)).await.unwrap();
        // All shards are told: what one of them has written may be lost as well.
        for mark in &mut marks {
            let mark = mark.wait_for(|mark| mark.failed.is_some()).await.unwrap();
            assert!(mark.durable <= 1, "{mark:?}");
        }
        assert!(matches!(store.failure(), Some(StoreError::Database(_))));
        committer.finish().await;
    }
    // One outcome of the two.
    disk.cut_power();
    let found = disk.open().unwrap().get(&ShardKey { shard: ShardId(1) }).unwrap();
    assert_eq!(found.map(|row| row.next_lite), Some(1));
    // And the other: RocksDB has the row still, because the machine did not fail.
    let reopened = loop {
        match Store::open(directory.path(), None) {
            // The last thread of the committer closes it, at its end.
            Err(OpenError::InUse(_)) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            opened => break opened.unwrap(),
        }
    };
    let found = reopened.get(&ShardKey { shard: ShardId(1) }).unwrap();
    assert_eq!(found.map(|row| row.next_lite), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_write_the_batch_is_there_wholly_or_not_at_all() {
    for (fault, expected) in [(Fault::WriteFails, 1), (Fault::WriteIsDoneAndFails, 2)] {
        let (disk, faults) = (Disk::default(), Faults::default());
        let store = disk.open_with(&faults).unwrap();
        let (committer, mut marks) = committer(&store);
        committer.submit(submission(&store, 1, true)).await.unwrap();
        marks[1].wait_for(|mark| mark.durable == 1).await.unwrap();
        faults.once(fault);
        committer.submit(submission(&store, 2, true)).await.unwrap();
        let mark = marks[1].wait_for(|mark| mark.failed.is_some()).await.unwrap().clone();
        assert_eq!((mark.written, mark.durable), (1, 1));
        let found = disk.open().unwrap().get(&ShardKey { shard: ShardId(1) }).unwrap();
        assert_eq!(found.map(|row| row.next_lite), Some(expected));
    }
}
