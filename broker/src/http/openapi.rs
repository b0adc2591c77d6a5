//! What the door can do, as OpenAPI: made of the routes' own words, served by the door itself.

use axum::Json;
use serde::Serialize;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi, ToSchema};

use super::{batch, body, delivery, long_poll, page, publish, reply, request, session, settle, stream};

/// Where it is.
pub(super) const PATH: &str = "/v1/openapi.json";

/// A refusal.
#[derive(Serialize, ToSchema)]
pub(super) struct Refused {
    /// What the caller should do decides the code; `docs/errors.md` lists them.
    code: String,
    /// One line for a person.
    message: String,
    /// When another try may succeed.
    retry_after_ms: Option<u64>,
    /// Keys and values that a program can use.
    detail: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Sluicegate, the HTTPS door for messages", license(name = "Apache-2.0")),
    paths(
        publish::publish, batch::publish_batch, page::messages, body::body, stream::stream,
        session::open, session::close, long_poll::receive, settle::settle, delivery::delivery_body,
        request::ask, request::resume, request::cancel, reply::answer,
    ),
    components(schemas(
        Refused, publish::Receipt, page::MessagePage, batch::BatchMessage, batch::BatchResults,
        session::Opening, session::OpenedSession, long_poll::Received, settle::Settle, settle::Settled,
        request::Pending, request::CancelledRequest, reply::Replied,
    )),
    modifiers(&Tokens),
    security(("token" = []))
)]
struct Document;

struct Tokens;

impl Modify for Tokens {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(bearer));
    }
}

pub(super) async fn serve() -> Json<utoipa::openapi::OpenApi> {
    Json(Document::openapi())
}
