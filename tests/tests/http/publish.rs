//! Messages that come over HTTP.

use anyhow::{Context, Result};
use serde_json::json;
use sluicegate_client::admin::{CreateGroup, GroupSettings, TenantRule, TopicLimits, TopicSettings};
use sluicegate_client::{GroupName, Position};
use sluicegate_tests::PATIENCE;

use super::{World, lite, log, refused};

#[tokio::test]
async fn what_is_published_over_http_is_read_over_quic_with_all_that_it_was_given() -> Result<()> {
    let world = World::start(log(None)).await?;
    let receipt = world
        .post("messages?lite=chat/1&priority=7&cost=12&property.model=small%20one&end=1")
        .header("Sluice-Property-trace", "abc")
        .body("hello")
        .send()
        .await?
        .json::<serde_json::Value>()
        .await?;
    assert_eq!(
        (&receipt["offset"], &receipt["created"], &receipt["duplicate"]),
        (&json!(0), &json!(true), &json!(false))
    );
    assert_eq!(receipt["id"], format!("{}-0", receipt["lite_id"].as_str().context("a string")?));

    let client = world.broker.client();
    let mut reader = client.reader(world.topic.clone(), lite("chat/1")).from(Position::Earliest).connect().await?;
    let message = reader.next().await.context("a message")??;
    assert_eq!(
        (&message.body()[..], message.id().to_string()),
        (&b"hello"[..], receipt["id"].as_str().unwrap().into())
    );
    let properties: Vec<_> = message.properties().iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(properties, [("model", "small one"), ("stream.end", ""), ("trace", "abc")]);
    assert_eq!((message.priority(), message.cost()), (7, 12));
    Ok(())
}

#[tokio::test]
async fn an_idempotency_key_publishes_once_over_a_crash_too() -> Result<()> {
    let mut world = World::start(log(None)).await?;
    let send = |world: &World, body: &'static str| {
        world.post("messages?lite=a").header("Idempotency-Key", "order-42").body(body).send()
    };
    let first = send(&world, "x").await?;
    assert_eq!(first.status(), 201);
    let first: serde_json::Value = first.json().await?;
    world.broker.crash_and_restart()?;
    world.http = super::client(&world.broker)?;
    let again = send(&world, "x").await?;
    assert_eq!(again.status(), 200);
    let again: serde_json::Value = again.json().await?;
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    assert_eq!(refused(send(&world, "y").await?).await?, "409 idempotency_conflict");
    // Numbers go on behind those of the process before: what is new is new.
    assert_eq!(world.publish("lite=a", "z").await?["offset"], 1);
    Ok(())
}

#[tokio::test]
async fn a_tenant_and_a_delay_reach_the_group() -> Result<()> {
    let settings = TopicSettings { tenant: TenantRule::Property("user".into()), ..TopicSettings::default() };
    let world = World::start(settings).await?;
    let group = CreateGroup::new(GroupName::parse("g")?, world.topic.clone(), GroupSettings::default());
    world.admin.create_group(&group).await?;
    world.publish("lite=late&tenant=ann&delay_ms=3600000", "late").await?;
    world.publish("lite=now&tenant=ben", "now").await?;
    let mut consumer = world.broker.client().consumer(GroupName::parse("g")?).workers(2).connect().await?;
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("a delivery")??;
    assert_eq!((delivery.tenant(), &delivery.body()[..]), ("ben", &b"now"[..]));
    let page = world.page("lite=late").await?;
    assert_eq!(page["messages"][0]["properties"]["user"], "ann");
    Ok(())
}

#[tokio::test]
async fn a_full_topic_answers_429_with_when_to_come_again() -> Result<()> {
    let limits = TopicLimits { messages: 1, ..TopicLimits::default() };
    let world = World::start(TopicSettings { limits, ..log(None) }).await?;
    world.publish("lite=a", "x").await?;
    let answer = world.post("messages?lite=a").body("y").send().await?;
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(refused(answer).await?, "429 limit_reached");
    Ok(())
}

#[tokio::test]
async fn a_large_body_comes_and_goes_bit_by_bit_the_same() -> Result<()> {
    let world = World::start(log(None)).await?;
    let body: Vec<u8> = (0..20_000_003_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
    let receipt: serde_json::Value =
        world.post("messages?lite=a").body(body.clone()).send().await?.error_for_status()?.json().await?;
    let page = world.page("lite=a").await?;
    assert_eq!(page["messages"][0]["large_body_bytes"], body.len());
    let id = receipt["id"].as_str().context("an id")?;
    let answer = world.get(&format!("messages/{id}?lite=a")).send().await?.error_for_status()?;
    assert_eq!(answer.content_length(), Some(body.len() as u64));
    assert!(answer.bytes().await? == body, "the body is another one");
    Ok(())
}
