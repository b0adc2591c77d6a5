//! A session takes messages: it says how many, and waits until there is one, or for so long.
//!
//! What its shard gave for it is told message by message, as fast as the client reads. What cannot be told any more goes back.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use sluicegate_protocol::{ErrorCode, LiteId, wire};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use utoipa::ToSchema;

use super::caller::Caller;
use super::delivery::{DeliveryId, JsonDelivery};
use super::fields::Fields;
use super::message::JsonMessage;
use super::openapi::Refused;
use super::session::Whose;
use super::{App, Door};
use crate::admin::page::in_range;
use crate::broker::send;
use crate::config::Right;
use crate::refusal::Refusal;
use crate::shard::{Command, DeliveryOrder, ToConsumer, Visit, unknown_session};
use crate::store::MessageKey;

/// Messages that are taken at once.
const RECEIVE_MAX: u32 = 256;
/// How long a message, or a reply, is waited for unless somebody says otherwise.
const WAIT: Duration = Duration::from_secs(20);
/// The longest such wait: less than the patience of most proxies.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// What a session is told beside its deliveries, and what does not fit is dropped.
const OTHER_WORDS_MAX: usize = 1_024;
/// Bytes of deliveries that are made ready for a client that may not read them, but for the last one.
const TURN_BYTES: usize = 64 << 10;

/// What a session takes, and what else it is told.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Received {
    deliveries: Vec<JsonDelivery>,
    /// Lite topics that a newer session of an exclusive group took over.
    lost: Vec<String>,
    /// Lives that ended of lite topics that the session takes by name.
    ended: Vec<Ended>,
}

/// The life of a lite topic, which is over.
#[derive(Debug, Serialize, ToSchema)]
struct Ended {
    lite: String,
    #[schema(value_type = String)]
    lite_id: LiteId,
}

/// Deliveries that nobody has been told yet. They go back when this is dropped.
struct Leased {
    whose: Whose,
    orders: VecDeque<DeliveryOrder>,
}

/// What a shard gave for one request.
struct Taken {
    leased: Leased,
    lost: Vec<wire::Lost>,
    /// Why there is no more.
    refusal: Option<Refusal>,
}

