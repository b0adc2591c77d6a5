//! Groups: delete.

use anyhow::{Context, Result};
use sluicegate_client::admin::{AdminError, CreateGroup, Dependents, GroupSettings, Page, TopicSettings};
use sluicegate_client::{ConnectError, ConsumeError, ErrorCode, GroupName, LiteName, Message, TopicName};
use sluicegate_tests::{Broker, PATIENCE};

use super::{json, next, nothing_comes, publish, refusal, removed, started, text};

async fn create_group(broker: &Broker, name: &str, topic: &TopicName) -> Result<GroupName> {
    let group = CreateGroup::new(GroupName::parse(name)?, topic.clone(), GroupSettings::default());
    Ok(broker.admin(None)?.create_group(&group).await?.name)
}

/// Takes so many and acknowledges each.
async fn take(broker: &Broker, group: &GroupName, count: usize) -> Result<Vec<String>> {
    let mut consumer = broker.client().consumer(group.clone()).workers(64).connect().await?;
    let mut got = Vec::new();
    for _ in 0..count {
        let delivery = next(&mut consumer).await?;
        got.push(text(&delivery));
        delivery.ack().await?;
    }
    assert!(nothing_comes(&mut consumer).await, "there was more than {count}");
    consumer.close().await;
    Ok(got)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_group_ends_its_consumers_for_good_and_its_name_is_free() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    publish(&broker.client().producer(topic.clone()).connect().await?, "x", 2).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let gone = json(&broker, &["group", "delete", "g"])?;
    assert_eq!(gone, serde_json::json!({"name": "g", "leases": 1, "dead_letter_topics": []}));
    let end = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("an error first")?;
    let Err(ConsumeError::Ended(refused)) = end else { anyhow::bail!("not ended but {end:?}") };
    assert_eq!((refused.code, refused.message.as_str()), (ErrorCode::UnknownGroup, "group `g` was deleted"));
    assert!(consumer.next().await.is_none(), "it connected again");
    held.ack().await.unwrap_err();
    let again = broker.sluice(&["group", "delete", "g"])?;
    assert_eq!(String::from_utf8_lossy(&again.stderr).trim(), "sluice: unknown_group: group `g` does not exist");
    assert_eq!(again.status.code(), Some(4));
    let connected = broker.client().consumer(group.clone()).connect().await;
    let Err(ConnectError::Refused(refused)) = connected else { anyhow::bail!("not refused") };
    assert_eq!(refused.code, ErrorCode::UnknownGroup);
    // What nobody follows is kept, and the new group has not tried it.
    create_group(&broker, "g", &topic).await?;
    assert_eq!(take(&broker, &group, 2).await?, ["x 0 #1 m0", "x 1 #1 m1"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_waits_for_a_deleted_group() -> Result<()> {
    const COUNT: u64 = 1_200;
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let other = create_group(&broker, "h", &topic).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for n in 0..COUNT {
        pending.push(producer.enqueue(Message::to("x")?.body(n.to_string())).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    publish(&producer, "y", 3).await?;
    publish(&producer, "z", 2).await?;
    let admin = broker.admin(None)?;
    admin.purge_lite(&other, &LiteName::parse("x")?).await?;
    admin.purge_lite(&other, &LiteName::parse("y")?).await?;
    assert_eq!(admin.lite_topic(&other, &LiteName::parse("x")?).await?.first_kept.0, 0);
    admin.delete_group(&group, Dependents::Keep).await?;
    removed(&broker).await?;
    let first_kept =
        async |lite: &str| anyhow::Ok(admin.lite_topic(&other, &LiteName::parse(lite)?).await?.first_kept.0);
    assert_eq!([first_kept("x").await?, first_kept("y").await?, first_kept("z").await?], [COUNT, 3, 0]);
    // Without any group all that is there is kept, and nothing else is there.
    admin.delete_group(&other, Dependents::Keep).await?;
    publish(&producer, "x", 1).await?;
    let third = create_group(&broker, "k", &topic).await?;
    let mut got = take(&broker, &third, 3).await?;
    got.sort_unstable();
    assert_eq!(got, [format!("x {COUNT} #1 m0"), "z 0 #1 m0".into(), "z 1 #1 m1".into()]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_in_the_middle_of_a_deletion_leaves_nothing_of_the_group() -> Result<()> {
    const LITES: u64 = 3_000;
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    let other = create_group(&broker, "h", &topic).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for n in 0..LITES {
        pending.push(producer.enqueue(Message::to(&format!("x{n}"))?.body("old")).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    drop(producer);
    take(&broker, &other, LITES.try_into()?).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(8).connect().await?;
    let held = next(&mut consumer).await?;
    broker.admin(None)?.delete_group(&group, Dependents::Keep).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let unknown = refusal(broker.admin(None)?.group(&group).await)?;
    assert_eq!(unknown, "unknown_group: group `g` does not exist");
    // At once, while the rows of the first go: a group of that name begins where messages are kept, which is nowhere.
    create_group(&broker, "g", &topic).await?;
    held.ack().await.unwrap_err();
    drop(consumer);
    publish(&broker.client().producer(topic.clone()).connect().await?, "x7", 1).await?;
    assert_eq!(take(&broker, &group, 1).await?, ["x7 1 #1 m0"]);
    removed(&broker).await?;
    // A group that starts at the first message that is there finds none of those that the deleted one held back.
    let admin = broker.admin(None)?;
    admin.delete_group(&group, Dependents::Keep).await?;
    admin.delete_group(&other, Dependents::Keep).await?;
    removed(&broker).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let third = create_group(&broker, "k", &topic).await?;
    assert_eq!(take(&broker, &third, 1).await?, ["x7 1 #1 m0"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_stay_unless_they_are_to_go() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let dead = topic.dead_letter(&group);
    let bury = async || {
        publish(&broker.client().producer(topic.clone()).connect().await?, "x", 1).await?;
        let mut consumer = broker.client().consumer(group.clone()).connect().await?;
        next(&mut consumer).await?.dead_letter("no use").await?;
        consumer.close().await;
        anyhow::Ok(())
    };
    bury().await?;
    let kept = admin.delete_group(&group, Dependents::Keep).await?;
    assert_eq!((kept.leases, kept.dead_letter_topics.len()), (0, 0));
    assert_eq!(admin.topic(&dead).await?.lite_topics, 1);
    // A group of the same name goes on with them.
    create_group(&broker, "g", &topic).await?;
    bury().await?;
    assert_eq!(admin.dead_letters(&group, &Page::default()).await?.dead_letters.len(), 2);
    let doctor = create_group(&broker, "doctor", &dead).await?;
    assert_eq!(
        refusal(admin.delete_group(&group, Dependents::Delete).await)?,
        "in_use: group `doctor` consumes the dead letters of `g`: delete it first"
    );
    admin.delete_group(&doctor, Dependents::Keep).await?;
    let gone = json(&broker, &["group", "delete", "g", "--with-dead-letters"])?;
    assert_eq!(gone["dead_letter_topics"], serde_json::json!(["t.dlq.g", "t.dlq.g.dlq.doctor"]));
    assert!(
        matches!(admin.topic(&dead).await, Err(AdminError::Refused(refused)) if refused.code == ErrorCode::UnknownTopic)
    );
    create_group(&broker, "g", &topic).await?;
    assert_eq!(admin.dead_letters(&group, &Page::default()).await?.dead_letters, []);
    assert_eq!(admin.topic(&topic).await?.settings, TopicSettings::default());
    Ok(())
}
