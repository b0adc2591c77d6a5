//! A lite topic as a stream of server-sent events, which a browser's `EventSource` reads and goes on with by itself.
//!
//! A browser connects again whenever a stream ends, with the id of the last event. So the last word of a stream that is over has an id
//! of its own, which is answered with 204: that, and refusals, end an `EventSource`. What passes by itself must be none of the two for
//! one; it is told in a stream that ends at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;
use sluicegate_protocol::{END_PROPERTY, ErrorCode, LiteId, MessageId, Offset};
use tokio::sync::OwnedSemaphorePermit;

use super::caller::Caller;
use super::fields::{Fields, Start, invalid};
use super::message::{JsonMessage, event_text};
use super::openapi::Refused;
use super::{App, Door};
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::reader::{Read, ReadMessage, ReadRequest, Reader, topic};
use crate::refusal::Refusal;
use crate::store::MessageKey;

/// The id of a stream's last word.
const OVER: &str = "over";
/// How long an `EventSource` waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);
/// How often something is said where nothing comes.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes of messages that are read for a client that may not read them, but for the last message.
pub(super) const TURN_BYTES: u64 = 16 << 10;

/// How messages are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// A body that can be is the data of its event.
    Text,
    Json,
}

/// What is still to be told, and where it comes from.
struct Feed {
    reader: Option<Reader>,
    format: Format,
    /// What marks the end of a stream ends it.
    stops_at_end: bool,
    last: Option<MessageId>,
    /// The last message was marked as the end.
    is_complete: bool,
    events: VecDeque<Event>,
    _place: OwnedSemaphorePermit,
}

/// Nothing more comes.
#[derive(Debug, Serialize)]
struct End {
    /// By a message that marks the end, not because that is all so far.
    complete: bool,
    /// The last message.
    id: Option<String>,
}

/// Messages as server-sent events, as they come.
#[utoipa::path(
    get,
    path = "/v1/topics/{topic}/stream",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("lite" = String, Query, description = "Name of the lite topic"),
        ("from" = Option<String>, Query, description = "`earliest`, `latest`, an offset, `last:N`, or `since:` and microseconds since 1970"),
        ("after" = Option<String>, Query, description = "Id of the message that was seen last"),
        ("follow" = Option<bool>, Query, description = "Wait for more; true"),
        ("past_end" = Option<bool>, Query, description = "Read on behind a message that marks the end; false"),
        ("format" = Option<String>, Query, description = "`text`, or `json` for all messages"),
        ("access_token" = Option<String>, Query, description = "The token, for who cannot send headers"),
        ("Last-Event-ID" = Option<String>, Header, description = "Id of the last event"),
    ),
    responses(
        (status = 200, description = "Events", content_type = "text/event-stream", body = String),
        (status = 204, description = "The stream is over"),
        (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused)
    )
)]
pub(super) async fn stream(
    State(door): App,
    Path(name): Path<String>,
    caller: Caller,
    fields: Fields,
    headers: HeaderMap,
) -> Response {
    match open(&door, &name, &caller, fields, &headers).await {
        Ok(response) => response,
        Err(refusal) => refused(&headers, refusal),
    }
}

async fn open(
    door: &Arc<Door>,
    name: &str,
    caller: &Caller,
    mut fields: Fields,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    // A browser cannot give an `EventSource` headers.
    caller.may_with(door, Right::Read, fields.text("access_token").as_deref())?;
    let last_seen = headers.get("last-event-id").map(|id| id.to_str().unwrap_or("?")).filter(|id| !id.is_empty());
    if last_seen == Some(OVER) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let Start { after, from } = fields.start(last_seen)?;
    let (lite, follows, past_end) = (fields.lite()?, fields.flag("follow", true)?, fields.flag("past_end", false)?);
    let format = match fields.text("format").as_deref() {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some(other) => return Err(invalid(format!("format is `{other}`, it may be text or json"))),
    };
    fields.end()?;
    let (topic, stops_at_end) = (topic(&door.broker, name)?, follows && !past_end);
    let place = door.stream_place()?;
    let request = ReadRequest { topic: Arc::clone(&topic), lite, from, follows };
    let mut feed = Feed {
        reader: None,
        format,
        stops_at_end,
        last: after,
        is_complete: false,
        events: VecDeque::new(),
        _place: place,
    };
    match Reader::attach(&door.broker, request).await {
        Ok(reader) => feed.reader = Some(reader),
        // A page that comes back learns why nothing goes on.
        Err(refusal) if last_seen.is_some() && is_final(&refusal) => feed.tell(&refusal),
        Err(refusal) => return Err(refusal),
    }
    if stops_at_end
        && feed.reader.is_some()
        && let Some(after) = after
        && ended_at(door, &topic, after)?
    {
        if last_seen.is_some() {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        feed.end(true);
    }
    Ok(respond(feed))
}

/// A refusal. To an `EventSource` one that passes is an event, after which it connects again.
pub(super) fn refused(headers: &HeaderMap, refusal: Refusal) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let takes_events = accepts.is_some_and(|accept| accept.contains("text/event-stream"));
    let Some(retry_after) = refusal.retry_after.filter(|_| takes_events) else { return refusal.into_response() };
    let event = passing(&refusal).retry(retry_after.max(RETRY));
    Sse::new(stream::iter([Ok::<_, Infallible>(event)])).into_response()
}

