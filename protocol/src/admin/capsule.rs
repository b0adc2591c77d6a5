//! What a policy's faults leave behind.

use serde::{Deserialize, Serialize};

use crate::{GroupName, Timestamp};

/// [`CapsuleHeader::format`].
pub const CAPSULE_FORMAT: &str = "sluicegate-capsule";
/// The [`CapsuleHeader::version`] that is written and read.
pub const CAPSULE_VERSION: u32 = 1;

/// The first line of a capsule: which policy failed for whom, and how. The lines after it are what `sluice policy replay` goes by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsuleHeader {
    /// [`CAPSULE_FORMAT`].
    pub format: String,
    /// [`CAPSULE_VERSION`].
    pub version: u32,
    /// Names the capsule: when, for which group, and the number of the frame.
    pub id: String,
    /// When the policy failed.
    pub at: Timestamp,
    /// Version of the broker.
    pub broker: String,
    /// Version of the contract between broker and policy.
    pub contract: String,
    /// The group's name.
    pub group: String,
    /// Number of the shard.
    pub shard: u16,
    /// The seed that the policy was given.
    pub seed: u64,
    /// Whether it decided.
    pub role: PolicyRole,
    /// The policy.
    pub policy: CapsulePolicy,
    /// What happened, in words.
    pub fault: String,
    /// Its faults within a minute, this one included.
    pub strikes: u32,
    /// Frames that it answered since the state that the capsule begins with.
    pub questions: u64,
    /// Frames before those that are missing, since there were too many: the plans then need not be the same again.
    pub questions_cut: u64,
    /// Names that are missing, since there were too many.
    pub names_cut: u64,
    /// What it was allowed.
    pub limits: CapsuleLimits,
}

/// What a policy was for a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyRole {
    /// It decided.
    #[default]
    Deciding,
    /// It was asked too, and its answers were compared.
    Shadow,
}

/// A policy that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsulePolicy {
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
    /// Its own name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Its configuration, as text.
    pub config: String,
    /// The message properties that its frames have as columns.
    pub wants: Vec<String>,
}

/// What a policy is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapsuleLimits {
    /// Bytes of linear memory.
    pub memory_bytes: u64,
    /// Fuel of a call.
    pub fuel: u64,
    /// Fuel for each row, name and outcome beside that.
    pub fuel_per_row: u64,
    /// Milliseconds of a call.
    pub deadline_ms: u64,
}

/// A capsule that the broker keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capsule {
    /// Its first line.
    #[serde(flatten)]
    pub header: CapsuleHeader,
    /// Its size.
    pub bytes: u64,
}

/// Which capsules to list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CapsuleQuery {
    /// Those of this group; all without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
}

/// A fault of a group's policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStrike {
    /// When.
    pub at: Timestamp,
    /// Which policy, by its digest.
    pub digest: String,
    /// What happened.
    pub fault: String,
    /// The capsule that it left.
    pub capsule: String,
}
