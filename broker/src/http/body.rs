//! The body of one message as it is, of any size, chunk by chunk as fast as the client reads.

use std::future;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use sluicegate_protocol::{ErrorCode, MessageId};
use tokio::sync::OwnedSemaphorePermit;

use super::caller::Caller;
use super::fields::{Fields, invalid};
use super::openapi::Refused;
use super::{App, Door};
use crate::config::Right;
use crate::message::{self, StoredBody};
use crate::reader::{check, topic};
use crate::refusal::Refusal;
use crate::shard::ShardId;
use crate::store::{BodyRef, MessageKey};

/// A body of which some chunks are sent.
pub(super) struct Sending {
    door: Arc<Door>,
    shard: ShardId,
    body: BodyRef,
    number: u32,
    _place: OwnedSemaphorePermit,
}

/// The body of one message as it is.
#[utoipa::path(
    get,
    path = "/v1/topics/{topic}/messages/{id}",
    params(("topic" = String, Path, description = "Name of the topic"), ("id" = String, Path, description = "Id of the message, `LITE_ID-OFFSET`"), ("lite" = String, Query, description = "Name of the lite topic")),
    responses((status = 200, description = "The body", content_type = "application/octet-stream", body = String), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn body(
    State(door): App,
    Path((name, id)): Path<(String, String)>,
    caller: Caller,
    mut fields: Fields,
) -> Result<Response, Refusal> {
    caller.may(&door, Right::Read)?;
    let topic = topic(&door.broker, &name)?;
    let id: MessageId = id.parse().map_err(|error| invalid(format!("{error}")))?;
    let lite = fields.lite()?;
    fields.end()?;
    check(&door.broker, &topic, &lite, (id.lite_id, id.offset)).await?;
    let key = MessageKey { shard: topic.shard, lite: id.lite_id, offset: id.offset };
    whole(&door, &key)?.ok_or_else(|| gone(id))
}

/// The body of this message; none if the message is gone.
pub(super) fn whole(door: &Arc<Door>, key: &MessageKey) -> Result<Option<Response>, Refusal> {
    let Some(body) = message::body(&door.broker, key)? else { return Ok(None) };
    let (bytes, body) = match body {
        StoredBody::Row(row) => (row.len() as u64, Body::from(row)),
        StoredBody::Chunks(shard, body) => {
            let sending = Sending::new(door, shard, body)?;
            (body.bytes, Body::from_stream(stream::try_unfold(sending, |sending| future::ready(sending.next()))))
        }
    };
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, bytes.to_string()),
        // Whoever published it is not whoever shows it.
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok(Some((headers, body).into_response()))
}

/// A work queue lets go of what is settled, in any order.
fn gone(id: MessageId) -> Refusal {
    Refusal::new(ErrorCode::Trimmed, format!("message {id} is settled and gone"))
}

impl Sending {
    pub(super) fn new(door: &Arc<Door>, shard: ShardId, body: BodyRef) -> Result<Self, Refusal> {
        Ok(Self { _place: door.fetch_place()?, door: Arc::clone(door), shard, body, number: 0 })
    }

    /// The next chunk. A body that goes meanwhile breaks the answer off.
    pub(super) fn next(mut self) -> Result<Option<(Bytes, Self)>, Refusal> {
        if self.number == self.body.chunks() {
            return Ok(None);
        }
        let chunk = message::chunk(&self.door.broker, self.shard, self.body, self.number)?;
        let gone = || Refusal::new(ErrorCode::Trimmed, "the message was deleted while it was sent");
        let chunk = chunk.ok_or_else(gone)?;
        self.number += 1;
        Ok(Some((chunk, self)))
    }
}