/// The stream breaks off and may go on.
fn passing(refusal: &Refusal) -> Event {
    Event::default().event("unavailable").json_data(refusal.to_json()).expect("a refusal is JSON")
}

/// What comes next is gone for good, or has no place any more.
fn is_final(refusal: &Refusal) -> bool {
    matches!(refusal.code, ErrorCode::Trimmed | ErrorCode::Reclaimed | ErrorCode::UnknownTopic | ErrorCode::UnknownLite)
}

/// Whether this message marks the end of its stream. One that is gone marks nothing.
fn ended_at(door: &Door, topic: &TopicSpec, at: MessageId) -> Result<bool, Refusal> {
    let key = MessageKey { shard: topic.shard, lite: at.lite_id, offset: at.offset };
    let header = crate::message::header(&door.broker, &key)?;
    Ok(header.is_some_and(|header| header.properties.contains_key(END_PROPERTY)))
}

fn respond(mut feed: Feed) -> Response {
    feed.events.push_front(Event::default().retry(RETRY));
    let events = stream::unfold(feed, |mut feed| async move {
        let event = feed.next().await?;
        Some((Ok::<_, Infallible>(event), feed))
    });
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT));
    // A proxy that gathers a response would keep events to itself.
    ([(HeaderName::from_static("x-accel-buffering"), "no")], events).into_response()
}

impl Feed {
    /// The next event; none when nothing more comes.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let reader = self.reader.as_mut()?;
            match read(reader).await {
                Ok(Read::Messages(lite, messages)) => self.take(lite, messages),
                Ok(Read::Nothing) => {}
                Ok(Read::End) => self.end(self.is_complete),
                Err(refusal) => self.tell(&refusal),
            }
        }
    }

    fn take(&mut self, lite: LiteId, messages: Vec<ReadMessage>) {
        for message in messages {
            self.is_complete = message.0.properties.contains_key(END_PROPERTY);
            self.last = Some(MessageId { lite_id: lite, offset: Offset(message.0.offset) });
            self.events.push_back(event(self.format, lite, message));
            if self.is_complete && self.stops_at_end {
                return self.end(true);
            }
        }
    }

    fn end(&mut self, complete: bool) {
        let end = End { complete, id: self.last.map(|id| id.to_string()) };
        self.over("end", &end);
    }

    /// The reader has no more: why.
    fn tell(&mut self, refusal: &Refusal) {
        if is_final(refusal) {
            return self.over(refusal.code.as_str(), &refusal.to_json());
        }
        self.events.push_back(passing(refusal));
        self.reader = None;
    }

    /// The last word.
    fn over(&mut self, name: &str, said: &impl Serialize) {
        let event = Event::default().event(name).id(OVER);
        self.events.push_back(event.json_data(said).expect("what is said is JSON"));
        self.reader = None;
    }
}

/// What comes next; waits for it.
pub(super) async fn read(reader: &mut Reader) -> Result<Read, Refusal> {
    while !reader.has_news()? {
        reader.changed().await?;
    }
    reader.read(TURN_BYTES).await
}

fn event(format: Format, lite: LiteId, message: ReadMessage) -> Event {
    let offset = Offset(message.0.offset);
    let event = Event::default().id(MessageId { lite_id: lite, offset }.to_string());
    let json = match (format, event_text(&message)) {
        (Format::Text, Some(text)) => return event.data(text),
        (Format::Text, None) => event.event("json"),
        (Format::Json, _) => event,
    };
    json.json_data(JsonMessage::new(lite, message)).expect("a message is JSON")
}
