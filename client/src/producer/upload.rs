//! A message with a large body: a stream of its own, again and again until the broker has said what became of it.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::limits::UPLOAD_CHUNK_BYTES;
use sluicegate_protocol::wire;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::time::sleep;

use super::{PublishError, Receipt};
use crate::backoff::Backoff;
use crate::client::{Client, Opened};
use crate::connection::ConnectError;
use crate::refusal::Refusal;
use crate::stream::{FrameReader, FrameWriter, StreamError};

/// Where a large body comes from.
pub(crate) enum Source {
    Whole(Bytes),
    /// It can be read once.
    Stream(u64, Pin<Box<dyn AsyncRead + Send>>),
    /// It was read, and what became of it is unknown.
    Spent(u64),
}

/// How one attempt ended.
enum Attempt {
    Done(Receipt),
    /// The broker says no for good, or the source does.
    Failed(PublishError),
    Again(Option<Duration>),
}

impl Source {
    fn bytes(&self) -> u64 {
        match self {
            Self::Whole(body) => body.len() as u64,
            Self::Stream(bytes, _) | Self::Spent(bytes) => *bytes,
        }
    }

    /// The next part, from this position on.
    async fn read(&mut self, from: u64) -> std::io::Result<Bytes> {
        match self {
            Self::Whole(body) => {
                let from = usize::try_from(from).map_err(std::io::Error::other)?;
                Ok(body.slice(from..body.len().min(from + UPLOAD_CHUNK_BYTES)))
            }
            Self::Stream(bytes, stream) => {
                let left = usize::try_from(*bytes - from).map_err(std::io::Error::other)?;
                let mut part = BytesMut::zeroed(left.min(UPLOAD_CHUNK_BYTES));
                stream.read_exact(&mut part).await?;
                Ok(part.freeze())
            }
            Self::Spent(_) => Err(std::io::Error::other("the source was read before")),
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({} bytes)", self.bytes())
    }
}

/// Uploads until there is an answer.
pub(super) async fn upload(
    client: Client,
    role: wire::ProducerRole,
    header: wire::Publish,
    mut source: Source,
) -> Result<Receipt, PublishError> {
    let wire::ProducerRole { topic, producer_id, replies_of } = role;
    let role = wire::hello::Role::Upload(wire::UploadRole { topic, producer_id, replies_of });
    let _turn = client.upload_turn().await;
    let mut backoff = Backoff::new();
    loop {
        let begin = wire::Upload { message: Some(header.clone()), body_bytes: source.bytes() };
        let attempt = match client.open(role.clone(), Some(Frame::Upload(begin, ()))).await {
            Ok(opened) => transfer(opened, &mut source).await,
            Err(ConnectError::Refused(refusal)) => refused(refusal),
            Err(error) => {
                tracing::debug!(%error, "cannot upload yet");
                Attempt::Again(None)
            }
        };
        let retry_after = match attempt {
            Attempt::Done(receipt) => return Ok(receipt),
            Attempt::Failed(error) => return Err(error),
            Attempt::Again(retry_after) => retry_after,
        };
        sleep(backoff.delay(retry_after)).await;
    }
}

async fn transfer(opened: Opened, source: &mut Source) -> Attempt {
    let Opened { mut reader, mut writer, welcome } = opened;
    if let Some(receipt) = welcome.published {
        return Attempt::Done(receipt.into());
    }
    if matches!(source, Source::Spent(_)) {
        // The broker would take it anew: nothing of it is there.
        return Attempt::Failed(PublishError::Interrupted("the connection was lost".into()));
    }
    let sent = tokio::select! {
        biased;
        answer = answer(&mut reader) => return spent(answer, source),
        sent = send(&mut writer, source) => sent,
    };
    match sent {
        Ok(()) => {}
        Err(SendError::Source(error)) => return Attempt::Failed(PublishError::Interrupted(error.to_string())),
        // The broker may have said why.
        Err(SendError::Stream(error)) => tracing::debug!(%error, "the broker takes no more of an upload"),
    }
    spent(answer(&mut reader).await, source)
}

/// A source that can be read once is not there for another attempt.
fn spent(attempt: Attempt, source: &mut Source) -> Attempt {
    if let (Attempt::Again(_), Source::Stream(bytes, _)) = (&attempt, &*source) {
        *source = Source::Spent(*bytes);
    }
    attempt
}

enum SendError {
    Source(std::io::Error),
    Stream(StreamError),
}

async fn send(writer: &mut FrameWriter, source: &mut Source) -> Result<(), SendError> {
    let (mut sent, bytes) = (0, source.bytes());
    while sent < bytes {
        let part = source.read(sent).await.map_err(SendError::Source)?;
        sent += part.len() as u64;
        writer.push(&Frame::Chunk(wire::Chunk {}, part));
        writer.write_all().await.map_err(SendError::Stream)?;
    }
    Ok(())
}

async fn answer(reader: &mut FrameReader) -> Attempt {
    match reader.next().await {
        Ok(Frame::Published(published, ())) => match published.receipts.into_iter().next() {
            Some(receipt) => Attempt::Done(receipt.into()),
            None => Attempt::Again(None),
        },
        Ok(Frame::Error(error, ())) => refused(Refusal::from_wire(error)),
        Ok(other) => {
            let error = StreamError::unexpected(&other);
            tracing::warn!(%error, "an upload failed, it is tried again");
            Attempt::Again(None)
        }
        Err(error) => {
            tracing::debug!(%error, "an upload failed, it is tried again");
            Attempt::Again(None)
        }
    }
}

fn refused(refusal: Refusal) -> Attempt {
    match refusal.asks_for_reconnect() {
        true => Attempt::Again(refusal.retry_after),
        false => Attempt::Failed(PublishError::Refused(refusal)),
    }
}
