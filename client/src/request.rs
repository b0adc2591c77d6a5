//! A requester's side of request and reply: asks, waits as long as it likes, and picks the reply up later if it must.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluicegate_protocol::limits::BODY_BYTES_DEFAULT;
use sluicegate_protocol::{
    ErrorCode, InvalidName, LiteName, MessageId, REPLY_CANCELLED, REPLY_ERROR_PROPERTY, REPLY_LITE_PROPERTY,
    REPLY_TOPIC_PROPERTY, REQUEST_ID_PROPERTY, RequestId, RequesterId, TopicName, wire,
};
use tokio::time::timeout;

use crate::client::Client;
use crate::connection::ConnectError;
use crate::message::Message;
use crate::producer::{Producer, PublishError};
use crate::reader::{ReadError, Reader};
use crate::refusal::Refusal;
use crate::reply::was_sent_before;

/// Asks the workers of one topic, and reads what they reply. Clones share its streams.
///
/// The reply to a request goes to the lite topic `reply/{requester}/{request}` of the topic that the request's topic names in its
/// setting `replies`. It waits there for whoever asked, who may be away when it comes, and is reclaimed as that topic says.
///
/// ```no_run
/// use std::time::Duration;
/// use sluicegate_client::{Client, Message, RequestError, RequesterId, TopicName};
///
/// # async fn example(client: Client) -> anyhow::Result<()> {
/// let agents = client.requester(TopicName::parse("agents")?, RequesterId::parse("planner")?).await?;
/// let message = Message::to("summarize/42")?.body("a long text");
/// match agents.request(message, Duration::from_secs(30)).await {
///     Ok(reply) => println!("{:?}", reply.body),
///     // It is still being worked on: a later `agents.resume(request)` has the reply, after a restart too.
///     Err(RequestError::TimedOut { request }) => println!("later: {request}"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Requester {
    client: Client,
    id: RequesterId,
    topic: TopicName,
    replies: TopicName,
    producer: Producer,
}

/// A request that was made, now or before a restart.
#[derive(Debug, Clone)]
pub struct Request {
    client: Client,
    id: RequestId,
    replies: TopicName,
    lite: LiteName,
    /// Where it is, if that is known.
    place: Option<Place>,
}

/// Where a request is.
#[derive(Debug, Clone)]
struct Place {
    topic: TopicName,
    lite: LiteName,
    message: MessageId,
}

/// What became of a request that was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It waited, and nobody gets it.
    Dropped,
    /// Somebody has it in work, and is told if connected: it may be done in part, or in full.
    Running,
    /// Nothing was left of it: it was done, dead-lettered, or cancelled before.
    Over,
}

/// What a worker replied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The request.
    pub request: RequestId,
    /// The bodies of all its parts, one after the other.
    pub body: Bytes,
    /// Messages that it came in.
    pub parts: u64,
}

/// Why there is no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The topic names none that replies go to: make one with the setting `replies`.
    #[error("topic `{topic}` names no topic that replies go to (setting `replies`)")]
    NoReplies {
        /// The request's topic.
        topic: TopicName,
    },
    /// There is no stream to the broker. Nothing was asked.
    #[error("{0}")]
    Connect(ConnectError),
    /// The request was not published.
    #[error("{0}")]
    Publish(PublishError),
    /// No reply came in time. The request goes on: [resume](Requester::resume) it.
    #[error("no reply to request {request} in time; it goes on, and can be resumed")]
    TimedOut {
        /// Which.
        request: RequestId,
    },
    /// The worker says that it failed for good.
    #[error("request {request} failed: {reason}")]
    Failed {
        /// Which.
        request: RequestId,
        /// What the worker says.
        reason: String,
    },
    /// Where the request is, is not known: say it by [`Request::at`]. Nothing was cancelled.
    #[error("request {request} was made by another run of the program, which knows where it is")]
    Nowhere {
        /// Which.
        request: RequestId,
    },
    /// The reply cannot be read.
    #[error("the reply to request {request} cannot be read: {error}")]
    Read {
        /// Which.
        request: RequestId,
        /// Why.
        error: ReadError,
    },
    /// The reply's parts are more than 64 MiB together; read them one by one, by [`Request::stream`].
    #[error("the reply to request {request} has more than {max} bytes")]
    TooLarge {
        /// Which.
        request: RequestId,
        /// Bytes that are taken.
        max: u64,
    },
}

