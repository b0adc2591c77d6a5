//! Tables `receipts` (what a producer's recent publishes became, so that a resend after an unknown outcome gets the first answer
//! again, also after a restart) and `receipts_end` (when a producer is looked at that may not come back).
//!
//! One row of the first holds the receipts of the publishes that one batch took from one producer.

use sluicegate_protocol::{ProducerId, Timestamp, TopicId};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, Nothing, ShardId, TimedKey};

const TAG: u8 = b'p';
const END_TAG: u8 = b'q';

/// Key of a [`ReceiptsRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceiptsKey {
    pub(crate) shard: ShardId,
    pub(crate) topic: TopicId,
    pub(crate) producer: ProducerId,
    /// Lowest sequence in the row.
    pub(crate) sequence: u64,
}

/// Receipts in the order of their sequences.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct ReceiptsRow {
    #[prost(message, repeated, tag = "1")]
    pub(crate) receipts: Vec<StoredReceipt>,
    /// When the row was made.
    #[prost(uint64, tag = "2")]
    pub(crate) saved_at_us: u64,
}

/// What one publish became.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct StoredReceipt {
    #[prost(uint64, tag = "1")]
    pub(crate) sequence: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) lite: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) offset: u64,
}

impl ReceiptsKey {
    /// What all keys of a topic start with.
    pub(crate) fn of_topic(shard: ShardId, topic: TopicId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u32(topic.0).finish()
    }

    /// What all keys of a producer and topic start with.
    pub(crate) fn of_producer(shard: ShardId, topic: TopicId, producer: ProducerId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u32(topic.0).u128(producer.0).finish()
    }
}

impl Key for ReceiptsKey {
    const TABLE: &'static str = "receipts";
    const FAMILY: Family = Family::Rows;
    type Row = ReceiptsRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u32(self.topic.0).u128(self.producer.0).u64(self.sequence).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (topic, producer, sequence) = (TopicId(key.u32()?), ProducerId(key.u128()?), key.u64()?);
        key.end().map(|()| Self { shard, topic, producer, sequence })
    }
}

prost_row!(ReceiptsRow);

/// Key of a row that says when a producer's receipts may be forgotten. It has no value. A producer with receipts has one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReceiptsEndKey {
    pub(crate) shard: ShardId,
    pub(crate) at: Timestamp,
    pub(crate) topic: TopicId,
    pub(crate) producer: ProducerId,
}

impl ReceiptsEndKey {
    /// What all keys of a shard start with.
    pub(crate) fn of_shard(shard: ShardId) -> Vec<u8> {
        KeyWriter::new(END_TAG, shard).finish()
    }
}

impl Key for ReceiptsEndKey {
    const TABLE: &'static str = "receipts_end";
    const FAMILY: Family = Family::Queues;
    type Row = Nothing;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(END_TAG, self.shard).u64(self.at.0).u32(self.topic.0).u128(self.producer.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, END_TAG)?;
        let (at, topic, producer) = (Timestamp(key.u64()?), TopicId(key.u32()?), ProducerId(key.u128()?));
        key.end().map(|()| Self { shard, at, topic, producer })
    }
}

impl TimedKey for ReceiptsEndKey {
    fn at(&self) -> Timestamp {
        self.at
    }
}
