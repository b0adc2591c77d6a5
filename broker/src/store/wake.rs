//! Table `wake`: the lite topics that sleep, by group, in the order in which they wake. They have unsettled messages, and are held
//! for so long that nothing of them is kept in memory; this row stands for their ready row.

use sluicegate_protocol::{GroupId, LiteId, Timestamp};

use super::key::{KeyReader, KeyWriter};
use super::{Family, Key, Nothing, ShardId, TimedKey};

const TAG: u8 = b'w';

/// Key of a wake row, which has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WakeKey {
    pub(crate) shard: ShardId,
    pub(crate) group: GroupId,
    /// When the last of what holds it ends.
    pub(crate) at: Timestamp,
    pub(crate) lite: LiteId,
}

impl WakeKey {
    /// What all keys of a group start with.
    pub(crate) fn of_group(shard: ShardId, group: GroupId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u32(group.0).finish()
    }
}

impl Key for WakeKey {
    const TABLE: &'static str = "wake";
    const FAMILY: Family = Family::Queues;
    type Row = Nothing;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u32(self.group.0).u64(self.at.0).u64(self.lite.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (group, at, lite) = (GroupId(key.u32()?), Timestamp(key.u64()?), LiteId(key.u64()?));
        key.end().map(|()| Self { shard, group, at, lite })
    }
}

impl TimedKey for WakeKey {
    fn at(&self) -> Timestamp {
        self.at
    }
}