impl Client {
    /// A requester that calls itself `id`: a name that the program has across restarts, and nobody else.
    ///
    /// Its token needs the rights `publish` and `read`.
    ///
    /// # Errors
    /// [`RequestError`] when the broker does not answer within the client's connect timeout, or refuses, or the topic names none that
    /// replies go to.
    pub async fn requester(&self, topic: TopicName, id: RequesterId) -> Result<Requester, RequestError> {
        let producer = self.producer(topic.clone()).connect().await?;
        match producer.replies().cloned() {
            Some(replies) => Ok(Requester { client: self.clone(), id, topic, replies, producer }),
            None => Err(RequestError::NoReplies { topic }),
        }
    }
}

impl Requester {
    /// What it calls itself.
    pub fn id(&self) -> &RequesterId {
        &self.id
    }

    /// The topic that it asks.
    pub fn topic(&self) -> &TopicName {
        &self.topic
    }

    /// Asks, and waits for the reply for so long.
    ///
    /// # Errors
    /// [`RequestError`]; [`TimedOut`](RequestError::TimedOut) leaves the request as it is.
    pub async fn request(&self, message: Message, wait: Duration) -> Result<Reply, RequestError> {
        self.start(message).await?.reply(wait).await
    }

    /// Asks, and reads the reply as its parts come, up to the message that [ends](crate::ReadMessage::is_end) it.
    ///
    /// # Errors
    /// [`RequestError`] when the request was not published or the reader cannot connect.
    pub async fn request_stream(&self, message: Message) -> Result<Reader, RequestError> {
        self.start(message).await?.stream().await
    }

    /// Asks, under an id that is drawn at random. The request is on disk when this returns.
    ///
    /// # Errors
    /// [`RequestError`] when it was not published.
    pub async fn start(&self, message: Message) -> Result<Request, RequestError> {
        let id = drawn();
        self.start_as(id, message).await
    }

    /// Asks, under an id that the program chose and wrote down before. Asked again within the topic's idempotency window with the
    /// same id, lite topic and body it is the same request; with another body it is refused. The id is the message's idempotency key.
    ///
    /// # Errors
    /// [`RequestError`] when it was not published.
    pub async fn start_as(&self, id: RequestId, message: Message) -> Result<Request, RequestError> {
        let (request, lite) = (self.resume(id), message.lite().map_err(|error| refused(&error))?);
        let message = message
            .property(REQUEST_ID_PROPERTY, request.id.as_str())
            .property(REPLY_TOPIC_PROPERTY, request.replies.as_str())
            .property(REPLY_LITE_PROPERTY, request.lite.as_str())
            .idempotency_key(request.id.as_str());
        let receipt = self.producer.send(message).await?;
        Ok(request.at(self.topic.clone(), lite, receipt.message()))
    }

    /// A request that was made before, by this program under this name. Nothing is sent.
    pub fn resume(&self, id: RequestId) -> Request {
        let lite = LiteName::reply(&self.id, &id);
        Request { client: self.client.clone(), id, replies: self.replies.clone(), lite, place: None }
    }
}

impl Request {
    /// Its id, by which it can be [resumed](Requester::resume).
    pub fn id(&self) -> &RequestId {
        &self.id
    }

    /// Which message the request is, if it was made by this run of the program, or [said](Self::at).
    pub fn message(&self) -> Option<MessageId> {
        self.place.as_ref().map(|place| place.message)
    }

    /// Says where a request is that was resumed, so that it can be cancelled.
    #[must_use]
    pub fn at(self, topic: TopicName, lite: LiteName, message: MessageId) -> Self {
        Self { place: Some(Place { topic, lite, message }), ..self }
    }

