//! Frames over one QUIC stream. Reading and writing are cancel-safe, so an owner task can select over both.

use std::future::pending;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use sluicegate_protocol::decoder::Decoder;
use sluicegate_protocol::frame::{Frame, FrameError};
use sluicegate_protocol::limits::FRAME_BYTES_MAX;
use sluicegate_protocol::wire;
use tokio::time::{Instant, sleep_until};

/// Chunks taken from a stream at once; each is what a packet brought.
const CHUNKS_AT_ONCE: usize = 16;
/// A batch is closed at this size; one frame may carry it over.
const BATCH_BYTES: usize = 128 << 10;
/// How long a peer that takes nothing more may still say why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How long the broker may take to end a stream that we closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// A stream that lasted this long was no failed attempt.
pub(crate) const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Why a stream is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("connection lost: {0}")]
    Lost(#[from] io::Error),
    #[error("broker stopped the stream")]
    Stopped,
    #[error("broker ended the stream")]
    Ended,
    #[error("broker broke the protocol: {0}")]
    Frame(#[from] FrameError),
    #[error("broker broke the protocol: {0}")]
    Protocol(String),
}

impl StreamError {
    /// The peer speaks, but not this protocol.
    pub(crate) fn is_violation(&self) -> bool {
        match self {
            Self::Frame(_) | Self::Protocol(_) => true,
            Self::Lost(_) | Self::Stopped | Self::Ended => false,
        }
    }

    pub(crate) fn unexpected(frame: &Frame) -> Self {
        Self::Protocol(format!("unexpected {} frame", frame.name()))
    }
}

/// The broker's frames.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    /// Read, and not yet with the decoder from `taken` on.
    chunks: [Bytes; CHUNKS_AT_ONCE],
    taken: usize,
    decoder: Decoder,
}

impl FrameReader {
    pub(crate) fn new(stream: RecvStream) -> Self {
        let chunks = std::array::from_fn(|_| Bytes::new());
        Self { stream, chunks, taken: CHUNKS_AT_ONCE, decoder: Decoder::new(FRAME_BYTES_MAX) }
    }

    /// The next frame. A stream that was finished is [`StreamError::Ended`].
    pub(crate) async fn next(&mut self) -> Result<Frame, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            // What a read did not fill is empty.
            if let Some(chunk) = self.chunks.get_mut(self.taken) {
                self.taken += 1;
                self.decoder.push(std::mem::take(chunk));
                continue;
            }
            if self.stream.read_chunks(&mut self.chunks).await.map_err(io::Error::from)?.is_none() {
                self.decoder.end()?;
                return Err(StreamError::Ended);
            }
            self.taken = 0;
        }
    }
}

/// Our frames, collected into batches so that many of them cost one write.
#[derive(Debug)]
pub(crate) struct FrameWriter {
    stream: SendStream,
    batch: BytesMut,
    writing: [Bytes; 1],
    end: WriterEnd,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum WriterEnd {
    Open,
    /// A Close frame is the last of the batch.
    Closing,
    /// The stream was finished; the peer's own end is awaited until this time.
    Finished(Instant),
    /// The peer takes nothing more; the stream is given up at this time.
    Broken(Instant),
}

impl FrameWriter {
    pub(crate) fn new(stream: SendStream) -> Self {
        Self { stream, batch: BytesMut::new(), writing: [Bytes::new()], end: WriterEnd::Open }
    }

    /// Whether frames can be added: nothing older waits, and the batch is not full.
    pub(crate) fn has_room(&self) -> bool {
        self.end == WriterEnd::Open && self.writing[0].is_empty() && self.batch.len() < BATCH_BYTES
    }

    /// Adds a frame to the batch.
    pub(crate) fn push(&mut self, frame: &Frame) {
        if self.batch.is_empty() {
            self.batch.reserve(BATCH_BYTES / 2);
        }
        frame.encode(&mut self.batch);
    }

    /// Ends the stream in an orderly way, after what the batch holds.
    pub(crate) fn close(&mut self) {
        if self.end == WriterEnd::Open {
            self.push(&Frame::Close(wire::Close {}, ()));
            self.end = WriterEnd::Closing;
        }
    }

    /// Whether the stream was ended by [`close`](Self::close), so that the peer's end is expected.
    pub(crate) fn is_closed(&self) -> bool {
        match self.end {
            WriterEnd::Closing | WriterEnd::Finished(_) => true,
            WriterEnd::Open | WriterEnd::Broken(_) => false,
        }
    }

    /// Writes as much of the batch as the stream takes now; waits while there is nothing to write.
    ///
    /// After the peer stopped taking, it waits for a moment and only then fails: the reason may still be read. In the
    /// same way it fails when the peer does not answer the end of the stream.
    pub(crate) async fn write(&mut self) -> Result<(), StreamError> {
        if self.writing[0].is_empty() {
            if self.batch.is_empty() {
                return self.rest().await;
            }
            self.writing[0] = self.batch.split().freeze();
        }
        if self.stream.write_chunks(&mut self.writing).await.is_err() {
            self.writing[0].clear();
            self.batch.clear();
            self.end = WriterEnd::Broken(Instant::now() + LAST_WORDS);
        }
        Ok(())
    }

    /// Writes all of the batch. Not cancel-safe: for a stream that is given up then.
    pub(crate) async fn write_all(&mut self) -> Result<(), StreamError> {
        while !(self.batch.is_empty() && self.writing[0].is_empty()) {
            self.write().await?;
            if let WriterEnd::Broken(_) = self.end {
                return Err(StreamError::Stopped);
            }
        }
        Ok(())
    }

    /// Nothing is left to write.
    async fn rest(&mut self) -> Result<(), StreamError> {
        match self.end {
            WriterEnd::Open => pending().await,
            WriterEnd::Closing => {
                // It fails only when the peer stopped the stream, and then there is nothing left to end.
                let _ = self.stream.finish();
                self.end = WriterEnd::Finished(Instant::now() + CLOSE_TIMEOUT);
                Ok(())
            }
            WriterEnd::Finished(given_up_at) => {
                sleep_until(given_up_at).await;
                Err(StreamError::Ended)
            }
            WriterEnd::Broken(given_up_at) => {
                sleep_until(given_up_at).await;
                Err(StreamError::Stopped)
            }
        }
    }
}
