//! The store: ordered rows that outlive the process.
//!
//! A shard needs of its store: apply one atomic ordered [`Batch`], learn how far its batches are
//! written and durable ([`Watermark`]), get, and scan. What keeps the rows is behind the seam in
//! `engine.rs`; `rocks.rs` is the one place that knows RocksDB. The keys of each table are in a file
//! of their own. The store knows no scheduler, no connection and no policy.

mod backup;
mod body;
mod check;
mod collect;
mod committer;
#[cfg(test)]
mod conformance;
mod control;
mod cursor;
mod due;
mod engine;
mod error;
#[cfg(test)]
mod faults;
mod group;
mod idempotency;
mod key;
mod lease;
mod lite;
mod look;
#[cfg(test)]
mod memory;
mod message;
#[cfg(test)]
mod opening;
mod options;
mod ready;
mod receipts;
mod rocks;
mod shard_row;
mod shrink;
mod space;
mod stats;
mod table;
#[cfg(test)]
mod tables;
mod tidy;
mod upgrade;
mod wake;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use engine::{Changes, Direction, Engine, KeyRange};
use options::FAMILIES;
use rocks::Rocks;
use space::{Source, Space};
use tokio::sync::watch;

pub use backup::{Backup, BackupError, restore_backup};
pub(crate) use body::{
    BodyKey, BodyPlace, BodyRef, ChunkKey, NOBODY, ROW_BODY_BYTES_MAX, ShareKey, ShareRow, SweepKey,
};
pub use check::{StoreReport, TableReport, check_store};
pub(crate) use committer::{Committer, Submission, Watermark};
pub(crate) use control::ControlKind;
pub(crate) use cursor::{Attempts, CursorKey, CursorRow, Hold, OpenLease};
pub(crate) use due::{DueKey, DueKind, DueRow};
pub(crate) use engine::{Family, Scan, Value};
pub use error::OpenError;
pub(crate) use error::StoreError;
#[cfg(test)]
pub(crate) use faults::{Fault, Faults};
pub(crate) use group::{BusyKey, BusyRow, LevelsKey, LevelsRow};
pub(crate) use idempotency::{DedupEndKey, DedupKey, DedupRow};
pub(crate) use lease::{LeaseKey, LeaseRow};
pub(crate) use lite::{LiteKey, LiteRow, NameKey, NameRow, OwnReclaim, TailKey, TailRow};
pub(crate) use look::Look;
#[cfg(test)]
pub(crate) use memory::Disk;
pub(crate) use message::{MessageHeader, MessageKey, MessagePlace, StoredMessage, split as split_message};
pub use options::database_options;
pub(crate) use ready::{Hint, HintHead, ReadyKey};
pub(crate) use receipts::{ReceiptsEndKey, ReceiptsKey, ReceiptsRow, StoredReceipt};
pub(crate) use shard_row::{BucketKey, BucketRow, CountKey, CountRow, ShardKey, ShardRow, TenantKey, TenantRow};
pub(crate) use shrink::Shrinking;
pub use stats::{FamilyStats, StoreStats, TableStats, TopicStats, store_stats};
pub(crate) use table::{Key, Nothing, Row, ShardId, TimedKey};
pub(crate) use wake::WakeKey;

/// Version of everything in the data directory. A store of a newer one is refused, one of an older one is brought to it by `upgrade.rs`.
const FORMAT: u32 = 2;
/// What stands before the version in the format row.
const FORMAT_NAME: &str = "sluicegate ";
const FORMAT_KEY: &[u8] = b"format";

/// An open store. Cheap to share; the last owner closes it.
#[derive(Debug)]
pub(crate) struct Store {
    engine: Box<dyn Engine>,
    /// RocksDB beside the seam, for tools; none where another engine keeps the rows.
    rocks: Option<Rocks>,
    space: Space,
    /// Bytes of bodies that were deleted and not tidied up after.
    dropped_bytes: AtomicU64,
    /// The first failure; later ones are its consequences.
    failure: watch::Sender<Option<StoreError>>,
}

/// Bytes in memory of a store.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct StoreMemory {
    /// Blocks of files, for reads.
    pub(crate) block_cache: u64,
    /// What is not in files yet.
    pub(crate) memtables: u64,
}

/// Changes that are applied together, in order.
pub(crate) struct Batch(Box<dyn Changes>);

impl Store {
    /// Opens or makes the store in `path`, with so much of its disk in reserve.
    pub(crate) fn open(path: &Path, reserve_bytes: Option<u64>) -> Result<Arc<Self>, OpenError> {
        let rocks = Rocks::open(path)?;
        // The database may be a file system of its own.
        let space = Space::new(Source::Directory(path.join("store")), reserve_bytes);
        let store = Self { rocks: Some(rocks.clone()), ..Self::new(Box::new(rocks), space) };
        store.check_format(path)?;
        Ok(Arc::new(store))
    }

