//! What operators do while traffic flows: pause, suspend, revoke, seek, skip, redrive, delete, against a real broker process.

mod dead_letter;
mod delete;
mod delete_group;
mod delete_topic;
mod group;
mod look;
mod position;
mod suspend;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sluicegate_client::admin::{AdminError, GroupSettings, LiteTopic, SuspensionSource, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message, Producer, TopicName};
use sluicegate_tests::{Broker, PATIENCE, removed};

/// Long enough that what must not happen would have happened.
const A_WHILE: Duration = Duration::from_millis(300);

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn nothing_comes(consumer: &mut Consumer) -> bool {
    tokio::time::timeout(A_WHILE, consumer.next()).await.is_err()
}

fn text(delivery: &Delivery) -> String {
    let body = String::from_utf8_lossy(delivery.body());
    format!("{} {} #{} {body}", delivery.lite(), delivery.offset(), delivery.attempt())
}

/// Publishes `m0`, `m1`, … to a lite topic.
async fn publish(producer: &Producer, lite: &str, count: u64) -> Result<()> {
    for n in 0..count {
        producer.send(Message::to(lite)?.body(format!("m{n}"))).await?;
    }
    Ok(())
}

async fn started(group: GroupSettings) -> Result<(Broker, TopicName, GroupName)> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), group).await?;
    Ok((broker, topic, group))
}

/// What a command prints with `-o json`.
fn json(broker: &Broker, arguments: &[&str]) -> Result<Value> {
    let out = broker.sluice(&[arguments, &["-o", "json"]].concat())?;
    ensure!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).with_context(|| String::from_utf8_lossy(&out.stdout).into_owned())
}

/// What the broker says when it refuses.
fn refusal<T: std::fmt::Debug>(answer: Result<T, AdminError>) -> Result<String> {
    match answer {
        Err(AdminError::Refused(refusal)) => Ok(format!("{}: {}", refusal.code, refusal.message)),
        other => anyhow::bail!("not refused: {other:?}"),
    }
}

fn sources(lite: &LiteTopic) -> Vec<SuspensionSource> {
    lite.suspensions.iter().map(|suspension| suspension.source).collect()
}
