//! Frames as they come from a stream.

use bytes::{Bytes, BytesMut};
use sluicegate_protocol::decoder::Decoder;
use sluicegate_protocol::frame::{self, Frame, FrameError};
use sluicegate_protocol::limits::FRAME_BYTES_MAX;

use crate::heap;

/// Memory for each byte of a stream: a delivery that says nothing is two bytes in a frame, and a struct after it.
const BYTES_PER_BYTE_MAX: usize = 768;
/// Memory beside that: room for a frame whose length was announced.
const BYTES_BESIDE_MAX: usize = FRAME_BYTES_MAX + (64 << 10);

type Decoded = (Vec<Frame>, Result<(), FrameError>);

/// The first byte says in which pieces the rest comes.
///
/// # Panics
/// Something does not hold.
pub fn check(bytes: &[u8]) {
    let Some((step, stream)) = bytes.split_first() else { return };
    let (in_pieces, peak) = heap::peak(|| decoded(stream, usize::from(*step) + 1));
    let allowed = stream.len() * BYTES_PER_BYTE_MAX + BYTES_BESIDE_MAX;
    assert!(peak <= allowed, "{} bytes took {peak} bytes of memory", stream.len());
    assert_eq!(in_pieces, decoded(stream, stream.len().max(1)), "the pieces matter");
    for frame in in_pieces.0 {
        let mut again = BytesMut::new();
        frame.encode(&mut again);
        assert_eq!(frame::decode(&mut again), Ok(Some(frame)));
        assert!(again.is_empty(), "a frame is longer than it says");
    }
}

/// What comes of a stream in these pieces, up to its end or its first wrong byte.
fn decoded(stream: &[u8], step: usize) -> Decoded {
    let (mut decoder, mut frames) = (Decoder::new(FRAME_BYTES_MAX), Vec::new());
    for piece in stream.chunks(step) {
        decoder.push(Bytes::copy_from_slice(piece));
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
