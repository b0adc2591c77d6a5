//! Messages of a lite topic, a page at a time.

use axum::Json;
use axum::extract::{Path, State};
use serde::Serialize;
use sluicegate_protocol::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use sluicegate_protocol::{LiteId, read_credit};
use utoipa::ToSchema;

use super::App;
use super::caller::Caller;
use super::fields::Fields;
use super::message::JsonMessage;
use super::openapi::Refused;
use crate::admin::page;
use crate::config::Right;
use crate::reader::{Read, ReadRequest, Reader, topic};
use crate::refusal::Refusal;

/// Bytes of a page's messages, but for the last message.
const PAGE_BYTES_MAX: u64 = 1 << 20;

/// Some messages, and how to go on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessagePage {
    /// The life that they are of.
    #[schema(value_type = Option<String>)]
    lite_id: Option<LiteId>,
    messages: Vec<JsonMessage>,
    /// For the parameter `after` of the next page; none when there is no message here.
    next: Option<String>,
    /// There were more when this was asked for.
    more: bool,
}

/// A page of messages.
#[utoipa::path(
    get,
    path = "/v1/topics/{topic}/messages",
    params(
        ("topic" = String, Path, description = "Name of the topic"),
        ("lite" = String, Query, description = "Name of the lite topic"),
        ("from" = Option<String>, Query, description = "`earliest`, `latest`, an offset, `last:N`, or `since:` and microseconds since 1970"),
        ("after" = Option<String>, Query, description = "Id of the message that was seen last"),
        ("limit" = Option<u32>, Query, description = "1 to 1,000; 100"),
    ),
    responses((status = 200, description = "Some messages, and how to go on", body = MessagePage), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn messages(
    State(door): App,
    Path(name): Path<String>,
    caller: Caller,
    mut fields: Fields,
) -> Result<Json<MessagePage>, Refusal> {
    caller.may(&door, Right::Read)?;
    let topic = topic(&door.broker, &name)?;
    let (lite, start) = (fields.lite()?, fields.start(None)?);
    let limit = fields.number("limit")?.unwrap_or(PAGE_ROWS_DEFAULT);
    fields.end()?;
    let limit = page::in_range("limit", limit, PAGE_ROWS_MAX)?;
    let request = ReadRequest { topic, lite, from: start.from, follows: false };
    let mut reader = Reader::attach(&door.broker, request).await?;
    let (mut messages, mut bytes, mut more) = (Vec::new(), 0, false);
    let lite_id = reader.position().map(|(lite, _)| lite);
    loop {
        if messages.len() == limit || bytes >= PAGE_BYTES_MAX {
            more |= !reader.is_at_end();
            break;
        }
        let batch = match reader.read(PAGE_BYTES_MAX - bytes).await {
            Ok(Read::Messages(_, batch)) => batch,
            Ok(Read::Nothing) => continue,
            Ok(Read::End) => break,
            // What is here is a page still; the next one is told.
            Err(_) if !messages.is_empty() => {
                more = true;
                break;
            }
            Err(refusal) => return Err(refusal),
        };
        for message in batch {
            if messages.len() == limit || bytes >= PAGE_BYTES_MAX {
                more = true;
                break;
            }
            bytes += read_credit(&message.0);
            messages.push(JsonMessage::new(lite_id.expect("its messages have one"), message));
        }
    }
    let next = messages.last().map(|message: &JsonMessage| message.id.clone());
    Ok(Json(MessagePage { lite_id, messages, next, more }))
}
