//! Tables `dedup` (what was published under an idempotency key) and `dedup_end` (the same keys by the end of their
//! windows, so that what has ended is found without a scan).

use sluicegate_protocol::{IdempotencyKey, LiteId, Timestamp};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, Nothing, ShardId, TimedKey};

const KEY_TAG: u8 = b'y';
const END_TAG: u8 = b'z';

/// Key of a [`DedupRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DedupKey {
    pub(crate) shard: ShardId,
    pub(crate) lite: LiteId,
    pub(crate) key: IdempotencyKey,
}

/// What was published under a key.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct DedupRow {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    /// SHA-256 of the body.
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) body_digest: Vec<u8>,
    /// The end of the window: from then on the key is as good as new.
    #[prost(uint64, tag = "3")]
    pub(crate) until_us: u64,
}

impl DedupKey {
    /// What all keys of a lite topic start with.
    pub(crate) fn of_lite(shard: ShardId, lite: LiteId) -> Vec<u8> {
        KeyWriter::new(KEY_TAG, shard).u64(lite.0).finish()
    }

    /// What all keys of the lite topics from `first` up to, not including, `end` lie between.
    pub(crate) fn of_lites(shard: ShardId, first: LiteId, end: LiteId) -> [Vec<u8>; 2] {
        [Self::of_lite(shard, first), Self::of_lite(shard, end)]
    }
}

impl Key for DedupKey {
    const TABLE: &'static str = "dedup";
    const FAMILY: Family = Family::Rows;
    type Row = DedupRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(KEY_TAG, self.shard).u64(self.lite.0).rest(self.key.as_str().as_bytes())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut reader, shard) = KeyReader::new(bytes, KEY_TAG)?;
        let lite = LiteId(reader.u64()?);
        Some(Self { shard, lite, key: read_key(reader)? })
    }
}

prost_row!(DedupRow);

/// Key of a row that says when the window of a [`DedupKey`] ends. It has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DedupEndKey {
    pub(crate) shard: ShardId,
    pub(crate) until: Timestamp,
    pub(crate) lite: LiteId,
    pub(crate) key: IdempotencyKey,
}

impl DedupEndKey {
    /// What all keys of a shard start with.
    pub(crate) fn of_shard(shard: ShardId) -> Vec<u8> {
        KeyWriter::new(END_TAG, shard).finish()
    }
}

impl Key for DedupEndKey {
    const TABLE: &'static str = "dedup_end";
    const FAMILY: Family = Family::Queues;
    type Row = Nothing;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(END_TAG, self.shard).u64(self.until.0).u64(self.lite.0).rest(self.key.as_str().as_bytes())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut reader, shard) = KeyReader::new(bytes, END_TAG)?;
        let (until, lite) = (Timestamp(reader.u64()?), LiteId(reader.u64()?));
        Some(Self { shard, until, lite, key: read_key(reader)? })
    }
}

impl TimedKey for DedupEndKey {
    fn at(&self) -> Timestamp {
        self.until
    }
}

fn read_key(reader: KeyReader<'_>) -> Option<IdempotencyKey> {
    IdempotencyKey::parse(std::str::from_utf8(reader.rest()).ok()?).ok()
}
