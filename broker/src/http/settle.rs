//! How a session's deliveries end, or go on: many in one request, each with an answer of its own.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use serde::{Deserialize, Serialize};
use sluicegate_protocol::admin::ErrorBody;
use sluicegate_protocol::limits::{COST_MAX, REASON_BYTES_MAX, SETTLES_PER_FRAME_MAX};
use sluicegate_protocol::{ErrorCode, wire};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::App;
use super::caller::Caller;
use super::delivery::DeliveryId;
use super::fields::{Fields, invalid};
use super::openapi::Refused;
use super::receive::Incoming;
use super::session::Whose;
use crate::broker::{send, stopping};
use crate::config::Right;
use crate::refusal::Refusal;
use crate::shard::{Command, ExtendRequest, Outcome, SettleRequest, ToConsumer};

/// Bytes of a request to settle.
const SETTLE_BYTES_MAX: usize = 1 << 20;

/// What becomes of one delivery.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Settle {
    /// Which.
    delivery: String,
    outcome: Verb,
    /// What it cost; the estimate. With `ack`, `retry` and `dead_letter`.
    cost: Option<u64>,
    /// With `retry`: after so long, or the group's back-off.
    delay_ms: Option<u64>,
    /// With `retry`: what does the work asked for the delay.
    #[serde(default)]
    upstream: bool,
    /// With `suspend`: how long nothing of the lite topic is delivered.
    duration_ms: Option<u64>,
    /// With `dead_letter`: why, at most 256 bytes.
    reason: Option<String>,
}

/// How a delivery ends; `extend` goes on with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verb {
    Ack,
    Retry,
    Suspend,
    DeadLetter,
    Extend,
}

/// What became of all of them, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Settled {
    results: Vec<SettleResult>,
}

/// What became of one: an empty object if it is settled.
#[derive(Debug, Default, Serialize, ToSchema)]
struct SettleResult {
    /// It is the session's own until then, in microseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline_us: Option<u64>,
    /// The request was taken back: nobody wants its outcome any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cancelled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Refused>)]
    error: Option<ErrorBody>,
}

/// What a shard is asked for one of them.
enum Asked {
    Settle(SettleRequest),
    Extend(ExtendRequest),
}

/// Settle deliveries, or extend their leases.
#[utoipa::path(
    post,
    path = "/v1/groups/{group}/sessions/{session}/settle",
    params(("group" = String, Path, description = "Name of the group"), ("session" = String, Path, description = "Id of the session")),
    request_body(content = Vec<Settle>, content_type = "application/json"),
    responses((status = 200, description = "What became of each", body = Settled), (status = "4XX", description = "Refused", body = Refused), (status = "5XX", description = "Not now", body = Refused))
)]
pub(super) async fn settle(
    State(door): App,
    Path((group, session)): Path<(String, String)>,
    caller: Caller,
    fields: Fields,
    body: Body,
) -> Result<Json<Settled>, Refusal> {
    caller.may(&door, Right::Consume)?;
    fields.end()?;
    let whose = Whose::of(&door, &group, &session)?;
    let _place = door.settle_place()?;
    let said = Incoming::new(body).whole(SETTLE_BYTES_MAX).await?;
    let said: Vec<Settle> = serde_json::from_slice(&said).map_err(|error| invalid(format!("settles: {error}")))?;
    if said.len() > SETTLES_PER_FRAME_MAX {
        let (max, count) = (SETTLES_PER_FRAME_MAX as u64, said.len() as u64);
        return Err(Refusal::limit(ErrorCode::TooLarge, "deliveries in one request", max, count));
    }
    let (mut settles, mut extends) = (Vec::new(), Vec::new());
    let mut results: Vec<Option<SettleResult>> = Vec::with_capacity(said.len());
    for (at, one) in said.into_iter().enumerate() {
        results.push(match one.asked() {
            Ok(Asked::Settle(settle)) => {
                settles.push((at, settle));
                None
            }
            Ok(Asked::Extend(lease)) => {
                extends.push((at, lease));
                None
            }
            Err(refusal) => Some(SettleResult { error: Some(refusal.to_json()), ..SettleResult::default() }),
        });
    }
    let (at, settles): (Vec<_>, Vec<_>) = settles.into_iter().unzip();
    for (at, code) in at.into_iter().zip(whose.settle(settles).await?) {
        results[at] = Some(result(code, SettleResult::default()));
    }
    let (at, extends): (Vec<_>, Vec<_>) = extends.into_iter().unzip();
    for (at, extended) in at.into_iter().zip(whose.extend(extends).await?) {
        let wire::ExtendResult { code, deadline_us, cancelled } = extended;
        let goes_on = SettleResult { deadline_us: Some(deadline_us), cancelled, error: None };
        results[at] = Some(result(code, goes_on));
    }
    Ok(Json(Settled { results: results.into_iter().flatten().collect() }))
}

