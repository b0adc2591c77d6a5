//! Topics: delete.

use std::collections::BTreeSet;

use anyhow::Result;
use sluicegate_client::admin::{CreateGroup, CreateTopic, Dependents, GroupSettings, Page, TopicSettings};
use sluicegate_client::{
    ConsumeError, Consumer, ErrorCode, GroupName, LiteId, Message, Outcome, Producer, ProducerId, PublishError,
    TopicName,
};
use sluicegate_tests::Broker;

use super::{json, next, nothing_comes, publish, refusal, removed, started, text};

async fn create(broker: &Broker, topic: &str, group: &str) -> Result<(TopicName, GroupName)> {
    let (admin, topic, group) = (broker.admin(None)?, TopicName::parse(topic)?, GroupName::parse(group)?);
    admin.create_topic(&CreateTopic { name: topic.clone(), settings: TopicSettings::default() }).await?;
    admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), GroupSettings::default())).await?;
    Ok((topic, group))
}

/// Publishes to each of these lite topics at once, and answers their ids.
async fn publish_each(
    producer: &Producer,
    lites: impl Iterator<Item = String>,
    body: &str,
) -> Result<BTreeSet<LiteId>> {
    let mut pending = Vec::new();
    for lite in lites {
        pending.push(producer.enqueue(Message::to(&lite)?.body(body.to_owned())).await?);
    }
    let mut ids = BTreeSet::new();
    for receipt in pending {
        ids.insert(receipt.await?.lite_id);
    }
    Ok(ids)
}

