//! Frames over QUIC streams.

use bytes::BytesMut;
use sluicegate_protocol::frame::{self, Frame};
use sluicegate_protocol::limits::{FRAME_BYTES_MAX, HELLO_BYTES_MAX};

use super::StreamError;
use crate::refusal::Refusal;

/// Bytes taken from a stream at once.
const READ_BYTES_MAX: usize = 256 << 10;

/// Room that is made for a batch of frames at once.
const BATCH_BYTES: usize = 128 << 10;

/// Reads frames.
pub(super) struct FrameReader {
    stream: quinn::RecvStream,
    buffer: BytesMut,
    /// Bytes of a frame that the peer may send.
    max: usize,
}

impl FrameReader {
    /// A reader for a peer that is not known yet: its frames are small.
    pub(super) fn new(stream: quinn::RecvStream) -> Self {
        Self { stream, buffer: BytesMut::new(), max: HELLO_BYTES_MAX }
    }

    /// The peer is known: its frames may be as large as any.
    pub(super) fn trust(&mut self) {
        self.max = FRAME_BYTES_MAX;
    }

    /// The next frame; none at the end of the stream.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, StreamError> {
        loop {
            if let Some(frame) = frame::decode_within(&mut self.buffer, self.max)? {
                return Ok(Some(frame));
            }
            match self.stream.read_chunk(READ_BYTES_MAX, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) => return Ok(frame::decode_end(&self.buffer).map(|()| None)?),
                Err(error) => return Err(StreamError::Lost(error.to_string())),
            }
        }
    }

    /// A further frame that is here already, without waiting.
    pub(super) fn next_buffered(&mut self) -> Result<Option<Frame>, StreamError> {
        Ok(frame::decode_within(&mut self.buffer, self.max)?)
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
