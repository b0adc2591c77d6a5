//! A message that is leased to this consumer, and the ways to end the lease.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::limits::REASON_BYTES_MAX;
use sluicegate_protocol::{LeaseToken, LiteId, Offset, Timestamp, wire};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::body::{BodyError, BodyReader, MessageBody};
use crate::consumer::{Command, SettleRequest};
use crate::refusal::Refusal;
use crate::reply::Replies;

/// A message leased to this consumer.
///
/// While it is alive its lease is extended. It is settled by one of the methods that take it; each resolves when the
/// broker has replied, as durable as the topic asks. Dropped without that, it is not settled: its lease is extended no
/// more and runs out, and the message is delivered again with a higher attempt.
///
/// ```no_run
/// use std::time::Duration;
/// use sluicegate_client::{Delivery, SettleError};
///
/// # async fn answer(body: &[u8]) -> Result<u64, Duration> { Ok(body.len() as u64) }
/// async fn handle(delivery: Delivery) -> Result<(), SettleError> {
///     let answered = tokio::select! {
///         answered = answer(delivery.body()) => answered,
///         // Somebody else has the message now.
///         () = delivery.lease_lost() => return Ok(()),
///     };
///     match answered {
///         Ok(tokens) => delivery.ack_with_cost(tokens).await,
///         Err(retry_after) => delivery.suspend(retry_after).await,
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Delivery {
    header: wire::Delivery,
    body: MessageBody,
    token: LeaseToken,
    lease: Arc<LeaseState>,
    replies: Replies,
    commands: mpsc::Sender<Command>,
    settled: AtomicBool,
}

/// How a lease ends, as [`Consumer::run`](crate::Consumer::run) wants it from a handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Ack,
    /// Done, with the measured cost in the group's cost unit.
    AckWithCost(u64),
    /// Deliver it again after this delay, or after the group's back-off; the attempt counts.
    Retry(Option<Duration>),
    /// What does the work asked to be left alone for this long (an HTTP 429 with `Retry-After`, say): deliver it again after that;
    /// the attempt counts, and the group's policy is told, which may slow down more than this message.
    RetryAfter(Duration),
    /// Deliver nothing of this lite topic to the group for this long, 1 ms to 30 days; the message returns, uncounted.
    Suspend(Duration),
    /// Move the message to the dead-letter topic, for this reason (cut after 256 bytes).
    DeadLetter(String),
}

/// Why a lease was not settled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettleError {
    /// The lease ended before: it ran out or was taken away. The message is or will be delivered again.
    #[error("the lease was lost before it was settled")]
    LeaseLost,
    /// The connection was lost before the reply, and the lease is over: by this settle, or before it.
    #[error("the connection was lost before the reply, and the lease is over")]
    Unknown,
    /// The broker refused the settle.
    #[error("settle refused: {0}")]
    Refused(Refusal),
    /// The consumer was closed before; the message returned to the broker.
    #[error("consumer is closed")]
    Closed,
}

/// The end of a lease on its way to the broker; resolves when the broker has replied. Dropping it does not take the
/// settle back.
#[derive(Debug)]
#[must_use = "whether the lease was settled is known only when this resolves"]
pub struct Settling {
    reply: oneshot::Receiver<Result<(), SettleError>>,
}

/// What the consumer's task tells the holder of a delivery.
#[derive(Debug, Default)]
pub(crate) struct LeaseState {
    is_lost: AtomicBool,
    is_cancelled: AtomicBool,
    changed: Notify,
}

impl LeaseState {
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    pub(crate) async fn lost(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // Listens before it looks, so that a loss in between is not missed.
            changed.as_mut().enable();
            if self.is_lost() {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }

    async fn cancelled(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_cancelled.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }

    pub(crate) fn lose(&self) {
        self.is_lost.store(true, Ordering::Release);
        self.changed.notify_waiters();
    }
}

impl Delivery {
    pub(crate) fn new(
        header: wire::Delivery,
        body: MessageBody,
        (token, lease): (LeaseToken, Arc<LeaseState>),
        replies: Replies,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self { header, body, token, lease, replies, commands, settled: AtomicBool::new(false) }
    }

    /// Name of the lite topic.
    pub fn lite(&self) -> &str {
        &self.header.lite
    }

