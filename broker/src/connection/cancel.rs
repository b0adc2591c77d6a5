//! A cancel's stream: one request that nobody wants any more, one answer.

use std::net::SocketAddr;

use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::{ErrorCode, InvalidName, LiteId, LiteName, Offset, REQUEST_ID_PROPERTY, RequestId, wire};
use tokio::sync::oneshot;

use super::framed::FrameWriter;
use super::{StreamError, welcome};
use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::message;
use crate::reader::topic;
use crate::refusal::Refusal;
use crate::shard::{CancelRequest, Command};
use crate::store::MessageKey;

pub(super) async fn serve(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    role: wire::CancelRole,
    mut writer: FrameWriter,
) -> Result<(), StreamError> {
    match cancel(broker, peer, token, &role).await {
        Ok(cancelled) => {
            let welcome = wire::Welcome { cancelled: Some(cancelled), ..welcome(broker) };
            writer.encode(&Frame::Welcome(welcome, ()));
            writer.end_with(None).await;
            Ok(())
        }
        Err(refusal) => {
            writer.end_with(Some(refusal.clone())).await;
            Err(refusal.into())
        }
    }
}

async fn cancel(
    broker: &Broker,
    peer: SocketAddr,
    token: &str,
    role: &wire::CancelRole,
) -> Result<wire::Cancelled, Refusal> {
    broker.auth.check(token, peer.ip(), Right::Publish)?;
    let topic = topic(broker, &role.topic)?;
    let invalid = |error: InvalidName| Refusal::new(ErrorCode::InvalidArgument, error.to_string());
    let lite = LiteName::parse(&role.lite).map_err(invalid)?;
    let request = RequestId::parse(&role.request).map_err(invalid)?;
    cancelled(broker, &topic, lite, &request, (LiteId(role.lite_id), Offset(role.offset))).await
}

/// Takes a request back that is this message.
pub(crate) async fn cancelled(
    broker: &Broker,
    topic: &TopicSpec,
    lite: LiteName,
    request: &RequestId,
    at: (LiteId, Offset),
) -> Result<wire::Cancelled, Refusal> {
    check(broker, &MessageKey { shard: topic.shard, lite: at.0, offset: at.1 }, request)?;
    let (reply, answer) = oneshot::channel();
    let asked = CancelRequest { topic: topic.id, lite, at, reply };
    send(broker.shard(topic.shard), Command::Cancel(asked)).await?;
    answer.await.map_err(|_| stopping())?
}

/// Who knows the id of a request is who made it. One that is gone was settled, and is not harmed.
fn check(broker: &Broker, key: &MessageKey, request: &RequestId) -> Result<(), Refusal> {
    let Some(header) = message::header(broker, key)? else { return Ok(()) };
    if header.properties.get(REQUEST_ID_PROPERTY).is_some_and(|id| id == request.as_str()) {
        return Ok(());
    }
    let message = format!("message {}-{} is not request `{request}`", key.lite, key.offset);
    Err(Refusal::new(ErrorCode::PermissionDenied, message))
}
