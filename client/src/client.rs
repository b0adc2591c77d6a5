//! The handle that a program starts from: one broker, one connection, many streams.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::UPLOADS_PER_CONNECTION_MAX;
use sluicegate_protocol::{GroupName, LiteName, PROTOCOL_VERSION, TopicName, wire};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::connection::{self, Caller, ConnectError, Peer};
use crate::consumer::ConsumerBuilder;
use crate::producer::ProducerBuilder;
use crate::reader::ReaderBuilder;
use crate::refusal::Refusal;
use crate::stream::{FrameReader, FrameWriter, StreamError};
use crate::trust::Trust;

/// How long the broker may take to answer a Hello.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// A cheap handle on one broker. Clones share one QUIC connection, and so do all producers, consumers and readers made
/// from it.
///
/// Nothing is sent before the first producer or consumer connects. A lost connection is made again with exponential
/// back-off (50 ms to 5 s, with jitter), and producers and consumers go on where they were.
///
/// ```no_run
/// use sluicegate_client::{Client, Message, TopicName, Trust};
///
/// # async fn example() -> anyhow::Result<()> {
/// let client = Client::builder("localhost:7420", Trust::Certificate("data/dev-cert.pem".into())).build();
/// let producer = client.producer(TopicName::parse("chat.requests")?).connect().await?;
/// let receipt = producer.send(Message::to("user-42/session-1")?.body("hello")).await?;
/// println!("offset {} in {}", receipt.offset, receipt.lite_id);
/// producer.close().await;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    connections: mpsc::Sender<Caller>,
    address: String,
    token: String,
    name: String,
    connect_timeout: Duration,
    /// Turns to upload: the broker takes so many of one connection.
    uploads: Arc<Semaphore>,
}

/// Settings of a [`Client`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    peer: Peer,
    token: String,
    name: String,
    connect_timeout: Duration,
}

impl Client {
    /// Settings for the broker at `address` (`host:port`), which proves itself to `trust`.
    pub fn builder(address: impl Into<String>, trust: Trust) -> ClientBuilder {
        ClientBuilder {
            peer: Peer { address: address.into(), server_name: "localhost".into(), trust },
            token: String::new(),
            name: concat!("sluicegate-client/", env!("CARGO_PKG_VERSION")).into(),
            connect_timeout: Duration::from_secs(10),
        }
    }

    /// A producer of messages for `topic`.
    pub fn producer(&self, topic: TopicName) -> ProducerBuilder {
        ProducerBuilder::new(self.clone(), topic)
    }

    /// A reader of the lite topic `lite` in `topic`.
    pub fn reader(&self, topic: TopicName, lite: LiteName) -> ReaderBuilder {
        ReaderBuilder::new(self.clone(), topic, lite)
    }

    /// A consumer in `group`.
    pub fn consumer(&self, group: GroupName) -> ConsumerBuilder {
        ConsumerBuilder::new(self.clone(), group)
    }

    /// Opens a stream for the first time: tries again while that may help, for the connect timeout at most.
    pub(crate) async fn open_first(&self, role: wire::hello::Role) -> Result<Opened, ConnectError> {
        let give_up_at = Instant::now() + self.shared.connect_timeout;
        let mut backoff = Backoff::new();
        loop {
            let error = match self.open(role.clone(), None).await {
                Ok(opened) => return Ok(opened),
                Err(error) => error,
            };
            let delay = backoff.delay(error.retry_after());
            if !error.is_worth_another_try() || Instant::now() + delay >= give_up_at {
                return Err(error);
            }
            sleep(delay).await;
        }
    }

    /// Opens a stream again, however long it takes, unless the broker refuses it for good.
    pub(crate) async fn reopen(
        &self,
        role: wire::hello::Role,
        backoff: &mut Backoff,
        mut retry_after: Option<Duration>,
    ) -> Result<Opened, Refusal> {
        loop {
            sleep(backoff.delay(retry_after)).await;
            let error = match self.open(role.clone(), None).await {
                Ok(opened) => return Ok(opened),
                Err(ConnectError::Refused(refusal)) if !refusal.asks_for_reconnect() => return Err(refusal),
                Err(error) => error,
            };
            retry_after = error.retry_after();
            tracing::debug!(%error, "cannot reconnect yet");
        }
    }

