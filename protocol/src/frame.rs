//! Frames: the unit that travels on a stream.
//!
//! ```text
//! length u32 | type u8 | header length u32 | header (protobuf) | body (raw)
//! ```
//!
//! Numbers are big-endian; `length` counts everything after itself. [`decode`] takes whole frames
//! off the front of a buffer and never trusts a length before it is checked.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::limits::{FRAME_BYTES_MAX, HEADER_BYTES_MAX};
use crate::wire;

pub(crate) const LENGTH_BYTES: usize = 4;
/// Type and header length.
pub(crate) const FIXED_BYTES: usize = 5;

/// Bytes that are not a frame. The stream they came on cannot be read further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is above the limit.
    #[error("frame of {bytes} bytes, at most {max} are allowed")]
    TooLarge {
        /// Announced bytes.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The announced length has no room for type and header length.
    #[error("frame of {bytes} bytes is shorter than its fixed part of {FIXED_BYTES} bytes")]
    TooShort {
        /// Announced bytes.
        bytes: usize,
    },
    /// The header is longer than the frame or its limit.
    #[error("header of {bytes} bytes in a frame of type {frame_type}, at most {max} fit")]
    HeaderTooLarge {
        /// The frame's type number.
        frame_type: u8,
        /// Announced header bytes.
        bytes: usize,
        /// What would fit.
        max: usize,
    },
    /// A type number that this version does not know.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The header is not the protobuf message of its type.
    #[error("header of a {frame} frame: {problem}")]
    Header {
        /// Name of the frame type.
        frame: &'static str,
        /// What protobuf says.
        problem: String,
    },
    /// A body on a frame type that has none.
    #[error("{frame} frame has a body of {bytes} bytes, none is allowed")]
    UnexpectedBody {
        /// Name of the frame type.
        frame: &'static str,
        /// Bytes of the body.
        bytes: usize,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame, after {bytes} of its bytes")]
    Truncated {
        /// Bytes that did arrive.
        bytes: usize,
    },
}

macro_rules! frames {
    ($($(#[$doc:meta])* $name:ident = $number:literal $body:ident;)*) => {
        /// One frame, header and body.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Frame {
            $($(#[$doc])* $name(wire::$name, frames!(@type $body)),)*
        }

        impl Frame {
            /// The frame's name, as documentation and errors write it.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(..) => stringify!($name),)* }
            }

            /// Appends the frame's bytes.
            pub fn encode(&self, out: &mut BytesMut) {
                match self {
                    $(Self::$name(header, body) => {
                        encode_parts(out, $number, header, std::iter::once(frames!(@bytes $body body)));
                    })*
                }
            }

            fn from_parts(frame_type: u8, header: Bytes, body: Bytes) -> Result<Self, FrameError> {
                match frame_type {
                    $($number => {
                        let problem = |error: prost::DecodeError| FrameError::Header {
                            frame: stringify!($name),
                            problem: error.to_string(),
                        };
                        let header = wire::$name::decode(header).map_err(problem)?;
                        Ok(Self::$name(header, frames!(@take $body stringify!($name), body)))
                    })*
                    unknown => Err(FrameError::UnknownType(unknown)),
                }
            }
        }

        fn is_known(frame_type: u8) -> bool {
            matches!(frame_type, $($number)|*)
        }
    };
    (@type body) => { Bytes };
    (@type bare) => { () };
    (@bytes body $body:ident) => { &$body[..] };
    (@bytes bare $body:ident) => { { let () = $body; &[][..] } };
    (@take body $name:expr, $body:ident) => { $body };
    (@take bare $name:expr, $body:ident) => {
        if !$body.is_empty() {
            return Err(FrameError::UnexpectedBody { frame: $name, bytes: $body.len() });
        }
    };
}

frames! {
    /// Client, first on a stream.
    Hello = 1 bare;
    /// Producer: one message.
    Publish = 2 body;
    /// Consumer: room for more.
    Credit = 3 bare;
    /// Consumer: leases end.
    Settle = 4 bare;
    /// Consumer: leases live on.
    Extend = 5 bare;
    /// Client: orderly end.
    Close = 6 bare;
    /// Consumer: also these lite topics.
    Subscribe = 7 bare;
    /// Consumer: no longer these lite topics.
    Unsubscribe = 8 bare;
    /// Upload: the message whose body follows in chunks.
    Upload = 9 bare;
    /// Either side: the next part of a large body.
    Chunk = 10 body;
    /// Reader: room for more bytes.
    ReadCredit = 11 bare;
    /// Broker, first on a stream.
    Welcome = 64 bare;
    /// Broker: refusal.
    Error = 65 bare;
    /// Broker: publish replies.
    Published = 66 bare;
    /// Broker: leases, their bodies one after the other.
    Deliveries = 67 body;
    /// Broker: settle reply.
    Settled = 68 bare;
    /// Broker: extend reply.
    Extended = 69 bare;
    /// Broker: no new leases will come.
    Draining = 70 bare;
    /// Broker, after Welcome: leases that the session holds from before.
    Held = 71 bare;
    /// Broker: reply to Subscribe and Unsubscribe.
    Subscribed = 72 bare;
    /// Broker: lite topics that went to a newer subscriber.
    Lost = 73 bare;
    /// Broker: messages for a reader, their bodies one after the other.
    Messages = 74 body;
    /// Broker: a reader has all that there was.
    ReadEnd = 75 bare;
    /// Broker: nobody wants what a lease is for.
    Cancel = 76 bare;
}

/// Appends a [`Frame::Deliveries`] whose body comes in parts, so that nobody needs to put them together before.
pub fn encode_deliveries<'a>(
    out: &mut BytesMut,
    header: &wire::Deliveries,
    bodies: impl Iterator<Item = &'a [u8]> + Clone,
) {
    encode_parts(out, DELIVERIES, header, bodies);
}

/// The same of a [`Frame::Messages`].
pub fn encode_messages<'a>(
    out: &mut BytesMut,
    header: &wire::Messages,
    bodies: impl Iterator<Item = &'a [u8]> + Clone,
) {
    encode_parts(out, MESSAGES, header, bodies);
}

const DELIVERIES: u8 = 67;
const MESSAGES: u8 = 74;

fn encode_parts<'a>(
    out: &mut BytesMut,
    frame_type: u8,
    header: &impl Message,
    body: impl Iterator<Item = &'a [u8]> + Clone,
) {
    let header_bytes = header.encoded_len();
    let length = FIXED_BYTES + header_bytes + body.clone().map(<[u8]>::len).sum::<usize>();
    out.reserve(LENGTH_BYTES + length);
    out.put_u32(u32::try_from(length).expect("senders keep frames below FRAME_BYTES_MAX"));
    out.put_u8(frame_type);
    out.put_u32(u32::try_from(header_bytes).expect("a header is smaller than its frame"));
    header.encode(out).expect("a BytesMut grows as needed");
    body.for_each(|part| out.put_slice(part));
}