    /// Opens a store that is there, for a tool.
    fn open_existing(path: &Path) -> Result<Arc<Self>, OpenError> {
        match std::fs::read_dir(path.join("store")).is_ok_and(|mut files| files.next().is_some()) {
            true => Self::open(path, None),
            false => Err(OpenError::Missing(path.into())),
        }
    }

    fn new(engine: Box<dyn Engine>, space: Space) -> Self {
        Self { engine, rocks: None, space, dropped_bytes: AtomicU64::new(0), failure: watch::Sender::new(None) }
    }

    /// The store that this engine keeps, which was opened for `path`.
    #[cfg(test)]
    fn over(engine: Box<dyn Engine>, space: Space, path: &Path) -> Result<Arc<Self>, OpenError> {
        let store = Self::new(engine, space);
        store.check_format(path)?;
        Ok(Arc::new(store))
    }

    /// Remembers and logs the first failure. Nothing that the store says from then on is a promise.
    pub(crate) fn failed(&self, error: &StoreError) {
        let is_first = self.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert_with(|| error.clone());
            is_first
        });
        if is_first {
            tracing::error!(%error, "the store failed, what it concerns is refused until it is open again");
        }
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<StoreError> {
        self.failure.borrow().clone()
    }

    /// Tells when the store fails.
    pub(crate) fn failures(&self) -> watch::Receiver<Option<StoreError>> {
        self.failure.subscribe()
    }

    /// Gives the disk back some of what was deleted. To be called now and then, on a thread that may wait.
    ///
    /// # Errors
    /// The database says no; nothing is lost.
    pub(crate) fn give_back(&self, shrinking: &mut Shrinking) -> Result<(), StoreError> {
        let Some(rocks) = &self.rocks else { return Ok(()) };
        shrinking.look(rocks)?;
        self.tidy(rocks)
    }

    /// Writes all that is in memory to files of its own, synced. Waits for the disk.
    ///
    /// # Errors
    /// The database says no.
    pub(crate) fn write_out(&self) -> Result<(), StoreError> {
        self.rocks.iter().flat_map(|rocks| FAMILIES.map(|family| rocks.flush(family))).collect()
    }

    /// Nothing is compacted any more, now or later: the store is to be closed.
    pub(crate) fn stop_tidying(&self) {
        if let Some(rocks) = &self.rocks {
            rocks.0.cancel_all_background_work(false);
        }
    }

    /// Memory that RocksDB has taken, as far as it can be told.
    pub(crate) fn memory(&self) -> StoreMemory {
        // One that cannot be asked is noticed elsewhere.
        self.rocks.as_ref().map(Rocks::memory).and_then(Result::ok).unwrap_or_default()
    }

    /// The room that its disk has.
    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    fn check_format(&self, path: &Path) -> Result<(), OpenError> {
        let failed = |error: StoreError| OpenError::Database { path: path.into(), problem: error.to_string() };
        let foreign = |found| OpenError::Foreign { path: path.into(), found };
        let row = self.engine.get(Family::Control, FORMAT_KEY).map_err(failed)?.map(|row| row.to_vec());
        let Some(row) = row else {
            return match self.is_empty().map_err(failed)? {
                true => self.write_format().map_err(failed),
                false => Err(foreign("a database without our format row".into())),
            };
        };
        match parse_format(&row) {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => Err(OpenError::Newer { path: path.into(), found }),
            Some(found) => self.upgrade(found).map_err(failed),
            None => Err(foreign(format!("a database of format `{}`", String::from_utf8_lossy(&row)))),
        }
    }

    /// Whether there is no row: a first start may have been cut short.
    fn is_empty(&self) -> Result<bool, StoreError> {
        let (mut is_empty, all) = (true, KeyRange { from: &[], end: None, direction: Direction::Ascending });
        for family in FAMILIES {
            self.engine.scan(family, &all, &mut |_, _| {
                is_empty = false;
                Ok(Scan::Done)
            })?;
        }
        Ok(is_empty)
    }

    fn write_format(&self) -> Result<(), StoreError> {
        let mut changes = self.engine.batch();
        put_format(&mut *changes);
        changes.write()?;
        self.sync()
    }

    /// Copies what is written by now to a directory that does not exist yet.
    fn checkpoint(&self, directory: &Path) -> Result<(), StoreError> {
        let no_rocks = || StoreError::Database("this store cannot be backed up by copying".into());
        self.rocks.as_ref().ok_or_else(no_rocks)?.checkpoint(directory)
    }

    /// The row with this key.
    pub(crate) fn get<K: Key>(&self, key: &K) -> Result<Option<K::Row>, StoreError> {
        let bytes = key.encode();
        match self.engine.get(K::FAMILY, &bytes)? {
            Some(value) => K::Row::decode(&value).map(Some).map_err(|problem| corrupt::<K>(&bytes, problem)),
            None => Ok(None),
        }
    }

    /// The bytes of the row with this key.
    pub(crate) fn get_bytes<K: Key>(&self, key: &K) -> Result<Option<Value<'_>>, StoreError> {
        self.engine.get(K::FAMILY, &key.encode())
    }

    /// A look at its rows, of which some can be read together.
    pub(crate) fn look(&self) -> Look<'_> {
        Look::new(self)
    }

    /// Calls `visit` with the rows of a table from key `from` on, in order, while the keys start
    /// with `prefix` and `visit` answers [`Scan::More`].
    pub(crate) fn scan<K: Key>(
        &self,
        prefix: &[u8],
        from: &[u8],
        mut visit: impl FnMut(K, K::Row) -> Scan,
    ) -> Result<(), StoreError> {
        let end = key::prefix_end(prefix);
        let range = KeyRange { from, end: end.as_deref(), direction: Direction::Ascending };
        self.engine.scan(K::FAMILY, &range, &mut |key, row| decode::<K>(key, row).map(|(key, row)| visit(key, row)))
    }

    /// The last row of a table with key `from` or higher whose key starts with `prefix`.
    pub(crate) fn last<K: Key>(&self, prefix: &[u8], from: &K) -> Result<Option<(K, K::Row)>, StoreError> {
        let (from, end, mut last) = (from.encode(), key::prefix_end(prefix), None);
        let range = KeyRange { from: &from, end: end.as_deref(), direction: Direction::Descending };
        self.engine.scan(K::FAMILY, &range, &mut |key, row| {
            last = Some(decode::<K>(key, row)?);
            Ok(Scan::Done)
        })?;
        Ok(last)
    }

    /// Waits until everything that is written is on the disk.
    fn sync(&self) -> Result<(), StoreError> {
        self.engine.sync()
    }

    /// Writes and syncs a batch of control rows. Control changes are rare and made off the shards.
    pub(crate) fn write_control(&self, batch: Batch) -> Result<(), StoreError> {
        batch.write().and_then(|()| self.sync()).inspect_err(|error| self.failed(error))
    }
}

