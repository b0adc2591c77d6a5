//! What policies' faults left: list and fetch. And the policies themselves, to have the faults again elsewhere.

use std::io;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header;
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::admin::{Capsule, CapsuleQuery};

use super::{App, Params};
use crate::broker::{Broker, stopping};
use crate::policy::Cabinet;
use crate::refusal::Refusal;

/// Bytes with their media type.
type Bytes = ([(header::HeaderName, &'static str); 1], Vec<u8>);

pub(super) async fn list(
    State(broker): App,
    Params(CapsuleQuery { group }): Params<CapsuleQuery>,
) -> Result<Json<Vec<Capsule>>, Refusal> {
    let mut capsules = read(&broker, Cabinet::list).await?;
    if let Some(group) = group {
        capsules.retain(|capsule| capsule.header.group == group.as_str());
    }
    Ok(Json(capsules))
}

pub(super) async fn fetch(State(broker): App, Path(id): Path<String>) -> Result<Bytes, Refusal> {
    let wanted = id.clone();
    let capsule = read(&broker, move |cabinet| cabinet.read(&wanted)).await?;
    let gone = || Refusal::new(ErrorCode::UnknownCapsule, format!("no capsule `{id}` is kept; the oldest go"));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], capsule.ok_or_else(gone)?))
}

pub(super) async fn component(State(broker): App, Path(digest): Path<String>) -> Result<Bytes, Refusal> {
    let wanted = digest.clone();
    let found = super::page::read(&broker, move |store| store.policy_bytes(&wanted)).await?;
    let unknown = || Refusal::new(ErrorCode::UnknownPolicy, format!("no policy has the digest `{digest}`"));
    Ok(([(header::CONTENT_TYPE, "application/wasm")], found.ok_or_else(unknown)?))
}

/// Reads on a thread that may wait for the disk.
async fn read<T: Send + 'static>(
    broker: &Broker,
    read: impl FnOnce(&Cabinet) -> io::Result<T> + Send + 'static,
) -> Result<T, Refusal> {
    let cabinet = broker.capsules.clone();
    let read = tokio::task::spawn_blocking(move || read(&cabinet)).await.map_err(|_| stopping())?;
    read.map_err(|error| Refusal::new(ErrorCode::Internal, format!("the capsules cannot be read: {error}")))
}
