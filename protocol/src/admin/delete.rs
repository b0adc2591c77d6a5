//! The end of topics and groups.

use serde::{Deserialize, Serialize};

use crate::{GroupName, TopicName};

/// What becomes of what hangs on something that is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dependents {
    /// It stays; where it could not, the deletion is refused.
    #[default]
    Keep,
    /// It is deleted too.
    Delete,
}

/// How to delete a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteGroup {
    /// What becomes of its dead-letter topic; default `keep`.
    pub dead_letters: Dependents,
}

/// A group that is gone. What is left of its rows is removed in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedGroup {
    /// The name that it had.
    pub name: GroupName,
    /// Leases that were open: their messages are no longer this group's.
    pub leases: u64,
    /// Topics of dead letters that are gone with it.
    pub dead_letter_topics: Vec<TopicName>,
}

/// How to delete a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteTopic {
    /// What becomes of the groups that consume it or its dead letters; default `keep`: with any, the deletion is refused.
    pub groups: Dependents,
}

/// A topic that is gone, with its dead letters. What is left of their rows is removed in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedTopic {
    /// The name that it had.
    pub name: TopicName,
    /// Lite topics that it had, those of its dead letters included.
    pub lite_topics: u64,
    /// Groups that are gone with it.
    pub groups: Vec<GroupName>,
    /// Topics of dead letters that are gone with it.
    pub dead_letter_topics: Vec<TopicName>,
}
