//! The store: ordered rows on disk, and the one place that knows RocksDB.
//!
//! A shard needs of its store: apply one atomic ordered [`Batch`], learn how far its batches are
//! written and durable ([`Watermark`]), get, and scan. The keys of each table are in a file of
//! their own. The store knows no scheduler, no connection and no policy.

mod committer;
mod control;
mod cursor;
mod key;
mod lease;
mod lite;
mod message;
mod options;
mod ready;
mod receipts;
mod shard_row;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rocksdb::{DB, Direction, IteratorMode, ReadOptions, WriteBatch};

use crate::disk::{make_dir, sync_dir};
pub(crate) use committer::{Committer, Submission, Watermark};
pub(crate) use control::ControlKind;
pub(crate) use cursor::{Attempts, CursorKey, CursorRow, Hold};
pub(crate) use lease::{LeaseKey, LeaseRow};
pub(crate) use lite::{LiteKey, LiteRow, NameKey, NameRow, TailKey, TailRow};
pub(crate) use message::{MessageHeader, MessageKey, MessagePlace, StoredMessage, split as split_message};
pub(crate) use options::Family;
pub use options::database_options;
pub(crate) use ready::{Hint, ReadyKey};
pub(crate) use receipts::{ReceiptsKey, ReceiptsRow, StoredReceipt};
pub(crate) use shard_row::{BucketKey, BucketRow, CountKey, CountRow, ShardKey, ShardRow};

/// Version of everything in the data directory; a store of another version is refused.
const FORMAT: &[u8] = b"sluicegate 1";
const FORMAT_KEY: &[u8] = b"format";

/// A shard's number, fixed when the store is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct ShardId(pub(crate) u16);

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("data directory {} is in use by another broker", .0.display())]
    InUse(PathBuf),
    /// It cannot be made or written.
    #[error("data directory {} is not writable: {problem}", .path.display())]
    NotWritable {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
    /// It holds something else, or a version of ours that this broker does not read.
    #[error("data directory {} holds {found}, this broker reads `sluicegate 1`; choose another directory", .path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found.
        found: String,
    },
    /// The database itself failed.
    #[error("data directory {} cannot be opened: {problem}", .path.display())]
    Database {
        /// The directory.
        path: PathBuf,
        /// What the database said.
        problem: String,
    },
}

/// The store failed; nothing can be said about what it holds until it is opened anew.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreError {
    /// The database failed to read or write.
    #[error("store: {0}")]
    Database(String),
    /// A row cannot be read as what its table says.
    #[error("store: {table} row {key}: {problem}")]
    Corrupt {
        /// Name of the table.
        table: &'static str,
        /// The key, in hexadecimal.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        Self::Database(error.into_string())
    }
}

/// A table's key: where its rows are and how they are ordered.
pub(crate) trait Key: Sized {
    /// The table, for errors.
    const TABLE: &'static str;
    /// The column family that holds the table.
    const FAMILY: Family;
    /// What the rows hold.
    type Row: Row;

    /// The key's bytes; their order is the order of meaning.
    fn encode(&self) -> Vec<u8>;
    /// The key with these bytes, if they are one.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

/// A table's value.
pub(crate) trait Row: Sized {
    /// The row's bytes.
    fn encode(&self) -> Vec<u8>;
    /// The row with these bytes, or what is wrong with them.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// An open database. Cheap to share; the last owner closes it.
#[derive(Debug)]
pub(crate) struct Store {
    db: DB,
    /// The first failure; later ones are its consequences.
    failure: OnceLock<StoreError>,
}

/// Changes that are applied together, in order.
pub(crate) struct Batch {
    rows: WriteBatch,
    store: Arc<Store>,
}

impl Store {
    /// Opens or makes the store in `path`.
    pub(crate) fn open(path: &Path) -> Result<Arc<Self>, OpenError> {
        check_directory(path)?;
        let database = path.join("store");
        let (options, families) = (database_options(), Family::descriptors());
        let db = DB::open_cf_descriptors(&options, &database, families).map_err(|error| open_error(path, &error))?;
        // The database syncs what is in its directory, not that the directory is there.
        sync_dir(path).map_err(|error| not_writable(path, &error))?;
        let store = Self { db, failure: OnceLock::new() };
        store.check_format(path)?;
        Ok(Arc::new(store))
    }

