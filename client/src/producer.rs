//! Publishing: numbered, pipelined, resent after a loss, never doubled.

mod task;
mod unacknowledged;

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use sluicegate_protocol::limits::UNACKNOWLEDGED_PUBLISHES_MAX;
use sluicegate_protocol::{LiteId, Offset, ProducerId, TopicName, wire};
use tokio::sync::{Semaphore, TryAcquireError, mpsc, oneshot};

use crate::client::Client;
use crate::connection::ConnectError;
use crate::message::Message;
use crate::refusal::Refusal;
use task::{Command, ProducerTask, Publish};

const UNACKNOWLEDGED_DEFAULT: usize = 4_096;
const UNACKNOWLEDGED_BYTES_MAX: usize = 32 << 20;

/// Publishes messages to one topic over one stream. Clones share that stream.
///
/// Messages are numbered in the order of the calls and pipelined; at most 4,096 of them, or 32 MiB, are without a
/// receipt, and a further one waits for room. When the connection is lost, the producer connects again and resends,
/// with the same numbers, what has no receipt; the broker recognises what it had already.
///
/// A dropped producer still delivers what it was given as long as the runtime lives; [`Producer::close`] waits for it.
///
/// ```no_run
/// use sluicegate_client::{Client, Message, TopicName};
///
/// # async fn example(client: Client) -> anyhow::Result<()> {
/// let producer = client.producer(TopicName::parse("chat.requests")?).connect().await?;
/// let mut receipts = Vec::new();
/// for number in 0..1_000 {
///     // Waits only while there is no room; the receipts come later.
///     receipts.push(producer.enqueue(Message::to("user-42")?.body(format!("message {number}"))).await?);
/// }
/// for receipt in receipts {
///     println!("offset {}", receipt.await?.offset);
/// }
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Producer {
    id: ProducerId,
    /// Not bounded itself: a publish enters only with permits of `room`.
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
    room_bytes: usize,
    share_bytes: usize,
    ended: Arc<OnceLock<Refusal>>,
}

/// Where a message is, as durable as its topic asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The number that the producer gave the message, from 1.
    pub sequence: u64,
    /// The lite topic's present life.
    pub lite_id: LiteId,
    /// Position in the lite topic.
    pub offset: Offset,
    /// The message made its lite topic.
    pub created: bool,
    /// The message was there already: this was a resend, or its idempotency key was used before.
    pub duplicate: bool,
}

/// Why a message has no receipt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// This message was refused and left nothing behind; the producer goes on.
    #[error("publish refused: {0}")]
    Refused(Refusal),
    /// The broker ended the producer for good, for example because its token lacks the right. Whether a message that
    /// was sent before is in the topic is unknown.
    #[error("producer ended by the broker: {0}")]
    Ended(Refusal),
    /// The producer was closed before, or its runtime stopped.
    #[error("producer is closed")]
    Closed,
}

/// A message on its way, numbered; resolves to its receipt. Dropping it does not take the message back.
#[derive(Debug)]
#[must_use = "whether the message arrived is known only when this resolves"]
pub struct Pending {
    reply: oneshot::Receiver<Result<Receipt, PublishError>>,
}

/// Settings of a [`Producer`]. Await it, or its [`connect`](Self::connect), to have the producer.
#[derive(Debug, Clone)]
#[must_use]
pub struct ProducerBuilder {
    client: Client,
    topic: TopicName,
    id: ProducerId,
    first_sequence: u64,
    unacknowledged_max: usize,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: TopicName) -> Self {
        let id = ProducerId(rand::random());
        Self { client, topic, id, first_sequence: 1, unacknowledged_max: UNACKNOWLEDGED_DEFAULT }
    }

    /// The producer's identity, kept by a program that wants to resume after a restart; default a random one.
    pub fn id(mut self, id: ProducerId) -> Self {
        self.id = id;
        self
    }

    /// Number of the first message; default 1. A program that resumes gives its unacknowledged messages the numbers
    /// that they had before, so that the broker recognises them.
    pub fn first_sequence(mut self, sequence: u64) -> Self {
        self.first_sequence = sequence.max(1);
        self
    }

    /// Messages that may be without a receipt at once, from 1 to 8,192; default 4,096.
    pub fn unacknowledged_max(mut self, messages: usize) -> Self {
        self.unacknowledged_max = messages.clamp(1, UNACKNOWLEDGED_PUBLISHES_MAX);
        self
    }

    /// Connects the producer.
    ///
    /// # Errors
    /// [`ConnectError`] when the broker does not answer within the client's connect timeout, or refuses.
    pub async fn connect(self) -> Result<Producer, ConnectError> {
        let role = wire::hello::Role::Producer(wire::ProducerRole {
            topic: self.topic.as_str().into(),
            producer_id: self.id.to_bytes().to_vec(),
        });
        let opened = self.client.open_first(role.clone()).await?;
        let (sender, commands) = command_channel();
        let share_bytes = UNACKNOWLEDGED_BYTES_MAX / self.unacknowledged_max;
        let room_bytes = share_bytes * self.unacknowledged_max;
        let producer = Producer {
            id: self.id,
            commands: sender,
            room: Arc::new(Semaphore::new(room_bytes)),
            room_bytes,
            share_bytes,
            ended: Arc::default(),
        };
        let (room, ended) = (Arc::clone(&producer.room), Arc::clone(&producer.ended));
        let task = ProducerTask::new(self.client, role, commands, room, ended, self.first_sequence);
        tokio::spawn(task.run(opened));
        Ok(producer)
    }
}

