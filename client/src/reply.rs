//! A worker's side of request and reply: whatever runs twice, a request has one reply.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sluicegate_protocol::{
    ErrorCode, GroupName, LiteName, REPLY_ERROR_PROPERTY, REPLY_LITE_PROPERTY, REPLY_PREFIX, REPLY_TOPIC_PROPERTY,
    REQUEST_ID_PROPERTY, RequestId, TopicName,
};
use tokio::sync::Mutex;

use crate::client::Client;
use crate::connection::ConnectError;
use crate::delivery::Delivery;
use crate::message::Message;
use crate::producer::{Pending, Producer, ProducerBuilder, PublishError, Receipt};
use crate::refusal::Refusal;

/// Parts of a reply that may be under way; a further one waits for the first of them.
const PARTS_UNDER_WAY_MAX: usize = 256;

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    /// The message is no request: nobody waits for a reply to it.
    #[error("the message asks for no reply: it replies to nobody")]
    Nobody,
    /// The request's address is none that a reply may go to. Nothing was published.
    #[error("the request's reply address is wrong: {0}")]
    Address(String),
    /// An earlier run of the same request sent something else as this part of its reply. What was sent stays: make the reply
    /// the same whenever it runs, or end it by [`ReplyStream::fail`].
    #[error("part {part} of the reply was sent by an earlier run, and differs")]
    Differs {
        /// Counted from 0.
        part: u64,
    },
    /// There is no stream to the broker, or the token lacks the right to consume.
    #[error("{0}")]
    Connect(ConnectError),
    /// It was not published.
    #[error("{0}")]
    Publish(PublishError),
}

/// What became of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replied {
    /// It is the one that the requester gets.
    Now,
    /// The request had its reply, from an earlier run; this one went nowhere.
    Before,
}

/// A reply in parts, which the requester reads as they come. Dropped without [`end`](Self::end) it has no end: the requester waits
/// on, for the next run of the request to go on with the same parts.
///
/// ```no_run
/// use sluicegate_client::Delivery;
///
/// async fn answer(delivery: Delivery) -> anyhow::Result<()> {
///     let mut reply = delivery.reply_stream()?;
///     for tokens in ["Once", " upon", " a time"] {
///         reply.send(tokens).await?;     // does not wait for the disk
///     }
///     reply.end().await?;
///     Ok(delivery.ack().await?)
/// }
/// ```
#[derive(Debug)]
pub struct ReplyStream {
    replies: Replies,
    address: Address,
    producer: Option<Producer>,
    next: u64,
    under_way: VecDeque<(u64, Pending)>,
}

/// Publishes the replies of a consumer, by one producer that is made when it is first needed.
#[derive(Debug, Clone)]
pub(crate) struct Replies {
    client: Client,
    group: GroupName,
    producer: Arc<Mutex<Option<Producer>>>,
}

/// Where the reply to one request goes.
#[derive(Debug, Clone)]
struct Address {
    topic: TopicName,
    lite: LiteName,
    request: RequestId,
}

impl Replies {
    pub(crate) fn new(client: Client, group: GroupName) -> Self {
        Self { client, group, producer: Arc::default() }
    }

    /// The producer, if replies go to the topic that the address names.
    async fn producer(&self, address: &Address) -> Result<Producer, ReplyError> {
        let mut kept = self.producer.lock().await;
        let producer = match &*kept {
            Some(producer) if !producer.is_ended() => producer.clone(),
            // One that the broker ended may be made anew: its topic was, say.
            _ => {
                let made = ProducerBuilder::of_replies(self.client.clone(), self.group.clone()).connect().await?;
                kept.insert(made).clone()
            }
        };
        drop(kept);
        match producer.replies() {
            Some(topic) if *topic == address.topic => Ok(producer),
            Some(topic) => {
                let problem = format!("it names topic `{}`, replies go to `{topic}` only", address.topic);
                Err(ReplyError::Address(problem))
            }
            None => Err(ReplyError::Address("the broker names no topic that replies go to".into())),
        }
    }
}

impl Address {
    /// What a request says, which may be anything.
    fn of(delivery: &Delivery) -> Result<Self, ReplyError> {
        let (topic, lite) = (delivery.property(REPLY_TOPIC_PROPERTY), delivery.property(REPLY_LITE_PROPERTY));
        let (topic, lite, request) = match (topic, lite, delivery.property(REQUEST_ID_PROPERTY)) {
            (None, None, None) => return Err(ReplyError::Nobody),
            (Some(topic), Some(lite), Some(request)) => (topic, lite, request),
            _ => {
                let all = [REPLY_TOPIC_PROPERTY, REPLY_LITE_PROPERTY, REQUEST_ID_PROPERTY];
                return Err(ReplyError::Address(format!("it needs all of the properties `{}`", all.join("`, `"))));
            }
        };
        let wrong = |error: sluicegate_protocol::InvalidName| ReplyError::Address(error.to_string());
        if !lite.starts_with(REPLY_PREFIX) {
            return Err(ReplyError::Address(format!("lite topic `{lite}` does not begin with `{REPLY_PREFIX}`")));
        }
        Ok(Self {
            topic: TopicName::parse(topic).map_err(wrong)?,
            lite: LiteName::parse(lite).map_err(wrong)?,
            request: RequestId::parse(request).map_err(wrong)?,
        })
    }

