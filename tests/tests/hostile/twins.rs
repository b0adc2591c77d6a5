//! What a guest could draw chance from is the same in every instance, on every start.

use anyhow::{Context, Result};
use sluicegate_client::admin::{ActivatePolicy, GroupSettings, TopicSettings};
use sluicegate_client::{LiteName, Message};
use sluicegate_tests::{Broker, PATIENCE, policy};

use crate::ALONE;

/// Sixteen rows show four bits each, by the cost of their heads.
async fn drawn(broker: &Broker) -> Result<Vec<String>> {
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let digest = admin.push_policy(policy("hostile")).await?.digest;
    let config = r#"{"misbehave":"draw","always":true}"#.into();
    admin.activate_policy(&group, &ActivatePolicy { digest, config }).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for row in 1..=16 {
        producer.send(Message::to(&format!("row-{row}"))?.cost(row)).await?;
    }
    // Somebody has to want them before the policy is asked.
    let mut consumer = broker.client().consumer(group.clone()).workers(32).connect().await?;
    let mut open = Vec::new();
    for _ in 0..16 {
        let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
        open.push(next.context("the consumer ended")??);
    }
    let mut drawn = Vec::new();
    for row in 1..=16 {
        let why = admin.explain(&group, &LiteName::parse(&format!("row-{row}"))?).await?;
        drawn.push(why.policy.and_then(|policy| policy.said).context("the policy was asked")?.reason);
    }
    Ok(drawn)
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_chance_in_a_sandbox() -> Result<()> {
    let _alone = ALONE.lock().await;
    let (one, other) = (Broker::start()?, Broker::start()?);
    let drawn = (drawn(&one).await?, drawn(&other).await?);
    assert!(drawn.0.iter().all(|reason| reason.starts_with("drew ")), "{:?}", drawn.0);
    assert_eq!(drawn.0, drawn.1);
    Ok(())
}