/// Takes one whole frame off the front of `buffer`, or none while bytes are missing.
///
/// # Errors
/// [`FrameError`] when the bytes cannot become a frame; nothing after them can be trusted.
pub fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    decode_within(buffer, FRAME_BYTES_MAX)
}

/// [`decode`] with a limit of its own.
pub(crate) fn decode_within(buffer: &mut BytesMut, max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(bytes) = announced(buffer, max)? else { return Ok(None) };
    if buffer.len() < bytes {
        buffer.reserve(bytes - buffer.len());
        return Ok(None);
    }
    take(buffer.split_to(bytes).freeze()).map(Some)
}

/// Bytes of the frame that these bytes begin, once they say so.
pub(crate) fn announced(buffer: &[u8], max: usize) -> Result<Option<usize>, FrameError> {
    let Some(length) = buffer.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > max {
        return Err(FrameError::TooLarge { bytes: length, max });
    }
    if length < FIXED_BYTES {
        return Err(FrameError::TooShort { bytes: length });
    }
    // A wrong type or header length is refused as soon as it is here, not when the body is.
    if let Some(fixed) = buffer[LENGTH_BYTES..].first_chunk::<FIXED_BYTES>() {
        check_fixed(*fixed, length)?;
    }
    Ok(Some(LENGTH_BYTES + length))
}

/// The frame in these bytes, whose fixed part was checked.
pub(crate) fn take(mut frame: Bytes) -> Result<Frame, FrameError> {
    frame.advance(LENGTH_BYTES);
    let frame_type = frame.get_u8();
    let header_bytes = frame.get_u32() as usize;
    let header = frame.split_to(header_bytes);
    Frame::from_parts(frame_type, header, frame)
}

/// Says what is wrong when the stream ends with `buffer` left over.
///
/// # Errors
/// [`FrameError::Truncated`] unless the buffer is empty.
pub fn decode_end(buffer: &BytesMut) -> Result<(), FrameError> {
    match buffer.len() {
        0 => Ok(()),
        bytes => Err(FrameError::Truncated { bytes }),
    }
}

