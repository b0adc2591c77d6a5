//! Policies: upload, list, activate.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sluicegate_protocol::admin::{
    ActivatePolicy, Activation, ConfigurePolicy, Policy, PolicyChange, PolicyDescription, PolicyDetails, Shadow,
    ValidatePolicy, ValidatedPolicy,
};

use super::groups::parse;
use super::{App, Body, Raw, invalid};
use crate::auth::Who;
use crate::broker::Broker;
use crate::catalog::PolicySpec;
use crate::control::Wanted;
use crate::policy::{CompiledPolicy, limits};
use crate::refusal::Refusal;
use crate::server::group_report;

pub(super) async fn list(State(broker): App) -> Json<Vec<Policy>> {
    let catalog = broker.catalog();
    Json(catalog.policies.values().map(|policy| describe(&broker, policy)).collect())
}

pub(super) async fn show(State(broker): App, Path(digest): Path<String>) -> Result<Json<PolicyDetails>, Refusal> {
    let (spec, compiled) = broker.control.policy(&digest).await?;
    let history = spec.history.iter().rev().cloned().collect();
    Ok(Json(PolicyDetails { policy: describe(&broker, &spec), description: description(&compiled), history }))
}

pub(super) async fn push(
    State(broker): App,
    Extension(who): Extension<Who>,
    Raw(wasm): Raw,
) -> Result<(StatusCode, Json<Policy>), Refusal> {
    let spec = broker.control.push_policy(wasm.to_vec(), who).await?;
    Ok((StatusCode::CREATED, Json(describe(&broker, &spec))))
}

pub(super) async fn validate(
    State(broker): App,
    Body(ValidatePolicy { component, config, group }): Body<ValidatePolicy>,
) -> Result<Json<ValidatedPolicy>, Refusal> {
    let not_base64 = |error: base64::DecodeError| invalid(&format!("component: it is not base64: {error}"));
    let wasm = BASE64_STANDARD.decode(component).map_err(not_base64)?;
    let compiled = broker.control.validate_policy(&wasm, config, group.as_ref()).await?;
    let descriptor = compiled.descriptor();
    Ok(Json(ValidatedPolicy {
        digest: compiled.digest().to_owned(),
        name: descriptor.name.clone(),
        version: descriptor.version.clone(),
        bytes: wasm.len() as u64,
        description: description(&compiled),
    }))
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

pub(super) async fn configure(
    State(broker): App,
    Path(group): Path<String>,
    Extension(who): Extension<Who>,
    Body(policy): Body<ConfigurePolicy>,
) -> Result<Json<Activation>, Refusal> {
    broker.control.activate(parse(&group)?, Wanted::Config(policy.config), who).await.map(Json)
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
    let spec = broker.group(&parse(&group)?)?;
    Ok(Json(crate::control::history(&spec)))
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

fn description(compiled: &CompiledPolicy) -> PolicyDescription {
    let descriptor = compiled.descriptor();
    PolicyDescription {
        contract: compiled.contract().to_owned(),
        config_schema: descriptor.config_schema.clone(),
        reasons: descriptor.reasons.clone(),
        wants: descriptor.wants.clone(),
        learns_lite_topics: descriptor.learns_lites,
        state_schema: descriptor.state_schema,
        code_bytes: compiled.code_bytes() as u64,
        limits: limits(),
    }
}
