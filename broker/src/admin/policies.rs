//! Policies: upload, list, activate.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sluicegate_protocol::admin::{ActivatePolicy, Activation, Policy};

use super::groups::parse;
use super::{App, Body, Raw};
use crate::broker::Broker;
use crate::catalog::PolicySpec;
use crate::refusal::Refusal;

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
    Body(policy): Body<ActivatePolicy>,
) -> Result<Json<Activation>, Refusal> {
    let wanted = Some((policy.digest, policy.config));
    broker.control.activate(parse(&group)?, wanted).await.map(Json)
}

pub(super) async fn deactivate(State(broker): App, Path(group): Path<String>) -> Result<Json<Activation>, Refusal> {
    broker.control.activate(parse(&group)?, None).await.map(Json)
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
        active_in: catalog.groups.values().filter(uses).map(|group| group.name.clone()).collect(),
    }
}
