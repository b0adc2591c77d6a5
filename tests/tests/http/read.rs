//! Pages of messages, and bodies.

use anyhow::{Context, Result};
use serde_json::json;

use super::{World, log, refused};

#[tokio::test]
async fn pages_follow_each_other_by_the_last_id() -> Result<()> {
    let world = World::start(log(None)).await?;
    for number in 0..5 {
        world.publish("lite=a", &format!("m{number}")).await?;
    }
    let (mut seen, mut after) = (Vec::new(), String::new());
    loop {
        let page = world.page(&format!("lite=a&limit=2{after}")).await?;
        seen.extend(page["messages"].as_array().context("messages")?.iter().map(|message| message["body"].clone()));
        let next = page["next"].as_str().context("a page of messages says how to go on")?;
        after = format!("&after={next}");
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(json!(seen), json!(["m0", "m1", "m2", "m3", "m4"]));
    let empty = world.page(&format!("lite=a{after}")).await?;
    assert_eq!((&empty["messages"], &empty["next"], &empty["more"]), (&json!([]), &json!(null), &json!(false)));
    let last = world.page("lite=a&from=last:1").await?;
    assert_eq!(last["messages"][0]["body"], "m4");
    Ok(())
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes_and_shows_what_is_no_text_in_base64() -> Result<()> {
    let world = World::start(log(None)).await?;
    for _ in 0..8 {
        let body = vec![0xff_u8; 200 << 10];
        assert_eq!(world.post("messages?lite=a").body(body).send().await?.status(), 201);
    }
    let page = world.page("lite=a").await?;
    let shown = page["messages"].as_array().context("messages")?;
    // The one that goes over a mebibyte is the last.
    assert_eq!((shown.len(), &page["more"]), (6, &json!(true)));
    assert_eq!(shown[0]["body_base64"].as_str().map(str::len), Some((200_usize << 10).div_ceil(3) * 4));
    let after = page["next"].as_str().context("how to go on")?;
    let rest = world.page(&format!("lite=a&after={after}")).await?;
    assert_eq!((rest["messages"].as_array().map(Vec::len), &rest["more"]), (Some(2), &json!(false)));
    Ok(())
}

#[tokio::test]
async fn answers_in_json_are_compressed_for_those_who_ask() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("lite=a", &"word ".repeat(1_000)).await?;
    let answer = world.get("messages?lite=a").header("Accept-Encoding", "gzip").send().await?;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert!(answer.bytes().await?.len() < 1_000);
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_has_its_code() -> Result<()> {
    let world = World::start(log(Some(100))).await?;
    let get = |path: &'static str| async { refused(world.get(path).send().await?).await };
    assert_eq!(get("messages?lite=none").await?, "404 unknown_lite");
    let receipt = world.publish("lite=a", &"x".repeat(80)).await?;
    world.publish("lite=a", &"y".repeat(80)).await?;
    assert_eq!(get("messages?lite=a&from=0").await?, "410 trimmed");
    assert_eq!(get("messages?lite=a&from=9").await?, "416 beyond_end");
    assert_eq!(get("messages?lite=a&after=1-0").await?, "410 reclaimed");
    let first = receipt["id"].as_str().context("an id")?;
    assert_eq!(refused(world.get(&format!("messages/{first}?lite=a")).send().await?).await?, "410 trimmed");
    let other = world.http.get(format!("{}/v1/topics/none/messages?lite=a", world.broker.http_url())).send().await?;
    assert_eq!(refused(other).await?, "404 unknown_topic");
    Ok(())
}
