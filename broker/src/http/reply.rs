//! Replies: a worker's, which is published, and a requester's, which is read as it comes to its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use sluicegate_protocol::{
    END_PROPERTY, ErrorCode, GroupName, InvalidName, LiteId, LiteName, Offset, Position, REPLY_ERROR_PROPERTY,
    REPLY_PREFIX, REQUEST_ID_PROPERTY, RequestId, RequesterId, wire,
};
use utoipa::ToSchema;

use super::body::Sending;
use super::caller::Caller;
use super::fields::{Fields, invalid};
use super::openapi::Refused;
use super::publish::receive;
use super::receive::Incoming;
use super::stream::{TURN_BYTES, read};
use super::{App, Door};
use crate::broker::stopping;
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::connection::producer::{replies_topic, request};
use crate::message::{self, StoredBody};
use crate::reader::{Read, ReadMessage, ReadRequest, Reader};
use crate::refusal::Refusal;
use crate::shard::{NewBody, ReadFrom};
use crate::store::MessageKey;

/// What became of a reply.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replied {
    /// The request had its reply, from an earlier run; this one went nowhere.
    before: bool,
}

/// How a reply ended.
pub(super) enum Found {
    Reply(Reply),
    /// The worker says that it failed, and why.
    Failed(String),
}

/// A reply that is there to its end.
pub(super) struct Reply {
    topic: Arc<TopicSpec>,
    name: LiteName,
    lite: LiteId,
    bytes: u64,
    end: Offset,
}

