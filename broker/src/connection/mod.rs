//! One QUIC connection: each bidirectional stream begins with Hello and is a producer, a consumer or a reader, or brings one large body.
//!
//! Frames in, commands to shards, frames out. Nothing here touches the store's rows of a message's
//! state or decides what is delivered.

pub(crate) mod cancel;
pub(crate) mod consumer;
mod fetch;
mod framed;
pub(crate) mod producer;
mod reader;
mod upload;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::frame::{Frame, FrameError};
use sluicegate_protocol::limits::{FETCHES_PER_CONNECTION_MAX, UPLOADS_PER_CONNECTION_MAX};
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_protocol::{ErrorCode, PROTOCOL_VERSION};

use crate::broker::Broker;
use crate::refusal::Refusal;
use crate::uploads::take;
pub(crate) use consumer::WriteHalf;
use framed::{FrameReader, FrameWriter};
use reader::ReaderRoom;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Streams that a connection may have open, beside those of its readers: producers and consumers of one client.
pub(crate) const STREAMS_MAX: u32 = 256;
/// How long a peer may take for its first frame.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a stream ended early.
#[derive(Debug, thiserror::Error)]
enum StreamError {
    /// The peer is told, then the stream ends.
    #[error("{0}")]
    Refused(#[from] Refusal),
    /// The bytes are no frames.
    #[error("{0}")]
    Frame(#[from] FrameError),
    /// The connection or stream is gone.
    #[error("stream lost: {0}")]
    Lost(String),
}

impl StreamError {
    fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal.clone()),
            Self::Frame(error @ FrameError::TooLarge { .. }) => {
                Some(Refusal::new(ErrorCode::TooLarge, error.to_string()))
            }
            Self::Frame(error) => Some(Refusal::new(ErrorCode::ProtocolViolation, error.to_string())),
            Self::Lost(_) => None,
        }
    }
}

/// What the streams of a connection share: its large bodies under way, and its readers.
struct Transfers {
    uploads: Arc<Semaphore>,
    fetches: Arc<Semaphore>,
    readers: ReaderRoom,
}

impl Transfers {
    fn new(connection: quinn::Connection) -> Self {
        Self {
            readers: ReaderRoom::new(connection),
            uploads: Arc::new(Semaphore::new(UPLOADS_PER_CONNECTION_MAX as usize)),
            fetches: Arc::new(Semaphore::new(FETCHES_PER_CONNECTION_MAX as usize)),
        }
    }

    fn upload(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.uploads, 1, UPLOADS_PER_CONNECTION_MAX, "uploads of a connection")
    }

    fn fetch(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        take(&self.fetches, 1, FETCHES_PER_CONNECTION_MAX, "bodies that a connection fetches")
    }
}

/// Serves a connection until it ends.
pub(crate) async fn serve(broker: Arc<Broker>, connection: quinn::Connection) {
    let peer = connection.remote_address();
    let _open = broker.meters.connected();
    tracing::debug!(%peer, "connected");
    let transfers = Arc::new(Transfers::new(connection.clone()));
    loop {
        match connection.accept_bi().await {
            Ok((send, receive)) => {
                let (broker, transfers) = (Arc::clone(&broker), Arc::clone(&transfers));
                let stream = (FrameWriter::new(send), FrameReader::new(receive));
                tokio::spawn(serve_stream(broker, peer, transfers, stream));
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "disconnected");
                return;
            }
        }
    }
}

async fn serve_stream(
    broker: Arc<Broker>,
    peer: SocketAddr,
    transfers: Arc<Transfers>,
    (writer, mut reader): (FrameWriter, FrameReader),
) {
    let hello = match read_hello(&mut reader).await {
        Ok(hello) => hello,
        Err(error) => return writer.end_with(error.refusal()).await,
    };
    let (token, client) = (hello.token, hello.client);
    // Each takes its own memory: there are many readers, which need little.
    let served = match hello.role {
        Some(Role::Producer(role)) => Box::pin(producer::serve(&broker, peer, &token, role, writer, reader)).await,
        Some(Role::Consumer(role)) => Box::pin(consumer::serve(&broker, peer, &token, role, writer, reader)).await,
        Some(Role::Upload(role)) => {
            Box::pin(upload::serve(&broker, peer, &token, role, &transfers, (writer, reader))).await
        }
        Some(Role::Body(role)) => {
            let wanted = fetch::Wanted::Leased(role);
            Box::pin(fetch::serve(&broker, peer, &token, wanted, &transfers, writer)).await
        }
        Some(Role::ReadBody(role)) => {
            let wanted = fetch::Wanted::Read(role);
            Box::pin(fetch::serve(&broker, peer, &token, wanted, &transfers, writer)).await
        }
        Some(Role::Reader(role)) => {
            Box::pin(reader::serve(&broker, peer, &token, role, &transfers.readers, (writer, reader))).await
        }
        Some(Role::Cancel(role)) => Box::pin(cancel::serve(&broker, peer, &token, role, writer)).await,
        None => {
            let refusal = Refusal::new(ErrorCode::ProtocolViolation, "Hello names no role that this broker knows");
            return writer.end_with(Some(refusal)).await;
        }
    };
    if let Err(error) = served {
        tracing::debug!(%peer, client, %error, "stream ended");
    }
}

async fn read_hello(reader: &mut FrameReader) -> Result<wire::Hello, StreamError> {
    let late = |_| Refusal::new(ErrorCode::ProtocolViolation, "no Hello within 10 s");
    let frame = tokio::time::timeout(HELLO_TIMEOUT, reader.next()).await.map_err(late)??;
    let Some(Frame::Hello(hello, ())) = frame else {
        let name = frame.as_ref().map_or("nothing", Frame::name);
        let message = format!("a stream begins with Hello, not with {name}");
        return Err(Refusal::new(ErrorCode::ProtocolViolation, message).into());
    };
    if hello.version_min > PROTOCOL_VERSION || hello.version_max < PROTOCOL_VERSION {
        let message = format!(
            "client speaks protocol versions {} to {}, this broker speaks {PROTOCOL_VERSION}",
            hello.version_min, hello.version_max
        );
        return Err(Refusal::new(ErrorCode::VersionUnsupported, message).into());
    }
    Ok(hello)
}

/// The part of Welcome that all roles share.
fn welcome(broker: &Broker) -> wire::Welcome {
    wire::Welcome {
        version: PROTOCOL_VERSION,
        server: concat!("sluicegate/", env!("CARGO_PKG_VERSION")).to_owned(),
        now_us: broker.clock.now().0,
        body_bytes_max: u32::try_from(broker.uploads.max_body_bytes).unwrap_or(u32::MAX),
        ..Default::default()
    }
}

fn unexpected(frame: &Frame) -> StreamError {
    Refusal::new(ErrorCode::ProtocolViolation, format!("{} has no place on this stream", frame.name())).into()
}