fn result(code: u32, done: SettleResult) -> SettleResult {
    if code == 0 {
        return done;
    }
    let code = ErrorCode::from_number(code);
    let message = "the lease ended before: settled, expired, or given to another session";
    SettleResult { error: Some(Refusal::new(code, message).to_json()), ..SettleResult::default() }
}

impl Settle {
    fn asked(self) -> Result<Asked, Refusal> {
        let delivery = DeliveryId::parse(&self.delivery)?;
        let takes = |key: &str, is_said: bool, verbs: &[Verb]| match is_said && !verbs.contains(&self.outcome) {
            true => Err(invalid(format!("{key} says nothing with this outcome"))),
            false => Ok(()),
        };
        takes("cost", self.cost.is_some(), &[Verb::Ack, Verb::Retry, Verb::DeadLetter])?;
        takes("delay_ms", self.delay_ms.is_some(), &[Verb::Retry])?;
        takes("upstream", self.upstream, &[Verb::Retry])?;
        takes("duration_ms", self.duration_ms.is_some(), &[Verb::Suspend])?;
        takes("reason", self.reason.is_some(), &[Verb::DeadLetter])?;
        let outcome = match self.outcome {
            Verb::Extend => return Ok(Asked::Extend(delivery.lease())),
            Verb::Ack => Outcome::Ack,
            Verb::Retry => Outcome::Retry { delay: self.delay_ms.map(Duration::from_millis), upstream: self.upstream },
            Verb::Suspend => {
                let millis = self.duration_ms.ok_or_else(|| invalid("suspend needs duration_ms"))?;
                Outcome::Suspend(Duration::from_millis(millis))
            }
            Verb::DeadLetter => Outcome::DeadLetter(reason(self.reason.unwrap_or_default())?),
        };
        if let Some(cost) = self.cost.filter(|&cost| cost > COST_MAX) {
            return Err(invalid(format!("cost is {cost}, at most {COST_MAX} is allowed")));
        }
        let DeliveryId { lite, offset, token } = delivery;
        Ok(Asked::Settle(SettleRequest { lite, offset, token, cost: self.cost, outcome }))
    }
}

fn reason(reason: String) -> Result<String, Refusal> {
    if reason.len() > REASON_BYTES_MAX {
        let (max, bytes) = (REASON_BYTES_MAX as u64, reason.len() as u64);
        return Err(Refusal::limit(ErrorCode::TooLarge, "reason bytes", max, bytes));
    }
    Ok(reason)
}

impl Whose {
    /// The code of each.
    async fn settle(&self, settles: Vec<SettleRequest>) -> Result<Vec<u32>, Refusal> {
        if settles.is_empty() {
            return Ok(Vec::new());
        }
        let (group, session) = (self.group.id, self.session);
        let (replies, mut answer) = mpsc::channel(1);
        send(&self.shard, Command::Settle { group, session, sequence: 1, settles, replies }).await?;
        match answer.recv().await {
            Some(ToConsumer::Settled(settled)) => Ok(settled.results.into_iter().map(|result| result.code).collect()),
            Some(ToConsumer::Failed(refusal)) => Err(refusal),
            _ => Err(stopping()),
        }
    }

    async fn extend(&self, leases: Vec<ExtendRequest>) -> Result<Vec<wire::ExtendResult>, Refusal> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let (group, session) = (self.group.id, self.session);
        let (replies, mut answer) = mpsc::channel(1);
        send(&self.shard, Command::Extend { group, session, sequence: 1, leases, replies }).await?;
        match answer.recv().await {
            Some(ToConsumer::Extended(extended)) => Ok(extended.results),
            Some(ToConsumer::Failed(refusal)) => Err(refusal),
            _ => Err(stopping()),
        }
    }
}
