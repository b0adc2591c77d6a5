//! How much a topic lets in, exactly, against a real broker process.

use anyhow::{Context, Result};
use sluicegate_client::admin::{Admin, GroupSettings, TenantRule, TopicLimits, TopicSettings};
use sluicegate_client::{
    Client, Delivery, ErrorCode, GroupName, LiteName, Message, Producer, PublishError, Refusal, TopicName,
};
use sluicegate_tests::{Broker, PATIENCE};

struct World {
    broker: Broker,
    client: Client,
    admin: Admin,
    topic: TopicName,
    group: GroupName,
}

async fn started(limits: TopicLimits, tenant: TenantRule) -> Result<World> {
    let broker = Broker::start()?;
    let settings = TopicSettings { limits, tenant, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(settings, GroupSettings::default()).await?;
    let (client, admin) = (broker.client(), broker.admin(None)?);
    Ok(World { broker, client, admin, topic, group })
}

fn lite(name: &str) -> LiteName {
    LiteName::parse(name).expect("a good name")
}

/// Why a publish was refused: the limit, its value, and what would have been.
fn reached(error: PublishError) -> (String, u64, u64) {
    let PublishError::Refused(Refusal { code, retry_after, detail, .. }) = error else { panic!("no refusal: {error}") };
    assert_eq!((code, retry_after.is_some()), (ErrorCode::LimitReached, true));
    let number = |key: &str| detail[key].parse().expect("a number");
    (detail["limit"].clone(), number("max"), number("current"))
}

impl World {
    async fn producer(&self) -> Result<Producer> {
        Ok(self.client.producer(self.topic.clone()).connect().await?)
    }

    async fn publish(&self, name: &str, bytes: usize) -> Result<(), PublishError> {
        let producer = self.producer().await.expect("the broker is there");
        let message = Message::to(name).expect("a good name").body(vec![b'x'; bytes]);
        let sent = producer.send(message).await.map(drop);
        producer.close().await;
        sent
    }

    async fn refused(&self, name: &str, bytes: usize) -> (String, u64, u64) {
        reached(self.publish(name, bytes).await.expect_err("it is beyond the limit"))
    }

    async fn settle(&self, count: usize) -> Result<()> {
        let mut consumer = self.client.consumer(self.group.clone()).workers(1).connect().await?;
        for _ in 0..count {
            let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
            let delivery: Delivery = next.context("the consumer ended")??;
            delivery.ack().await?;
        }
        consumer.close().await;
        Ok(())
    }

    async fn count(&self) -> Result<(u64, u64, u64)> {
        let topic = self.admin.topic(&self.topic).await?;
        Ok((topic.lite_topics, topic.messages, topic.bytes))
    }

    fn restart(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.broker.crash_and_restart())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lite_topic_takes_its_messages_and_no_more_until_one_is_settled() -> Result<()> {
    let limits = TopicLimits { lite_messages: 3, ..TopicLimits::NONE };
    let mut world = started(limits, TenantRule::LiteTopic).await?;
    for _ in 0..3 {
        world.publish("a", 1).await?;
    }
    let beyond = ("messages of the lite topic".to_owned(), 3, 4);
    assert_eq!(world.refused("a", 1).await, beyond);
    world.publish("b", 1).await?;
    world.restart()?;
    assert_eq!(world.refused("a", 1).await, beyond);
    assert_eq!(world.count().await?, (2, 4, 4));
    world.settle(2).await?;
    // Whichever two were settled, one is of `a`.
    world.publish("a", 1).await?;
    world.admin.purge_lite(&world.group, &lite("a")).await?;
    for _ in 0..3 {
        world.publish("a", 1).await?;
    }
    assert_eq!(world.refused("a", 1).await, beyond);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_count_bodies_and_properties_exactly_and_survive_a_crash() -> Result<()> {
    let limits = TopicLimits { lite_bytes: 1_000, bytes: 1_500, ..TopicLimits::NONE };
    let mut world = started(limits, TenantRule::LiteTopic).await?;
    let producer = world.producer().await?;
    producer.send(Message::to("a")?.body(vec![0; 290]).property("key", "value99")).await?;
    producer.send(Message::to("a")?.body(vec![0; 500])).await?;
    assert_eq!(world.refused("a", 201).await, ("bytes of the lite topic".to_owned(), 1_000, 1_001));
    world.publish("a", 200).await?;
    assert_eq!(world.refused("b", 501).await, ("bytes of the topic".to_owned(), 1_500, 1_501));
    assert_eq!(world.count().await?, (1, 3, 1_000), "what was refused left nothing");
    world.restart()?;
    assert_eq!(world.count().await?, (1, 3, 1_000));
    world.settle(1).await?;
    assert_eq!(world.count().await?, (1, 2, 700));
    world.restart()?;
    assert_eq!(world.refused("a", 301).await, ("bytes of the lite topic".to_owned(), 1_000, 1_001));
    world.publish("a", 300).await?;
    world.publish("b", 500).await?;
    assert_eq!(world.refused("c", 1).await, ("bytes of the topic".to_owned(), 1_500, 1_501));
    world.admin.delete_lite(&world.topic, &lite("a")).await?;
    assert_eq!(world.count().await?, (1, 1, 500));
    world.restart()?;
    assert_eq!(world.count().await?, (1, 1, 500));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_at_once_fill_a_topic_exactly() -> Result<()> {
    let limits = TopicLimits { messages: 250, lite_topics: 5, ..TopicLimits::NONE };
    let world = started(limits, TenantRule::LiteTopic).await?;
    let mut sending = tokio::task::JoinSet::new();
    for number in 0..4_usize {
        let producer = world.producer().await?;
        sending.spawn(async move {
            let mut pending = Vec::new();
            for at in 0..200 {
                let message = Message::to(&format!("{}", (number + at) % 8)).expect("a good name");
                pending.push(producer.enqueue(message).await.expect("it is sent"));
            }
            let mut receipts = 0;
            for pending in pending {
                match pending.await {
                    Ok(_) => receipts += 1,
                    Err(error) => drop(reached(error)),
                }
            }
            receipts
        });
    }
    let receipts: u64 = sending.join_all().await.into_iter().sum();
    assert_eq!((receipts, world.count().await?), (250, (5, 250, 0)));
    assert_eq!(world.refused("9", 0).await, ("lite topics of the topic".to_owned(), 5, 6));
    world.settle(250).await?;
    assert_eq!(world.count().await?, (5, 0, 0));
    assert_eq!(world.refused("9", 0).await, ("lite topics of the topic".to_owned(), 5, 6));
    world.publish("1", 0).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_lite_topics_share_its_limit() -> Result<()> {
    let limits = TopicLimits { tenant_messages: 3, tenant_bytes: 100, ..TopicLimits::NONE };
    let mut world = started(limits, TenantRule::Prefix).await?;
    for name in ["acme/1", "acme/2", "acme/3", "other/1"] {
        world.publish(name, 10).await?;
    }
    let beyond = ("messages of the tenant".to_owned(), 3, 4);
    assert_eq!((world.refused("acme/4", 1).await, world.refused("acme/1", 1).await), (beyond.clone(), beyond.clone()));
    world.restart()?;
    assert_eq!(world.refused("acme/1", 1).await, beyond);
    world.publish("other/2", 90).await?;
    assert_eq!(world.refused("other/1", 1).await, ("bytes of the tenant".to_owned(), 100, 101));
    world.admin.delete_lite(&world.topic, &lite("acme/2")).await?;
    world.publish("acme/4", 1).await?;
    world.restart()?;
    assert_eq!(world.refused("acme/4", 1).await, beyond);
    world.settle(5).await?;
    world.publish("acme/5", 100).await?;
    world.publish("other/1", 100).await?;
    Ok(())
}
