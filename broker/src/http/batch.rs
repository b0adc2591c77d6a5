//! Many small messages in one request, each with an answer of its own.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sluicegate_protocol::admin::ErrorBody;
use sluicegate_protocol::{ErrorCode, Timestamp};
use utoipa::ToSchema;

use super::App;
use super::caller::Caller;
use super::draft::Draft;
use super::fields::{Fields, invalid};
use super::openapi::Refused;
use super::publish::Receipt;
use super::receive::Incoming;
use crate::catalog::TopicSpec;
use crate::config::Right;
use crate::connection::producer::request;
use crate::refusal::Refusal;
use crate::shard::{NewBody, PublishRequest};

/// Bytes of a batch, as it is sent.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;
/// Messages of a batch.
const BATCH_MESSAGES_MAX: usize = 1_000;

/// A message of a batch.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BatchMessage {
    lite: String,
    body: Option<String>,
    body_base64: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
    priority: Option<u32>,
    cost: Option<u64>,
    tenant: Option<String>,
    deliver_at_us: Option<u64>,
    delay_ms: Option<u64>,
    expires_at_us: Option<u64>,
    expires_in_ms: Option<u64>,
    idempotency_key: Option<String>,
    #[serde(default)]
    end: bool,
}

/// What became of all of them, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct BatchResults {
    results: Vec<BatchResult>,
}

/// What became of one message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum BatchResult {
    Published(Receipt),
    Refused {
        #[schema(value_type = Refused)]
        error: ErrorBody,
    },
}

/// Publish many small messages: an array, or as `application/x-ndjson` a message on each line.
#[utoipa::path(
    post,
    path = "/v1/topics/{topic}/messages/batch",
    params(("topic" = String, Path, description = "Name of the topic")),
    request_body(content = Vec<BatchMessage>, content_type = "application/json"),
    responses((status = 200, description = "What became of each", body = BatchResults), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn publish_batch(
    State(door): App,
    Path(topic): Path<String>,
    caller: Caller,
    fields: Fields,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<BatchResults>, Refusal> {
    caller.may(&door, Right::Publish)?;
    fields.end()?;
    let topic = door.topic(&topic).await?;
    let _place = door.batch_place()?;
    let mut incoming = Incoming::new(body);
    let bytes = incoming.whole(BATCH_BYTES_MAX).await?;
    let messages = parse(&bytes, &headers)?;
    let now = door.broker.clock.now();
    let mut results: Vec<Option<Result<Receipt, Refusal>>> = Vec::with_capacity(messages.len());
    let mut requests = Vec::with_capacity(messages.len());
    for message in messages {
        match message.request(&topic, now) {
            Ok(request) => {
                requests.push(request);
                results.push(None);
            }
            Err(refusal) => results.push(Some(Err(refusal))),
        }
    }
    let mut published = door.publish_all(&topic, requests, bytes.len()).await?.into_iter();
    let told = |result: Option<Result<Receipt, Refusal>>| {
        let result = result
            .unwrap_or_else(|| published.next().expect("each has an answer").map(|receipt| Receipt::new(&receipt)));
        result.map_or_else(|refusal| BatchResult::Refused { error: refusal.to_json() }, BatchResult::Published)
    };
    Ok(Json(BatchResults { results: results.into_iter().map(told).collect() }))
}

/// An array, or a message on each line.
fn parse(bytes: &[u8], headers: &HeaderMap) -> Result<Vec<BatchMessage>, Refusal> {
    let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let messages: Vec<BatchMessage> = match kind.split(';').next().unwrap_or_default().trim() {
        "application/json" => serde_json::from_slice(bytes).map_err(|error| invalid(format!("the batch: {error}")))?,
        "application/x-ndjson" | "application/jsonl" => {
            let lines = bytes.split(|&byte| byte == b'\n').enumerate();
            let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
            let parse = |(at, line): (usize, &[u8])| {
                serde_json::from_slice(line).map_err(|error| invalid(format!("line {} of the batch: {error}", at + 1)))
            };
            lines.map(parse).collect::<Result<_, _>>()?
        }
        _ => {
            let rule = "a batch is application/json, an array, or application/x-ndjson, a message on each line";
            return Err(invalid(rule).detail("status", "415"));
        }
    };
    if messages.len() > BATCH_MESSAGES_MAX {
        let (max, count) = (BATCH_MESSAGES_MAX as u64, messages.len() as u64);
        return Err(Refusal::limit(ErrorCode::TooLarge, "messages of a batch", max, count));
    }
    Ok(messages)
}

impl BatchMessage {
    fn request(self, topic: &TopicSpec, now: Timestamp) -> Result<PublishRequest, Refusal> {
        let body = match (self.body, self.body_base64) {
            (Some(_), Some(_)) => return Err(invalid("body and body_base64 say the same thing twice")),
            (Some(text), None) => Bytes::from(text),
            (None, Some(text)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(text);
                bytes.map_err(|error| invalid(format!("body_base64: {error}")))?.into()
            }
            (None, None) => Bytes::new(),
        };
        let draft = Draft {
            lite: self.lite,
            properties: self.properties,
            priority: self.priority,
            cost: self.cost,
            tenant: self.tenant,
            deliver_at: (self.deliver_at_us, self.delay_ms),
            expires_at: (self.expires_at_us, self.expires_in_ms),
            idempotency_key: self.idempotency_key,
            end: self.end,
        };
        request(draft.message(topic, now)?, NewBody::Whole(body))
    }
}
