//! A message that was read.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluicegate_protocol::{END_PROPERTY, LiteId, MessageId, Offset, Timestamp, wire};

use crate::body::{BodyReader, MessageBody};

/// A message of a lite topic, read by a [`Reader`](crate::Reader). It is not leased, and nothing is to be settled.
#[derive(Debug)]
pub struct ReadMessage {
    pub(super) header: wire::ReadMessage,
    lite_id: LiteId,
    body: MessageBody,
}

impl ReadMessage {
    pub(super) fn new(header: wire::ReadMessage, lite_id: LiteId, body: MessageBody) -> Self {
        Self { header, lite_id, body }
    }

    /// Names the message for good, as text too: a reader begins [`after`](crate::ReaderBuilder::after) it.
    pub fn id(&self) -> MessageId {
        MessageId { lite_id: self.lite_id, offset: self.offset() }
    }

    /// The lite topic's life that the message belongs to.
    pub fn lite_id(&self) -> LiteId {
        self.lite_id
    }

    /// Position in the lite topic.
    pub fn offset(&self) -> Offset {
        Offset(self.header.offset)
    }

    /// When the broker took the message, by its clock.
    pub fn published_at(&self) -> Timestamp {
        Timestamp(self.header.published_at_us)
    }

    /// 0 to 9, 9 first.
    pub fn priority(&self) -> u8 {
        u8::try_from(self.header.priority).unwrap_or(u8::MAX)
    }

    /// Estimated cost in the unit of the groups.
    pub fn cost(&self) -> u64 {
        self.header.cost
    }

    /// All properties.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.header.properties
    }

    /// One property.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.header.properties.get(key).map(String::as_str)
    }

    /// Whether it marks the [end](crate::Message::end) of a stream.
    pub fn is_end(&self) -> bool {
        self.header.properties.contains_key(END_PROPERTY)
    }

    /// The payload. A clone of it is cheap, and keeps the read buffer that it came in.
    ///
    /// # Panics
    /// The body is streamed: only where the reader was told to
    /// [`stream_bodies_above`](crate::ReaderBuilder::stream_bodies_above) its size.
    pub fn body(&self) -> &Bytes {
        self.body.here()
    }

    /// Bytes of the body, wherever it is.
    pub fn body_bytes(&self) -> u64 {
        self.body.bytes()
    }

    /// Whether the body is not here, but read by [`body_reader`](Self::body_reader).
    pub fn is_body_streamed(&self) -> bool {
        self.body.is_away()
    }

    /// Reads the body part by part, from its beginning, whether it is here or comes while it is read.
    pub fn body_reader(&self) -> BodyReader {
        self.body.reader()
    }

    /// The message with its body, which was brought here.
    pub(super) fn with_body(self, body: Bytes) -> Self {
        Self { body: MessageBody::Here(body), ..self }
    }
}
