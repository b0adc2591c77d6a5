//! A store in memory, for tests: it can be opened by two at once, and lose its power.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::engine::{Changes, Direction, Engine, Family, KeyRange, Scan, Value, Visit};
use super::faults::{Faults, Faulty};
use super::space::{Source, Space};
use super::{OpenError, Store, StoreError};

type Rows = BTreeMap<(Family, Vec<u8>), Vec<u8>>;

/// What outlives the engines that open it. Cheap to share.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    /// Raised by each opening; the engine with the last one writes.
    epoch: u64,
    /// What readers see.
    written: Rows,
    /// What survives a power cut.
    synced: Rows,
    /// How `synced` becomes `written`.
    unsynced: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Put(Family, Vec<u8>, Vec<u8>),
    Delete(Family, Vec<u8>),
    DeleteRange(Family, Vec<u8>, Vec<u8>),
}

impl Disk {
    /// Opens the disk; whoever has it open from before can write no more.
    pub(super) fn engine(&self) -> Memory {
        let mut contents = self.contents();
        contents.epoch += 1;
        Memory { disk: self.clone(), epoch: contents.epoch }
    }

    /// A store on this disk.
    pub(crate) fn open(&self) -> Result<Arc<Store>, OpenError> {
        self.open_with(&Faults::default())
    }

    /// A store on this disk, with these faults between.
    pub(crate) fn open_with(&self, faults: &Faults) -> Result<Arc<Store>, OpenError> {
        let engine = Box::new(Faulty::new(Box::new(self.engine()), faults.clone()));
        Store::over(engine, Space::new(Source::Told(faults.free_bytes()), None), Path::new("memory"))
    }

    /// What was not synced is gone.
    pub(crate) fn cut_power(&self) {
        let mut contents = self.contents();
        contents.unsynced.clear();
        contents.written = contents.synced.clone();
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("nobody panics with the lock")
    }
}

/// An open [`Disk`].
#[derive(Debug, Clone)]
pub(super) struct Memory {
    disk: Disk,
    epoch: u64,
}

impl Memory {
    fn check_epoch(&self, contents: &Contents) -> Result<(), StoreError> {
        match contents.epoch {
            epoch if epoch == self.epoch => Ok(()),
            epoch => Err(StoreError::Fenced { epoch }),
        }
    }
}

impl Engine for Memory {
    fn batch(&self) -> Box<dyn Changes> {
        Box::new(MemoryChanges { engine: self.clone(), changes: Vec::new() })
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut contents = self.disk.contents();
        self.check_epoch(&contents)?;
        for change in std::mem::take(&mut contents.unsynced) {
            change.apply(&mut contents.synced);
        }
        Ok(())
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Value<'_>>, StoreError> {
        let row = self.disk.contents().written.get(&(family, key.to_vec())).cloned();
        Ok(row.map(Value::new))
    }

    fn scan(&self, family: Family, range: &KeyRange<'_>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let from = (family, range.from.to_vec());
        // No key is longer than this.
        let end = (family, range.end.map_or_else(|| vec![u8::MAX; 512], <[u8]>::to_vec));
        if from > end {
            return Ok(());
        }
        // A copy: `visit` may read the store.
        let mut rows: Vec<_> = {
            let contents = self.disk.contents();
            contents.written.range(from..end).map(|((_, key), row)| (key.clone(), row.clone())).collect()
        };
        if range.direction == Direction::Descending {
            rows.reverse();
        }
        for (key, row) in rows {
            if visit(&key, &row)? == Scan::Done {
                break;
            }
        }
        Ok(())
    }
}

struct MemoryChanges {
    engine: Memory,
    changes: Vec<Change>,
}

impl Changes for MemoryChanges {
    fn put(&mut self, family: Family, key: &[u8], row: &[u8]) {
        self.changes.push(Change::Put(family, key.to_vec(), row.to_vec()));
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.changes.push(Change::Delete(family, key.to_vec()));
    }

    fn delete_range(&mut self, family: Family, from: &[u8], end: &[u8]) {
        self.changes.push(Change::DeleteRange(family, from.to_vec(), end.to_vec()));
    }

    fn bytes(&self) -> usize {
        let bytes = |change: &Change| match change {
            Change::Put(_, key, row) => key.len() + row.len(),
            Change::Delete(_, key) => key.len(),
            Change::DeleteRange(_, from, end) => from.len() + end.len(),
        };
        self.changes.iter().map(bytes).sum()
    }

    fn count(&self) -> usize {
        self.changes.len()
    }

    fn write(self: Box<Self>) -> Result<(), StoreError> {
        let mut contents = self.engine.disk.contents();
        self.engine.check_epoch(&contents)?;
        for change in &self.changes {
            change.apply(&mut contents.written);
        }
        contents.unsynced.extend(self.changes);
        Ok(())
    }
}

impl Change {
    fn apply(&self, rows: &mut Rows) {
        match self {
            Self::Put(family, key, row) => drop(rows.insert((*family, key.clone()), row.clone())),
            Self::Delete(family, key) => drop(rows.remove(&(*family, key.clone()))),
            Self::DeleteRange(family, from, end) => {
                rows.retain(|(of, key), _| of != family || key < from || key >= end);
            }
        }
    }
}
