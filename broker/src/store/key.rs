//! How keys are put together: a tag, the shard, then big-endian numbers, so that byte order is the
//! order of meaning and a shard's rows of one table are one range.
//!
//! | tag | table | family |
//! |---|---|---|
//! | `s` | shard: epoch, last committed time, next lite id | rows |
//! | `c` | count: lite topics, messages and bytes of a topic | rows |
//! | `a` | tenant: topic, name to messages and bytes | rows |
//! | `t` | lite: topic, name to lite id | rows |
//! | `n` | name: lite id to name, tenant | rows |
//! | `o` | tail: lite id to next offset | rows |
//! | `u` | cursor: group, lite id | rows |
//! | `b` | bucket: group | rows |
//! | `p` | receipts: topic, producer, first sequence | rows |
//! | `q` | receipts_end: time, topic, producer | queues |
//! | `y` | dedup: lite id, idempotency key | rows |
//! | `l` | lease that is not in its cursor: group, lite id, offset | queues |
//! | `g` | levels: group | rows |
//! | `f` | busy: group, page | rows |
//! | `r` | ready: group, band, lite id | queues |
//! | `w` | wake: group, time, lite id | queues |
//! | `z` | dedup_end: time, lite id, idempotency key | queues |
//! | `e` | due: time, kind, lite id | queues |
//! | `m` | message: lite id, offset | messages |
//! | `k` | chunk: body, number | bodies |
//! | `i` | body: lite id, offset to body | rows |
//! | `j` | share: body to how many messages have it | rows |
//! | `x` | sweep: bodies that are being deleted, from, end | queues |

use super::ShardId;

/// Builds a key.
pub(super) struct KeyWriter(Vec<u8>);

impl KeyWriter {
    pub(super) fn new(tag: u8, shard: ShardId) -> Self {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(tag);
        bytes.extend_from_slice(&shard.0.to_be_bytes());
        Self(bytes)
    }

    pub(super) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(super) fn u32(mut self, value: u32) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, value: u64) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    pub(super) fn u128(mut self, value: u128) -> Self {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// Bytes of any length: only at the end of a key.
    pub(super) fn rest(mut self, value: &[u8]) -> Vec<u8> {
        self.0.extend_from_slice(value);
        self.0
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

/// Takes a key apart; every step fails on a key that is too short.
pub(super) struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Checks the tag and reads the shard.
    pub(super) fn new(bytes: &'a [u8], tag: u8) -> Option<(Self, ShardId)> {
        let (first, rest) = bytes.split_first()?;
        let mut reader = Self(rest);
        let shard = ShardId(u16::from_be_bytes(reader.take()?));
        (*first == tag).then_some((reader, shard))
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_be_bytes)
    }

    pub(super) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_be_bytes)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }

    /// The key must have nothing left.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }
}

/// The first key after all keys that start with `prefix`; none if there is no such key.
pub(super) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Implements [`super::Row`] for a prost message, with a version byte in front.
macro_rules! prost_row {
    ($row:ty) => {
        impl super::Row for $row {
            fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(1 + prost::Message::encoded_len(self));
                bytes.push(super::key::ROW_VERSION);
                prost::Message::encode(self, &mut bytes).expect("a Vec grows as needed");
                bytes
            }

            fn decode(bytes: &[u8]) -> Result<Self, String> {
                let message = super::key::versioned(bytes)?;
                prost::Message::decode(message).map_err(|error| error.to_string())
            }
        }
    };
}
pub(super) use prost_row;

/// Version of a row's encoding. Fields are added with new protobuf tags; a change of meaning is a new version.
pub(super) const ROW_VERSION: u8 = 1;

/// The bytes after the version, if it is ours.
pub(super) fn versioned(bytes: &[u8]) -> Result<&[u8], String> {
    match bytes.split_first() {
        Some((&ROW_VERSION, message)) => Ok(message),
        Some((version, _)) => Err(format!("row version {version}, this broker reads {ROW_VERSION}")),
        None => Err("empty row".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_that_lacks_it() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 255, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255]), None);
    }
}
