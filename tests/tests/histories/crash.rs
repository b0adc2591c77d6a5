//! `kill -9` while producers and consumers are at work.

use std::time::Duration;

use anyhow::Result;
use sluicegate_client::{Message, Pending, SettleError};
use sluicegate_tests::history::{Blind, End, Span};
use tokio::task::JoinHandle;

use crate::draw::{Clients, Pick, Publish};
use crate::run::{Run, patiently};

/// Longer than a client takes to find a broker that is back, and to give back what it does not know.
const BLIND_AFTER_CRASH: Duration = Duration::from_secs(15);

/// A publish without a receipt so far.
struct Publishing {
    sequence: u64,
    lite: usize,
    body: String,
    message: Message,
    pending: Pending,
}

/// A settle without an answer so far, and the delivery's index in the record.
struct Settling {
    index: usize,
    end: End,
    answer: JoinHandle<Result<(), SettleError>>,
}

impl Run {
    pub(crate) async fn crash(
        &mut self,
        clients: Clients,
        publishes: &[Publish],
        settles: &[(Pick, End)],
        down: Duration,
    ) -> Result<()> {
        let mut publishing = Vec::new();
        for &publish in publishes {
            let sequence = self.next_sequence;
            let (lite, body, message) = self.message(publish);
            let pending = self.producer.enqueue(message.clone()).await?;
            publishing.push(Publishing { sequence, lite, body, message, pending });
        }
        let mut settling = Vec::new();
        for &(pick, end) in settles {
            let Some(outcome) = end.outcome().filter(|_| !self.held.is_empty()) else { continue };
            let (index, delivery) = self.held.remove(pick % self.held.len());
            settling.push(Settling { index, end, answer: tokio::spawn(delivery.settle(outcome)) });
        }
        // Some of it is answered, some under way, some not sent.
        tokio::time::sleep(down / 500).await;
        tokio::task::block_in_place(|| self.broker.crash())?;
        match clients {
            Clients::Live => self.restart_for_living(down, publishing, settling).await,
            Clients::Die => self.restart_for_heirs(down, publishing, settling).await,
        }
    }

    async fn restart_for_living(
        &mut self,
        down: Duration,
        publishing: Vec<Publishing>,
        settling: Vec<Settling>,
    ) -> Result<()> {
        let after = self.now;
        self.start_again(down).await?;
        let until = self.now.plus(BLIND_AFTER_CRASH + self.record.grace);
        let leases = self.members.iter().map(|member| member.workers).sum();
        self.record.blind.push(Blind { from: after, until, leases, counted: leases });
        for Publishing { lite, body, pending, .. } in publishing {
            let receipt = patiently("a publish", pending).await??;
            self.record.acknowledged((lite, receipt.offset.0), &body);
        }
        for Settling { index, end, answer } in settling {
            let result = patiently("a settle", answer).await??;
            let span = Span { after, before: self.tick().await?.before };
            self.settled(index, span, end, result);
        }
        Ok(())
    }

    async fn restart_for_heirs(
        &mut self,
        down: Duration,
        publishing: Vec<Publishing>,
        settling: Vec<Settling>,
    ) -> Result<()> {
        let after = self.now;
        // What was answered before the end is known before the clients die.
        self.collect().await;
        let mut vanished = Vec::new();
        while !self.members.is_empty() {
            vanished.push(self.kill_client(0));
        }
        let mut unknown = Vec::new();
        for mut publish in publishing {
            match tokio::time::timeout(Duration::ZERO, &mut publish.pending).await {
                Ok(receipt) => self.record.acknowledged((publish.lite, receipt?.offset.0), &publish.body),
                Err(_) => unknown.push(publish),
            }
        }
        self.start_again(down).await?;
        let span = Span { after, before: self.now };
        for Settling { index, end, answer } in settling {
            // A client that died heard nothing: what it asked for may have been done.
            let unheard = |error| if error == SettleError::Closed { SettleError::Unknown } else { error };
            let result = patiently("a settle", answer).await??.map_err(unheard);
            self.settled(index, span, end, result);
        }
        for vanished in vanished {
            self.abandoned(&vanished, span);
            self.vanished.push(vanished);
            self.take_over(self.vanished.len() - 1).await?;
        }
        self.send_again(unknown).await
    }

    async fn start_again(&mut self, down: Duration) -> Result<()> {
        tokio::time::sleep(down).await;
        tokio::task::block_in_place(|| self.broker.start_again())?;
        let killed = self.tick().await?;
        for delivered in &mut self.record.deliveries {
            delivered.survives(killed, self.record.grace);
        }
        self.killed = Some(killed);
        Ok(())
    }

    /// A producer with the identity of the one before sends again, by the same numbers, what has no receipt.
    async fn send_again(&mut self, unknown: Vec<Publishing>) -> Result<()> {
        let first = unknown.first().map_or(self.next_sequence, |publish| publish.sequence);
        let producer = self.broker.client().producer(self.topic.clone()).id(self.producer.id());
        self.producer = producer.first_sequence(first).connect().await?;
        for Publishing { lite, body, message, .. } in unknown {
            let receipt = patiently("a publish", self.producer.send(message)).await??;
            self.record.acknowledged((lite, receipt.offset.0), &body);
        }
        Ok(())
    }
}