impl Batch {
    /// No changes.
    pub(crate) fn new(store: &Store) -> Self {
        Self(store.engine.batch())
    }

    /// Sets a row.
    pub(crate) fn put<K: Key>(&mut self, key: &K, row: &K::Row) {
        self.put_encoded(key, &row.encode());
    }

    /// Sets a row whose bytes the caller has already.
    pub(crate) fn put_encoded<K: Key>(&mut self, key: &K, row: &[u8]) {
        self.0.put(K::FAMILY, &key.encode(), row);
    }

    /// Removes a row, if it is there.
    pub(crate) fn delete<K: Key>(&mut self, key: &K) {
        self.0.delete(K::FAMILY, &key.encode());
    }

    /// Removes the rows from key `from` up to, not including, `end`.
    pub(crate) fn delete_range<K: Key>(&mut self, from: &K, end: &K) {
        self.0.delete_range(K::FAMILY, &from.encode(), &end.encode());
    }

    /// Removes all rows of a table whose keys start with `prefix`, which begins with the table's tag.
    pub(crate) fn delete_prefix<K: Key>(&mut self, prefix: &[u8]) {
        let end = key::prefix_end(prefix).expect("no tag is the highest byte");
        self.0.delete_range(K::FAMILY, prefix, &end);
    }

    /// Removes the rows of a table from these bytes of a key up to, not including, those.
    pub(crate) fn delete_between<K: Key>(&mut self, from: &[u8], end: &[u8]) {
        self.0.delete_range(K::FAMILY, from, end);
    }

    /// Bytes that the batch will write.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.count() == 0
    }

    /// Writes without waiting for the disk.
    fn write(self) -> Result<(), StoreError> {
        self.0.write()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("rows", &self.0.count()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// The number in a format row, if it is ours.
fn parse_format(row: &[u8]) -> Option<u32> {
    let number = std::str::from_utf8(row).ok()?.strip_prefix(FORMAT_NAME)?;
    number.parse().ok().filter(|number| *number > 0)
}

fn put_format(changes: &mut dyn Changes) {
    changes.put(Family::Control, FORMAT_KEY, format!("{FORMAT_NAME}{FORMAT}").as_bytes());
}

fn decode<K: Key>(key: &[u8], row: &[u8]) -> Result<(K, K::Row), StoreError> {
    let decoded = K::decode(key).ok_or_else(|| corrupt::<K>(key, "malformed key".into()))?;
    let row = K::Row::decode(row).map_err(|problem| corrupt::<K>(key, problem))?;
    Ok((decoded, row))
}

fn corrupt<K: Key>(key: &[u8], problem: String) -> StoreError {
    let key = key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    StoreError::Corrupt { table: K::TABLE, key, problem }
}
