//! Policies: upload, list, activate.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::admin::{ActivatePolicy, Activation, Policy, PolicyChange, Shadow};

use super::groups::parse;
use super::{App, Body, Raw};
use crate::auth::Who;
use crate::broker::Broker;
use crate::catalog::PolicySpec;
use crate::control::Wanted;
use crate::refusal::Refusal;
use crate::server::group_report;

pub(super) async fn list(State(broker): App) -> Json<Vec<Policy>> {
    let catalog = broker.catalog();
    Json(catalog.policies.values().map(|policy| describe(&broker, policy)).collect())
}

pub(super) async fn push(State(broker): App, Raw(wasm): Raw) -> Result<(StatusCode, Json<Policy>), Refusal> {
    let spec = broker.control.push_policy(wasm.to_vec()).await?;
    Ok((StatusCode::CREATED, Json(describe(&broker, &spec))))
}

pub(super) async fn activate(
    State(broker): App,
    Path(group): Path<String>,
    Extension(who): Extension<Who>,
    Body(policy): Body<ActivatePolicy>,
) -> Result<Json<Activation>, Refusal> {
    let wanted = Wanted::Policy { digest: policy.digest, config: policy.config };
    broker.control.activate(parse(&group)?, wanted, who).await.map(Json)
}

pub(super) async fn deactivate(
    State(broker): App,
    Path(group): Path<String>,
    Extension(who): Extension<Who>,
) -> Result<Json<Activation>, Refusal> {
    broker.control.activate(parse(&group)?, Wanted::BuiltIn, who).await.map(Json)
}

pub(super) async fn roll_back(
    State(broker): App,
    Path(group): Path<String>,
    Extension(who): Extension<Who>,
) -> Result<Json<Activation>, Refusal> {
    broker.control.activate(parse(&group)?, Wanted::Before, who).await.map(Json)
}

pub(super) async fn history(State(broker): App, Path(group): Path<String>) -> Result<Json<Vec<PolicyChange>>, Refusal> {
    let name = parse(&group)?;
    let catalog = broker.catalog();
    let unknown = || Refusal::new(ErrorCode::UnknownGroup, format!("group `{name}` does not exist"));
    let spec = catalog.groups.get(&name).ok_or_else(unknown)?;
    Ok(Json(crate::control::history(spec)))
}

pub(super) async fn shadow(
    State(broker): App,
    Path(group): Path<String>,
    Extension(who): Extension<Who>,
    Body(policy): Body<ActivatePolicy>,
) -> Result<Json<Shadow>, Refusal> {
    broker.control.shadow(parse(&group)?, policy, who).await.map(Json)
}

pub(super) async fn show_shadow(
    State(broker): App,
    Path(group): Path<String>,
) -> Result<Json<Option<Shadow>>, Refusal> {
    let spec = broker.group(&parse(&group)?)?;
    Ok(Json(group_report(&broker, &spec).await.shadow))
}

pub(super) async fn end_shadow(
    State(broker): App,
    Path(group): Path<String>,
    Extension(who): Extension<Who>,
) -> Result<(), Refusal> {
    broker.control.end_shadow(parse(&group)?, who).await
}

pub(super) async fn release(
    State(broker): App,
    Path(digest): Path<String>,
    Extension(who): Extension<Who>,
) -> Result<Json<Policy>, Refusal> {
    let spec = broker.control.release_policy(digest, who).await?;
    Ok(Json(describe(&broker, &spec)))
}

fn describe(broker: &Arc<Broker>, spec: &PolicySpec) -> Policy {
    let catalog = broker.catalog();
    let uses = |group: &&Arc<crate::catalog::GroupSpec>| {
        group.policy.as_ref().is_some_and(|binding| binding.digest == spec.digest)
    };
    Policy {
        digest: spec.digest.clone(),
        name: spec.name.clone(),
        version: spec.version.clone(),
        bytes: spec.bytes,
        uploaded_at: spec.uploaded_at,
        quarantine: spec.quarantine.clone(),
        active_in: catalog.groups.values().filter(uses).map(|group| group.name.clone()).collect(),
    }
}
