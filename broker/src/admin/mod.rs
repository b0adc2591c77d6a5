//! The admin HTTP API. Routes and bodies are listed in `sluicegate_protocol::admin`.
//!
//! Every route but health needs a token with the right `admin`; `read` is enough for those that change nothing.
//! Every refusal is JSON.

mod capsules;
mod dead_letters;
mod explain;
mod groups;
mod lite;
pub(crate) mod page;
mod peek;
mod policies;
mod record;
mod store;
mod topics;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::rejection::{BytesRejection, JsonRejection, QueryRejection};
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, FromRequestParts, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::admin::{Health, HealthStatus};
use sluicegate_protocol::limits::{POLICY_BYTES_MAX, POLICY_CONFIG_BYTES_MAX};
use tokio::sync::watch;

use crate::auth::bearer;
use crate::broker::Broker;
use crate::config::Right;
use crate::metrics;
use crate::refusal::Refusal;

/// Bytes of a component in base64 and a configuration as JSON, where each byte may be six.
const VALIDATION_BYTES_MAX: usize = POLICY_BYTES_MAX.div_ceil(3) * 4 + 6 * POLICY_CONFIG_BYTES_MAX + (4 << 10);

type App = State<Arc<Broker>>;

/// All routes.
pub(crate) fn router(broker: Arc<Broker>) -> Router {
    let guarded = Router::new()
        .route("/topics", get(topics::list).post(topics::create))
        .route("/topics/{topic}", get(topics::show).delete(topics::delete))
        .route("/topics/{topic}/lite", get(lite::list).delete(lite::delete))
        .route("/topics/{topic}/lite/reclaim", put(lite::set_reclaim))
        .route("/groups/{group}/lite", get(lite::show))
        .route("/groups/{group}/lite/suspend", post(lite::suspend))
        .route("/groups/{group}/lite/resume", post(lite::resume))
        .route("/groups/{group}/lite/seek", post(lite::seek))
        .route("/groups/{group}/lite/skip", post(lite::skip))
        .route("/groups/{group}/lite/purge", post(lite::purge))
        .route("/groups/{group}/lite/messages", get(peek::messages))
        .route("/groups/{group}/explain", get(explain::explain))
        .route("/groups/{group}/waiters", get(explain::waiters))
        .route("/groups/{group}/dead-letters", get(dead_letters::list))
        .route("/groups/{group}/dead-letters/redrive", post(dead_letters::redrive))
        .route("/groups", get(groups::list).post(groups::create))
        .route("/groups/{group}", get(groups::show).delete(groups::delete))
        .route("/groups/{group}/quotas", put(groups::set_quotas))
        .route("/groups/{group}/concurrency", put(groups::set_concurrency))
        .route("/groups/{group}/retry", put(groups::set_retry))
        .route("/groups/{group}/watchdog", put(groups::set_watchdog))
        .route("/groups/{group}/tenant-labels", put(groups::set_tenant_labels))
        .route("/groups/{group}/pause", post(groups::pause))
        .route("/groups/{group}/resume", post(groups::resume))
        .route("/groups/{group}/recording", post(record::begin).delete(record::end))
        .route("/store/backup", post(store::back_up))
        .route("/groups/{group}/policy", put(policies::activate).delete(policies::deactivate))
        .route("/groups/{group}/policy/config", put(policies::configure))
        .route("/groups/{group}/policy/rollback", post(policies::roll_back))
        .route("/groups/{group}/policy/history", get(policies::history))
        .route("/policies/{digest}", get(policies::show))
        .route("/policies/{digest}/release", post(policies::release))
        .route("/policies/validate", post(policies::validate).layer(DefaultBodyLimit::max(VALIDATION_BYTES_MAX)))
        .route(
            "/groups/{group}/policy/shadow",
            put(policies::shadow).get(policies::show_shadow).delete(policies::end_shadow),
        )
        .route("/policies/{digest}/component", get(capsules::component))
        .route("/capsules", get(capsules::list))
        .route("/capsules/{id}", get(capsules::fetch))
        .route(
            "/policies",
            get(policies::list).merge(post(policies::push).layer(DefaultBodyLimit::max(POLICY_BYTES_MAX))),
        )
        .layer(middleware::from_fn_with_state(Arc::clone(&broker), guard));
    let scrapes =
        Router::new().route("/metrics", get(scrape)).layer(middleware::from_fn_with_state(Arc::clone(&broker), guard));
    Router::new()
        .merge(scrapes)
        .route("/admin/v1/health", get(health))
        .nest("/admin/v1", guarded)
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .with_state(broker)
}

