//! What readers of lite topics and their broker agree on.

use std::fmt;
use std::str::FromStr;

#[cfg(feature = "wire")]
use crate::limits::READ_OVERHEAD_BYTES;
#[cfg(feature = "wire")]
use crate::wire;
use crate::{LiteId, Offset};

/// The property of a message, whatever its value, after which nothing more is to be expected in its lite topic: a stream is
/// complete. Readers that follow stop behind it. To the broker it is a property like others.
pub const END_PROPERTY: &str = "stream.end";

/// Names one message for good: the life of its lite topic, and its offset there. As text `{lite id}-{offset}`.
///
/// ```
/// use sluicegate_protocol::{LiteId, MessageId, Offset};
///
/// let id: MessageId = "140737488355329-7".parse()?;
/// assert_eq!(id, MessageId { lite_id: LiteId(140_737_488_355_329), offset: Offset(7) });
/// # Ok::<(), sluicegate_protocol::ParseMessageIdError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The life of the lite topic.
    pub lite_id: LiteId,
    /// Where the message is in it.
    pub offset: Offset,
}

/// Text that is no [`MessageId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a lite id and an offset, as in `140737488355329-7`")]
pub struct ParseMessageIdError(String);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.lite_id, self.offset)
    }
}

impl FromStr for MessageId {
    type Err = ParseMessageIdError;

    fn from_str(text: &str) -> Result<Self, ParseMessageIdError> {
        // `parse` takes a sign too.
        let number = |text: &str| text.starts_with(|first: char| first.is_ascii_digit()).then(|| text.parse().ok());
        let parsed = text.split_once('-').and_then(|(lite_id, offset)| {
            Some(Self { lite_id: LiteId(number(lite_id)??), offset: Offset(number(offset)??) })
        });
        parsed.ok_or_else(|| ParseMessageIdError(text.into()))
    }
}

/// The credit in bytes that a message takes of its reader.
#[cfg(feature = "wire")]
pub fn read_credit(message: &wire::ReadMessage) -> u64 {
    let properties = message.properties.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    u64::from(message.body_bytes) + properties as u64 + READ_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_survives_its_text_and_nothing_else_is_one() {
        let id = MessageId { lite_id: LiteId(u64::MAX), offset: Offset(0) };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "-", "1", "1-", "-1", "1-2-3", "+1-2", "1-+2", "1- 2", "18446744073709551616-0", "a-b"] {
            assert_eq!(text.parse::<MessageId>(), Err(ParseMessageIdError(text.into())), "{text}");
        }
    }
}
