//! Frames over QUIC streams.

use bytes::{Bytes, BytesMut};
use sluicegate_protocol::decoder::Decoder;
use sluicegate_protocol::frame::{Frame, encode_deliveries, encode_messages};
use sluicegate_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};
use sluicegate_protocol::wire;

use super::StreamError;
use crate::refusal::Refusal;

/// Chunks taken from a stream at once; each is what a packet brought.
const CHUNKS_AT_ONCE: usize = 16;

/// Room that is made for a batch of frames at once.
const BATCH_BYTES: usize = 128 << 10;

/// Reads frames.
pub(super) struct FrameReader {
    stream: quinn::RecvStream,
    /// Read, and not yet with the decoder from `taken` on.
    chunks: [Bytes; CHUNKS_AT_ONCE],
    taken: usize,
    decoder: Decoder,
}

impl FrameReader {
    /// A reader for a peer that is not known yet: its frames are small.
    pub(super) fn new(stream: quinn::RecvStream) -> Self {
        let chunks = std::array::from_fn(|_| Bytes::new());
        Self { stream, chunks, taken: CHUNKS_AT_ONCE, decoder: Decoder::new(HELLO_BYTES_MAX) }
    }

    /// The peer is known: its frames may be as large as any.
    pub(super) fn trust(&mut self) {
        self.decoder.set_max(FRAME_BYTES_MAX);
    }

    /// The next frame; none at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.next_buffered()? {
                return Ok(Some(frame));
            }
            match self.stream.read_chunks(&mut self.chunks).await {
                Ok(Some(_)) => self.taken = 0,
                Ok(None) => return Ok(self.decoder.end().map(|()| None)?),
                Err(error) => return Err(StreamError::Lost(error.to_string())),
            }
        }
    }

    /// A further frame that is here already, without waiting.
    pub(super) fn next_buffered(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(Some(frame));
            }
            // What was not filled is empty.
            let Some(chunk) = self.chunks.get_mut(self.taken) else { return Ok(None) };
            self.taken += 1;
            self.decoder.push(std::mem::take(chunk));
        }
    }
}

/// Writes frames; what is encoded is sent together by [`FrameWriter::flush`].
pub(super) struct FrameWriter {
    stream: quinn::SendStream,
    buffer: BytesMut,
}

impl FrameWriter {
    pub(super) fn new(stream: quinn::SendStream) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    pub(super) fn encode(&mut self, frame: &Frame) {
        frame.encode(&mut self.buffer);
    }

    /// Like [`FrameWriter::encode`] of a Deliveries frame whose body is these parts.
    pub(super) fn encode_deliveries<'a>(
        &mut self,
        header: &wire::Deliveries,
        bodies: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        encode_deliveries(&mut self.buffer, header, bodies);
    }

    /// The same of a Messages frame.
    pub(super) fn encode_messages<'a>(
        &mut self,
        header: &wire::Messages,
        bodies: impl Iterator<Item = &'a [u8]> + Clone,
    ) {
        encode_messages(&mut self.buffer, header, bodies);
    }

    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub(super) async fn flush(&mut self) -> Result<(), StreamError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = self.buffer.split().freeze();
        // The next batch is likely as large as this one: growing it step by step would copy it as often.
        self.buffer.reserve(bytes.len().min(BATCH_BYTES));
        self.stream.write_chunk(bytes).await.map_err(|error| StreamError::Lost(error.to_string()))
    }

    /// Like [`FrameWriter::flush`], of a stream that is one of many and says little: it keeps no room for its next batch.
    pub(super) async fn flush_spare(&mut self) -> Result<(), StreamError> {
        let bytes = std::mem::take(&mut self.buffer).freeze();
        self.stream.write_chunk(bytes).await.map_err(|error| StreamError::Lost(error.to_string()))
    }

    /// Tells the peer why, if there is something to tell, and ends the stream.
    pub(super) async fn end_with(mut self, refusal: Option<Refusal>) {
        if let Some(refusal) = refusal {
            self.encode(&Frame::Error(refusal.to_wire(None), ()));
        }
        // A peer that is gone cannot be told.
        if self.flush().await.is_ok() {
            let _ = self.stream.finish();
        }
    }
}
