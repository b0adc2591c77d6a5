//! Dead letters: list, redrive.

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{CreateGroup, Follows, GroupSettings, Page, TenantRule, TopicSettings};
use sluicegate_client::{GroupName, LiteName, Message, Offset, Subscription, TopicName};
use sluicegate_tests::Broker;

use super::{json, next, nothing_comes, refusal, started, text};

/// Publishes to each of these lite topics and lets the group `g` give the messages up.
async fn bury(broker: &Broker, topic: &TopicName, group: &GroupName, lites: &[&str]) -> Result<()> {
    let producer = broker.client().producer(topic.clone()).connect().await?;
    for lite in lites {
        producer.send(Message::to(lite)?.body(format!("of {lite}")).property("own", "kept").priority(7)).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for _ in lites {
        next(&mut consumer).await?.dead_letter("no use").await?;
    }
    consumer.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_page_by_page_with_their_cause() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["a", "b", "b", "c", "b"]).await?;
    let admin = broker.admin(None)?;
    let mut found = Vec::new();
    let mut page = Page { limit: Some(2), ..Page::default() };
    loop {
        let got = admin.dead_letters(&group, &page).await?;
        found.extend(got.dead_letters.into_iter().map(|dead| format!("{} {} {}", dead.lite, dead.offset, dead.origin)));
        page.after = got.next;
        if page.after.is_none() {
            break;
        }
    }
    assert_eq!(found, ["a 0 0", "b 0 0", "b 1 1", "b 2 2", "c 0 0"]);
    let listed = json(&broker, &["dead-letter", "list", "g", "--prefix", "c"])?;
    let listed = &listed["dead_letters"][0];
    assert_eq!((&listed["cause"], &listed["attempts"], &listed["origin"]), (&"no use".into(), &1.into(), &0.into()));
    assert_eq!(listed.as_object().context("an object")?.len(), 6, "{listed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn redriven_messages_start_anew_and_leave_the_dead_letter_topic() -> Result<()> {
    let (mut broker, topic, group) = started(GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["a", "b", "b"]).await?;
    let done = json(&broker, &["dead-letter", "redrive", "g", "--limit", "2"])?;
    assert_eq!(done, serde_json::json!({"moved": 2, "in_use": 0, "more": true}));
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let done = json(&broker, &["dead-letter", "redrive", "g"])?;
    assert_eq!(done, serde_json::json!({"moved": 1, "in_use": 0, "more": false}));
    assert_eq!(json(&broker, &["dead-letter", "redrive", "g"])?["moved"], 0, "the second time moves nothing");
    assert_eq!(broker.admin(None)?.dead_letters(&group, &Page::default()).await?.dead_letters, []);
    let mut consumer = broker.client().consumer(group).connect().await?;
    let mut got = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await?;
        assert_eq!((delivery.priority(), delivery.property("own")), (7, Some("kept")));
        assert_eq!(delivery.property("sluicegate.dead-letter.cause"), None);
        got.push(text(&delivery));
        delivery.ack().await?;
    }
    got.sort_unstable();
    assert_eq!(got, ["a 1 #1 of a", "b 2 #1 of b", "b 3 #1 of b"]);
    assert!(nothing_comes(&mut consumer).await, "a message was doubled");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_is_for_its_own_group() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let other = CreateGroup::new(GroupName::parse("h")?, topic.clone(), GroupSettings::default());
    broker.admin(None)?.create_group(&other).await?;
    bury(&broker, &topic, &group, &["a"]).await?;
    let done = broker.admin(None)?.redrive(&group, Some(&LiteName::parse("a")?), None).await?;
    assert_eq!((done.moved, done.more), (1, false));
    let mut consumer = broker.client().consumer(other.name).connect().await?;
    let first = next(&mut consumer).await?;
    assert_eq!(text(&first), "a 0 #1 of a");
    first.ack().await?;
    assert!(nothing_comes(&mut consumer).await, "another group got the message again");
    let mut consumer = broker.client().consumer(group).connect().await?;
    assert_eq!(text(&next(&mut consumer).await?), "a 1 #1 of a");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_comes_to_a_group_that_does_not_follow_the_lite_topic_any_more() -> Result<()> {
    let settings = GroupSettings { follows: Follows::Subscribed, ..GroupSettings::default() };
    let (broker, topic, group) = started(settings).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("a")?);
    // One that has it already, and is done with whatever comes back.
    admin.create_group(&CreateGroup::new(GroupName::parse("h")?, topic.clone(), GroupSettings::default())).await?;
    let mine = Subscription::default().lite_topic(lite.clone());
    let mut consumer = broker.client().consumer(group.clone()).subscribe_to(mine.clone()).connect().await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    producer.send(Message::to("a")?.body("of a")).await?;
    next(&mut consumer).await?.dead_letter("no use").await?;
    consumer.close().await;
    for lite_is_new in [false, true] {
        if lite_is_new {
            admin.delete_lite(&topic, &lite).await?;
        } else {
            let consumer = broker.client().consumer(group.clone()).subscribe_to(mine.clone()).connect().await?;
            consumer.unsubscribe(mine.clone()).await?;
            consumer.close().await;
        }
        assert_eq!(admin.redrive(&group, None, None).await?.moved, 1);
        let mut consumer = broker.client().consumer(group.clone()).subscribe_to(mine.clone()).connect().await?;
        let back = next(&mut consumer).await?;
        assert_eq!(&back.body()[..], b"of a");
        back.dead_letter("no use").await?;
        consumer.close().await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_on_the_dead_letter_topic_never_sees_what_was_redriven() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["a", "a", "b"]).await?;
    let admin = broker.admin(None)?;
    assert_eq!(admin.redrive(&group, Some(&LiteName::parse("a")?), Some(1)).await?.moved, 1);
    // A group that comes later starts at the first that is kept.
    let topic = TopicName::parse_existing("t.dlq.g")?;
    let doctor = CreateGroup::new(GroupName::parse("doctor")?, topic, GroupSettings::default());
    admin.create_group(&doctor).await?;
    let mut consumer = broker.client().consumer(doctor.name).workers(2).connect().await?;
    let mut deliveries = [next(&mut consumer).await?, next(&mut consumer).await?];
    deliveries.sort_unstable_by_key(|delivery| delivery.lite().to_owned());
    let [held, other] = deliveries;
    assert_eq!((text(&held), text(&other)), ("a 1 #1 of a".into(), "b 0 #1 of b".into()));
    other.ack().await?;
    // What it works on stays; what it is done with is not moved.
    let refused = refusal(admin.redrive(&group, Some(&LiteName::parse("a")?), None).await)?;
    assert!(refused.starts_with("in_use: offset 1 is leased to session "), "{refused}");
    let done = admin.redrive(&group, None, None).await?;
    assert_eq!((done.moved, done.in_use), (0, 1));
    held.retry(Some(Duration::from_mins(10))).await?;
    assert_eq!(admin.redrive(&group, None, None).await?.moved, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_makes_a_deleted_origin_anew_for_the_same_tenant() -> Result<()> {
    let broker = Broker::start()?;
    let settings = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let (topic, group) = broker.topic_and_group(settings, GroupSettings::default()).await?;
    bury(&broker, &topic, &group, &["ann/1"]).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("ann/1")?);
    admin.delete_lite(&topic, &lite).await?;
    assert_eq!(admin.redrive(&group, None, None).await?.moved, 1);
    let shown = admin.lite_topic(&group, &lite).await?;
    assert_eq!((shown.tenant.as_str(), shown.next_offset, shown.backlog), ("ann", Offset(1), 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redrive_limit_is_1_to_1000_and_its_names_must_be_there() -> Result<()> {
    let (broker, _, group) = started(GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let after = Page { after: Some("nowhere".into()), ..Page::default() };
    let refusals = [
        refusal(admin.redrive(&group, None, Some(0)).await)?,
        refusal(admin.redrive(&group, None, Some(1_001)).await)?,
        refusal(admin.redrive(&group, Some(&LiteName::parse("x")?), None).await)?,
        refusal(admin.redrive(&GroupName::parse("nobody")?, None, None).await)?,
        refusal(admin.dead_letters(&group, &after).await)?,
        refusal(admin.delete_lite(&TopicName::parse("t")?, &LiteName::parse("x")?).await)?,
    ];
    insta::assert_snapshot!(refusals.join("\n"), @r"
    invalid_argument: limit: 0, allowed are 1 to 1000
    invalid_argument: limit: 1001, allowed are 1 to 1000
    unknown_lite: lite topic `x` does not exist in topic `t.dlq.g`
    unknown_group: group `nobody` does not exist
    invalid_argument: after: `nowhere` is not `OFFSET@LITE`
    unknown_lite: lite topic `x` does not exist in topic `t`
    ");
    Ok(())
}
