//! Request and reply over HTTP, beside workers and requesters over QUIC.

use anyhow::{Context, Result, ensure};
use reqwest::Response;
use serde_json::{Value, json};
use sluicegate_client::admin::{CreateGroup, CreateTopic, GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message, RequestId, RequesterId, TopicName};
use sluicegate_tests::PATIENCE;

use super::consume::Session;
use super::events::Events;
use super::{World, client, log, refused};

/// A topic `t` that workers of group `g` consume, whose replies go to topic `r`.
async fn world() -> Result<World> {
    let world = World::start(log(None)).await?;
    let (asked, replies) = (TopicName::parse("asked")?, TopicName::parse("r")?);
    world.admin.create_topic(&CreateTopic { name: replies.clone(), settings: log(None) }).await?;
    let settings = TopicSettings { replies: Some(replies), ..TopicSettings::default() };
    world.admin.create_topic(&CreateTopic { name: asked.clone(), settings }).await?;
    let group = CreateGroup::new(GroupName::parse("g")?, asked, GroupSettings::default());
    world.admin.create_group(&group).await?;
    Ok(world)
}

fn requests(world: &World, rest: &str) -> String {
    format!("{}/v1/topics/asked/requests{rest}", world.broker.http_url())
}

async fn ask(world: &World, query: &str, body: &'static str) -> Result<Response> {
    Ok(world.http.post(requests(world, &format!("?{query}"))).body(body).send().await?)
}

/// A request that nobody has answered yet.
async fn pending(world: &World, query: &str) -> Result<Value> {
    let answer = ask(world, &format!("timeout_ms=0&{query}"), "a question").await?;
    ensure!(answer.status() == 202, "{}", answer.status());
    Ok(answer.json().await?)
}

async fn resume(world: &World, id: &Value, timeout_ms: u64) -> Result<Response> {
    let id = id.as_str().context("an id")?;
    Ok(world.http.get(requests(world, &format!("/{id}?timeout_ms={timeout_ms}"))).send().await?)
}

/// Replies over HTTP, and says whether there was one before.
async fn reply(world: &World, delivery: &Value, query: &str, body: Vec<u8>) -> Result<Response> {
    let property = |name: &str| delivery["properties"][name].as_str().unwrap_or_default();
    let (lite, request) = (property("reply.lite"), property("request.id"));
    let url = format!("{}/v1/groups/g/replies?lite={lite}&request={request}{query}", world.broker.http_url());
    Ok(world.http.post(url).body(body).send().await?)
}

async fn next(worker: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, worker.next()).await.context("nothing was delivered")?;
    Ok(next.context("the consumer ended")??)
}

#[tokio::test]
async fn a_request_over_http_is_answered_by_a_worker_over_quic() -> Result<()> {
    let world = world().await?;
    let mut worker = world.broker.client().consumer(GroupName::parse("g")?).connect().await?;
    let url = requests(&world, "?lite=work/1&timeout_ms=60000&property.k=v");
    let asked = tokio::spawn(world.http.post(url).body("a question").send());
    let delivery = next(&mut worker).await?;
    assert_eq!((&delivery.body()[..], delivery.property("k")), (&b"a question"[..], Some("v")));
    delivery.reply("an answer").await?;
    delivery.ack().await?;
    let answer = asked.await??;
    let id = answer.headers()["sluice-request"].to_str()?.to_owned();
    assert_eq!((answer.status().as_u16(), &*answer.bytes().await?), (200, &b"an answer"[..]));
    let again = resume(&world, &json!(id), 0).await?;
    assert_eq!((again.status().as_u16(), &*again.bytes().await?), (200, &b"an answer"[..]));
    Ok(())
}

#[tokio::test]
async fn a_request_over_quic_is_answered_by_a_worker_over_http() -> Result<()> {
    let world = world().await?;
    let session = Session::open(&world, json!({})).await?;
    let requester = world.broker.client().requester(TopicName::parse("asked")?, RequesterId::parse("planner")?).await?;
    let request = requester.start(Message::to("work/1")?.body("a question")).await?;
    let delivery = session.one().await?;
    for (before, body) in [(false, "an answer"), (true, "an answer"), (true, "another one")] {
        let replied: Value = reply(&world, &delivery, "", body.into()).await?.error_for_status()?.json().await?;
        assert_eq!(replied, json!({ "before": before }), "{body}");
    }
    assert_eq!(session.settle_one(&delivery, "ack").await?, None);
    assert_eq!(&request.reply(PATIENCE).await?.body[..], b"an answer");
    Ok(())
}

