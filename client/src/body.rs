//! Large bodies on their way in.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::client::{Client, Opened};
use crate::connection::ConnectError;
use crate::delivery::LeaseState;
use crate::refusal::Refusal;
use crate::stream::StreamError;

/// Why a body, or the rest of it, is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The lease ended, or an operator deleted the message: further work on it is for nothing.
    #[error("the lease was lost before the body was there")]
    LeaseLost,
    /// The broker refused.
    #[error("body refused: {0}")]
    Refused(Refusal),
    /// The broker sent another number of bytes than it had announced.
    #[error("{got} bytes of a body came, {expected} were announced")]
    Length {
        /// What came.
        got: u64,
        /// What was announced.
        expected: u64,
    },
    /// What the body was copied to failed.
    #[error("{0}")]
    Write(String),
}

/// Reads the body of a delivery, or of a message that was read, part by part. The broker sends as fast as it is read, so a body of any size takes little
/// memory. When the connection is lost it goes on where it was.
///
/// ```no_run
/// # async fn example(delivery: &sluicegate_client::Delivery) -> anyhow::Result<()> {
/// let mut body = delivery.body_reader();
/// while let Some(part) = body.next().await? {
///     println!("{} more bytes", part.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct BodyReader {
    source: Source,
    position: u64,
    bytes: u64,
}

/// Where the parts come from.
#[derive(Debug)]
enum Source {
    /// It came with its message.
    Here(Bytes),
    Broker(Box<Fetch>),
}

/// A body that the broker has.
#[derive(Debug)]
struct Fetch {
    client: Client,
    origin: Origin,
    /// Of the whole body.
    bytes: u64,
    opened: Option<Opened>,
    backoff: Backoff,
}

/// The body of a message, wherever it is.
#[derive(Debug)]
pub(crate) enum MessageBody {
    /// It came with its message, or was brought here.
    Here(Bytes),
    /// It is read part by part. Boxed, since few are.
    Away(Box<Away>),
}

/// Where a body comes from that is not here.
#[derive(Debug)]
pub(crate) struct Away {
    client: Client,
    bytes: u64,
    origin: Origin,
}

impl MessageBody {
    pub(crate) fn away(client: Client, bytes: u64, origin: Origin) -> Self {
        Self::Away(Box::new(Away { client, bytes, origin }))
    }

    /// # Panics
    /// It is away.
    pub(crate) fn here(&self) -> &Bytes {
        match self {
            Self::Here(body) => body,
            Self::Away(away) => {
                panic!("a body of {} bytes is streamed: it is read by `body_reader`", away.bytes)
            }
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Here(body) => body.len() as u64,
            Self::Away(away) => away.bytes,
        }
    }

    pub(crate) fn is_away(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    pub(crate) fn reader(&self) -> BodyReader {
        match self {
            Self::Here(body) => BodyReader::here(body.clone()),
            Self::Away(away) => BodyReader::fetching(away.client.clone(), away.bytes, away.origin.clone()),
        }
    }
}

/// By what right the body may be had.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// Its message is leased.
    Lease(wire::BodyRole, Arc<LeaseState>),
    /// Its message was read.
    Message(wire::ReadBodyRole),
}

impl Origin {
    fn role(&self, from: u64) -> Role {
        match self {
            Self::Lease(role, _) => Role::Body(wire::BodyRole { from, ..role.clone() }),
            Self::Message(role) => Role::ReadBody(wire::ReadBodyRole { from, ..role.clone() }),
        }
    }

    /// Resolves when the right is lost.
    async fn lost(&self) {
        match self {
            Self::Lease(_, lease) => lease.lost().await,
            Self::Message(_) => std::future::pending().await,
        }
    }
}

impl BodyReader {
    fn here(body: Bytes) -> Self {
        Self { bytes: body.len() as u64, source: Source::Here(body), position: 0 }
    }

