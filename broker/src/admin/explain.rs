//! Why a lite topic waits, and who waits longest.

use axum::Json;
use axum::extract::{Path, State};
use sluicegate_protocol::admin::{ExplainedPolicy, Explanation, Waiters};
use sluicegate_protocol::limits::{PAGE_ROWS_MAX, WAITERS_DEFAULT};
use tokio::sync::oneshot;

use super::lite::OfLite;
use super::{App, Params, groups, page};
use crate::broker::{Broker, send, stopping};
use crate::catalog::GroupSpec;
use crate::refusal::Refusal;
use crate::shard::{Command, Explained, Wait, WaitersStep};

/// Waiters explained in one turn of a shard: each may cost it 20,000 steps through those before.
const WAITERS_PER_TURN: usize = 10;

pub(super) async fn explain(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
) -> Result<Json<Explanation>, Refusal> {
    let (name, lite) = (groups::parse(&group)?, of.name()?);
    let group = broker.group(&name)?;
    let (reply, answer) = oneshot::channel();
    send(broker.shard_of(&group)?, Command::Explain { group: group.id, lite, reply }).await?;
    let explained = answer.await.map_err(|_| stopping())??;
    // The policy may have been swapped since the group was looked up.
    Ok(Json(with_policy(&broker, &*broker.group(&name)?, explained)))
}

fn with_policy(broker: &Broker, group: &GroupSpec, explained: Explained) -> Explanation {
    let Explained { explanation, said, policy_suspended_because: suspended_because, policy_runs: runs } = explained;
    let policy = group.policy.as_ref().map(|binding| {
        let name = broker.catalog().policies.get(&binding.digest).map(|policy| policy.name.clone());
        let (name, digest) = (name.unwrap_or_default(), binding.digest.clone());
        ExplainedPolicy { name, digest, suspended_because, runs, said }
    });
    Explanation { policy, ..explanation }
}

/// How many waiters are wanted.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    limit: Option<u32>,
}

pub(super) async fn waiters(
    State(broker): App,
    Path(group): Path<String>,
    Params(Limit { limit }): Params<Limit>,
) -> Result<Json<Waiters>, Refusal> {
    let group = broker.group(&groups::parse(&group)?)?;
    let limit = page::in_range("limit", limit.unwrap_or(WAITERS_DEFAULT), PAGE_ROWS_MAX)?;
    let WaitersStep { mut waiters, mut next } = step(&broker, &group, None, limit).await?;
    while next.is_some() && waiters.waiters.len() < limit {
        let more = step(&broker, &group, next, limit - waiters.waiters.len()).await?;
        waiters.waiters.extend(more.waiters.waiters);
        next = more.next;
    }
    Ok(Json(waiters))
}

async fn step(broker: &Broker, group: &GroupSpec, after: Option<Wait>, wanted: usize) -> Result<WaitersStep, Refusal> {
    let (reply, answer) = oneshot::channel();
    let command = Command::Waiters { group: group.id, after, limit: wanted.min(WAITERS_PER_TURN), reply };
    send(broker.shard_of(group)?, command).await?;
    answer.await.map_err(|_| stopping())?
}
