//! What a table is: keys that say where its rows are, and rows.

use sluicegate_protocol::Timestamp;

use super::Family;

/// A shard's number, fixed when the store is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct ShardId(pub(crate) u16);

/// A table's key: where its rows are and how they are ordered.
pub(crate) trait Key: Sized {
    /// The table, for errors.
    const TABLE: &'static str;
    /// The column family that holds the table.
    const FAMILY: Family;
    /// What the rows hold.
    type Row: Row;

    /// The key's bytes; their order is the order of meaning.
    fn encode(&self) -> Vec<u8>;
    /// The key with these bytes, if they are one.
    fn decode(bytes: &[u8]) -> Option<Self>;

    /// The first bytes that could be a key after this one.
    fn after(&self) -> Vec<u8> {
        let mut bytes = self.encode();
        bytes.push(0);
        bytes
    }
}

/// A key of a table that is ordered by time, within what its prefix names.
pub(crate) trait TimedKey: Key {
    /// The time that the row is for.
    fn at(&self) -> Timestamp;
}

/// A table's value.
pub(crate) trait Row: Sized {
    /// The row's bytes.
    fn encode(&self) -> Vec<u8>;
    /// The row with these bytes, or what is wrong with them.
    fn decode(bytes: &[u8]) -> Result<Self, String>;
}

/// Nothing but the fact that the row is there; what it says is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nothing;

impl Row for Nothing {
    fn encode(&self) -> Vec<u8> {
        Vec::new()
    }

    fn decode(_: &[u8]) -> Result<Self, String> {
        Ok(Self)
    }
}
