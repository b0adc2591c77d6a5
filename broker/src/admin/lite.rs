//! Lite topics: list, look at, suspend, resume, seek, skip, purge, delete.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use sluicegate_protocol::admin::{
    DeletedLite, LiteChange, LitePage, LiteReclaim, LiteTopic, Page, ResumeLite, SeekLite, SetReclaim, SkipMessage,
    SuspendLite,
};
use sluicegate_protocol::limits::{SUSPEND_MAX, SUSPEND_MIN};
use sluicegate_protocol::{ErrorCode, LiteName, Position};
use tokio::sync::oneshot;

use super::page::{self, Names};
use super::{App, Body, Params, groups, invalid, topics};
use crate::broker::{Broker, send, stopping};
use crate::refusal::Refusal;
use crate::shard::{Command, OpenLeases, OperatorRequest, Verb};

/// Names a lite topic.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OfLite {
    pub(super) lite: String,
}

impl OfLite {
    pub(super) fn name(&self) -> Result<LiteName, Refusal> {
        LiteName::parse(&self.lite).map_err(|error| invalid(&error))
    }
}

pub(super) async fn list(
    State(broker): App,
    Path(topic): Path<String>,
    Params(page): Params<Page>,
) -> Result<Json<LitePage>, Refusal> {
    let topic = topics::find(&broker, &topic)?;
    let names = Names::parse(page.prefix.as_deref(), page.after.as_deref(), page.limit)?;
    page::read(&broker, move |store| page::lite_topics(store, &topic, &names)).await.map(Json)
}

pub(super) async fn delete(
    State(broker): App,
    Path(topic): Path<String>,
    Params(of): Params<OfLite>,
) -> Result<Json<DeletedLite>, Refusal> {
    let (topic, lite) = (topics::find(&broker, &topic)?, of.name()?);
    let (reply, answer) = oneshot::channel();
    send(broker.shard(topic.shard), Command::DeleteLite { topic: topic.id, lite, reply }).await?;
    answer.await.map_err(|_| stopping())?.map(Json)
}

pub(super) async fn set_reclaim(
    State(broker): App,
    Path(topic): Path<String>,
    Params(of): Params<OfLite>,
    Body(SetReclaim { reclaim }): Body<SetReclaim>,
) -> Result<Json<LiteReclaim>, Refusal> {
    let (topic, lite) = (topics::find(&broker, &topic)?, of.name()?);
    reclaim.map_or(Ok(()), |reclaim| reclaim.check()).map_err(|problem| invalid(&problem))?;
    let (reply, answer) = oneshot::channel();
    send(broker.shard(topic.shard), Command::SetReclaim { topic: topic.id, lite, reclaim, reply }).await?;
    answer.await.map_err(|_| stopping())?.map(Json)
}

pub(super) async fn show(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
) -> Result<Json<LiteTopic>, Refusal> {
    operate(&broker, &group, &of, Verb::Show).await.map(|Json(change)| Json(change.lite_topic))
}

pub(super) async fn suspend(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
    Body(SuspendLite { for_ms, revoke }): Body<SuspendLite>,
) -> Result<Json<LiteChange>, Refusal> {
    let duration = Duration::from_millis(for_ms);
    if !(SUSPEND_MIN..=SUSPEND_MAX).contains(&duration) {
        let message = format!("for_ms: {for_ms}, allowed are 1 to {} (30 days)", SUSPEND_MAX.as_millis());
        return Err(Refusal::new(ErrorCode::InvalidArgument, message));
    }
    let leases = if revoke { OpenLeases::Revoked } else { OpenLeases::RunOn };
    operate(&broker, &group, &of, Verb::Suspend(duration, leases)).await
}

pub(super) async fn resume(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
    Body(ResumeLite { source }): Body<ResumeLite>,
) -> Result<Json<LiteChange>, Refusal> {
    operate(&broker, &group, &of, Verb::Resume(source)).await
}

pub(super) async fn seek(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
    Body(SeekLite { to }): Body<SeekLite>,
) -> Result<Json<LiteChange>, Refusal> {
    operate(&broker, &group, &of, Verb::Seek(to)).await
}

pub(super) async fn skip(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
    Body(SkipMessage { offset }): Body<SkipMessage>,
) -> Result<Json<LiteChange>, Refusal> {
    operate(&broker, &group, &of, Verb::Skip(offset)).await
}

pub(super) async fn purge(
    State(broker): App,
    Path(group): Path<String>,
    Params(of): Params<OfLite>,
) -> Result<Json<LiteChange>, Refusal> {
    operate(&broker, &group, &of, Verb::Seek(Position::Latest)).await
}

/// Lets the group's shard do it.
pub(super) async fn operate(
    broker: &Broker,
    group: &str,
    of: &OfLite,
    verb: Verb,
) -> Result<Json<LiteChange>, Refusal> {
    let (group, lite) = (broker.group(&groups::parse(group)?)?, of.name()?);
    let (reply, answer) = oneshot::channel();
    let request = OperatorRequest { group: group.id, lite, verb, reply };
    send(broker.shard_of(&group)?, Command::Operate(request)).await?;
    answer.await.map_err(|_| stopping())?.map(Json)
}
