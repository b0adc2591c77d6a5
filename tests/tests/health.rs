//! What the broker says of itself while it ends and when its store fails, and what becomes of its users then.

use anyhow::{Context, Result};
use sluicegate_client::Message;
use sluicegate_client::admin::{GroupSettings, HealthStatus, TopicSettings};
use sluicegate_tests::{Broker, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_broker_says_so_until_its_leases_are_settled() -> Result<()> {
    let mut broker = Broker::start()?;
    assert_eq!(broker.sluice(&["health"])?.status.code(), Some(0));
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    broker.client().producer(topic).connect().await?.send(Message::to("x")?.body("m")).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    let held = consumer.next().await.context("a delivery")??;
    broker.ask_to_stop()?;
    assert_eq!(broker.health_becomes(HealthStatus::Draining).await?.problem, None);
    let probe = broker.sluice(&["health"])?;
    assert_eq!(probe.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&probe.stdout).starts_with("draining"));
    held.ack().await?;
    tokio::task::block_in_place(|| broker.stop())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_is_told_and_opened_again_and_nothing_acknowledged_is_lost() -> Result<()> {
    const MESSAGES: u64 = 2_500;
    let broker = Broker::start_with_small_files()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut pending = std::collections::VecDeque::new();
    // 10 MB, of which one log takes a few. Larger bodies would have memtables that end the log before it is full.
    for number in 0..MESSAGES {
        let body = [&number.to_be_bytes()[..], &vec![0x5a; 4_000]].concat();
        pending.push_back(producer.enqueue(Message::to("x")?.body(body)).await?);
    }
    let failed = broker.health_becomes(HealthStatus::Failed).await?;
    assert!(failed.problem.as_deref().unwrap_or_default().contains("File too large"), "{failed:?}");
    // The producer sends again what has no receipt, by itself.
    let mut offsets = Vec::new();
    for receipt in pending {
        offsets.push(tokio::time::timeout(PATIENCE, receipt).await.context("no receipt")??.offset.0);
    }
    assert_eq!(offsets, (0..MESSAGES).collect::<Vec<_>>());
    let mut consumer = broker.client().consumer(group).connect().await?;
    let mut expected = 0;
    while expected < MESSAGES {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
        let delivery = delivery.context("the consumer ended")??;
        // A failure between ack and answer lets a message return, never out of turn.
        assert!(delivery.offset().0 <= expected, "{} came before {expected}", delivery.offset().0);
        assert_eq!(delivery.body()[..8], delivery.offset().0.to_be_bytes());
        expected = expected.max(delivery.offset().0 + 1);
        delivery.ack().await?;
    }
    Ok(())
}