    /// The lite topic's life that the message belongs to.
    pub fn lite_id(&self) -> LiteId {
        LiteId(self.header.lite_id)
    }

    /// Position in the lite topic.
    pub fn offset(&self) -> Offset {
        Offset(self.header.offset)
    }

    /// 1 for the first delivery; raised by a retry or a lease that ran out.
    pub fn attempt(&self) -> u32 {
        self.header.attempt
    }

    /// When the broker took the message, by its clock.
    pub fn published_at(&self) -> Timestamp {
        Timestamp(self.header.published_at_us)
    }

    /// When the scheduler decided this delivery, by the broker's clock.
    pub fn dispatched_at(&self) -> Timestamp {
        Timestamp(self.header.dispatched_at_us)
    }

    /// When the lease would have run out as it was delivered, by the broker's clock. Extensions move it.
    pub fn deadline(&self) -> Timestamp {
        Timestamp(self.header.deadline_us)
    }

    /// 0 to 9, 9 first.
    pub fn priority(&self) -> u8 {
        u8::try_from(self.header.priority).unwrap_or(u8::MAX)
    }

    /// Estimated cost in the group's cost unit.
    pub fn cost(&self) -> u64 {
        self.header.cost
    }

    /// The tenant that the lite topic belongs to.
    pub fn tenant(&self) -> &str {
        &self.header.tenant
    }

    /// All properties.
    pub fn properties(&self) -> &BTreeMap<String, String> {
        &self.header.properties
    }

    /// One property.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.header.properties.get(key).map(String::as_str)
    }

    /// The payload. A clone of it is cheap, and keeps the read buffer that it came in.
    ///
    /// # Panics
    /// The body is streamed: only where the consumer was told to
    /// [`stream_bodies_above`](crate::ConsumerBuilder::stream_bodies_above) its size.
    pub fn body(&self) -> &Bytes {
        self.body.here()
    }

    /// Bytes of the body, wherever it is.
    pub fn body_bytes(&self) -> u64 {
        self.body.bytes()
    }

    /// Whether the body is not here, but read by [`body_reader`](Self::body_reader).
    pub fn is_body_streamed(&self) -> bool {
        self.body.is_away()
    }

    /// Reads the body part by part, from its beginning, whether it is here or comes while it is read. The lease is extended
    /// meanwhile.
    pub fn body_reader(&self) -> BodyReader {
        self.body.reader()
    }

    /// Brings a large body here.
    pub(crate) async fn fetch_body(&mut self) -> Result<(), BodyError> {
        self.body = MessageBody::Here(self.body_reader().read_all().await?);
        Ok(())
    }

    /// Where replies of the consumer's group go.
    pub(crate) fn replies(&self) -> &Replies {
        &self.replies
    }

    /// Whether the lease ended before it was settled: further work on the message is for nothing.
    pub fn is_lease_lost(&self) -> bool {
        self.lease.is_lost()
    }

    /// Waits until the lease is lost; never resolves otherwise.
    pub async fn lease_lost(&self) {
        self.lease.lost().await;
    }

    /// Whether who asked [cancelled](crate::Request::cancel) the request: nobody waits for its reply. The message is still to be
    /// settled.
    pub fn is_cancelled(&self) -> bool {
        self.lease.is_cancelled.load(Ordering::Acquire)
    }

    /// Waits until the request is cancelled; never resolves otherwise.
    pub async fn cancelled(&self) {
        self.lease.cancelled().await;
    }

    /// The message is done.
    ///
    /// # Errors
    /// [`SettleError`] when the lease was lost or the broker refused.
    pub async fn ack(self) -> Result<(), SettleError> {
        self.settle(Outcome::Ack).await
    }

    /// The message is done and cost this much, in the group's cost unit.
    ///
    /// # Errors
    /// [`SettleError`] when the lease was lost or the broker refused.
    pub async fn ack_with_cost(self, cost: u64) -> Result<(), SettleError> {
        self.settle(Outcome::AckWithCost(cost)).await
    }

    /// Deliver it again after `delay`, or after the group's back-off; the attempt counts.
    ///
    /// # Errors
    /// [`SettleError`] when the lease was lost or the broker refused.
    pub async fn retry(self, delay: Option<Duration>) -> Result<(), SettleError> {
        self.settle(Outcome::Retry(delay)).await
    }

