//! A producer that pipelines, dies with the broker or finds it again, and sends again what it does not know the fate of.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::{Client, LiteName, Message, Pending, Producer, ProducerId, PublishError, Receipt, TopicName};
use sluicegate_tests::Broker;
use tokio::sync::watch;

use crate::fact::{Fact, OneLife};
use crate::process::Process;
use crate::world::{DELETABLE_FROM, LITES_MAX, QUIET, lite};

/// Without a receipt at once.
const PIPELINE_MAX: usize = 64;
const BURST_MAX: usize = 8;
/// Acknowledged messages that a new process may send again.
const RECENT_MAX: usize = 12;
const COST_MAX: u64 = 9;
/// In a hundred, how often a producer survives the broker.
const SURVIVES_PERCENT: u32 = 30;
/// In a hundred, how often a new process has forgotten who it was.
const FORGETS_PERCENT: u32 = 50;

#[derive(Debug, Clone)]
struct Sent {
    sequence: u64,
    lite: usize,
    body: String,
    message: Message,
}

/// A producer in its process.
struct Running {
    producer: Producer,
    pending: VecDeque<(Sent, Pending)>,
    _process: Process,
}

pub(crate) struct Publisher {
    index: usize,
    topic: TopicName,
    id: ProducerId,
    next_sequence: u64,
    random: Pcg64Mcg,
    /// Acknowledged; the newest last.
    recent: VecDeque<Sent>,
    /// Sent by the process before, without a receipt.
    unknown: Vec<Sent>,
    running: Option<Running>,
    pub(crate) facts: Vec<Fact>,
}

