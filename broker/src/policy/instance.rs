//! One guest at work for one group in one shard.

use std::sync::Arc;

use sluicegate_protocol::limits::POLICY_CONFIG_BYTES_MAX;
use sluicegate_protocol::{LiteId, TenantId, Timestamp};
use sluicegate_scheduler::{Ask, LiteView, Plan};

use super::compiled::CompiledPolicy;
use super::fault::PolicyFault;
use super::guest::GuestLog;
use super::limits::{Budget, STATE_BYTES_MAX};
use super::names::Names;
use super::program::Running;
use super::translate;
use super::wit::{self, types};

/// [`wit::Entity::kind`] of a tenant.
const TENANT: u32 = 1;
/// [`wit::Entity::kind`] of a lite topic.
pub(super) const LITE: u32 = 2;

/// Something with a name and labels, as a policy learns it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) name: String,
    /// At most 16.
    pub(crate) labels: Vec<(String, String)>,
}

/// What a policy is told beside numbers that the scheduler has.
pub(crate) trait Directory {
    /// A tenant's name and labels.
    fn tenant(&mut self, tenant: TenantId) -> Known;

    /// Names and labels of those of these lite topics that have labels.
    fn labelled(&mut self, lites: &[LiteId]) -> Vec<(LiteId, Known)>;

    /// For each of these message properties, what the heads of the rows have there: a number, or [`u64::MAX`].
    fn columns(&mut self, properties: &[String], rows: &[LiteView]) -> Vec<Vec<u64>>;
}

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateBlob {
    /// Its format, the policy's own numbering from 1.
    pub(crate) schema: u32,
    /// Opaque.
    pub(crate) data: Vec<u8>,
}

/// A guest that decides. After a fault it answers [`PolicyFault::Poisoned`] for good.
pub(crate) struct PolicyInstance {
    compiled: Arc<CompiledPolicy>,
    running: Running,
    tenants: Names<TenantId>,
    lites: Names<LiteId>,
}

impl PolicyInstance {
    pub(super) fn start(compiled: Arc<CompiledPolicy>, init: &Init, config: &str) -> Result<Self, PolicyFault> {
        if config.len() > POLICY_CONFIG_BYTES_MAX {
            let bytes = config.len();
            return Err(PolicyFault::Config(format!("config has {bytes} bytes, at most {POLICY_CONFIG_BYTES_MAX}")));
        }
        let log = GuestLog::of(&init.group, &compiled.descriptor.name, init.now);
        let mut running = compiled.program.start(log)?;
        let binding = wit::Binding {
            group: init.group.clone(),
            shard: init.shard.into(),
            seed: init.seed,
            now_us: init.now.as_micros(),
        };
        let started = running.call(Budget::RARE, |policy, store| {
            policy.sluicegate_policy_lifecycle().call_init(store, &binding, config)
        })?;
        started.map_err(PolicyFault::Config)?;
        Ok(Self { compiled, running, tenants: Names::default(), lites: Names::default() })
    }

    /// Has the policy decide. What it does not know by name is looked up, once each.
    ///
    /// # Errors
    /// [`PolicyFault`]; the instance is of no use after it.
    pub(crate) fn ask(&mut self, ask: &Ask, directory: &mut dyn Directory) -> Result<Plan, PolicyFault> {
        let descriptor = &self.compiled.descriptor;
        let tenants = self.tenants.before(tenants_of(ask));
        let mut learnt: Vec<_> =
            tenants.unknown.iter().map(|&tenant| entity(TENANT, tenant.0, directory.tenant(tenant))).collect();
        let forgotten: Vec<_> = tenants.forgotten.iter().map(|tenant| tenant.0).collect();
        let mut forgotten_lites = Vec::new();
        if descriptor.learns_lites {
            let rows = ask.frame.lites.iter().map(|row| row.lite);
            let lites = self.lites.before(rows.chain(ask.feedback.iter().map(|feedback| feedback.lite)));
            forgotten_lites.extend(lites.forgotten.iter().map(|lite| lite.0));
            let labelled = directory.labelled(&lites.unknown).into_iter();
            learnt.extend(labelled.map(|(lite, known)| entity(LITE, lite.0, known)));
        }
        let columns = match descriptor.wants.is_empty() {
            true => Vec::new(),
            false => directory.columns(&descriptor.wants, &ask.frame.lites),
        };
        let feedback = translate::feedback(ask);
        let frame = translate::frame(&ask.frame, columns);
        let labels: usize = learnt.iter().map(|entity| entity.labels.len()).sum();
        let rows = labels + learnt.len() + forgotten.len() + forgotten_lites.len() + feedback.len() + frame.lites.len();
        self.running.log().now = ask.frame.now;
        let plan = self.running.call(Budget::ask(rows), |policy, store| {
            if !forgotten.is_empty() {
                policy.sluicegate_policy_lifecycle().call_forget(&mut *store, TENANT, &forgotten)?;
            }
            if !forgotten_lites.is_empty() {
                policy.sluicegate_policy_lifecycle().call_forget(&mut *store, LITE, &forgotten_lites)?;
            }
            if !learnt.is_empty() {
                policy.sluicegate_policy_lifecycle().call_learn(&mut *store, &learnt)?;
            }
            if !feedback.is_empty() {
                policy.sluicegate_policy_scheduler().call_observe(&mut *store, &feedback)?;
            }
            policy.sluicegate_policy_scheduler().call_decide(store, &frame)
        })?;
        translate::plan(&plan, &ask.frame, self.compiled.descriptor.reasons.len()).map_err(|text| self.bad(text))
    }

    /// What was learnt of tenants is learnt again when they are mentioned.
    pub(super) fn tell_names_again(&mut self) {
        self.tenants.tell_again();
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

    fn bad(&mut self, text: String) -> PolicyFault {
        self.running.poison();
        PolicyFault::BadAnswer(text)
    }

    #[cfg(test)]
    pub(super) fn running(&mut self) -> &mut Running {
        &mut self.running
    }
}

/// The tenants that an ask mentions.
fn tenants_of(ask: &Ask) -> impl Iterator<Item = TenantId> + Clone {
    let rows = ask.frame.tenants.iter().map(|tenant| tenant.tenant);
    rows.chain(ask.feedback.iter().map(|feedback| feedback.tenant))
}

fn entity(kind: u32, id: u64, known: Known) -> wit::Entity {
    let labels = known.labels.into_iter().map(|(key, value)| types::Label { key, value });
    wit::Entity { kind, id, name: known.name, labels: labels.collect() }
}
