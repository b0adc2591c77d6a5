//! Lite topics whose life ends by itself, against a real broker process.

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{
    Admin, AdminError, ConsumeMode, GroupSettings, Page, ReclaimMode, ReclaimSettings, TopicSettings,
};
use sluicegate_client::{
    Client, Consumer, Delivery, ErrorCode, GroupName, LiteName, Message, Position, Producer, Receipt, SettleError,
    Subscription, TopicName,
};
use sluicegate_tests::{Broker, PATIENCE};

/// The shortest time that there is.
const SECOND: Duration = Duration::from_secs(1);

struct World {
    broker: Broker,
    client: Client,
    admin: Admin,
    topic: TopicName,
    group: GroupName,
}

fn after_a_second(mode: ReclaimMode) -> ReclaimSettings {
    ReclaimSettings { mode, after_ms: 1_000 }
}

async fn started(mode: ReclaimMode) -> Result<World> {
    started_with(after_a_second(mode), GroupSettings::default()).await
}

async fn started_with(reclaim: ReclaimSettings, group: GroupSettings) -> Result<World> {
    let broker = Broker::start()?;
    let topic = TopicSettings { reclaim, ..TopicSettings::default() };
    // A start waits for sessions that come back before it ends anything.
    let group = GroupSettings { session_grace_ms: 200, ..group };
    let (topic, group) = broker.topic_and_group(topic, group).await?;
    let (client, admin) = (broker.client(), broker.admin(None)?);
    Ok(World { broker, client, admin, topic, group })
}

