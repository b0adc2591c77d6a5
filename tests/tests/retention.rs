//! Topics whose messages are a log, against a real broker process.

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{
    Admin, CreateGroup, GroupSettings, LogRetention, ReclaimSettings, Retention, Topic, TopicSettings,
};
use sluicegate_client::{Client, Consumer, Delivery, GroupName, LiteName, Message, Offset, Position, TopicName};
use sluicegate_tests::openmetrics::Page;
use sluicegate_tests::{Broker, PATIENCE};

const SECOND: Duration = Duration::from_secs(1);

struct World {
    broker: Broker,
    client: Client,
    admin: Admin,
    topic: TopicName,
    group: GroupName,
}

async fn started(log: LogRetention) -> Result<World> {
    let broker = Broker::start()?;
    let settings =
        TopicSettings { retention: Retention::Log(log), reclaim: ReclaimSettings::NEVER, ..TopicSettings::default() };
    let group = GroupSettings { lease_ms: 3_000, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(settings, group).await?;
    let (client, admin) = (broker.client(), broker.admin(None)?);
    Ok(World { broker, client, admin, topic, group })
}

const fn aged(age_ms: u64) -> LogRetention {
    LogRetention { age_ms: Some(age_ms), bytes: None }
}

const fn sized(bytes: u64) -> LogRetention {
    LogRetention { age_ms: None, bytes: Some(bytes) }
}

fn lite() -> LiteName {
    LiteName::parse("a").expect("a good name")
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

impl World {
    /// Publishes so many messages of 100 bytes to one lite topic.
    async fn publish(&self, count: usize) -> Result<()> {
        let producer = self.client.producer(self.topic.clone()).connect().await?;
        for _ in 0..count {
            producer.send(Message::to("a")?.body(vec![b'x'; 98]).property("k", "v")).await?;
        }
        producer.close().await;
        Ok(())
    }

    async fn consumer(&self) -> Result<Consumer> {
        Ok(self.client.consumer(self.group.clone()).workers(1).connect().await?)
    }

    /// Takes and acknowledges so many, which have these offsets.
    async fn take(&self, offsets: std::ops::Range<u64>) -> Result<()> {
        let mut consumer = self.consumer().await?;
        for offset in offsets {
            let delivery = next(&mut consumer).await?;
            assert_eq!(delivery.offset(), Offset(offset));
            delivery.ack().await?;
        }
        consumer.close().await;
        Ok(())
    }

    async fn kept(&self) -> Result<(u64, u64)> {
        let lite = self.admin.lite_topic(&self.group, &lite()).await?;
        Ok((lite.first_kept.0, lite.next_offset.0))
    }

    async fn kept_becomes(&self, kept: (u64, u64)) -> Result<()> {
        let asked = async {
            while self.kept().await? != kept {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        let in_time = tokio::time::timeout(SECOND * 10, asked).await;
        in_time.with_context(|| format!("what is kept did not become {kept:?}"))?
    }

    async fn count(&self) -> Result<(u64, u64)> {
        let Topic { messages, bytes, .. } = self.admin.topic(&self.topic).await?;
        Ok((messages, bytes))
    }

    async fn metrics(&self) -> Result<Page> {
        let tls = self.broker.trust().tls_config()?;
        let http = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy().build()?;
        let text = http.get(format!("{}/metrics", self.broker.admin_url())).send().await?.text().await?;
        Page::parse(&text)
    }

    fn restart(&mut self) -> Result<()> {
        tokio::task::block_in_place(|| self.broker.crash_and_restart())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_is_kept_for_whoever_goes_back_or_comes_later() -> Result<()> {
    let mut world = started(aged(60_000)).await?;
    world.publish(3).await?;
    world.take(0..3).await?;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let peek = world.admin.peek(&world.group, &lite(), Some(Offset(2)), None).await?;
    let third_at = peek.messages.first().context("the third message")?.published_at;
    world.restart()?;
    assert_eq!((world.kept().await?, world.count().await?), ((0, 3), (3, 300)));
    for (to, first) in [(Position::Earliest, 0), (Position::Offset(Offset(1)), 1), (Position::Timestamp(third_at), 2)] {
        world.admin.seek_lite(&world.group, &lite(), to).await?;
        world.take(first..3).await?;
    }
    let later = GroupName::parse("later")?;
    world.admin.create_group(&CreateGroup::new(later.clone(), world.topic.clone(), GroupSettings::default())).await?;
    let mut consumer = world.client.consumer(later).workers(1).connect().await?;
    assert_eq!(next(&mut consumer).await?.offset(), Offset(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_goes_settled_or_not_and_the_group_goes_on_behind_it() -> Result<()> {
    let mut world = started(aged(1_500)).await?;
    world.publish(3).await?;
    world.take(0..1).await?;
    tokio::time::sleep(SECOND).await;
    world.publish(2).await?;
    world.kept_becomes((3, 5)).await?;
    assert_eq!(world.count().await?, (2, 200));
    let metrics = world.metrics().await?;
    let of_group = [("group", "g"), ("topic", "t"), ("reason", "trimmed")];
    assert_eq!(metrics.count("sluicegate_messages_skipped_total", &of_group)?, 2);
    world.take(3..4).await?;
    world.restart()?;
    assert_eq!(world.kept().await?, (3, 5));
    world.kept_becomes((5, 5)).await?;
    assert_eq!(world.count().await?, (0, 0));
    world.publish(1).await?;
    world.take(5..6).await?;
    world.kept_becomes((6, 6)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_message_stays_until_its_lease_ends() -> Result<()> {
    let world = started(aged(1_000)).await?;
    let mut consumer = world.consumer().await?;
    world.publish(2).await?;
    let held = next(&mut consumer).await?;
    tokio::time::sleep(SECOND * 2).await;
    assert_eq!(world.kept().await?, (0, 2));
    held.ack().await?;
    // The second one was old, and behind the first.
    next(&mut consumer).await?.ack().await?;
    world.kept_becomes((2, 2)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_go_while_there_are_too_many_bytes() -> Result<()> {
    let mut world = started(sized(350)).await?;
    world.publish(10).await?;
    world.kept_becomes((7, 10)).await?;
    assert_eq!(world.count().await?, (3, 300));
    world.restart()?;
    assert_eq!(world.kept().await?, (7, 10));
    world.publish(1).await?;
    world.kept_becomes((8, 11)).await?;
    world.take(8..11).await?;
    assert_eq!(world.kept().await?, (8, 11));
    let producer = world.client.producer(world.topic.clone()).connect().await?;
    producer.send(Message::to("a")?.body(vec![b'x'; 5_000])).await?;
    // The last one is kept, however large.
    world.kept_becomes((11, 12)).await?;
    assert_eq!(world.count().await?, (1, 5_000));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_a_log_of_fourteen_days() -> Result<()> {
    let world = started(aged(60_000)).await?;
    let dead = TopicName::parse_existing("t.dlq.g")?;
    let settings = world.admin.topic(&dead).await?.settings;
    assert_eq!(settings.retention, Retention::Log(aged(14 * 24 * 3_600 * 1_000)));
    let readers = GroupName::parse("readers")?;
    world.admin.create_group(&CreateGroup::new(readers.clone(), dead, GroupSettings::default())).await?;
    world.publish(1).await?;
    let mut consumer = world.consumer().await?;
    next(&mut consumer).await?.dead_letter("no use").await?;
    let mut reader = world.client.consumer(readers).workers(1).connect().await?;
    next(&mut reader).await?.ack().await?;
    let letters = world.admin.dead_letters(&world.group, &sluicegate_client::admin::Page::default()).await?;
    assert_eq!(letters.dead_letters.len(), 1, "it is settled, and kept");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_a_topic_is_for() -> Result<()> {
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let create = |name, more: &[&str]| broker.sluice(&[&["topic", "create", name], more].concat());
    assert!(create("work", &[])?.status.success());
    assert!(create("chat", &["--for", "sessions", "--max-lite-topics", "7"])?.status.success());
    assert!(create("rpc", &["--for", "replies", "--retention", "log:1h,1MiB"])?.status.success());
    let of = async |name| anyhow::Ok(admin.topic(&TopicName::parse(name)?).await?.settings);
    assert_eq!(of("work").await?, TopicSettings::default());
    let chat = of("chat").await?;
    assert_eq!((chat.retention, chat.limits.lite_topics), (Retention::Log(aged(86_400_000)), 7));
    let log = LogRetention { age_ms: Some(3_600_000), bytes: Some(1 << 20) };
    assert_eq!(of("rpc").await?.retention, Retention::Log(log));
    let refused = create("bad", &["--retention", "log:"])?;
    assert!(!refused.status.success());
    Ok(())
}
