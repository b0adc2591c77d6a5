//! A fetch's stream: the large body of a message that is leased or read, chunk by chunk, as fast as the client reads.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::CHUNK_BYTES_MAX;
use sluicegate_protocol::{ErrorCode, GroupName, LiteId, LiteName, Offset, SessionId, wire};
use tokio::sync::oneshot;

use super::consumer::extend_request;
use super::framed::FrameWriter;
use super::{StreamError, Transfers, welcome};
use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::message::{self, StoredBody};
use crate::reader::{check, topic};
use crate::refusal::Refusal;
use crate::shard::{Command, ShardId};
use crate::store::{BodyRef, MessageKey};

/// Which message's body, and by what right.
pub(super) enum Wanted {
    /// The session holds a lease of it.
    Leased(wire::BodyRole),
    /// A reader met it.
    Read(wire::ReadBodyRole),
}

impl Wanted {
    fn from(&self) -> u64 {
        match self {
            Self::Leased(role) => role.from,
            Self::Read(role) => role.from,
        }
    }
}

/// Where a message is, and what says that it is gone.
struct Found {
    shard: ShardId,
    lite: LiteId,
    offset: Offset,
    /// What a reader read.
    read: Option<(Arc<TopicSpec>, LiteName)>,
}

pub(super) async fn serve(
    broker: &Arc<Broker>,
    peer: SocketAddr,
    token: &str,
    wanted: Wanted,
    transfers: &Transfers,
    mut writer: FrameWriter,
) -> Result<(), StreamError> {
    let served = fetch(broker, peer, token, wanted, transfers, &mut writer).await;
    let refusal = served.as_ref().err().and_then(StreamError::refusal);
    writer.end_with(refusal).await;
    served
}

async fn fetch(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    wanted: Wanted,
    transfers: &Transfers,
    writer: &mut FrameWriter,
) -> Result<(), StreamError> {
    let _room = transfers.fetch()?;
    let from = wanted.from();
    let found = match wanted {
        Wanted::Leased(role) => find_leased(broker, peer, token, role).await?,
        Wanted::Read(role) => find_read(broker, peer, token, &role).await?,
    };
    let body = body(broker, &found).await?;
    writer.encode(&Frame::Welcome(welcome(broker), ()));
    match body {
        StoredBody::Row(body) => {
            let rest = usize::try_from(from).ok().and_then(|from| body.get(from..)).unwrap_or_default();
            rest.chunks(CHUNK_BYTES_MAX).for_each(|part| encode(writer, body.slice_ref(part)));
            writer.flush().await
        }
        StoredBody::Chunks(shard, body) => send_chunks(broker, (shard, body), from, &found, writer).await,
    }
}

fn encode(writer: &mut FrameWriter, bytes: Bytes) {
    writer.encode(&Frame::Chunk(wire::Chunk {}, bytes));
}

/// A message that the session holds a lease of.
async fn find_leased(broker: &Broker, peer: SocketAddr, token: &str, role: wire::BodyRole) -> Result<Found, Refusal> {
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
    Ok(Found { shard, lite, offset, read: None })
}

/// A message that whoever may read the topic may read.
async fn find_read(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    role: &wire::ReadBodyRole,
) -> Result<Found, Refusal> {
    broker.auth.check(token, peer.ip(), Right::Read)?;
    let topic = topic(broker, &role.topic)?;
    let invalid = |error: sluicegate_protocol::InvalidName| Refusal::new(ErrorCode::InvalidArgument, error.to_string());
    let name = LiteName::parse(&role.lite).map_err(invalid)?;
    let (lite, offset) = (LiteId(role.lite_id), Offset(role.offset));
    check(broker, &topic, &name, (lite, offset)).await?;
    Ok(Found { shard: topic.shard, lite, offset, read: Some((topic, name)) })
}

async fn body(broker: &Broker, found: &Found) -> Result<StoredBody, Refusal> {
    let Found { shard, lite, offset, .. } = *found;
    match message::body(broker, &MessageKey { shard, lite, offset })? {
        Some(body) => Ok(body),
        None => Err(gone(broker, found).await),
    }
}

/// One chunk at a time is read, when the one before is on its way.
async fn send_chunks(
    broker: &Broker,
    (shard, body): (ShardId, BodyRef),
    from: u64,
    found: &Found,
    writer: &mut FrameWriter,
) -> Result<(), StreamError> {
    let chunk_bytes = body.chunk_bytes() as u64;
    let (first, mut skip) = (from / chunk_bytes, usize::try_from(from % chunk_bytes).unwrap_or(0));
    for number in u32::try_from(first).unwrap_or(u32::MAX)..body.chunks() {
        let Some(chunk) = message::chunk(broker, shard, body, number)? else {
            return Err(gone(broker, found).await.into());
        };
        let rest = chunk.slice(std::mem::take(&mut skip).min(chunk.len())..);
        if !rest.is_empty() {
            encode(writer, rest);
        }
        writer.flush().await?;
    }
    Ok(())
}

/// What became of the message.
async fn gone(broker: &Broker, found: &Found) -> Refusal {
    let settled = || Refusal::new(ErrorCode::LeaseLost, "the message was deleted or settled, its body is gone");
    match &found.read {
        None => settled(),
        Some((topic, name)) => {
            check(broker, topic, name, (found.lite, found.offset)).await.err().unwrap_or_else(settled)
        }
    }
}
