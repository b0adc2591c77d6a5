//! Topics.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use sluicegate_protocol::admin::{CreateTopic, DeleteTopic, DeletedTopic, Topic};
use sluicegate_protocol::{ErrorCode, TopicName};
use tokio::sync::oneshot;

use super::{App, Body, Params, invalid};
use crate::broker::{Broker, send, stopping};
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;
use crate::shard::Command;

pub(super) async fn list(State(broker): App) -> Result<Json<Vec<Topic>>, Refusal> {
    let mut topics = Vec::new();
    for spec in broker.catalog().topics.values() {
        topics.push(describe(&broker, spec).await?);
    }
    Ok(Json(topics))
}

pub(super) async fn show(State(broker): App, Path(name): Path<String>) -> Result<Json<Topic>, Refusal> {
    describe(&broker, &*find(&broker, &name)?).await.map(Json)
}

/// The topic with this name; none is made.
pub(super) fn find(broker: &Broker, name: &str) -> Result<Arc<TopicSpec>, Refusal> {
    let name = TopicName::parse_existing(name).map_err(|error| invalid(&error))?;
    let unknown = || Refusal::new(ErrorCode::UnknownTopic, format!("topic `{name}` does not exist"));
    broker.catalog().topics.get(name.as_str()).cloned().ok_or_else(unknown)
}

pub(super) async fn create(
    State(broker): App,
    Body(topic): Body<CreateTopic>,
) -> Result<(StatusCode, Json<Topic>), Refusal> {
    // A topic that exists may be a dead-letter topic; one that a user makes may not.
    TopicName::parse(topic.name.as_str()).map_err(|error| invalid(&error))?;
    let spec = broker.control.create_topic(topic).await?;
    Ok((StatusCode::CREATED, Json(describe(&broker, &spec).await?)))
}

pub(super) async fn delete(
    State(broker): App,
    Path(name): Path<String>,
    Params(DeleteTopic { groups }): Params<DeleteTopic>,
) -> Result<Json<DeletedTopic>, Refusal> {
    let name = TopicName::parse_existing(&name).map_err(|error| invalid(&error))?;
    broker.control.delete_topic(name, groups).await.map(Json)
}

async fn describe(broker: &Arc<Broker>, spec: &TopicSpec) -> Result<Topic, Refusal> {
    let (reply, count) = oneshot::channel();
    send(broker.shard(spec.shard), Command::CountTopic { topic: spec.id, reply }).await?;
    let count = count.await.map_err(|_| stopping())?;
    Ok(Topic {
        name: spec.topic_name(),
        settings: spec.settings.clone(),
        created_at: spec.created_at,
        groups: broker.catalog().groups_of(spec.id).map(|group| group.name.clone()).collect(),
        lite_topics: count.lite_topics,
        messages: count.kept.messages,
        bytes: count.kept.bytes,
    })
}
