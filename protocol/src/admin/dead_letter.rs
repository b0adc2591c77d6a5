//! What groups could not process.

use serde::{Deserialize, Serialize};

use crate::{LiteName, Offset, Timestamp};

/// Some of a group's dead letters, by lite topic and in the order in which they came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterPage {
    /// The rows.
    pub dead_letters: Vec<DeadLetter>,
    /// Where the next page starts; absent where this is the last.
    pub next: Option<String>,
}

/// A message that a group could not process, as it is in the group's dead-letter topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its lite topic; the name is the same in both topics.
    pub lite: LiteName,
    /// Its position in the dead-letter topic.
    pub offset: Offset,
    /// Why it is here.
    pub cause: String,
    /// Deliveries before it came here.
    pub attempts: u32,
    /// The position that it had in the group's topic.
    pub origin: Offset,
    /// When it came here.
    pub at: Timestamp,
}

/// Moves dead letters back to the end of the lite topics that they came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redrive {
    /// At most so many messages, 1 to 1,000; default 100.
    pub limit: Option<u32>,
}

/// What a redrive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    /// Messages that were moved. They are new messages at the end of their lite topics, not delivered yet.
    pub moved: u64,
    /// Lite topics that were passed over, because a consumer of the dead-letter topic has a message of them leased.
    pub in_use: u64,
    /// The limit was reached before the end.
    pub more: bool,
}