/// Take messages; waits until there is one, or for so long.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/sessions/{session}/receive",
    params(
        ("group" = String, Path, description = "Name of the group"),
        ("session" = String, Path, description = "Id of the session"),
        ("max" = Option<u32>, Query, description = "Messages, 1 to 256; 1"),
        ("wait_ms" = Option<u32>, Query, description = "How long to wait for the first, at most 60,000; 20,000"),
    ),
    responses((status = 200, description = "Some, or none", body = Received), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn receive(
    State(door): App,
    Path((group, session)): Path<(String, String)>,
    caller: Caller,
    mut fields: Fields,
) -> Result<Response, Refusal> {
    caller.may(&door, Right::Consume)?;
    let (max, wait) = (fields.number("max")?.unwrap_or(1), wait(&mut fields, "wait_ms")?);
    fields.end()?;
    let max = in_range("max", max, RECEIVE_MAX)?;
    let whose = Whose::of(&door, &group, &session)?;
    let (taken, answer) = oneshot::channel();
    let stream = door.broker.stream_number();
    // A client that goes away ends its request, and what was given for it must go back all the same.
    tokio::spawn(take(whose, stream, max, wait, taken));
    let taken = answer.await.map_err(|_| crate::broker::stopping())??;
    if let Some(refusal) = taken.refusal.filter(|_| taken.leased.orders.is_empty() && taken.lost.is_empty()) {
        return Err(refusal);
    }
    Ok(respond(door, taken.leased, &taken.lost))
}

/// So many milliseconds as a query says, or [`WAIT`].
pub(super) fn wait(fields: &mut Fields, key: &str) -> Result<Duration, Refusal> {
    let Some(millis) = fields.number(key)? else { return Ok(WAIT) };
    let wait = Duration::from_millis(millis);
    let problem = || super::fields::invalid(format!("{key} is {millis}, at most {} are allowed", WAIT_MAX.as_millis()));
    (wait <= WAIT_MAX).then_some(wait).ok_or_else(problem)
}

type Answer = oneshot::Sender<Result<Taken, Refusal>>;

async fn take(whose: Whose, stream: u64, max: usize, wait: Duration, mut answer: Answer) {
    let until = Instant::now() + wait;
    let (outbox, mut inbox) = mpsc::channel(max + OTHER_WORDS_MAX);
    let (group, session) = (whose.group.id, whose.session);
    let credit = u32::try_from(max).expect("it is in range");
    let visit = |reply| Command::Visit(Visit { group, session, stream, credit, outbox, reply });
    if let Err(refusal) = whose.ask(visit).await {
        // The client may have gone.
        let _ = answer.send(Err(refusal));
        return;
    }
    let mut taken = Taken { leased: Leased { whose, orders: VecDeque::new() }, lost: Vec::new(), refusal: None };
    tokio::select! {
        first = inbox.recv() => match first {
            Some(first) => taken.hear(first),
            // It was closed while it waited.
            None => taken.refusal = Some(unknown_session()),
        },
        () = sleep_until(until) => {}
        () = answer.closed() => {}
    }
    // No more from now on; what was given before is on its way.
    let detach = Command::Detach { group, session, stream, orderly: false };
    // A shard that is gone needs no detach.
    let _ = send(&taken.leased.whose.shard, detach).await;
    while let Some(word) = inbox.recv().await {
        taken.hear(word);
    }
    // What a client that has gone does not take, goes back.
    let _ = answer.send(Ok(taken));
}

impl Taken {
    fn hear(&mut self, word: ToConsumer) {
        match word {
            ToConsumer::Deliveries(orders) => {
                // Rows are read when their turn comes: until then they would keep memory from others.
                self.leased.orders.extend(orders.into_iter().map(|order| DeliveryOrder { row: None, ..order }));
            }
            ToConsumer::Lost(lost) => self.lost.push(lost),
            ToConsumer::Failed(refusal) => self.refusal = Some(refusal),
            ToConsumer::Draining => {
                let refusal = Refusal::new(ErrorCode::Unavailable, "the broker is draining");
                self.refusal = Some(refusal.retry_after(Duration::from_secs(1)));
            }
            // Nothing else is asked here; that a request was cancelled is told when its lease is extended.
            ToConsumer::Settled(_)
            | ToConsumer::Extended(_)
            | ToConsumer::Subscribed(_)
            | ToConsumer::Cancel(_)
            | ToConsumer::Refused(..) => {}
        }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        if self.orders.is_empty() {
            return;
        }
        let leases = self.orders.drain(..).map(|order| DeliveryId::of(&order).lease()).collect();
        let Whose { group, session, shard, .. } = self.whose.clone();
        let back = Command::TakeBack { group: group.id, session, leases };
        // A shard that is gone needs no word.
        tokio::spawn(async move { shard.send(back).await.is_ok() });
    }
}

/// What is still to be told.
struct Telling {
    door: Arc<Door>,
    leased: Leased,
    /// What is behind the deliveries; none when it is told.
    rest: Option<String>,
    begun: bool,
}

fn respond(door: Arc<Door>, leased: Leased, lost: &[wire::Lost]) -> Response {
    let names: Vec<_> = lost.iter().flat_map(|lost| &lost.lites).collect();
    let ended = lost.iter().flat_map(|lost| &lost.ended);
    let ended: Vec<_> = ended.map(|life| Ended { lite: life.lite.clone(), lite_id: LiteId(life.lite_id) }).collect();
    let json = |value: serde_json::Result<String>| value.expect("names are JSON");
    let mut rest = String::from("]");
    // A string takes everything.
    let _ = write!(rest, ",\"lost\":{}", json(serde_json::to_string(&names)));
    let _ = write!(rest, ",\"ended\":{}}}", json(serde_json::to_string(&ended)));
    let telling = Telling { door, leased, rest: Some(rest), begun: false };
    let body = Body::from_stream(stream::try_unfold(telling, |telling| future::ready(telling.next())));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

impl Telling {
    /// The next bytes. A store that fails meanwhile breaks the answer off.
    fn next(mut self) -> Result<Option<(Bytes, Self)>, Refusal> {
        let Some(rest) = self.rest.take() else { return Ok(None) };
        let mut text = Vec::new();
        if !self.begun {
            text.extend_from_slice(b"{\"deliveries\":[");
        }
        while text.len() < TURN_BYTES {
            let Some(order) = self.leased.orders.pop_front() else {
                text.extend_from_slice(rest.as_bytes());
                return Ok(Some((text.into(), self)));
            };
            let key = MessageKey { shard: self.leased.whose.shard_id, lite: order.lite, offset: order.offset };
            // The lease of one that is gone ran out, and another session settled the message.
            let Some(message) = crate::message::read(&self.door.broker, &key)? else { continue };
            if self.begun {
                text.push(b',');
            }
            self.begun = true;
            let delivery = JsonDelivery::new(&order, JsonMessage::new(order.lite, message));
            serde_json::to_writer(&mut text, &delivery).expect("a delivery is JSON");
        }
        self.rest = Some(rest);
        Ok(Some((text.into(), self)))
    }
}
