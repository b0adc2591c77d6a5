//! Somebody is killed at the worst moment, and one reply there is.

use anyhow::Result;
use sluicegate_client::{Client, Replied};
use sluicegate_tests::PATIENCE;

use super::{World, ask, bodies, group, id, killed_after, next, requester};

async fn replies_and_dies(client: Client) -> Result<()> {
    let mut worker = client.consumer(group()).connect().await?;
    let delivery = next(&mut worker).await?;
    assert_eq!((delivery.attempt(), delivery.reply("the first").await?), (1, Replied::Now));
    // It never comes to acknowledge it.
    std::mem::forget((worker, delivery));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_reply_and_ack_leaves_one_reply() -> Result<()> {
    let world = World::start().await?;
    let requester = world.requester().await?;
    let request = requester.start(ask("once")?).await?;
    // A client belongs to the program that makes it.
    let (address, trust) = (world.broker.address().to_owned(), world.broker.trust());
    killed_after(async move { replies_and_dies(Client::builder(address, trust).build()).await })?;
    let mut second = world.worker().await?;
    let delivery = next(&mut second).await?;
    assert_eq!(&delivery.body()[..], b"once");
    assert_eq!(delivery.reply("the second").await?, Replied::Before);
    assert_eq!(delivery.reply("the first").await?, Replied::Before);
    delivery.ack().await?;
    assert_eq!(&request.reply(PATIENCE).await?.body[..], b"the first");
    assert_eq!(bodies(&world.replied(&request).await?), ["the first"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requester_that_is_killed_picks_its_reply_up_when_it_is_back() -> Result<()> {
    let world = World::start().await?;
    let (address, trust) = (world.broker.address().to_owned(), world.broker.trust());
    killed_after(async move {
        let requester = requester(&Client::builder(address, trust).build()).await?;
        std::mem::forget(requester.start_as(id("before-the-fall"), ask("remember me")?).await?);
        Ok(())
    })?;
    let mut worker = world.worker().await?;
    let delivery = next(&mut worker).await?;
    delivery.reply("I do").await?;
    delivery.ack().await?;
    let reply = world.requester().await?.resume(id("before-the-fall")).reply(PATIENCE).await?;
    assert_eq!(&reply.body[..], b"I do");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_between_any_two_steps_loses_and_doubles_nothing() -> Result<()> {
    let mut world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let request = requester.start(ask("survive")?).await?;
    let waiting = tokio::spawn({
        let request = request.clone();
        async move { request.reply(2 * PATIENCE).await }
    });
    world.broker.crash_and_restart()?;
    let delivery = next(&mut worker).await?;
    world.broker.crash_and_restart()?;
    delivery.reply("done").await?;
    world.broker.crash_and_restart()?;
    // Its lease may have ended with the session's absence: then the message is delivered again.
    if delivery.ack().await.is_err() {
        let again = next(&mut worker).await?;
        assert_eq!(again.reply("done anew").await?, Replied::Before);
        again.ack().await?;
    }
    assert_eq!(&waiting.await??.body[..], b"done");
    assert_eq!(bodies(&world.replied(&request).await?), ["done"]);
    Ok(())
}
