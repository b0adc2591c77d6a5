//! Table `ready`: the lite topics that have unsettled messages, by group, but for those that sleep (table `wake`). A start reads
//! this, not all lite topics. The row is a hint: the cursor and the tail say what is true.

use sluicegate_protocol::{GroupId, LiteId};

use super::key::{KeyReader, KeyWriter, ROW_VERSION, versioned};
use super::{Family, Key, Row, ShardId};

const TAG: u8 = b'r';

/// Key of a ready row.
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

/// What the head was when the row was filed, so that a start need not read the lite topic's other rows. It may be no longer true:
/// the head's offset shows it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Hint {
    /// None in a row from before this was written down, or where the head was not at hand.
    #[prost(message, optional, tag = "1")]
    pub(crate) head: Option<HintHead>,
    /// The tenant's name; none where the tenant is the lite topic.
    #[prost(string, optional, tag = "2")]
    pub(crate) tenant: Option<String>,
}

/// A message, as far as scheduling cares.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct HintHead {
    #[prost(uint64, tag = "1")]
    pub(crate) offset: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) published_at_us: u64,
    #[prost(uint32, tag = "3")]
    pub(crate) priority: u32,
    #[prost(uint64, tag = "4")]
    pub(crate) cost: u64,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) deliver_at_us: Option<u64>,
    #[prost(uint64, optional, tag = "6")]
    pub(crate) expires_at_us: Option<u64>,
}

impl Row for Hint {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + prost::Message::encoded_len(self));
        bytes.push(ROW_VERSION);
        prost::Message::encode(self, &mut bytes).expect("a Vec grows as needed");
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        // Rows were empty once.
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        prost::Message::decode(versioned(bytes)?).map_err(|error| error.to_string())
    }
}