/// Reply to a request that the group has in work; settle its message after that.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/replies",
    params(
        ("group" = String, Path, description = "Name of the group"),
        ("lite" = String, Query, description = "The request's property `reply.lite`"),
        ("request" = String, Query, description = "The request's property `request.id`"),
        ("part" = Option<u64>, Query, description = "A part of the reply, counted from 0, behind which more comes; without it this ends the reply"),
        ("error" = Option<String>, Query, description = "The request failed for good: why"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "Any bytes"),
    responses((status = 200, description = "It is there", body = Replied), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn answer(
    State(door): App,
    Path(group): Path<String>,
    caller: Caller,
    mut fields: Fields,
    body: Body,
) -> Result<Json<Replied>, Refusal> {
    caller.may(&door, Right::Consume)?;
    let wrong = |error: InvalidName| invalid(error.to_string());
    let group = GroupName::parse(&group).map_err(wrong)?;
    let replies = replies_topic(&door.broker, &group)?;
    let (lite, part, error) = (fields.lite()?, fields.number::<u64>("part")?, fields.text("error"));
    let id = fields.text("request").ok_or_else(|| invalid("`request` is missing in the query: the request's id"))?;
    let id = RequestId::parse(&id).map_err(wrong)?;
    fields.end()?;
    if part.is_some() && error.is_some() {
        return Err(invalid("an error ends the reply, a part does not: say one of them"));
    }
    if !lite.as_str().starts_with(REPLY_PREFIX) {
        let message = format!("replies of group `{group}` go to lite topics whose names begin with `{REPLY_PREFIX}`");
        return Err(Refusal::new(ErrorCode::PermissionDenied, message));
    }
    if !is_of(&lite, &id) {
        let whose = format!("`{REPLY_PREFIX}`, who asks, `/`, and the request's id");
        return Err(invalid(format!("lite is `{lite}` and request is `{id}`: replies go to {whose}")));
    }
    let ends = part.is_none();
    let reply = request(message(&lite, &id, part, error), NewBody::Whole(Bytes::new()))?;
    let place = door.publish_place()?;
    // As with a message: a client that goes away has replied, or not.
    let published = tokio::spawn(async move {
        let _place = place;
        receive(&door, replies, reply, Incoming::new(body)).await
    });
    match published.await.map_err(|_| stopping())? {
        Ok(receipt) => Ok(Json(Replied { before: receipt.duplicate })),
        Err(refusal) if ends && was_sent_before(&refusal) => Ok(Json(Replied { before: true })),
        Err(refusal) => Err(refusal),
    }
}

/// Whether it is where the replies to this request go, whoever asked.
fn is_of(lite: &LiteName, request: &RequestId) -> bool {
    let whose = lite.as_str().strip_prefix(REPLY_PREFIX).and_then(|rest| rest.split_once('/'));
    whose.is_some_and(|(requester, of)| RequesterId::parse(requester).is_ok() && of == request.to_string())
}

/// A reply has one end, whoever brings it: its key is the request's id. Parts have keys of their own.
pub(super) fn message(lite: &LiteName, request: &RequestId, part: Option<u64>, error: Option<String>) -> wire::Publish {
    let key = part.map_or_else(|| request.to_string(), |part| format!("{request}#{part}"));
    let mut properties = BTreeMap::new();
    if part.is_none() {
        properties.insert(END_PROPERTY.to_owned(), String::new());
        properties.insert(REQUEST_ID_PROPERTY.to_owned(), request.to_string());
    }
    properties.extend(error.map(|reason| (REPLY_ERROR_PROPERTY.to_owned(), reason)));
    let (lite, idempotency_key) = (lite.as_str().to_owned(), Some(key));
    // It gets its own sequence when all of it is here.
    wire::Publish { sequence: 1, lite, properties, idempotency_key, ..wire::Publish::default() }
}

/// The key was used for another body; `detail` says where that is.
pub(super) fn was_sent_before(refusal: &Refusal) -> bool {
    refusal.code == ErrorCode::IdempotencyConflict && refusal.detail.contains_key("offset")
}

async fn reader(door: &Door, topic: &Arc<TopicSpec>, lite: &LiteName, follows: bool) -> Result<Reader, Refusal> {
    let (topic, lite, from) = (Arc::clone(topic), lite.clone(), ReadFrom::Position(Position::Earliest));
    Reader::attach(&door.broker, ReadRequest { topic, lite, from, follows }).await
}

/// Waits until the reply is there to its end. Its parts are not kept meanwhile.
pub(super) async fn find(door: &Door, topic: &Arc<TopicSpec>, name: &LiteName) -> Result<Found, Refusal> {
    let (mut reader, mut bytes) = (reader(door, topic, name, true).await?, 0);
    loop {
        let Read::Messages(lite, messages) = read(&mut reader).await? else { continue };
        for (part, body) in messages {
            if let Some(reason) = part.properties.get(REPLY_ERROR_PROPERTY) {
                return Ok(Found::Failed(reason.clone()));
            }
            bytes += part.large_body_bytes + body.len() as u64;
            if part.properties.contains_key(END_PROPERTY) {
                let (topic, name, end) = (Arc::clone(topic), name.clone(), Offset(part.offset));
                return Ok(Found::Reply(Reply { topic, name, lite, bytes, end }));
            }
        }
    }
}

/// A reply of which some parts are sent.
struct Parts {
    door: Arc<Door>,
    reader: Reader,
    reply: Reply,
    read: VecDeque<ReadMessage>,
    large: Option<Sending>,
    is_over: bool,
}

impl Reply {
    /// The bodies of all its parts, one after the other.
    pub(super) async fn respond(self, door: &Arc<Door>, request: &str) -> Result<Response, Refusal> {
        let reader = reader(door, &self.topic, &self.name, false).await?;
        let headers = [
            (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
            (header::CONTENT_LENGTH, self.bytes.to_string()),
            // Whoever replied is not whoever shows it.
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
            (HeaderName::from_static("sluice-request"), request.to_owned()),
        ];
        let door = Arc::clone(door);
        let parts = Parts { door, reader, reply: self, read: VecDeque::new(), large: None, is_over: false };
        let body = Body::from_stream(stream::try_unfold(parts, Parts::next));
        Ok((headers, body).into_response())
    }
}

impl Parts {
    /// The next bytes. A reply that goes meanwhile breaks the answer off.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Refusal> {
        loop {
            if let Some(large) = self.large.take() {
                if let Some((bytes, large)) = large.next()? {
                    self.large = Some(large);
                    return Ok(Some((bytes, self)));
                }
            } else if let Some((part, body)) = self.read.pop_front() {
                self.is_over = part.offset >= self.reply.end.0;
                if part.large_body_bytes > 0 {
                    self.large = Some(self.open(Offset(part.offset))?);
                } else if !body.is_empty() {
                    return Ok(Some((body, self)));
                }
            } else if self.is_over {
                return Ok(None);
            } else {
                match self.reader.read(TURN_BYTES).await? {
                    Read::Messages(lite, messages) if lite == self.reply.lite => {
                        // What a late run put behind the end is no part of the reply.
                        let end = self.reply.end.0;
                        self.read.extend(messages.into_iter().filter(|(part, _)| part.offset <= end));
                    }
                    Read::Messages(..) | Read::End => return Err(gone()),
                    Read::Nothing => {}
                }
            }
        }
    }

    fn open(&self, offset: Offset) -> Result<Sending, Refusal> {
        let key = MessageKey { shard: self.reply.topic.shard, lite: self.reply.lite, offset };
        match message::body(&self.door.broker, &key)? {
            Some(StoredBody::Chunks(shard, body)) => Sending::new(&self.door, shard, body),
            Some(StoredBody::Row(_)) | None => Err(gone()),
        }
    }
}

fn gone() -> Refusal {
    Refusal::new(ErrorCode::Trimmed, "the reply was deleted while it was sent")
}
