//! Every limit that a peer can meet, in one place. All are inclusive maxima.
//!
//! A limit that an operator may change is a setting of the broker; its default is here.

use std::time::Duration;

/// Bytes of a QUIC datagram, where the path carries it; paths with less are found out by MTU discovery. Quinn hands the
/// system ten datagrams as one, which may have 65,507 bytes: were it more, the system would refuse it, and quinn would
/// take that for the loss of all ten, and after some for a path that carries the smallest datagrams only.
pub const DATAGRAM_BYTES_MAX: u16 = 6_550;
/// Bytes that the system keeps of datagrams which an endpoint has not read yet, where it allows so many. With its usual 208 KiB
/// a burst loses some, and QUIC takes losses of large datagrams for a path that carries small ones only.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Bytes of a topic or group name.
pub const NAME_BYTES_MAX: usize = 127;
/// Bytes of a lite topic name.
pub const LITE_NAME_BYTES_MAX: usize = 255;
/// Bytes of a request's id, and of the name of who asks.
pub const REQUEST_NAME_BYTES_MAX: usize = 64;
/// Bytes of a frame after its length field. Larger bodies travel on a stream of their own.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of the first frame on a stream, whose sender is not known yet.
pub const HELLO_BYTES_MAX: usize = 16 << 10;
/// Leases in a Welcome or Held frame: even with the longest names they stay below the header's limit.
pub const HELD_PER_FRAME: usize = 512;
/// Bytes of a frame's protobuf header.
pub const HEADER_BYTES_MAX: usize = 256 << 10;
/// Bytes of a message body that travels inside a frame with its message, and of each part of a larger one.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;
/// Bytes in which the parts of a larger body are best sent, all but the last: the broker stores them as they come. An allocator keeps
/// pieces of up to 64 KiB in pages of half a megabyte, and larger ones in pages of four, of which each thread has some.
pub const UPLOAD_CHUNK_BYTES: usize = 48 << 10;
/// Bytes of a message body, unless the broker's `max_body_bytes` says otherwise.
pub const BODY_BYTES_DEFAULT: u64 = 64 << 20;
/// Highest `max_body_bytes`.
pub const BODY_BYTES_MAX: u64 = 256 << 20;
/// Uploads of one connection at once. While none of them is read, the connection has room for its other streams.
pub const UPLOADS_PER_CONNECTION_MAX: u32 = 4;
/// Large bodies that one connection may fetch at once.
pub const FETCHES_PER_CONNECTION_MAX: u32 = 64;
/// How long an upload may bring nothing.
pub const UPLOAD_IDLE_MAX: Duration = Duration::from_mins(1);
/// Properties of one message.
pub const PROPERTIES_MAX: usize = 64;
/// What the names of those properties of a lite topic's first message start with that become its labels.
pub const LABEL_PREFIX: &str = "label.";
/// Labels of a lite topic or a tenant.
pub const LABELS_MAX: usize = 16;
/// Bytes of a label's key.
pub const LABEL_KEY_BYTES_MAX: usize = 64;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES_MAX: usize = 256;
/// Bytes of all labels of a lite topic or a tenant.
pub const LABELS_BYTES_MAX: usize = 1_024;
/// Tenants to which a group gives labels.
pub const LABELLED_TENANTS_MAX: usize = 1_000;
/// Bytes of all property keys and values of one message together.
pub const PROPERTY_BYTES_MAX: usize = 16 << 10;
/// Bytes of a user's idempotency key.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;
/// Shortest time for which a topic remembers idempotency keys.
pub const IDEMPOTENCY_WINDOW_MIN: Duration = Duration::from_secs(1);
/// Longest time for which a topic remembers idempotency keys.
pub const IDEMPOTENCY_WINDOW_MAX: Duration = Duration::from_hours(7 * 24);
/// Time for which a topic that says nothing remembers idempotency keys.
pub const IDEMPOTENCY_WINDOW_DEFAULT: Duration = Duration::from_mins(10);
/// Highest message priority; 9 is served first.
pub const PRIORITY_MAX: u8 = 9;
/// Priority of a message that names none.
pub const PRIORITY_DEFAULT: u8 = 4;
/// Cost estimate of a message that names none.
pub const COST_DEFAULT: u64 = 1;
/// Highest cost of one message, estimated or measured.
pub const COST_MAX: u64 = 1 << 40;
/// Settles or extensions in one frame.
pub const SETTLES_PER_FRAME_MAX: usize = 1_024;
/// Publishes that a producer may have without a reply.
pub const UNACKNOWLEDGED_PUBLISHES_MAX: usize = 8_192;
/// How long after a producer's last publish its resends are recognised, at least.
pub const RESENDS_KNOWN_FOR: Duration = Duration::from_hours(24);
/// Credit in messages that a consumer may hold.
pub const CREDIT_MESSAGES_MAX: u32 = 65_536;
/// Readers of one connection at once. Each has a stream, beside the streams that a connection has for all else.
pub const READERS_PER_CONNECTION_MAX: u32 = 16_384;
/// Readers of all connections at once.
pub const READERS_MAX: u32 = 262_144;
/// Credit in bytes that a reader may hold.
pub const READ_CREDIT_BYTES_MAX: u64 = 4 << 20;
/// Credit that a message takes beside the bytes of its body and its properties.
pub const READ_OVERHEAD_BYTES: u64 = 64;
/// Names and prefixes in one Subscribe, Unsubscribe or Lost frame: even the longest stay below the header's limit.
pub const SUBSCRIPTIONS_PER_FRAME_MAX: usize = 512;
/// Lite topics that one session may subscribe to by name.
pub const SUBSCRIBED_LITES_MAX: usize = 262_144;
/// Prefixes that one session may subscribe to.
pub const SUBSCRIBED_PREFIXES_MAX: usize = 1_024;
/// Names and prefixes that all sessions of a group together may subscribe to.
pub const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 1 << 21;
/// How far past the lowest unsettled offset a lite topic may have leases.
pub const SETTLE_WINDOW: u64 = 1_024;
/// Shortest time for which a session that comes by requests may be silent.
pub const SESSION_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest such time.
pub const SESSION_TIMEOUT_MAX: Duration = Duration::from_hours(1);
/// Shortest suspension.
pub const SUSPEND_MIN: Duration = Duration::from_millis(1);
/// Longest suspension and longest retry delay.
pub const SUSPEND_MAX: Duration = Duration::from_hours(30 * 24);
/// How long a policy may keep a tenant's work back without a word, unless its group says otherwise.
pub const WATCHDOG_DEFAULT: Duration = Duration::from_secs(30);
/// Shortest such time.
pub const WATCHDOG_MIN: Duration = Duration::from_secs(1);
/// Longest such time, where there is one.
pub const WATCHDOG_MAX: Duration = Duration::from_hours(24);
/// Shortest time after which a lite topic's life ends by itself.
pub const RECLAIM_MIN: Duration = Duration::from_secs(1);
/// Longest time after which a lite topic's life ends by itself, if it is to end at all.
pub const RECLAIM_MAX: Duration = Duration::from_hours(3_650 * 24);
/// Rows of a page that names no limit.
pub const PAGE_ROWS_DEFAULT: u32 = 100;
/// Rows of a page.
pub const PAGE_ROWS_MAX: u32 = 1_000;
/// Lite topics in a list of a group's waiters that names no limit; with one, at most [`PAGE_ROWS_MAX`].
pub const WAITERS_DEFAULT: u32 = 10;
/// Messages of a peek that names no limit.
pub const PEEK_MESSAGES_DEFAULT: u32 = 10;
/// Messages of a peek.
pub const PEEK_MESSAGES_MAX: u32 = 100;
/// Bytes of each body that a peek shows.
pub const PEEK_BODY_BYTES_MAX: usize = 4 << 10;
/// Bytes of a reason text in a settle.
pub const REASON_BYTES_MAX: usize = 256;
/// Bytes of a Wasm policy that is uploaded.
pub const POLICY_BYTES_MAX: usize = 1 << 20;
/// Bytes of a policy's configuration text.
pub const POLICY_CONFIG_BYTES_MAX: usize = 64 << 10;
/// Highest rate of a quota, in units per second; keeps GCRA's arithmetic inside 64 bits.
pub const RATE_PER_SECOND_MAX: u64 = 1_000_000_000;
/// Largest burst of a quota, in units.
pub const BURST_MAX: u32 = u32::MAX;
/// Lowest and highest weight of a tenant.
pub const WEIGHT_MAX: u32 = 10_000;
