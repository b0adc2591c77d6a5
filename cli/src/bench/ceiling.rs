//! The raw write ceiling: what RocksDB alone takes on this disk, as the measure of everything above it.
//!
//! One thread, batches of 256 puts of 24-byte rising keys and random bytes into an empty database, one WAL sync per batch
//! or none.

use std::time::Duration;

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use rocksdb::{DB, Options, WriteBatch, WriteOptions};
use sluicegate_protocol::admin::Durability;

use super::measure;

const BATCH_PUTS: u64 = 256;
/// Random bytes that values are cut from: drawing anew for each put would measure the generator.
const RANDOM_BYTES: usize = 64 * 1024 * 1024;

/// Writes for `duration` into an empty database in a directory of its own under `parent`, opened with `options`.
/// Returns puts per second.
///
/// # Errors
/// The database cannot be made or written.
pub(crate) fn puts_per_second(
    parent: &std::path::Path,
    mut options: Options,
    durability: Durability,
    value_bytes: usize,
    duration: Duration,
) -> anyhow::Result<f64> {
    let dir = tempfile::tempdir_in(parent).context("cannot make a directory for the write ceiling")?;
    options.create_if_missing(true);
    let db = DB::open(&options, dir.path()).context("cannot open a database for the write ceiling")?;
    let mut write = WriteOptions::default();
    write.set_sync(durability == Durability::Fsync);

    let mut random = vec![0; RANDOM_BYTES.max(2 * value_bytes)];
    Pcg64Mcg::seed_from_u64(1).fill_bytes(&mut random);
    let mut starts = (0..random.len() - value_bytes).step_by(value_bytes.max(1)).cycle();

    let start = measure::now();
    let mut puts = 0_u64;
    while start.elapsed() < duration {
        let mut batch = WriteBatch::default();
        for number in puts..puts + BATCH_PUTS {
            let at = starts.next().expect("a cycle never ends");
            batch.put(rising_key(number), &random[at..at + value_bytes]);
        }
        db.write_opt(batch, &write).context("cannot write to the database of the write ceiling")?;
        puts += BATCH_PUTS;
    }
    Ok(puts as f64 / start.elapsed().as_secs_f64())
}

fn rising_key(number: u64) -> [u8; 24] {
    let mut key = [0; 24];
    key[16..].copy_from_slice(&number.to_be_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_rise_and_writes_are_counted() {
        assert!(rising_key(255) < rising_key(256));
        let parent = tempfile::tempdir().unwrap();
        for durability in [Durability::Os, Durability::Fsync] {
            let rate =
                puts_per_second(parent.path(), Options::default(), durability, 100, Duration::from_millis(50)).unwrap();
            assert!(rate > 0.0);
        }
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
