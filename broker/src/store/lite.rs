//! Tables `lite` (name to lite id), `name` (lite id to name and tenant) and `tail` (next offset).

use std::collections::BTreeMap;

use sluicegate_protocol::{LiteId, LiteName, TopicId};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, ShardId};

const LITE_TAG: u8 = b't';
const NAME_TAG: u8 = b'n';
const TAIL_TAG: u8 = b'o';

/// Key of a [`LiteRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LiteKey {
    pub(crate) shard: ShardId,
    pub(crate) topic: TopicId,
    pub(crate) name: LiteName,
}

/// The present life of a lite topic.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct LiteRow {
    #[prost(uint64, tag = "1")]
    pub(crate) lite: u64,
}

impl LiteKey {
    /// What all keys of a topic start with.
    pub(crate) fn of_topic(shard: ShardId, topic: TopicId) -> Vec<u8> {
        Self::of_prefix(shard, topic, "")
    }

    /// What the keys of all names start with that start with `prefix`.
    pub(crate) fn of_prefix(shard: ShardId, topic: TopicId, prefix: &str) -> Vec<u8> {
        KeyWriter::new(LITE_TAG, shard).u32(topic.0).rest(prefix.as_bytes())
    }

    /// Where the names after this one begin.
    pub(crate) fn after(shard: ShardId, topic: TopicId, name: &LiteName) -> Vec<u8> {
        let mut key = Self::of_prefix(shard, topic, name.as_str());
        key.push(0);
        key
    }
}

impl Key for LiteKey {
    const TABLE: &'static str = "lite";
    const FAMILY: Family = Family::Names;
    type Row = LiteRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(LITE_TAG, self.shard).u32(self.topic.0).rest(self.name.as_str().as_bytes())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, LITE_TAG)?;
        let topic = TopicId(key.u32()?);
        let name = std::str::from_utf8(key.rest()).ok()?;
        Some(Self { shard, topic, name: LiteName::parse(name).ok()? })
    }
}

prost_row!(LiteRow);

/// Key of a [`NameRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NameKey {
    pub(crate) shard: ShardId,
    pub(crate) lite: LiteId,
}

/// What a lite topic is.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NameRow {
    #[prost(uint32, tag = "1")]
    pub(crate) topic: u32,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    /// Absent where the tenant is the lite topic itself.
    #[prost(string, optional, tag = "3")]
    pub(crate) tenant: Option<String>,
    #[prost(uint64, tag = "4")]
    pub(crate) created_at_us: u64,
    /// When its life ends, where it does not go by its topic.
    #[prost(message, optional, tag = "5")]
    pub(crate) reclaim: Option<OwnReclaim>,
    /// Counts the changes of that: a `due` row of another count means nothing any more.
    #[prost(uint32, tag = "6")]
    pub(crate) reclaim_changes: u32,
    /// For policies.
    #[prost(btree_map = "string, string", tag = "7")]
    pub(crate) labels: BTreeMap<String, String>,
}

/// A lite topic's own reclaim.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct OwnReclaim {
    /// Number of the mode, see `shard/reclaim.rs`.
    #[prost(uint32, tag = "1")]
    pub(crate) mode: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) after_ms: u64,
}

impl Key for NameKey {
    const TABLE: &'static str = "name";
    const FAMILY: Family = Family::Rows;
    type Row = NameRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(NAME_TAG, self.shard).u64(self.lite.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, NAME_TAG)?;
        let lite = LiteId(key.u64()?);
        key.end().map(|()| Self { shard, lite })
    }
}

prost_row!(NameRow);

/// Key of a [`TailRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TailKey {
    pub(crate) shard: ShardId,
    pub(crate) lite: LiteId,
}

/// The end of a lite topic.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TailRow {
    /// Offset of the next message.
    #[prost(uint64, tag = "1")]
    pub(crate) next_offset: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) written_at_us: u64,
    /// Offset of the first kept message, where that is not what its groups have settled.
    #[prost(uint64, tag = "3")]
    pub(crate) first_kept: u64,
    /// Bytes of all messages that there ever were.
    #[prost(uint64, tag = "4")]
    pub(crate) position: u64,
}

impl Key for TailKey {
    const TABLE: &'static str = "tail";
    const FAMILY: Family = Family::Rows;
    type Row = TailRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAIL_TAG, self.shard).u64(self.lite.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAIL_TAG)?;
        let lite = LiteId(key.u64()?);
        key.end().map(|()| Self { shard, lite })
    }
}

prost_row!(TailRow);
