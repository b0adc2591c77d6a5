//! Steady traffic through one group, each message of which must come once and in the order of its lite topic.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::admin::{Admin, CreateGroup, CreateTopic, Durability, GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, Delivery, GroupName, Message, Outcome, Producer, Timestamp, TopicName};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::{Broker, PATIENCE};

const TICK: Duration = Duration::from_millis(1);

/// How much comes.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// Messages in each millisecond, as far as the machine keeps up.
    pub messages_per_ms: u64,
    /// Lite topics that they go to in turn.
    pub lites: u64,
    /// What the consumer works on at once.
    pub workers: u32,
    /// Messages under way, above which nothing is sent.
    pub open_max: u64,
}

impl Rate {
    /// One message per millisecond, as long as it takes to come.
    pub const CALM: Self = Self { messages_per_ms: 1, lites: 20, workers: 16, open_max: u64::MAX };

    /// As many as the broker and the test bear.
    pub const FULL: Self = Self { messages_per_ms: 64, lites: 200, workers: 32, open_max: 500 };
}

/// A group with a producer and a consumer, its topic its own.
#[derive(Debug)]
pub struct Traffic {
    admin: Admin,
    group: GroupName,
    rate: Rate,
    producer: Producer,
    consumer: Consumer,
    sent: u64,
    /// By lite topic, the offset that comes next.
    next: BTreeMap<String, u64>,
    origin: Instant,
    seen: Vec<Seen>,
}

/// A delivery.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// When its message was sent, by the test's clock.
    pub sent: Instant,
    /// From then until it was there.
    pub end_to_end: Duration,
    /// From when the broker had it until it was leased, by the broker's clock.
    pub dispatch: Duration,
    /// When it was leased.
    pub dispatched_at: Timestamp,
}

impl Traffic {
    /// Makes the topic, which does not wait for the disk, and the group of this name.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn new(broker: &Broker, name: &str, rate: Rate) -> Result<Self> {
        let (topic, group) = (TopicName::parse(name)?, GroupName::parse(name)?);
        let admin = broker.admin(None)?;
        let settings = TopicSettings { durability: Durability::Os, ..TopicSettings::default() };
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), GroupSettings::default())).await?;
        let producer = broker.client().producer(topic).connect().await?;
        let consumer = broker.client().consumer(group.clone()).workers(rate.workers).connect().await?;
        let (next, seen) = (BTreeMap::new(), Vec::new());
        Ok(Self { admin, group, rate, producer, consumer, sent: 0, next, origin: Instant::now(), seen })
    }

    /// The group.
    pub fn group(&self) -> &GroupName {
        &self.group
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// All deliveries so far, in their order.
    pub fn seen(&self) -> &[Seen] {
        &self.seen
    }

    /// Goes on for so long, or until this future is ready if that is later; what is left over may come later.
    ///
    /// # Errors
    /// A message came twice or out of order, or the future failed.
    pub async fn go_on<T>(&mut self, window: Duration, until: impl Future<Output = Result<T>>) -> Result<T> {
        let end = Instant::now() + window;
        let mut until = std::pin::pin!(until);
        let mut answer = None;
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                delivery = self.consumer.next() => self.take(delivery.context("the consumer ended")??)?,
                done = &mut until, if answer.is_none() => answer = Some(done?),
                _ = ticks.tick() => {
                    self.publish().await?;
                    if Instant::now() >= end && let Some(answer) = answer.take() {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    /// Sends nothing more, and sees to it that everything has come.
    ///
    /// # Errors
    /// Something is missing, or came twice or out of order.
    pub async fn drain(&mut self) -> Result<()> {
        while (self.seen.len() as u64) < self.sent {
            let missing = self.sent - self.seen.len() as u64;
            let next = tokio::time::timeout(PATIENCE, self.consumer.next()).await;
            let next = next.with_context(|| format!("{missing} of {} messages never came", self.sent))?;
            self.take(next.context("the consumer ended")??)?;
        }
        // What was acknowledged counts when the broker has it.
        let acked = async {
            while self.admin.group(&self.group).await?.stats.acked < self.sent {
                tokio::time::sleep(TICK).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, acked).await.context("not everything was acknowledged")??;
        let stats = self.admin.group(&self.group).await?.stats;
        ensure!(stats.acked == self.sent && stats.delivered == self.sent, "of {} sent: {stats:?}", self.sent);
        Ok(())
    }

    async fn publish(&mut self) -> Result<()> {
        for _ in 0..self.rate.messages_per_ms {
            if self.sent - self.seen.len() as u64 >= self.rate.open_max {
                break;
            }
            let lite = format!("lite-{}", self.sent % self.rate.lites);
            let micros = u64::try_from(self.origin.elapsed().as_micros())?;
            drop(self.producer.enqueue(Message::to(&lite)?.body(micros.to_le_bytes().to_vec())).await?);
            self.sent += 1;
        }
        Ok(())
    }

    fn take(&mut self, delivery: Delivery) -> Result<()> {
        let next = self.next.entry(delivery.lite().to_owned()).or_default();
        ensure!(
            delivery.offset().0 == *next && delivery.attempt() == 1,
            "offset {} of {} came, attempt {}, where {next} is next",
            delivery.offset().0,
            delivery.lite(),
            delivery.attempt()
        );
        *next += 1;
        let micros = u64::from_le_bytes(delivery.body()[..].try_into()?);
        let sent = self.origin + Duration::from_micros(micros);
        let dispatched_at = delivery.dispatched_at();
        let dispatch = dispatched_at.since(delivery.published_at());
        self.seen.push(Seen { sent, end_to_end: sent.elapsed(), dispatch, dispatched_at });
        drop(delivery.start_settle(Outcome::Ack));
        Ok(())
    }
}

/// The value below which so many percent of these are; zero of none.
pub fn percentile(values: impl IntoIterator<Item = Duration>, percent: usize) -> Duration {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100);
    values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let values = (1..=200).rev().map(Duration::from_millis);
        let of = |percent| percentile(values.clone(), percent).as_millis();
        assert_eq!([of(50), of(99), of(100)], [100, 198, 200]);
        assert_eq!(percentile([], 99), Duration::ZERO);
    }
}
