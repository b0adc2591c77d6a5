//! RocksDB behind the seam, and how a directory is recognised as ours before anything in it is touched.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{BottommostLevelCompaction, CompactOptions, DB, ErrorKind, ReadOptions, WriteBatch, WriteOptions};

use super::engine::{Changes, Direction, Engine, Family, KeyRange, Scan, Value, Visit};
use super::options::{FAMILIES, FIRST_FAMILIES, database_options};
use super::{FORMAT, FORMAT_KEY, OpenError, StoreError, StoreMemory, parse_format};
use crate::disk::{OPEN_FILES_WANTED, make_dir, raise_open_files, sync_dir};

/// An open RocksDB. Its lock file refuses a second opener, so that nobody is ever fenced.
#[derive(Debug, Clone)]
pub(super) struct Rocks(pub(super) Arc<DB>);

struct RocksChanges {
    rows: WriteBatch,
    rocks: Rocks,
}

/// From a key, to a key.
type Stretch<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

impl Rocks {
    /// Opens or makes the database below the data directory `path`.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        check_writable(path)?;
        let database = path.join("store");
        if database.join("CURRENT").exists() {
            check_families(path, &database)?;
            // What RocksDB reads of a log it does not sync again, and later syncs are of later logs: whoever is answered from
            // now on by what is in it must find it after a power cut, too.
            sync_logs(&database).map_err(|error| not_writable(path, &error))?;
        } else {
            check_unused(path, &database)?;
        }
        let mut options = database_options();
        let files = raise_open_files();
        if files < OPEN_FILES_WANTED {
            // RocksDB keeps all its files open unless it is told a number. The other half is for connections.
            options.set_max_open_files(i32::try_from(files / 2).expect("it is less than a million"));
        }
        let opened = DB::open_cf_descriptors(&options, &database, Family::descriptors());
        let opened = Self(Arc::new(opened.map_err(|error| open_error(path, &error))?));
        // The database syncs what is in its directory, not that the directory is there.
        sync_dir(path).map_err(|error| not_writable(path, &error))?;
        Ok(opened)
    }

    /// Makes another database of what is written by now, of linked and copied files.
    pub(super) fn checkpoint(&self, directory: &Path) -> Result<(), StoreError> {
        let made = Checkpoint::new(&*self.0).and_then(|checkpoint| checkpoint.create_checkpoint(directory));
        made.map_err(|error| StoreError::Read(error.into_string()))
    }

    /// A number that RocksDB knows of a family; none is 0.
    pub(super) fn property(&self, family: Family, name: &str) -> Result<u64, StoreError> {
        let value = self.0.property_int_value_cf(self.family(family), name);
        value.map(Option::unwrap_or_default).map_err(unreadable)
    }

    pub(super) fn memory(&self) -> Result<StoreMemory, StoreError> {
        let memtables = |family| self.property(family, "rocksdb.cur-size-all-mem-tables");
        Ok(StoreMemory {
            // All families share one.
            block_cache: self.property(Family::Rows, "rocksdb.block-cache-usage")?,
            memtables: FAMILIES.into_iter().map(memtables).sum::<Result<_, _>>()?,
        })
    }

    /// Bytes that a stretch of keys takes in the files of a family, roughly; without an end, up to the highest key. Of its blob files it is
    /// said to have the same part.
    pub(super) fn approximate_bytes(&self, family: Family, from: &[u8], end: Option<&[u8]>) -> Result<u64, StoreError> {
        let range = rocksdb::Range::new(from, end.unwrap_or(&[u8::MAX; 64]));
        let bytes: u64 = self.0.get_approximate_sizes_cf(self.family(family), &[range]).into_iter().sum();
        let tables = self.property(family, "rocksdb.live-sst-files-size")?.max(1);
        let blobs = self.property(family, "rocksdb.live-blob-file-size")?;
        let of_blobs = u128::from(blobs) * u128::from(bytes.min(tables)) / u128::from(tables);
        Ok(bytes + u64::try_from(of_blobs).expect("a part of 64 bits has 64 bits"))
    }

    /// What a family has in memory goes to a file.
    pub(super) fn flush(&self, family: Family) -> Result<(), StoreError> {
        self.0.flush_cf(self.family(family)).map_err(unreadable)
    }

    /// Moves a stretch of a family's rows together, without what is deleted; without ends, all of them.
    pub(super) fn compact(&self, family: Family, (from, end): Stretch<'_>, bottommost: BottommostLevelCompaction) {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(bottommost);
        self.0.compact_range_cf_opt(self.family(family), from, end, &options);
    }

    pub(super) fn family(&self, family: Family) -> &rocksdb::ColumnFamily {
        self.0.cf_handle(family.name()).expect("open makes every family")
    }
}

impl Engine for Rocks {
    fn batch(&self) -> Box<dyn Changes> {
        Box::new(RocksChanges { rows: WriteBatch::default(), rocks: self.clone() })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.0.flush_wal(true).map_err(|error| StoreError::Database(error.into_string()))
    }

    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Value<'_>>, StoreError> {
        let found = self.0.get_pinned_cf(self.family(family), key).map_err(unreadable)?;
        Ok(found.map(Value::new))
    }

    fn get_many(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Value<'_>>>, StoreError> {
        let found = self.0.batched_multi_get_cf(self.family(family), keys, true);
        found.into_iter().map(|row| row.map(|row| row.map(Value::new)).map_err(unreadable)).collect()
    }

    fn scan(&self, family: Family, range: &KeyRange<'_>, visit: &mut Visit<'_>) -> Result<(), StoreError> {
        let mut read = ReadOptions::default();
        read.set_iterate_lower_bound(range.from);
        if let Some(end) = range.end {
            read.set_iterate_upper_bound(end);
        }
        let mut rows = self.0.raw_iterator_cf_opt(self.family(family), read);
        match range.direction {
            Direction::Ascending => rows.seek(range.from),
            Direction::Descending => rows.seek_to_last(),
        }
        while let Some((key, row)) = rows.item() {
            if visit(key, row)? == Scan::Done {
                return Ok(());
            }
            match range.direction {
                Direction::Ascending => rows.next(),
                Direction::Descending => rows.prev(),
            }
        }
        rows.status().map_err(unreadable)
    }
}

