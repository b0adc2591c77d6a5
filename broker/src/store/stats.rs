//! How much a store holds and where, without reading all of it: what is large is counted in part and estimated.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use sluicegate_protocol::{LiteId, TopicId};

use super::check::table_of;
use super::engine::{Direction, KeyRange, Scan};
use super::key::prefix_end;
use super::options::FAMILIES;
use super::rocks::Rocks;
use super::{
    ControlKind, CountKey, Family, LiteKey, LiteRow, MessageKey, MessagePlace, OpenError, ShardId, Store, StoreError,
};
use crate::catalog::TopicSpec;

/// Rows of a table that are counted; from there on the disk's bytes say how many there are.
const ROWS_COUNTED_MAX: u64 = 100_000;
/// Lite topics of a topic whose messages are counted; of the others it is said that they have as many on average.
const LITES_COUNTED_MAX: usize = 10_000;

/// How much a store holds.
#[derive(Debug, Default, Serialize)]
pub struct StoreStats {
    /// By table.
    pub tables: BTreeMap<&'static str, TableStats>,
    /// By name.
    pub topics: BTreeMap<String, TopicStats>,
    /// RocksDB's files, by column family.
    pub families: BTreeMap<&'static str, FamilyStats>,
    /// Bytes of the log of writes that were in no other file yet, before this command opened the store and put them there.
    pub wal_bytes: u64,
}

/// How much a table holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TableStats {
    /// Rows.
    pub rows: u64,
    /// Bytes of keys and rows, not compressed.
    pub bytes: u64,
    /// Rows and bytes are an estimate, from the first 100,000 rows and the room that they take on the disk.
    pub is_estimate: bool,
    /// Bytes on the disk, compressed; always an estimate.
    pub disk_bytes: u64,
}

/// How much a topic holds.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TopicStats {
    /// Lite topics.
    pub lite_topics: u64,
    /// Messages that are kept.
    pub messages: u64,
    /// The messages are an estimate, from the first 10,000 lite topics by name.
    pub is_estimate: bool,
}

/// Files of a column family.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FamilyStats {
    /// Bytes of tables that are in use.
    pub live_sst_bytes: u64,
    /// Bytes of tables, with those that an open iterator or snapshot holds.
    pub total_sst_bytes: u64,
    /// Bytes in blob files that a row names.
    pub live_blob_bytes: u64,
    /// Bytes of blob files.
    pub total_blob_bytes: u64,
}

/// Looks at the store in this data directory, which no broker may have open.
///
/// # Errors
/// It cannot be opened or read.
pub fn store_stats(data_dir: &Path) -> Result<StoreStats, OpenError> {
    let wal_bytes = wal_bytes(&data_dir.join("store"));
    let store = Store::open_existing(data_dir)?;
    let read = |error: StoreError| OpenError::Damaged { path: data_dir.into(), problem: error.to_string() };
    let mut stats = StoreStats { wal_bytes, ..StoreStats::default() };
    for family in FAMILIES {
        if let Some(rocks) = &store.rocks {
            // What was in the log alone gets a size on disk.
            rocks.flush(family).map_err(read)?;
            stats.families.insert(family.name(), rocks.files(family).map_err(read)?);
        }
        stats.add_tables(&store, family).map_err(read)?;
    }
    for topic in store.control::<TopicSpec>(ControlKind::Topic).map_err(read)? {
        let found = topic_stats(&store, &topic).map_err(read)?;
        stats.topics.insert(topic.name, found);
    }
    Ok(stats)
}

impl StoreStats {
    /// The tables of a family: each has a tag of its own, and its rows are one range.
    fn add_tables(&mut self, store: &Store, family: Family) -> Result<(), StoreError> {
        let mut from = Some(Vec::new());
        while let Some(first) = from.take() {
            let Some((table, range)) = next_table(store, family, &first)? else { return Ok(()) };
            let found = self.tables.entry(table).or_default();
            *found = table_stats(store, family, &range)?;
            from = range.1;
        }
        Ok(())
    }
}

/// The lowest key of a table, and the first one above all of its keys.
type TableRange = (Vec<u8>, Option<Vec<u8>>);

/// The table that has the first key from `from` on.
fn next_table(store: &Store, family: Family, from: &[u8]) -> Result<Option<(&'static str, TableRange)>, StoreError> {
    let (all, mut found) = (KeyRange { from, end: None, direction: Direction::Ascending }, None);
    store.engine.scan(family, &all, &mut |key, row| {
        // Control rows have names instead of tags.
        let end = if family == Family::Control { None } else { prefix_end(&key[..key.len().min(1)]) };
        found = Some((table_of(family, key, row), (key.to_vec(), end)));
        Ok(Scan::Done)
    })?;
    Ok(found)
}

fn table_stats(store: &Store, family: Family, (first, end): &TableRange) -> Result<TableStats, StoreError> {
    let range = KeyRange { from: first, end: end.as_deref(), direction: Direction::Ascending };
    let (mut stats, mut last) = (TableStats::default(), Vec::new());
    store.engine.scan(family, &range, &mut |key, row| {
        if stats.rows == ROWS_COUNTED_MAX {
            last = key.to_vec();
            return Ok(Scan::Done);
        }
        stats.rows += 1;
        stats.bytes += (key.len() + row.len()) as u64;
        Ok(Scan::More)
    })?;
    let Some(rocks) = &store.rocks else { return Ok(stats) };
    stats.disk_bytes = rocks.approximate_bytes(family, first, end.as_deref())?;
    if !last.is_empty() {
        let counted = rocks.approximate_bytes(family, first, Some(&last))?.max(1);
        let in_all = |of_counted: u64| scaled(of_counted, stats.disk_bytes.max(counted), counted);
        (stats.rows, stats.bytes, stats.is_estimate) = (in_all(stats.rows), in_all(stats.bytes), true);
    }
    Ok(stats)
}

