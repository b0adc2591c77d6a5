//! A refusal: what a peer is told when its request cannot be done.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_protocol::{ErrorCode, admin, wire};

/// Code, message and what a program can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub(crate) struct Refusal {
    pub(crate) code: ErrorCode,
    pub(crate) message: String,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) detail: BTreeMap<String, String>,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after: None, detail: BTreeMap::new() }
    }

    #[must_use]
    pub(crate) fn retry_after(mut self, duration: Duration) -> Self {
        self.retry_after = Some(duration);
        self
    }

    /// A key and value that a program can use.
    #[must_use]
    pub(crate) fn detail(mut self, key: &str, value: &str) -> Self {
        self.detail.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A limit that is reached: its name, its value and what was asked for.
    pub(crate) fn limit(code: ErrorCode, limit: &str, max: u64, current: u64) -> Self {
        let mut refusal = Self::new(code, format!("{limit}: {current}, at most {max} are allowed"));
        refusal.detail = [
            ("limit".to_owned(), limit.to_owned()),
            ("max".to_owned(), max.to_string()),
            ("current".to_owned(), current.to_string()),
        ]
        .into();
        refusal
    }

    fn retry_after_ms(&self) -> Option<u64> {
        self.retry_after.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    /// The frame's header; with a sequence it answers that request.
    pub(crate) fn to_wire(&self, sequence: Option<u64>) -> wire::Error {
        wire::Error {
            sequence,
            code: self.code.number(),
            message: self.message.clone(),
            retry_after_ms: self.retry_after_ms(),
            detail: self.detail.clone(),
        }
    }

    /// The body of an HTTP answer.
    pub(crate) fn to_json(&self) -> admin::ErrorBody {
        admin::ErrorBody {
            code: self.code,
            message: self.message.clone(),
            retry_after_ms: self.retry_after_ms(),
            detail: self.detail.clone(),
        }
    }
}