impl Changes for RocksChanges {
    fn put(&mut self, family: Family, key: &[u8], row: &[u8]) {
        self.rows.put_cf(self.rocks.family(family), key, row);
    }

    fn delete(&mut self, family: Family, key: &[u8]) {
        self.rows.delete_cf(self.rocks.family(family), key);
    }

    fn delete_range(&mut self, family: Family, from: &[u8], end: &[u8]) {
        self.rows.delete_range_cf(self.rocks.family(family), from, end);
    }

    fn bytes(&self) -> usize {
        self.rows.size_in_bytes()
    }

    fn count(&self) -> usize {
        self.rows.len()
    }

    fn write(self: Box<Self>) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(false);
        self.rocks.0.write_opt(self.rows, &options).map_err(|error| StoreError::Database(error.into_string()))
    }
}

fn unreadable(error: rocksdb::Error) -> StoreError {
    StoreError::Read(error.into_string())
}

fn check_writable(path: &Path) -> Result<(), OpenError> {
    make_dir(path).map_err(|error| not_writable(path, &error))?;
    for directory in [path.to_owned(), path.join("store")].iter().filter(|directory| directory.is_dir()) {
        let probe = directory.join(".write-probe");
        std::fs::write(&probe, b"")
            .and_then(|()| std::fs::remove_file(&probe))
            .map_err(|error| not_writable(path, &error))?;
    }
    Ok(())
}

fn not_writable(path: &Path, error: &std::io::Error) -> OpenError {
    OpenError::NotWritable { path: path.into(), problem: error.to_string() }
}

/// RocksDB would add our column families to whatever database it finds.
fn check_families(path: &Path, database: &Path) -> Result<(), OpenError> {
    let families = DB::list_cf(&rocksdb::Options::default(), database).map_err(|error| open_error(path, &error))?;
    let foreign = |found| Err(OpenError::Foreign { path: path.into(), found });
    let is_ours = |name: &String| name == "default" || FAMILIES.iter().any(|family| family.name() == name);
    if let Some(other) = families.iter().find(|name| !is_ours(name)) {
        if let Some(found) = format_of(database, &families).filter(|found| *found > FORMAT) {
            return Err(OpenError::Newer { path: path.into(), found });
        }
        return foreign(format!("another database (column family `{other}`)"));
    }
    // Some of the first are missing after a first start that was cut short, and then there is no row yet.
    let has_all = FIRST_FAMILIES.iter().all(|family| families.iter().any(|name| name == family.name()));
    match rows_in(database) {
        Some(file) if !has_all => foreign(format!("another database ({})", file.display())),
        _ => Ok(()),
    }
}

/// The format of a database of ours, which may have families that are unknown here.
fn format_of(database: &Path, families: &[String]) -> Option<u32> {
    let control = Family::Control.name();
    families.iter().find(|name| *name == control)?;
    let opened = DB::open_cf_for_read_only(&rocksdb::Options::default(), database, ["default", control], false).ok()?;
    parse_format(&opened.get_cf(opened.cf_handle(control)?, FORMAT_KEY).ok()??)
}

/// Without its file CURRENT RocksDB begins a new database and deletes what it finds of the old one.
fn check_unused(path: &Path, database: &Path) -> Result<(), OpenError> {
    let Some(file) = rows_in(database) else { return Ok(()) };
    let problem = format!("{} is there and {} is not", file.display(), database.join("CURRENT").display());
    Err(OpenError::Incomplete { path: path.into(), problem })
}

/// A file of a database that holds rows.
fn rows_in(database: &Path) -> Option<PathBuf> {
    let holds_rows = |file: &PathBuf| match file.extension().and_then(std::ffi::OsStr::to_str) {
        Some("sst" | "blob") => true,
        // The log of a new database is there before its first row.
        Some("log") => file.metadata().is_ok_and(|metadata| metadata.len() > 0),
        _ => false,
    };
    std::fs::read_dir(database).ok()?.flatten().map(|entry| entry.path()).filter(holds_rows).min()
}

fn open_error(path: &Path, error: &rocksdb::Error) -> OpenError {
    let problem = error.to_string();
    // RocksDB has no code for a taken lock: its text is the only sign.
    let is_locked = problem.contains("lock hold by") || problem.contains("While lock file");
    match error.kind() {
        ErrorKind::Corruption => OpenError::Damaged { path: path.into(), problem },
        ErrorKind::IOError if is_locked => OpenError::InUse(path.into()),
        _ => OpenError::Database { path: path.into(), problem },
    }
}

/// What the logs of a database have is on the disk when this returns.
fn sync_logs(database: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(database)? {
        let log = entry?.path();
        if log.extension().is_some_and(|extension| extension == "log") {
            match OpenOptions::new().write(true).open(&log).and_then(|log| log.sync_all()) {
                // Somebody else has the database open, which is found out next.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                synced => synced?,
            }
        }
    }
    sync_dir(database)
}
