//! Lite topics: seek, skip, purge.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use sluicegate_client::admin::{CreateGroup, GroupSettings};
use sluicegate_client::{GroupName, LiteName, Message, Offset, Position, SettleError};
use sluicegate_tests::Broker;

use super::{json, next, nothing_comes, publish, refusal, started, text};

/// A seek of the group `g` in the lite topic `x`, from the command line.
fn seek(broker: &Broker, to: &str) -> Result<Value> {
    json(broker, &["lite", "seek", "g", "x", "--to", to])
}

#[tokio::test(flavor = "multi_thread")]
async fn seeking_moves_a_group_forth_and_what_is_passed_over_is_settled_for_good() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 6).await?;
    let change = seek(&broker, "offset:2")?;
    assert_eq!(
        [&change["settled"], &change["lite_topic"]["settled_up_to"], &change["lite_topic"]["backlog"]],
        [2, 2, 4]
    );
    assert_eq!(seek(&broker, "last:3")?["lite_topic"]["head"]["offset"], 3);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    for expected in ["x 3 #1 m3", "x 4 #1 m4", "x 5 #1 m5"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    let change = seek(&broker, "earliest")?;
    assert_eq!(change["lite_topic"]["first_kept"], 6, "what every group has settled is gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn seeking_back_delivers_again_what_another_group_keeps() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let slow = CreateGroup::new(GroupName::parse("slow")?, topic.clone(), GroupSettings::default());
    broker.admin(None)?.create_group(&slow).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 3).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let mut published = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await?;
        published.push(delivery.published_at());
        delivery.ack().await?;
    }
    consumer.close().await;
    let lite = LiteName::parse("x")?;
    let change = broker.admin(None)?.seek_lite(&group, &lite, Position::Timestamp(published[1])).await?;
    assert_eq!((change.settled, change.lite_topic.head.map(|head| head.offset.0)), (0, Some(1)));
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for expected in ["x 1 #1 m1", "x 2 #1 m2"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    seek(&broker, "earliest")?;
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 m0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_moved_under_an_open_lease_until_it_is_revoked() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 3).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    for answer in [
        admin.seek_lite(&group, &lite, Position::Latest).await,
        admin.skip_message(&group, &lite, Offset(0)).await,
        admin.purge_lite(&group, &lite).await,
    ] {
        let refusal = refusal(answer)?;
        assert!(refusal.starts_with("in_use: offset 0 is leased to session "), "{refusal}");
    }
    admin.revoke_lite(&group, &lite, Duration::from_mins(10)).await?;
    assert_eq!(admin.seek_lite(&group, &lite, Position::Offset(Offset(2))).await?.settled, 2);
    assert!(matches!(held.ack().await, Err(SettleError::LeaseLost)));
    admin.resume_lite(&group, &lite, None).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 2 #1 m2");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skipped_message_is_never_delivered_and_its_neighbours_are() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "x", 4).await?;
    for offset in ["2", "0"] {
        assert_eq!(json(&broker, &["lite", "skip", "g", "x", "--offset", offset])?["settled"], 1);
    }
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    for expected in ["x 1 #1 m1", "x 3 #1 m3"] {
        let delivery = next(&mut consumer).await?;
        assert_eq!(text(&delivery), expected);
        delivery.ack().await?;
    }
    assert!(nothing_comes(&mut consumer).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn skipping_a_head_ends_its_retry_delay() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic).connect().await?, "x", 2).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    next(&mut consumer).await?.retry(Some(Duration::from_mins(10))).await?;
    broker.admin(None)?.skip_message(&group, &LiteName::parse("x")?, Offset(0)).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 1 #1 m1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_settles_more_messages_than_are_deleted_one_by_one() -> Result<()> {
    const COUNT: u64 = 1_500;
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for n in 0..COUNT {
        pending.push(producer.enqueue(Message::to("x")?.body(n.to_string())).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    let change = json(&broker, &["lite", "purge", "g", "x"])?;
    assert_eq!([&change["settled"], &change["lite_topic"]["first_kept"]], [COUNT, COUNT]);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let producer = broker.client().producer(topic).connect().await?;
    assert_eq!(producer.send(Message::to("x")?.body("after")).await?.offset.0, COUNT);
    let mut consumer = broker.client().consumer(group).connect().await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 1500 #1 after");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn positions_that_are_not_there_are_refused() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic).connect().await?, "x", 3).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    admin.skip_message(&group, &lite, Offset(0)).await?;
    let refusals = [
        refusal(admin.seek_lite(&group, &lite, Position::Offset(Offset(4))).await)?,
        refusal(admin.seek_lite(&group, &lite, Position::Offset(Offset(0))).await)?,
        refusal(admin.skip_message(&group, &lite, Offset(3)).await)?,
        refusal(admin.skip_message(&group, &lite, Offset(0)).await)?,
        refusal(admin.peek(&group, &lite, None, Some(101)).await)?,
        refusal(admin.peek(&group, &lite, None, Some(0)).await)?,
        refusal(admin.purge_lite(&group, &LiteName::parse("never-seen")?).await)?,
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r"
    invalid_argument: offset 4 is not there: 1 is the first kept, 3 the next to come
    invalid_argument: offset 0 is not there: 1 is the first kept, 3 the next to come
    invalid_argument: offset 3 is not there: 3 is the next to come
    invalid_argument: offset 0 is settled already
    invalid_argument: limit: 101, allowed are 1 to 100
    invalid_argument: limit: 0, allowed are 1 to 100
    unknown_lite: lite topic `never-seen` does not exist in topic `t`
    ");
    for position in ["sideways", "offset:-1", "timestamp:yesterday"] {
        assert_eq!(broker.sluice(&["lite", "seek", "g", "x", "--to", position])?.status.code(), Some(2), "{position}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_starts_where_it_was_told_in_what_exists_and_at_0_in_what_comes_later() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    publish(&producer, "x", 3).await?;
    publish(&producer, "idle", 1).await?;
    let peek = broker.admin(None)?.peek(&group, &LiteName::parse("x")?, None, None).await?;
    let last_time = peek.messages[2].published_at;
    // What is not in memory starts there as well.
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let starts = [
        ("early", Position::Earliest, vec!["idle 0", "x 0", "x 1", "x 2", "new 0"]),
        ("late", Position::Latest, vec!["new 0"]),
        ("last", Position::Last(2), vec!["idle 0", "x 1", "x 2", "new 0"]),
        ("since", Position::Timestamp(last_time), vec!["idle 0", "x 2", "new 0"]),
    ];
    for (name, start, _) in &starts {
        let new = CreateGroup::new(GroupName::parse(name)?, topic.clone(), GroupSettings::default());
        broker.admin(None)?.create_group(&CreateGroup { start: *start, ..new }).await?;
    }
    let producer = broker.client().producer(topic.clone()).connect().await?;
    publish(&producer, "new", 1).await?;
    for (name, _, mut expected) in starts {
        // `idle` was published after `x`, so a start in time finds it.
        let mut consumer = broker.client().consumer(GroupName::parse(name)?).workers(1).connect().await?;
        let mut got = Vec::new();
        for _ in 0..expected.len() {
            let delivery = next(&mut consumer).await?;
            got.push(format!("{} {}", delivery.lite(), delivery.offset()));
            delivery.ack().await?;
        }
        assert!(nothing_comes(&mut consumer).await, "{name}");
        got.sort_unstable();
        expected.sort_unstable();
        assert_eq!(got, expected, "{name}");
    }
    let at_offset = CreateGroup::new(GroupName::parse("bad")?, topic, GroupSettings::default());
    let refused =
        broker.admin(None)?.create_group(&CreateGroup { start: Position::Offset(Offset(1)), ..at_offset }).await;
    assert!(refused.unwrap_err().to_string().contains("one lite topic only"));
    Ok(())
}