impl Publisher {
    pub(crate) fn new(index: usize, topic: TopicName, seed: u64) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let id = ProducerId(random.random());
        let (recent, unknown, facts) = (VecDeque::new(), Vec::new(), Vec::new());
        Self { index, topic, id, next_sequence: 1, random, recent, unknown, running: None, facts }
    }

    /// A process to publish with: the one that survived, or a new one that sends again what the one before sent.
    pub(crate) async fn connect(&mut self, broker: &Broker) -> Result<()> {
        if self.running.is_some() {
            return Ok(());
        }
        // Some that have a receipt too: it must be the same again.
        let again = self.random.random_range(0..=self.recent.len());
        let mut resent: Vec<_> = self.recent.iter().skip(again).cloned().collect();
        resent.append(&mut self.unknown);
        // Then the broker knows the messages by their keys only, and those end with the life of a lite topic.
        let keys_last = resent.iter().all(|sent| sent.lite < DELETABLE_FROM);
        if keys_last && self.random.random_range(0..100) < FORGETS_PERCENT {
            self.id = ProducerId(self.random.random());
        }
        let first = resent.first().map_or(self.next_sequence, |sent| sent.sequence);
        let process = Process::start()?;
        let (address, trust) = (broker.address().to_owned(), broker.trust());
        let (topic, id) = (self.topic.clone(), self.id);
        let connecting = process.spawn(async move {
            let client = Client::builder(address, trust).build();
            client.producer(topic).id(id).first_sequence(first).connect().await
        });
        let producer = connecting.await??;
        let mut pending = VecDeque::new();
        for sent in resent {
            let receipt = producer.enqueue(sent.message.clone()).await?;
            pending.push_back((sent, receipt));
        }
        self.running = Some(Running { producer, pending, _process: process });
        Ok(())
    }

    /// Publishes until it is stopped, and then takes the receipts that came.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) -> Self {
        let mut running = self.running.take().expect("it was connected");
        let mut pause = Duration::ZERO;
        while !*stop.borrow() {
            let has_room = running.pending.len() < PIPELINE_MAX;
            tokio::select! {
                // Stopped, or the test is gone.
                _ = stop.changed() => break,
                Some(answer) = first(&mut running.pending) => self.answered(&mut running.pending, answer),
                () = tokio::time::sleep(pause), if has_room => {
                    if let Err(error) = self.burst(&mut running).await {
                        self.facts.push(Fact::Wrong(format!("producer {} ended: {error}", self.index)));
                        break;
                    }
                    pause = Duration::from_millis(self.random.random_range(8..30));
                }
            }
        }
        self.finish(&mut running).await;
        if self.random.random_range(0..100) < SURVIVES_PERCENT {
            self.running = Some(running);
        } else {
            self.unknown = running.pending.into_iter().map(|(sent, _)| sent).collect();
        }
        self
    }

    /// Takes the receipts that are there or come at once.
    async fn finish(&mut self, running: &mut Running) {
        while let Ok(Some(answer)) = tokio::time::timeout(QUIET, first(&mut running.pending)).await {
            self.answered(&mut running.pending, answer);
        }
    }

    /// Waits for all receipts and ends.
    pub(crate) async fn close(mut self) -> Vec<Fact> {
        let mut running = self.running.take().expect("it was connected");
        let all = async {
            while let Some(answer) = first(&mut running.pending).await {
                self.answered(&mut running.pending, answer);
            }
        };
        if tokio::time::timeout(sluicegate_tests::PATIENCE, all).await.is_err() {
            self.facts.push(Fact::Wrong(format!("producer {} gets no receipts", self.index)));
        }
        self.facts
    }

    async fn burst(&mut self, running: &mut Running) -> Result<(), PublishError> {
        for _ in 0..self.random.random_range(1..=BURST_MAX) {
            let sent = self.draw();
            let receipt = running.producer.enqueue(sent.message.clone()).await?;
            running.pending.push_back((sent, receipt));
        }
        Ok(())
    }

    fn draw(&mut self) -> Sent {
        let random = &mut self.random;
        // Some lite topics get most of the messages, so that they have a backlog.
        let index = random.random_range(0..LITES_MAX).min(random.random_range(0..LITES_MAX));
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let padding = match random.random_range(0..200) {
            // With a row of its own, beside the message's.
            0..=5 => 20_000,
            6 => 200_000,
            _ => random.random_range(0..200),
        };
        let body = format!("p{}-{sequence}:{}", self.index, ".".repeat(padding));
        let name: LiteName = lite(index);
        let message = Message::to_lite(&name).body(body.clone()).idempotency_key(format!("p{}-{sequence}", self.index));
        let message = message.priority(random.random_range(0..10)).cost(random.random_range(1..=COST_MAX));
        Sent { sequence, lite: index, body: fingerprint(body.as_bytes()), message }
    }

    fn answered(&mut self, pending: &mut VecDeque<(Sent, Pending)>, answer: Result<Receipt, PublishError>) {
        let (sent, _) = pending.pop_front().expect("it was answered");
        match answer {
            Ok(receipt) => {
                if receipt.sequence != sent.sequence {
                    let what = format!("producer {} sent {} and was answered {receipt:?}", self.index, sent.sequence);
                    self.facts.push(Fact::Wrong(what));
                }
                self.facts.push(Fact::Acknowledged {
                    producer: self.index,
                    sequence: sent.sequence,
                    lite: OneLife { id: receipt.lite_id, name: lite(sent.lite).as_str().to_owned() },
                    offset: receipt.offset,
                    body: sent.body.clone(),
                });
                if self.recent.back().is_none_or(|last| last.sequence < sent.sequence) {
                    self.recent.push_back(sent);
                }
                if self.recent.len() > RECENT_MAX {
                    self.recent.pop_front();
                }
            }
            Err(error) => {
                let what = format!("producer {} sent {}: {error}", self.index, sent.sequence);
                self.facts.push(Fact::Wrong(what));
            }
        }
    }
}

/// What tells a body from another, and one that was damaged from a whole one.
pub(crate) fn fingerprint(body: &[u8]) -> String {
    let name = body.split(|byte| *byte == b':').next().unwrap_or_default();
    let is_whole = body[name.len()..].iter().skip(1).all(|byte| *byte == b'.');
    format!("{} of {} bytes{}", String::from_utf8_lossy(name), body.len(), if is_whole { "" } else { ", damaged" })
}

/// The first of the receipts that is missing; none where none is.
async fn first(pending: &mut VecDeque<(Sent, Pending)>) -> Option<Result<Receipt, PublishError>> {
    match pending.front_mut() {
        Some((_, receipt)) => Some(receipt.await),
        None => None,
    }
}
