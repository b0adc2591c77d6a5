//! Table `cursor`: what a group has settled of a lite topic, and what holds it back.

use sluicegate_protocol::{GroupId, LiteId};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, LeaseRow, ShardId};

const TAG: u8 = b'u';

/// Key of a [`CursorRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CursorKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
    pub(crate) lite: LiteId,
}

/// A group's position in a lite topic.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct CursorRow {
    /// All offsets below are settled.
    #[prost(uint64, tag = "1")]
    pub(crate) settled_up_to: u64,
    /// Offsets above that are settled, ascending.
    #[prost(uint64, repeated, tag = "2")]
    pub(crate) settled: Vec<u64>,
    /// Unsettled offsets whose deliveries count already.
    #[prost(message, repeated, tag = "3")]
    pub(crate) attempts: Vec<Attempts>,
    /// Who holds the lite topic, until when.
    #[prost(message, repeated, tag = "4")]
    pub(crate) holds: Vec<Hold>,
    /// Open leases that have no row of their own, by offset.
    #[prost(message, repeated, tag = "5")]
    pub(crate) leases: Vec<OpenLease>,
    /// The group unsubscribed: it stops to follow when its last lease ends.
    #[prost(bool, tag = "6")]
    pub(crate) leaving: bool,
    /// Rank of the ready row, if there is one and the rank is not that of the default priority.
    #[prost(uint32, optional, tag = "7")]
    pub(crate) filed_rank: Option<u32>,
    /// Time of the wake row that stands for the ready row; 0 without one.
    #[prost(uint64, tag = "8")]
    pub(crate) wakes_at_us: u64,
    /// When the row was written, by the broker's clock. 0 in a row from before this was written down.
    #[prost(uint64, tag = "9")]
    pub(crate) active_at_us: u64,
}

/// Counted deliveries of one message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Attempts {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) count: u32,
}

/// One message's open lease.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct OpenLease {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    #[prost(message, required, tag = "2")]
    pub(crate) lease: LeaseRow,
}

/// One source's hold.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct Hold {
    /// Number of the source, see `HoldSource`.
    #[prost(uint32, tag = "1")]
    pub(crate) source: u32,
    #[prost(uint64, tag = "2")]
    pub(crate) until_us: u64,
    /// 0 in a row from before this was written down.
    #[prost(uint64, tag = "3")]
    pub(crate) since_us: u64,
}

impl CursorKey {
    /// What all keys of a group start with.
    pub(crate) fn of_group(shard: ShardId, group: GroupId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u32(group.0).finish()
    }
}

impl Key for CursorKey {
    const TABLE: &'static str = "cursor";
    const FAMILY: Family = Family::Rows;
    type Row = CursorRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u32(self.group.0).u64(self.lite.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (group, lite) = (GroupId(key.u32()?), LiteId(key.u64()?));
        key.end().map(|()| Self { shard, group, lite })
    }
}

prost_row!(CursorRow);