/// What is answered while the store is closed after a failure.
pub(crate) fn failed(problem: watch::Receiver<String>) -> Router {
    let refuse = |State(problem): State<watch::Receiver<String>>| async move {
        let message = format!("the store failed and is being opened again: {}", *problem.borrow());
        Refusal::new(ErrorCode::StoreFailed, message).retry_after(Duration::from_secs(1))
    };
    let health = |State(problem): State<watch::Receiver<String>>| async move {
        told(HealthStatus::Failed, Some(problem.borrow().clone()), 0)
    };
    Router::new().route("/admin/v1/health", get(health)).fallback(refuse).with_state(problem)
}

async fn guard(
    State(broker): App,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let token = match bearer(request.headers()) {
        Ok(token) => token.unwrap_or_default(),
        Err(refusal) => return refusal.into_response(),
    };
    let mut allowed = broker.auth.check(token, peer.ip(), Right::Admin);
    if request.method() == Method::GET
        && let Ok(who) = broker.auth.check(token, peer.ip(), Right::Read)
    {
        allowed = Ok(who);
    }
    match allowed {
        Ok(who) => {
            request.extensions_mut().insert(who);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn health(State(broker): App) -> (StatusCode, Json<Health>) {
    let (status, problem) = broker.health();
    told(status, problem, broker.loading())
}

fn told(status: HealthStatus, problem: Option<String>, loading_lite_topics: u64) -> (StatusCode, Json<Health>) {
    let code = if status == HealthStatus::Ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Health { status, problem, loading_lite_topics, version: env!("CARGO_PKG_VERSION").into() }))
}

async fn scrape(State(broker): App) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::scrape(&broker).await)
}

async fn no_route(request: Request) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, format!("no route {}", request.uri().path())).detail("status", "404")
}

async fn no_method(request: Request) -> Refusal {
    let message = format!("{} is not allowed on {}", request.method(), request.uri().path());
    Refusal::new(ErrorCode::InvalidArgument, message).detail("status", "405")
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status =
            self.detail.get("status").and_then(|status| status.parse().ok()).unwrap_or(self.code.http_status());
        let status = StatusCode::from_u16(status).expect("the table holds valid statuses");
        let mut response = (status, Json(self.to_json())).into_response();
        if let Some(retry_after) = self.retry_after {
            let seconds = retry_after.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A JSON body; what is wrong with one is told as our own errors are.
struct Body<T>(T);

impl<T: serde::de::DeserializeOwned> FromRequest<Arc<Broker>> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Arc<Broker>) -> Result<Self, Refusal> {
        let refuse = |rejection: JsonRejection| {
            let code = match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::TooLarge,
                _ => ErrorCode::InvalidArgument,
            };
            Refusal::new(code, rejection.body_text())
        };
        Json::from_request(request, state).await.map(|Json(body)| Self(body)).map_err(refuse)
    }
}

/// The query, with the same care.
struct Params<T>(T);

impl<T: serde::de::DeserializeOwned> FromRequestParts<Arc<Broker>> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Broker>) -> Result<Self, Refusal> {
        let refuse = |rejection: QueryRejection| Refusal::new(ErrorCode::InvalidArgument, rejection.body_text());
        Query::from_request_parts(parts, state).await.map(|Query(params)| Self(params)).map_err(refuse)
    }
}

/// A raw body, with the same care.
struct Raw(axum::body::Bytes);

impl FromRequest<Arc<Broker>> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &Arc<Broker>) -> Result<Self, Refusal> {
        let refuse = |rejection: BytesRejection| match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                let message = format!("a policy has at most {POLICY_BYTES_MAX} bytes");
                Refusal::new(ErrorCode::TooLarge, message)
            }
            _ => Refusal::new(ErrorCode::InvalidArgument, rejection.body_text()),
        };
        axum::body::Bytes::from_request(request, state).await.map(Self).map_err(refuse)
    }
}

fn invalid(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(ErrorCode::InvalidArgument, error.to_string())
}
