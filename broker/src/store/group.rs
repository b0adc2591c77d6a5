//! Tables of a group's levels (`levels`), and of where its open leases are (`busy`).

use sluicegate_protocol::GroupId;

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, ShardId};

const LEVELS_TAG: u8 = b'g';
const BUSY_TAG: u8 = b'f';

/// Key of a [`LevelsRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LevelsKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
}

/// What there is of a group, in memory or not.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct LevelsRow {
    /// Messages that are not settled, leased ones included.
    #[prost(uint64, tag = "1")]
    pub(crate) unsettled: u64,
    /// Ready rows.
    #[prost(uint64, tag = "2")]
    pub(crate) filed: u64,
    /// Wake rows.
    #[prost(uint64, tag = "3")]
    pub(crate) asleep: u64,
}

impl Key for LevelsKey {
    const TABLE: &'static str = "levels";
    const FAMILY: Family = Family::Rows;
    type Row = LevelsRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(LEVELS_TAG, self.shard).u32(self.group.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, LEVELS_TAG)?;
        let group = GroupId(key.u32()?);
        key.end().map(|()| Self { shard, group })
    }
}

prost_row!(LevelsRow);

/// Key of a [`BusyRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BusyKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
    pub(crate) page: u32,
}

/// Some lite topics of a group that have open leases; or had, since a page is only written when one is added. A start finds by
/// these which cursors to read before it serves.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct BusyRow {
    /// Lite ids by place; 0 where a place is free.
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) lites: Vec<u64>,
}

impl BusyKey {
    /// What all keys of a group start with.
    pub(crate) fn of_group(shard: ShardId, group: GroupId) -> Vec<u8> {
        KeyWriter::new(BUSY_TAG, shard).u32(group.0).finish()
    }
}

impl Key for BusyKey {
    const TABLE: &'static str = "busy";
    const FAMILY: Family = Family::Rows;
    type Row = BusyRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(BUSY_TAG, self.shard).u32(self.group.0).u32(self.page).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, BUSY_TAG)?;
        let (group, page) = (GroupId(key.u32()?), key.u32()?);
        key.end().map(|()| Self { shard, group, page })
    }
}

prost_row!(BusyRow);
