//! Gives the disk back what deleted messages leave behind in blob files.
//!
//! RocksDB collects blob files as it compacts, if it is told to. Told always, it would move the oldest messages that are alive with each
//! compaction, since each touches all of the keys. So it is told only while it is worth it, and looks for what to compact by itself then.

use super::StoreError;
use super::engine::Family;
use super::rocks::Rocks;

/// Dead bytes in blob files below which nothing is moved.
const GARBAGE_BYTES_MIN: u64 = 16 << 20;
const MESSAGES: Family = Family::Messages;

/// What else the store has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// Nothing to speak of: the disk is to be small.
    Quiet,
    /// It is written: what is collected takes from that.
    Busy,
}

/// Whether messages are being collected, and for which load.
#[derive(Debug, Default)]
pub(super) struct Collecting(Option<Load>);

impl Load {
    /// The part of the blob files that may be dead, in percent; beyond, what is alive in them moves. So a byte that is given back costs
    /// moving four at most, or one.
    const fn garbage_percent_max(self) -> u64 {
        match self {
            Self::Quiet => 20,
            Self::Busy => 50,
        }
    }
}

impl Collecting {
    /// Begins to collect or ends it, as what is dead asks for. Takes no time itself.
    pub(super) fn look(&mut self, rocks: &Rocks, load: Load) -> Result<(), StoreError> {
        let bytes = rocks.property(MESSAGES, "rocksdb.live-blob-file-size")?;
        let garbage = rocks.property(MESSAGES, "rocksdb.live-blob-file-garbage-size")?;
        let is_worth_it = garbage >= GARBAGE_BYTES_MIN && garbage >= bytes / 100 * load.garbage_percent_max();
        let wanted = is_worth_it.then_some(load);
        if wanted == self.0 {
            return Ok(());
        }
        tracing::debug!(bytes, garbage, ?wanted, "blob files of messages");
        let part = wanted.map_or(1.0, |load| load.garbage_percent_max() as f64 / 100.0).to_string();
        let options = [
            ("enable_blob_garbage_collection", if wanted.is_some() { "true" } else { "false" }),
            ("blob_garbage_collection_age_cutoff", "1.0"),
            ("blob_garbage_collection_force_threshold", part.as_str()),
        ];
        let set = rocks.0.set_options_cf(rocks.family(MESSAGES), &options);
        set.map_err(|error| StoreError::Read(error.into_string()))?;
        self.0 = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rocksdb::WaitForCompactOptions;

    use super::*;
    use crate::store::Shrinking;
    use crate::store::engine::Engine as _;

    const MESSAGES_MADE: u32 = 100_000;
    const BYTES: usize = 1_024;

    fn blob_bytes(directory: &std::path::Path) -> u64 {
        let files = std::fs::read_dir(directory.join("store")).unwrap().map(|entry| entry.unwrap().path());
        let blobs = files.filter(|path| path.extension().is_some_and(|extension| extension == "blob"));
        blobs.map(|path| path.metadata().unwrap().len()).sum()
    }

    fn change(rocks: &Rocks, number: u32, row: Option<&[u8]>) {
        let mut changes = rocks.batch();
        match row {
            Some(row) => changes.put(MESSAGES, &number.to_be_bytes(), row),
            None => changes.delete(MESSAGES, &number.to_be_bytes()),
        }
        changes.write().unwrap();
    }

    #[test]
    fn the_disk_gets_back_what_deleted_messages_took_and_those_between_them_stay() {
        let directory = tempfile::tempdir().unwrap();
        let rocks = Rocks::open(directory.path()).unwrap();
        let is_kept = |number: &u32| number.is_multiple_of(3);
        for number in 0..MESSAGES_MADE {
            change(&rocks, number, Some(&[u8::try_from(number % 251).unwrap(); BYTES]));
        }
        rocks.flush(MESSAGES).unwrap();
        let all = u64::from(MESSAGES_MADE) * BYTES as u64;
        assert!(blob_bytes(directory.path()) > all, "messages of this size are in blob files");
        for number in (0..MESSAGES_MADE).filter(|number| !is_kept(number)) {
            change(&rocks, number, None);
        }
        let mut shrinking = Shrinking::default();
        // The first cannot know yet that the store is quiet, the second finds what is deleted, the third that there is enough of it.
        for _ in 0..4 {
            shrinking.look(&rocks).unwrap();
            rocks.0.wait_for_compact(&WaitForCompactOptions::default()).unwrap();
        }
        assert_eq!(shrinking.collecting().0, None, "nothing is left to be collected");
        let (live, left) = (all / 3, blob_bytes(directory.path()));
        assert!(left < live * 13 / 10, "{left} bytes of blob files for {live} bytes that are alive");
        for number in (0..MESSAGES_MADE).filter(is_kept).step_by(97) {
            let row = rocks.get(MESSAGES, &number.to_be_bytes()).unwrap().unwrap();
            assert_eq!(row[..], [u8::try_from(number % 251).unwrap(); BYTES], "{number}");
        }
    }
}
