//! Keys and rows of every table, as a disk gives them back.

use std::fmt::Debug;

use crate::heap;
use crate::store::{
    BodyKey, BucketKey, BusyKey, ChunkKey, CountKey, CursorKey, DedupEndKey, DedupKey, DueKey, Key, LeaseKey,
    LevelsKey, LiteKey, MessageKey, NameKey, ReadyKey, ReceiptsEndKey, ReceiptsKey, Row as _, ShardKey, ShareKey,
    SweepKey, TailKey, TenantKey, WakeKey,
};

/// Memory for each byte of a row: what a cursor says of an open lease is a struct of 88 bytes, and may be two of its own.
const BYTES_PER_BYTE_MAX: usize = 256;
/// Memory beside that: errors, and the first room of a list.
const BYTES_BESIDE_MAX: usize = 4 << 10;

/// Checks a key and a row of one table.
type Check = fn(&[u8], &[u8]);

/// The tables, in the order of the numbers that inputs name them by: new ones come last.
const TABLES: [Check; 23] = [
    table::<ShardKey>,
    table::<CountKey>,
    table::<LiteKey>,
    table::<NameKey>,
    table::<TailKey>,
    table::<CursorKey>,
    table::<BucketKey>,
    table::<ReceiptsKey>,
    table::<ReceiptsEndKey>,
    table::<LeaseKey>,
    table::<ReadyKey>,
    table::<MessageKey>,
    table::<DedupKey>,
    table::<DedupEndKey>,
    table::<LevelsKey>,
    table::<BusyKey>,
    table::<WakeKey>,
    table::<DueKey>,
    table::<TenantKey>,
    table::<ChunkKey>,
    table::<BodyKey>,
    table::<ShareKey>,
    table::<SweepKey>,
];

/// The first byte names a table, the second says how many of the rest are the key; what remains is the row.
///
/// # Panics
/// Something does not hold.
pub fn check(bytes: &[u8]) {
    let [table, key_bytes, rest @ ..] = bytes else { return };
    let (key, row) = rest.split_at(usize::from(*key_bytes).min(rest.len()));
    TABLES[usize::from(*table) % TABLES.len()](key, row);
}

fn table<K: Key<Row: Debug + PartialEq> + Debug>(key: &[u8], row: &[u8]) {
    if let Some(decoded) = K::decode(key) {
        assert_eq!(decoded.encode(), key, "{}: {decoded:?} has two keys", K::TABLE);
    }
    let (decoded, peak) = heap::peak(|| K::Row::decode(row));
    let allowed = row.len() * BYTES_PER_BYTE_MAX + BYTES_BESIDE_MAX;
    assert!(peak <= allowed, "{}: {} bytes took {peak} bytes of memory", K::TABLE, row.len());
    if let Ok(decoded) = decoded {
        assert_eq!(K::Row::decode(&decoded.encode()).as_ref(), Ok(&decoded), "{}", K::TABLE);
    }
}