    fn part(&self, number: u64, body: Bytes) -> Message {
        Message::to_lite(&self.lite).body(body).idempotency_key(format!("{}#{number}", self.request))
    }

    /// A reply has one end, whoever brings it: its key is the request's id.
    fn end(&self, body: Bytes) -> Message {
        let request = self.request.as_str();
        Message::to_lite(&self.lite).body(body).idempotency_key(request).property(REQUEST_ID_PROPERTY, request).end()
    }
}

impl Delivery {
    /// Whether somebody waits for a reply to the message.
    pub fn is_request(&self) -> bool {
        !matches!(Address::of(self), Err(ReplyError::Nobody))
    }

    /// Replies to a request, as durably as the topic of replies asks; settle the message after that. Whatever runs twice, within the
    /// topic's idempotency window (10 minutes unless it says otherwise) the first reply is the only one.
    ///
    /// # Errors
    /// [`ReplyError`]: the message is no request, or its address is none that replies go to, or there is no broker.
    pub async fn reply(&self, body: impl Into<Bytes>) -> Result<Replied, ReplyError> {
        let address = Address::of(self)?;
        let producer = self.replies().producer(&address).await?;
        ended(producer.send(address.end(body.into())).await)
    }

    /// Replies that the request failed for good, for this reason; settle the message after that.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub async fn reply_error(&self, reason: &str) -> Result<Replied, ReplyError> {
        self.reply_stream()?.fail(reason).await
    }

    /// Replies in parts, which the requester reads as they come. A later run of the same request sends the same parts again, which
    /// the broker has already, and goes on behind them.
    ///
    /// # Errors
    /// [`ReplyError`]: the message is no request, or its address is no address.
    pub fn reply_stream(&self) -> Result<ReplyStream, ReplyError> {
        let (replies, address) = (self.replies().clone(), Address::of(self)?);
        Ok(ReplyStream { replies, address, producer: None, next: 0, under_way: VecDeque::new() })
    }
}

impl ReplyStream {
    /// Sends the next part. It returns when the part is on its way; that it was not published is said by a later call.
    ///
    /// # Errors
    /// [`ReplyError`] of this part or of one before.
    pub async fn send(&mut self, body: impl Into<Bytes>) -> Result<(), ReplyError> {
        if self.under_way.len() >= PARTS_UNDER_WAY_MAX {
            self.first_arrived().await?;
        }
        let message = self.address.part(self.next, body.into());
        let pending = self.producer().await?.enqueue(message).await?;
        self.under_way.push_back((self.next, pending));
        self.next += 1;
        Ok(())
    }

    /// Ends the reply when all of its parts are there.
    ///
    /// # Errors
    /// [`ReplyError`] of a part or of the end.
    pub async fn end(mut self) -> Result<Replied, ReplyError> {
        while !self.under_way.is_empty() {
            self.first_arrived().await?;
        }
        let message = self.address.end(Bytes::new());
        ended(self.producer().await?.send(message).await)
    }

    /// Ends the reply for a reason, whatever became of its parts: the requester gets an error.
    ///
    /// # Errors
    /// [`ReplyError`] of the end.
    pub async fn fail(mut self, reason: &str) -> Result<Replied, ReplyError> {
        let message = self.address.end(Bytes::new()).property(REPLY_ERROR_PROPERTY, reason);
        ended(self.producer().await?.send(message).await)
    }

    async fn producer(&mut self) -> Result<Producer, ReplyError> {
        if self.producer.is_none() {
            self.producer = Some(self.replies.producer(&self.address).await?);
        }
        Ok(self.producer.clone().expect("it was just made"))
    }

    async fn first_arrived(&mut self) -> Result<(), ReplyError> {
        let Some((part, pending)) = self.under_way.front_mut() else { return Ok(()) };
        let (part, arrived) = (*part, pending.await);
        self.under_way.pop_front();
        match arrived {
            Ok(_) => Ok(()),
            Err(PublishError::Refused(refusal)) if was_sent_before(&refusal) => Err(ReplyError::Differs { part }),
            Err(error) => Err(error.into()),
        }
    }
}

fn ended(sent: Result<Receipt, PublishError>) -> Result<Replied, ReplyError> {
    match sent {
        Ok(receipt) if receipt.duplicate => Ok(Replied::Before),
        Ok(_) => Ok(Replied::Now),
        Err(PublishError::Refused(refusal)) if was_sent_before(&refusal) => Ok(Replied::Before),
        Err(error) => Err(error.into()),
    }
}

/// The key was used for another body; `detail` says where that is.
pub(crate) fn was_sent_before(refusal: &Refusal) -> bool {
    refusal.code == ErrorCode::IdempotencyConflict && refusal.detail.contains_key("offset")
}

impl From<ConnectError> for ReplyError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<PublishError> for ReplyError {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}
