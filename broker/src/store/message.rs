//! Table `message`: header and body of each message.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use prost::Message;
use sluicegate_protocol::{LiteId, Offset, Timestamp};

use super::key::{KeyReader, KeyWriter, ROW_VERSION, versioned};
use super::{BodyRef, Family, Key, Nothing, Row, ShardId};

const TAG: u8 = b'm';

/// Key of a [`StoredMessage`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessageKey {
    pub(crate) shard: ShardId,
    pub(crate) lite: LiteId,
    pub(crate) offset: Offset,
}

/// What is known of a message beside its body.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct MessageHeader {
    #[prost(uint64, tag = "1")]
    pub(crate) published_at_us: u64,
    #[prost(uint32, tag = "2")]
    pub(crate) priority: u32,
    #[prost(uint64, tag = "3")]
    pub(crate) cost: u64,
    #[prost(uint64, optional, tag = "4")]
    pub(crate) deliver_at_us: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    pub(crate) expires_at_us: Option<u64>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub(crate) properties: BTreeMap<String, String>,
    /// Bytes of all messages before it in this life of the lite topic. Absent in a row from before this was written down.
    #[prost(uint64, optional, tag = "12")]
    pub(crate) position: Option<u64>,
    /// The body, where it has rows of its own.
    #[prost(message, optional, tag = "10")]
    pub(crate) body: Option<BodyRef>,
    /// Some message of the lite topic before this offset, and before this message, may have a body with rows of its own.
    #[prost(uint64, optional, tag = "11")]
    pub(crate) bodies_before: Option<u64>,
}

impl MessageHeader {
    pub(crate) fn published_at(&self) -> Timestamp {
        Timestamp(self.published_at_us)
    }

    /// What a message of this header counts: its body and its properties. `in_row` is the body that is in the message's row.
    pub(crate) fn bytes(&self, in_row: usize) -> u64 {
        let properties = self.properties.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        self.body.map_or(in_row as u64, |body| body.bytes) + properties as u64
    }

    /// Where the next message of its lite topic is.
    pub(crate) fn end_position(&self, in_row: usize) -> u64 {
        self.position.map_or(0, |position| position + self.bytes(in_row))
    }

    /// From this offset on no message of the lite topic up to this one, which has this offset, has a body with rows of its own.
    pub(crate) fn bodies_end(&self, own: Offset) -> Offset {
        match self.body {
            Some(_) => own.next(),
            None => Offset(self.bodies_before.unwrap_or(0)),
        }
    }

    pub(crate) fn priority(&self) -> u8 {
        u8::try_from(self.priority).unwrap_or(sluicegate_protocol::limits::PRIORITY_MAX)
    }
}

/// A message: version, header length, header, body unless that has rows of its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredMessage {
    pub(crate) header: MessageHeader,
    pub(crate) body: Bytes,
}

impl MessageKey {
    /// What all keys of a lite topic start with.
    pub(crate) fn of_lite(shard: ShardId, lite: LiteId) -> Vec<u8> {
        KeyWriter::new(TAG, shard).u64(lite.0).finish()
    }
}

impl Key for MessageKey {
    const TABLE: &'static str = "message";
    const FAMILY: Family = Family::Messages;
    type Row = StoredMessage;

    fn encode(&self) -> Vec<u8> {
        KeyWriter::new(TAG, self.shard).u64(self.lite.0).u64(self.offset.0).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (mut key, shard) = KeyReader::new(bytes, TAG)?;
        let (lite, offset) = (LiteId(key.u64()?), Offset(key.u64()?));
        key.end().map(|()| Self { shard, lite, offset })
    }
}

/// A [`MessageKey`] for those who need not know what the message says: its row is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessagePlace(pub(crate) MessageKey);

impl Key for MessagePlace {
    const TABLE: &'static str = MessageKey::TABLE;
    const FAMILY: Family = MessageKey::FAMILY;
    type Row = Nothing;

    fn encode(&self) -> Vec<u8> {
        self.0.encode()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        MessageKey::decode(bytes).map(Self)
    }
}

impl Row for StoredMessage {
    fn encode(&self) -> Vec<u8> {
        let header_bytes = self.header.encoded_len();
        let mut bytes = Vec::with_capacity(1 + 4 + header_bytes + self.body.len());
        bytes.push(ROW_VERSION);
        let length = u32::try_from(header_bytes).expect("headers are limited to HEADER_BYTES_MAX");
        bytes.extend_from_slice(&length.to_be_bytes());
        self.header.encode(&mut bytes).expect("a Vec grows as needed");
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (header, body) = split(bytes)?;
        Ok(Self { header, body: Bytes::copy_from_slice(body) })
    }
}

/// Header and body of a row, the body not copied.
pub(crate) fn split(bytes: &[u8]) -> Result<(MessageHeader, &[u8]), String> {
    let mut rest = versioned(bytes)?;
    let header_bytes = rest.try_get_u32().map_err(|_| "no header length")? as usize;
    let (header, body) = rest.split_at_checked(header_bytes).ok_or("header longer than the row")?;
    Ok((MessageHeader::decode(header).map_err(|error| error.to_string())?, body))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_message_survives_its_row(published in any::<u64>(), priority in 0_u32..10, cost in any::<u64>(),
            expires in proptest::option::of(any::<u64>()), key in ".{0,20}", body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let header = MessageHeader {
                published_at_us: published, priority, cost, deliver_at_us: None, expires_at_us: expires,
                properties: [(key, "value".to_owned())].into(), body: expires.map(|id| BodyRef { id, bytes: cost, chunk_bytes: 0 }),
                bodies_before: expires, position: Some(cost),
            };
            let message = StoredMessage { header, body: body.into() };
            prop_assert_eq!(StoredMessage::decode(&message.encode()), Ok(message));
        }

        #[test]
        fn garbage_is_no_message_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = StoredMessage::decode(&bytes);
        }

        #[test]
        fn keys_are_ordered_as_shard_lite_and_offset_are(a in any::<(u16, u64, u64)>(), b in any::<(u16, u64, u64)>()) {
            let key = |(shard, lite, offset)| MessageKey { shard: ShardId(shard), lite: LiteId(lite), offset: Offset(offset) };
            prop_assert_eq!(key(a).encode().cmp(&key(b).encode()), a.cmp(&b));
            prop_assert_eq!(MessageKey::decode(&key(a).encode()), Some(key(a)));
        }
    }

    #[test]
    fn a_cut_row_is_refused() {
        let message = StoredMessage { header: MessageHeader::default(), body: Bytes::new() };
        assert_eq!(StoredMessage::decode(&message.encode()[..3]), Err("no header length".into()));
        assert_eq!(StoredMessage::decode(&[1, 0, 0, 0, 9]), Err("header longer than the row".into()));
        assert_eq!(StoredMessage::decode(&[7]), Err("row version 7, this broker reads 1".into()));
    }
}
