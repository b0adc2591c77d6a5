//! Table `lease`: deliveries in flight that are not in the row of their cursor (see [`super::CursorRow`]).

use sluicegate_protocol::{GroupId, LiteId, Offset};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, ShardId};

const TAG: u8 = b'l';

/// Key of a [`LeaseRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
    pub(crate) lite: LiteId,
    pub(crate) offset: Offset,
}

/// A delivery in flight.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct LeaseRow {
    /// First half of the session's id.
    #[prost(fixed64, tag = "1")]
    pub(crate) session_high: u64,
    /// Second half.
    #[prost(fixed64, tag = "10")]
    pub(crate) session_low: u64,
    /// 1 for the first delivery.
    #[prost(uint32, tag = "2")]
    pub(crate) attempt: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) deadline_us: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) token_epoch: u64,
    #[prost(uint64, tag = "5")]
    pub(crate) token_counter: u64,
    #[prost(uint64, tag = "6")]
    pub(crate) dispatched_at_us: u64,
    /// What the delivery reserved.
    #[prost(uint64, tag = "7")]
    pub(crate) charge_cost: u64,
    #[prost(uint32, tag = "8")]
    pub(crate) charge_band: u32,
    #[prost(uint32, tag = "9")]
    pub(crate) charge_weight: u32,
}

impl LeaseKey {
    /// What all keys of a shard start with.
    pub(crate) fn of_shard(shard: ShardId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).finish()
    }

    /// What all keys of a group start with.
    pub(crate) fn of_group(shard: ShardId, group: GroupId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u32(group.0).finish()
    }
}

impl Key for LeaseKey {
    const TABLE: &'static str = "lease";
    const FAMILY: Family = Family::Queues;
    type Row = LeaseRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u32(self.group.0).u64(self.lite.0).u64(self.offset.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (group, lite, offset) = (GroupId(key.u32()?), LiteId(key.u64()?), Offset(key.u64()?));
        key.end().map(|()| Self { shard, group, lite, offset })
    }
}

prost_row!(LeaseRow);
