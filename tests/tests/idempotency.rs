//! Idempotency keys: within the window of its topic a lite topic takes one message under a key.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sluicegate_client::admin::{CreateTopic, Dependents, GroupSettings, TopicSettings};
use sluicegate_client::{LiteName, Message, Producer, ProducerId, PublishError, Receipt, TopicName};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use sluicegate_tests::raw::RawStream;
use sluicegate_tests::{Broker, removed, sluice};

const SECOND: Duration = Duration::from_secs(1);

async fn started(window: Duration) -> Result<(Broker, TopicName)> {
    let broker = Broker::start()?;
    let window = u64::try_from(window.as_millis())?;
    let settings = TopicSettings { idempotency_window_ms: window, ..TopicSettings::default() };
    let (topic, _) = broker.topic_and_group(settings, GroupSettings::default()).await?;
    Ok((broker, topic))
}

fn default_window() -> Duration {
    TopicSettings::default().idempotency_window()
}

async fn producer(broker: &Broker, topic: &TopicName) -> Result<Producer> {
    Ok(broker.client().producer(topic.clone()).connect().await?)
}

fn message(key: &str, body: &str) -> Result<Message> {
    Ok(Message::to("x")?.body(body.to_owned()).idempotency_key(key))
}

/// Publishes all of these at once and waits until they are there.
async fn publish_all(producer: &Producer, messages: impl IntoIterator<Item = Result<Message>>) -> Result<Vec<Receipt>> {
    let mut pending = Vec::new();
    for message in messages {
        pending.push(producer.enqueue(message?).await?);
    }
    let mut receipts = Vec::new();
    for pending in pending {
        receipts.push(pending.await?);
    }
    Ok(receipts)
}

fn what(receipt: Receipt) -> (u64, bool, bool) {
    (receipt.offset.0, receipt.created, receipt.duplicate)
}

/// Where the next message of lite topic `x` goes: how many there were.
async fn next_offset(broker: &Broker) -> Result<u64> {
    let shown = broker.admin(None)?.lite_topic(&"g".parse()?, &LiteName::parse("x")?).await?;
    Ok(shown.next_offset.0)
}

