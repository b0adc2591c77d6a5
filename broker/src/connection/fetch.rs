//! A fetch's stream: the large body of a leased message, chunk by chunk, as fast as the consumer reads.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::CHUNK_BYTES_MAX;
use sluicegate_protocol::{ErrorCode, GroupName, LiteId, Offset, SessionId, wire};
use tokio::sync::oneshot;

use super::consumer::extend_request;
use super::framed::FrameWriter;
use super::{StreamError, Transfers, welcome};
use crate::broker::{Broker, send, stopping};
use crate::config::Right;
use crate::refusal::Refusal;
use crate::shard::{Command, ShardId};
use crate::store::{BodyRef, ChunkKey, MessageKey, StoreError, split_message};

/// What is to be sent.
enum Body {
    /// It is in the row of its message.
    Row(Bytes),
    Chunks(ShardId, BodyRef),
}

pub(super) async fn serve(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    role: wire::BodyRole,
    transfers: &Transfers,
    mut writer: FrameWriter,
) -> Result<(), StreamError> {
    let served = fetch(broker, peer, token, role, transfers, &mut writer).await;
    let refusal = served.as_ref().err().and_then(StreamError::refusal);
    writer.end_with(refusal).await;
    served
}

async fn fetch(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    role: wire::BodyRole,
    transfers: &Transfers,
    writer: &mut FrameWriter,
) -> Result<(), StreamError> {
    let _room = transfers.fetch()?;
    let from = role.from;
    let body = find(broker, peer, token, role).await?;
    writer.encode(&Frame::Welcome(welcome(broker), ()));
    match body {
        Body::Row(body) => {
            let rest = usize::try_from(from).ok().and_then(|from| body.get(from..)).unwrap_or_default();
            rest.chunks(CHUNK_BYTES_MAX).for_each(|part| encode(writer, body.slice_ref(part)));
            writer.flush().await
        }
        Body::Chunks(shard, body) => send_chunks(broker, (shard, body), from, writer).await,
    }
}

fn encode(writer: &mut FrameWriter, bytes: Bytes) {
    writer.encode(&Frame::Chunk(wire::Chunk {}, bytes));
}

/// The body of a message that the session holds a lease of.
async fn find(broker: &Broker, peer: SocketAddr, token: &str, role: wire::BodyRole) -> Result<Body, Refusal> {
    broker.auth.check(token, peer.ip(), Right::Consume)?;
    let invalid = |message: String| Refusal::new(ErrorCode::InvalidArgument, message);
    let session =
        SessionId::from_bytes(&role.session_id).ok_or_else(|| invalid("session_id is not 16 bytes".into()))?;
    let name = GroupName::parse(&role.group).map_err(|error| invalid(error.to_string()))?;
    let group = broker.group(&name)?;
    let (lite, offset) = (LiteId(role.lite_id), Offset(role.offset));
    let lease = extend_request(wire::ExtendOne { token: role.token, lite_id: lite.0, offset: offset.0 })?;
    let (reply, answer) = oneshot::channel();
    let check = Command::CheckLease { group: group.id, session, lease, reply };
    send(broker.shard_of(&group)?, check).await?;
    answer.await.map_err(|_| stopping())??;
    let unknown = || Refusal::new(ErrorCode::UnknownTopic, "the group's topic was deleted");
    let shard = broker.catalog().topic(group.topic).ok_or_else(unknown)?.shard;
    let row = broker.store.get_bytes(&MessageKey { shard, lite, offset }).map_err(|error| failed(broker, &error))?;
    let row = row.ok_or_else(gone)?;
    let (header, body) = split_message(&row).map_err(|problem| {
        let error = StoreError::Corrupt { table: "message", key: format!("{lite} {offset}"), problem };
        failed(broker, &error)
    })?;
    Ok(header.body.map_or_else(|| Body::Row(Bytes::copy_from_slice(body)), |body| Body::Chunks(shard, body)))
}

/// One chunk at a time is read, when the one before is on its way.
async fn send_chunks(
    broker: &Broker,
    (shard, body): (ShardId, BodyRef),
    from: u64,
    writer: &mut FrameWriter,
) -> Result<(), StreamError> {
    let (first, mut skip) =
        (from / CHUNK_BYTES_MAX as u64, usize::try_from(from % CHUNK_BYTES_MAX as u64).unwrap_or(0));
    for number in u32::try_from(first).unwrap_or(u32::MAX)..body.chunks() {
        let key = ChunkKey { shard, body: body.id, number };
        let row = broker.store.get(&key).map_err(|error| failed(broker, &error))?;
        let chunk = body.check(number, row.ok_or_else(gone)?).map_err(|error| failed(broker, &error))?;
        let rest = chunk.slice(std::mem::take(&mut skip).min(chunk.len())..);
        if !rest.is_empty() {
            encode(writer, rest);
        }
        writer.flush().await?;
    }
    Ok(())
}

fn gone() -> Refusal {
    Refusal::new(ErrorCode::LeaseLost, "the message was deleted or settled, its body is gone")
}

fn failed(broker: &Broker, error: &StoreError) -> Refusal {
    broker.store.failed(error);
    Refusal::new(ErrorCode::StoreFailed, error.to_string())
}
