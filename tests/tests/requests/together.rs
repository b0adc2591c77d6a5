//! Who asks and who answers are there at once, or never.

use std::time::Duration;

use anyhow::Result;
use sluicegate_client::{Replied, RequestError};
use sluicegate_tests::PATIENCE;

use super::{World, ask, bodies, id, next};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_replied_to_in_a_lite_topic_of_its_own() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let working = async {
        let delivery = next(&mut worker).await?;
        assert_eq!((delivery.lite(), &delivery.body()[..]), ("work/1", &b"what is it?"[..]));
        assert!(delivery.is_request());
        assert_eq!(delivery.reply("this").await?, Replied::Now);
        anyhow::Ok(delivery.ack().await?)
    };
    let (reply, done) = tokio::join!(requester.request(ask("what is it?")?, PATIENCE), working);
    done?;
    let reply = reply?;
    assert_eq!((&reply.body[..], reply.parts), (&b"this"[..], 1));
    let request = requester.resume(reply.request);
    assert_eq!(request.reply_lite().as_str(), format!("reply/planner/{}", request.id()));
    let messages = world.replied(&request).await?;
    assert_eq!(bodies(&messages), ["this"]);
    assert!(messages[0].is_end());
    assert_eq!(messages[0].property("request.id"), Some(request.id().as_str()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_are_never_online_together_have_a_conversation() -> Result<()> {
    let world = World::start().await?;
    let request = {
        let client = world.broker.client();
        let error =
            super::requester(&client).await?.request(ask("later")?, Duration::from_millis(1)).await.unwrap_err();
        assert!(error.to_string().ends_with("in time; it goes on, and can be resumed"), "{error}");
        let RequestError::TimedOut { request } = error else { anyhow::bail!("{error}") };
        request
    };
    {
        let mut worker = world.worker().await?;
        let delivery = next(&mut worker).await?;
        delivery.reply("here you are").await?;
        delivery.ack().await?;
        worker.close().await;
    }
    let requester = world.requester().await?;
    // As often as it likes.
    for _ in 0..2 {
        assert_eq!(&requester.resume(request.clone()).reply(PATIENCE).await?.body[..], b"here you are");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_made_again_under_its_id_is_the_same() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let first = requester.start_as(id("order-7"), ask("buy")?).await?;
    let again = world.requester().await?.start_as(id("order-7"), ask("buy")?).await?;
    assert!(first.message().is_some());
    assert_eq!(again.message(), first.message());
    let refused = requester.start_as(id("order-7"), ask("sell")?).await.unwrap_err().to_string();
    assert!(refused.starts_with("publish refused: idempotency_conflict: "), "{refused}");
    let delivery = next(&mut worker).await?;
    delivery.reply("bought").await?;
    delivery.ack().await?;
    for request in [first, again] {
        assert_eq!(&request.reply(PATIENCE).await?.body[..], b"bought");
    }
    let stats = world.admin.group(&super::group()).await?.stats;
    assert_eq!(stats.acked, 1, "{stats:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_gives_up_says_why() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let request = requester.start(ask("impossible")?).await?;
    let delivery = next(&mut worker).await?;
    delivery.reply_error("no such thing").await?;
    delivery.ack().await?;
    let error = request.reply(PATIENCE).await.unwrap_err();
    assert_eq!(error.to_string(), format!("request {} failed: no such thing", request.id()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_may_be_larger_than_a_frame() -> Result<()> {
    let world = World::start().await?;
    let (requester, mut worker) = (world.requester().await?, world.worker().await?);
    let request = requester.start(ask("all of it")?).await?;
    let all: Vec<u8> = (0..3_u32 << 20).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    let delivery = next(&mut worker).await?;
    assert_eq!(delivery.reply(all.clone()).await?, Replied::Now);
    assert_eq!(delivery.reply(all.clone()).await?, Replied::Before);
    delivery.ack().await?;
    assert!(request.reply(PATIENCE).await?.body == all);
    Ok(())
}
