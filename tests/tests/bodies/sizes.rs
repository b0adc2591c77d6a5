//! Each size comes as it went, takes no more than it must, and leaves nothing.

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use sluicegate_client::admin::{BodyPreview, GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, ErrorCode, LiteName, Message, Producer, PublishError};
use sluicegate_tests::Broker;

use crate::{CHUNK, Made, Noise, PART, next, start_with_limit, stopped};

/// The most that memory may grow by while the first body of 256 MiB passes in and out: memtables (128 MiB), caches, and 16 MiB
/// for each of the two transfers. Far below the body, of which nobody may hold all.
const GROWTH_MIB_MAX: u64 = 200;
/// The same for one that comes after it.
const AGAIN_MIB_MAX: u64 = 96;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_at_every_border_come_as_they_went_and_leave_nothing() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let sizes = [
        0,
        1,
        4_095,
        4_096,
        4_097,
        CHUNK - 1,
        CHUNK,
        CHUNK + 1,
        6 * PART - 1,
        6 * PART,
        6 * PART + 1,
        2 * CHUNK,
        5 * CHUNK + 3,
    ];
    let bodies: Vec<_> = sizes.iter().map(|&bytes| Noise::body(bytes as u64, bytes)).collect();
    let receipts: Vec<_> =
        bodies.iter().map(|body| producer.send(Message::to("x").unwrap().body(body.clone()))).collect();
    for (offset, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await?.offset.0, offset as u64, "the order of the calls is the order of the messages");
    }
    let peeked = broker.admin(None)?.peek(&group, &LiteName::parse("x")?, None, None).await?;
    for (message, body) in peeked.messages.iter().zip(&bodies) {
        assert_eq!(message.body_bytes, body.len() as u64);
        let shown = match &message.body {
            BodyPreview::Text(text) => text.len(),
            BodyPreview::Base64(text) => text.len() / 4 * 3,
        };
        assert!(shown + 3 >= body.len().min(4_096) && shown < 4_100, "{shown} bytes are shown of {}", body.len());
    }
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for body in &bodies {
        let delivery = next(&mut consumer).await?;
        assert!(delivery.body() == body, "a body of {} bytes came as {}", body.len(), delivery.body().len());
        assert_eq!(delivery.body_reader().read_all().await?, *body);
        // It comes again as it was.
        if body.len() > CHUNK {
            delivery.retry(Some(std::time::Duration::ZERO)).await?;
            let again = next(&mut consumer).await?;
            assert!(again.attempt() == 2 && again.body() == body);
            again.ack().await?;
        } else {
            delivery.ack().await?;
        }
    }
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_uploaded_come_whole_however_small_they_are() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let sizes = [1, 4_097, PART - 1, PART, PART + 1, 2 * PART, 100_000, CHUNK, CHUNK + 1];
    let bodies = sizes.map(|bytes| Noise::body(bytes as u64, bytes));
    for body in &bodies {
        producer.upload(Message::to("x")?, body.len() as u64, std::io::Cursor::new(body.clone())).await?;
    }
    let mut reader = broker.client().reader(topic, LiteName::parse("x")?).connect().await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    for body in &bodies {
        let message = reader.next().await.context("a message")??;
        assert!(message.body() == body, "{} bytes were read of {}", message.body().len(), body.len());
        let delivery = next(&mut consumer).await?;
        assert!(delivery.body() == body, "{} bytes came of {}", delivery.body().len(), body.len());
        delivery.ack().await?;
    }
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_is_taken_and_one_byte_more_is_refused_by_its_name() -> Result<()> {
    for limit in [100_000, 1_000_000] {
        let directory = tempfile::tempdir()?;
        let broker = start_with_limit(&directory.path().join("data"), limit as u64)?;
        let (topic, _) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
        let producer = broker.client().producer(topic).connect().await?;
        let message = |bytes| Message::to("x").unwrap().body(Noise::body(1, bytes));
        let refused = producer.send(message(limit + 1)).await;
        let Err(PublishError::Refused(refusal)) = refused else { bail!("not refused: {refused:?}") };
        assert_eq!(refusal.code, ErrorCode::TooLarge);
        let detail = ["limit", "max", "current"].map(|key| refusal.detail[key].clone());
        assert_eq!(detail, ["max_body_bytes".to_owned(), limit.to_string(), (limit + 1).to_string()]);
        assert_eq!(producer.send(message(limit)).await?.offset.0, 0, "a refused publish leaves nothing");
        let beyond = producer.upload(Message::to("x")?, 257 << 20, tokio::io::empty()).await;
        let Err(PublishError::Refused(refusal)) = beyond else { bail!("not refused: {beyond:?}") };
        assert_eq!(refusal.code, ErrorCode::TooLarge);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_above_256_mebibytes_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut serve = std::process::Command::new(sluicegate_tests::sluice());
    serve.args(["serve", "--dev", "--data-dir"]).arg(directory.path());
    let output = serve.env("SLUICE_SERVE_MAX_BODY_BYTES", "268435457").output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("max_body_bytes is 268435457, at most 268435456 are allowed"), "{said}");
    Ok(())
}

/// Uploads a body of this size and fetches it, neither held by anybody.
async fn round_trip(producer: &Producer, consumer: &mut Consumer, bytes: usize) -> Result<()> {
    let (source, digest) = Made::new(bytes);
    producer.upload(Message::to("x")?, bytes as u64, source).await?;
    let delivery = next(consumer).await?;
    assert!(delivery.is_body_streamed() && delivery.body_bytes() == bytes as u64);
    let (mut reader, mut came, mut digest_came) = (delivery.body_reader(), 0, Sha256::new());
    while let Some(part) = reader.next().await? {
        came += part.len();
        digest_came.update(&part);
    }
    assert_eq!(came, bytes);
    assert_eq!(digest_came.finalize().to_vec(), digest.await.context("all of it was read")?);
    Ok(delivery.ack().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_256_mebibytes_passes_bit_by_bit_and_the_brokers_memory_does_not_hold_it() -> Result<()> {
    const BYTES: usize = 256 << 20;
    let directory = tempfile::tempdir()?;
    let broker = start_with_limit(&directory.path().join("data"), BYTES as u64)?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group).stream_bodies_above(CHUNK as u64).connect().await?;
    let before = broker.memory_bytes("VmRSS")?;
    // The first fills memtables and caches, which stay.
    round_trip(&producer, &mut consumer, BYTES).await?;
    let first = broker.memory_bytes("VmHWM")?;
    round_trip(&producer, &mut consumer, BYTES).await?;
    let second = broker.memory_bytes("VmHWM")?;
    let (first, second) = ((first - before) >> 20, (second - first) >> 20);
    eprintln!("256 MiB in and out: memory grew by {first} MiB with its memtables, then by {second} MiB");
    assert!(first < GROWTH_MIB_MAX && second < AGAIN_MIB_MAX, "memory grew by {first} MiB, then by {second} MiB");
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}
