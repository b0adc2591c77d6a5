//! A policy bound to a group: it goes on after faults, until there were too many.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::Timestamp;
use sluicegate_scheduler::{Ask, Plan};

use super::briefing::{Briefing, Directory};
use super::compiled::CompiledPolicy;
use super::fault::PolicyFault;
use super::instance::{Init, PolicyInstance, StateBlob};

/// Frames after which a snapshot is taken.
const SNAPSHOT_FRAMES: u32 = 1_000;
/// Time after which a snapshot is taken.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(10);
/// Faults within [`STRIKES_WITHIN`] that open the breaker.
const STRIKES_MAX: usize = 3;
/// See [`STRIKES_MAX`].
const STRIKES_WITHIN: Duration = Duration::from_mins(1);

/// A fault, counted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault} (strike {strikes} in a minute)")]
pub(crate) struct Strike {
    /// What happened.
    pub(crate) fault: PolicyFault,
    /// Faults in the last minute, this one included.
    pub(crate) strikes: usize,
    /// There were too many, or no new instance could be made: unbind the policy.
    pub(crate) open: bool,
}

/// What a shard keeps for a group with a policy.
pub(crate) struct BoundPolicy {
    compiled: Arc<CompiledPolicy>,
    config: String,
    init: Init,
    bound_at: Timestamp,
    /// None after a restart failed.
    instance: Option<PolicyInstance>,
    /// What the instance knows by name.
    briefing: Briefing,
    snapshot: Option<StateBlob>,
    snapshot_at: Timestamp,
    frames_since: u32,
    strikes: VecDeque<Timestamp>,
}

impl BoundPolicy {
    /// Starts a policy for a group, from the state of the one before if that is of the same name. The second value says
    /// whether the state was carried over. The policy before may go on deciding if this fails.
    ///
    /// # Errors
    /// The policy refuses its configuration, or fails in its first call.
    pub(crate) fn new(
        compiled: Arc<CompiledPolicy>,
        config: &str,
        init: Init,
        previous: Option<&mut Self>,
    ) -> Result<(Self, bool), PolicyFault> {
        let snapshot = previous.and_then(|previous| previous.state_for(&compiled));
        let (instance, carried) = start(&compiled, &init, config, snapshot.as_ref())?;
        let snapshot = snapshot.filter(|_| carried);
        let now = init.now;
        let bound = Self {
            compiled,
            config: config.into(),
            init,
            bound_at: now,
            instance: Some(instance),
            briefing: Briefing::default(),
            snapshot,
            snapshot_at: now,
            frames_since: 0,
            strikes: VecDeque::new(),
        };
        Ok((bound, carried))
    }

    /// The policy.
    pub(crate) fn compiled(&self) -> &Arc<CompiledPolicy> {
        &self.compiled
    }

    /// Since when it decides; what was said before was said by another.
    pub(crate) const fn bound_at(&self) -> Timestamp {
        self.bound_at
    }

    /// Has the policy decide. After a fault a new instance, restored from the last snapshot, answers later asks.
    ///
    /// # Errors
    /// [`Strike`]: this ask has no answer. If it is open, the policy has to be unbound.
    pub(crate) fn ask(&mut self, now: Timestamp, ask: &Ask, directory: &mut dyn Directory) -> Result<Plan, Strike> {
        self.try_ask(now, ask, directory).map_err(|fault| self.strike(now, fault))
    }

    fn try_ask(&mut self, now: Timestamp, ask: &Ask, directory: &mut dyn Directory) -> Result<Plan, PolicyFault> {
        let instance = self.instance.as_mut().ok_or(PolicyFault::Poisoned)?;
        let question = self.briefing.question(self.compiled.descriptor(), ask, directory);
        let plan = instance.answer(&question)?;
        self.frames_since += 1;
        if self.frames_since >= SNAPSHOT_FRAMES || now.since(self.snapshot_at) >= SNAPSHOT_EVERY {
            self.frames_since = 0;
            self.snapshot_at = now;
            self.snapshot = instance.snapshot()?.or(self.snapshot.take());
        }
        Ok(plan)
    }

    /// Names or labels changed: what the policy was told is told again.
    pub(crate) fn tell_names_again(&mut self) {
        self.briefing.tell_names_again();
    }

    /// Counts a fault and puts a new instance in the place of the one that failed.
    fn strike(&mut self, now: Timestamp, fault: PolicyFault) -> Strike {
        self.strikes.retain(|at| now.since(*at) < STRIKES_WITHIN);
        self.strikes.push_back(now);
        self.instance = None;
        self.init.now = now;
        let restarted = start(&self.compiled, &self.init, &self.config, self.snapshot.as_ref());
        let strikes = self.strikes.len();
        let open = strikes >= STRIKES_MAX || restarted.is_err();
        self.instance = restarted.ok().map(|(instance, _)| instance);
        self.briefing = Briefing::default();
        if open {
            self.compiled.broke(&self.init.group, &self.config, &fault);
        }
        Strike { fault, strikes, open }
    }

    /// The newest state for a policy that takes this one's place.
    fn state_for(&mut self, next: &CompiledPolicy) -> Option<StateBlob> {
        if self.compiled.descriptor().name != next.descriptor().name || next.descriptor().state_schema == 0 {
            return None;
        }
        let fresh = self.instance.as_mut().and_then(|instance| instance.snapshot().ok().flatten());
        if fresh.is_some() {
            self.snapshot.clone_from(&fresh);
        }
        self.snapshot.clone()
    }
}

/// A new instance, and whether it goes on from the state: one that it refuses, or fails on, means a cold start.
fn start(
    compiled: &Arc<CompiledPolicy>,
    init: &Init,
    config: &str,
    state: Option<&StateBlob>,
) -> Result<(PolicyInstance, bool), PolicyFault> {
    let mut instance = compiled.instantiate(init, config)?;
    let Some(state) = state else {
        return Ok((instance, false));
    };
    match instance.restore(state) {
        Ok(Ok(())) => Ok((instance, true)),
        Ok(Err(text)) => {
            tracing::warn!(group = init.group, policy = compiled.descriptor().name, "policy starts cold: {text}");
            Ok((instance, false))
        }
        Err(fault) => {
            tracing::warn!(group = init.group, policy = compiled.descriptor().name, "policy starts cold: {fault}");
            Ok((compiled.instantiate(init, config)?, false))
        }
    }
}