    /// Remembers and logs the first failure. Nothing that the store says from then on is a promise.
    pub(crate) fn failed(&self, error: &StoreError) {
        if self.failure.set(error.clone()).is_ok() {
            tracing::error!(%error, "the store failed, what it concerns is refused until the next start");
        }
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<&StoreError> {
        self.failure.get()
    }

    fn check_format(&self, path: &Path) -> Result<(), OpenError> {
        let database = |error: rocksdb::Error| open_error(path, &error);
        let family = self.family(Family::Control);
        match self.db.get_cf(family, FORMAT_KEY).map_err(database)? {
            Some(found) if found == FORMAT => Ok(()),
            Some(found) => {
                let found = format!("format `{}`", String::from_utf8_lossy(&found));
                Err(OpenError::Foreign { path: path.into(), found })
            }
            // New, or made by a process that died before it came to this.
            None if self.is_empty().map_err(database)? => self.db.put_cf(family, FORMAT_KEY, FORMAT).map_err(database),
            None => Err(OpenError::Foreign { path: path.into(), found: "a database without our format row".into() }),
        }
    }

    fn is_empty(&self) -> Result<bool, rocksdb::Error> {
        let ours = Family::ALL.iter().map(|family| self.db.iterator_cf(self.family(*family), IteratorMode::Start));
        let all = ours.chain([self.db.iterator(IteratorMode::Start)]);
        Ok(all.into_iter().find_map(|mut rows| rows.next()).transpose()?.is_none())
    }

    fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(family.name()).expect("open makes every family")
    }

    /// The row with this key.
    pub(crate) fn get<K: Key>(&self, key: &K) -> Result<Option<K::Row>, StoreError> {
        let bytes = key.encode();
        match self.db.get_pinned_cf(self.family(K::FAMILY), &bytes)? {
            Some(value) => K::Row::decode(&value).map(Some).map_err(|problem| corrupt::<K>(&bytes, problem)),
            None => Ok(None),
        }
    }

    /// The bytes of the row with this key.
    pub(crate) fn get_bytes<K: Key>(&self, key: &K) -> Result<Option<rocksdb::DBPinnableSlice<'_>>, StoreError> {
        Ok(self.db.get_pinned_cf(self.family(K::FAMILY), key.encode())?)
    }

    /// Calls `visit` with the rows of a table from key `from` on, in order, while the keys start
    /// with `prefix` and `visit` answers [`Scan::More`].
    pub(crate) fn scan<K: Key>(
        &self,
        prefix: &[u8],
        from: &[u8],
        mut visit: impl FnMut(K, K::Row) -> Scan,
    ) -> Result<(), StoreError> {
        let mut read = ReadOptions::default();
        if let Some(end) = key::prefix_end(prefix) {
            read.set_iterate_upper_bound(end);
        }
        let mode = IteratorMode::From(from, Direction::Forward);
        for row in self.db.iterator_cf_opt(self.family(K::FAMILY), read, mode) {
            let (key_bytes, value) = row?;
            let key = K::decode(&key_bytes).ok_or_else(|| corrupt::<K>(&key_bytes, "malformed key".into()))?;
            let row = K::Row::decode(&value).map_err(|problem| corrupt::<K>(&key_bytes, problem))?;
            match visit(key, row) {
                Scan::More => {}
                Scan::Done => break,
            }
        }
        Ok(())
    }

    /// The last row of a table with key `from` or higher whose key starts with `prefix`.
    pub(crate) fn last<K: Key>(&self, prefix: &[u8], from: &K) -> Result<Option<(K, K::Row)>, StoreError> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(from.encode());
        if let Some(end) = key::prefix_end(prefix) {
            read.set_iterate_upper_bound(end);
        }
        let Some(last) = self.db.iterator_cf_opt(self.family(K::FAMILY), read, IteratorMode::End).next() else {
            return Ok(None);
        };
        let (key_bytes, value) = last?;
        let key = K::decode(&key_bytes).ok_or_else(|| corrupt::<K>(&key_bytes, "malformed key".into()))?;
        let row = K::Row::decode(&value).map_err(|problem| corrupt::<K>(&key_bytes, problem))?;
        Ok(Some((key, row)))
    }

