//! One message as the store has it, for who reads beside its shard: its header, and its body wherever that is.

use bytes::Bytes;
use sluicegate_protocol::limits::CHUNK_BYTES_MAX;

use crate::broker::Broker;
use crate::reader::{self, ReadMessage};
use crate::refusal::Refusal;
use crate::shard::ShardId;
use crate::store::{BodyRef, ChunkKey, MessageHeader, MessageKey, StoreError, split_message};

/// A body that is in its message's row, or in chunks of its own.
pub(crate) enum StoredBody {
    Row(Bytes),
    Chunks(ShardId, BodyRef),
}

/// A message's header; none if the message is gone.
///
/// # Errors
/// `store_failed`.
pub(crate) fn header(broker: &Broker, key: &MessageKey) -> Result<Option<MessageHeader>, Refusal> {
    look(broker, key, |header, _| header)
}

/// A message's body; none if the message is gone.
///
/// # Errors
/// `store_failed`.
pub(crate) fn body(broker: &Broker, key: &MessageKey) -> Result<Option<StoredBody>, Refusal> {
    look(broker, key, |header, in_row| match header.body {
        None => StoredBody::Row(Bytes::copy_from_slice(in_row)),
        Some(body) => StoredBody::Chunks(key.shard, body),
    })
}

/// A message as a reader has it: a large body is not with it. None if the message is gone.
///
/// # Errors
/// `store_failed`.
pub(crate) fn read(broker: &Broker, key: &MessageKey) -> Result<Option<ReadMessage>, Refusal> {
    let found = look(broker, key, |header, in_row| {
        let own = header.body;
        (reader::message(key.offset, header, in_row.len()), own, Bytes::copy_from_slice(in_row))
    })?;
    let Some((message, own, in_row)) = found else { return Ok(None) };
    match own.filter(|own| own.bytes <= CHUNK_BYTES_MAX as u64) {
        None => Ok(Some((message, in_row))),
        Some(own) => Ok(chunk(broker, key.shard, own, 0)?.map(|body| (message, body))),
    }
}

/// A chunk of a body; none if the message went meanwhile.
///
/// # Errors
/// `store_failed`.
pub(crate) fn chunk(broker: &Broker, shard: ShardId, body: BodyRef, number: u32) -> Result<Option<Bytes>, Refusal> {
    let key = ChunkKey { shard, body: body.id, number };
    let row = broker.store.get(&key).map_err(|error| broker.read_failed(&error))?;
    row.map(|row| body.check(number, row)).transpose().map_err(|error| broker.read_failed(&error))
}

/// The row is not held for longer: it pins what the store has read.
fn look<T>(
    broker: &Broker,
    key: &MessageKey,
    take: impl FnOnce(MessageHeader, &[u8]) -> T,
) -> Result<Option<T>, Refusal> {
    let Some(row) = broker.store.get_bytes(key).map_err(|error| broker.read_failed(&error))? else { return Ok(None) };
    let (header, in_row) = split_message(&row).map_err(|problem| {
        let key = format!("{} {}", key.lite, key.offset);
        broker.read_failed(&StoreError::Corrupt { table: "message", key, problem })
    })?;
    Ok(Some(take(header, in_row)))
}
