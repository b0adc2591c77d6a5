//! Publishing: numbered, pipelined, resent after a loss, never doubled.

mod task;
mod unacknowledged;
mod upload;

use std::future::IntoFuture;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use sluicegate_protocol::limits::{UNACKNOWLEDGED_PUBLISHES_MAX, UPLOADS_PER_CONNECTION_MAX};
use sluicegate_protocol::{GroupName, LiteId, MessageId, Offset, ProducerId, TopicName, wire};
use tokio::io::AsyncRead;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot};

use crate::client::Client;
use crate::connection::ConnectError;
use crate::message::Message;
use crate::refusal::Refusal;
use task::{Command, Content, ProducerTask, Publish, Source};

const UNACKNOWLEDGED_DEFAULT: usize = 4_096;
const UNACKNOWLEDGED_BYTES_MAX: usize = 32 << 20;

/// Publishes messages to one topic over one stream. Clones share that stream.
///
/// Messages are numbered in the order of the calls and pipelined; at most 4,096 of them, or 32 MiB, are without a
/// receipt, and a further one waits for room. When the connection is lost, the producer connects again and resends,
/// with the same numbers, what has no receipt; the broker recognises what it had already.
///
/// A body above 256 KiB is uploaded on a stream of its own, from memory or, by [`Producer::upload`], from a stream. The
/// messages of a lite topic keep the order of the calls: an upload starts when those before it have their receipts, and those
/// after it wait for its own. Messages of other lite topics pass, up to 4,096 of them. Four uploads are under way at once; a
/// further one waits for room.
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
    replies: Option<TopicName>,
    /// Not bounded itself: a publish enters only with permits of `room`.
    commands: mpsc::UnboundedSender<Command>,
    room: Arc<Semaphore>,
    upload_room: Arc<Semaphore>,
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

impl Receipt {
    /// Names the message for good.
    pub fn message(&self) -> MessageId {
        MessageId { lite_id: self.lite_id, offset: self.offset }
    }
}

impl From<wire::PublishReceipt> for Receipt {
    fn from(receipt: wire::PublishReceipt) -> Self {
        Self {
            sequence: receipt.sequence,
            lite_id: LiteId(receipt.lite_id),
            offset: Offset(receipt.offset),
            created: receipt.created,
            duplicate: receipt.duplicate,
        }
    }
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
    /// The body's source failed, or the connection was lost and the source cannot be read again. Nothing was published.
    #[error("upload interrupted: {0}")]
    Interrupted(String),
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
    to: To,
    id: ProducerId,
    first_sequence: u64,
    unacknowledged_max: usize,
}