fn lite(name: &str) -> LiteName {
    LiteName::parse(name).expect("a good name")
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

fn code(error: AdminError) -> ErrorCode {
    match error {
        AdminError::Refused(refusal) => refusal.code,
        other => panic!("no refusal: {other}"),
    }
}

impl World {
    async fn producer(&self) -> Result<Producer> {
        Ok(self.client.producer(self.topic.clone()).connect().await?)
    }

    async fn publish(&self, name: &str) -> Result<Receipt> {
        let producer = self.producer().await?;
        let receipt = producer.send(Message::to(name)?.body(name.to_owned())).await?;
        producer.close().await;
        Ok(receipt)
    }

    async fn consumer(&self) -> Result<Consumer> {
        Ok(self.client.consumer(self.group.clone()).workers(10).connect().await?)
    }

    async fn named(&self, name: &str) -> Result<Consumer> {
        let named = Subscription::default().lite_topic(lite(name));
        Ok(self.client.consumer(self.group.clone()).workers(10).subscribe_to(named).connect().await?)
    }

    async fn settle_one(&self) -> Result<()> {
        let mut consumer = self.consumer().await?;
        next(&mut consumer).await?.ack().await?;
        consumer.close().await;
        Ok(())
    }

    async fn names(&self) -> Result<Vec<String>> {
        let page = self.admin.lite_topics(&self.topic, &Page::default()).await?;
        Ok(page.lite_topics.into_iter().map(|entry| entry.name.as_str().to_owned()).collect())
    }

    /// Waits until the topic has exactly these.
    async fn names_become(&self, names: &[&str]) -> Result<()> {
        let asked = async {
            while self.names().await? != names {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, asked).await.context("the lite topics did not become these")?
    }

    /// Long enough that a life that may end would have ended.
    async fn lives_on(&self, names: &[&str]) -> Result<()> {
        tokio::time::sleep(SECOND * 5 / 2).await;
        assert_eq!(self.names().await?, names);
        Ok(())
    }

    fn restart(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.broker.crash_and_restart())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_lite_topic_ends_and_the_next_message_begins_a_new_life() -> Result<()> {
    let world = started(ReclaimMode::Empty).await?;
    let first = world.publish("a").await?;
    world.lives_on(&["a"]).await?;
    world.settle_one().await?;
    world.names_become(&[]).await?;
    assert_eq!(world.admin.topic(&world.topic).await?.lite_topics, 0);
    let second = world.publish("a").await?;
    assert!(second.created && second.lite_id > first.lite_id);
    assert_eq!(second.offset.0, 0);
    let mut consumer = world.consumer().await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!((delivery.lite(), delivery.offset().0, delivery.attempt()), ("a", 0, 1));
    delivery.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_and_a_settle_begin_the_wait_anew() -> Result<()> {
    let world =
        started_with(ReclaimSettings { mode: ReclaimMode::Idle, after_ms: 1_500 }, GroupSettings::default()).await?;
    let producer = world.producer().await?;
    let first = producer.send(Message::to("a")?).await?;
    for _ in 0..4 {
        tokio::time::sleep(SECOND).await;
        let receipt = producer.send(Message::to("a")?).await?;
        assert_eq!(receipt.lite_id, first.lite_id);
    }
    let mut consumer = world.consumer().await?;
    for _ in 0..3 {
        tokio::time::sleep(SECOND).await;
        next(&mut consumer).await?.ack().await?;
    }
    assert_eq!(world.names().await?, ["a"]);
    consumer.close().await;
    // Two messages wait, and go with it.
    world.names_become(&[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_idle_lite_topic_held_is_gone_and_never_delivered() -> Result<()> {
    let world = started(ReclaimMode::Idle).await?;
    world.publish("a").await?;
    world.names_become(&[]).await?;
    world.publish("b").await?;
    let mut consumer = world.consumer().await?;
    assert_eq!(next(&mut consumer).await?.lite(), "b");
    let stats = world.admin.group(&world.group).await?.stats;
    assert_eq!((stats.backlog, stats.waiting_lite_topics, stats.delivered), (0, 0, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_a_suspension_a_subscriber_and_a_held_head_keep_an_idle_lite_topic() -> Result<()> {
    let world = started(ReclaimMode::Idle).await?;
    let mut leased = world.named("leased").await?;
    world.publish("leased").await?;
    let held = next(&mut leased).await?;
    leased.unsubscribe(Subscription::default().lite_topic(lite("leased"))).await?;
    let subscriber = world.named("subscribed").await?;
    // The subscriber has no room that it could use: it is paused with its group.
    world.admin.pause_group(&world.group).await?;
    world.publish("subscribed").await?;
    world.publish("suspended").await?;
    world.admin.suspend_lite(&world.group, &lite("suspended"), SECOND * 60).await?;
    let producer = world.producer().await?;
    let later = held.published_at().plus(SECOND * 60);
    producer.send(Message::to("delayed")?.deliver_at(later)).await?;
    world.publish("nothing").await?;
    world.lives_on(&["delayed", "leased", "subscribed", "suspended"]).await?;

    held.ack().await?;
    subscriber.unsubscribe(Subscription::default().lite_topic(lite("subscribed"))).await?;
    world.admin.resume_lite(&world.group, &lite("suspended"), None).await?;
    world.names_become(&["delayed"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_group_follows_is_kept_by_empty() -> Result<()> {
    let world = started(ReclaimMode::Empty).await?;
    world.publish("a").await?;
    world.admin.delete_group(&world.group, sluicegate_client::admin::Dependents::Delete).await?;
    world.lives_on(&["a"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_ends_a_life_with_its_leases_and_tells_who_subscribed() -> Result<()> {
    let exclusive = GroupSettings { mode: ConsumeMode::Exclusive, ..GroupSettings::default() };
    let world = started_with(after_a_second(ReclaimMode::Absolute), exclusive).await?;
    let mut consumer = world.named("a").await?;
    let mut ended = consumer.watch_ended();
    let first = world.publish("a").await?;
    world.publish("a").await?;
    let delivery = next(&mut consumer).await?;
    let told = tokio::time::timeout(PATIENCE, ended.recv()).await??;
    assert_eq!((told.lite.as_str(), told.lite_id), ("a", first.lite_id));
    assert_eq!(delivery.ack().await, Err(SettleError::LeaseLost));
    // The subscription goes on by name, and a lease of the old life does not stand in the way.
    let second = world.publish("a").await?;
    assert!(second.created);
    let delivery = next(&mut consumer).await?;
    assert_eq!((delivery.lite_id(), delivery.offset().0, delivery.attempt()), (second.lite_id, 0, 1));
    delivery.ack().await?;
    let stats = world.admin.group(&world.group).await?.stats;
    assert_eq!((stats.in_flight, stats.backlog), (0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_is_told_of_an_operators_delete() -> Result<()> {
    let world = started(ReclaimMode::Never).await?;
    let consumer = world.named("a").await?;
    let mut ended = consumer.watch_ended();
    let first = world.publish("a").await?;
    world.admin.delete_lite(&world.topic, &lite("a")).await?;
    let told = tokio::time::timeout(PATIENCE, ended.recv()).await??;
    assert_eq!((told.lite.as_str(), told.lite_id), ("a", first.lite_id));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn lives_end_after_a_crash_too_and_their_rows_are_gone() -> Result<()> {
    let mut world = started(ReclaimMode::Empty).await?;
    for name in ["a", "b", "c"] {
        world.publish(name).await?;
    }
    for _ in 0..2 {
        world.settle_one().await?;
    }
    world.restart()?;
    tokio::time::timeout(PATIENCE, async {
        while world.names().await?.len() != 1 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    })
    .await??;
    world.settle_one().await?;
    world.names_become(&[]).await?;
    tokio::task::block_in_place(|| world.broker.stop())?;
    let data = world.broker.data_dir().to_str().context("a path")?;
    let checked = world.broker.sluice(&["store", "check", "--data-dir", data, "-o", "json"])?;
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout)?;
    for table in ["lite", "name", "tail", "message", "cursor", "ready", "lease", "due"] {
        assert!(report["tables"].get(table).is_none(), "{table}: {report}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lite_topic_goes_by_its_own_reclaim_until_it_is_taken_back() -> Result<()> {
    let mut world = started(ReclaimMode::Never).await?;
    let own = after_a_second(ReclaimMode::Idle);
    for name in ["a", "b", "c"] {
        world.publish(name).await?;
    }
    let set = async |name, reclaim| world.admin.set_reclaim(&world.topic, &lite(name), reclaim).await;
    let of_topic = set("c", None).await?;
    assert_eq!((of_topic.reclaim.mode, of_topic.is_own, of_topic.due_at), (ReclaimMode::Never, false, None));
    assert!(set("a", Some(own)).await?.due_at.is_some());
    assert!(set("b", Some(own)).await?.is_own);
    set("b", None).await?;
    let unknown = set("d", Some(own)).await.unwrap_err();
    assert_eq!(code(unknown), ErrorCode::UnknownLite);
    let too_short = ReclaimSettings { mode: ReclaimMode::Idle, after_ms: 999 };
    assert_eq!(code(set("c", Some(too_short)).await.unwrap_err()), ErrorCode::InvalidArgument);
    world.restart()?;
    world.names_become(&["b", "c"]).await?;
    world.lives_on(&["b", "c"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_races_with_the_end_lands_in_one_life_and_is_never_lost() -> Result<()> {
    let world = started(ReclaimMode::Absolute).await?;
    let mut consumer = world.consumer().await?;
    let producer = world.producer().await?;
    let (mut lives, mut receipts) = (std::collections::BTreeMap::new(), 0_u64);
    let until = tokio::time::Instant::now() + SECOND * 4;
    while tokio::time::Instant::now() < until {
        let receipt = producer.send(Message::to("a")?).await?;
        // Offsets of a life are without gaps from 0, and who began it is told so.
        let offsets = lives.entry(receipt.lite_id).or_insert(0_u64);
        assert_eq!((receipt.offset.0, receipt.created), (*offsets, *offsets == 0));
        *offsets += 1;
        receipts += 1;
        if let Ok(Some(delivery)) = tokio::time::timeout(Duration::from_millis(1), consumer.next()).await {
            // The life may have ended meanwhile.
            let _ = delivery?.ack().await;
        }
    }
    assert!(lives.len() >= 3 && receipts > 20, "{lives:?}");
    let last = *lives.last_key_value().context("a life")?.0;
    let shown = world.admin.seek_lite(&world.group, &lite("a"), Position::Latest).await;
    if let Ok(shown) = shown {
        assert!(shown.lite_topic.lite_id >= last);
    }
    Ok(())
}
