//! Table `ready`: the lite topics that have unsettled messages, by group. A start reads this, not
//! all lite topics. The row is a hint: the cursor and the tail say what is true.

use sluicegate_protocol::{GroupId, LiteId};

use super::key::{KeyReader, KeyWriter};
use super::{Family, Key, Row, ShardId};

const TAG: u8 = b'r';

/// Key of a ready row, which has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadyKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
    /// Served first to last: 9 minus the priority of the head when the row was filed.
    pub(crate) rank: u8,
    pub(crate) lite: LiteId,
}

impl ReadyKey {
    /// What all keys of a group start with.
    pub(crate) fn of_group(shard: ShardId, group: GroupId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u32(group.0).finish()
    }
}

impl Key for ReadyKey {
    const TABLE: &'static str = "ready";
    const FAMILY: Family = Family::Queues;
    type Row = Hint;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u32(self.group.0).u8(self.rank).u64(self.lite.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (group, rank, lite) = (GroupId(key.u32()?), key.u8()?, LiteId(key.u64()?));
        key.end().map(|()| Self { shard, group, rank, lite })
    }
}

/// Nothing but the fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hint;

impl Row for Hint {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    fn decode(_: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }
}