/// Rows of the tables `dedup` and `dedup_end` in the store of a broker that has ended.
fn rows(broker: &Broker) -> Result<[u64; 2]> {
    let mut check = std::process::Command::new(sluice());
    let output = check.args(["store", "check", "-o", "json", "--data-dir"]).arg(broker.data_dir()).output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(report["problem_count"], 0, "{report}");
    Ok(["dedup", "dedup_end"].map(|table| report["tables"][table]["rows"].as_u64().unwrap_or(0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_was_used_answers_where_its_message_is() -> Result<()> {
    let (broker, topic) = started(default_window()).await?;
    let (first, other) = (producer(&broker, &topic).await?, producer(&broker, &topic).await?);
    assert_eq!(what(first.send(message("k", "body")?).await?), (0, true, false));
    assert_eq!(what(first.send(message("other", "body")?).await?), (1, false, false));
    // Any producer, with whatever else is said of the message.
    let again = message("k", "body")?.property("trace", "2").priority(9).cost(77);
    for producer in [&first, &other] {
        assert_eq!(what(producer.send(again.clone()).await?), (0, false, true));
    }
    assert_eq!(what(other.send(Message::to("x")?.body("body")).await?), (2, false, false), "it has no key");
    assert_eq!(what(other.send(Message::to("y")?.body("z").idempotency_key("k")).await?), (0, true, false));
    assert_eq!(next_offset(&broker).await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_with_another_body_is_refused_and_leaves_nothing() -> Result<()> {
    let (broker, topic) = started(default_window()).await?;
    let producer = producer(&broker, &topic).await?;
    producer.send(message("before", "")?).await?;
    let first = producer.send(message("k", "one")?).await?;
    let Err(PublishError::Refused(refused)) = producer.send(message("k", "two")?).await else {
        anyhow::bail!("it was not refused");
    };
    assert_eq!(
        refused.to_string(),
        "idempotency_conflict: idempotency key \"k\" was used for another body, at offset 1 of lite topic `x`"
    );
    assert_eq!(refused.detail["offset"], "1");
    assert_eq!(refused.detail["lite_id"], first.lite_id.0.to_string());
    assert_eq!(what(producer.send(message("k", "one")?).await?), (1, false, true));
    assert_eq!(next_offset(&broker).await?, 2);
    Ok(())
}

fn publish(sequence: u64, key: &str, body: &'static str) -> Frame {
    let key = Some(key.to_owned());
    let header = wire::Publish { sequence, lite: "x".into(), idempotency_key: key, ..Default::default() };
    Frame::Publish(header, body.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_1_to_128_bytes() -> Result<()> {
    let (broker, _) = started(default_window()).await?;
    let mut stream = RawStream::producer(&broker).await?;
    let mut answers = Vec::new();
    for (sequence, bytes) in [(1, 0), (2, 128), (3, 129)] {
        stream.send_frame(&publish(sequence, &"k".repeat(bytes), "body")).await?;
        answers.push(match stream.next().await?.context("the stream ended")? {
            Frame::Published(published, ()) => format!("offset {}", published.receipts[0].offset),
            Frame::Error(error, ()) => format!("{:?} {}: {:?}", error.sequence, error.message, error.detail),
            other => anyhow::bail!("answered with {other:?}"),
        });
    }
    let too_long = "Some(3) idempotency key bytes: 129, at most 128 are allowed: \
        {\"current\": \"129\", \"limit\": \"idempotency key bytes\", \"max\": \"128\"}";
    assert_eq!(answers, ["Some(1) idempotency key is empty: {}", "offset 0", too_long]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_one_batch_gets_the_offset_of_the_first() -> Result<()> {
    let (broker, _) = started(default_window()).await?;
    let mut stream = RawStream::producer(&broker).await?;
    let mut bytes = bytes::BytesMut::new();
    let frames = [publish(1, "j", "0"), publish(2, "k", "1"), publish(3, "k", "1"), publish(4, "k", "2")];
    frames.iter().chain([&publish(5, "l", "3")]).for_each(|frame| frame.encode(&mut bytes));
    stream.send_bytes(&bytes).await?;
    let (mut receipts, mut refused) = (Vec::new(), Vec::new());
    while receipts.len() + refused.len() < 5 {
        match stream.next().await?.context("the stream ended")? {
            Frame::Published(published, ()) => {
                receipts.extend(published.receipts.iter().map(|one| (one.sequence, one.offset, one.duplicate)));
            }
            Frame::Error(error, ()) => refused.push((error.sequence, error.code)),
            other => anyhow::bail!("answered with {other:?}"),
        }
    }
    assert_eq!(receipts, [(1, 0, false), (2, 1, false), (3, 1, true), (5, 2, false)]);
    assert_eq!(refused, [(Some(4), sluicegate_client::ErrorCode::IdempotencyConflict.number())]);
    assert_eq!(next_offset(&broker).await?, 3);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_producers_with_one_key_at_once_one_publishes() -> Result<()> {
    const KEYS: usize = 500;
    let (broker, topic) = started(default_window()).await?;
    let mut racing = Vec::new();
    for _ in 0..2 {
        let producer = producer(&broker, &topic).await?;
        racing.push(tokio::spawn(async move {
            let messages = (0..KEYS).map(|key| message(&key.to_string(), "body"));
            publish_all(&producer, messages).await
        }));
    }
    let [one, other] = [racing.remove(0).await??, racing.remove(0).await??];
    for (key, (one, other)) in one.iter().zip(&other).enumerate() {
        assert_eq!(one.offset, other.offset, "key {key}");
        assert!(one.duplicate != other.duplicate, "key {key}: {one:?} {other:?}");
    }
    assert_eq!(next_offset(&broker).await?, KEYS as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_new_when_its_window_has_ended_and_leaves_no_row() -> Result<()> {
    const WINDOW: Duration = Duration::from_secs(3);
    let (mut broker, topic) = started(WINDOW).await?;
    let producer = producer(&broker, &topic).await?;
    let started = tokio::time::Instant::now();
    publish_all(&producer, (0..600).map(|key| message(&format!("many-{key}"), "body"))).await?;
    let first = producer.send(message("k", "one")?).await?;
    let renewed = loop {
        match producer.send(message("k", "two")?).await {
            Ok(receipt) => break receipt,
            Err(PublishError::Refused(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => return Err(error.into()),
        }
    };
    assert!(started.elapsed() >= WINDOW, "the window was over after {:?}", started.elapsed());
    assert_eq!(what(renewed), (first.offset.0 + 1, false, false));
    // By now the rows of the first window are gone, and that of the second is not.
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(what(producer.send(message("k", "two")?).await?), (renewed.offset.0, false, true));
    // A sequence outlives the window: nothing is published twice by a resend.
    let id = ProducerId(9);
    let other = broker.client().producer(topic.clone()).id(id).connect().await?;
    assert_eq!(what(other.send(message("k", "two")?).await?), (renewed.offset.0, false, true));
    tokio::time::sleep(WINDOW + SECOND).await;
    let other = broker.client().producer(topic).id(id).first_sequence(1).connect().await?;
    assert_eq!(what(other.send(message("k", "two")?).await?), (renewed.offset.0, false, true));
    tokio::task::block_in_place(|| broker.stop())?;
    assert_eq!(rows(&broker)?, [0, 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_survives_a_crash_to_the_end_of_its_window() -> Result<()> {
    let (mut broker, topic) = started(10 * SECOND).await?;
    let first = producer(&broker, &topic).await?;
    let sent = tokio::time::Instant::now();
    assert_eq!(what(first.send(message("k", "one")?).await?), (0, true, false));
    drop(first);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let next = producer(&broker, &topic).await?;
    assert_eq!(what(next.send(message("k", "one")?).await?), (0, false, true));
    next.send(message("k", "two")?).await.unwrap_err();
    tokio::task::block_in_place(|| broker.crash())?;
    assert_eq!(rows(&broker)?, [1, 1]);
    // It ends while nobody is there, and the next process removes it.
    tokio::time::sleep_until(sent + 11 * SECOND).await;
    tokio::task::block_in_place(|| broker.start_again())?;
    tokio::time::sleep(2 * SECOND).await;
    tokio::task::block_in_place(|| broker.stop())?;
    assert_eq!(rows(&broker)?, [0, 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_end_with_the_life_of_their_lite_topic() -> Result<()> {
    let (mut broker, topic) = started(default_window()).await?;
    let (admin, x) = (broker.admin(None)?, LiteName::parse("x")?);
    let producer = producer(&broker, &topic).await?;
    let first = producer.send(message("k", "one")?).await?;
    admin.delete_lite(&topic, &x).await?;
    let second = producer.send(message("k", "two")?).await?;
    assert_eq!((what(second), second.lite_id != first.lite_id), ((0, true, false), true));
    publish_all(&producer, (0..1_500).map(|key| message(&key.to_string(), ""))).await?;
    admin.delete_lite(&topic, &x).await?;
    let other = TopicName::parse("other")?;
    admin.create_topic(&CreateTopic { name: other.clone(), settings: TopicSettings::default() }).await?;
    let producer = broker.client().producer(other.clone()).connect().await?;
    let to_each = (0..200).map(|lite| Ok(Message::to(&lite.to_string())?.idempotency_key("k")));
    publish_all(&producer, to_each).await?;
    admin.delete_topic(&other, Dependents::Delete).await?;
    removed(&broker).await?;
    tokio::task::block_in_place(|| broker.stop())?;
    assert_eq!(rows(&broker)?[0], 0, "keys are left of lite topics that are gone");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_windows_by_the_command_line() -> Result<()> {
    let broker = Broker::start()?;
    let run = |arguments: &[&str]| -> Result<String> {
        let output = broker.sluice(arguments)?;
        Ok(format!("{}{}", String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?))
    };
    let said = [
        run(&["topic", "create", "t", "--idempotency-window", "1h"])?,
        run(&["topic", "create", "u", "--idempotency-window", "1ms"])?,
        run(&["produce", "t", "x", "--body", "hello", "--idempotency-key", "k", "-o", "json"])?,
        run(&["produce", "t", "x", "--body", "hello", "--idempotency-key", "k", "-o", "json"])?,
        run(&["produce", "t", "x", "--body", "other", "--idempotency-key", "k"])?,
    ];
    insta::assert_snapshot!(said.concat(), @r#"
    topic t is there
    sluice: invalid_argument: idempotency_window_ms: allowed are 1000 (1 s) to 604800000 (7 days)
    {"lite_id":"140737488355329","offset":0,"created":true,"duplicate":false}
    {"lite_id":"140737488355329","offset":0,"created":false,"duplicate":true}
    sluice: publish refused: idempotency_conflict: idempotency key "k" was used for another body, at offset 0 of lite topic `x`
    "#);
    let shown = broker.admin(None)?.topic(&TopicName::parse("t")?).await?;
    assert_eq!(shown.settings.idempotency_window_ms, 3_600_000);
    Ok(())
}
