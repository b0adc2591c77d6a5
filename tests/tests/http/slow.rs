//! Those who take their time.

use anyhow::{Context, Result, ensure};

use super::{Raw, World, log, refused};

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_ends_the_connection() -> Result<()> {
    let world = World::start(log(None)).await?;
    let mut raw = world.raw()?;
    raw.say("POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nX-Slow: ")?;
    // It is ended by the broker, within the patience of the reader.
    let answer = tokio::task::spawn_blocking(move || raw.all()).await??;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_body_that_does_not_come_is_told_so_and_leaves_nothing() -> Result<()> {
    let world = World::start(log(None)).await?;
    let mut raw = world.raw()?;
    raw.say("POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nsome")?;
    let answer = tokio::task::spawn_blocking(move || raw.all()).await??;
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("limit_reached"), "{answer}");
    assert_eq!(refused(world.get("messages?lite=a").send().await?).await?, "404 unknown_lite");
    Ok(())
}

#[tokio::test]
async fn streams_that_nobody_reads_take_little_memory_and_stop_nobody() -> Result<()> {
    const STREAMS: usize = 100;
    let world = World::start(log(None)).await?;
    let body = "x".repeat(64 << 10);
    for _ in 0..160 {
        world.publish("lite=a", &body).await?;
    }
    let before = world.broker.memory_bytes("VmRSS")?;
    let mut unread: Vec<Raw> = Vec::new();
    for _ in 0..STREAMS {
        let mut raw = world.raw()?;
        raw.say("GET /v1/topics/t/stream?lite=a HTTP/1.1\r\nHost: x\r\n\r\n")?;
        unread.push(raw);
    }
    // Each has ten mebibytes before it. Others are served meanwhile.
    let page = world.page("lite=a&from=last:1").await?;
    assert_eq!(page["messages"].as_array().map(Vec::len), Some(1));
    let other = super::events::Events::of(world.get("stream?lite=a&follow=false").send().await?).await?;
    let mut other = other;
    let texts = other.texts(160).await?;
    ensure!(texts.iter().all(|text| *text == body), "a message is another one");
    assert_eq!(other.next().await?.context("the end")?.name, "end");
    let grown = world.broker.memory_bytes("VmRSS")?.saturating_sub(before);
    eprintln!("{STREAMS} streams that nobody reads: {} KiB each", grown / 1024 / STREAMS as u64);
    // A message, what is encoded of it, and buffers; not all that there is for them.
    ensure!(grown < STREAMS as u64 * (1 << 20), "{grown} bytes more");
    Ok(())
}
