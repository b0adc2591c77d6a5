//! Lite topics: list, show, peek.

use std::time::Duration;

use anyhow::Result;
use sluicegate_client::admin::{BodyPreview, GroupSettings, MessageState, Page};
use sluicegate_client::{LiteName, Message, Offset, TopicName};

use super::{json, next, publish, refusal, started};

#[tokio::test(flavor = "multi_thread")]
async fn pages_name_every_lite_topic_exactly_once() -> Result<()> {
    const LITES: usize = 250;
    let (broker, topic, _) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut names: Vec<_> = (0..LITES).map(|n| format!("user/{}", n * 7919 % 1_000)).collect();
    names.push("other".into());
    let mut pending = Vec::new();
    for name in &names {
        pending.push(producer.enqueue(Message::to(name)?).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    names.sort_unstable();
    let admin = broker.admin(None)?;
    for (prefix, limit, expected) in [(None, 7, &names[..]), (Some("user/"), 50, &names[1..]), (Some("v"), 9, &[])] {
        let mut found = Vec::new();
        let mut page = Page { prefix: prefix.map(str::to_owned), after: None, limit: Some(limit) };
        loop {
            let got = admin.lite_topics(&topic, &page).await?;
            assert!(got.lite_topics.len() <= limit as usize);
            found.extend(got.lite_topics.into_iter().map(|lite| lite.name.as_str().to_owned()));
            page.after = got.next;
            if page.after.is_none() {
                break;
            }
        }
        assert_eq!(found, expected, "prefix {prefix:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_limit_is_1_to_1000() -> Result<()> {
    let (broker, topic, _) = started(GroupSettings::default()).await?;
    for (limit, message) in [(0, "limit: 0, allowed are 1 to 1000"), (1_001, "limit: 1001, allowed are 1 to 1000")] {
        let page = Page { limit: Some(limit), ..Page::default() };
        assert_eq!(
            refusal(broker.admin(None)?.lite_topics(&topic, &page).await)?,
            format!("invalid_argument: {message}")
        );
    }
    let unknown = broker.admin(None)?.lite_topics(&TopicName::parse("nope")?, &Page::default()).await;
    assert_eq!(refusal(unknown)?, "unknown_topic: topic `nope` does not exist");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lite_topic_shows_where_a_group_stands_in_it() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    publish(&producer, "chat/1", 4).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    next(&mut consumer).await?.ack().await?;
    next(&mut consumer).await?.retry(Some(Duration::ZERO)).await?;
    let held = next(&mut consumer).await?;
    let shown = json(&broker, &["lite", "show", "g", "chat/1"])?;
    assert_eq!([&shown["topic"], &shown["name"], &shown["tenant"], &shown["group"]], ["t", "chat/1", "chat/1", "g"]);
    assert_eq!([&shown["first_kept"], &shown["settled_up_to"], &shown["next_offset"], &shown["backlog"]], [1, 1, 4, 2]);
    assert_eq!(shown["head"], serde_json::json!({"offset": 2, "attempts": 0}));
    assert_eq!((&shown["leases"][0]["offset"], &shown["leases"][0]["attempt"]), (&1.into(), &2.into()));
    assert_eq!(shown["suspensions"], serde_json::json!([]));
    held.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peek_shows_messages_and_changes_nothing() -> Result<()> {
    let (broker, topic, group) = started(GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("hello").property("model", "small").priority(7).cost(3)).await?;
    producer.send(Message::to("x")?.body(vec![0xff; 5_000])).await?;
    producer.send(Message::to("x")?.body("last")).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    let (admin, lite) = (broker.admin(None)?, LiteName::parse("x")?);
    let before = admin.lite_topic(&group, &lite).await?;
    let peek = admin.peek(&group, &lite, None, Some(2)).await?;
    assert_eq!((peek.messages.len(), peek.next), (2, Some(Offset(2))));
    let first = &peek.messages[0];
    assert_eq!((first.state, first.priority, first.cost, first.body_bytes), (MessageState::Leased, 7, 3, 5));
    assert_eq!((&first.body, &first.properties["model"]), (&BodyPreview::Text("hello".into()), &"small".to_owned()));
    let BodyPreview::Base64(shown) = &peek.messages[1].body else { panic!("{peek:?}") };
    assert_eq!((peek.messages[1].body_bytes, shown.len()), (5_000, 5_464), "4 KiB in base64");
    assert_eq!(admin.lite_topic(&group, &lite).await?, before);
    held.ack().await?;
    let shown = json(&broker, &["lite", "peek", "g", "x", "--from", "2"])?;
    assert_eq!(shown["messages"][0]["body"], serde_json::json!({"text": "last"}));
    let past = json(&broker, &["lite", "peek", "g", "x", "--from", "99"])?;
    assert_eq!(past, serde_json::json!({"messages": [], "next": null}));
    Ok(())
}