fn topic_stats(store: &Store, topic: &TopicSpec) -> Result<TopicStats, StoreError> {
    let (shard, id) = (topic.shard, topic.id);
    let lite_topics = store.get(&CountKey { shard, topic: id })?.map_or(0, |row| row.lite_topics);
    let (lites, is_estimate) = first_lites(store, shard, id)?;
    let mut messages = 0;
    for &lite in &lites {
        messages += kept_messages(store, shard, lite)?;
    }
    if is_estimate {
        messages = scaled(messages, lite_topics, lites.len() as u64);
    }
    Ok(TopicStats { lite_topics, messages, is_estimate })
}

/// The first lite topics of a topic by name, and whether there are more.
fn first_lites(store: &Store, shard: ShardId, topic: TopicId) -> Result<(Vec<LiteId>, bool), StoreError> {
    let (prefix, mut lites, mut more) = (LiteKey::of_topic(shard, topic), Vec::new(), false);
    store.scan(&prefix, &prefix, |_: LiteKey, row: LiteRow| {
        more = lites.len() == LITES_COUNTED_MAX;
        if more {
            return Scan::Done;
        }
        lites.push(LiteId(row.lite));
        Scan::More
    })?;
    Ok((lites, more))
}

/// What is kept of a lite topic lies in a row: the first and the last message say how many there are.
fn kept_messages(store: &Store, shard: ShardId, lite: LiteId) -> Result<u64, StoreError> {
    let (prefix, mut first) = (MessageKey::of_lite(shard, lite), None);
    store.scan(&prefix, &prefix, |place: MessagePlace, _| {
        first = Some(place);
        Scan::Done
    })?;
    let Some(first) = first else { return Ok(0) };
    let last = store.last(&prefix, &first)?;
    Ok(last.map_or(0, |(last, _)| last.0.offset.0 - first.0.offset.0 + 1))
}

impl Rocks {
    fn files(&self, family: Family) -> Result<FamilyStats, StoreError> {
        let bytes = |name: &'static str| self.property(family, name);
        Ok(FamilyStats {
            live_sst_bytes: bytes("rocksdb.live-sst-files-size")?,
            total_sst_bytes: bytes("rocksdb.total-sst-files-size")?,
            live_blob_bytes: bytes("rocksdb.live-blob-file-size")?,
            total_blob_bytes: bytes("rocksdb.total-blob-file-size")?,
        })
    }
}

/// `part` as if there were `whole` of `counted`.
fn scaled(part: u64, whole: u64, counted: u64) -> u64 {
    let scaled = u128::from(part) * u128::from(whole) / u128::from(counted.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

/// What the store has of log files; none where it cannot be read, which opening it tells better.
fn wal_bytes(database: &Path) -> u64 {
    let files = std::fs::read_dir(database).into_iter().flatten().flatten();
    let logs = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    logs.filter_map(|log| log.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluicegate_protocol::Offset;

    use super::super::{Batch, TailKey, TailRow};
    use super::*;

    fn written(path: &Path, tails: u64) -> Arc<Store> {
        let store = Store::open(path, None).unwrap();
        let mut batch = Batch::new(&store);
        for lite in (1..=tails).map(LiteId) {
            let row = TailRow { next_offset: lite.0, written_at_us: 1 << 50, first_kept: 0, position: 0 };
            batch.put(&TailKey { shard: ShardId(0), lite }, &row);
        }
        for offset in (10..14).map(Offset) {
            let row =
                super::super::StoredMessage { header: super::super::MessageHeader::default(), body: "body".into() };
            batch.put(&MessageKey { shard: ShardId(3), lite: LiteId(1), offset }, &row);
        }
        store.write_control(batch).unwrap();
        store
    }

    #[test]
    fn small_tables_are_counted_and_large_ones_estimated() {
        let tails = 3 * ROWS_COUNTED_MAX;
        let directory = tempfile::tempdir().unwrap();
        drop(written(directory.path(), tails));
        let stats = store_stats(directory.path()).unwrap();
        assert_eq!(stats.tables.keys().copied().collect::<Vec<_>>(), ["control", "message", "tail"]);
        let messages = stats.tables["message"];
        assert_eq!((messages.rows, messages.bytes, messages.is_estimate), (4, 4 * (19 + 9), false));
        let found = stats.tables["tail"];
        assert!(found.is_estimate && found.rows.abs_diff(tails) < tails / 10, "{found:?}");
        let row_bytes = found.bytes as f64 / found.rows as f64;
        assert!((24.0..26.0).contains(&row_bytes) && found.disk_bytes > 0, "{found:?}");
        assert!(stats.wal_bytes > tails * 20, "{stats:?}");
        assert!(stats.families["rows"].live_sst_bytes >= found.disk_bytes / 2, "{stats:?}");
    }

    #[test]
    fn messages_are_counted_by_their_offsets() {
        let directory = tempfile::tempdir().unwrap();
        let store = written(directory.path(), 1);
        assert_eq!(kept_messages(&store, ShardId(3), LiteId(1)), Ok(4));
        assert_eq!(kept_messages(&store, ShardId(3), LiteId(2)), Ok(0));
    }
}