    /// Takes the request back, as far as that is possible. Its reply is the error `cancelled` from now on, unless it had one. Cancelled
    /// again, it is the same.
    ///
    /// # Errors
    /// [`RequestError::Nowhere`]; or there is no broker, or it refuses.
    pub async fn cancel(&self) -> Result<Cancelled, RequestError> {
        let nowhere = || RequestError::Nowhere { request: self.id.clone() };
        let Place { topic, lite, message } = self.place.as_ref().ok_or_else(nowhere)?;
        let role = wire::CancelRole {
            topic: topic.as_str().into(),
            lite: lite.as_str().into(),
            lite_id: message.lite_id.0,
            offset: message.offset.0,
            request: self.id.as_str().into(),
        };
        let opened = self.client.open_first(wire::hello::Role::Cancel(role)).await?;
        self.end_as_cancelled().await?;
        let wire::Cancelled { dropped, running } = opened.welcome.cancelled.unwrap_or_default();
        Ok(match (dropped, running) {
            (_, 1..) => Cancelled::Running,
            (1.., 0) => Cancelled::Dropped,
            (0, 0) => Cancelled::Over,
        })
    }

    /// Nobody waits for the reply of who does not have the request any more.
    async fn end_as_cancelled(&self) -> Result<(), RequestError> {
        let producer = self.client.producer(self.replies.clone()).connect().await?;
        let message = Message::to_lite(&self.lite).idempotency_key(self.id.as_str());
        let message =
            message.property(REQUEST_ID_PROPERTY, self.id.as_str()).property(REPLY_ERROR_PROPERTY, REPLY_CANCELLED);
        let sent = producer.send(message.end()).await;
        producer.close().await;
        match sent {
            // It had its reply.
            Err(PublishError::Refused(refusal)) if was_sent_before(&refusal) => Ok(()),
            sent => Ok(sent.map(drop)?),
        }
    }

    /// The lite topic that the reply goes to.
    pub fn reply_lite(&self) -> &LiteName {
        &self.lite
    }

    /// Waits for the whole reply for so long. It can be asked for again.
    ///
    /// # Errors
    /// [`RequestError`]; [`TimedOut`](RequestError::TimedOut) leaves the request as it is.
    pub async fn reply(&self, wait: Duration) -> Result<Reply, RequestError> {
        let timed_out = |_| RequestError::TimedOut { request: self.id.clone() };
        timeout(wait, self.read()).await.map_err(timed_out)?
    }

    /// Reads the reply as its parts come, from the first, up to the message that [ends](crate::ReadMessage::is_end) it. If that has
    /// the property [`REPLY_ERROR_PROPERTY`](crate::REPLY_ERROR_PROPERTY), the request failed.
    ///
    /// # Errors
    /// [`RequestError::Read`] when the reader cannot connect.
    pub async fn stream(&self) -> Result<Reader, RequestError> {
        let reader = self.client.reader(self.replies.clone(), self.lite.clone()).follow(true);
        reader.connect().await.map_err(|error| self.unreadable(error))
    }

    async fn read(&self) -> Result<Reply, RequestError> {
        let mut reader = self.stream().await?;
        let (mut body, mut parts) = (BytesMut::new(), 0);
        while let Some(message) = reader.next().await {
            let message = message.map_err(|error| self.unreadable(error))?;
            if let Some(reason) = message.property(REPLY_ERROR_PROPERTY) {
                return Err(RequestError::Failed { request: self.id.clone(), reason: reason.to_owned() });
            }
            let max = BODY_BYTES_DEFAULT;
            if body.len() as u64 + message.body_bytes() > max {
                return Err(RequestError::TooLarge { request: self.id.clone(), max });
            }
            body.extend_from_slice(message.body());
            parts += 1;
        }
        Ok(Reply { request: self.id.clone(), body: body.freeze(), parts })
    }

    fn unreadable(&self, error: ReadError) -> RequestError {
        RequestError::Read { request: self.id.clone(), error }
    }
}

fn refused(error: &InvalidName) -> PublishError {
    PublishError::Refused(Refusal::new(ErrorCode::InvalidArgument, error.to_string()))
}

fn drawn() -> RequestId {
    RequestId::parse(&format!("{:032x}", rand::random::<u128>())).expect("hexadecimal digits are allowed")
}

impl From<ConnectError> for RequestError {
    fn from(error: ConnectError) -> Self {
        Self::Connect(error)
    }
}

impl From<PublishError> for RequestError {
    fn from(error: PublishError) -> Self {
        Self::Publish(error)
    }
}
