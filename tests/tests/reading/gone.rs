//! What readers are told when what they want is gone.

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{
    CreateGroup, Dependents, GroupSettings, Page, ReclaimMode, ReclaimSettings, TopicSettings,
};
use sluicegate_client::{ErrorCode, GroupName, Offset, Position, ReadError};
use sluicegate_tests::PATIENCE;

use super::{World, counted, fault, lite, log, next, own, rest, step, trimmed};

fn after_a_second(mode: ReclaimMode) -> TopicSettings {
    TopicSettings { reclaim: ReclaimSettings { mode, after_ms: 1_000 }, ..log(None) }
}

impl World {
    async fn work_queue() -> Result<(Self, GroupName)> {
        let world = Self::start(TopicSettings::default()).await?;
        let group = GroupName::parse("g")?;
        world
            .admin
            .create_group(&CreateGroup::new(group.clone(), world.topic.clone(), GroupSettings::default()))
            .await?;
        Ok((world, group))
    }

    /// Settles so many messages.
    pub(super) async fn settle(&self, group: &GroupName, count: usize) -> Result<()> {
        let mut consumer = self.client.consumer(group.clone()).connect().await?;
        for _ in 0..count {
            let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
            delivery.context("the consumer ended")??.ack().await?;
        }
        consumer.close().await;
        Ok(())
    }

    async fn exists(&self, name: &str) -> Result<bool> {
        let page = self.admin.lite_topics(&self.topic, &Page::default()).await?;
        Ok(page.lite_topics.iter().any(|entry| entry.name.as_str() == name))
    }

