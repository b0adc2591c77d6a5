//! A topic whose lite topics end by themselves after a second without work, while the broker dies again and again. What was
//! acknowledged is delivered in the life that its receipt names, whatever became of that life since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluicegate_client::admin::{
    Admin, CreateGroup, CreateTopic, GroupSettings, ReclaimMode, ReclaimSettings, TopicSettings,
};
use sluicegate_client::{Consumer, LiteId, Message, Offset, Producer, Receipt, TopicName};
use sluicegate_tests::{Broker, PATIENCE};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Lite topics that are published to by turns, so that each is quiet for long enough to end.
pub(crate) const NAMES: u64 = 6;
const TURN: Duration = Duration::from_millis(700);
const PAUSE: Duration = Duration::from_millis(15);

/// Where a message is, and what it says.
type Taken = Arc<Mutex<BTreeMap<(LiteId, Offset), String>>>;

/// A message with its receipt.
struct Sent {
    name: u64,
    body: String,
    receipt: Receipt,
}

pub(crate) struct Lives {
    topic: TopicName,
    stop: watch::Sender<bool>,
    publishing: JoinHandle<Result<Vec<Sent>>>,
    consuming: JoinHandle<Result<()>>,
    taken: Taken,
}

impl Lives {
    /// A producer and a consumer that outlive every death of the broker.
    pub(crate) async fn start(broker: &Broker) -> Result<Self> {
        let (admin, topic) = (broker.admin(None)?, TopicName::parse("lives")?);
        let reclaim = ReclaimSettings { mode: ReclaimMode::Empty, after_ms: 1_000 };
        let settings = TopicSettings { reclaim, ..TopicSettings::default() };
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        let group = sluicegate_client::GroupName::parse("lives")?;
        let settings = GroupSettings { session_grace_ms: 300, lease_ms: 2_000, ..GroupSettings::default() };
        admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), settings)).await?;
        let producer = broker.client().producer(topic.clone()).connect().await?;
        let consumer = broker.client().consumer(group).workers(4).connect().await?;
        let ((stop, stopped), taken) = (watch::channel(false), Taken::default());
        let publishing = tokio::spawn(publish(producer, stopped));
        let consuming = tokio::spawn(consume(consumer, Arc::clone(&taken)));
        Ok(Self { topic, stop, publishing, consuming, taken })
    }

    /// Ends it while the broker lives, and answers how many lives there were.
    pub(crate) async fn finish(self, admin: &Admin) -> Result<usize> {
        self.stop.send_replace(true);
        let sent = tokio::time::timeout(PATIENCE, self.publishing).await.context("receipts are missing")???;
        let lives = in_their_lives(&sent)?;
        let all_taken = async {
            while let Some(missing) = missing(&sent, &self.taken)? {
                ensure!(!self.consuming.is_finished(), "the consumer ended, {missing} was not delivered");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        };
        let in_time = tokio::time::timeout(PATIENCE, all_taken).await;
        in_time.map_err(|_| anyhow::anyhow!("acknowledged and not delivered: {:?}", missing(&sent, &self.taken)))??;
        // Counts are exact after all these deaths: when the last life is over, there is nothing.
        let is_empty = async {
            loop {
                let topic = admin.topic(&self.topic).await?;
                if (topic.lite_topics, topic.messages, topic.bytes) == (0, 0, 0) {
                    return anyhow::Ok(());
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, is_empty).await.is_err() {
            anyhow::bail!("lives did not end, or counts are wrong: {:?}", admin.topic(&self.topic).await?);
        }
        self.consuming.abort();
        Ok(lives)
    }
}

/// The first message that was not delivered where its receipt says. One that says something else is wrong.
fn missing(sent: &[Sent], taken: &Taken) -> Result<Option<String>> {
    let taken = taken.lock().expect("nobody panics with it");
    for Sent { body, receipt, .. } in sent {
        match taken.get(&(receipt.lite_id, receipt.offset)) {
            Some(found) => ensure!(found == body, "{body} has the place of {found}: {receipt:?}"),
            None => return Ok(Some(format!("{body} of {receipt:?}"))),
        }
    }
    Ok(None)
}

/// In the order of publishing: lives of a name follow each other, and each has its messages without gaps from 0.
fn in_their_lives(sent: &[Sent]) -> Result<usize> {
    let (mut present, mut lives) = (BTreeMap::new(), BTreeMap::new());
    for Sent { name, body, receipt } in sent {
        let next = lives.entry(receipt.lite_id).or_insert(0_u64);
        ensure!(receipt.offset.0 == *next, "{body}: offset {next} was next, {receipt:?}");
        *next += 1;
        let life = present.entry(*name).or_insert(receipt.lite_id);
        ensure!(*life <= receipt.lite_id, "{body}: life {life} came before, {receipt:?}");
        *life = receipt.lite_id;
    }
    Ok(lives.len())
}

async fn publish(producer: Producer, stop: watch::Receiver<bool>) -> Result<Vec<Sent>> {
    let (mut sent, begun) = (Vec::new(), Instant::now());
    while !*stop.borrow() {
        let turn = begun.elapsed().as_millis() / TURN.as_millis();
        let (name, body) = (u64::try_from(turn)? % NAMES, sent.len().to_string());
        // It waits for the next broker where this one dies.
        let receipt = producer.send(Message::to(&format!("life/{name}"))?.body(body.clone())).await?;
        sent.push(Sent { name, body, receipt });
        tokio::time::sleep(PAUSE).await;
    }
    Ok(sent)
}

async fn consume(mut consumer: Consumer, taken: Taken) -> Result<()> {
    while let Some(delivery) = consumer.next().await {
        let delivery = delivery?;
        let (place, body) = ((delivery.lite_id(), delivery.offset()), String::from_utf8(delivery.body().to_vec())?);
        // A settle whose outcome is unknown, or that came too late, brings the message again.
        let _ = delivery.ack().await;
        let before = taken.lock().expect("nobody panics with it").insert(place, body.clone());
        ensure!(before.as_ref().is_none_or(|before| *before == body), "{place:?} was {before:?}, and is {body}");
    }
    Ok(())
}