    /// Writes a batch without waiting for the disk.
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(false);
        Ok(self.db.write_opt(batch.rows, &options)?)
    }

    /// Waits until everything that is written is on the disk.
    fn sync(&self) -> Result<(), StoreError> {
        Ok(self.db.flush_wal(true)?)
    }

    /// Writes and syncs a batch of control rows. Control changes are rare and made off the shards.
    pub(crate) fn write_control(&self, batch: Batch) -> Result<(), StoreError> {
        self.write(batch)?;
        self.sync()
    }
}

/// Whether a scan goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The next row, please.
    More,
    /// Enough.
    Done,
}

impl Batch {
    /// No changes.
    pub(crate) fn new(store: &Arc<Store>) -> Self {
        Self { rows: WriteBatch::default(), store: Arc::clone(store) }
    }

    /// Sets a row.
    pub(crate) fn put<K: Key>(&mut self, key: &K, row: &K::Row) {
        self.put_encoded(key, &row.encode());
    }

    /// Sets a row whose bytes the caller has already.
    pub(crate) fn put_encoded<K: Key>(&mut self, key: &K, row: &[u8]) {
        self.rows.put_cf(self.store.family(K::FAMILY), key.encode(), row);
    }

    /// Removes a row, if it is there.
    pub(crate) fn delete<K: Key>(&mut self, key: &K) {
        self.rows.delete_cf(self.store.family(K::FAMILY), key.encode());
    }

    /// Removes the rows from key `from` up to, not including, `end`.
    pub(crate) fn delete_range<K: Key>(&mut self, from: &K, end: &K) {
        self.rows.delete_range_cf(self.store.family(K::FAMILY), from.encode(), end.encode());
    }

    /// Removes all rows of a table whose keys start with `prefix`, which begins with the table's tag.
    pub(crate) fn delete_prefix<K: Key>(&mut self, prefix: &[u8]) {
        let end = key::prefix_end(prefix).expect("no tag is the highest byte");
        self.rows.delete_range_cf(self.store.family(K::FAMILY), prefix, &end);
    }

    /// Bytes that the batch will write.
    pub(crate) fn bytes(&self) -> usize {
        self.rows.size_in_bytes()
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("rows", &self.rows.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

fn corrupt<K: Key>(key: &[u8], problem: String) -> StoreError {
    let key = key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    StoreError::Corrupt { table: K::TABLE, key, problem }
}

fn check_directory(path: &Path) -> Result<(), OpenError> {
    let probe = path.join(".write-probe");
    let made = make_dir(path).and_then(|()| std::fs::write(&probe, b"")).and_then(|()| std::fs::remove_file(&probe));
    made.map_err(|error| not_writable(path, &error))
}

fn not_writable(path: &Path, error: &std::io::Error) -> OpenError {
    OpenError::NotWritable { path: path.into(), problem: error.to_string() }
}

fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let problem = error.to_string();
    // RocksDB has no code for a taken lock: its text is the only sign.
    if problem.contains("lock ") || problem.contains("LOCK") {
        return OpenError::InUse(path.into());
    }
    if problem.contains("Column families not opened") {
        return OpenError::Foreign { path: path.into(), found: format!("another database ({problem})") };
    }
    OpenError::Database { path: path.into(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(path: &Path) -> DB {
        DB::open_cf_descriptors(&database_options(), path.join("store"), Family::descriptors()).unwrap()
    }

    #[test]
    fn a_store_whose_first_start_was_cut_short_is_made() {
        let folder = tempfile::tempdir().unwrap();
        drop(database(folder.path()));
        drop(Store::open(folder.path()).unwrap());
        Store::open(folder.path()).unwrap();
    }

    #[test]
    fn a_database_that_holds_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        database(folder.path()).put(b"key", b"of another program").unwrap();
        assert!(matches!(Store::open(folder.path()), Err(OpenError::Foreign { .. })));
    }
}