#[tokio::test]
async fn a_reply_that_comes_later_is_picked_up_after_a_crash() -> Result<()> {
    let mut world = world().await?;
    let asked = pending(&world, "lite=work/1&requester=me").await?;
    let id = asked["request"].as_str().context("an id")?.to_owned();
    let place = json!({ "topic": "r", "lite": format!("reply/me/{id}") });
    assert_eq!((&asked["reply"], &asked["requester"]), (&place, &json!("me")));
    world.broker.crash_and_restart()?;
    world.http = client(&world.broker)?;
    let still = world.http.get(requests(&world, &format!("/{id}?timeout_ms=50&requester=me"))).send().await?;
    assert_eq!(still.status(), 202);
    let session = Session::open(&world, json!({})).await?;
    let delivery = session.one().await?;
    let waiting =
        tokio::spawn(world.http.get(requests(&world, &format!("/{id}?timeout_ms=60000&requester=me"))).send());
    reply(&world, &delivery, "", b"late".to_vec()).await?.error_for_status()?;
    assert_eq!(&*waiting.await??.error_for_status()?.bytes().await?, b"late");
    Ok(())
}

#[tokio::test]
async fn a_reply_in_parts_is_one_body_or_a_stream_of_events() -> Result<()> {
    let world = world().await?;
    let asked = pending(&world, "lite=work/1").await?;
    let place = &asked["reply"];
    let url =
        format!("{}/v1/topics/r/stream?lite={}", world.broker.http_url(), place["lite"].as_str().context("a place")?);
    let mut events = Events::of(world.http.get(url).send().await?).await?;
    let session = Session::open(&world, json!({})).await?;
    let delivery = session.one().await?;
    let large = vec![b'x'; 1_000_000];
    for (part, body) in [&b"Once"[..], b" upon", &large].into_iter().enumerate() {
        // Again, as a second run would.
        for before in [false, true] {
            let answer = reply(&world, &delivery, &format!("&part={part}"), body.to_vec()).await?.error_for_status()?;
            assert_eq!(answer.json::<Value>().await?["before"], before);
        }
    }
    let differs = reply(&world, &delivery, "&part=0", b"Twice".to_vec()).await?;
    assert_eq!(refused(differs).await?, "409 idempotency_conflict");
    assert_eq!(resume(&world, &asked["request"], 0).await?.status(), 202);
    reply(&world, &delivery, "", b" a time".to_vec()).await?.error_for_status()?;
    let answer = resume(&world, &asked["request"], 10_000).await?.error_for_status()?;
    let whole = [&b"Once upon"[..], &large, b" a time"].concat();
    assert_eq!(answer.content_length(), Some(whole.len() as u64));
    assert!(answer.bytes().await? == whole, "the reply is another one");
    // What a late run puts behind the end is no part of it.
    reply(&world, &delivery, "&part=9", b"late".to_vec()).await?.error_for_status()?;
    let again = resume(&world, &asked["request"], 10_000).await?.error_for_status()?;
    assert!(again.bytes().await? == whole, "the reply is another one than before");
    assert_eq!(events.texts(2).await?, ["Once", " upon"]);
    assert_eq!(events.next().await?.context("a large part")?.name, "json");
    assert_eq!(events.texts(1).await?, [" a time"]);
    assert_eq!(events.next().await?.context("the end")?.name, "end");
    Ok(())
}

