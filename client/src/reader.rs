//! Reading a lite topic: all its messages in order, settled or not, over any number of lost connections.

mod message;
mod stream;

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use sluicegate_protocol::limits::{BODY_BYTES_DEFAULT, READ_CREDIT_BYTES_MAX, READ_OVERHEAD_BYTES};
use sluicegate_protocol::{ErrorCode, LiteName, MessageId, Offset, Position, TopicName, read_credit};

use crate::body::{BodyError, BodyReader};
use crate::client::Client;
use crate::connection::ConnectError;
use crate::refusal::Refusal;
pub use message::ReadMessage;
use stream::{Heard, ReadStream, Start};

/// Bytes of messages that are under way to a reader or wait in it, unless it says otherwise. Ten thousand readers that nobody
/// polls leave room in their connection for all else.
const WINDOW_BYTES: u64 = 32 << 10;

/// Reads one lite topic: every message that is kept, in order, each once. It has no group, takes no lease, uses no quota.
///
/// When the connection is lost, or the broker restarts, it goes on behind the last message that came. A program that stops and
/// wants to go on later keeps the [`id`](ReadMessage::id) of the last message that it handled and begins
/// [`after`](ReaderBuilder::after) it. There may be 16,384 readers on one connection; each takes some hundred bytes here beside
/// the messages that wait.
///
/// It works while [`next`](Self::next) is awaited.
///
/// ```no_run
/// use sluicegate_client::{Client, LiteName, TopicName};
///
/// # async fn example(client: Client) -> anyhow::Result<()> {
/// let (topic, session) = (TopicName::parse("chat.replies")?, LiteName::parse("user-42/session-1")?);
/// let mut reader = client.reader(topic, session).follow(true).connect().await?;
/// while let Some(message) = reader.next().await {
///     let message = message?;
///     println!("{}: {:?}", message.id(), message.body());
/// }
/// // The message that was marked as the end has come.
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Reader {
    settings: ReaderBuilder,
    stream: ReadStream,
    ready: VecDeque<ReadMessage>,
    fetching: Option<Fetching>,
    last: Option<MessageId>,
    is_over: bool,
}

/// Why a reader ended, or did not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// There is no stream to the broker.
    #[error("{0}")]
    Connect(ConnectError),
    /// The next message is not kept any more. Begin at this offset, and know that there is a gap.
    #[error("the messages before offset {first} are not kept any more")]
    Trimmed {
        /// The first that is kept.
        first: Offset,
    },
    /// The life of the lite topic is over, by reclaim or by an operator. The next message to its name begins a new one.
    #[error("the life of the lite topic is over")]
    Reclaimed,
    /// There is no such offset yet.
    #[error("the position is beyond the end, the next message will have offset {end}")]
    BeyondEnd {
        /// Of the next message to come.
        end: Offset,
    },
    /// The next message has a body that is larger than the reader takes.
    #[error("message {id} has a body of {bytes} bytes, the reader takes {max}")]
    TooLarge {
        /// The message.
        id: MessageId,
        /// Bytes of its body.
        bytes: u64,
        /// What the reader takes.
        max: u64,
    },
    /// A large body is not to be had.
    #[error("{0}")]
    Body(BodyError),
    /// The broker ended the reader for good, for example because its token lacks the right.
    #[error("reader ended by the broker: {0}")]
    Ended(Refusal),
}

/// Settings of a [`Reader`]. Await it, or its [`connect`](Self::connect), to have the reader.
#[derive(Debug, Clone)]
#[must_use]
pub struct ReaderBuilder {
    client: Client,
    topic: TopicName,
    lite: LiteName,
    start: Start,
    follows: bool,
    past_end: bool,
    window_bytes: u64,
    body_bytes_max: u64,
    streamed_above: u64,
}

/// A large body that is brought here.
#[derive(Debug)]
struct Fetching {
    message: ReadMessage,
    body: BodyReader,
    here: BytesMut,
}

impl ReaderBuilder {
    pub(crate) fn new(client: Client, topic: TopicName, lite: LiteName) -> Self {
        Self {
            client,
            topic,
            lite,
            start: Start::Position(Position::Earliest),
            follows: false,
            past_end: false,
            window_bytes: WINDOW_BYTES,
            body_bytes_max: BODY_BYTES_DEFAULT,
            streamed_above: u64::MAX,
        }
    }

    /// Where it begins; default at the first message that is kept. In a lite topic that does not exist yet every position but a
    /// later offset is the beginning.
    pub fn from(mut self, position: Position) -> Self {
        self.start = Start::Position(position);
        self
    }

    /// Begins behind this message, the last that was handled. If its life is over, or the next message is not kept any more, the
    /// reader ends with an error: it never goes on with another conversation, or past a gap.
    pub fn after(mut self, id: MessageId) -> Self {
        self.start = Start::Next { lite_id: id.lite_id, offset: id.offset.next(), goes_on: false };
        self
    }

    /// Whether it waits for messages to come, and for a lite topic that does not exist yet; default no: it ends behind the last
    /// message that there was when it connected.
    pub fn follow(mut self, follows: bool) -> Self {
        self.follows = follows;
        self
    }

    /// Follows past messages that mark the [end](crate::Message::end) of a stream; without it a reader that follows stops there.
    pub fn past_end(mut self) -> Self {
        self.past_end = true;
        self
    }

    /// Bytes of messages that may be under way or wait here, from 1 KiB to 4 MiB; default 32 KiB. A larger message comes alone.
    pub fn window_bytes(mut self, bytes: u64) -> Self {
        self.window_bytes = bytes.clamp(16 * READ_OVERHEAD_BYTES, READ_CREDIT_BYTES_MAX);
        self
    }

