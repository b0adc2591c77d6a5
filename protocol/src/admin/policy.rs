//! Policies: what they say of themselves, what they may use, what was done with them.

use serde::{Deserialize, Serialize};

use super::Policy;
use crate::{GroupName, Timestamp};

/// Answer of `GET …/policies/{digest}`: an uploaded policy, and all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDetails {
    /// As in a list.
    #[serde(flatten)]
    pub policy: Policy,
    /// What it says of itself, and what it may use.
    #[serde(flatten)]
    pub description: PolicyDescription,
    /// Who did what with it, newest first: the last 32. What decided for a group is in that group's history.
    pub history: Vec<PolicyEvent>,
}

/// What a policy says of itself, and what it may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyDescription {
    /// The version of the contract that it was built for.
    pub contract: String,
    /// JSON Schema of its configuration, as text; empty for none.
    pub config_schema: String,
    /// Texts of the reasons that it gives.
    pub reasons: Vec<String>,
    /// Numeric message properties that it is told.
    pub wants: Vec<String>,
    /// It learns the labels of lite topics.
    pub learns_lite_topics: bool,
    /// Format of the state that it keeps; 0 for none.
    pub state_schema: u32,
    /// Bytes of the code that it was compiled to.
    pub code_bytes: u64,
    /// What it may use.
    pub limits: PolicyLimits,
}

/// What a policy may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLimits {
    /// Memory of an instance: one per group that it decides for.
    pub memory_bytes: u64,
    /// Stack of an instance.
    pub stack_bytes: u64,
    /// Wasm instructions, roughly, for one frame.
    pub fuel_per_frame: u64,
    /// The same for each row of a frame, on top.
    pub fuel_per_row: u64,
    /// Milliseconds for one frame, whatever the fuel.
    pub deadline_ms: u64,
    /// State that is kept of it.
    pub state_bytes: u64,
    /// Its configuration.
    pub config_bytes: u64,
}

/// Something that was done with a policy, whoever it decides for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyEvent {
    /// When.
    pub at: Timestamp,
    /// Who did it: the name of a token, or the address of a peer without one; `broker` for a quarantine.
    pub by: String,
    /// What.
    pub act: PolicyAct,
    /// The group for which it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
    /// How it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

/// What may be done with a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyAct {
    /// It was uploaded.
    Upload,
    /// It failed too often: nobody may be given to it.
    Quarantine,
    /// It may be activated again.
    Release,
}

/// Asks what an upload, and an activation with this configuration, would say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatePolicy {
    /// The component's bytes in base64 (RFC 4648, padded).
    pub component: String,
    /// The configuration, as the policy documents it; empty for its defaults.
    #[serde(default)]
    pub config: String,
    /// The group that it is meant for; any, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupName>,
}

/// Nothing is wrong with a component and a configuration: an instance started. No policy was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidatedPolicy {
    /// SHA-256 of the component, 64 hexadecimal digits: the name that it would have.
    pub digest: String,
    /// Its own name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Size of the component.
    pub bytes: u64,
    /// What it says of itself, and what it may use.
    #[serde(flatten)]
    pub description: PolicyDescription,
}

/// Gives the policy that decides for a group another configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigurePolicy {
    /// The configuration, as the policy documents it; empty for its defaults.
    #[serde(default)]
    pub config: String,
}
