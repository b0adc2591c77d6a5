//! The clients of a run: who makes the lite topics, who holds a delivery, who drains.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use sluicegate_client::admin::{Admin, CreateGroup, CreateTopic, GroupSettings, GroupStats, TenantRule, TopicSettings};
use sluicegate_client::{Client, Consumer, GroupName, Message, Outcome, Pending, Settling, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::bench::measure::now;
use crate::broker_process::BrokerProcess;

/// Publishes, or settles, under way.
const IN_FLIGHT_MAX: usize = 4_096;
/// Between two tries of a client that waits for a broker.
const TRY: Duration = Duration::from_millis(5);
/// Messages that the draining consumer works on at once.
const WORKERS: u32 = 2_048;

/// Which messages there are.
#[derive(Debug, Clone)]
pub(super) struct Population {
    /// As many as messages.
    pub(super) lite_topics: u64,
    pub(super) tenants: u64,
    names: u64,
    body: Vec<u8>,
}

impl Population {
    /// So many lite topics with one message each.
    pub(super) fn new(lite_topics: u64, tenants: u64, size: u32) -> Self {
        Self { lite_topics, tenants, names: lite_topics, body: vec![b'x'; size as usize] }
    }

    /// The same messages in so many lite topics.
    pub(super) fn over(self, names: u64) -> Self {
        Self { names, ..self }
    }

    fn message(&self, number: u64) -> anyhow::Result<Message> {
        let name = number % self.names;
        Ok(Message::to(&format!("t{}/{name}", name % self.tenants))?.body(self.body.clone()))
    }
}

/// How fast lite topics are made, per second: of the first and the last tenth.
pub(super) struct Created {
    pub(super) first: f64,
    pub(super) last: f64,
}

/// The topic, and its group if there is one.
pub(super) struct Side {
    admin: Admin,
    client: Client,
    topic: TopicName,
    group: GroupName,
}

impl Side {
    pub(super) async fn new(broker: &BrokerProcess, group_settings: Option<GroupSettings>) -> anyhow::Result<Self> {
        let (topic, group) = (TopicName::parse("bench")?, GroupName::parse("bench")?);
        let side = Self { admin: broker.admin()?, client: broker.client("bench"), topic, group };
        let settings = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
        side.admin.create_topic(&CreateTopic { name: side.topic.clone(), settings }).await?;
        if let Some(settings) = group_settings {
            let group = CreateGroup::new(side.group.clone(), side.topic.clone(), settings);
            side.admin.create_group(&group).await?;
        }
        Ok(side)
    }

    pub(super) async fn stats(&self) -> anyhow::Result<GroupStats> {
        Ok(self.admin.group(&self.group).await?.stats)
    }

    /// Publishes every message.
    pub(super) async fn create(&self, population: &Population) -> anyhow::Result<Created> {
        let producer = self.client.producer(self.topic.clone()).connect().await?;
        let (pending, receipts) = mpsc::channel(IN_FLIGHT_MAX);
        let counting = tokio::spawn(take_receipts(receipts));
        let (count, start) = (population.lite_topics, now());
        let tenth = (count / 10).max(1);
        let (mut first, mut last_began) = (start, start);
        for number in 0..count {
            if number == tenth {
                first = now();
            }
            if number == count - tenth {
                last_began = now();
            }
            let published = producer.enqueue(population.message(number)?).await?;
            pending.send(published).await.context("the receipts' task ended")?;
        }
        drop(pending);
        counting.await.context("the receipts' task")??;
        let end = now();
        producer.close().await;
        let per_second = |from: Instant, to: Instant| tenth as f64 / (to - from).as_secs_f64();
        Ok(Created { first: per_second(start, first), last: per_second(last_began, end) })
    }

    /// A consumer of all lite topics, with room for one message.
    pub(super) async fn taker(&self) -> anyhow::Result<Consumer> {
        Ok(self.client.consumer(self.group.clone()).workers(1).connect().await?)
    }

    /// Tries until there is a broker; answers when it delivered, and who got it.
    pub(super) fn first_delivery(&self) -> impl Future<Output = anyhow::Result<(Instant, Consumer)>> + use<> {
        let (client, group) = (self.client.clone(), self.group.clone());
        async move {
            let mut consumer = loop {
                match client.consumer(group.clone()).workers(1).connect().await {
                    Ok(consumer) => break consumer,
                    Err(_) => tokio::time::sleep(TRY).await,
                }
            };
            // It goes back when the consumer closes.
            let _delivery = consumer.next().await.context("the consumer ended")??;
            Ok((now(), consumer))
        }
    }

    /// Takes and settles so many messages; answers how many per second.
    pub(super) async fn drain(&self, broker: &BrokerProcess, count: u64) -> anyhow::Result<f64> {
        let mut consumer = broker.client("bench-drain").consumer(self.group.clone()).workers(WORKERS).connect().await?;
        let (acks, replies) = mpsc::channel(IN_FLIGHT_MAX);
        let settling: JoinHandle<anyhow::Result<()>> = tokio::spawn(take_replies(replies));
        let (start, mut taken) = (now(), 0);
        while taken < count {
            let delivery = consumer.next().await.context("the consumer ended")??;
            acks.send(delivery.start_settle(Outcome::Ack)).await.context("an ack failed")?;
            taken += 1;
        }
        drop(acks);
        settling.await.context("the acks' task")??;
        let rate = taken as f64 / start.elapsed().as_secs_f64();
        consumer.close().await;
        Ok(rate)
    }
}

async fn take_receipts(mut receipts: mpsc::Receiver<Pending>) -> anyhow::Result<()> {
    let mut taken = Vec::with_capacity(64);
    while receipts.recv_many(&mut taken, 64).await > 0 {
        for pending in taken.drain(..) {
            pending.await?;
        }
    }
    Ok(())
}

async fn take_replies(mut replies: mpsc::Receiver<Settling>) -> anyhow::Result<()> {
    let mut taken = Vec::with_capacity(64);
    while replies.recv_many(&mut taken, 64).await > 0 {
        for settling in taken.drain(..) {
            settling.await?;
        }
    }
    Ok(())
}
