//! One message in: its body is the request's, all else is said by the query and by headers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde::Serialize;
use sluicegate_protocol::limits::CHUNK_BYTES_MAX;
use sluicegate_protocol::{LiteId, MessageId, Offset, wire};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::caller::Caller;
use super::draft::{Draft, insert};
use super::fields::{Fields, invalid};
use super::openapi::Refused;
use super::receive::Incoming;
use super::{App, Door, Published};
use crate::broker::{send, stopping};
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::connection::producer::request;
use crate::incoming::IncomingBody;
use crate::refusal::Refusal;
use crate::shard::{BeginUpload, Begun, Command, NewBody, PublishRequest};

/// Headers that begin so are properties.
const PROPERTY_HEADER: &str = "sluice-property-";

/// Where a message is.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Receipt {
    id: String,
    #[schema(value_type = String)]
    lite_id: LiteId,
    #[schema(value_type = u64)]
    offset: Offset,
    /// The message began its lite topic.
    created: bool,
    /// It was published before, under the same idempotency key.
    duplicate: bool,
}

impl Receipt {
    /// Of the message.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn new(receipt: &wire::PublishReceipt) -> Self {
        let id = MessageId { lite_id: LiteId(receipt.lite_id), offset: Offset(receipt.offset) };
        let MessageId { lite_id, offset } = id;
        Self { id: id.to_string(), lite_id, offset, created: receipt.created, duplicate: receipt.duplicate }
    }
}

/// Publish one message, whose body is the request's.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/messages",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("lite" = String, Query, description = "Name of the lite topic"),
        ("priority" = Option<u8>, Query, description = "0 to 9, 9 first; 4"),
        ("cost" = Option<u64>, Query, description = "Estimated cost; 1"),
        ("tenant" = Option<String>, Query, description = "The property from which the topic has its tenants"),
        ("deliver_at_us" = Option<u64>, Query, description = "Not before, in microseconds since 1970"),
        ("delay_ms" = Option<u64>, Query, description = "Not before so long from now"),
        ("expires_at_us" = Option<u64>, Query, description = "Never after, in microseconds since 1970"),
        ("expires_in_ms" = Option<u64>, Query, description = "Never after so long from now"),
        ("end" = Option<bool>, Query, description = "It marks the end of a stream"),
        ("Idempotency-Key" = Option<String>, Header, description = "Published once under this key"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "Any bytes"),
    responses((status = 201, description = "Published", body = Receipt), (status = 200, description = "It was published before", body = Receipt), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn publish(
    State(door): App,
    Path(topic): Path<String>,
    caller: Caller,
    fields: Fields,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Receipt>), Refusal> {
    caller.may(&door, Right::Publish)?;
    let topic = door.topic(&topic).await?;
    let message = draft(fields, &headers)?.message(&topic, door.broker.clock.now())?;
    // Checked before anything is received.
    let request = request(message, NewBody::Whole(Bytes::new()))?;
    let place = door.publish_place()?;
    // A client that goes away ends its request, and what was received of it must be let go of.
    let published = tokio::spawn(async move {
        let _place = place;
        receive(&door, topic, request, Incoming::new(body)).await
    });
    let receipt = published.await.map_err(|_| stopping())??;
    let status = if receipt.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(Receipt::new(&receipt))))
}

/// All but the body.
pub(super) fn draft(mut fields: Fields, headers: &HeaderMap) -> Result<Draft, Refusal> {
    let draft = Draft {
        lite: fields.lite()?.as_str().to_owned(),
        properties: properties(&mut fields, headers)?,
        priority: fields.number("priority")?,
        cost: fields.number("cost")?,
        tenant: fields.text("tenant"),
        deliver_at: (fields.number("deliver_at_us")?, fields.number("delay_ms")?),
        expires_at: (fields.number("expires_at_us")?, fields.number("expires_in_ms")?),
        idempotency_key: header(headers, "idempotency-key")?,
        end: fields.flag("end", false)?,
    };
    fields.end()?;
    Ok(draft)
}

fn properties(fields: &mut Fields, headers: &HeaderMap) -> Result<BTreeMap<String, String>, Refusal> {
    let mut properties = BTreeMap::new();
    for (name, value) in fields.with_prefix("property.") {
        insert(&mut properties, name, value)?;
    }
    for name in headers.keys() {
        if let Some(property) = name.as_str().strip_prefix(PROPERTY_HEADER)
            && let Some(value) = header(headers, name.as_str())?
        {
            insert(&mut properties, property.to_owned(), value)?;
        }
    }
    Ok(properties)
}

/// A header that is there once at most, and UTF-8.
fn header(headers: &HeaderMap, name: &str) -> Result<Option<String>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(invalid(format!("the header {name} is there twice")));
    }
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| invalid(format!("the header {name} is not UTF-8")))?;
    Ok(Some(text.to_owned()))
}

/// Publishes it when its body is here, of any size.
pub(super) async fn receive(
    door: &Door,
    topic: Arc<TopicSpec>,
    mut request: PublishRequest,
    mut incoming: Incoming,
) -> Published {
    if let Some(bytes) = incoming.announced() {
        door.broker.uploads.check_size(bytes)?;
        if bytes > CHUNK_BYTES_MAX as u64 {
            return receive_large(door, topic, request, incoming, bytes).await;
        }
    }
    let body = incoming.whole(CHUNK_BYTES_MAX).await?;
    door.broker.uploads.check_size(body.len() as u64)?;
    let bytes = body.len() + request.lite.as_str().len() + 64;
    request.set_body(body);
    door.publish(&topic, request, bytes).await
}

async fn receive_large(
    door: &Door,
    topic: Arc<TopicSpec>,
    mut request: PublishRequest,
    mut incoming: Incoming,
    bytes: u64,
) -> Published {
    let _room = door.broker.uploads.enter(bytes)?;
    let (reply, answer) = oneshot::channel();
    let begin = BeginUpload { topic: topic.id, producer: door.producer, sequence: door.sequences(1), bytes, reply };
    send(door.broker.shard(topic.shard), Command::BeginUpload(begin)).await?;
    let body = match answer.await.map_err(|_| stopping())?? {
        Begun::New(body) => body,
        Begun::Published(_) => unreachable!("a sequence is used once"),
    };
    let mut large = IncomingBody::new(&door.broker, Arc::clone(&topic), body);
    if let Err(refusal) = receive_chunks(&mut large, &mut incoming).await {
        large.abort().await;
        return Err(refusal);
    }
    request.set_uploaded(body, large.digest());
    door.publish(&topic, request, CHUNK_BYTES_MAX).await
}

async fn receive_chunks(large: &mut IncomingBody, incoming: &mut Incoming) -> Result<(), Refusal> {
    while large.left() > 0 {
        let bytes = incoming.next().await?.ok_or_else(|| incoming.too_short())?;
        large.take(bytes).await?;
    }
    Ok(())
}