    /// Bytes of the largest body that the reader takes; default 64 MiB, as a broker takes unless it is told otherwise. It ends with
    /// an error at a larger one.
    pub fn body_bytes_max(mut self, bytes: u64) -> Self {
        self.body_bytes_max = bytes;
        self
    }

    /// Hands out messages whose bodies are larger than this before the body is here, to be read by
    /// [`ReadMessage::body_reader`]; bodies up to 256 KiB are always here.
    pub fn stream_bodies_above(mut self, bytes: u64) -> Self {
        self.streamed_above = bytes;
        self
    }

    /// Connects the reader.
    ///
    /// # Errors
    /// [`ReadError`] when the broker does not answer within the client's connect timeout, refuses, or has no such position.
    pub async fn connect(self) -> Result<Reader, ReadError> {
        let stream = ReadStream::connect(&self).await?;
        Ok(Reader { settings: self, stream, ready: VecDeque::new(), fetching: None, last: None, is_over: false })
    }
}

impl IntoFuture for ReaderBuilder {
    type Output = Result<Reader, ReadError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.connect())
    }
}

impl Reader {
    /// The last message that was handed out.
    pub fn last(&self) -> Option<MessageId> {
        self.last
    }

    /// Waits for the next message; none behind the end. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError`], once: the reader has ended.
    pub async fn next(&mut self) -> Option<Result<ReadMessage, ReadError>> {
        let next = self.advance().await;
        if let Some(Ok(message)) = &next {
            self.last = Some(message.id());
        } else {
            // What came behind an error is not handed out: there would be a gap.
            self.end();
        }
        next
    }

    async fn advance(&mut self) -> Option<Result<ReadMessage, ReadError>> {
        loop {
            if let Some(fetching) = &mut self.fetching {
                let fetched = fetching.finish().await;
                let message = self.fetching.take().expect("it was just there").message;
                match fetched {
                    Ok(body) => return Some(Ok(self.hand_out(message.with_body(body)))),
                    // Others settled it, and it went; of a work queue that is no gap.
                    Err(error) if is_settled(&error) => {
                        self.stream.give_back(message.credit());
                        continue;
                    }
                    Err(error) => return Some(Err(body_error(error))),
                }
            }
            if let Some(message) = self.ready.pop_front() {
                match self.begin_fetch(message) {
                    Some(done) => return Some(done),
                    None => continue,
                }
            }
            if self.is_over {
                return None;
            }
            match self.stream.next(&self.settings, &mut self.ready).await {
                Ok(Heard::More) => {}
                Ok(Heard::End) => self.is_over = true,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// The message, unless its body has to be brought here first.
    fn begin_fetch(&mut self, message: ReadMessage) -> Option<Result<ReadMessage, ReadError>> {
        let (bytes, settings) = (message.body_bytes(), &self.settings);
        if !message.is_body_streamed() || bytes > settings.streamed_above {
            return Some(Ok(self.hand_out(message)));
        }
        if bytes > settings.body_bytes_max {
            return Some(Err(ReadError::TooLarge { id: message.id(), bytes, max: settings.body_bytes_max }));
        }
        self.fetching = Some(Fetching { body: message.body_reader(), message, here: BytesMut::new() });
        None
    }

    fn hand_out(&mut self, message: ReadMessage) -> ReadMessage {
        self.stream.give_back(message.credit());
        if self.settings.follows && !self.settings.past_end && message.is_end() {
            self.end();
        }
        message
    }

    fn end(&mut self) {
        self.is_over = true;
        self.ready.clear();
        self.stream.end();
    }
}

impl Fetching {
    /// All of the body. Cancel-safe: what is here stays.
    async fn finish(&mut self) -> Result<Bytes, BodyError> {
        while let Some(part) = self.body.next().await? {
            self.here.extend_from_slice(&part);
        }
        Ok(self.here.split().freeze())
    }
}

impl ReadMessage {
    fn credit(&self) -> u64 {
        read_credit(&self.header)
    }
}

impl From<ConnectError> for ReadError {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::Refused(refusal) => match Self::from(refusal) {
                Self::Ended(refusal) => Self::Connect(ConnectError::Refused(refusal)),
                typed => typed,
            },
            error => Self::Connect(error),
        }
    }
}

impl From<Refusal> for ReadError {
    fn from(refusal: Refusal) -> Self {
        let offset = |key: &str| refusal.detail.get(key).and_then(|text| text.parse().ok()).map(Offset);
        match (refusal.code, offset("first"), offset("end")) {
            (ErrorCode::Trimmed, Some(first), _) => Self::Trimmed { first },
            (ErrorCode::Reclaimed, ..) => Self::Reclaimed,
            (ErrorCode::BeyondEnd, _, Some(end)) => Self::BeyondEnd { end },
            _ => Self::Ended(refusal),
        }
    }
}

/// The message is gone because its work queue keeps none that are settled.
fn is_settled(error: &BodyError) -> bool {
    let BodyError::Refused(refusal) = error else { return false };
    let retention = refusal.detail.get("retention").map(String::as_str);
    refusal.code == ErrorCode::Trimmed && retention == Some("work_queue")
}

fn body_error(error: BodyError) -> ReadError {
    match error {
        BodyError::Refused(refusal) => match ReadError::from(refusal) {
            ReadError::Ended(refusal) => ReadError::Body(BodyError::Refused(refusal)),
            typed => typed,
        },
        error => ReadError::Body(error),
    }
}
