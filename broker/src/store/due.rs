//! Table `due`: what is to be looked at, when. A row is never moved: when its time has come, the rows of its lite topic say whether
//! something is to be done, and if not, it is put again for a later time.

use sluicegate_protocol::{LiteId, Timestamp};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, ShardId, TimedKey};

const TAG: u8 = b'e';

/// What is to be looked at. Numbers are stored: they stay what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DueKind {
    /// Whether a lite topic's life is over.
    Reclaim,
    /// Whether its first messages are older than they may be.
    Trim,
}

/// Key of a [`DueRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DueKey {
    pub(crate) shard: ShardId,
    pub(crate) at: Timestamp,
    pub(crate) kind: DueKind,
    pub(crate) lite: LiteId,
}

/// Whether the row still means something.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct DueRow {
    /// As in the lite topic's name row when this one was put.
    #[prost(uint32, tag = "1")]
    pub(crate) reclaim_changes: u32,
}

impl DueKind {
    const fn number(self) -> u8 {
        match self {
            Self::Reclaim => 0,
            Self::Trim => 1,
        }
    }

    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Reclaim),
            1 => Some(Self::Trim),
            _ => None,
        }
    }
}

impl DueKey {
    /// What all keys of a shard start with.
    pub(crate) fn of_shard(shard: ShardId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).finish()
    }
}

impl Key for DueKey {
    const TABLE: &'static str = "due";
    const FAMILY: Family = Family::Queues;
    type Row = DueRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u64(self.at.0).u8(self.kind.number()).u64(self.lite.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (at, kind, lite) = (Timestamp(key.u64()?), DueKind::from_number(key.u8()?)?, LiteId(key.u64()?));
        key.end().map(|()| Self { shard, at, kind, lite })
    }
}

impl TimedKey for DueKey {
    fn at(&self) -> Timestamp {
        self.at
    }
}

prost_row!(DueRow);
