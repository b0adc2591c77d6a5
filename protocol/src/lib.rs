//! What a client and a broker must agree on: names, ids, limits, units, frames, error codes.
//!
//! No I/O and no clock: bytes in, values out. The bytes of a frame are described in [`frame`], the
//! protobuf headers in `proto/sluicegate/v1/wire.proto` (generated into [`wire`]).

pub mod admin;
#[cfg(feature = "wire")]
pub mod decoder;
mod error_code;
#[cfg(feature = "wire")]
pub mod frame;
mod id;
mod idempotency_key;
pub mod limits;
mod name;
mod position;
mod rate;
mod reading;
pub mod recording;
mod request;
mod timestamp;

pub use error_code::{ErrorCode, UnknownErrorCode};
pub use id::{GroupId, LeaseToken, LiteId, Offset, ParseIdError, ProducerId, SessionId, TenantId, TopicId};
pub use idempotency_key::{IdempotencyKey, InvalidIdempotencyKey};
pub use name::{GroupName, InvalidName, LiteName, RequestId, RequesterId, TopicName};
pub use position::Position;
pub use rate::{InvalidRate, Rate};
#[cfg(feature = "wire")]
pub use reading::read_credit;
pub use reading::{END_PROPERTY, MessageId, ParseMessageIdError};
pub use request::{
    REPLY_CANCELLED, REPLY_ERROR_PROPERTY, REPLY_LITE_PROPERTY, REPLY_PREFIX, REPLY_TOPIC_PROPERTY, REQUEST_ID_PROPERTY,
};
pub use timestamp::Timestamp;

/// Protobuf headers of the wire protocol, generated from `proto/sluicegate/v1/wire.proto`.
#[cfg(feature = "wire")]
#[expect(missing_docs, reason = "generated code; the .proto file carries the documentation")]
pub mod wire {
    include!(concat!(env!("OUT_DIR"), "/sluicegate.v1.rs"));
}

/// ALPN protocol id of the QUIC listener.
pub const ALPN: &[u8] = b"sluicegate/1";

/// The protocol version that this crate speaks. A Hello names the range that its sender speaks.
pub const PROTOCOL_VERSION: u32 = 1;
