//! Gives the disk back what deleted rows take, when there is time for it.
//!
//! RocksDB compacts as rows are written. After many were deleted and nothing more is written, deleted rows would stay in its memory, its
//! log and its files. So a store that is quiet is flushed, and its files with many deletions are compacted, a few at a time.

use rocksdb::{BottommostLevelCompaction, LiveFile};

use super::StoreError;
use super::collect::{Collecting, Load};
use super::engine::Family;
use super::options::FAMILIES;
use super::rocks::Rocks;

/// Changes between two looks below which a store is quiet.
const QUIET_CHANGES_MAX: u64 = 2_000;
/// Deletions in memory that are worth a flush.
const FLUSHED_DELETIONS_MIN: u64 = 1_000;
/// Deletions in a file that are worth a compaction, and which part of all rows of its stretch is to be deletions.
const COMPACTED_DELETIONS_MIN: u64 = 1_000;
const COMPACTED_DIVISOR: u64 = 10;
/// Files that are compacted after one look, each with what it overlaps.
const FILES_AT_ONCE: usize = 4;

/// What the last look saw.
#[derive(Debug, Default)]
pub(crate) struct Shrinking {
    changes: Option<u64>,
    collecting: Collecting,
}

impl Shrinking {
    /// Looks at the store, and compacts some of it if it is quiet. Takes as long as the disk does.
    pub(super) fn look(&mut self, rocks: &Rocks) -> Result<(), StoreError> {
        let changes = rocks.0.latest_sequence_number();
        let before = self.changes.replace(changes);
        if before.is_none_or(|before| changes - before > QUIET_CHANGES_MAX) {
            return self.collecting.look(rocks, Load::Busy);
        }
        if deletions_in_memory(rocks)? >= FLUSHED_DELETIONS_MIN {
            // All of them: the log is needed for as long as one of them has something in memory.
            FAMILIES.into_iter().try_for_each(|family| rocks.flush(family))?;
        }
        let files = rocks.0.live_files().map_err(|error| StoreError::Read(error.into_string()))?;
        let mut worth: Vec<_> = files.iter().filter(|file| is_worth_it(file, &files)).collect();
        worth.sort_unstable_by_key(|file| std::cmp::Reverse(file.num_deletions));
        for file in worth.into_iter().take(FILES_AT_ONCE) {
            compact(rocks, file);
        }
        self.collecting.look(rocks, Load::Quiet)
    }

    #[cfg(test)]
    pub(super) fn collecting(&self) -> &Collecting {
        &self.collecting
    }
}

fn deletions_in_memory(rocks: &Rocks) -> Result<u64, StoreError> {
    let mut deletions = 0;
    for family in FAMILIES {
        for property in ["rocksdb.num-deletes-active-mem-table", "rocksdb.num-deletes-imm-mem-tables"] {
            deletions += rocks.property(family, property)?;
        }
    }
    Ok(deletions)
}

/// A compaction writes all of a stretch anew: what is deleted must be a good part of that, and not of one new file that lies over
/// millions of old rows.
fn is_worth_it(file: &LiveFile, all: &[LiveFile]) -> bool {
    if file.num_deletions < COMPACTED_DELETIONS_MIN {
        return false;
    }
    let overlapping = all.iter().filter(|other| {
        let is_apart = other.end_key < file.start_key || file.end_key < other.start_key;
        other.column_family_name == file.column_family_name && !is_apart
    });
    let (deletions, entries) = overlapping
        .fold((0, 0), |(deletions, entries), other| (deletions + other.num_deletions, entries + other.num_entries));
    deletions >= entries / COMPACTED_DIVISOR
}

/// With everything between its first and its last key. At the lowest level a deletion goes with what it deleted.
fn compact(rocks: &Rocks, file: &LiveFile) {
    let Some(family) = FAMILIES.into_iter().find(|family: &Family| family.name() == file.column_family_name) else {
        return;
    };
    let stretch = (file.start_key.as_deref(), file.end_key.as_deref());
    rocks.compact(family, stretch, BottommostLevelCompaction::ForceOptimized);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::engine::Engine as _;

    /// Of less than what goes to blob files.
    const ROWS: u32 = 40_000;
    const ROW_BYTES: u32 = 256;

    fn file_bytes(directory: &std::path::Path) -> u64 {
        let files = std::fs::read_dir(directory.join("store")).unwrap();
        let is_data = |path: &std::path::PathBuf| path.extension().is_some_and(|own| own == "sst" || own == "log");
        let paths = files.map(|file| file.unwrap().path()).filter(is_data);
        paths.map(|path| path.metadata().map_or(0, |metadata| metadata.len())).sum()
    }

    fn row(number: u32) -> Vec<u8> {
        // Nothing that compresses.
        (0..u64::from(ROW_BYTES / 8))
            .flat_map(|at| (u64::from(number) << 32 | at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect()
    }

    /// A store with all rows in a file.
    fn filled(directory: &std::path::Path) -> Rocks {
        let rocks = Rocks::open(directory).unwrap();
        let mut changes = rocks.batch();
        for number in 0..ROWS {
            changes.put(Family::Messages, &number.to_be_bytes(), &row(number));
        }
        changes.write().unwrap();
        rocks.flush(Family::Messages).unwrap();
        rocks
    }

    fn delete(rocks: &Rocks, rows: impl Iterator<Item = u32>) {
        let mut changes = rocks.batch();
        rows.for_each(|number| changes.delete(Family::Messages, &number.to_be_bytes()));
        changes.write().unwrap();
    }

    #[test]
    fn a_quiet_store_gives_the_disk_back_what_was_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let rocks = filled(directory.path());
        delete(&rocks, (0..ROWS).filter(|number| number % 10 != 0));
        let before = file_bytes(directory.path());
        let mut shrinking = Shrinking::default();
        shrinking.look(&rocks).unwrap();
        assert!(file_bytes(directory.path()) >= before, "it cannot know yet that the store is quiet");
        shrinking.look(&rocks).unwrap();
        let live = u64::from(ROWS / 10 * ROW_BYTES);
        let after = file_bytes(directory.path());
        assert!(before > 9 * live && after < live * 13 / 10, "{before} bytes before, {after} after, {live} are live");
    }

    #[test]
    fn a_few_deletions_among_many_rows_are_left_to_rocksdb() {
        let directory = tempfile::tempdir().unwrap();
        let rocks = filled(directory.path());
        let few = (0..ROWS).step_by(20);
        delete(&rocks, few.clone());
        let mut shrinking = Shrinking::default();
        for _ in 0..3 {
            shrinking.look(&rocks).unwrap();
        }
        let left: u64 = rocks.0.live_files().unwrap().iter().map(|file| file.num_deletions).sum();
        assert!(few.len() as u64 > COMPACTED_DELETIONS_MIN && left == few.len() as u64, "{left} deletions are left");
    }
}