/// What a producer publishes to.
#[derive(Debug, Clone)]
enum To {
    Topic(TopicName),
    /// The topic that replies to what this group has in work go to.
    RepliesOf(GroupName),
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: TopicName) -> Self {
        Self::to(client, To::Topic(topic))
    }

    /// Of replies to what this group has in work.
    pub(crate) fn of_replies(client: Client, group: GroupName) -> Self {
        Self::to(client, To::RepliesOf(group))
    }

    fn to(client: Client, to: To) -> Self {
        let id = ProducerId(rand::random());
        Self { client, to, id, first_sequence: 1, unacknowledged_max: UNACKNOWLEDGED_DEFAULT }
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
        let (topic, replies_of) = match &self.to {
            To::Topic(topic) => (topic.as_str().into(), String::new()),
            To::RepliesOf(group) => (String::new(), group.as_str().into()),
        };
        let role = wire::ProducerRole { topic, producer_id: self.id.to_bytes().to_vec(), replies_of };
        let opened = self.client.open_first(wire::hello::Role::Producer(role.clone())).await?;
        let (sender, commands) = command_channel();
        let share_bytes = UNACKNOWLEDGED_BYTES_MAX / self.unacknowledged_max;
        let room_bytes = share_bytes * self.unacknowledged_max;
        let producer = Producer {
            id: self.id,
            replies: TopicName::parse(&opened.welcome.replies).ok(),
            commands: sender,
            room: Arc::new(Semaphore::new(room_bytes)),
            upload_room: Arc::new(Semaphore::new(UPLOADS_PER_CONNECTION_MAX as usize)),
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

    /// The topic that replies to this topic's requests go to, as the broker said when the producer connected; none when the topic
    /// names none.
    pub fn replies(&self) -> Option<&TopicName> {
        self.replies.as_ref()
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
        let entered = match self.try_enter(&message) {
            Ok(room) => Ok(self.place(message, room)),
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
        let room = match message.is_large() {
            true => Some(self.enter_upload().await?),
            false => None,
        };
        self.enter(self.charge(&message)).await?;
        self.place(message, room)
    }

    /// Publishes a message whose body has `body_bytes` and is read from `source` while it is sent; what the message says of
    /// its body itself does not count. The future resolves to the receipt.
    ///
    /// # Errors
    /// [`PublishError::Interrupted`] when the source fails or is too short, or the connection was lost: nothing is published
    /// then, and it cannot be tried again without a new source. Otherwise as [`Producer::send`].
    pub async fn upload(
        &self,
        message: Message,
        body_bytes: u64,
        source: impl AsyncRead + Send + 'static,
    ) -> Result<Receipt, PublishError> {
        message.check(body_bytes).map_err(PublishError::Refused)?;
        let room = self.enter_upload().await?;
        let charge = self.charge(&Message { header: message.header.clone(), body: bytes::Bytes::new() });
        self.enter(charge).await?;
        let content = Content::Streamed(Source::Stream(body_bytes, Box::pin(source)));
        self.hand_over(message.header, content, charge, Some(room))?.await
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
    /// bytes and the count. The number of large bodies is bounded by itself.
    fn charge(&self, message: &Message) -> u32 {
        let bytes = if message.is_large() { 0 } else { message.size_bytes() };
        let charge = bytes.max(self.share_bytes).min(self.room_bytes);
        u32::try_from(charge).expect("32 MiB fit into 32 bits")
    }

    fn try_enter(&self, message: &Message) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
        let room = match message.is_large() {
            true => Some(Arc::clone(&self.upload_room).try_acquire_owned()?),
            false => None,
        };
        self.room.try_acquire_many(self.charge(message))?.forget();
        Ok(room)
    }

    async fn enter(&self, charge: u32) -> Result<(), PublishError> {
        self.room.acquire_many(charge).await.map_err(|_| self.end())?.forget();
        Ok(())
    }

    async fn enter_upload(&self) -> Result<OwnedSemaphorePermit, PublishError> {
        Arc::clone(&self.upload_room).acquire_owned().await.map_err(|_| self.end())
    }

    fn place(&self, message: Message, room: Option<OwnedSemaphorePermit>) -> Result<Pending, PublishError> {
        let charge = self.charge(&message);
        if let Err(refusal) = message.check(message.body.len() as u64) {
            self.room.add_permits(charge as usize);
            return Err(PublishError::Refused(refusal));
        }
        let content = match message.is_large() {
            true => Content::Streamed(Source::Whole(message.body)),
            false => Content::Framed(message.body),
        };
        self.hand_over(message.header, content, charge, room)
    }

    fn hand_over(
        &self,
        header: wire::Publish,
        content: Content,
        charge: u32,
        room: Option<OwnedSemaphorePermit>,
    ) -> Result<Pending, PublishError> {
        let (reply, receiver) = oneshot::channel();
        let publish = Publish { header, content, charge, room, reply };
        self.commands.send(Command::Publish(publish)).map_err(|_| self.end())?;
        Ok(Pending { reply: receiver })
    }

    /// Whether the broker ended it for good, or it was closed.
    pub(crate) fn is_ended(&self) -> bool {
        self.commands.is_closed()
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
