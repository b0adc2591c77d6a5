//! A policy that was taken: compiled code and what it says of itself.

use std::sync::Arc;

use sluicegate_protocol::admin::PolicyRole;

use super::alarm::{Alarms, Broken};
use super::briefing::LITE;
use super::capsule::Capsule;
use super::fault::PolicyFault;
use super::guest::one_line;
use super::instance::{Init, PolicyInstance};
use super::limits::{
    CONFIG_SCHEMA_BYTES_MAX, LABEL_BYTES_MAX, PROPERTY_BYTES_MAX, REASON_BYTES_MAX, REASONS_MAX, WANTS_MAX,
};
use super::program::Program;
use super::threads::PolicyThreads;
use super::types;

/// Compiled code, shared by all groups and shards that use it.
pub(crate) struct CompiledPolicy {
    pub(super) program: Program,
    pub(super) digest: String,
    pub(super) contract: String,
    pub(super) code_bytes: usize,
    pub(super) descriptor: Descriptor,
    pub(super) alarms: Alarms,
    pub(super) threads: PolicyThreads,
}

impl CompiledPolicy {
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    /// The version of the contract that it was built for.
    pub(crate) fn contract(&self) -> &str {
        &self.contract
    }

    /// What it was compiled to.
    pub(crate) const fn code_bytes(&self) -> usize {
        self.code_bytes
    }

    /// What the policy says of itself.
    pub(crate) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The threads for what its guests do that no shard waits for.
    pub(super) fn threads(&self) -> &PolicyThreads {
        &self.threads
    }

    /// The text of an answer's reason.
    pub(crate) fn reason(&self, index: u32) -> &str {
        self.descriptor.reasons.get(index as usize).map_or("other", String::as_str)
    }

    /// Leaves a capsule to whom keeps them, and answers its id.
    pub(super) fn leave(&self, capsule: Capsule) -> String {
        let id = capsule.header().id.clone();
        self.alarms.leave(capsule);
        id
    }

    /// It may decide for the group no more, or be its shadow.
    pub(crate) fn broke(
        &self,
        role: PolicyRole,
        group: &str,
        config: &str,
        fault: &PolicyFault,
        capsule: Option<String>,
    ) {
        // It may be the guest's own words.
        let cause = one_line(&fault.to_string());
        let (group, digest, config) = (group.into(), self.digest.clone(), config.into());
        self.alarms.ring(Broken { role, group, digest, config, cause, capsule });
    }

    /// An instance for one group in one shard.
    ///
    /// # Errors
    /// [`PolicyFault::Config`] if the policy refuses its configuration.
    pub(crate) fn instantiate(self: &Arc<Self>, init: &Init, config: &str) -> Result<PolicyInstance, PolicyFault> {
        PolicyInstance::start(Arc::clone(self), init, config)
    }
}

/// What a policy says of itself, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// 1 to 64 bytes of `[A-Za-z0-9._-]`.
    pub name: String,
    /// At most 64 bytes.
    pub version: String,
    /// JSON Schema of the configuration, as text; empty for none.
    pub config_schema: String,
    /// Texts for the reasons in answers.
    pub reasons: Vec<String>,
    /// Numeric message properties that frames carry as columns.
    pub wants: Vec<String>,
    /// It learns the labels of lite topics.
    pub learns_lites: bool,
    /// Format of its snapshots; 0 if it keeps no state.
    pub state_schema: u32,
}

impl Descriptor {
    pub(super) fn parse(said: types::Descriptor) -> Result<Self, String> {
        let types::Descriptor { name, version, config_schema, reasons, wants, learns, state_schema } = said;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if name.is_empty() || name.len() > LABEL_BYTES_MAX || !name.chars().all(plain) {
            return Err(format!("its name must be 1 to {LABEL_BYTES_MAX} bytes of A-Z a-z 0-9 `.` `_` `-`"));
        }
        if version.len() > LABEL_BYTES_MAX || version.chars().any(char::is_control) {
            return Err(format!("its version must be at most {LABEL_BYTES_MAX} bytes without control characters"));
        }
        if config_schema.len() > CONFIG_SCHEMA_BYTES_MAX {
            let bytes = config_schema.len();
            return Err(format!("its config-schema has {bytes} bytes, at most {CONFIG_SCHEMA_BYTES_MAX} are taken"));
        }
        if reasons.len() > REASONS_MAX {
            return Err(format!("it has {} reasons, at most {REASONS_MAX} are taken", reasons.len()));
        }
        let bad = |reason: &&String| reason.len() > REASON_BYTES_MAX || reason.chars().any(char::is_control);
        if let Some(reason) = reasons.iter().position(|reason| bad(&reason)) {
            return Err(format!("reason {reason} must be at most {REASON_BYTES_MAX} bytes without control characters"));
        }
        if wants.len() > WANTS_MAX {
            return Err(format!("it wants {} columns, at most {WANTS_MAX} are given", wants.len()));
        }
        if let Some(want) = wants.iter().find(|want| want.is_empty() || want.len() > PROPERTY_BYTES_MAX) {
            return Err(format!("it wants property `{want}`, whose name must have 1 to {PROPERTY_BYTES_MAX} bytes"));
        }
        let learns_lites = learns.contains(&LITE);
        Ok(Self { name, version, config_schema, reasons, wants, learns_lites, state_schema })
    }
}
