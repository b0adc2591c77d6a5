//! Frames out of the chunks in which a stream gives its bytes.

use bytes::{Bytes, BytesMut};

use crate::frame::{self, FIXED_BYTES, Frame, FrameError, LENGTH_BYTES};

/// Takes chunks and gives frames. A frame that lies within a chunk is not copied; one that spans several is put together.
///
/// ```
/// use sluicegate_protocol::decoder::Decoder;
/// use sluicegate_protocol::frame::{Frame, FrameError};
///
/// fn frames(chunks: impl Iterator<Item = bytes::Bytes>, max: usize) -> Result<Vec<Frame>, FrameError> {
///     let (mut decoder, mut frames) = (Decoder::new(max), Vec::new());
///     for chunk in chunks {
///         decoder.push(chunk);
///         while let Some(frame) = decoder.next_frame()? {
///             frames.push(frame);
///         }
///     }
///     decoder.end().map(|()| frames)
/// }
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// What is not taken yet of the last chunk.
    chunk: Bytes,
    /// The beginning of a frame whose rest is not there; `chunk` goes on from here.
    begun: BytesMut,
    max: usize,
}

impl Decoder {
    /// A decoder for frames of at most `max` bytes after their length field.
    pub fn new(max: usize) -> Self {
        Self { chunk: Bytes::new(), begun: BytesMut::new(), max }
    }

    /// From now on frames may have this many bytes.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The next bytes of the stream, after [`Decoder::next_frame`] answered that there is no further frame.
    ///
    /// # Panics
    /// Bytes of the chunk before are there still.
    pub fn push(&mut self, chunk: Bytes) {
        assert!(self.chunk.is_empty(), "the chunk before is taken first");
        self.chunk = chunk;
    }

    /// The next whole frame; none while bytes are missing.
    ///
    /// # Errors
    /// [`FrameError`] when the bytes cannot become a frame; nothing after them can be trusted.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if self.begun.is_empty()
            && let Some(bytes) = frame::announced(&self.chunk, self.max)?
        {
            if bytes <= self.chunk.len() {
                return frame::take(self.chunk.split_to(bytes)).map(Some);
            }
            self.begun.reserve(bytes);
            self.begun.extend_from_slice(&std::mem::take(&mut self.chunk));
        }
        loop {
            if let Some(frame) = frame::decode_within(&mut self.begun, self.max)? {
                return Ok(Some(frame));
            }
            if self.chunk.is_empty() {
                return Ok(None);
            }
            // Not more than the frame needs: what follows it may lie within the chunk.
            let whole = frame::announced(&self.begun, self.max)?.unwrap_or(LENGTH_BYTES + FIXED_BYTES);
            let missing = whole.max(self.begun.len() + 1) - self.begun.len();
            self.begun.extend_from_slice(&self.chunk.split_to(missing.min(self.chunk.len())));
        }
    }

    /// Says what is wrong when the stream ends here.
    ///
    /// # Errors
    /// [`FrameError::Truncated`] inside a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        match self.begun.len() + self.chunk.len() {
            0 => Ok(()),
            bytes => Err(FrameError::Truncated { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::FRAME_BYTES_MAX;
    use crate::wire;
    use proptest::prelude::*;

    /// What comes of a stream in these pieces, up to its end or its first wrong byte.
    fn decoded(bytes: &[u8], step: usize) -> (Vec<Frame>, Result<(), FrameError>) {
        let (mut decoder, mut frames) = (Decoder::new(FRAME_BYTES_MAX), Vec::new());
        for chunk in bytes.chunks(step) {
            decoder.push(Bytes::copy_from_slice(chunk));
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Err(error)),
                }
            }
        }
        (frames, decoder.end())
    }

    /// The same by the simple way: all bytes in one buffer.
    fn expected(bytes: &[u8]) -> (Vec<Frame>, Result<(), FrameError>) {
        let (mut buffer, mut frames) = (BytesMut::from(bytes), Vec::new());
        loop {
            match frame::decode(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => return (frames, frame::decode_end(&buffer)),
                Err(error) => return (frames, Err(error)),
            }
        }
    }

    proptest! {
        #[test]
        fn chunks_of_any_size_give_the_frames_of_the_whole(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..6),
            garbage in proptest::collection::vec(any::<u8>(), 0..20),
            step in 1_usize..200,
        ) {
            let mut bytes = BytesMut::new();
            for (sequence, body) in bodies.into_iter().enumerate() {
                let header = wire::Publish { sequence: sequence as u64, lite: "a".into(), ..Default::default() };
                Frame::Publish(header, body.into()).encode(&mut bytes);
                Frame::Close(wire::Close {}, ()).encode(&mut bytes);
            }
            bytes.extend_from_slice(&garbage);
            prop_assert_eq!(decoded(&bytes, step), expected(&bytes));
        }
    }

    #[test]
    fn a_frame_within_its_chunk_is_not_copied() {
        let mut bytes = BytesMut::new();
        let body = Bytes::from(vec![7; 500]);
        Frame::Publish(wire::Publish::default(), body.clone()).encode(&mut bytes);
        let (mut decoder, chunk) = (Decoder::new(FRAME_BYTES_MAX), bytes.freeze());
        decoder.push(chunk.clone());
        let Ok(Some(Frame::Publish(_, taken))) = decoder.next_frame() else { panic!("a whole frame is there") };
        assert_eq!(taken, body);
        assert!(chunk.as_ptr_range().contains(&taken.as_ptr()));
    }
}
