//! A message in JSON.

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;
use sluicegate_protocol::{LiteId, MessageId, Offset, Timestamp};
use utoipa::ToSchema;

use crate::reader::ReadMessage;

/// A message as pages and events show it. Of `body`, `body_base64` and `large_body_bytes` it has one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct JsonMessage {
    /// To go on after it.
    pub(super) id: String,
    #[schema(value_type = u64)]
    pub(super) offset: Offset,
    /// In microseconds since 1970.
    #[schema(value_type = u64)]
    published_at: Timestamp,
    priority: u32,
    cost: u64,
    properties: BTreeMap<String, String>,
    /// If it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// If it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// It is too large to be here, and has a route of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    large_body_bytes: Option<u64>,
}

impl JsonMessage {
    pub(super) fn new(lite: LiteId, (message, body): ReadMessage) -> Self {
        let offset = Offset(message.offset);
        let mut json = Self {
            id: MessageId { lite_id: lite, offset }.to_string(),
            offset,
            published_at: Timestamp(message.published_at_us),
            priority: message.priority,
            cost: message.cost,
            properties: message.properties,
            body: None,
            body_base64: None,
            large_body_bytes: None,
        };
        match (message.large_body_bytes, text(&body)) {
            (0, Some(text)) => json.body = Some(text.to_owned()),
            (0, None) => json.body_base64 = Some(base64::engine::general_purpose::STANDARD.encode(&body)),
            (bytes, _) => json.large_body_bytes = Some(bytes),
        }
        json
    }
}

fn text(body: &Bytes) -> Option<&str> {
    std::str::from_utf8(body).ok()
}

/// The body, if the data of an event can be this: text that is not empty, which a browser would keep to itself, without a carriage
/// return, which would arrive as a line feed.
pub(super) fn event_text((message, body): &ReadMessage) -> Option<&str> {
    let text = text(body).filter(|_| message.large_body_bytes == 0)?;
    (!text.is_empty() && !text.contains('\r')).then_some(text)
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::wire;

    use super::*;

    fn message(body: &'static [u8]) -> ReadMessage {
        (wire::ReadMessage { offset: 3, ..Default::default() }, Bytes::from_static(body))
    }

    #[test]
    fn only_what_arrives_as_it_is_is_the_data_of_an_event() {
        assert_eq!(event_text(&message(b"two\nlines")), Some("two\nlines"));
        assert_eq!(
            [&b""[..], b"a\r\nb", b"\xff"].map(|body| event_text(&message(body)).map(str::to_owned)),
            [const { None }; 3]
        );
        let large = (wire::ReadMessage { large_body_bytes: 1 << 20, ..Default::default() }, Bytes::new());
        assert_eq!(event_text(&large), None);
    }

    #[test]
    fn a_body_is_text_or_base64_or_elsewhere() {
        let shown = |message| serde_json::to_value(JsonMessage::new(LiteId(7), message)).unwrap();
        let text = shown(message(b"hi"));
        assert_eq!((&text["id"], &text["body"], text.get("body_base64")), (&"7-3".into(), &"hi".into(), None));
        assert_eq!(shown(message(b"\xff\xfe"))["body_base64"], "//4=");
        let large = shown((wire::ReadMessage { large_body_bytes: 1 << 20, ..Default::default() }, Bytes::new()));
        assert_eq!((&large["large_body_bytes"], large.get("body")), (&(1 << 20).into(), None));
    }
}
