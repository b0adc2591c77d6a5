//! What a request says of where its reply goes may be anything.

use anyhow::Result;
use sluicegate_client::admin::{CreateTopic, TopicSettings};
use sluicegate_client::{ErrorCode, Message, ReplyError};

use super::{World, next, replies, topic};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_asks_for_no_reply_replies_to_nobody() -> Result<()> {
    let world = World::start().await?;
    let producer = world.broker.client().producer(topic("agents")).connect().await?;
    producer.send(Message::to("work/1")?.body("a fact")).await?;
    let mut worker = world.worker().await?;
    let delivery = next(&mut worker).await?;
    assert!(!delivery.is_request());
    assert_eq!(delivery.reply("thanks").await.unwrap_err(), ReplyError::Nobody);
    assert_eq!(delivery.reply_stream().unwrap_err().to_string(), "the message asks for no reply: it replies to nobody");
    delivery.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_any_other_place_is_refused_and_nothing_is_written() -> Result<()> {
    let world = World::start().await?;
    for name in ["vault", "vault.replies"] {
        world.admin.create_topic(&CreateTopic { name: topic(name), settings: replies() }).await?;
    }
    let long = "x".repeat(65);
    let addresses: [[Option<&str>; 3]; 8] = [
        [Some("vault"), Some("reply/planner/1"), Some("1")],
        [Some("vault.replies"), Some("reply/planner/1"), Some("1")],
        [Some("agents"), Some("reply/planner/1"), Some("1")],
        [Some("a/b"), Some("reply/planner/1"), Some("1")],
        [Some("agents.replies"), Some("session/42"), Some("1")],
        [Some("agents.replies"), Some("reply/\n"), Some("1")],
        [Some("agents.replies"), Some("reply/planner/1"), Some(&long)],
        [None, Some("reply/planner/1"), Some("1")],
    ];
    let producer = world.broker.client().producer(topic("agents")).connect().await?;
    for [topic, lite, id] in addresses {
        let mut message = Message::to("work/1")?;
        for (key, value) in [("reply.topic", topic), ("reply.lite", lite), ("request.id", id)] {
            message = value.into_iter().fold(message, |message, value| message.property(key, value));
        }
        producer.send(message).await?;
    }
    let (mut worker, mut said) = (world.worker().await?, Vec::new());
    for _ in addresses {
        let delivery = next(&mut worker).await?;
        said.push(delivery.reply("a secret").await.unwrap_err().to_string());
        delivery.ack().await?;
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    the request's reply address is wrong: it names topic `vault`, replies go to `agents.replies` only
    the request's reply address is wrong: it names topic `vault.replies`, replies go to `agents.replies` only
    the request's reply address is wrong: it names topic `agents`, replies go to `agents.replies` only
    the request's reply address is wrong: topic name has '/' at byte 1, allowed are A-Z a-z 0-9 `.` `_` `-`
    the request's reply address is wrong: lite topic `session/42` does not begin with `reply/`
    the request's reply address is wrong: lite topic name has '\n' at byte 6, allowed are any UTF-8 but control characters
    the request's reply address is wrong: request name has 65 bytes, at most 64 are allowed
    the request's reply address is wrong: it needs all of the properties `reply.topic`, `reply.lite`, `request.id`
    ");
    for name in ["vault", "vault.replies", "agents.replies"] {
        assert_eq!(world.admin.topic(&topic(name)).await?.messages, 0, "{name}");
    }
    assert_eq!(world.admin.topic(&topic("agents")).await?.lite_topics, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_without_replies_takes_no_requests_and_its_workers_reply_to_nothing() -> Result<()> {
    let world = World::start().await?;
    let (plain, settings) = (topic("plain"), TopicSettings::default());
    world.admin.create_topic(&CreateTopic { name: plain.clone(), settings }).await?;
    let client = world.broker.client();
    let refused = client.requester(plain.clone(), sluicegate_client::RequesterId::parse("planner")?).await.unwrap_err();
    assert_eq!(refused.to_string(), "topic `plain` names no topic that replies go to (setting `replies`)");
    let group = sluicegate_client::GroupName::parse("plain-workers")?;
    let group_settings = super::impatient();
    let create = sluicegate_client::admin::CreateGroup::new(group.clone(), plain.clone(), group_settings);
    world.admin.create_group(&create).await?;
    let message = Message::to("work/1")?.property("reply.topic", "agents.replies");
    let message = message.property("reply.lite", "reply/planner/1").property("request.id", "1");
    client.producer(plain).connect().await?.send(message).await?;
    let mut worker = client.consumer(group).connect().await?;
    let delivery = next(&mut worker).await?;
    let ReplyError::Connect(sluicegate_client::ConnectError::Refused(refusal)) = delivery.reply("x").await.unwrap_err()
    else {
        anyhow::bail!("it was not refused");
    };
    assert_eq!(refusal.code, ErrorCode::UnknownTopic);
    delivery.ack().await?;
    Ok(())
}