#[expect(clippy::disallowed_methods, reason = "a publish enters only with permits of `room`, which bound the queue")]
fn command_channel() -> (mpsc::UnboundedSender<Command>, mpsc::UnboundedReceiver<Command>) {
    mpsc::unbounded_channel()
}

impl IntoFuture for ProducerBuilder {
    type Output = Result<Producer, ConnectError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.connect())
    }
}

impl Producer {
    /// The producer's identity.
    pub fn id(&self) -> ProducerId {
        self.id
    }

    /// Sends a message; the future resolves to its receipt.
    ///
    /// While there is room the message is on its way when this returns, whether or not the future is polled, and the
    /// order of the calls is the order of the messages. Without room it waits its turn from the first poll on; a loop
    /// that must keep its order then too uses [`enqueue`](Self::enqueue).
    ///
    /// # Errors
    /// [`PublishError`] says whether this message alone or the producer failed.
    pub fn send(&self, message: Message) -> impl Future<Output = Result<Receipt, PublishError>> + Send + use<> {
        let entered = match self.room.try_acquire_many(self.charge(&message)) {
            Ok(permit) => {
                permit.forget();
                Ok(self.place(message))
            }
            Err(TryAcquireError::NoPermits) => Err((self.clone(), message)),
            Err(TryAcquireError::Closed) => Ok(Err(self.end())),
        };
        async move {
            match entered {
                Ok(placed) => placed?.await,
                Err((producer, message)) => producer.enqueue(message).await?.await,
            }
        }
    }

    /// Waits for room and hands the message over; what it returns resolves to the receipt.
    ///
    /// # Errors
    /// [`PublishError`] when the message breaks a limit or the producer has ended.
    pub async fn enqueue(&self, message: Message) -> Result<Pending, PublishError> {
        let permit = self.room.acquire_many(self.charge(&message)).await.map_err(|_| self.end())?;
        permit.forget();
        self.place(message)
    }

    /// Waits until every message has its receipt, then ends the stream in an orderly way. Clones are closed with it.
    ///
    /// It waits for as long as the broker is away; put a timeout around it where that matters.
    pub async fn close(self) {
        let (done, is_done) = oneshot::channel();
        if self.commands.send(Command::Close(done)).is_ok() {
            // The task drops the sender only with itself, which is closed enough.
            let _ = is_done.await;
        }
    }

    /// A message's part of the room: its bytes, or an equal share if that is more, so that one number bounds both the
    /// bytes and the count.
    fn charge(&self, message: &Message) -> u32 {
        let charge = message.size_bytes().max(self.share_bytes).min(self.room_bytes);
        u32::try_from(charge).expect("32 MiB fit into 32 bits")
    }

    fn place(&self, message: Message) -> Result<Pending, PublishError> {
        let charge = self.charge(&message);
        if let Err(refusal) = message.check() {
            self.room.add_permits(charge as usize);
            return Err(PublishError::Refused(refusal));
        }
        let (reply, receiver) = oneshot::channel();
        let publish = Publish { message, charge, reply };
        self.commands.send(Command::Publish(publish)).map_err(|_| self.end())?;
        Ok(Pending { reply: receiver })
    }

    fn end(&self) -> PublishError {
        self.ended.get().map_or(PublishError::Closed, |refusal| PublishError::Ended(refusal.clone()))
    }
}

impl Future for Pending {
    type Output = Result<Receipt, PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = Pin::new(&mut self.reply).poll(context);
        // Without a reply the task is gone, and it goes silently only with its runtime.
        reply.map(|reply| reply.unwrap_or(Err(PublishError::Closed)))
    }
}