async fn take(consumer: &mut Consumer, count: usize) -> Result<Vec<String>> {
    let mut got = Vec::new();
    for _ in 0..count {
        let delivery = next(consumer).await?;
        got.push(text(&delivery));
        delivery.ack().await?;
    }
    assert!(nothing_comes(consumer).await, "there was more than {count}");
    Ok(got)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_needs_a_topic_is_named_when_its_deletion_is_refused() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic.clone()).connect().await?, "x", 1).await?;
    let admin = broker.admin(None)?;
    let dead = topic.dead_letter(&group);
    admin.create_group(&CreateGroup::new(GroupName::parse("doctor")?, dead.clone(), GroupSettings::default())).await?;
    let refusals = [
        refusal(admin.delete_topic(&topic, Dependents::Keep).await)?,
        refusal(admin.delete_topic(&dead, Dependents::Keep).await)?,
        refusal(admin.delete_topic(&dead, Dependents::Delete).await)?,
        refusal(admin.delete_topic(&TopicName::parse("never")?, Dependents::Delete).await)?,
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r"
    in_use: group `doctor` consumes topic `t` or its dead letters: delete it first, or with the topic (groups=delete)
    in_use: group `doctor` consumes topic `t.dlq.g` or its dead letters: delete it first, or with the topic (groups=delete)
    in_use: topic `t.dlq.g` takes what group `g` cannot process: delete that first
    unknown_topic: topic `never` does not exist
    ");
    assert_eq!(broker.sluice(&["topic", "delete", "t"])?.status.code(), Some(4));
    // Nothing was touched.
    assert_eq!(admin.topics().await?.len(), 3);
    let gone = json(&broker, &["topic", "delete", "t", "--with-groups"])?;
    assert_eq!(
        gone,
        serde_json::json!({
            "name": "t", "lite_topics": 1, "groups": ["doctor", "g"],
            "dead_letter_topics": ["t.dlq.g", "t.dlq.g.dlq.doctor"],
        })
    );
    assert_eq!((admin.topics().await?.len(), admin.groups().await?.len()), (0, 0));
    assert_eq!(
        refusal(admin.delete_topic(&topic, Dependents::Delete).await)?,
        "unknown_topic: topic `t` does not exist"
    );
    removed(&broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_the_same_name_sees_nothing_of_the_one_before() -> Result<()> {
    const LITES: usize = 600;
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let id = ProducerId(7);
    let producer = broker.client().producer(topic.clone()).id(id).connect().await?;
    let lites = || (0..LITES).map(|n| format!("x{n}"));
    let old = publish_each(&producer, lites(), "old").await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.dead_letter("no use").await?;
    let gone = broker.admin(None)?.delete_topic(&topic, Dependents::Delete).await?;
    assert_eq!(gone.lite_topics, LITES as u64 + 1);
    let end = producer.send(Message::to("x1")?.body("late")).await;
    let Err(PublishError::Refused(refused) | PublishError::Ended(refused)) = end else {
        anyhow::bail!("not refused but {end:?}");
    };
    assert_eq!((refused.code, refused.message.as_str()), (ErrorCode::UnknownTopic, "the topic was deleted"));
    producer.close().await;
    create(&broker, "t", "g").await?;
    let admin = broker.admin(None)?;
    assert_eq!(admin.topic(&topic).await?.lite_topics, 0);
    assert_eq!(admin.lite_topics(&topic, &Page::default()).await?.lite_topics, []);
    assert_eq!(admin.dead_letters(&group, &Page::default()).await?.dead_letters, []);
    // The same producer counts from 1 again, and nothing of it is taken for a resend.
    let producer = broker.client().producer(topic.clone()).id(id).connect().await?;
    let new = publish_each(&producer, lites(), "new").await?;
    assert_eq!((new.len(), old.intersection(&new).count()), (LITES, 0));
    let mut consumer = broker.client().consumer(group.clone()).workers(64).connect().await?;
    let got = take(&mut consumer, LITES).await?;
    assert!(got.iter().all(|text| text.ends_with(" 0 #1 new")), "{got:?}");
    removed(&broker).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert!(nothing_comes(&mut consumer).await);
    assert_eq!(broker.admin(None)?.topic(&topic).await?.lite_topics, LITES as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_deleted_and_made_anew_while_traffic_flows() -> Result<()> {
    let broker = Broker::start()?;
    for round in 0..12 {
        let (topic, group) = create(&broker, "t", "g").await?;
        let producer = broker.client().producer(topic.clone()).connect().await?;
        let mut consumer = broker.client().consumer(group).workers(16).connect().await?;
        let body = round.to_string();
        let wanted = body.clone();
        let consuming = tokio::spawn(async move {
            let ended = consumer.run(move |delivery| {
                assert_eq!(delivery.body()[..], *wanted.as_bytes(), "a message of an older topic came");
                async { Outcome::Ack }
            });
            ended.await
        });
        let publishing = tokio::spawn(async move {
            for n in 0_u64.. {
                let pending = producer.enqueue(Message::to(&format!("x{}", n % 50))?.body(body.clone())).await;
                let Ok(pending) = pending else { return anyhow::Ok(n) };
                drop(pending);
            }
            anyhow::bail!("it never ends")
        });
        // A moment that differs from round to round.
        tokio::time::sleep(std::time::Duration::from_millis(5 * round)).await;
        broker.admin(None)?.delete_topic(&topic, Dependents::Delete).await?;
        let end = tokio::time::timeout(sluicegate_tests::PATIENCE, consuming).await??;
        let Err(ConsumeError::Ended(refused)) = end else { anyhow::bail!("not ended but {end:?}") };
        assert_eq!(refused.code, ErrorCode::UnknownGroup);
        tokio::time::timeout(sluicegate_tests::PATIENCE, publishing).await???;
    }
    removed(&broker).await?;
    assert_eq!(broker.admin(None)?.topics().await?, []);
    Ok(())
}

/// Two topics in one shard, whose lite topics have their ids by turns and in a row.
async fn interleaved(lites: usize) -> Result<(Broker, tempfile::TempDir)> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    std::fs::write(&config, "shards = 1\n")?;
    let broker = Broker::start_with(&["--dev", "--config", config.to_str().expect("a plain path")])?;
    create(&broker, "a", "ga").await?;
    create(&broker, "b", "gb").await?;
    let a = broker.client().producer(TopicName::parse("a")?).connect().await?;
    let b = broker.client().producer(TopicName::parse("b")?).connect().await?;
    for n in 0..20 {
        publish_each(&a, [format!("turn{n}")].into_iter(), "a").await?;
        publish_each(&b, [format!("turn{n}")].into_iter(), "b").await?;
    }
    publish_each(&a, (0..lites).map(|n| format!("row{n}")), "a").await?;
    publish_each(&b, (0..200).map(|n| format!("row{n}")), "b").await?;
    Ok((broker, directory))
}

/// The topic of old is gone, one of its name is empty, and the topic beside it has all it had.
async fn check_rest(broker: &Broker) -> Result<()> {
    let (topic, group) = create(broker, "a", "ga").await?;
    publish(&broker.client().producer(topic).connect().await?, "row5", 1).await?;
    let mut consumer = broker.client().consumer(group).workers(64).connect().await?;
    assert_eq!(take(&mut consumer, 1).await?, ["row5 0 #1 m0"]);
    removed(broker).await?;
    let mut consumer = broker.client().consumer(GroupName::parse("gb")?).workers(64).connect().await?;
    let got: BTreeSet<_> = take(&mut consumer, 220).await?.into_iter().collect();
    assert!(got.iter().all(|text| text.ends_with(" 0 #1 b")) && got.len() == 220, "{got:?}");
    let page = Page { limit: Some(1_000), ..Page::default() };
    let kept = broker.admin(None)?.lite_topics(&TopicName::parse("b")?, &page).await?;
    assert_eq!(kept.lite_topics.len(), 220);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_deletion_leaves_nothing_of_the_topic() -> Result<()> {
    let (mut broker, _directory) = interleaved(5_000).await?;
    broker.admin(None)?.delete_topic(&TopicName::parse("a")?, Dependents::Delete).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    check_rest(&broker).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    assert_eq!(broker.admin(None)?.topic(&TopicName::parse("a")?).await?.lite_topics, 1);
    removed(&broker).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_middle_of_a_deletion_goes_on_with_it() -> Result<()> {
    let (mut broker, _directory) = interleaved(5_000).await?;
    broker.admin(None)?.delete_topic(&TopicName::parse("a")?, Dependents::Delete).await?;
    tokio::task::block_in_place(|| broker.stop_and_restart())?;
    check_rest(&broker).await
}
