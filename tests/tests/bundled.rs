//! The bundled policies in a broker: what they learn of labels, deadlines, load and retry-after comes to them, and what they decide holds.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{ActivatePolicy, Admin, GroupSettings, Page, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message, Outcome, Timestamp, TopicName};
use sluicegate_tests::{Broker, PATIENCE, policy};

/// Longer than a delivery takes that nothing holds back.
const A_WHILE: Duration = Duration::from_millis(500);

struct World {
    broker: Broker,
    admin: Admin,
    topic: TopicName,
    group: GroupName,
    /// When the policy began to decide, by the broker's clock.
    began: Timestamp,
}

impl World {
    /// A group for which a bundled policy decides.
    async fn new(name: &str, config: &str) -> Result<Self> {
        let broker = Broker::start()?;
        let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
        let admin = broker.admin(None)?;
        let digest = admin.push_policy(policy(name)).await?.digest;
        let began = admin.activate_policy(&group, &ActivatePolicy { digest, config: config.into() }).await?.at;
        Ok(Self { broker, admin, topic, group, began })
    }

    async fn publish(&self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let producer = self.broker.client().producer(self.topic.clone()).connect().await?;
        for message in messages {
            producer.send(message).await?;
        }
        Ok(())
    }

    async fn consumer(&self, workers: u32) -> Result<Consumer> {
        Ok(self.broker.client().consumer(self.group.clone()).workers(workers).connect().await?)
    }

    async fn no_strikes(&self) -> Result<()> {
        let stats = self.admin.group(&self.group).await?.stats;
        assert!(stats.policy_frames > 0 && stats.policy_strikes == 0, "{stats:?}");
        Ok(())
    }
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn comes_nothing(consumer: &mut Consumer) -> Result<()> {
    match tokio::time::timeout(A_WHILE, consumer.next()).await {
        Err(_) => Ok(()),
        Ok(delivery) => anyhow::bail!("{:?} came", delivery.context("the consumer ended")??.lite()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_them_serves_everything_with_its_defaults() -> Result<()> {
    for name in ["token-bucket", "fair-share", "busy-idle", "deadline", "adaptive", "strict-tiers", "calm"] {
        let world = World::new(name, "").await?;
        world.publish((0..300).map(|n| Message::to(&format!("t{}/{n}", n % 7)).expect("a name"))).await?;
        let mut consumer = world.consumer(16).await?;
        let mut served = BTreeMap::<String, u32>::new();
        for _ in 0..300 {
            let delivery = next(&mut consumer).await.context(name)?;
            *served.entry(delivery.lite().into()).or_default() += 1;
            delivery.ack_with_cost(2).await?;
        }
        assert!(served.len() == 300 && served.values().all(|count| *count == 1), "{name}: {served:?}");
        world.no_strikes().await.context(name)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn labelled_batch_work_waits_while_the_consumers_are_busy() -> Result<()> {
    let world = World::new("busy-idle", r#"{"step_min_seconds":1,"step_max_seconds":1}"#).await?;
    let mut consumer = world.consumer(4).await?;
    consumer.load().report(0.95);
    world.publish([Message::to("chat")?]).await?;
    next(&mut consumer).await?.ack().await?;
    world.publish([Message::to("embed")?.property("label.class", "batch"), Message::to("chat")?]).await?;
    let first = next(&mut consumer).await?;
    assert_eq!(first.lite(), "chat");
    first.ack().await?;
    comes_nothing(&mut consumer).await?;
    // The label is the lite topic's: its second message need not say it.
    world.publish([Message::to("embed")?]).await?;
    consumer.load().report(0.1);
    for _ in 0..2 {
        let delivery = next(&mut consumer).await?;
        assert_eq!(delivery.lite(), "embed");
        delivery.ack().await?;
    }
    world.no_strikes().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_make_its_deadline_is_dead_lettered_with_the_reason() -> Result<()> {
    let world = World::new("deadline", r#"{"service_default_ms":600000}"#).await?;
    let late = Message::to("late")?.expires_at(world.began.plus(Duration::from_mins(1)));
    let in_time = Message::to("in-time")?.expires_at(world.began.plus(Duration::from_hours(1)));
    world.publish([late, in_time]).await?;
    let mut consumer = world.consumer(4).await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(delivery.lite(), "in-time");
    delivery.ack().await?;
    let dead = async {
        loop {
            let dead = world.admin.dead_letters(&world.group, &Page::default()).await?.dead_letters;
            if let Some(dead) = dead.into_iter().next() {
                return anyhow::Ok(dead);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let dead = tokio::time::timeout(PATIENCE, dead).await.context("no dead letter")??;
    assert_eq!((dead.lite.as_str(), dead.attempts), ("late", 0));
    assert!(dead.cause.starts_with("policy: "), "{dead:?}");
    world.no_strikes().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_holds_the_group_back() -> Result<()> {
    let world = World::new("adaptive", r#"{"initial":1}"#).await?;
    let mut consumer = world.consumer(4).await?;
    world.publish([Message::to("one")?]).await?;
    next(&mut consumer).await?.settle(Outcome::RetryAfter(Duration::from_secs(3))).await?;
    // An answer that was given before may be used for a second.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    world.publish([Message::to("two")?]).await?;
    comes_nothing(&mut consumer).await?;
    for _ in 0..2 {
        next(&mut consumer).await?.ack().await?;
    }
    assert!(world.admin.group(&world.group).await?.stats.throttled > 0);
    world.no_strikes().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_label_decides_its_tier_and_may_change() -> Result<()> {
    let world = World::new("strict-tiers", r#"{"tiers":[{"name":"vip"},{"name":"standard"}]}"#).await?;
    let order = async |labelled: &str| -> Result<Vec<String>> {
        let tier = [("tier".to_owned(), "vip".to_owned())].into();
        world.admin.set_tenant_labels(&world.group, labelled, &tier).await?;
        world.admin.pause_group(&world.group).await?;
        world.publish((0..8).map(|n| Message::to(["ann", "bob"][n % 2]).expect("a name"))).await?;
        world.admin.resume_group(&world.group).await?;
        let mut consumer = world.consumer(1).await?;
        let mut order = Vec::new();
        for _ in 0..8 {
            let delivery = next(&mut consumer).await?;
            order.push(delivery.lite().to_owned());
            delivery.ack().await?;
        }
        world.admin.set_tenant_labels(&world.group, labelled, &BTreeMap::new()).await?;
        Ok(order)
    };
    assert_eq!(order("bob").await?, ["bob", "bob", "bob", "bob", "ann", "ann", "ann", "ann"]);
    assert_eq!(order("ann").await?, ["ann", "ann", "ann", "ann", "bob", "bob", "bob", "bob"]);
    world.no_strikes().await
}
