//! One guest at work for one group in one shard.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluicegate_protocol::Timestamp;
use sluicegate_protocol::limits::POLICY_CONFIG_BYTES_MAX;
use sluicegate_scheduler::Plan;
use wasmtime::Store;

use super::briefing::{LITE, News, Question, TENANT};
use super::compiled::CompiledPolicy;
use super::fault::PolicyFault;
use super::guest::{Guest, GuestLog, LogLine};
use super::limits::{Budget, STATE_BYTES_MAX};
use super::program::Running;
use super::translate;
use super::types;
use super::wit::Policy;

/// For whom an instance decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Init {
    /// Name of the group.
    pub(crate) group: String,
    /// Number of the shard.
    pub(crate) shard: u16,
    /// The same for the same group and shard.
    pub(crate) seed: u64,
    /// When it starts to decide.
    pub(crate) now: Timestamp,
}

/// A policy's own state. At most 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBlob {
    /// Its format, the policy's own numbering from 1.
    pub schema: u32,
    /// Opaque.
    #[serde(with = "super::base64_text")]
    pub data: Vec<u8>,
}

/// A guest that decides. After a fault it answers [`PolicyFault::Poisoned`] for good.
pub(crate) struct PolicyInstance {
    compiled: Arc<CompiledPolicy>,
    running: Running,
}

impl PolicyInstance {
    pub(super) fn start(compiled: Arc<CompiledPolicy>, init: &Init, config: &str) -> Result<Self, PolicyFault> {
        if config.len() > POLICY_CONFIG_BYTES_MAX {
            let bytes = config.len();
            return Err(PolicyFault::Config(format!("config has {bytes} bytes, at most {POLICY_CONFIG_BYTES_MAX}")));
        }
        let log = GuestLog::of(&init.group, &compiled.descriptor.name, init.now);
        let mut running = compiled.program.start(log)?;
        let binding = types::Binding {
            group: init.group.clone(),
            shard: init.shard.into(),
            seed: init.seed,
            now_us: init.now.as_micros(),
        };
        let started = running.call(Budget::RARE, |policy, store| {
            policy.sluicegate_policy_lifecycle().call_init(store, &binding, config)
        })?;
        started.map_err(PolicyFault::Config)?;
        Ok(Self { compiled, running })
    }

    /// Has the policy decide. It must have been told what the questions before told it. Answers what it said, word for word, and the plan
    /// that this is.
    ///
    /// # Errors
    /// [`PolicyFault`]; the instance is of no use after it.
    pub(super) fn say(&mut self, question: &Question) -> Result<(types::Plan, Plan), PolicyFault> {
        self.say_within(Budget::ask(question.rows()), question)
    }

    /// The same within another budget.
    ///
    /// # Errors
    /// [`PolicyFault`]; the instance is of no use after it.
    pub(super) fn say_within(
        &mut self,
        budget: Budget,
        question: &Question,
    ) -> Result<(types::Plan, Plan), PolicyFault> {
        let Question { news, feedback, frame } = question;
        self.running.log().now = Timestamp(frame.now_us);
        let said = self.running.call(budget, |policy, store| {
            tell(policy, &mut *store, news)?;
            let scheduler = policy.sluicegate_policy_scheduler();
            if !feedback.is_empty() {
                scheduler.call_observe(&mut *store, feedback)?;
            }
            scheduler.call_decide(store, frame)
        })?;
        let plan = translate::plan(&said, frame, self.compiled.descriptor.reasons.len());
        plan.map(|plan| (said, plan)).map_err(|text| self.bad(text))
    }

    /// Tells the policy names without asking it anything.
    ///
    /// # Errors
    /// [`PolicyFault`]; the instance is of no use after it.
    pub(super) fn tell(&mut self, news: &News) -> Result<(), PolicyFault> {
        self.running.call(Budget::ask(news.rows()), |policy, store| tell(policy, store, news))
    }

    /// The policy's state, or `None` if it keeps none.
    ///
    /// # Errors
    /// [`PolicyFault`]; the instance is of no use after it.
    pub(crate) fn snapshot(&mut self) -> Result<Option<StateBlob>, PolicyFault> {
        if self.compiled.descriptor.state_schema == 0 {
            return Ok(None);
        }
        let taken = self
            .running
            .call(Budget::RARE, |policy, store| policy.sluicegate_policy_lifecycle().call_snapshot(store))?;
        match taken {
            Ok(blob) if blob.data.len() > STATE_BYTES_MAX => {
                Err(self.bad(format!("a state of {} bytes, at most {STATE_BYTES_MAX} are kept", blob.data.len())))
            }
            Ok(types::StateBlob { schema, data }) => Ok(Some(StateBlob { schema, data })),
            Err(_) => Ok(None),
        }
    }

    /// Has the policy go on from an earlier state, before the first ask. The inner error is its own refusal: it starts cold.
    ///
    /// # Errors
    /// [`PolicyFault`]; the instance is of no use after it.
    pub(crate) fn restore(&mut self, state: &StateBlob) -> Result<Result<(), String>, PolicyFault> {
        let blob = types::StateBlob { schema: state.schema, data: state.data.clone() };
        self.running.call(Budget::RARE, |policy, store| policy.sluicegate_policy_lifecycle().call_restore(store, &blob))
    }

    /// The fuel that the last call had.
    pub(crate) fn fuel_max(&self) -> u64 {
        self.running.fuel_max()
    }

    /// Bytes of its memory.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.running.memory_bytes()
    }

    /// The fuel that the last call used.
    pub(crate) fn fuel_used(&self) -> u64 {
        self.running.fuel_used()
    }

    /// What the policy wrote into the log last, oldest first.
    pub(super) fn last_words(&mut self) -> Vec<LogLine> {
        self.running.log().last_words.iter().cloned().collect()
    }

    fn bad(&mut self, text: String) -> PolicyFault {
        self.running.poison();
        PolicyFault::BadAnswer(text)
    }

    #[cfg(test)]
    pub(super) fn running(&mut self) -> &mut Running {
        &mut self.running
    }
}

fn tell(policy: &Policy, store: &mut Store<Guest>, news: &News) -> wasmtime::Result<()> {
    let lifecycle = policy.sluicegate_policy_lifecycle();
    let News { forgotten_tenants, forgotten_lites, learnt } = news;
    if !forgotten_tenants.is_empty() {
        lifecycle.call_forget(&mut *store, TENANT, forgotten_tenants)?;
    }
    if !forgotten_lites.is_empty() {
        lifecycle.call_forget(&mut *store, LITE, forgotten_lites)?;
    }
    if !learnt.is_empty() {
        lifecycle.call_learn(store, learnt)?;
    }
    Ok(())
}
