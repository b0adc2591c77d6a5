//! Lite topics: delete.

use anyhow::{Context, Result};
use serde_json::Value;
use sluicegate_client::admin::GroupSettings;
use sluicegate_client::{LiteName, Message, Offset, SettleError};

use super::{json, next, refusal, started, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_lite_topic_is_gone_and_its_name_begins_a_new_life() -> Result<()> {
    const COUNT: u64 = 1_200;
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for n in 0..COUNT {
        pending.push(producer.enqueue(Message::to("x")?.body(n.to_string())).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let gone = json(&broker, &["lite", "delete", "t", "x"])?;
    assert_eq!([&gone["messages"], &gone["revoked"]], [COUNT, 1]);
    assert!(matches!(held.ack().await, Err(SettleError::LeaseLost)));
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    assert_eq!(
        refusal(admin.lite_topic(&group, &lite).await)?,
        "unknown_lite: lite topic `x` does not exist in topic `t`"
    );
    assert_eq!(admin.topic(&topic).await?.lite_topics, 0);
    let receipt = producer.send(Message::to("x")?.body("anew")).await?;
    assert_eq!((receipt.offset.0, receipt.created), (0, true));
    assert_ne!(Value::from(receipt.lite_id.to_string()), gone["lite_id"]);
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 anew");
    consumer.close().await;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let shown = broker.admin(None)?.lite_topic(&group, &lite).await?;
    // The crash may have been before the end of the session: then its lease is open still.
    let unsettled = shown.backlog + shown.leases.len() as u64;
    assert_eq!((shown.lite_id, shown.next_offset.0, unsettled), (receipt.lite_id, 1, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_while_messages_come_is_gone_for_good() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let mut lives = std::collections::BTreeSet::new();
    for round in 0..20 {
        let pending: Vec<_> = {
            let mut pending = Vec::new();
            for n in 0..20 {
                pending.push(producer.enqueue(Message::to("x")?.body(format!("{round}.{n}"))).await?);
            }
            pending
        };
        // It may not be there yet, or be there twice; it must never be half there.
        match admin.delete_lite(&topic, &lite).await {
            Ok(_) => {}
            other => assert_eq!(refusal(other)?, "unknown_lite: lite topic `x` does not exist in topic `t`"),
        }
        for receipt in pending {
            lives.insert(receipt.await?.lite_id);
        }
    }
    let newest = *lives.last().context("messages were published")?;
    let left = admin.lite_topic(&group, &lite).await;
    let Ok(left) = left else { return Ok(()) };
    assert_eq!((left.lite_id, left.first_kept, left.backlog), (newest, Offset(0), left.next_offset.0));
    let mut consumer = broker.client().consumer(group).connect().await?;
    for offset in 0..left.next_offset.0 {
        let delivery = next(&mut consumer).await?;
        assert_eq!((delivery.lite_id(), delivery.offset().0), (newest, offset));
        delivery.ack().await?;
    }
    Ok(())
}
