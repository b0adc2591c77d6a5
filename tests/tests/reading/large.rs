//! Bodies that are too large for a message's row, or for a frame.

use anyhow::{Context, Result};
use bytes::Bytes;
use sluicegate_client::admin::{CreateGroup, GroupSettings, TopicSettings};
use sluicegate_client::{BodyError, ErrorCode, GroupName, Message, ReadError};

use super::{World, counted, fault, log, next};

/// Bytes that differ from place to place.
fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| step()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_every_size_are_read_bit_by_bit_and_in_order() -> Result<()> {
    let world = World::start(log(None)).await?;
    let bodies: Vec<_> = [0, 1, 4_096, 4_097, 262_144, 262_145, 5 << 20, 3].into_iter().map(noise).collect();
    let producer = world.producer().await?;
    for body in &bodies {
        producer.send(Message::to("a")?.body(body.clone())).await?;
    }
    let mut reader = world.reader("a").connect().await?;
    for body in &bodies {
        let message = next(&mut reader).await?;
        assert!(message.body() == body, "{} bytes", body.len());
    }
    let mut reader = world.reader("a").stream_bodies_above(0).connect().await?;
    for body in &bodies {
        let message = next(&mut reader).await?;
        assert_eq!((message.is_body_streamed(), message.body_bytes()), (body.len() > 262_144, body.len() as u64));
        assert!(message.body_reader().read_all().await? == *body, "{} bytes", body.len());
    }
    let mut small = world.reader("a").body_bytes_max(1 << 20).connect().await?;
    for _ in 0..6 {
        next(&mut small).await?;
    }
    assert!(matches!(fault(&mut small).await?, ReadError::TooLarge { bytes: 5_242_880, max: 1_048_576, .. }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_that_is_settled_before_it_is_fetched_is_passed_over() -> Result<()> {
    let world = World::start(TopicSettings::default()).await?;
    let group = GroupName::parse("g")?;
    world.admin.create_group(&CreateGroup::new(group.clone(), world.topic.clone(), GroupSettings::default())).await?;
    let producer = world.producer().await?;
    producer.send(Message::to("a")?.body(noise(1 << 20))).await?;
    let mut fetches = world.reader("a").follow(true).connect().await?;
    let mut streams = world.reader("a").follow(true).stream_bodies_above(0).connect().await?;
    let message = next(&mut streams).await?;
    // Both have heard of the message.
    world.metric_becomes("sluicegate_read_messages_total", 2).await?;
    world.settle(&group, 1).await?;
    world.publish("a", counted(1..2)).await?;
    let gone = message.body_reader().read_all().await;
    assert!(matches!(&gone, Err(BodyError::Refused(refusal)) if refusal.code == ErrorCode::Trimmed), "{gone:?}");
    let message = next(&mut fetches).await.context("the one behind")?;
    assert_eq!((message.offset().0, message.body().as_ref()), (1, &b"1"[..]));
    Ok(())
}
