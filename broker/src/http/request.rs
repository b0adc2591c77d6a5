//! Requests: a message whose reply is waited for, now or later, or that is taken back.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use serde::Serialize;
use sluicegate_protocol::{
    ErrorCode, InvalidName, LiteName, MessageId, REPLY_CANCELLED, REPLY_LITE_PROPERTY, REPLY_TOPIC_PROPERTY,
    REQUEST_ID_PROPERTY, RequestId, RequesterId, wire,
};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use super::caller::Caller;
use super::draft::insert;
use super::fields::{Fields, invalid};
use super::long_poll::wait;
use super::openapi::Refused;
use super::publish::{draft, receive};
use super::receive::Incoming;
use super::reply::{self, Found, was_sent_before};
use super::{App, Door, drawn};
use crate::broker::stopping;
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::connection::cancel::cancelled;
use crate::connection::producer::{replies_of, request};
use crate::reader::topic;
use crate::refusal::Refusal;
use crate::shard::NewBody;

/// Whose requests those are that name nobody.
const REQUESTER: &str = "http";

/// A request that has no reply so far.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Pending {
    /// Its id, by which it is asked for again.
    request: String,
    requester: String,
    /// Which message it is, if it was made just now; to cancel it.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Where its reply comes: a stream of events there has its parts as they come.
    reply: ReplyPlace,
}

/// A lite topic that a reply goes to.
#[derive(Debug, Clone, Serialize, ToSchema)]
struct ReplyPlace {
    topic: String,
    lite: String,
}

/// What became of a request that was taken back.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CancelledRequest {
    state: CancelledState,
}

/// Nobody gets it; or somebody has it in work; or nothing was left of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum CancelledState {
    Dropped,
    Running,
    Over,
}

/// A request, by who made it and its id.
struct Named {
    id: RequestId,
    requester: RequesterId,
    replies: Arc<TopicSpec>,
    lite: LiteName,
}

impl Named {
    fn new(door: &Door, asked: &TopicSpec, id: RequestId, fields: &mut Fields) -> Result<Self, Refusal> {
        let requester = fields.text("requester").unwrap_or_else(|| REQUESTER.to_owned());
        let requester = RequesterId::parse(&requester).map_err(|error| wrong(&error))?;
        let (replies, lite) = (replies_of(&door.broker, asked)?, LiteName::reply(&requester, &id));
        Ok(Self { id, requester, replies, lite })
    }

    /// The reply, if it comes in time.
    async fn wait(self, door: &Arc<Door>, until: Instant, message: Option<String>) -> Result<Response, Refusal> {
        let _place = door.request_place()?;
        let found = reply::find(door, &self.replies, &self.lite);
        match timeout_at(until, found).await {
            Ok(Ok(Found::Reply(reply))) => reply.respond(door, self.id.as_str()).await,
            Ok(Ok(Found::Failed(reason))) => {
                let refusal = Refusal::new(ErrorCode::RequestFailed, reason);
                Err(refusal.detail("request", self.id.as_str()))
            }
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => {
                let reply = ReplyPlace { topic: self.replies.name.clone(), lite: self.lite.as_str().to_owned() };
                let (request, requester) = (self.id.to_string(), self.requester.to_string());
                Ok((StatusCode::ACCEPTED, Json(Pending { request, requester, message, reply })).into_response())
            }
        }
    }
}

fn wrong(error: &InvalidName) -> Refusal {
    invalid(error.to_string())
}

fn until(fields: &mut Fields) -> Result<Instant, Refusal> {
    Ok(Instant::now() + wait(fields, "timeout_ms")?)
}

