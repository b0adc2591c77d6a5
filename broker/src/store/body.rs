//! Bodies that are too large for the row of their message: tables `chunk` (their parts), `body` (whose each is), `share`
//! (those that more than one message has) and `sweep` (those that nobody has any more and that are being deleted).

use bytes::Bytes;
use sluicegate_protocol::limits::CHUNK_BYTES_MAX;
use sluicegate_protocol::{LiteId, Offset};

use super::key::{KeyReader, KeyWriter, prost_row};
use super::{Family, Key, Nothing, Row, ShardId, StoreError};

const CHUNK_TAG: u8 = b'k';
const BODY_TAG: u8 = b'i';
const SHARE_TAG: u8 = b'j';
const SWEEP_TAG: u8 = b'x';

/// Bodies up to this size are in the row of their message: reading one with its header costs nothing more.
pub(crate) const ROW_BODY_BYTES_MAX: usize = 4 << 10;

/// A body that has rows of its own. The row of table `body`, and in the header of its message.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct BodyRef {
    /// Counted by the shard, never given out twice.
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) bytes: u64,
    /// Bytes of each of its chunks but the last; 0 stands for [`CHUNK_BYTES_MAX`], so that a body of that size or less is one chunk.
    #[prost(uint32, tag = "3")]
    pub(crate) chunk_bytes: u32,
}

impl BodyRef {
    /// Bytes of each of its chunks but the last.
    pub(crate) fn chunk_bytes(self) -> usize {
        match self.chunk_bytes {
            0 => CHUNK_BYTES_MAX,
            bytes => bytes as usize,
        }
    }

    /// How many chunks it has, or will have.
    pub(crate) fn chunks(self) -> u32 {
        u32::try_from(self.bytes.div_ceil(self.chunk_bytes() as u64)).unwrap_or(u32::MAX)
    }

    /// The bytes of a chunk, which must be as many as this one has.
    ///
    /// # Errors
    /// There are more or fewer.
    pub(crate) fn check(self, number: u32, Chunk(bytes): Chunk) -> Result<Bytes, StoreError> {
        let max = self.chunk_bytes() as u64;
        let expected = self.bytes.saturating_sub(u64::from(number) * max).min(max);
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        let problem = format!("it has {} bytes, and should have {expected}", bytes.len());
        Err(StoreError::Corrupt { table: ChunkKey::TABLE, key: format!("{} {number}", self.id), problem })
    }
}

prost_row!(BodyRef);

/// Key of a part of a body: all have as many bytes but the last, see [`BodyRef::chunk_bytes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChunkKey {
    pub(crate) shard: ShardId,
    pub(crate) body: u64,
    pub(crate) number: u32,
}

/// A part of a body, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk(pub(crate) Bytes);

impl Row for Chunk {
    fn encode(&self) -> Vec<u8> {
        self.0.to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        match bytes.len() {
            1..=CHUNK_BYTES_MAX => Ok(Self(Bytes::copy_from_slice(bytes))),
            bytes => Err(format!("a chunk of {bytes} bytes")),
        }
    }
}

impl Key for ChunkKey {
    const TABLE: &'static str = "chunk";
    const FAMILY: Family = Family::Bodies;
    type Row = Chunk;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(CHUNK_TAG, self.shard).u64(self.body).u32(self.number).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, CHUNK_TAG)?;
        let (body, number) = (key.u64()?, key.u32()?);
        key.end().map(|()| Self { shard, body, number })
    }
}

/// Where the name of a body is: a lite topic and an offset in it. An upload under way has lite id 0, which no lite topic has,
/// and its body's id as offset.
pub(crate) type BodyPlace = (LiteId, Offset);

/// The lite id of uploads under way.
pub(crate) const NOBODY: LiteId = LiteId(0);

/// Key of a [`BodyRef`]: whose body it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BodyKey {
    pub(crate) shard: ShardId,
    pub(crate) lite: LiteId,
    pub(crate) offset: Offset,
}

impl BodyKey {
    /// What all keys of a shard start with.
    pub(crate) fn of_shard(shard: ShardId) -> Vec<u8> {
        KeyWriter::new(BODY_TAG, shard).finish()
    }

    /// The key at this place.
    pub(crate) fn at(shard: ShardId, (lite, offset): BodyPlace) -> Self {
        Self { shard, lite, offset }
    }

    pub(crate) fn place(&self) -> BodyPlace {
        (self.lite, self.offset)
    }
}

impl Key for BodyKey {
    const TABLE: &'static str = "body";
    const FAMILY: Family = Family::Rows;
    type Row = BodyRef;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(BODY_TAG, self.shard).u64(self.lite.0).u64(self.offset.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, BODY_TAG)?;
        let (lite, offset) = (LiteId(key.u64()?), Offset(key.u64()?));
        key.end().map(|()| Self { shard, lite, offset })
    }
}

/// Key of a [`ShareRow`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShareKey {
    pub(crate) shard: ShardId,
    pub(crate) body: u64,
}

/// How many messages have the body; without a row, one has. A dead letter shares its body with the message that other
/// groups may still need.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct ShareRow {
    #[prost(uint64, tag = "1")]
    pub(crate) messages: u64,
}

impl Key for ShareKey {
    const TABLE: &'static str = "share";
    const FAMILY: Family = Family::Rows;
    type Row = ShareRow;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(SHARE_TAG, self.shard).u64(self.body).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, SHARE_TAG)?;
        let body = key.u64()?;
        key.end().map(|()| Self { shard, body })
    }
}

prost_row!(ShareRow);

/// A stretch of table `body` whose bodies nobody has any more, and that is too long for one batch. The row has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SweepKey {
    pub(crate) shard: ShardId,
    pub(crate) from: BodyPlace,
    /// The first place after it.
    pub(crate) end: BodyPlace,
}

impl SweepKey {
    /// What all keys of a shard start with.
    pub(crate) fn of_shard(shard: ShardId) -> Vec<u8> {
        KeyWriter::new(SWEEP_TAG, shard).finish()
    }
}

impl Key for SweepKey {
    const TABLE: &'static str = "sweep";
    const FAMILY: Family = Family::Queues;
    type Row = Nothing;

    fn encode(&self) -> Vec<u8> {
        let Self { shard, from, end } = self;
        let key = KeyWriter::new(SWEEP_TAG, *shard).u64(from.0.0).u64(from.1.0);
        key.u64(end.0.0).u64(end.1.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, SWEEP_TAG)?;
        let mut place = || Some((LiteId(key.u64()?), Offset(key.u64()?)));
        let (from, end) = (place()?, place()?);
        key.end().map(|()| Self { shard, from, end })
    }
}
