//! Groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sluicegate_protocol::admin::{
    BoundPolicy, ConcurrencySettings, CreateGroup, DeleteGroup, DeletedGroup, Group, QuotaSettings, RetrySettings,
    TenantQuery, WatchdogSettings,
};
use sluicegate_protocol::{ErrorCode, GroupName};

use super::{App, Body, Params, invalid};
use crate::broker::Broker;
use crate::catalog::{GroupChange, GroupSpec};
use crate::refusal::Refusal;
use crate::server::group_report;

pub(super) async fn list(State(broker): App) -> Result<Json<Vec<Group>>, Refusal> {
    let mut groups = Vec::new();
    for spec in broker.catalog().groups.values() {
        groups.push(describe(&broker, spec).await?);
    }
    Ok(Json(groups))
}

pub(super) async fn show(State(broker): App, Path(name): Path<String>) -> Result<Json<Group>, Refusal> {
    let spec = broker.group(&parse(&name)?)?;
    describe(&broker, &spec).await.map(Json)
}

pub(super) async fn create(
    State(broker): App,
    Body(group): Body<CreateGroup>,
) -> Result<(StatusCode, Json<Group>), Refusal> {
    let spec = broker.control.create_group(group).await?;
    Ok((StatusCode::CREATED, Json(describe(&broker, &spec).await?)))
}

pub(super) async fn delete(
    State(broker): App,
    Path(name): Path<String>,
    Params(DeleteGroup { dead_letters }): Params<DeleteGroup>,
) -> Result<Json<DeletedGroup>, Refusal> {
    broker.control.delete_group(parse(&name)?, dead_letters).await.map(Json)
}

pub(super) async fn set_quotas(
    State(broker): App,
    Path(name): Path<String>,
    Body(quotas): Body<QuotaSettings>,
) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::Quotas(quotas)).await
}

pub(super) async fn set_concurrency(
    State(broker): App,
    Path(name): Path<String>,
    Body(concurrency): Body<ConcurrencySettings>,
) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::Concurrency(concurrency)).await
}

pub(super) async fn set_retry(
    State(broker): App,
    Path(name): Path<String>,
    Body(retry): Body<RetrySettings>,
) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::Retry(retry)).await
}

pub(super) async fn set_watchdog(
    State(broker): App,
    Path(name): Path<String>,
    Body(watchdog): Body<WatchdogSettings>,
) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::Watchdog(watchdog)).await
}

pub(super) async fn set_tenant_labels(
    State(broker): App,
    Path(name): Path<String>,
    Params(TenantQuery { tenant }): Params<TenantQuery>,
    Body(labels): Body<BTreeMap<String, String>>,
) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::TenantLabels(tenant, labels)).await
}

pub(super) async fn pause(State(broker): App, Path(name): Path<String>) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::Pause).await
}

pub(super) async fn resume(State(broker): App, Path(name): Path<String>) -> Result<Json<Group>, Refusal> {
    change(&broker, &name, GroupChange::Resume).await
}

async fn change(broker: &Arc<Broker>, name: &str, change: GroupChange) -> Result<Json<Group>, Refusal> {
    let spec = broker.control.change_group(parse(name)?, change).await?;
    describe(broker, &spec).await.map(Json)
}

pub(super) fn parse(name: &str) -> Result<GroupName, Refusal> {
    GroupName::parse(name).map_err(|error| invalid(&error))
}

async fn describe(broker: &Arc<Broker>, spec: &GroupSpec) -> Result<Group, Refusal> {
    let catalog = broker.catalog();
    let deleted = || Refusal::new(ErrorCode::UnknownTopic, "the group's topic was deleted");
    let topic = catalog.topic(spec.topic).ok_or_else(deleted)?;
    let report = group_report(broker, spec).await;
    let policy = spec.policy.as_ref().map(|binding| BoundPolicy {
        digest: binding.digest.clone(),
        name: catalog.policies.get(&binding.digest).map(|policy| policy.name.clone()).unwrap_or_default(),
        config: binding.config.clone(),
        activated_at: binding.activated_at,
        suspended_because: report.policy_suspended_because,
        runs: report.policy_runs,
    });
    Ok(Group {
        name: spec.name.clone(),
        topic: topic.topic_name(),
        settings: spec.settings.clone(),
        created_at: spec.created_at,
        paused: spec.paused,
        policy,
        last_strike: report.last_strike,
        shadow: report.shadow,
        stats: report.stats,
    })
}
