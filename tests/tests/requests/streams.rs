//! Replies in parts.

use anyhow::{Context, Result};
use sluicegate_client::{Replied, ReplyError};
use sluicegate_tests::PATIENCE;

use super::{World, ask, bodies, next};

const PARTS: [&str; 5] = ["Once", " upon", " a", " time", "."];

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_reply_are_read_as_they_come_up_to_its_end() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let mut reader = requester.request_stream(ask("a tale")?).await?;
    let delivery = next(&mut worker).await?;
    let mut reply = delivery.reply_stream()?;
    for part in PARTS {
        reply.send(part).await?;
        let read = tokio::time::timeout(PATIENCE, reader.next()).await?.context("the reader ended")??;
        assert_eq!((&read.body()[..], read.is_end()), (part.as_bytes(), false));
    }
    assert_eq!(reply.end().await?, Replied::Now);
    assert!(reader.next().await.context("no end")??.is_end());
    assert!(reader.next().await.is_none());
    let id = delivery.property("request.id").context("a request has an id")?;
    let request = requester.resume(super::id(id));
    delivery.ack().await?;
    let reply = request.reply(PATIENCE).await?;
    assert_eq!((&reply.body[..], reply.parts), (&b"Once upon a time."[..], 6));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_goes_on_behind_the_parts_of_the_first() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut first) = (world.requester().await?, world.worker().await?);
    let request = requester.start(ask("a tale")?).await?;
    let delivery = next(&mut first).await?;
    let mut reply = delivery.reply_stream()?;
    for part in &PARTS[..3] {
        reply.send(*part).await?;
    }
    while world.replied(&request).await.map_or(0, |parts| parts.len()) < 3 {
        tokio::task::yield_now().await;
    }
    drop(reply);
    first.close().await;
    let mut second = world.worker().await?;
    let delivery = next(&mut second).await?;
    let mut reply = delivery.reply_stream()?;
    for part in PARTS {
        reply.send(part).await?;
    }
    assert_eq!(reply.end().await?, Replied::Now);
    delivery.ack().await?;
    assert_eq!(bodies(&world.replied(&request).await?), ["Once", " upon", " a", " time", ".", ""]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_that_says_otherwise_is_told_and_can_end_it() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let request = requester.start(ask("a tale")?).await?;
    let delivery = next(&mut worker).await?;
    let mut reply = delivery.reply_stream()?;
    reply.send("Once").await?;
    drop(reply);
    let mut reply = delivery.reply_stream()?;
    reply.send("Twice").await?;
    assert_eq!(reply.end().await.unwrap_err(), ReplyError::Differs { part: 0 });
    assert_eq!(delivery.reply_stream()?.fail("two tales").await?, Replied::Now);
    assert_eq!(delivery.reply("a third").await?, Replied::Before);
    delivery.ack().await?;
    let error = request.reply(PATIENCE).await.unwrap_err().to_string();
    assert_eq!(error, format!("request {} failed: two tales", request.id()));
    Ok(())
}
