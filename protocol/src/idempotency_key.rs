//! A user's own name for one message.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::limits::IDEMPOTENCY_KEY_BYTES_MAX;

/// Names one message of a lite topic, so that it is published once however often it is sent: 1 to 128 bytes of UTF-8.
///
/// ```
/// use sluicegate_protocol::IdempotencyKey;
/// assert!(IdempotencyKey::parse("order-42").is_ok());
/// assert!(IdempotencyKey::parse("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey(Arc<str>);

/// A key that broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidIdempotencyKey {
    /// The key has no bytes.
    #[error("idempotency key is empty")]
    Empty,
    /// The key is longer than [`IDEMPOTENCY_KEY_BYTES_MAX`].
    #[error("idempotency key has {bytes} bytes, at most {IDEMPOTENCY_KEY_BYTES_MAX} are allowed")]
    TooLong {
        /// Bytes of the key.
        bytes: usize,
    },
}

impl IdempotencyKey {
    /// Checks the length.
    ///
    /// # Errors
    /// [`InvalidIdempotencyKey`] names the rule that the key broke.
    pub fn parse(key: &str) -> Result<Self, InvalidIdempotencyKey> {
        match key.len() {
            0 => Err(InvalidIdempotencyKey::Empty),
            bytes if bytes > IDEMPOTENCY_KEY_BYTES_MAX => Err(InvalidIdempotencyKey::TooLong { bytes }),
            _ => Ok(Self(key.into())),
        }
    }

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(key: &str) -> Result<Self, InvalidIdempotencyKey> {
        Self::parse(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_1_to_128_bytes() {
        assert_eq!(IdempotencyKey::parse(""), Err(InvalidIdempotencyKey::Empty));
        assert_eq!(IdempotencyKey::parse(&"k".repeat(128)).map(|key| key.as_str().len()), Ok(128));
        // Bytes count, not characters.
        let error = IdempotencyKey::parse(&"ä".repeat(65)).unwrap_err();
        assert_eq!(error.to_string(), "idempotency key has 130 bytes, at most 128 are allowed");
    }
}
