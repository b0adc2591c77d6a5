//! A request's body as it comes: nobody may be slow for ever.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http_body::Body as _;
use sluicegate_protocol::ErrorCode;
use tokio::time::{Instant, timeout_at};

use super::fields::invalid;
use crate::refusal::Refusal;

/// How long a small body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(20);
/// So many bytes more may take a second more.
const BYTES_PER_SECOND_MIN: u64 = 32 << 10;

/// A body of which some has come.
pub(super) struct Incoming {
    stream: BodyDataStream,
    announced: Option<u64>,
    received: u64,
    patience: Duration,
    until: Instant,
}

impl Incoming {
    pub(super) fn new(body: Body) -> Self {
        let announced = body.size_hint().exact();
        let patience = BODY_PATIENCE + Duration::from_secs(announced.unwrap_or(0) / BYTES_PER_SECOND_MIN);
        let until = Instant::now() + patience;
        Self { stream: body.into_data_stream(), announced, received: 0, patience, until }
    }

    /// Bytes that it is to have, by its `Content-Length`.
    pub(super) fn announced(&self) -> Option<u64> {
        self.announced
    }

    /// The next bytes of it; none at its end.
    ///
    /// # Errors
    /// `limit_reached`: it takes too long. `invalid_argument`: it broke off.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Ok(next) = timeout_at(self.until, self.stream.next()).await else {
            let seconds = self.patience.as_secs();
            let refusal = Refusal::limit(ErrorCode::LimitReached, "seconds in which the body comes", seconds, seconds);
            return Err(refusal.detail("received_bytes", &self.received.to_string()).detail("status", "408"));
        };
        match next {
            Some(Ok(bytes)) => {
                self.received += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Some(Err(_)) => Err(self.too_short()),
            None => Ok(None),
        }
    }

    /// All of it, which may have so many bytes.
    ///
    /// # Errors
    /// Also `too_large`; `invalid_argument`: it is large and did not say how large.
    pub(super) async fn whole(&mut self, bytes_max: usize) -> Result<Bytes, Refusal> {
        if let Some(bytes) = self.announced.filter(|&bytes| bytes > bytes_max as u64) {
            return Err(Refusal::limit(ErrorCode::TooLarge, "bytes of the request", bytes_max as u64, bytes));
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > bytes_max {
                let message = format!("a body of more than {bytes_max} bytes needs a Content-Length");
                return Err(invalid(message).detail("status", "411"));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// The body ended before it had all that was announced.
    pub(super) fn too_short(&self) -> Refusal {
        let announced = self.announced.map_or_else(String::new, |bytes| format!(" of {bytes} that were announced"));
        let message = format!("the body ended after {} bytes{announced}: nothing was published", self.received);
        Refusal::new(ErrorCode::ProtocolViolation, message)
    }
}
