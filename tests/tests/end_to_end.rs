//! The whole way: publish, commit, deliver, ack over QUIC against a real broker process.

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{ConcurrencySettings, CreateTopic, GroupSettings, TopicSettings};
use sluicegate_client::{
    Consumer, Delivery, ErrorCode, LiteName, Message, ProducerId, SettleError, Timestamp, TopicName,
};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_tests::raw::RawStream;
use sluicegate_tests::{Broker, PATIENCE};

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

async fn nothing_comes(consumer: &mut Consumer, during: Duration) -> bool {
    tokio::time::timeout(during, consumer.next()).await.is_err()
}

fn text(delivery: &Delivery) -> String {
    format!(
        "{} {} #{} {}",
        delivery.lite(),
        delivery.offset(),
        delivery.attempt(),
        String::from_utf8_lossy(delivery.body())
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_the_whole_way() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let client = broker.client();
    let producer = client.producer(topic).connect().await?;
    let message = Message::to("chat/42")?.body("hello").property("model", "small").priority(7).cost(120);
    let receipt = producer.send(message).await?;
    assert_eq!((receipt.offset.0, receipt.created, receipt.duplicate), (0, true, false));

    let mut consumer = client.consumer(group.clone()).connect().await?;
    let delivery = next(&mut consumer).await?;
    assert_eq!(text(&delivery), "chat/42 0 #1 hello");
    assert_eq!((delivery.priority(), delivery.cost(), delivery.tenant()), (7, 120, "chat/42"));
    assert_eq!((delivery.property("model"), delivery.lite_id()), (Some("small"), receipt.lite_id));
    delivery.ack_with_cost(100).await?;

    let stats = broker.admin(None)?.group(&group).await?.stats;
    assert_eq!((stats.delivered, stats.acked, stats.in_flight, stats.waiting_lite_topics), (1, 1, 0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn order_in_a_lite_topic_is_strict_and_lite_topics_do_not_wait_for_each_other() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let client = broker.client();
    let producer = client.producer(topic).connect().await?;
    for offset in 0..3 {
        for lite in ["a", "b"] {
            let receipt = producer.send(Message::to(lite)?.body(format!("{lite}{offset}"))).await?;
            assert_eq!(receipt.offset.0, offset);
        }
    }
    let mut consumer = client.consumer(group).workers(8).connect().await?;
    let (a0, b0) = (next(&mut consumer).await?, next(&mut consumer).await?);
    assert_eq!((text(&a0), text(&b0)), ("a 0 #1 a0".into(), "b 0 #1 b0".into()));
    assert!(nothing_comes(&mut consumer, Duration::from_millis(300)).await, "a lite topic had two messages in flight");
    b0.ack().await?;
    let b1 = next(&mut consumer).await?;
    assert_eq!(text(&b1), "b 1 #1 b1");
    a0.ack().await?;
    assert_eq!(text(&next(&mut consumer).await?), "a 1 #1 a1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_counts_and_suspend_does_not() -> Result<()> {
    let broker = Broker::start()?;
    let settings = GroupSettings { max_attempts: 3, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let client = broker.client();
    client.producer(topic).connect().await?.send(Message::to("x")?.body("m")).await?;
    let mut consumer = client.consumer(group.clone()).connect().await?;

    let first = next(&mut consumer).await?;
    let suspended_at = first.dispatched_at();
    first.suspend(Duration::from_millis(400)).await?;
    let again = next(&mut consumer).await?;
    assert_eq!(again.attempt(), 1, "a suspension spends no attempt");
    assert!(again.dispatched_at().since(suspended_at) >= Duration::from_millis(400), "it came back early");

    again.retry(Some(Duration::from_millis(1))).await?;
    let second = next(&mut consumer).await?;
    assert_eq!(second.attempt(), 2);
    second.retry(Some(Duration::ZERO)).await?;
    let third = next(&mut consumer).await?;
    assert_eq!(third.attempt(), 3);
    third.retry(None).await?;
    assert!(nothing_comes(&mut consumer, Duration::from_millis(300)).await, "it was delivered beyond its last attempt");

    let admin = broker.admin(None)?;
    let stats = admin.group(&group).await?.stats;
    assert_eq!((stats.retried, stats.suspended, stats.dead_lettered, stats.acked), (3, 1, 1, 0));
    let dead = TopicName::parse_existing("t.dlq.g")?;
    assert_eq!(admin.topic(&dead).await?.lite_topics, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_on_while_its_delivery_is_held() -> Result<()> {
    // A client that stands still for half of it loses it, on a machine that has too much to do.
    const LEASE: Duration = Duration::from_secs(4);
    let broker = Broker::start()?;
    let settings = GroupSettings { lease_ms: 4_000, session_grace_ms: 200, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("m")).await?;
    let mut consumer = broker.client().consumer(group).workers(2).connect().await?;
    let held = next(&mut consumer).await?;
    assert!(nothing_comes(&mut consumer, LEASE * 3 / 2).await, "an extended lease ran out");
    held.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_runs_out_returns_its_message_and_fences_its_holder() -> Result<()> {
    let broker = Broker::start()?;
    // The lease of who extends it outlives a stall.
    let settings = GroupSettings { lease_ms: 4_000, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("m")).await?;
    // A holder that is there and does nothing; its credit is used up, so the message comes back to another.
    let role = wire::ConsumerRole { session_id: vec![7; 16], credit_messages: 1, group: "g".into(), named: false };
    let (mut holder, _) = RawStream::hello(&broker, Role::Consumer(role)).await?;
    let Some(Frame::Deliveries(delivered, _)) = holder.next().await? else { anyhow::bail!("no delivery") };
    let lost = &delivered.deliveries[0];
    assert_eq!((lost.attempt, lost.offset), (1, 0));

    let mut other = broker.client().consumer(group).connect().await?;
    let retaken = next(&mut other).await?;
    assert_eq!((retaken.attempt(), retaken.offset().0), (2, 0));
    let waited = retaken.dispatched_at().since(Timestamp(lost.dispatched_at_us));
    assert!(waited >= Duration::from_secs(4), "the lease was over after {waited:?}");
    let settle = |outcome| wire::SettleOne {
        token: lost.token,
        lite_id: lost.lite_id,
        offset: lost.offset,
        cost: None,
        outcome: Some(outcome),
    };
    let settles = vec![settle(wire::settle_one::Outcome::Ack(wire::Ack {}))];
    holder.send_frame(&Frame::Settle(wire::Settle { sequence: 1, settles }, ())).await?;
    let Some(Frame::Settled(settled, ())) = holder.next().await? else { anyhow::bail!("no answer") };
    assert_eq!(settled.results[0].code, ErrorCode::LeaseLost.number());
    retaken.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resend_after_an_unknown_outcome_never_doubles() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let id = ProducerId(77);
    let first = broker.client().producer(topic.clone()).id(id).connect().await?;
    let mut receipts = Vec::new();
    for n in 0..20 {
        receipts.push(first.send(Message::to(if n % 2 == 0 { "a" } else { "b" })?.body(n.to_string())).await?);
    }
    drop(first);
    // The same producer, the same sequences: on another connection, and after a crash.
    for round in 0..2 {
        if round == 1 {
            broker.crash_and_restart()?;
        }
        let again = broker.client().producer(topic.clone()).id(id).first_sequence(1).connect().await?;
        for (n, first) in receipts.iter().enumerate() {
            let receipt = again.send(Message::to(if n % 2 == 0 { "a" } else { "b" })?.body(n.to_string())).await?;
            assert_eq!((receipt.lite_id, receipt.offset, receipt.duplicate), (first.lite_id, first.offset, true));
        }
    }
    let mut consumer = broker.client().consumer(group).workers(4).connect().await?;
    let mut bodies = Vec::new();
    for _ in 0..20 {
        let delivery = next(&mut consumer).await?;
        bodies.push(String::from_utf8_lossy(delivery.body()).parse::<u32>()?);
        delivery.ack().await?;
    }
    bodies.sort_unstable();
    assert_eq!(bodies, (0..20).collect::<Vec<_>>());
    assert!(nothing_comes(&mut consumer, Duration::from_millis(300)).await);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_by_a_crash_and_nothing_settled_comes_back() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for n in 0..30 {
        producer.send(Message::to(&format!("lite-{}", n % 3))?.body(n.to_string())).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).workers(2).connect().await?;
    for _ in 0..10 {
        next(&mut consumer).await?.ack().await?;
    }
    let suspended = next(&mut consumer).await?;
    let (lite, offset) = (suspended.lite().to_owned(), suspended.offset());
    suspended.suspend(Duration::from_millis(600)).await?;
    consumer.close().await;
    broker.crash_and_restart()?;

    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let mut seen = std::collections::BTreeMap::<String, Vec<u64>>::new();
    for _ in 0..20 {
        let delivery = next(&mut consumer).await?;
        seen.entry(delivery.lite().to_owned()).or_default().push(delivery.offset().0);
        delivery.ack().await?;
    }
    assert!(nothing_comes(&mut consumer, Duration::from_millis(300)).await, "a settled message came back");
    assert_eq!(seen[&lite][0], offset.0, "the suspended message is still the first of its lite topic");
    for offsets in seen.values() {
        assert!(offsets.windows(2).all(|pair| pair[1] == pair[0] + 1) && *offsets.last().unwrap() == 9, "{seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_its_leases_through_a_crash() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("m")).await?;
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    // The handler did not notice: it settles through the next process.
    let settled = tokio::time::timeout(PATIENCE, held.ack()).await.context("the settle got no answer")?;
    assert!(matches!(settled, Ok(()) | Err(SettleError::Unknown)), "{settled:?}");
    assert!(nothing_comes(&mut consumer, Duration::from_millis(500)).await, "a settled message came back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_leases_of_one_lite_topic_are_found_again_after_a_crash() -> Result<()> {
    const LEASES: u32 = 8;
    let name = LiteName::parse("x")?;
    let mut broker = Broker::start()?;
    let concurrency = ConcurrencySettings { lite_topic: LEASES, ..GroupSettings::default().concurrency };
    let settings = GroupSettings { concurrency, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for body in 0..LEASES {
        producer.send(Message::to("x")?.body(body.to_string())).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).workers(LEASES).connect().await?;
    let mut held = Vec::new();
    for _ in 0..LEASES {
        held.push(next(&mut consumer).await?);
    }
    // One of the first and one of the last end before the crash.
    held.remove(6).ack().await?;
    held.remove(1).retry(Some(Duration::from_mins(10))).await?;
    assert!(nothing_comes(&mut consumer, Duration::from_millis(100)).await, "the retry holds the lite topic");
    tokio::task::block_in_place(|| broker.crash_and_restart())?;

    let shown = broker.admin(None)?.lite_topic(&group, &name).await?;
    let leases: Vec<_> = shown.leases.iter().map(|lease| (lease.offset.0, lease.attempt)).collect();
    assert_eq!(leases, [0, 2, 3, 4, 5, 7].map(|offset| (offset, 1)));
    for delivery in held {
        let settled = tokio::time::timeout(PATIENCE, delivery.ack()).await.context("the settle got no answer")?;
        assert_eq!(settled, Ok(()));
    }
    let shown = broker.admin(None)?.lite_topic(&group, &name).await?;
    assert_eq!((shown.leases.len(), shown.backlog), (0, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_leases_settle_and_keeps_sessions_for_the_next_process() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    std::fs::write(&config, "drain_seconds = 1\n")?;
    let mut broker = Broker::start_with(&["--dev", "--config", config.to_str().context("temporary paths are UTF-8")?])?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for body in ["m", "n"] {
        producer.send(Message::to("x")?.body(body)).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    let held = next(&mut consumer).await?;
    // The lease outlives the patience of the drain; the session goes on with the next process.
    tokio::task::block_in_place(|| broker.stop_and_restart())?;
    let settled = tokio::time::timeout(PATIENCE, held.ack()).await.context("the settle got no answer")?;
    assert!(matches!(settled, Ok(())), "{settled:?}");
    let second = next(&mut consumer).await?;
    assert_eq!(text(&second), "x 1 #1 n");
    second.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_counts_for_each_topic_on_its_own() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    std::fs::write(&config, "shards = 1\n")?;
    let broker = Broker::start_with(&["--dev", "--config", config.to_str().context("temporary paths are UTF-8")?])?;
    let id = ProducerId(5);
    for name in ["one", "two"] {
        let topic = TopicName::parse(name)?;
        broker
            .admin(None)?
            .create_topic(&CreateTopic { name: topic.clone(), settings: TopicSettings::default() })
            .await?;
        let producer = broker.client().producer(topic).id(id).connect().await?;
        let receipt = producer.send(Message::to("x")?).await?;
        assert_eq!((receipt.duplicate, receipt.created), (false, true), "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_headers_travel_and_many_leases_are_found_again() -> Result<()> {
    const LITES: u32 = 1_200;
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let property = "v".repeat((16 << 10) - 1);
    let mut pending = Vec::new();
    for lite in 0..LITES {
        // Long names make the list of held leases larger than a frame's header may be.
        let mut message = Message::to(&format!("{lite:0>255}"))?;
        if lite < 32 {
            message = message.property("p", &property);
        }
        pending.push(producer.enqueue(message).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).workers(LITES).connect().await?;
    let mut held = Vec::new();
    for _ in 0..LITES {
        held.push(next(&mut consumer).await?);
    }
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    for delivery in held {
        let settled = tokio::time::timeout(PATIENCE, delivery.ack()).await.context("the settle got no answer")?;
        assert!(matches!(settled, Ok(())), "{settled:?}");
    }
    let stats = broker.admin(None)?.group(&group).await?.stats;
    assert_eq!((stats.acked, stats.in_flight, stats.waiting_lite_topics), (u64::from(LITES), 0, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_works_on_after_an_outage_that_took_its_leases() -> Result<()> {
    let mut broker = Broker::start()?;
    let settings = GroupSettings { session_grace_ms: 1, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("m")).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    let held = next(&mut consumer).await?;
    tokio::task::block_in_place(|| broker.crash())?;
    // The handler ends while nobody is there; the session's grace is over before it can reattach.
    let settle = tokio::spawn(held.ack());
    tokio::time::sleep(Duration::from_millis(300)).await;
    tokio::task::block_in_place(|| broker.start_again())?;
    let settled = tokio::time::timeout(PATIENCE, settle).await.context("the settle got no answer")??;
    assert!(matches!(settled, Err(SettleError::LeaseLost | SettleError::Unknown)), "{settled:?}");
    let again = next(&mut consumer).await?;
    assert_eq!(text(&again), "x 0 #2 m");
    again.ack().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_is_not_shortened_by_another_lease_of_the_lite_topic() -> Result<()> {
    let broker = Broker::start()?;
    let concurrency = ConcurrencySettings { lite_topic: 2, ..GroupSettings::default().concurrency };
    let settings = GroupSettings { concurrency, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for body in ["m", "n"] {
        producer.send(Message::to("x")?.body(body)).await?;
    }
    let mut consumer = broker.client().consumer(group).workers(2).connect().await?;
    let (first, second) = (next(&mut consumer).await?, next(&mut consumer).await?);
    first.suspend(Duration::from_mins(10)).await?;
    second.suspend(Duration::from_millis(1)).await?;
    assert!(nothing_comes(&mut consumer, Duration::from_millis(500)).await, "the suspension was shortened");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_outlives_a_killed_broker_is_told_by_the_next_process_at_once() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let mut consumer = broker.client().consumer(group).connect().await?;
    let mut raw = RawStream::producer(&broker).await?;
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let restarted = tokio::time::Instant::now();
    // Whatever is sent is answered with the end of the connection, which may be quicker than the next call.
    let end = match raw.send_bytes(b"of a connection that nobody knows").await {
        Ok(()) => raw.next().await.map(drop),
        refused => refused,
    };
    let end = format!("{:#}", end.unwrap_err());
    assert!(end.contains("reset by peer"), "{end}");
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body("after")).await?;
    assert_eq!(text(&next(&mut consumer).await?), "x 0 #1 after");
    println!("the first delivery came {:?} after the broker was back", restarted.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lite_topic_stays_with_one_session_across_a_crash_while_a_lease_is_open() -> Result<()> {
    let mut broker = Broker::start()?;
    let concurrency = ConcurrencySettings { lite_topic: 3, ..ConcurrencySettings::default() };
    let settings = GroupSettings { concurrency, ..GroupSettings::default() };
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for n in 0..4 {
        producer.send(Message::to("x")?.body(format!("m{n}"))).await?;
    }
    let mut first = broker.client().consumer(group.clone()).workers(2).connect().await?;
    let held = [next(&mut first).await?, next(&mut first).await?];
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let mut second = broker.client().consumer(group).workers(4).connect().await?;
    assert!(nothing_comes(&mut second, Duration::from_millis(500)).await, "two sessions have leases of it");
    let [one, other] = held;
    one.ack().await?;
    assert!(nothing_comes(&mut second, Duration::from_millis(300)).await, "two sessions have leases of it");
    first.close().await;
    assert_eq!(text(&next(&mut second).await?), "x 1 #1 m1");
    assert_eq!(text(&next(&mut second).await?), "x 2 #1 m2");
    other.ack().await.unwrap_err();
    Ok(())
}
