//! Faults at the seam, for tests: an engine around another one that fails, waits or lies when it is told to.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::StoreError;
use super::engine::{Changes, Engine, Family, KeyRange, Value, Visit};

/// Something that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A write does nothing and says that it failed.
    WriteFails,
    /// A write is done and says that it failed.
    WriteIsDoneAndFails,
    /// A sync does nothing and says that it failed.
    SyncFails,
    /// A sync takes this long.
    SyncTakes(Duration),
    /// Nothing of this family can be read.
    ReadFails(Family),
    /// The rows of this family are not what was written.
    RowsAreGarbage(Family),
}

/// What a disk does wrong, in the hands of a test. Cheap to share; it outlives the engines.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    plan: Arc<Mutex<Plan>>,
    free_bytes: Arc<AtomicU64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self { plan: Arc::default(), free_bytes: Arc::new(AtomicU64::new(u64::MAX)) }
    }
}

#[derive(Debug, Default)]
struct Plan {
    /// Each happens once, in this order among those of its kind.
    once: VecDeque<Fault>,
    /// Until it is taken away.
    lasting: Option<Fault>,
}

impl Faults {
    /// It happens once, at the next occasion.
    pub(crate) fn once(&self, fault: Fault) {
        self.plan().once.push_back(fault);
    }

    /// It happens each time until [`Faults::heal`].
    pub(crate) fn now_on(&self, fault: Fault) {
        self.plan().lasting = Some(fault);
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        *self.plan() = Plan::default();
        self.free_bytes.store(u64::MAX, Ordering::Relaxed);
    }

    /// The disk has so much room from now on.
    pub(crate) fn leave_free(&self, bytes: u64) {
        self.free_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn free_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.free_bytes)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("nobody panics with the lock")
    }

    fn next(&self, concerns: impl Fn(&Fault) -> bool) -> Option<Fault> {
        let mut plan = self.plan();
        if let Some(at) = plan.once.iter().position(&concerns) {
            return plan.once.remove(at);
        }
        plan.lasting.filter(concerns)
    }
}

/// An engine, and what it does wrong.
#[derive(Debug)]
pub(super) struct Faulty {
    engine: Box<dyn Engine>,
    faults: Faults,
}

struct FaultyChanges {
    changes: Box<dyn Changes>,
    faults: Faults,
}

impl Faulty {
    pub(super) fn new(engine: Box<dyn Engine>, faults: Faults) -> Self {
        Self { engine, faults }
    }

    fn read_fault(&self, family: Family) -> Result<Option<Fault>, StoreError> {
        let concerns = |fault: &Fault| *fault == Fault::ReadFails(family) || *fault == Fault::RowsAreGarbage(family);
        match self.faults.next(concerns) {
            Some(Fault::ReadFails(_)) => Err(StoreError::Read("injected".into())),
            other => Ok(other),
        }
    }
}

impl Engine for Faulty {
    fn batch(&self) -> Box<dyn Changes> {
        Box::new(FaultyChanges { changes: self.engine.batch(), faults: self.faults.clone() })
    }

    fn sync(&self) -> Result<(), StoreError> {
        let concerns = |fault: &Fault| matches!(fault, Fault::SyncFails | Fault::SyncTakes(_));
        match self.faults.next(concerns) {
            Some(Fault::SyncFails) => return Err(StoreError::Database("injected: the sync failed".into())),
            Some(Fault::SyncTakes(duration)) => wait(duration),
            _ => {}
        }
        self.engine.sync()
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Value<'_>>, StoreError> {
        let fault = self.read_fault(family)?;
        let row = self.engine.get(family, key)?;
        Ok(if fault.is_some() { row.map(|row| Value::new(garbage(&row))) } else { row })
    }

    fn scan(&self, family: Family, range: &KeyRange<'_>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        if self.read_fault(family)?.is_some() {
            return self.engine.scan(family, range, &mut |key, row| visit(key, &garbage(row)));
        }
        self.engine.scan(family, range, visit)
    }
}

/// A row that no table can read.
fn garbage(row: &[u8]) -> Vec<u8> {
    row.iter().map(|byte| !byte).collect()
}

impl Changes for FaultyChanges {
    fn put(&mut self, family: Family, key: &[u8], row: &[u8]) {
        self.changes.put(family, key, row);
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.changes.delete(family, key);
    }

    fn delete_range(&mut self, family: Family, from: &[u8], end: &[u8]) {
        self.changes.delete_range(family, from, end);
    }

    fn bytes(&self) -> usize {
        self.changes.bytes()
    }

    fn count(&self) -> usize {
        self.changes.count()
    }

    fn write(self: Box<Self>) -> Result<(), StoreError> {
        let failed = || Err(StoreError::Database("injected: the write failed".into()));
        match self.faults.next(|fault| matches!(fault, Fault::WriteFails | Fault::WriteIsDoneAndFails)) {
            Some(Fault::WriteFails) => failed(),
            Some(_) => self.changes.write().and_then(|()| failed()),
            None => self.changes.write(),
        }
    }
}

/// What a slow disk does to the thread that waits for it.
#[expect(clippy::disallowed_methods, reason = "the syncer's thread is to be blocked, as by a disk")]
fn wait(duration: Duration) {
    std::thread::sleep(duration);
}
