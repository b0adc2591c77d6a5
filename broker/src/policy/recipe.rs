//! How a guest is made.

use std::sync::Arc;

use sluicegate_protocol::Timestamp;

use super::compiled::CompiledPolicy;
use super::fault::PolicyFault;
use super::instance::{Init, PolicyInstance, StateBlob};

/// Of what a guest is made, for whom, and with which configuration.
#[derive(Clone)]
pub(crate) struct Recipe {
    pub(crate) compiled: Arc<CompiledPolicy>,
    pub(crate) config: Arc<str>,
    pub(crate) init: Init,
}

/// A new guest.
pub(super) struct Made {
    pub(super) instance: PolicyInstance,
    /// It goes on from the state that was given.
    pub(super) carried: bool,
}

impl Recipe {
    /// The same for a guest that starts now.
    pub(super) fn at(&self, now: Timestamp) -> Self {
        Self { init: Init { now, ..self.init.clone() }, ..self.clone() }
    }

    /// Takes up to [`Budget::RARE`](super::limits::Budget::RARE) twice: not for a shard.
    ///
    /// # Errors
    /// The policy refuses its configuration, or fails in its first call.
    pub(super) fn make(&self, state: Option<&StateBlob>) -> Result<Made, PolicyFault> {
        let instance = self.compiled.instantiate(&self.init, &self.config)?;
        self.go_on(instance, state)
    }

    /// Has a guest that was just made go on from this state. One that refuses it, or fails on it, starts cold.
    ///
    /// # Errors
    /// As for [`Self::make`].
    pub(super) fn go_on(&self, mut instance: PolicyInstance, state: Option<&StateBlob>) -> Result<Made, PolicyFault> {
        let Some(state) = state else { return Ok(Made { instance, carried: false }) };
        let (group, policy) = (&self.init.group, &self.compiled.descriptor().name);
        match instance.restore(state) {
            Ok(Ok(())) => Ok(Made { instance, carried: true }),
            Ok(Err(text)) => {
                tracing::warn!(group, policy, "policy starts cold: {text}");
                Ok(Made { instance, carried: false })
            }
            Err(fault) => {
                tracing::warn!(group, policy, "policy starts cold: {fault}");
                let instance = self.compiled.instantiate(&self.init, &self.config)?;
                Ok(Made { instance, carried: false })
            }
        }
    }
}
