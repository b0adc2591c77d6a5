//! Uploads and fetches that end in the middle.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use sluicegate_client::admin::{GroupSettings, TopicSettings};
use sluicegate_client::{BodyError, LiteName, Message, ProducerId, PublishError};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use sluicegate_tests::{Broker, PATIENCE};

use crate::{CHUNK, Made, Noise, PART, begun, body_rows, chunk, next, stopped, upload_frame, upload_role};

/// A source with a fault of its own.
struct Panics;

impl tokio::io::AsyncRead for Panics {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        panic!("a source with a fault of its own")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let bytes = 10 * CHUNK as u64;
    let failed = producer.upload(Message::to("x")?, bytes, Made::failing_after(5 * CHUNK)).await;
    assert_eq!(failed, Err(PublishError::Interrupted("the source broke".into())));
    let short = producer.upload(Message::to("x")?, bytes, Made::new(5 * CHUNK).0).await;
    assert!(matches!(short, Err(PublishError::Interrupted(_))), "{short:?}");
    let panics = producer.upload(Message::to("x")?, bytes, Panics).await;
    assert!(matches!(panics, Err(PublishError::Interrupted(_))), "{panics:?}");
    // A connection that is gone without a word.
    let (mut stream, _) = begun(&broker, 1, bytes).await?;
    for _ in 0..3 {
        stream.send_frame(&chunk(vec![1; CHUNK])).await?;
    }
    drop(stream);
    assert_eq!(producer.send(Message::to("x")?.body("after")).await?.offset.0, 0);
    let mut consumer = broker.client().consumer(group).connect().await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(&delivery.body()[..], b"after");
    delivery.ack().await?;
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_in_an_upload_deletes_its_chunks_at_the_next_start() -> Result<()> {
    let mut broker = Broker::start()?;
    broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let (mut stream, _) = begun(&broker, 1, 100 * CHUNK as u64).await?;
    // More than the stream's window: some of it is written.
    for _ in 0..40 {
        stream.send_frame(&chunk(vec![1; CHUNK])).await?;
    }
    tokio::task::block_in_place(|| {
        broker.crash()?;
        let [chunks, bodies, ..] = body_rows(broker.data_dir())?;
        assert!(chunks > 5 && bodies == 1, "{chunks} chunks, {bodies} bodies");
        broker.start_again()
    })?;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_whose_answer_was_lost_gets_the_first_offset_again() -> Result<()> {
    let mut broker = Broker::start()?;
    let (_, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let (lite, bytes) = (LiteName::parse("x")?, 3 * CHUNK as u64);
    let (mut stream, _) = begun(&broker, 5, bytes).await?;
    for _ in 0..3 {
        stream.send_frame(&chunk(vec![1; CHUNK])).await?;
    }
    let Some(Frame::Published(first, ())) = stream.next().await? else { bail!("not published") };
    for round in 0..2 {
        let (_again, welcome) = begun(&broker, 5, bytes).await?;
        let expected = wire::PublishReceipt { duplicate: true, created: false, ..first.receipts[0] };
        assert_eq!(welcome.published, Some(expected), "round {round}");
        tokio::task::block_in_place(|| broker.crash_and_restart())?;
    }
    assert_eq!(broker.admin(None)?.lite_topic(&group, &lite).await?.next_offset.0, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_sequence_at_the_same_time_become_one_message() -> Result<()> {
    let broker = Broker::start()?;
    broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let bytes = 2 * CHUNK as u64;
    let mut streams = vec![begun(&broker, 1, bytes).await?.0, begun(&broker, 1, bytes).await?.0];
    let mut duplicates = Vec::new();
    for stream in &mut streams {
        for _ in 0..2 {
            stream.send_frame(&chunk(vec![1; CHUNK])).await?;
        }
        let Some(Frame::Published(published, ())) = stream.next().await? else { bail!("not published") };
        assert_eq!(published.receipts[0].offset, 0);
        duplicates.push(published.receipts[0].duplicate);
    }
    assert_eq!(duplicates, [false, true]);
    let chunks = (2 * CHUNK).div_ceil(PART) as u64;
    assert_eq!(stopped(broker)?, [chunks, 1, 0, 0], "the second one's chunks are gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_come_once_and_in_order_over_a_kill() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).id(ProducerId(9)).connect().await?;
    let sizes = [10, 40 * CHUNK, 20, 30 * CHUNK + 1, 30];
    let receipts: Vec<_> = sizes
        .iter()
        .map(|&bytes| producer.send(Message::to("x").unwrap().body(Noise::body(bytes as u64, bytes))))
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    for (offset, receipt) in receipts.into_iter().enumerate() {
        let receipt = tokio::time::timeout(PATIENCE, receipt).await.context("no receipt")??;
        assert_eq!(receipt.offset.0, offset as u64);
    }
    let mut consumer = broker.client().consumer(group).connect().await?;
    for bytes in sizes {
        let delivery = next(&mut consumer).await?;
        assert!(*delivery.body() == Noise::body(bytes as u64, bytes), "{} bytes came", delivery.body().len());
        delivery.ack().await?;
    }
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_deleted_while_its_body_is_read_ends_the_read() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    producer.send(Message::to("x")?.body(Noise::body(1, 200 * CHUNK))).await?;
    let mut consumer = broker.client().consumer(group).stream_bodies_above(0).connect().await?;
    let delivery = next(&mut consumer).await?;
    let mut body = delivery.body_reader();
    body.next().await?.context("a first part")?;
    broker.admin(None)?.delete_lite(&topic, &LiteName::parse("x")?).await?;
    // What was on its way still comes; the rest is gone.
    assert_eq!(body.read_all().await, Err(BodyError::LeaseLost));
    assert!(delivery.ack().await.is_err());
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_goes_on_where_it_was_when_the_connection_is_lost() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let body = Noise::body(3, 150 * CHUNK + 7);
    broker.client().producer(topic).connect().await?.send(Message::to("x")?.body(body.clone())).await?;
    let mut consumer = broker.client().consumer(group).stream_bodies_above(0).connect().await?;
    let delivery = next(&mut consumer).await?;
    let mut reader = delivery.body_reader();
    let mut came = reader.next().await?.context("a first part")?.to_vec();
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    came.extend_from_slice(&tokio::time::timeout(PATIENCE, reader.read_all()).await??);
    assert!(came == body);
    delivery.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_upload_is_refused_and_leaves_nothing() -> Result<()> {
    let broker = Broker::start()?;
    broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let two = 2 * CHUNK as u64;
    let wrong: [(u64, &[Frame], &str); 4] = [
        (two, &[chunk(vec![1; CHUNK + 1])], "too_large bytes of a chunk: 262145, at most 262144 are allowed"),
        (two, &[chunk(vec![])], "too_large bytes of a chunk: 0, at most 262144 are allowed"),
        (10, &[chunk(vec![1; 11])], "protocol_violation more chunks than the 10 bytes that were announced"),
        (
            two,
            &[chunk(vec![1]), Frame::Close(wire::Close {}, ())],
            "protocol_violation Close has no place on this stream",
        ),
    ];
    for (bytes, frames, expected) in wrong {
        let (mut stream, _) = begun(&broker, 1, bytes).await?;
        for frame in frames {
            stream.send_frame(frame).await?;
        }
        let (code, message) = stream.refusal().await?;
        assert_eq!(format!("{code} {message}"), expected);
    }
    // As many as one connection may have, and one more.
    let mut first = sluicegate_tests::raw::RawStream::open(&broker).await?;
    let mut others = Vec::new();
    for sequence in 1..5 {
        let mut stream = first.beside().await?;
        stream.say_hello(upload_role()).await?;
        stream.send_frame(&upload_frame(sequence, two)).await?;
        assert!(matches!(stream.next().await?, Some(Frame::Welcome(..))));
        others.push(stream);
    }
    first.say_hello(upload_role()).await?;
    first.send_frame(&upload_frame(9, two)).await?;
    let (code, message) = first.refusal().await?;
    assert_eq!(format!("{code} {message}"), "limit_reached uploads of a connection: 5, at most 4 are allowed");
    drop((first, others));
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}
