//! Who asks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;

use super::Door;
use crate::auth::bearer;
use crate::config::Right;
use crate::refusal::Refusal;

/// Whoever asks, by address and token.
pub(super) struct Caller {
    peer: IpAddr,
    token: Option<String>,
}

impl Caller {
    /// Refuses one who may not.
    pub(super) fn may(&self, door: &Door, right: Right) -> Result<(), Refusal> {
        self.may_with(door, right, None)
    }

    /// The same; a token in the query counts where there is none in a header.
    pub(super) fn may_with(&self, door: &Door, right: Right, in_query: Option<&str>) -> Result<(), Refusal> {
        let token = self.token.as_deref().or(in_query).unwrap_or_default();
        door.broker.auth.check(token, self.peer, right).map(drop)
    }
}

impl FromRequestParts<Arc<Door>> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Door>) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().expect("every connection has a peer").0.ip();
        let token = bearer(&parts.headers)?.map(str::to_owned);
        Ok(Self { peer, token })
    }
}