#[tokio::test]
async fn a_request_that_fails_or_is_cancelled_says_so() -> Result<()> {
    let world = world().await?;
    let failing = pending(&world, "lite=work/1").await?;
    let session = Session::open(&world, json!({})).await?;
    let delivery = session.one().await?;
    reply(&world, &delivery, "&error=no%20such%20page", Vec::new()).await?.error_for_status()?;
    let failed: Value = resume(&world, &failing["request"], 10_000).await?.json().await?;
    assert_eq!(json!([failed["code"], failed["message"]]), json!(["request_failed", "no such page"]));
    let cancel = async |asked: &Value| -> Result<Response> {
        let [id, message] = ["request", "message"].map(|key| asked[key].as_str().unwrap_or_default().to_owned());
        Ok(world.http.delete(requests(&world, &format!("/{id}?lite=work/1&message={message}"))).send().await?)
    };
    let waiting = pending(&world, "lite=work/1").await?;
    for state in ["dropped", "over"] {
        assert_eq!(cancel(&waiting).await?.error_for_status()?.json::<Value>().await?, json!({ "state": state }));
    }
    assert_eq!(refused(resume(&world, &waiting["request"], 10_000).await?).await?, "502 request_failed");
    // Who has one in work is told when it extends its lease; its reply goes nowhere.
    let extend = json!([{ "delivery": delivery["delivery"], "outcome": "extend" }]);
    assert_eq!(session.settle(extend.clone()).await?[0].get("cancelled"), None);
    assert_eq!(cancel(&failing).await?.json::<Value>().await?, json!({ "state": "running" }));
    assert_eq!(session.settle(extend).await?[0]["cancelled"], json!(true));
    let mut other = failing.clone();
    other["request"] = json!("guessed");
    assert_eq!(refused(cancel(&other).await?).await?, "403 permission_denied");
    Ok(())
}

#[tokio::test]
async fn what_breaks_a_rule_of_requests_is_refused() -> Result<()> {
    let world = world().await?;
    assert_eq!(refused(ask(&world, "timeout_ms=0", "x").await?).await?, "400 invalid_argument");
    assert_eq!(refused(ask(&world, "lite=a&timeout_ms=60001", "x").await?).await?, "400 invalid_argument");
    assert_eq!(refused(ask(&world, "lite=a&request=a/b", "x").await?).await?, "400 invalid_argument");
    assert_eq!(refused(ask(&world, "lite=a&requester=a/b", "x").await?).await?, "400 invalid_argument");
    assert_eq!(refused(ask(&world, "lite=a&property.request.id=x", "x").await?).await?, "400 invalid_argument");
    let none = world.http.post(world.url("requests?lite=a")).body("x").send().await?;
    assert_eq!(refused(none).await?, "404 unknown_topic");
    let keyed = world.http.post(requests(&world, "?lite=a")).header("Idempotency-Key", "k").body("x").send().await?;
    assert_eq!(refused(keyed).await?, "400 invalid_argument");
    // The same request twice is one; with another body it is refused.
    let (first, again) = (pending(&world, "lite=a&request=mine").await?, pending(&world, "lite=a&request=mine").await?);
    assert_eq!(first, again);
    let other = ask(&world, "lite=a&request=mine&timeout_ms=0", "another question").await?;
    assert_eq!(refused(other).await?, "409 idempotency_conflict");
    let groups = format!("{}/v1/groups", world.broker.http_url());
    for (query, expected) in [
        ("g/replies?lite=elsewhere&request=mine", "403 permission_denied"),
        ("g/replies?lite=reply/http/mine", "400 invalid_argument"),
        ("g/replies?lite=reply/http/mine&request=other", "400 invalid_argument"),
        ("g/replies?lite=reply/mine&request=mine", "400 invalid_argument"),
        ("g/replies?lite=reply/http/mine&request=a/b", "400 invalid_argument"),
        ("g/replies?lite=reply/http/mine&request=mine&part=-1", "400 invalid_argument"),
        ("g/replies?lite=reply/http/mine&request=mine&part=0&error=x", "400 invalid_argument"),
        ("none/replies?lite=reply/http/mine&request=mine", "404 unknown_group"),
    ] {
        let answer = world.http.post(format!("{groups}/{query}")).body("x").send().await?;
        assert_eq!(refused(answer).await?, expected, "{query}");
    }
    assert_eq!(RequestId::parse("mine")?.as_str(), "mine");
    Ok(())
}
