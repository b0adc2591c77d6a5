//! The door: what callers ask becomes a message, what workers publish becomes their answer. It keeps nothing, so there may be many of
//! it, and one that is started again goes on.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use sluicegate_client::admin::Admin;
use sluicegate_client::{
    Client, ErrorCode, LiteName, Message, MessageId, PublishError, RequestError, Requester, RequesterId, Timestamp,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::chat::ChatRequest;
use crate::identity::{AnswerId, Caller};
use crate::refused::Refused;
use crate::telling::{DONE, Telling, gone};
use crate::{model, topics};

/// Bytes of a request's body.
const BODY_BYTES_MAX: usize = 256 << 10;
/// How long a request's body may take.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of an API key, and of an `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 256;
/// Answers that are told at once.
const ANSWERS_MAX: usize = 4_096;
/// How long the broker may take to make a request durable, or to say why not.
const ASK_PATIENCE: Duration = Duration::from_secs(30);
/// How often a stream on which nothing comes says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a caller comes again where nobody knows when there is room, and the longest that it is told.
const AGAIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_hours(1);

/// Where callers come in.
pub(crate) struct Door {
    client: Client,
    admin: Admin,
    requester: Requester,
    keys: Vec<String>,
    patience: Duration,
    places: Arc<Semaphore>,
}

/// The routes.
pub(crate) fn router(door: Door) -> Router {
    let unknown = || async { Refused::invalid_as(StatusCode::NOT_FOUND, "unknown_url", "no such route") };
    let method = || async { Refused::invalid_as(StatusCode::METHOD_NOT_ALLOWED, "method", "no such method here") };
    Router::new()
        .route("/v1/models", get(models))
        .route("/v1/chat/completions", post(ask))
        .route("/v1/chat/completions/{id}", get(come_back))
        .fallback(unknown)
        .method_not_allowed_fallback(method)
        .with_state(Arc::new(door))
}

async fn models(State(door): State<Arc<Door>>, headers: HeaderMap) -> Result<Json<Value>, Refused> {
    door.caller(&headers)?;
    let models = model::shipped();
    let list = models
        .iter()
        .map(|model| json!({"id": model.name(), "object": "model", "created": 0, "owned_by": "sluicegate"}));
    Ok(Json(json!({"object": "list", "data": list.collect::<Vec<_>>()})))
}

/// A request becomes a message; the answer comes by the same connection, if that lasts.
async fn ask(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Result<Response, Refused> {
    let caller = door.caller(&headers)?;
    let place = door.place()?;
    let body = received(body).await?;
    let asked = ChatRequest::parse(&body)?;
    if model::shipped().iter().all(|model| model.name() != asked.model) {
        return Err(Refused::no_model(&asked.model));
    }
    let id = caller.answer(text_of(&headers, "idempotency-key")?);
    let lite = caller.lite(asked.user()).map_err(|error| Refused::invalid(Some("user"), error.to_string()))?;
    door.publish(&id, &lite, &asked, body).await?;
    let telling = door.telling(&id, None, place).await?;
    Ok(tell(&id, telling, asked.streams()).await)
}

/// The answer again, or the rest of it: for who lost its connection.
async fn come_back(
    State(door): State<Arc<Door>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let caller = door.caller(&headers)?;
    let no_answer = || Refused::invalid_as(StatusCode::NOT_FOUND, "unknown_answer", "you have no answer with this id");
    let id = caller.own(&id).ok_or_else(no_answer)?;
    let place = door.place()?;
    let last = match text_of(&headers, "last-event-id")? {
        Some(DONE) => return Ok(StatusCode::NO_CONTENT.into_response()),
        Some(last) => {
            let garbage = |_| Refused::invalid(None, "`Last-Event-ID` is no id of an event");
            Some(last.parse::<MessageId>().map_err(garbage)?)
        }
        None => None,
    };
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let streams = last.is_some() || accepts.contains("text/event-stream");
    let telling = door.telling(&id, last, place).await?;
    Ok(tell(&id, telling, streams).await)
}

async fn tell(id: &AnswerId, telling: Telling, streams: bool) -> Response {
    const ID: HeaderName = HeaderName::from_static("x-request-id");
    let response = match streams {
        true => {
            let events = Sse::new(telling.events()).keep_alive(KeepAlive::new().interval(HEARTBEAT));
            // A proxy that gathers a response would keep tokens to itself.
            ([("cache-control", "no-store"), ("x-accel-buffering", "no")], events).into_response()
        }
        false => telling.whole().await.map(Json).into_response(),
    };
    // A stream says it before its first chunk, so that who loses its connection then knows what to come back for.
    ([(ID, id.to_string())], response).into_response()
}

impl Door {
    pub(crate) async fn new(
        client: Client,
        admin: Admin,
        keys: Vec<String>,
        patience: Duration,
    ) -> anyhow::Result<Self> {
        // All doors have one name: the ids of requests are drawn, and each has its caller in it.
        let requester = client.requester(topics::requests()?, RequesterId::parse("openai-door")?).await?;
        Ok(Self { client, admin, requester, keys, patience, places: Arc::new(Semaphore::new(ANSWERS_MAX)) })
    }

    /// Who it is that calls.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refused> {
        let authorization = text_of(headers, "authorization")?;
        let key = authorization.and_then(|text| text.strip_prefix("Bearer ")).map_or("", str::trim);
        let is_known =
            self.keys.is_empty() || self.keys.iter().any(|known| Caller::of_key(known) == Caller::of_key(key));
        if key.is_empty() || !is_known {
            return Err(Refused::no_key());
        }
        Ok(Caller::of_key(key))
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, Refused> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Refused::full("as many answers as this door may tell are being told", AGAIN))
    }

    async fn publish(&self, id: &AnswerId, lite: &LiteName, asked: &ChatRequest, body: Bytes) -> Result<(), Refused> {
        let message = Message::to_lite(lite).body(body).cost(asked.estimated_cost());
        // When it has waited for so long, nobody waits for it.
        let message = message.expires_at(now().plus(self.patience));
        let started = timeout(ASK_PATIENCE, self.requester.start_as(id.request().clone(), message)).await;
        let unknown = "whether the request was taken is not known: send it again with the same `Idempotency-Key`";
        match started {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RequestError::Publish(PublishError::Refused(refusal)))) => Err(match refusal.code {
                ErrorCode::LimitReached => {
                    let room = self.room_in(lite, refusal.retry_after).await;
                    Refused::full(format!("your queue is full: {}", refusal.message), room)
                }
                ErrorCode::IdempotencyConflict => {
                    let message = "this `Idempotency-Key` was used for another request";
                    // OpenAI's packages would try a 409 again.
                    Refused::invalid_as(StatusCode::UNPROCESSABLE_ENTITY, "idempotency_conflict", message)
                }
                _ => Refused::unavailable(refusal.to_string()),
            }),
            Ok(Err(error)) => Err(Refused::unavailable(error.to_string())),
            Err(_) => Err(Refused::late(unknown)),
        }
    }

    /// When a full lite topic is likely to have room: when the next of it starts, as the broker explains it.
    async fn room_in(&self, lite: &LiteName, said: Option<Duration>) -> Duration {
        let Ok(group) = topics::workers() else { return AGAIN };
        let explained = self.admin.explain(&group, lite).await.ok();
        let starts = explained.and_then(|explained| {
            let free = || explained.blockers.iter().filter_map(|blocker| blocker.until).max();
            explained.estimated_start.or_else(free).map(|starts| starts.since(explained.at))
        });
        starts.or(said).unwrap_or(AGAIN).clamp(Duration::from_secs(1), AGAIN_MAX)
    }

    /// Reads an answer from its beginning, or behind an event of it. One that has not begun is waited for.
    async fn telling(
        &self,
        id: &AnswerId,
        last: Option<MessageId>,
        place: OwnedSemaphorePermit,
    ) -> Result<Telling, Refused> {
        let lite = self.requester.resume(id.request().clone()).reply_lite().clone();
        let topic = topics::answers().map_err(|error| Refused::failed(error.to_string()))?;
        let reader = self.client.reader(topic, lite).follow(true);
        let reader = if let Some(last) = last { reader.after(last) } else { reader };
        Ok(Telling::new(reader.connect().await.map_err(|error| gone(&error))?, self.patience, place))
    }
}

async fn received(body: Body) -> Result<Bytes, Refused> {
    let late = |_| Refused::invalid_as(StatusCode::REQUEST_TIMEOUT, "slow_body", "the body comes too slowly");
    let too_large = |_| {
        let message = format!("the body was cut off, or has more than {BODY_BYTES_MAX} bytes");
        Refused::invalid_as(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
    };
    timeout(BODY_PATIENCE, to_bytes(body, BODY_BYTES_MAX)).await.map_err(late)?.map_err(too_large)
}

/// A header, which is text, and not long.
fn text_of<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, Refused> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().ok().filter(|text| text.len() <= KEY_BYTES_MAX && !text.is_empty());
    let refused = || Refused::invalid(None, format!("header `{name}` is no text of 1 to {KEY_BYTES_MAX} bytes"));
    text.map(Some).ok_or_else(refused)
}

#[expect(clippy::disallowed_methods, reason = "when a request is too old is said in the time of day")]
fn now() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::default().plus(since_1970)
}
