//! A session of a group that comes by requests: it is opened, and closed. Between its requests its shard keeps it.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluicegate_protocol::limits::{SESSION_TIMEOUT_MAX, SESSION_TIMEOUT_MIN};
use sluicegate_protocol::{ErrorCode, GroupName, LeaseToken, LiteId, MessageId, Offset, SessionId, wire};
use tokio::sync::oneshot;
use utoipa::ToSchema;

use super::caller::Caller;
use super::delivery::DeliveryId;
use super::fields::{Fields, invalid, position};
use super::openapi::Refused;
use super::receive::Incoming;
use super::{App, Door, drawn};
use crate::broker::{send, stopping};
use crate::catalog::GroupSpec;
use crate::config::Right;
use crate::connection::consumer::names;
use crate::refusal::Refusal;
use crate::shard::{Command, OpenSession, Opened, ShardHandle, ShardId};

/// Bytes of what a session says when it is opened.
const OPENING_BYTES_MAX: usize = 256 << 10;

/// Where a session is.
#[derive(Clone)]
pub(super) struct Whose {
    pub(super) group: Arc<GroupSpec>,
    pub(super) session: SessionId,
    pub(super) shard: ShardHandle,
    pub(super) shard_id: ShardId,
}

/// What a session wants to be. All of it is optional.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Opening {
    /// The id of a session that is opened again, with what it holds: 32 hexadecimal digits.
    session: Option<String>,
    /// How long it may be silent; the longer of the group's lease time and session grace.
    timeout_ms: Option<u64>,
    /// Lite topics that it takes, by name; with none, and no prefix, it takes all.
    lites: Vec<String>,
    /// What the names of lite topics begin with that it takes.
    prefixes: Vec<String>,
    /// Where the group begins in what it does not follow yet, as `from` of a page says it; `earliest`.
    start: Option<String>,
}

/// A session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OpenedSession {
    /// Names it; whoever knows it, and may consume, is this session.
    session: String,
    /// How long a delivery is its own, unless it extends that.
    lease_ms: u64,
    /// How long it may be silent.
    timeout_ms: u64,
    /// What it holds from before.
    held: Vec<Held>,
    /// Lite topics in which the group goes on where it was, and not at `start`.
    kept: Vec<String>,
}

/// A delivery that is open.
#[derive(Debug, Serialize, ToSchema)]
struct Held {
    delivery: String,
    lite: String,
    /// Of the message.
    id: String,
    /// In microseconds since 1970.
    deadline_us: u64,
}

impl Held {
    fn new(lease: &wire::HeldLease) -> Option<Self> {
        let id = MessageId { lite_id: LiteId(lease.lite_id), offset: Offset(lease.offset) };
        let token = lease.token.map(|token| LeaseToken { epoch: token.epoch, counter: token.counter })?;
        let delivery = DeliveryId { lite: id.lite_id, offset: id.offset, token }.to_string();
        Some(Self { delivery, lite: lease.lite.clone(), id: id.to_string(), deadline_us: lease.deadline_us })
    }
}

impl Whose {
    /// The session of a path.
    pub(super) fn of(door: &Door, group: &str, session: &str) -> Result<Self, Refusal> {
        let session = session.parse().map_err(|error| invalid(format!("session: {error}")))?;
        Self::named(door, group, session)
    }

    fn named(door: &Door, group: &str, session: SessionId) -> Result<Self, Refusal> {
        let name = GroupName::parse(group).map_err(|error| invalid(error.to_string()))?;
        let group = door.broker.group(&name)?;
        let gone = || Refusal::new(ErrorCode::UnknownTopic, "the group's topic was deleted");
        let shard_id = door.broker.catalog().topic(group.topic).ok_or_else(gone)?.shard;
        Ok(Self { group, session, shard: door.broker.shard(shard_id).clone(), shard_id })
    }

    /// Asks the shard, and waits for what it says.
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        send(&self.shard, command(reply)).await?;
        answer.await.map_err(|_| stopping())?
    }
}

/// Open a session of a group, or open it again.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/sessions",
    params(("group" = String, Path, description = "Name of the group")),
    request_body(content = Opening, content_type = "application/json", description = "What the session wants to be; may be empty"),
    responses((status = 201, description = "It is open", body = OpenedSession), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn open(
    State(door): App,
    Path(group): Path<String>,
    caller: Caller,
    fields: Fields,
    body: Body,
) -> Result<(StatusCode, Json<OpenedSession>), Refusal> {
    caller.may(&door, Right::Consume)?;
    fields.end()?;
    let said = Incoming::new(body).whole(OPENING_BYTES_MAX).await?;
    let opening = match said.trim_ascii() {
        b"" => Opening::default(),
        // Of an array serde would make one too.
        said => serde_json::from_slice::<serde_json::Map<_, _>>(said)
            .and_then(|object| Opening::deserialize(serde_json::Value::Object(object)))
            .map_err(|error| invalid(format!("the session: {error}")))?,
    };
    let session = match &opening.session {
        Some(session) => session.parse().map_err(|error| invalid(format!("session: {error}")))?,
        None => SessionId(drawn()?),
    };
    let whose = Whose::named(&door, &group, session)?;
    let names = names(&opening.lites, &opening.prefixes)?;
    let has_names = !names.lites.is_empty() || !names.prefixes.is_empty();
    if opening.start.is_some() && !has_names {
        return Err(invalid("start is for sessions that say which lite topics they take"));
    }
    let start = opening.start.as_deref().map_or(Ok(sluicegate_protocol::Position::Earliest), position)?;
    let takes = has_names.then_some((names, start));
    let timeout = opening.timeout_ms.map(timeout).transpose()?;
    let (group, places) = (whose.group.id, door.sessions.clone());
    let asked = |reply| Command::OpenSession(OpenSession { group, session, timeout, takes, places, reply });
    let Opened { lease, timeout, held, kept } = whose.ask(asked).await?;
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let session = OpenedSession {
        session: session.to_string(),
        lease_ms: millis(lease),
        timeout_ms: millis(timeout),
        held: held.iter().filter_map(Held::new).collect(),
        kept: kept.iter().map(|name| name.as_str().to_owned()).collect(),
    };
    Ok((StatusCode::CREATED, Json(session)))
}

fn timeout(millis: u64) -> Result<Duration, Refusal> {
    let timeout = Duration::from_millis(millis);
    if (SESSION_TIMEOUT_MIN..=SESSION_TIMEOUT_MAX).contains(&timeout) {
        return Ok(timeout);
    }
    let (min, max) = (SESSION_TIMEOUT_MIN.as_millis(), SESSION_TIMEOUT_MAX.as_millis());
    Err(invalid(format!("timeout_ms is {millis}, allowed are {min} to {max}")))
}

/// Close a session: what it holds returns at once, uncounted.
#[utoipa::path(
    delete,
    path = "/v1/groups/{group}/sessions/{session}",
    params(("group" = String, Path, description = "Name of the group"), ("session" = String, Path, description = "Id of the session")),
    responses((status = 204, description = "It is closed"), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn close(
    State(door): App,
    Path((group, session)): Path<(String, String)>,
    caller: Caller,
    fields: Fields,
) -> Result<StatusCode, Refusal> {
    caller.may(&door, Right::Consume)?;
    fields.end()?;
    let whose = Whose::of(&door, &group, &session)?;
    let (group, session) = (whose.group.id, whose.session);
    whose.ask(|reply| Command::CloseSession { group, session, reply }).await?;
    Ok(StatusCode::NO_CONTENT)
}