    /// Opens a stream once. A frame that follows the Hello is sent with it.
    pub(crate) async fn open(&self, role: wire::hello::Role, then: Option<Frame>) -> Result<Opened, ConnectError> {
        let connection = self.connection().await?;
        let hello = wire::Hello {
            version_min: PROTOCOL_VERSION,
            version_max: PROTOCOL_VERSION,
            token: self.shared.token.clone(),
            client: self.shared.name.clone(),
            role: Some(role),
        };
        match timeout(WELCOME_TIMEOUT, greet(&connection, hello, then)).await {
            Ok(Err(Greeting::Refused(refusal))) => Err(ConnectError::Refused(refusal)),
            Ok(Err(Greeting::Protocol(problem))) => Err(ConnectError::Protocol(problem)),
            Ok(Err(Greeting::Lost(problem))) => Err(self.unreachable(problem)),
            Ok(Ok(opened)) => Ok(opened),
            Err(_) => Err(self.unreachable("it did not answer the hello".into())),
        }
    }

    async fn connection(&self) -> Result<quinn::Connection, ConnectError> {
        let gone = || self.unreachable("the client's runtime has stopped".into());
        let (caller, answer) = oneshot::channel();
        self.shared.connections.send(caller).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// A turn to upload; waits while as many are under way as the broker takes.
    pub(crate) async fn upload_turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.shared.uploads).acquire_owned().await.expect("the semaphore is never closed")
    }

    fn unreachable(&self, problem: String) -> ConnectError {
        ConnectError::Unreachable { address: self.shared.address.clone(), problem }
    }
}

impl ClientBuilder {
    /// Name that the broker's certificate must carry; default `localhost`, as in a development broker's certificate.
    pub fn server_name(mut self, server_name: impl Into<String>) -> Self {
        self.peer.server_name = server_name.into();
        self
    }

    /// Token that grants the client its rights; default none, as a development broker on loopback allows.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = token.into();
        self
    }

    /// Name and version of the program, for the broker's log; default this crate's.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How long the first connect of a producer or consumer keeps trying; default 10 s. A later loss has no such limit.
    pub fn connect_timeout(mut self, connect_timeout: Duration) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// The client. It connects when it is first needed.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build(self) -> Client {
        let address = self.peer.address.clone();
        let shared = Shared {
            connections: connection::spawn(self.peer),
            address,
            token: self.token,
            name: self.name,
            connect_timeout: self.connect_timeout,
            uploads: Arc::new(Semaphore::new(UPLOADS_PER_CONNECTION_MAX as usize)),
        };
        Client { shared: Arc::new(shared) }
    }
}

/// A stream whose Hello was answered with Welcome.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) reader: FrameReader,
    pub(crate) writer: FrameWriter,
    pub(crate) welcome: wire::Welcome,
}

/// What may come in place of a Welcome.
enum Greeting {
    Refused(Refusal),
    Protocol(String),
    Lost(String),
}

async fn greet(connection: &quinn::Connection, hello: wire::Hello, then: Option<Frame>) -> Result<Opened, Greeting> {
    let (send, recv) = connection.open_bi().await.map_err(|error| Greeting::Lost(error.to_string()))?;
    let (mut reader, mut writer) = (FrameReader::new(recv), FrameWriter::new(send));
    writer.push(&Frame::Hello(hello, ()));
    if let Some(frame) = then {
        writer.push(&frame);
    }
    let answer = loop {
        tokio::select! {
            biased;
            answer = reader.next() => break answer,
            written = writer.write() => written.map_err(|error| Greeting::Lost(error.to_string()))?,
        }
    };
    let mut welcome = match answer {
        Ok(Frame::Welcome(welcome, ())) if welcome.version == PROTOCOL_VERSION => welcome,
        Ok(Frame::Welcome(welcome, ())) => {
            return Err(Greeting::Protocol(format!("it chose version {}, which was not offered", welcome.version)));
        }
        Ok(other) => return Err(unexpected(other)),
        Err(error) => return Err(error.into()),
    };
    while welcome.held.len() < welcome.held_total as usize {
        match reader.next().await {
            Ok(Frame::Held(more, ())) if !more.held.is_empty() => welcome.held.extend(more.held),
            Ok(other) => return Err(unexpected(other)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Opened { reader, writer, welcome })
}

fn unexpected(frame: Frame) -> Greeting {
    match frame {
        Frame::Error(error, ()) => Greeting::Refused(Refusal::from_wire(error)),
        other => Greeting::Protocol(format!("a {} frame answered the hello", other.name())),
    }
}

impl From<StreamError> for Greeting {
    fn from(error: StreamError) -> Self {
        match error.is_violation() {
            true => Self::Protocol(error.to_string()),
            false => Self::Lost(error.to_string()),
        }
    }
}
