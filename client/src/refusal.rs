//! What the broker says when it refuses.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_protocol::{ErrorCode, wire};

/// The broker's refusal. What the caller should do decides its code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// What the caller should do decides the code.
    pub code: ErrorCode,
    /// One line for a person.
    pub message: String,
    /// When another try may succeed.
    pub retry_after: Option<Duration>,
    /// Key and value pairs that a program can use, such as `limit` and `current`.
    pub detail: BTreeMap<String, String>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: String) -> Self {
        Self { code, message, retry_after: None, detail: BTreeMap::new() }
    }

    pub(crate) fn from_wire(error: wire::Error) -> Self {
        Self {
            code: ErrorCode::from_number(error.code),
            message: error.message,
            retry_after: error.retry_after_ms.map(Duration::from_millis),
            detail: error.detail,
        }
    }

    /// The same request, sent again on another stream, can succeed although nobody corrected it.
    pub(crate) fn asks_for_resend(&self) -> bool {
        matches!(self.code, ErrorCode::Unavailable | ErrorCode::StoreFailed)
    }

    /// A stream that ended with this refusal is worth opening again.
    pub(crate) fn asks_for_reconnect(&self) -> bool {
        self.asks_for_resend() || self.code == ErrorCode::LimitReached
    }
}
