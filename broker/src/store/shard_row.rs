//! Tables `shard` (epoch, clock, ids), `count` (what a topic has), `tenant` (what a tenant has) and `bucket` (quota state).

use sluicegate_protocol::{GroupId, TopicId};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, ShardId};

const SHARD_TAG: u8 = b's';
const COUNT_TAG: u8 = b'c';
const TENANT_TAG: u8 = b'a';
const BUCKET_TAG: u8 = b'b';

/// Key of a [`ShardRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShardKey {
    pub(crate) shard: ShardId,
}

/// What a shard must never forget.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ShardRow {
    /// Raised at each start; first half of every fencing token.
    #[prost(uint64, tag = "1")]
    pub(crate) epoch: u64,
    /// Broker time of the last batch.
    #[prost(uint64, tag = "2")]
    pub(crate) committed_at_us: u64,
    /// Counter of the next lite id.
    #[prost(uint64, tag = "3")]
    pub(crate) next_lite: u64,
    /// Id of the next body that has rows of its own.
    #[prost(uint64, tag = "4")]
    pub(crate) next_body: u64,
}

impl Key for ShardKey {
    const TABLE: &'static str = "shard";
    const FAMILY: Family = Family::Rows;
    type Row = ShardRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(SHARD_TAG, self.shard).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (key, shard) = KeyReader::new(bytes, SHARD_TAG)?;
        key.end().map(|()| Self { shard })
    }
}

prost_row!(ShardRow);

/// Key of a [`CountRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CountKey {
    pub(crate) shard: ShardId,
    pub(crate) topic: TopicId,
}

/// How many there are.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct CountRow {
    #[prost(uint64, tag = "1")]
    pub(crate) lite_topics: u64,
    /// Kept messages.
    #[prost(uint64, tag = "2")]
    pub(crate) messages: u64,
    /// Of their bodies and properties.
    #[prost(uint64, tag = "3")]
    pub(crate) bytes: u64,
}

impl Key for CountKey {
    const TABLE: &'static str = "count";
    const FAMILY: Family = Family::Rows;
    type Row = CountRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(COUNT_TAG, self.shard).u32(self.topic.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, COUNT_TAG)?;
        let topic = TopicId(key.u32()?);
        key.end().map(|()| Self { shard, topic })
    }
}

prost_row!(CountRow);

/// Key of a [`TenantRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TenantKey {
    pub(crate) shard: ShardId,
    pub(crate) topic: TopicId,
    /// Its name; a tenant that is a lite topic has no row.
    pub(crate) tenant: String,
}

/// What a tenant has in a topic that limits it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct TenantRow {
    /// Kept messages.
    #[prost(uint64, tag = "1")]
    pub(crate) messages: u64,
    /// Of their bodies and properties.
    #[prost(uint64, tag = "2")]
    pub(crate) bytes: u64,
}

impl TenantKey {
    /// What all keys of a topic start with.
    pub(crate) fn of_topic(shard: ShardId, topic: TopicId) -> Vec<u8> {
        KeyWriter::new(TENANT_TAG, shard).u32(topic.0).finish()
    }
}

impl Key for TenantKey {
    const TABLE: &'static str = "tenant";
    const FAMILY: Family = Family::Rows;
    type Row = TenantRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TENANT_TAG, self.shard).u32(self.topic.0).rest(self.tenant.as_bytes())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TENANT_TAG)?;
        let topic = TopicId(key.u32()?);
        let tenant = std::str::from_utf8(key.rest()).ok()?.to_owned();
        Some(Self { shard, topic, tenant })
    }
}

prost_row!(TenantRow);

/// Key of a [`BucketRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BucketKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
}

/// A group's quota state.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct BucketRow {
    /// Theoretical arrival time of the message bucket, nanoseconds since the Unix epoch; 0 without a quota.
    #[prost(uint64, tag = "1")]
    pub(crate) messages_tat_nanos: u64,
    /// The same of the cost bucket.
    #[prost(uint64, tag = "2")]
    pub(crate) cost_tat_nanos: u64,
}

impl Key for BucketKey {
    const TABLE: &'static str = "bucket";
    const FAMILY: Family = Family::Rows;
    type Row = BucketRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(BUCKET_TAG, self.shard).u32(self.group.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, BUCKET_TAG)?;
        let group = GroupId(key.u32()?);
        key.end().map(|()| Self { shard, group })
    }
}

prost_row!(BucketRow);
