//! Requests that nobody wants any more.

use anyhow::{Context, Result};
use sluicegate_client::{Cancelled, LiteName, Message, MessageId, Offset, Replied, Request, RequestError};
use sluicegate_tests::PATIENCE;

use super::{World, ask, bodies, id, next, topic};

async fn was_cancelled(request: &Request) -> Result<()> {
    let expected = RequestError::Failed { request: request.id().clone(), reason: "cancelled".into() };
    assert_eq!(request.reply(PATIENCE).await, Err(expected));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_is_dropped_and_those_around_it_are_not() -> Result<()> {
    let mut world = World::start().await?;
    let requester = world.requester().await?;
    let mut requests = Vec::new();
    for body in ["one", "two", "three"] {
        requests.push(requester.start(ask(body)?).await?);
    }
    assert_eq!(requests[1].cancel().await?, Cancelled::Dropped);
    assert_eq!(requests[1].cancel().await?, Cancelled::Over, "cancelled twice");
    was_cancelled(&requests[1]).await?;
    // And it stays so.
    world.broker.crash_and_restart()?;
    let mut worker = world.worker().await?;
    for body in ["one", "three"] {
        let delivery = next(&mut worker).await?;
        assert_eq!(&delivery.body()[..], body.as_bytes());
        delivery.reply(body).await?;
        delivery.ack().await?;
    }
    assert_eq!(requests[0].cancel().await?, Cancelled::Over, "cancelled after its end");
    for (request, body) in [(&requests[0], "one"), (&requests[2], "three")] {
        assert_eq!(&request.reply(PATIENCE).await?.body[..], body.as_bytes());
    }
    assert_eq!(requests[1].cancel().await?, Cancelled::Over);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_told_that_nobody_wants_its_request() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let request = requester.start(ask("long work")?).await?;
    let delivery = next(&mut worker).await?;
    assert!(!delivery.is_cancelled());
    for _ in 0..2 {
        assert_eq!(request.cancel().await?, Cancelled::Running);
        tokio::time::timeout(PATIENCE, delivery.cancelled()).await.context("it was not told")?;
    }
    assert!(delivery.is_cancelled() && !delivery.is_lease_lost());
    assert_eq!(delivery.reply("too late").await?, Replied::Before);
    delivery.ack().await?;
    assert_eq!(request.cancel().await?, Cancelled::Over);
    was_cancelled(&request).await?;
    assert_eq!(bodies(&world.replied(&request).await?), [""]);
    // Another delivery is not.
    let _other = requester.start(ask("other work")?).await?;
    let delivery = next(&mut worker).await?;
    assert!(!delivery.is_cancelled());
    delivery.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requester_that_is_back_cancels_where_it_wrote_down_that_its_request_is() -> Result<()> {
    let world = World::start().await?;
    let made = world.requester().await?.start_as(id("r-1"), ask("long work")?).await?;
    let place = made.message().context("it was just made")?.to_string();
    let resumed = world.requester().await?.resume(id("r-1"));
    assert_eq!(resumed.cancel().await.unwrap_err(), RequestError::Nowhere { request: id("r-1") });
    let resumed = resumed.at(topic("agents"), LiteName::parse("work/1")?, place.parse()?);
    assert_eq!(resumed.cancel().await?, Cancelled::Dropped);
    was_cancelled(&made).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_knows_a_request_cancels_it() -> Result<()> {
    let world = World::start().await?;
    let requester = world.requester().await?;
    let request = requester.start_as(id("mine"), ask("work")?).await?;
    let message = request.message().context("it was just made")?;
    let fact = world.broker.client().producer(topic("agents")).connect().await?.send(Message::to("work/1")?).await?;
    let at = |name: &str, lite: &str, message: MessageId| -> Result<Request> {
        Ok(requester.resume(id(name)).at(topic("agents"), LiteName::parse(lite)?, message))
    };
    let beyond = MessageId { offset: Offset(9), ..message };
    let wrong = [at("yours", "work/1", message)?, at("mine", "work/1", fact.message())?, at("mine", "work/1", beyond)?];
    let mut said = Vec::new();
    for request in wrong {
        let error = request.cancel().await.unwrap_err().to_string();
        said.push(error.replace(&message.lite_id.to_string(), "LITE"));
    }
    insta::assert_snapshot!(said.join("\n"), @r"
    broker refused: permission_denied: message LITE-0 is not request `yours`
    broker refused: permission_denied: message LITE-1 is not request `mine`
    broker refused: beyond_end: offset 9 of lite topic `work/1` is beyond its end, 2 is the next to come
    ");
    assert_eq!(at("mine", "another", message)?.cancel().await?, Cancelled::Over, "no such place");
    let mut worker = world.worker().await?;
    for _ in 0..2 {
        next(&mut worker).await?.ack().await?;
    }
    let stats = world.admin.group(&super::group()).await?.stats;
    assert_eq!(stats.acked, 2, "{stats:?}");
    Ok(())
}
