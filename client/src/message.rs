//! What a producer sends.

use bytes::Bytes;
use sluicegate_protocol::limits::{
    BODY_BYTES_MAX, CHUNK_BYTES_MAX, COST_MAX, PRIORITY_MAX, PROPERTIES_MAX, PROPERTY_BYTES_MAX,
};
use sluicegate_protocol::{
    END_PROPERTY, ErrorCode, IdempotencyKey, InvalidIdempotencyKey, InvalidName, LiteName, Timestamp, wire,
};

use crate::refusal::Refusal;

/// What a message occupies beside body, name and properties, roughly.
const OVERHEAD_BYTES: usize = 64;

/// A message for one lite topic, built by chaining.
///
/// ```
/// use sluicegate_client::Message;
///
/// let message = Message::to("user-42/session-1")?
///     .body(r#"{"prompt": "hello"}"#)
///     .property("model", "small")
///     .priority(7)
///     .cost(1_200);
/// # Ok::<(), sluicegate_client::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Message {
    pub(crate) header: wire::Publish,
    pub(crate) body: Bytes,
}

impl Message {
    /// An empty message for the lite topic of this name.
    ///
    /// # Errors
    /// [`InvalidName`] names the rule that the name broke.
    pub fn to(lite: &str) -> Result<Self, InvalidName> {
        LiteName::parse(lite).map(|lite| Self::to_lite(&lite))
    }

    /// An empty message for a lite topic whose name was parsed before.
    pub fn to_lite(lite: &LiteName) -> Self {
        Self { header: wire::Publish { lite: lite.as_str().into(), ..Default::default() }, body: Bytes::new() }
    }

    /// The payload; at most the broker's `max_body_bytes`, 64 MiB unless it says otherwise. More than 256 KiB travel on a stream
    /// of their own, see [`Producer`](crate::Producer).
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Adds a property; at most 64, with 16 KiB of keys and values together.
    pub fn property(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.header.properties.insert(key.into(), value.into());
        self
    }

    /// Marks the end of a stream: nothing more is to be expected in its lite topic. A [`Reader`](crate::Reader) that follows stops
    /// behind it. It is the property [`END_PROPERTY`](crate::END_PROPERTY), and the message may have a body like any other.
    pub fn end(self) -> Self {
        self.property(END_PROPERTY, "true")
    }

    /// Priority from 0 to 9, 9 first; default 4.
    pub fn priority(mut self, priority: u8) -> Self {
        self.header.priority = Some(u32::from(priority));
        self
    }

    /// Estimated cost in the group's cost unit, for example tokens; default 1.
    pub fn cost(mut self, cost: u64) -> Self {
        self.header.cost = Some(cost);
        self
    }

    /// Holds the message, and what follows it in its lite topic, until this time.
    pub fn deliver_at(mut self, deliver_at: Timestamp) -> Self {
        self.header.deliver_at_us = Some(deliver_at.as_micros());
        self
    }

    /// After this time the message is never delivered.
    pub fn expires_at(mut self, expires_at: Timestamp) -> Self {
        self.header.expires_at_us = Some(expires_at.as_micros());
        self
    }

    /// Names the message, 1 to 128 bytes: within the topic's window (default 10 min) its lite topic takes one message under a
    /// key, whichever producer sends it. The same body again gets the first one's receipt, marked as a duplicate; properties and
    /// all else do not count. Another body is refused with `idempotency_conflict`.
    ///
    /// A producer's own resends need no key. It is for programs that lose their producer, or are asked for the same thing twice.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.header.idempotency_key = Some(key.into());
        self
    }

    /// The lite topic that it is for.
    pub(crate) fn lite(&self) -> Result<LiteName, InvalidName> {
        LiteName::parse(&self.header.lite)
    }

    /// Whether the body is too large to travel with the message.
    pub(crate) fn is_large(&self) -> bool {
        self.body.len() > CHUNK_BYTES_MAX
    }

    /// Bytes that the message occupies while it is unacknowledged.
    pub(crate) fn size_bytes(&self) -> usize {
        let key_bytes = self.header.idempotency_key.as_ref().map_or(0, String::len);
        self.body.len() + self.header.lite.len() + self.property_bytes() + key_bytes + OVERHEAD_BYTES
    }

    /// Refuses here what the broker would refuse, because some of it would end the whole stream there.
    pub(crate) fn check(&self, body_bytes: u64) -> Result<(), Refusal> {
        let at_most = |what: &str, value: u64, max: u64, code: ErrorCode| match value > max {
            true => Err(Refusal::new(code, format!("{what} {value}, at most {max} allowed"))),
            false => Ok(()),
        };
        let priority = self.header.priority.unwrap_or_default();
        let (properties, bytes) = (self.header.properties.len() as u64, self.property_bytes() as u64);
        at_most("body bytes", body_bytes, BODY_BYTES_MAX, ErrorCode::TooLarge)?;
        at_most("properties", properties, PROPERTIES_MAX as u64, ErrorCode::TooLarge)?;
        at_most("property bytes", bytes, PROPERTY_BYTES_MAX as u64, ErrorCode::TooLarge)?;
        at_most("priority", priority.into(), PRIORITY_MAX.into(), ErrorCode::InvalidArgument)?;
        if let Some(Err(error)) = self.header.idempotency_key.as_deref().map(IdempotencyKey::parse) {
            let code = match error {
                InvalidIdempotencyKey::Empty => ErrorCode::InvalidArgument,
                InvalidIdempotencyKey::TooLong { .. } => ErrorCode::TooLarge,
            };
            return Err(Refusal::new(code, error.to_string()));
        }
        match self.header.cost {
            Some(cost) if cost > COST_MAX => {
                Err(Refusal::new(ErrorCode::InvalidArgument, format!("cost {cost}, at most {COST_MAX} allowed")))
            }
            _ => Ok(()),
        }
    }

    fn property_bytes(&self) -> usize {
        self.header.properties.iter().map(|(key, value)| key.len() + value.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(message: &Message) -> String {
        message.check(message.body.len() as u64).unwrap_err().to_string()
    }

    #[test]
    fn a_message_at_its_limits_passes_and_one_beyond_is_refused_with_the_limit() {
        let message = || Message::to("a").unwrap();
        assert_eq!(message().priority(9).cost(COST_MAX).check(BODY_BYTES_MAX), Ok(()));
        assert_eq!(
            message().check(BODY_BYTES_MAX + 1).unwrap_err().to_string(),
            "too_large: body bytes 268435457, at most 268435456 allowed"
        );
        assert_eq!(refusal(&message().priority(10)), "invalid_argument: priority 10, at most 9 allowed");
        assert_eq!(
            refusal(&message().property("k", "v".repeat(16 << 10))),
            "too_large: property bytes 16385, at most 16384 allowed"
        );
        assert_eq!(message().idempotency_key("k".repeat(128)).check(1), Ok(()));
        assert_eq!(
            refusal(&message().idempotency_key("k".repeat(129))),
            "too_large: idempotency key has 129 bytes, at most 128 are allowed"
        );
        assert_eq!(refusal(&message().idempotency_key("")), "invalid_argument: idempotency key is empty");
    }

    #[test]
    fn a_bad_lite_topic_name_is_refused_at_once() {
        assert_eq!(Message::to("").unwrap_err().to_string(), "lite topic name is empty");
    }
}
