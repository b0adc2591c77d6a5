//! Messages as they are stored.

use axum::Json;
use axum::extract::{Path, State};
use base64::Engine as _;
use sluicegate_protocol::Offset;
use sluicegate_protocol::admin::{BodyPreview, LiteTopic, MessageState, Peek, PeekedMessage};
use sluicegate_protocol::limits::{PEEK_BODY_BYTES_MAX, PEEK_MESSAGES_DEFAULT, PEEK_MESSAGES_MAX};

use super::lite::{OfLite, operate};
use super::{App, Params, page, topics};
use crate::refusal::Refusal;
use crate::shard::{ShardId, Verb};
use crate::store::{ChunkKey, Key as _, MessageKey, Scan, Store, StoreError, StoredMessage};

/// Which messages.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Messages {
    lite: String,
    from: Option<Offset>,
    limit: Option<u32>,
}

pub(super) async fn messages(
    State(broker): App,
    Path(group): Path<String>,
    Params(Messages { lite, from, limit }): Params<Messages>,
) -> Result<Json<Peek>, Refusal> {
    let limit = page::in_range("limit", limit.unwrap_or(PEEK_MESSAGES_DEFAULT), PEEK_MESSAGES_MAX)?;
    let Json(shown) = operate(&broker, &group, &OfLite { lite }, Verb::Show).await?;
    let lite = shown.lite_topic;
    let shard = topics::find(&broker, lite.topic.as_str())?.shard;
    page::read(&broker, move |store| read(store, shard, &lite, from, limit)).await.map(Json)
}

fn read(
    store: &Store,
    shard: ShardId,
    lite: &LiteTopic,
    from: Option<Offset>,
    limit: usize,
) -> Result<Peek, StoreError> {
    let from = from.unwrap_or(lite.settled_up_to).max(lite.first_kept);
    let first = MessageKey { shard, lite: lite.lite_id, offset: from }.encode();
    let (mut messages, mut bodies, mut next) = (Vec::new(), Vec::new(), None);
    store.scan(&MessageKey::of_lite(shard, lite.lite_id), &first, |key: MessageKey, message: StoredMessage| {
        if key.offset >= lite.next_offset {
            return Scan::Done;
        }
        if messages.len() == limit {
            next = Some(key.offset);
            return Scan::Done;
        }
        bodies.push(message.header.body);
        messages.push(peeked(lite, key.offset, message));
        Scan::More
    })?;
    for (message, body) in messages.iter_mut().zip(bodies) {
        if let Some(body) = body {
            // It may have been settled meanwhile; then there is nothing to show.
            let chunk = store.get_bytes(&ChunkKey { shard, body: body.id, number: 0 })?;
            message.body = chunk.map_or_else(|| preview(&[]), |chunk| preview(&chunk));
        }
    }
    Ok(Peek { messages, next })
}

fn peeked(lite: &LiteTopic, offset: Offset, message: StoredMessage) -> PeekedMessage {
    let is_settled = offset < lite.settled_up_to || lite.settled_ahead.contains(&offset);
    let is_leased = lite.leases.iter().any(|lease| lease.offset == offset);
    PeekedMessage {
        offset,
        state: match (is_settled, is_leased) {
            (true, _) => MessageState::Settled,
            (false, true) => MessageState::Leased,
            (false, false) => MessageState::Waiting,
        },
        published_at: message.header.published_at(),
        priority: message.header.priority(),
        cost: message.header.cost,
        deliver_at: message.header.deliver_at_us.map(sluicegate_protocol::Timestamp),
        expires_at: message.header.expires_at_us.map(sluicegate_protocol::Timestamp),
        properties: message.header.properties,
        body_bytes: message.header.body.map_or(message.body.len() as u64, |body| body.bytes),
        body: preview(&message.body),
    }
}

fn preview(body: &[u8]) -> BodyPreview {
    let shown = &body[..body.len().min(PEEK_BODY_BYTES_MAX)];
    match std::str::from_utf8(shown) {
        Ok(text) => BodyPreview::Text(text.to_owned()),
        // The cut may go through a character.
        Err(error) if error.error_len().is_none() && shown.len() < body.len() => {
            BodyPreview::Text(String::from_utf8_lossy(&shown[..error.valid_up_to()]).into_owned())
        }
        Err(_) => BodyPreview::Base64(base64::engine::general_purpose::STANDARD.encode(shown)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_shown_as_text_up_to_a_whole_character_or_as_base64() {
        assert_eq!(preview(b"hello"), BodyPreview::Text("hello".into()));
        assert_eq!(preview(&[0xff, 0xfe]), BodyPreview::Base64("//4=".into()));
        let long = "x".repeat(PEEK_BODY_BYTES_MAX - 1) + "é and more";
        assert_eq!(preview(long.as_bytes()), BodyPreview::Text("x".repeat(PEEK_BODY_BYTES_MAX - 1)));
        assert_eq!(preview("é".as_bytes().split_last().unwrap().1), BodyPreview::Base64("ww==".into()));
    }
}
