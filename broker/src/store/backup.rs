//! Backups: a copy of the store at one point, with a list of its files that is written last.
//!
//! RocksDB's checkpoint makes the copy while the broker writes: table files are linked where the disk allows, the rest is
//! copied. A backup without its list, or whose files differ from it, is not restored.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Batch, ShardId, ShardKey, Store, StoreError, check_store};
use crate::disk::{Readers, make_dir, sync_dir, write_file};

/// The list of files, beside the directory `store`.
const LIST: &str = "backup.json";
/// More epochs than a shard begins after a backup of it.
const EPOCHS_PASSED_OVER: u64 = 1 << 32;

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The place is taken.
    #[error("{} exists and is not empty; choose another directory", .0.display())]
    Exists(PathBuf),
    /// The system or the database said no.
    #[error("{}: {problem}", .path.display())]
    Failed {
        /// What was read or written.
        path: PathBuf,
        /// What went wrong.
        problem: String,
    },
    /// It was not finished, or is damaged.
    #[error("backup {} is not complete: {problem}; use another one", .path.display())]
    Incomplete {
        /// The backup.
        path: PathBuf,
        /// What is missing or differs.
        problem: String,
    },
}

/// A backup that is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// Name and bytes of each.
    files: BTreeMap<String, u64>,
}

impl Backup {
    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().sum()
    }
}

impl Store {
    /// Copies what is written by now into a new directory. Waits for the disk.
    pub(crate) fn back_up(&self, directory: &Path) -> Result<Backup, BackupError> {
        check_free(directory)?;
        make_dir(directory).map_err(|error| failed(directory, &error))?;
        let copy = directory.join("store");
        self.checkpoint(&copy).map_err(|error| failed(directory, &error))?;
        sync_dir(&copy).map_err(|error| failed(&copy, &error))?;
        let backup = Backup { files: list_files(&copy)? };
        let list = serde_json::to_vec_pretty(&backup).expect("names are strings");
        write_file(&directory.join(LIST), &list, Readers::Everybody).map_err(|error| failed(directory, &error))?;
        Ok(backup)
    }
}

/// Copies a backup into a data directory that has no store yet, and reads all of it once.
///
/// # Errors
/// [`BackupError`]: then nothing is in the data directory that a broker would open.
pub fn restore_backup(from: &Path, data_dir: &Path) -> Result<Backup, BackupError> {
    let incomplete = |problem: String| BackupError::Incomplete { path: from.into(), problem };
    let list = std::fs::read(from.join(LIST)).map_err(|error| incomplete(format!("{LIST}: {error}")))?;
    let backup: Backup = serde_json::from_slice(&list).map_err(|error| incomplete(format!("{LIST}: {error}")))?;
    let store = data_dir.join("store");
    check_free(&store)?;
    // Under another name until it is whole.
    let partial = data_dir.join("store.restoring");
    check_free(&partial)?;
    make_dir(&partial).map_err(|error| failed(&partial, &error))?;
    if let Err(problem) = copy_all(&from.join("store"), &partial, &backup.files) {
        remove(&partial);
        return Err(incomplete(problem));
    }
    // All of it is on the disk before it has its name: otherwise a power cut could leave a store without some of its files.
    let renamed = sync_dir(&partial).and_then(|()| std::fs::rename(&partial, &store)).and_then(|()| sync_dir(data_dir));
    renamed.map_err(|error| failed(&store, &error))?;
    // Every row is read: the files may have their bytes and be damaged.
    let checked = check_rows(data_dir);
    if let Err(problem) = checked.and_then(|()| pass_over_tokens(data_dir).map_err(|error| error.to_string())) {
        remove(&store);
        return Err(incomplete(problem));
    }
    Ok(backup)
}

/// Tokens of leases that were given out after the backup was made must not be those of leases to come.
fn pass_over_tokens(data_dir: &Path) -> Result<(), StoreError> {
    let store = Store::open_existing(data_dir).map_err(|error| StoreError::Database(error.to_string()))?;
    let mut batch = Batch::new(&store);
    for shard in (0..store.shards_there()?.unwrap_or_default()).map(ShardId) {
        let key = ShardKey { shard };
        if let Some(mut row) = store.get(&key)? {
            row.epoch += EPOCHS_PASSED_OVER;
            batch.put(&key, &row);
        }
    }
    store.write_control(batch)
}

fn check_rows(data_dir: &Path) -> Result<(), String> {
    let report = check_store(data_dir).map_err(|error| error.to_string())?;
    report.problems.into_iter().next().map_or(Ok(()), Err)
}

fn copy_all(from: &Path, to: &Path, files: &BTreeMap<String, u64>) -> Result<(), String> {
    for (name, &listed) in files {
        let found = listed_bytes(from, name)?;
        if found != listed {
            return Err(format!("{name} has {found} bytes, the list says {listed}"));
        }
        let target = to.join(name);
        let copied = std::fs::copy(from.join(name), &target).and_then(|_| File::open(&target)?.sync_all());
        copied.map_err(|error| format!("{}: {error}", target.display()))?;
    }
    Ok(())
}

/// Takes away what was copied, as far as it is there.
fn remove(directory: &Path) {
    if directory.exists()
        && let Err(error) = std::fs::remove_dir_all(directory)
    {
        tracing::warn!(%error, directory = %directory.display(), "what was copied cannot be removed");
    }
}

fn check_free(directory: &Path) -> Result<(), BackupError> {
    match std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some()) {
        true => Err(BackupError::Exists(directory.into())),
        false => Ok(()),
    }
}

/// The files with their bytes; what the list names is on the disk before the list is.
fn list_files(directory: &Path) -> Result<BTreeMap<String, u64>, BackupError> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(|error| failed(directory, &error))? {
        let path = entry.map_err(|error| failed(directory, &error))?.path();
        let bytes = File::open(&path).and_then(|file| file.sync_all().and_then(|()| file.metadata()));
        let name = path.file_name().expect("an entry of a directory has a name").to_string_lossy().into_owned();
        files.insert(name, bytes.map_err(|error| failed(&path, &error))?.len());
    }
    Ok(files)
}

/// The bytes of a file that the list names: nothing outside of the backup.
fn listed_bytes(store: &Path, name: &str) -> Result<u64, String> {
    if Path::new(name).file_name().is_none_or(|file| file != name) {
        return Err(format!("`{name}` is no file name"));
    }
    std::fs::metadata(store.join(name)).map(|found| found.len()).map_err(|error| format!("{name}: {error}"))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> BackupError {
    BackupError::Failed { path: path.into(), problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ShardRow;

    #[test]
    fn a_restored_shard_gives_out_no_token_that_it_may_have_given_out_before() {
        let directory = tempfile::tempdir().unwrap();
        let [first, backup, second] = ["first", "backup", "second"].map(|name| directory.path().join(name));
        let store = Store::open(&first, None).unwrap();
        let keys = (0..store.shards(2).unwrap()).map(|shard| ShardKey { shard: ShardId(shard) });
        let mut batch = Batch::new(&store);
        keys.clone().for_each(|key| batch.put(&key, &ShardRow { epoch: 3, ..ShardRow::default() }));
        store.write_control(batch).unwrap();
        store.back_up(&backup).unwrap();
        drop(store);
        restore_backup(&backup, &second).unwrap();
        let store = Store::open(&second, None).unwrap();
        let epochs: Vec<_> = keys.map(|key| store.get(&key).unwrap().unwrap().epoch).collect();
        assert_eq!(epochs, [3 + EPOCHS_PASSED_OVER; 2]);
    }
}
