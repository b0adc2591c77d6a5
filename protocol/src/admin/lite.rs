//! Lite topics as operators see and change them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{GroupName, LiteId, LiteName, Offset, Position, Timestamp, TopicName};

/// Which rows of a long list are wanted; travels as a query.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Page {
    /// Only names that start so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Only rows after this one: the `next` of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many rows, 1 to 1,000; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Some of a topic's lite topics, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LitePage {
    /// The rows, in the byte order of their names.
    pub lite_topics: Vec<LiteEntry>,
    /// Where the next page starts; absent where this is the last.
    pub next: Option<String>,
}

/// A lite topic in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteEntry {
    /// Its name.
    pub name: LiteName,
    /// Its present life.
    pub lite_id: LiteId,
    /// Whose it is.
    pub tenant: String,
    /// When this life began.
    pub created_at: Timestamp,
}

/// A lite topic as one group stands in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteTopic {
    /// Its topic.
    pub topic: TopicName,
    /// Its name.
    pub name: LiteName,
    /// Its present life.
    pub lite_id: LiteId,
    /// Whose it is.
    pub tenant: String,
    /// Lowest offset that is kept: every group has settled those before it.
    pub first_kept: Offset,
    /// Offset of the next message.
    pub next_offset: Offset,
    /// The group that the rest is about.
    pub group: GroupName,
    /// The group has settled all messages below.
    pub settled_up_to: Offset,
    /// Messages above that it has settled already; there are some only where its concurrency per lite topic is above 1, or an
    /// operator skipped them.
    pub settled_ahead: Vec<Offset>,
    /// Messages that are neither settled nor leased.
    pub backlog: u64,
    /// The message that starts next.
    pub head: Option<LiteHead>,
    /// Open leases, by offset.
    pub leases: Vec<LiteLease>,
    /// What holds new deliveries back.
    pub suspensions: Vec<Suspension>,
}

/// The message of a lite topic that starts next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteHead {
    /// Its position.
    pub offset: Offset,
    /// Deliveries of it that counted.
    pub attempts: u32,
}

/// A delivery in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteLease {
    /// The message.
    pub offset: Offset,
    /// The session that holds it, 32 hexadecimal digits.
    pub session: String,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// When the message was delivered.
    pub dispatched_at: Timestamp,
    /// When it ends unless it is extended or settled.
    pub deadline: Timestamp,
}

/// What holds new deliveries of a lite topic to a group back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspension {
    /// Who.
    pub source: SuspensionSource,
    /// From when on, without a gap; absent for one that is older than the broker's knowledge of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Until when.
    pub until: Timestamp,
}

/// Who holds a lite topic back. Each source has one deadline of its own; the last to end counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuspensionSource {
    /// An operator.
    Operator,
    /// The group's policy.
    Policy,
    /// A consumer that settled with `suspend`.
    Settle,
    /// The delay before the head is tried again.
    Retry,
}

/// Holds new deliveries of a lite topic to a group back. Replaces what an operator asked for before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuspendLite {
    /// For how long, from 1 ms to 30 days.
    pub for_ms: u64,
    /// Takes open leases away too: their messages wait again, uncounted, and their holders can no longer settle.
    #[serde(default)]
    pub revoke: bool,
}

/// Ends suspensions of a lite topic in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeLite {
    /// Only this source's; absent for all.
    pub source: Option<SuspensionSource>,
}

/// What an operator's change did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiteChange {
    /// Leases that were taken away.
    pub revoked: u64,
    /// Waiting messages that were settled without delivery.
    pub settled: u64,
    /// The lite topic afterwards.
    pub lite_topic: LiteTopic,
}

/// Moves a group to another position in a lite topic: what is before is settled, all from there on waits, and attempts
/// count from 0. There must be no open lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeekLite {
    /// Where to.
    pub to: Position,
}

/// Settles one waiting message without delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SkipMessage {
    /// Which, less than 1,024 past the first that is not settled.
    pub offset: Offset,
}

/// Messages of a lite topic as they are stored. Looking delivers nothing and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peek {
    /// In the order of their offsets.
    pub messages: Vec<PeekedMessage>,
    /// Where the next look goes on; absent at the end.
    pub next: Option<Offset>,
}

/// A message as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeekedMessage {
    /// Its position.
    pub offset: Offset,
    /// Where it is in the group.
    pub state: MessageState,
    /// When it was published.
    pub published_at: Timestamp,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// Estimated cost.
    pub cost: u64,
    /// Not delivered before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliver_at: Option<Timestamp>,
    /// Not delivered after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Its properties.
    pub properties: BTreeMap<String, String>,
    /// Bytes of its body.
    pub body_bytes: u64,
    /// The first 4 KiB of its body.
    pub body: BodyPreview,
}

/// Where a message is in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// It was not delivered yet, or came back.
    Waiting,
    /// A session works on it.
    Leased,
    /// The group is done with it; another group is not.
    Settled,
}

/// The beginning of a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyPreview {
    /// It is UTF-8, as far as it is shown.
    Text(String),
    /// It is not: the same in base64 (RFC 4648, padded).
    Base64(String),
}

/// A lite topic that is gone, with all that it held. The next message to its name begins a new life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedLite {
    /// Its name.
    pub name: LiteName,
    /// The life that ended.
    pub lite_id: LiteId,
    /// Messages that went with it.
    pub messages: u64,
    /// Leases that were taken away, in all groups.
    pub revoked: u64,
}
