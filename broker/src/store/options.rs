//! How RocksDB is set up.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, Options,
    WriteBufferManager,
};

use super::Family;
const BLOCK_CACHE_BYTES: usize = 256 << 20;
const MEMTABLE_BYTES: usize = 128 << 20;
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// A start reads the log again, a hundred megabytes a second: nobody is served before. Much smaller, and small rows go to files of their own too often.
const WAL_BYTES_MAX: u64 = 96 << 20;
const LEVEL_BASE_BYTES: u64 = 64 << 20;
const MESSAGES_LEVEL_BASE_BYTES: u64 = 256 << 20;
const MESSAGES_COMPRESSION: [DBCompressionType; 7] = {
    let mut levels = [DBCompressionType::Lz4; 7];
    (levels[0], levels[1]) = (DBCompressionType::None, DBCompressionType::None);
    levels
};
/// All writes wait when a family has no memtable left: messages come fast enough to fill two.
const MESSAGES_WRITE_BUFFERS: i32 = 4;
const FILE_BYTES: u64 = 16 << 20;
const FILE_BUFFER_BYTES: u64 = 256 << 10;
const BLOB_FILE_BYTES: u64 = 64 << 20;
/// Bytes of a message's row from which on it is in a blob file: then it is written once, and compaction moves its key. Smaller ones lie in the
/// order of their keys, where several are read at once.
const MESSAGE_BLOB_BYTES_MIN: u64 = 512;
/// A body passes through memory, however large it is: as much of it is there at a time as these few hold.
const BODIES_WRITE_BUFFER_BYTES: usize = 2 << 20;
const BODIES_WRITE_BUFFERS: i32 = 3;
const BODIES_ARENA_BLOCK_BYTES: usize = 32 << 10;

/// All families, in the order in which they are made.
pub(super) const FAMILIES: [Family; 6] =
    [Family::Control, Family::Rows, Family::Names, Family::Queues, Family::Messages, Family::Bodies];
/// Those that each store of our format has had from its first day. The others are made when an older store is opened.
pub(super) const FIRST_FAMILIES: [Family; 4] = [Family::Control, Family::Rows, Family::Queues, Family::Messages];

impl Family {
    /// The column family's name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Rows => "rows",
            Self::Names => "names",
            Self::Queues => "queues",
            Self::Messages => "messages",
            Self::Bodies => "bodies",
        }
    }

    /// Key bytes of rows that are written one after the other: the next one's place is looked for from the last one's, in a hint that takes 224
    /// bytes of a memtable for each such prefix that it sees. So it is shared by many lite topics, but where rows are large.
    const fn insert_prefix_bytes(self) -> usize {
        match self {
            // Tag, shard, topic.
            Self::Control | Self::Names => 7,
            // Tag, shard, lite id but for its last byte; or tag, shard, group, and what few share.
            Self::Rows | Self::Queues => 10,
            // Tag, shard, lite id or body.
            Self::Messages | Self::Bodies => 11,
        }
    }

    /// Flushed files that come together in a step down. Each is looked at by reads, and each step writes the next level again.
    const fn files_to_merge(self) -> i32 {
        match self {
            // Looked at with each name that is new.
            Self::Names => 4,
            _ => 8,
        }
    }

    fn options(self, cache: &Cache) -> Options {
        let mut options = family_options(cache, self);
        match self {
            // Rows here are deleted soon after they are written: compact where tombstones gather.
            Self::Queues => options.add_compact_on_deletion_collector_factory(4_096, 2_048, 0.5),
            Self::Messages => {
                // Most bytes come here, in the order of their lite topics at best. What is soon written again is not compressed.
                options.set_max_bytes_for_level_base(MESSAGES_LEVEL_BASE_BYTES);
                options.set_compression_per_level(&MESSAGES_COMPRESSION);
                options.set_max_write_buffer_number(MESSAGES_WRITE_BUFFERS);
                // See `collect.rs` for what blob files hold in vain.
                options.set_enable_blob_files(true);
                options.set_min_blob_size(MESSAGE_BLOB_BYTES_MIN);
                options.set_blob_file_size(BLOB_FILE_BYTES);
            }
            Self::Bodies => {
                // Compaction moves keys, not bodies. What blob files hold in vain `tidy.rs` collects.
                options.set_enable_blob_files(true);
                options.set_blob_file_size(BLOB_FILE_BYTES);
                options.set_blob_compression_type(DBCompressionType::Lz4);
                options.set_write_buffer_size(BODIES_WRITE_BUFFER_BYTES);
                // So that each chunk has a piece of its own, of its size.
                options.set_arena_block_size(BODIES_ARENA_BLOCK_BYTES);
                options.set_max_write_buffer_number(BODIES_WRITE_BUFFERS);
            }
            Self::Control | Self::Rows | Self::Names => {}
        }
        options
    }

    pub(super) fn descriptors() -> Vec<ColumnFamilyDescriptor> {
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let default = ColumnFamilyDescriptor::new("default", family_options(&cache, Self::Control));
        let ours = FAMILIES.iter().map(|family| ColumnFamilyDescriptor::new(family.name(), family.options(&cache)));
        std::iter::once(default).chain(ours).collect()
    }
}

fn family_options(cache: &Cache, family: Family) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    if family != Family::Names {
        // A file of a million small rows has a filter of more than a megabyte, which a part of the cache may not hold: so filters and
        // indexes are in blocks themselves, of which those are in memory that are used. Names are asked for at random: all are used.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_pin_top_level_index_and_filter(true);
    }
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_bloom_filter(10.0, false);
    table.set_block_size(16 << 10);
    // A shard writes many lite topics by turns, each in order: with hints an insert does not search the whole memtable, which was a
    // quarter of all work under load. The bindings have no setter for it.
    let hints =
        format!("memtable_insert_with_hint_prefix_extractor=rocksdb.CappedPrefix.{}", family.insert_prefix_bytes());
    let mut options = database_options().get_options_from_string(hints).expect("the option is known");
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_zero_file_num_compaction_trigger(family.files_to_merge());
    // A family has several tables, so a new file spans the whole first level, which is written again with it: it is as small as what
    // comes at once. Most rows then move down by themselves, since their ids rise.
    options.set_max_bytes_for_level_base(LEVEL_BASE_BYTES);
    options.set_target_file_size_base(FILE_BYTES);
    options
}

/// Options of the whole database: what the broker writes with, and what a raw ceiling is measured with.
///
/// # Panics
/// RocksDB does not know an option that the bindings have no setter for.
pub fn database_options() -> Options {
    // A start goes on with what it read again, and does not write it to files first. The bindings have no setter for it.
    // Nor for this one: all writes come at this rate while a family has one memtable left, and files are written about as fast. RocksDB's own
    // sixteen MiB a second are an eighth of that.
    let named = "avoid_flush_during_recovery=true;delayed_write_rate=134217728";
    let mut options = Options::default().get_options_from_string(named).expect("the options are known");
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
    // Each thread that writes files keeps what it grew to for the next file.
    options.set_writable_file_max_buffer_size(FILE_BUFFER_BYTES);
    options.set_keep_log_file_num(4);
    options
}