    fn fetching(client: Client, bytes: u64, origin: Origin) -> Self {
        let fetch = Fetch { client, origin, bytes, opened: None, backoff: Backoff::new() };
        Self { source: Source::Broker(Box::new(fetch)), position: 0, bytes }
    }

    /// Bytes of the whole body.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next part, at most 256 KiB unless it came with its message; none at the end. Cancel-safe.
    ///
    /// # Errors
    /// [`BodyError`] when the rest is not to be had.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        if self.position == self.bytes {
            return Ok(None);
        }
        let part = match &mut self.source {
            Source::Here(body) => body.clone(),
            Source::Broker(fetch) => fetch.next(self.position).await?,
        };
        self.position += part.len() as u64;
        if self.position > self.bytes {
            return Err(BodyError::Length { got: self.position, expected: self.bytes });
        }
        Ok(Some(part))
    }

    /// Reads the rest into memory.
    ///
    /// # Errors
    /// [`BodyError`] when it is not to be had.
    pub async fn read_all(&mut self) -> Result<Bytes, BodyError> {
        let left = usize::try_from(self.bytes - self.position).unwrap_or(usize::MAX);
        let mut body = BytesMut::with_capacity(left);
        while let Some(part) = self.next().await? {
            body.extend_from_slice(&part);
        }
        Ok(body.freeze())
    }

    /// Writes the rest to a file or whatever else takes bytes. It answers how many there were.
    ///
    /// # Errors
    /// [`BodyError`] when it is not to be had, or cannot be written.
    pub async fn copy_to(&mut self, target: &mut (impl AsyncWrite + Unpin)) -> Result<u64, BodyError> {
        let before = self.position;
        let failed = |error: std::io::Error| BodyError::Write(error.to_string());
        while let Some(part) = self.next().await? {
            target.write_all(&part).await.map_err(failed)?;
        }
        target.flush().await.map_err(failed)?;
        Ok(self.position - before)
    }
}

impl Fetch {
    /// The part from this position on, over as many streams as it takes.
    async fn next(&mut self, from: u64) -> Result<Bytes, BodyError> {
        // A stream that was opened is kept.
        let Self { client, origin, bytes, opened, backoff } = self;
        tokio::select! {
            part = fetched(client, origin, (from, *bytes), opened, backoff) => part,
            () = origin.lost() => Err(BodyError::LeaseLost),
        }
    }
}

async fn fetched(
    client: &Client,
    origin: &Origin,
    (from, expected): (u64, u64),
    stream: &mut Option<Opened>,
    backoff: &mut Backoff,
) -> Result<Bytes, BodyError> {
    loop {
        let retry_after = match stream {
            Some(opened) => match opened.reader.next().await {
                Ok(Frame::Chunk(_, part)) if !part.is_empty() => {
                    backoff.reset();
                    return Ok(part);
                }
                // It has no more than this.
                Err(StreamError::Ended) => return Err(BodyError::Length { got: from, expected }),
                Ok(Frame::Error(error, ())) => refused(Refusal::from_wire(error))?,
                Ok(_) => None,
                Err(error) => {
                    tracing::debug!(%error, "a body's stream ended, it is opened again");
                    None
                }
            },
            None => match client.open(origin.role(from), None).await {
                Ok(opened) => {
                    *stream = Some(opened);
                    continue;
                }
                Err(ConnectError::Refused(refusal)) => refused(refusal)?,
                Err(error) => {
                    tracing::debug!(%error, "cannot fetch a body yet");
                    None
                }
            },
        };
        *stream = None;
        sleep(backoff.delay(retry_after)).await;
    }
}

/// When to try again, unless that is in vain.
fn refused(refusal: Refusal) -> Result<Option<std::time::Duration>, BodyError> {
    match refusal.code {
        ErrorCode::LeaseLost => Err(BodyError::LeaseLost),
        _ if refusal.asks_for_reconnect() => Ok(refusal.retry_after),
        _ => Err(BodyError::Refused(refusal)),
    }
}