    /// Waits until a lite topic is reclaimed.
    async fn ends(&self, name: &str) -> Result<()> {
        let asked = async {
            while self.exists(name).await? {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, asked).await.context("it lives on")?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_before_the_first_kept_one_is_trimmed() -> Result<()> {
    let world = World::start(log(Some(300))).await?;
    let receipts = world.publish("a", (0..10).map(|_| "x".repeat(100))).await?;
    let refused = world.reader("a").from(Position::Offset(Offset(6))).connect().await.unwrap_err();
    assert_eq!(refused, trimmed(7));
    let id = sluicegate_client::MessageId { lite_id: receipts[5].lite_id, offset: receipts[5].offset };
    assert_eq!(world.reader("a").after(id).connect().await.unwrap_err(), trimmed(7));
    let mut reader = world.reader("a").connect().await?;
    assert_eq!(rest(&mut reader).await?.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [7, 8, 9]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_a_log_has_overtaken_is_told_and_has_no_gap_before() -> Result<()> {
    let world = World::start(log(Some(20_000))).await?;
    let body = || "x".repeat(1_000);
    world.publish("a", (0..10).map(|_| body())).await?;
    let mut reader = world.reader("a").follow(true).window_bytes(1 << 10).connect().await?;
    assert_eq!(next(&mut reader).await?.offset(), Offset(0));
    world.publish("a", (0..50).map(|_| body())).await?;
    let mut expected = 1;
    let error = loop {
        match step(&mut reader).await?.context("the reader ended")? {
            Ok(message) => assert_eq!(message.offset(), Offset(expected)),
            Err(error) => break error,
        }
        expected += 1;
    };
    assert!(expected < 10, "{expected} messages were under way");
    assert_eq!(error, trimmed(40));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_settled_of_a_work_queue_is_a_gap_to_who_begins_there_and_none_to_who_follows() -> Result<()> {
    let (mut world, group) = World::work_queue().await?;
    let body = |number: u64| format!("{number:0>600}");
    world.publish("a", (0..10).map(body)).await?;
    let mut reader = world.reader("a").follow(true).window_bytes(1 << 10).connect().await?;
    assert_eq!(next(&mut reader).await?.offset(), Offset(0));
    world.settle(&group, 8).await?;
    let refused = world.reader("a").from(Position::Offset(Offset(2))).connect().await.unwrap_err();
    assert_eq!(refused, trimmed(8));
    let mut fresh = world.reader("a").connect().await?;
    assert_eq!(next(&mut fresh).await?.offset(), Offset(8));

    world.publish("a", (10..12).map(body)).await?;
    let mut seen = vec![0];
    while *seen.last().context("one")? < 9 {
        let message = next(&mut reader).await?;
        assert_eq!(message.body().as_ref(), body(message.offset().0).as_bytes());
        seen.push(message.offset().0);
    }
    assert!(seen.is_sorted() && seen.ends_with(&[8, 9]), "{seen:?}");
    assert!(seen.len() < 10, "what is settled was not under way: {seen:?}");
    // The same when it was away meanwhile.
    tokio::task::block_in_place(|| world.broker.crash())?;
    tokio::task::block_in_place(|| world.broker.start_again())?;
    world.settle(&group, 4).await?;
    world.publish("a", (12..13).map(body)).await?;
    while seen.last() != Some(&12) {
        seen.push(next(&mut reader).await?.offset().0);
    }
    assert!(seen.is_sorted(), "{seen:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_a_lite_topic_that_is_deleted_is_told_and_no_other_life_is_read() -> Result<()> {
    let world = World::start(log(None)).await?;
    let receipts = world.publish("a", counted(0..3)).await?;
    let mut waits = world.reader("a").follow(true).connect().await?;
    for _ in 0..3 {
        next(&mut waits).await?;
    }
    // This one has messages to come still, and is told all the same.
    let mut behind = world.reader("a").window_bytes(1 << 10).connect().await?;
    world.admin.delete_lite(&world.topic, &lite("a")).await?;
    assert_eq!(fault(&mut waits).await?, ReadError::Reclaimed);
    world.publish("a", counted(0..2)).await?;
    let id = sluicegate_client::MessageId { lite_id: receipts[0].lite_id, offset: Offset(0) };
    assert_eq!(world.reader("a").after(id).connect().await.unwrap_err(), ReadError::Reclaimed);
    let mut read = Vec::new();
    while let Some(Ok(message)) = step(&mut behind).await? {
        read.push((message.lite_id(), message.offset().0));
    }
    assert!(read.len() <= 3 && read.iter().all(|(life, _)| *life == receipts[0].lite_id), "{read:?}");
    let mut fresh = world.reader("a").connect().await?;
    assert_eq!(rest(&mut fresh).await?, own(0..2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_keeps_an_idle_lite_topic_and_its_going_lets_it_end() -> Result<()> {
    let mut world = World::start(after_a_second(ReclaimMode::Idle)).await?;
    world.publish("a", counted(0..1)).await?;
    world.publish("b", counted(0..1)).await?;
    let mut reader = world.reader("a").follow(true).connect().await?;
    next(&mut reader).await?;
    world.ends("b").await?;
    // So would this one have, a look or two later.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.exists("a").await?);
    // A reader comes back to the next process before anything ends there.
    let reading = tokio::spawn(async move { (step(&mut reader).await, reader) });
    tokio::task::block_in_place(|| world.broker.crash_and_restart())?;
    world.publish("a", counted(1..2)).await?;
    let (message, reader) = reading.await?;
    assert_eq!(message?.context("a message")??.offset(), Offset(1));
    drop(reader);
    world.ends("a").await?;
    world.metric_becomes("sluicegate_readers", 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn absolute_ends_a_life_under_its_readers() -> Result<()> {
    let world = World::start(after_a_second(ReclaimMode::Absolute)).await?;
    let mut reader = world.reader("a").follow(true).connect().await?;
    world.publish("a", counted(0..1)).await?;
    next(&mut reader).await?;
    assert_eq!(fault(&mut reader).await?, ReadError::Reclaimed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_topic_ends_its_readers() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("a", counted(0..1)).await?;
    let mut reads = world.reader("a").follow(true).connect().await?;
    next(&mut reads).await?;
    let mut waits = world.reader("b").follow(true).connect().await?;
    world.admin.delete_topic(&world.topic, Dependents::Delete).await?;
    for reader in [&mut reads, &mut waits] {
        let ended = fault(reader).await?;
        assert!(matches!(&ended, ReadError::Ended(refusal) if refusal.code == ErrorCode::UnknownTopic), "{ended}");
    }
    Ok(())
}
