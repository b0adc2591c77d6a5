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

/// One that says nothing, and one that does not say which HTTP it speaks.
#[tokio::test]
async fn a_client_that_says_no_first_word_is_let_go_of() -> Result<()> {
    let world = World::start(log(None)).await?;
    let (mut silent, mut begun) = (world.raw()?, world.raw()?);
    begun.say("PRI * HT")?;
    let ended = [&mut silent, &mut begun].map(Raw::all);
    assert_eq!(ended.into_iter().collect::<Result<Vec<_>>>()?, ["", ""]);
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

/// How many readers the broker has.
async fn readers(world: &World) -> Result<f64> {
    let metrics = world.admin.metrics().await?;
    let line = metrics.lines().find_map(|line| line.strip_prefix("sluicegate_readers "));
    Ok(line.context("it is a metric")?.parse()?)
}

#[tokio::test]
async fn one_that_takes_nothing_of_its_stream_is_let_go_of_and_one_that_has_nothing_to_take_is_not() -> Result<()> {
    let (_folder, config) = super::bad::with_tokens("http_write_seconds = 1")?;
    let world = World::start_with(&["--dev", "--config", &config], log(None)).await?;
    // More than systems keep on its way to one who does not read.
    let body = "x".repeat(250_000);
    for _ in 0..100 {
        world.publish("lite=a", &body).await?;
    }
    let mut waits = super::events::Events::of(world.get("stream?lite=b").send().await?).await?;
    let mut takes_nothing = world.raw()?;
    takes_nothing.say("GET /v1/topics/t/stream?lite=a HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let let_go = async {
        let mut most = 0.0_f64;
        loop {
            let now = readers(&world).await?;
            most = most.max(now);
            if most >= 2.0 && now <= 1.0 {
                return Ok::<_, anyhow::Error>(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(sluicegate_tests::PATIENCE, let_go).await.context("it keeps its stream")??;
    // What was on its way is all that it gets.
    assert!(takes_nothing.all()?.len() < 100 * body.len());
    world.publish("lite=b", "still here").await?;
    assert_eq!(waits.texts(1).await?, ["still here"]);
    Ok(())
}
