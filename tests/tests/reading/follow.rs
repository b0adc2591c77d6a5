//! Readers that follow: over restarts, up to the end of a stream.

use anyhow::Result;
use sluicegate_client::{Message, Position};

use super::{World, counted, log, next, own, rest, step};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_whole_in_order_and_without_repeat_over_kills_of_the_broker() -> Result<()> {
    const MESSAGES: u64 = 4_000;
    const KILLS: u64 = 3;
    let mut world = World::start(log(None)).await?;
    let producer = world.producer().await?;
    let publishing = tokio::spawn(async move {
        for number in 0..MESSAGES {
            producer.send(Message::to("a")?.body(number.to_string())).await?;
        }
        producer.send(Message::to("a")?.end()).await?;
        anyhow::Ok(())
    });
    let mut early = world.reader("a").follow(true).connect().await?;
    let mut read = Vec::new();
    for kill in 1..=KILLS {
        while (read.len() as u64) < MESSAGES * kill / (KILLS + 1) {
            let message = next(&mut early).await?;
            read.push((message.offset().0, String::from_utf8(message.body().to_vec())?));
        }
        tokio::task::block_in_place(|| world.broker.crash_and_restart())?;
    }
    read.extend(rest(&mut early).await?);
    publishing.await??;
    let end = read.pop();
    assert_eq!(end, Some((MESSAGES, String::new())));
    assert!(read == own(0..MESSAGES), "{} messages, not each once in order", read.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_lite_topic_meets_its_first_message_after_a_restart() -> Result<()> {
    let mut world = World::start(log(None)).await?;
    // It is connected to a broker that knows of no message: the first one is not before `latest`.
    let mut reader = world.reader("a").from(Position::Latest).follow(true).connect().await?;
    tokio::task::block_in_place(|| world.broker.crash_and_restart())?;
    world.publish("a", counted(0..2)).await?;
    assert_eq!(next(&mut reader).await?.offset().0, 0);
    assert_eq!(next(&mut reader).await?.offset().0, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_of_the_broker_is_no_end() -> Result<()> {
    let mut world = World::start(log(None)).await?;
    world.publish("a", counted(0..1)).await?;
    let mut reader = world.reader("a").follow(true).connect().await?;
    assert_eq!(next(&mut reader).await?.offset().0, 0);
    tokio::task::block_in_place(|| world.broker.stop_and_restart())?;
    world.publish("a", counted(1..2)).await?;
    assert_eq!(next(&mut reader).await?.offset().0, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_follows_stops_at_the_end_unless_it_is_told_to_go_on() -> Result<()> {
    let world = World::start(log(None)).await?;
    let producer = world.producer().await?;
    producer.send(Message::to("a")?.body("0")).await?;
    producer.send(Message::to("a")?.body("1").end()).await?;
    producer.send(Message::to("a")?.body("2")).await?;
    let mut stops = world.reader("a").follow(true).connect().await?;
    assert_eq!(rest(&mut stops).await?, own(0..2));
    let mut looks = world.reader("a").connect().await?;
    assert_eq!(rest(&mut looks).await?, own(0..3));
    let mut goes_on = world.reader("a").follow(true).past_end().connect().await?;
    for number in 0..3 {
        let message = next(&mut goes_on).await?;
        assert_eq!((message.offset().0, message.is_end()), (number, number == 1));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_given_up_again_and_again_misses_nothing() -> Result<()> {
    let mut world = World::start(log(None)).await?;
    world.publish("a", counted(0..300)).await?;
    world.producer().await?.send(Message::to("a")?.body("300").end()).await?;
    let mut reader = world.reader("a").follow(true).window_bytes(1 << 10).connect().await?;
    let mut read = Vec::new();
    let until = tokio::time::Instant::now() + sluicegate_tests::PATIENCE;
    while tokio::time::Instant::now() < until {
        if read.len() == 100 {
            tokio::task::block_in_place(|| world.broker.crash_and_restart())?;
        }
        match tokio::time::timeout(std::time::Duration::from_micros(200), reader.next()).await {
            Ok(Some(message)) => {
                let message = message?;
                read.push((message.offset().0, String::from_utf8(message.body().to_vec())?));
            }
            Ok(None) => break,
            Err(_) => {}
        }
    }
    assert_eq!(read, own(0..301));
    assert!(step(&mut reader).await?.is_none());
    Ok(())
}
