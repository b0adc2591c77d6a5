//! Streams of events: what they tell, and that they go on.

use anyhow::{Context, Result};
use reqwest::Response;
use serde_json::{Value, json};

use super::events::{Event, Events};
use super::{World, lite, log, refused};

async fn again(world: &World, path: &str, last_id: &str) -> Result<Response> {
    // As an `EventSource` does.
    let get = world.get(path).header("Last-Event-ID", last_id).header("Accept", "text/event-stream");
    Ok(get.send().await?)
}

async fn next(events: &mut Events) -> Result<Event> {
    events.next().await?.context("the stream ended")
}

fn value(event: &Event) -> Result<Value> {
    Ok(serde_json::from_str(&event.data)?)
}

#[tokio::test]
async fn a_stream_waits_for_its_lite_topic_and_ends_with_it() -> Result<()> {
    let world = World::start(log(None)).await?;
    let mut events = Events::of(world.get("stream?lite=chat/1").send().await?).await?;
    world.publish("lite=chat/1", "Once\nupon").await?;
    let receipt = world.publish("lite=chat/1&end=1", "a time").await?;
    assert_eq!(events.texts(2).await?, ["Once\nupon", "a time"]);
    let end = next(&mut events).await?;
    assert_eq!((end.name.as_str(), value(&end)?), ("end", json!({ "complete": true, "id": receipt["id"] })));
    assert_eq!(events.next().await?, None);
    // What an EventSource asks for then, and what a page that has only the message's id does.
    assert_eq!(again(&world, "stream?lite=chat/1", &end.id).await?.status(), 204);
    let id = receipt["id"].as_str().context("an id")?;
    assert_eq!(again(&world, "stream?lite=chat/1", id).await?.status(), 204);
    let mut reloaded = Events::of(world.get(&format!("stream?lite=chat/1&after={id}")).send().await?).await?;
    assert_eq!(next(&mut reloaded).await?.name, "end");
    Ok(())
}

#[tokio::test]
async fn a_stream_goes_on_behind_the_last_event_over_a_crash() -> Result<()> {
    let mut world = World::start(log(None)).await?;
    let mut events = Events::of(world.get("stream?lite=a").send().await?).await?;
    let (mut seen, mut last) = (Vec::new(), String::new());
    for round in 0..3 {
        for number in 0..20 {
            world.publish("lite=a", &format!("{}", 20 * round + number)).await?;
        }
        // Some of them are seen before the broker is killed, some are not.
        for _ in 0..13 {
            let event = next(&mut events).await?;
            seen.push(event.data);
            last = event.id;
        }
        world.broker.crash_and_restart()?;
        world.http = super::client(&world.broker)?;
        events = Events::of(again(&world, "stream?lite=a&from=latest", &last).await?).await?;
    }
    seen.extend(events.texts(60 - 39).await?);
    assert_eq!(seen, (0..60).map(|number| number.to_string()).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn what_an_event_cannot_carry_comes_as_json() -> Result<()> {
    let world = World::start(log(None)).await?;
    for body in [&b""[..], b"a\r\nb", b"\xff", b" text"] {
        assert_eq!(world.post("messages?lite=a&property.k=v").body(body).send().await?.status(), 201);
    }
    let mut events = Events::of(world.get("stream?lite=a&follow=false").send().await?).await?;
    let mut shown = Vec::new();
    while let Some(event) = events.next().await? {
        shown.push((event.name.clone(), event.data));
    }
    let body =
        |at: usize, key: &str| -> Result<Value> { Ok(serde_json::from_str::<Value>(&shown[at].1)?[key].clone()) };
    let names: Vec<_> = shown.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["json", "json", "json", "message", "end"]);
    assert_eq!(
        (body(0, "body")?, body(1, "body")?, body(2, "body_base64")?),
        (json!(""), json!("a\r\nb"), json!("/w=="))
    );
    assert_eq!((shown[3].1.as_str(), body(4, "complete")?), (" text", json!(false)));
    let mut as_json = Events::of(world.get("stream?lite=a&from=3&format=json").send().await?).await?;
    let event = next(&mut as_json).await?;
    let message = value(&event)?;
    assert_eq!(
        (event.name.as_str(), &message["body"], &message["properties"]["k"]),
        ("message", &json!(" text"), &json!("v"))
    );
    assert_eq!(message["id"], event.id);
    Ok(())
}

#[tokio::test]
async fn one_whose_messages_are_gone_is_told_and_does_not_come_again_for_ever() -> Result<()> {
    let world = World::start(log(Some(100))).await?;
    let first = world.publish("lite=a", &"x".repeat(60)).await?;
    for _ in 0..3 {
        world.publish("lite=a", &"y".repeat(80)).await?;
    }
    // Whoever asks for the first time has a status; a browser that comes back has an event.
    let id = first["id"].as_str().context("an id")?;
    assert_eq!(refused(world.get(&format!("stream?lite=a&after={id}")).send().await?).await?, "410 trimmed");
    let mut events = Events::of(again(&world, "stream?lite=a", id).await?).await?;
    let trimmed = next(&mut events).await?;
    assert_eq!((trimmed.name.as_str(), &value(&trimmed)?["detail"]["first"]), ("trimmed", &json!("3")));
    assert_eq!(events.next().await?, None);
    assert_eq!(again(&world, "stream?lite=a", &trimmed.id).await?.status(), 204);
    Ok(())
}

#[tokio::test]
async fn one_whose_lite_topic_ends_is_told() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("lite=a", "x").await?;
    let mut events = Events::of(world.get("stream?lite=a").send().await?).await?;
    assert_eq!(events.texts(1).await?, ["x"]);
    world.admin.delete_lite(&world.topic, &lite("a")).await?;
    let told = next(&mut events).await?;
    assert_eq!((told.name.as_str(), &value(&told)?["code"]), ("reclaimed", &json!("reclaimed")));
    assert_eq!(events.next().await?, None);
    assert_eq!(again(&world, "stream?lite=a", &told.id).await?.status(), 204);
    Ok(())
}

#[tokio::test]
async fn garbage_ids_are_refused_with_a_code() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("lite=a", "x").await?;
    for garbage in ["garbage", "1", "-1-2", "1-18446744073709551615", "99999999999999999999-1", "1-1-1"] {
        assert_eq!(refused(again(&world, "stream?lite=a", garbage).await?).await?, "400 invalid_argument", "{garbage}");
        let query = world.get(&format!("stream?lite=a&after={garbage}")).send().await?;
        assert_eq!(refused(query).await?, "400 invalid_argument", "{garbage}");
    }
    Ok(())
}
