//! Gives the disk back what deleted bodies took.
//!
//! RocksDB keeps the chunks in blob files and compacts their keys only. A blob file goes when nothing in it is alive; the
//! rest is collected here, when it is worth it: RocksDB's own collection would move what is alive with every compaction,
//! and the keys of all bodies lie in few files.

use std::sync::atomic::Ordering;

use rocksdb::BottommostLevelCompaction;

use super::rocks::Rocks;
use super::{Family, Store, StoreError};

/// Bytes of deleted bodies below which nothing is done, and dead bytes in blob files below which nothing is moved.
const GARBAGE_BYTES_MIN: u64 = 16 << 20;
/// The part of the blob files that may be dead: beyond, what is alive in them moves. So a byte that is given back costs
/// moving four at most.
const GARBAGE_DIVISOR: u64 = 5;

impl Store {
    /// So many bytes of bodies are deleted in a batch that is on its way.
    pub(crate) fn bodies_dropped(&self, bytes: u64) {
        self.dropped_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Frees what deleted bodies took, if that is worth it. May read and write much, and takes its time.
    ///
    /// # Errors
    /// The database says no; nothing is lost.
    pub(super) fn tidy(&self, rocks: &Rocks) -> Result<(), StoreError> {
        if self.dropped_bytes.load(Ordering::Relaxed) < GARBAGE_BYTES_MIN {
            return Ok(());
        }
        self.dropped_bytes.store(0, Ordering::Relaxed);
        rocks.tidy()
    }
}

impl Rocks {
    fn tidy(&self) -> Result<(), StoreError> {
        const BODIES: Family = Family::Bodies;
        // The deletions reach the keys that they concern; blob files without a living byte go.
        self.flush(BODIES)?;
        self.compact(BODIES, (None, None), BottommostLevelCompaction::Skip);
        let live = self.property(BODIES, "rocksdb.live-blob-file-size")?;
        let garbage = self.property(BODIES, "rocksdb.live-blob-file-garbage-size")?;
        tracing::debug!(live, garbage, "bodies tidied");
        if garbage < GARBAGE_BYTES_MIN || garbage < live / GARBAGE_DIVISOR {
            return Ok(());
        }
        let collecting = |is_on| {
            let options = [("enable_blob_garbage_collection", is_on), ("blob_garbage_collection_age_cutoff", "1.0")];
            let set = self.0.set_options_cf(self.family(BODIES), &options);
            set.map_err(|error| StoreError::Read(error.into_string()))
        };
        collecting("true")?;
        self.compact(BODIES, (None, None), BottommostLevelCompaction::Force);
        collecting("false")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::body::Chunk;
    use crate::store::{Batch, ChunkKey, ShardId, Shrinking};

    const BODIES: u64 = 300;
    const CHUNK_BYTES: usize = 256 << 10;

    fn blob_bytes(directory: &std::path::Path) -> u64 {
        let files = std::fs::read_dir(directory.join("store")).unwrap().map(|entry| entry.unwrap().path());
        let blobs = files.filter(|path| path.extension().is_some_and(|extension| extension == "blob"));
        blobs.map(|path| path.metadata().unwrap().len()).sum()
    }

    /// Bytes that do not get smaller by compression.
    fn noise(seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        (0..CHUNK_BYTES / 8).flat_map(next).collect()
    }

    #[test]
    fn the_disk_gets_back_what_deleted_bodies_took_and_what_is_alive_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        let key = |body| ChunkKey { shard: ShardId(3), body, number: 0 };
        for body in 0..BODIES {
            let mut batch = Batch::new(&store);
            batch.put(&key(body), &Chunk(noise(body).into()));
            batch.write().unwrap();
        }
        store.rocks.as_ref().unwrap().flush(Family::Bodies).unwrap();
        assert!(blob_bytes(directory.path()) > BODIES * CHUNK_BYTES as u64);
        // Every third stays: no blob file is without a living byte.
        for body in (0..BODIES).filter(|body| body % 3 > 0) {
            let mut batch = Batch::new(&store);
            batch.delete(&key(body));
            batch.write().unwrap();
            store.bodies_dropped(CHUNK_BYTES as u64);
        }
        store.give_back(&mut Shrinking::default()).unwrap();
        assert_eq!(store.dropped_bytes.load(Ordering::Relaxed), 0);
        let live = BODIES / 3 * CHUNK_BYTES as u64;
        let left = blob_bytes(directory.path());
        assert!(left < live * 13 / 10, "{left} bytes of blob files for {live} bytes that are alive");
        for body in (0..BODIES).step_by(3) {
            assert_eq!(store.get(&key(body)).unwrap().unwrap().0, noise(body), "{body}");
        }
    }
}
