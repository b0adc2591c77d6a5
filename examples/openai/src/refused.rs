//! Refusals in the API's shape.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a caller has no answer.
#[derive(Debug)]
pub(crate) struct Refused {
    status: StatusCode,
    kind: &'static str,
    code: &'static str,
    /// What of the request is wrong, if it is one thing.
    param: Option<&'static str>,
    message: String,
    retry_after: Option<Duration>,
}

impl Refused {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into(), retry_after: None }
    }

    /// The request must be corrected.
    pub(crate) fn invalid(param: Option<&'static str>, message: impl Into<String>) -> Self {
        let code = "invalid_request";
        Self { param, ..Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", code, message) }
    }

    /// The same, with a status that says more.
    pub(crate) fn invalid_as(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", code, message)
    }

    pub(crate) fn no_key() -> Self {
        let message = "send an API key: `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", "invalid_api_key", message)
    }

    pub(crate) fn no_model(name: &str) -> Self {
        let message = format!("there is no model `{name}`: see GET /v1/models");
        Self { param: Some("model"), ..Self::invalid_as(StatusCode::NOT_FOUND, "model_not_found", message) }
    }

    /// There is room again in so long.
    pub(crate) fn full(message: impl Into<String>, retry_after: Duration) -> Self {
        let refused = Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", "rate_limit_exceeded", message);
        Self { retry_after: Some(retry_after), ..refused }
    }

    /// It passes by itself.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        let refused = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "unavailable", message);
        Self { retry_after: Some(Duration::from_secs(1)), ..refused }
    }

    /// The answer is not here in time. To ask again would be a second request.
    pub(crate) fn late(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", "timeout", message)
    }

    /// There will be no answer.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "answer_failed", message)
    }

    /// Whether the answer may be had later.
    pub(crate) fn passes(&self) -> bool {
        matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
    }

    /// As the API says it, also in the middle of a stream.
    pub(crate) fn json(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let param = self.param.map(|param| format!("{param}: ")).unwrap_or_default();
        write!(formatter, "{} {param}{}", self.status.as_u16(), self.message)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.json())).into_response();
        let headers = response.headers_mut();
        if let Some(after) = self.retry_after {
            // Whole seconds: earlier would be too early.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        } else if self.status.is_server_error() {
            // OpenAI's packages try again by themselves unless they are told.
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}
