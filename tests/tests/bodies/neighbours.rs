//! Slow transfers of large bodies, and small messages beside them on the same connection.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context as _, Result};
use sluicegate_client::admin::{GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, LiteName, Message, Producer, Subscription};
use sluicegate_tests::{Broker, PATIENCE};
use tokio::io::{AsyncRead, ReadBuf};

use crate::{CHUNK, Noise, PART, next};

const SMALL: u64 = 200;

/// Gives a little, and then nothing until it is let go on.
struct Slow {
    given: usize,
    rest: Option<tokio::sync::oneshot::Receiver<()>>,
}

impl AsyncRead for Slow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.given >= CHUNK
            && let Some(rest) = &mut self.rest
        {
            if Pin::new(rest).poll(context).is_pending() {
                return Poll::Pending;
            }
            self.rest = None;
        }
        let bytes = out.remaining().min(1_000);
        out.put_slice(&vec![1; bytes]);
        self.given += bytes;
        Poll::Ready(Ok(()))
    }
}

/// Publishes, takes and acks a small message; answers how long that took.
async fn small_message(producer: &Producer, consumer: &mut Consumer, number: u64) -> Result<Duration> {
    let begin = tokio::time::Instant::now();
    producer.send(Message::to(&format!("small/{}", number % 10))?.body("x")).await?;
    next(consumer).await?.ack().await?;
    Ok(begin.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn small_messages_find_their_way_beside_bodies_that_come_as_fast_as_they_can() -> Result<()> {
    const LARGE: usize = 48 << 20;
    const BODIES: usize = 8;
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let client = broker.client();
    let producer = client.producer(topic.clone()).connect().await?;
    let subscription = Subscription::default().prefix(LiteName::parse("small/")?);
    let mut small = client.consumer(group).subscribe_to(subscription).connect().await?;
    let uploads = producer.clone();
    let mut uploading = tokio::spawn(async move {
        let body = Noise::body(1, LARGE);
        for number in 0..BODIES {
            uploads.send(Message::to(&format!("large/{}", number % 2))?.body(body.clone())).await?;
        }
        anyhow::Ok(())
    });
    let (begin, mut times) = (tokio::time::Instant::now(), Vec::new());
    while !uploading.is_finished() {
        times.push(small_message(&producer, &mut small, times.len() as u64).await?);
    }
    (&mut uploading).await??;
    times.sort_unstable();
    let (count, took) = (times.len(), begin.elapsed());
    let (median, slowest) = (times[count / 2], times[count - 1]);
    eprintln!("384 MiB in {took:?}, beside it {count} small messages: median {median:?}, slowest {slowest:?}");
    assert!(count > BODIES, "{count} small messages came beside {BODIES} large ones");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_stand_still_and_bodies_that_nobody_reads_hold_up_no_small_message() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let client = broker.client();
    let producer = client.producer(topic.clone()).connect().await?;
    // As many large bodies as a connection may fetch windows of, and more.
    for lite in 0..6 {
        producer.send(Message::to(&format!("large/{lite}"))?.body(Noise::body(lite, 80 * CHUNK))).await?;
    }
    let of = |prefix: &str| anyhow::Ok(Subscription::default().prefix(LiteName::parse(prefix)?));
    let large = client.consumer(group.clone()).subscribe_to(of("large/")?).workers(6).stream_bodies_above(0);
    let mut large = large.connect().await?;
    let mut unread = Vec::new();
    for _ in 0..6 {
        let delivery = next(&mut large).await?;
        let mut reader = delivery.body_reader();
        reader.next().await?;
        unread.push((delivery, reader));
    }
    let mut uploads = Vec::new();
    for number in 0..4 {
        let (go_on, rest) = tokio::sync::oneshot::channel();
        let (producer, lite) = (producer.clone(), format!("slow/{number}"));
        let upload = async move {
            producer
                .upload(Message::to(&lite)?, 4 * CHUNK as u64, Slow { given: 0, rest: Some(rest) })
                .await
                .map_err(anyhow::Error::from)
        };
        uploads.push((tokio::spawn(upload), go_on));
    }
    let mut small = client.consumer(group).subscribe_to(of("small/")?).workers(4).connect().await?;
    let mut slowest = Duration::ZERO;
    for number in 0..SMALL {
        slowest = slowest.max(small_message(&producer, &mut small, number).await?);
    }
    eprintln!("beside transfers that stand still the slowest of {SMALL} small messages took {slowest:?}");
    for (upload, go_on) in uploads {
        assert!(!upload.is_finished());
        let _ = go_on.send(());
        tokio::time::timeout(PATIENCE, upload).await.context("it does not go on")???;
    }
    for (delivery, mut reader) in unread {
        let rest = tokio::time::timeout(PATIENCE, reader.read_all()).await.context("the rest does not come")??;
        assert_eq!(rest.len(), 80 * CHUNK - PART);
        delivery.ack().await?;
    }
    Ok(())
}