/// Ask, and wait for the reply. The body is the request's; all that a message may say may be said here too.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/requests",
    params(
        ("topic" = String, Path, description = "Name of the topic that workers consume"),
        ("lite" = String, Query, description = "Name of the lite topic"),
        ("timeout_ms" = Option<u32>, Query, description = "How long to wait for the reply, at most 60,000; 20,000"),
        ("requester" = Option<String>, Query, description = "Who asks; `http`"),
        ("request" = Option<String>, Query, description = "An id that the program chose and wrote down: asked again, it is the same request"),
        ("priority" = Option<u8>, Query, description = "0 to 9, 9 first; 4"),
        ("cost" = Option<u64>, Query, description = "Estimated cost; 1"),
    ),
    request_body(content = String, content_type = "application/octet-stream", description = "Any bytes"),
    responses(
        (status = 200, description = "The reply", content_type = "application/octet-stream", body = String),
        (status = 202, description = "No reply so far; the request goes on", body = Pending),
        (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now, or the worker failed", body = Refused)
    )
)]
pub(super) async fn ask(
    State(door): App,
    Path(name): Path<String>,
    caller: Caller,
    mut fields: Fields,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    caller.may(&door, Right::Publish)?;
    caller.may(&door, Right::Read)?;
    let asked = door.topic(&name).await?;
    let until = until(&mut fields)?;
    let id = fields.text("request").map_or_else(|| drawn().map(|id| format!("{id:032x}")), Ok)?;
    let named = Named::new(&door, &asked, RequestId::parse(&id).map_err(|error| wrong(&error))?, &mut fields)?;
    let mut draft = draft(fields, &headers)?;
    if draft.idempotency_key.replace(named.id.to_string()).is_some() {
        return Err(invalid("a request's id is its idempotency key: say `request` in the query"));
    }
    let address = [
        (REQUEST_ID_PROPERTY, named.id.as_str()),
        (REPLY_TOPIC_PROPERTY, named.replies.name.as_str()),
        (REPLY_LITE_PROPERTY, named.lite.as_str()),
    ];
    for (property, value) in address {
        insert(&mut draft.properties, property.to_owned(), value.to_owned())?;
    }
    let message = request(draft.message(&asked, door.broker.clock.now())?, NewBody::Whole(Bytes::new()))?;
    let place = door.publish_place()?;
    let publishing = Arc::clone(&door);
    // As with a message: a client that goes away has asked, or not.
    let published = tokio::spawn(async move {
        let _place = place;
        receive(&publishing, asked, message, Incoming::new(body)).await
    });
    let receipt = super::publish::Receipt::new(&published.await.map_err(|_| stopping())??);
    named.wait(&door, until, Some(receipt.id().to_owned())).await
}

/// The reply to a request that was made before; waits for it.
#[utoipa::path(
    get,
    path = "/v1/topics/{topic}/requests/{request}",
    params(
        ("topic" = String, Path, description = "Name of the topic that was asked"),
        ("request" = String, Path, description = "Id of the request"),
        ("timeout_ms" = Option<u32>, Query, description = "How long to wait for the reply, at most 60,000; 20,000"),
        ("requester" = Option<String>, Query, description = "Who asked; `http`"),
    ),
    responses(
        (status = 200, description = "The reply", content_type = "application/octet-stream", body = String),
        (status = 202, description = "No reply so far", body = Pending),
        (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now, or the worker failed", body = Refused)
    )
)]
pub(super) async fn resume(
    State(door): App,
    Path((name, id)): Path<(String, String)>,
    caller: Caller,
    mut fields: Fields,
) -> Result<Response, Refusal> {
    caller.may(&door, Right::Read)?;
    let asked = topic(&door.broker, &name)?;
    let until = until(&mut fields)?;
    let named = Named::new(&door, &asked, RequestId::parse(&id).map_err(|error| wrong(&error))?, &mut fields)?;
    fields.end()?;
    named.wait(&door, until, None).await
}

/// Take a request back. Its reply is the error `cancelled` from then on, unless it had one.
#[utoipa::path(
    delete,
    path = "/v1/topics/{topic}/requests/{request}",
    params(
        ("topic" = String, Path, description = "Name of the topic that was asked"),
        ("request" = String, Path, description = "Id of the request"),
        ("lite" = String, Query, description = "Name of the lite topic that it is in"),
        ("message" = String, Query, description = "Id of the message that it is"),
        ("requester" = Option<String>, Query, description = "Who asked; `http`"),
    ),
    responses((status = 200, description = "What became of it", body = CancelledRequest), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn cancel(
    State(door): App,
    Path((name, id)): Path<(String, String)>,
    caller: Caller,
    mut fields: Fields,
) -> Result<Json<CancelledRequest>, Refusal> {
    caller.may(&door, Right::Publish)?;
    let (asked, lite) = (topic(&door.broker, &name)?, fields.lite()?);
    let message = fields.text("message").ok_or_else(|| invalid("`message` is missing in the query: its id"))?;
    let message: MessageId = message.parse().map_err(|error| invalid(format!("{error}")))?;
    let named = Named::new(&door, &asked, RequestId::parse(&id).map_err(|error| wrong(&error))?, &mut fields)?;
    fields.end()?;
    let at = (message.lite_id, message.offset);
    let wire::Cancelled { dropped, running } = cancelled(&door.broker, &asked, lite, &named.id, at).await?;
    end_as_cancelled(&door, &named).await?;
    let state = match (dropped, running) {
        (_, 1..) => CancelledState::Running,
        (1.., 0) => CancelledState::Dropped,
        (0, 0) => CancelledState::Over,
    };
    Ok(Json(CancelledRequest { state }))
}

/// Nobody waits for the reply of who does not have the request any more.
async fn end_as_cancelled(door: &Door, named: &Named) -> Result<(), Refusal> {
    let error = Some(REPLY_CANCELLED.to_owned());
    let end = reply::message(&named.lite, &named.id, None, error);
    let end = request(end, NewBody::Whole(Bytes::new()))?;
    let bytes = end.lite.as_str().len() + 64;
    match door.publish(&named.replies, end, bytes).await {
        // It had its reply.
        Err(refusal) if was_sent_before(&refusal) => Ok(()),
        published => published.map(drop),
    }
}