    /// Deliver nothing of this lite topic to the group for `duration`, 1 ms to 30 days; the message returns, uncounted.
    ///
    /// # Errors
    /// [`SettleError`] when the lease was lost or the broker refused.
    pub async fn suspend(self, duration: Duration) -> Result<(), SettleError> {
        self.settle(Outcome::Suspend(duration)).await
    }

    /// Move the message to the dead-letter topic for `reason`, cut after 256 bytes.
    ///
    /// # Errors
    /// [`SettleError`] when the lease was lost or the broker refused.
    pub async fn dead_letter(self, reason: impl Into<String>) -> Result<(), SettleError> {
        self.settle(Outcome::DeadLetter(reason.into())).await
    }

    /// Ends the lease with an outcome that was decided elsewhere.
    ///
    /// # Errors
    /// [`SettleError`] when the lease was lost or the broker refused.
    pub async fn settle(self, outcome: Outcome) -> Result<(), SettleError> {
        self.start_settle(outcome).await
    }

    /// Ends the lease without waiting for the broker: what it returns resolves to its reply. A consumer that settles much
    /// collects these and awaits them in order, instead of a task for each.
    pub fn start_settle(self, outcome: Outcome) -> Settling {
        let (reply, result) = oneshot::channel();
        self.request(outcome, Some(reply));
        Settling { reply: result }
    }

    /// Ends the lease and leaves the reply to the consumer's task.
    pub(crate) fn settle_unattended(&self, outcome: Outcome) {
        self.request(outcome, None);
    }

    fn request(&self, outcome: Outcome, reply: Option<oneshot::Sender<Result<(), SettleError>>>) {
        self.settled.store(true, Ordering::Relaxed);
        let settle = outcome.into_settle(self.token, self.header.lite_id, self.header.offset);
        // A task that is gone drops the reply, which says enough.
        let _ = self.commands.try_send(Command::Settle(SettleRequest { token: self.token, settle, reply, credit: 1 }));
    }
}

impl Future for Settling {
    type Output = Result<(), SettleError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = Pin::new(&mut self.reply).poll(context);
        // Without a reply the consumer's task is gone.
        reply.map(|reply| reply.unwrap_or(Err(SettleError::Closed)))
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !*self.settled.get_mut() {
            // A task that is gone extends nothing anyway.
            let _ = self.commands.try_send(Command::Dropped(self.token));
        }
    }
}

impl Outcome {
    pub(crate) fn into_settle(self, token: LeaseToken, lite_id: u64, offset: u64) -> wire::SettleOne {
        use wire::settle_one::Outcome as Wire;
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let (outcome, cost) = match self {
            Self::Ack => (Wire::Ack(wire::Ack {}), None),
            Self::AckWithCost(cost) => (Wire::Ack(wire::Ack {}), Some(cost)),
            Self::Retry(delay) => (Wire::Retry(wire::Retry { delay_ms: delay.map(millis), upstream: false }), None),
            Self::RetryAfter(delay) => {
                (Wire::Retry(wire::Retry { delay_ms: Some(millis(delay)), upstream: true }), None)
            }
            Self::Suspend(duration) => {
                // A suspension shorter than the unit is the shortest, not none.
                (Wire::Suspend(wire::Suspend { duration_ms: millis(duration).max(1) }), None)
            }
            Self::DeadLetter(mut reason) => {
                reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
                (Wire::DeadLetter(wire::DeadLetter { reason }), None)
            }
        };
        let token = wire::Token { epoch: token.epoch, counter: token.counter };
        wire::SettleOne { token: Some(token), lite_id, offset, cost, outcome: Some(outcome) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let token = LeaseToken { epoch: 1, counter: 2 };
        let settle = Outcome::DeadLetter("é".repeat(200)).into_settle(token, 3, 4);
        let Some(wire::settle_one::Outcome::DeadLetter(dead)) = settle.outcome else { panic!("{settle:?}") };
        assert_eq!(dead.reason, "é".repeat(128));
    }

    #[test]
    fn the_shortest_suspension_is_one_millisecond() {
        let token = LeaseToken { epoch: 1, counter: 2 };
        let settle = Outcome::Suspend(Duration::from_micros(3)).into_settle(token, 3, 4);
        assert_eq!(settle.outcome, Some(wire::settle_one::Outcome::Suspend(wire::Suspend { duration_ms: 1 })));
    }
}
