//! How RocksDB is set up.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options,
    WriteBufferManager,
};

use super::Family;

const BLOCK_CACHE_BYTES: usize = 256 << 20;
const MEMTABLE_BYTES: usize = 128 << 20;
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// A start reads the log again, some hundred megabytes a second.
const WAL_BYTES_MAX: u64 = 128 << 20;
const LEVEL_BASE_BYTES: u64 = 64 << 20;
const FILE_BYTES: u64 = 16 << 20;
const BLOB_FILE_BYTES: u64 = 64 << 20;

/// All families, in the order in which they are made.
pub(super) const FAMILIES: [Family; 5] =
    [Family::Control, Family::Rows, Family::Queues, Family::Messages, Family::Bodies];
/// Those that each store of our format has had from its first day. The others are made when an older store is opened.
pub(super) const FIRST_FAMILIES: [Family; 4] = [Family::Control, Family::Rows, Family::Queues, Family::Messages];

impl Family {
    /// The column family's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Rows => "rows",
            Self::Queues => "queues",
            Self::Messages => "messages",
            Self::Bodies => "bodies",
        }
    }

    /// Key bytes that rows share which are written one after the other: rows of one lite topic.
    const fn insert_prefix_bytes(self) -> usize {
        match self {
            // Tag, shard, group, lite id.
            Self::Control | Self::Rows | Self::Queues => 15,
            // Tag, shard, lite id or body.
            Self::Messages | Self::Bodies => 11,
        }
    }

    pub(super) fn descriptors() -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let default = ColumnFamilyDescriptor::new("default", family_options(&cache, 15));
        let ours = FAMILIES.iter().map(|family| {
            let mut options = family_options(&cache, family.insert_prefix_bytes());
            if *family == Self::Queues {
                // Rows here are deleted soon after they are written: compact where tombstones gather.
                options.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5);
            }
            if *family == Self::Bodies {
                // Compaction moves keys, not bodies. What blob files hold in vain `tidy.rs` collects.
                options.set_enable_blob_files(true);
                options.set_blob_file_size(BLOB_FILE_BYTES);
                // All writes wait when a family has no memtable left: uploads are fast enough to fill two.
                options.set_max_write_buffer_number(4);
                options.set_blob_compression_type(DBCompressionType::Lz4);
            }
            ColumnFamilyDescriptor::new(family.name(), options)
        });
        std::iter::once(default).chain(ours).collect()
    }
}

fn family_options(cache: &Cache, insert_prefix_bytes: usize) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    // A file of a million small rows has a filter of more than a megabyte, which a part of the cache may not hold: so filters and
    // indexes are in blocks themselves, of which those are in memory that are used.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(16 << 10);
    // A shard writes many lite topics by turns, each in order: with a hint per lite topic an insert does not search the
    // whole memtable, which was a quarter of all work under load. The bindings have no setter for it.
    let hints = format!("memtable_insert_with_hint_prefix_extractor=rocksdb.CappedPrefix.{insert_prefix_bytes}");
    let mut options = database_options().get_options_from_string(hints).expect("the option is known");
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    // A family has several tables, so a new file spans the whole first level, which is written again with it: it is as small as what
    // comes at once. Most rows then move down by themselves, since their ids rise.
    options.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
    options.set_target_file_size_base(FILE_BYTES);
    options
}

/// Options of the whole database: what the broker writes with, and what a raw ceiling is measured with.
pub fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(MEMTABLE_BYTES, false));
    options.set_max_background_jobs(2);
    // One thread writes; the insert hints need that it stays so.
    options.set_allow_concurrent_memtable_write(false);
    options.set_bytes_per_sync(1 << 20);
    // Chunks of large bodies are not synced one by one: so a sync that comes after them finds little left to do.
    options.set_wal_bytes_per_sync(1 << 20);
    options.set_keep_log_file_num(4);
    options
}