fn check_fixed(fixed: [u8; FIXED_BYTES], length: usize) -> Result<(), FrameError> {
    let [frame_type, header @ ..] = fixed;
    if !is_known(frame_type) {
        return Err(FrameError::UnknownType(frame_type));
    }
    let bytes = u32::from_be_bytes(header) as usize;
    let max = HEADER_BYTES_MAX.min(length - FIXED_BYTES);
    if bytes > max {
        return Err(FrameError::HeaderTooLarge { frame_type, bytes, max });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encoded(frame: &Frame) -> BytesMut {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        bytes
    }

    fn any_publish() -> impl Strategy<Value = Frame> {
        let header = (any::<u64>(), ".{0,40}", proptest::option::of(0_u32..10), proptest::option::of(any::<u64>()));
        (header, proptest::collection::vec(any::<u8>(), 0..2_000)).prop_map(
            |((sequence, lite, priority, cost), body)| {
                Frame::Publish(wire::Publish { sequence, lite, priority, cost, ..Default::default() }, body.into())
            },
        )
    }

    proptest! {
        #[test]
        fn a_frame_survives_any_split_of_its_bytes(frames in proptest::collection::vec(any_publish(), 1..4), step in 1_usize..700) {
            let mut bytes = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut bytes);
            }
            let (mut buffer, mut decoded) = (BytesMut::new(), Vec::new());
            for chunk in bytes.chunks(step) {
                buffer.extend_from_slice(chunk);
                while let Some(frame) = decode(&mut buffer).unwrap() {
                    decoded.push(frame);
                }
            }
            prop_assert_eq!(decoded, frames);
            prop_assert_eq!(decode_end(&buffer), Ok(()));
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode(&mut buffer) {}
        }
    }

    #[test]
    fn what_cannot_become_a_frame_is_refused_at_once() {
        let refuse = |bytes: &[u8]| decode(&mut BytesMut::from(bytes)).unwrap_err().to_string();
        let mut bad_header = encoded(&Frame::Close(wire::Close {}, ()));
        bad_header.extend_from_slice(b"\x0a");
        bad_header[3] += 1;
        let body_on_bare = bad_header.clone();
        bad_header[8] = 1;
        insta::assert_snapshot!([
            refuse(&[0xff, 0xff, 0xff, 0xff]),
            refuse(&[0, 0, 0, 4]),
            refuse(&[0, 0, 0, 50, 200, 0, 0, 0, 1]),
            refuse(&[0, 0, 0, 50, 2, 0, 0, 1, 0]),
            refuse(&bad_header),
            refuse(&body_on_bare),
            decode_end(&BytesMut::from(&[0_u8, 0][..])).unwrap_err().to_string(),
        ].join("\n"), @r"
        frame of 4294967295 bytes, at most 1048576 are allowed
        frame of 4 bytes is shorter than its fixed part of 5 bytes
        unknown frame type 200
        header of 256 bytes in a frame of type 2, at most 45 fit
        header of a Close frame: failed to decode Protobuf message: invalid varint
        Close frame has a body of 1 bytes, none is allowed
        stream ended inside a frame, after 2 of its bytes
        ");
    }

    #[test]
    fn bodies_in_parts_make_the_same_frame() {
        let deliveries = vec![wire::Delivery { lite: "a".into(), body_bytes: 2, ..Default::default() }];
        let (header, mut in_parts) = (wire::Deliveries { deliveries }, BytesMut::new());
        encode_deliveries(&mut in_parts, &header, [&b"xy"[..], b"", b"z"].into_iter());
        assert_eq!(in_parts, encoded(&Frame::Deliveries(header, Bytes::from_static(b"xyz"))));
        let messages = vec![wire::ReadMessage { offset: 3, body_bytes: 3, ..Default::default() }];
        let (header, mut in_parts) = (wire::Messages { lite_id: 7, messages }, BytesMut::new());
        encode_messages(&mut in_parts, &header, [&b"x"[..], b"yz"].into_iter());
        assert_eq!(in_parts, encoded(&Frame::Messages(header, Bytes::from_static(b"xyz"))));
    }

    #[test]
    fn unknown_header_fields_are_ignored() {
        let mut bytes = encoded(&Frame::Credit(wire::Credit { messages: 3, load_ppm: None }, ()));
        // Field 15, varint 1: from a newer client.
        bytes.extend_from_slice(&[0x78, 0x01]);
        bytes[3] += 2;
        bytes[8] += 2;
        assert_eq!(decode(&mut bytes), Ok(Some(Frame::Credit(wire::Credit { messages: 3, load_ppm: None }, ()))));
    }
}
