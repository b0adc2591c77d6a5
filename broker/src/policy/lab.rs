//! A policy outside of a broker: compiled, limited and checked by the same code, for benches, simulations and checks.
//!
//! [`PolicyLab`] loads, [`LoadedPolicy`] starts, [`Trial`] answers. Nothing is restarted here and nothing is counted as a strike: a fault
//! is the answer. What a group's shard knows comes from a [`Telling`], which a [`Facts`] of the scheduler's simulation is:
//!
//! ```no_run
//! use std::time::Duration;
//! use sluicegate_broker::policy_lab::PolicyLab;
//! use sluicegate_scheduler::Ask;
//! use sluicegate_scheduler::simulation::{Decider, Facts, Group, Load, START, Simulation, Workload};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = PolicyLab::open()?.load(&std::fs::read("token-bucket.wasm")?)?;
//! let mut trial = policy.start("workers", 7, START, r#"{"rate_per_second": 5}"#)?;
//! let mut workload = Workload::new(7);
//! workload.add("ada", Load::poisson(Duration::from_millis(40)));
//! let mut decide = |ask: &Ask, facts: &Facts<'_>| trial.ask(ask, &mut { facts }).map_err(|fault| fault.to_string());
//! let simulation = Simulation::new(Group::default());
//! simulation.run(workload.names(), workload.jobs(), Decider::Policy(&mut decide), Duration::from_secs(60));
//! println!("{} fuel for the last frame", trial.fuel_used());
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use sluicegate_protocol::{LiteId, TenantId, Timestamp};
use sluicegate_scheduler::simulation::{Facts, Named};
use sluicegate_scheduler::{Ask, LiteView, Plan};

pub use super::compiled::Descriptor;
pub use super::fault::PolicyFault;
pub use super::host::NoPolicyHost;
pub use super::instance::StateBlob;

use super::briefing::{Briefing, Directory, Known};
use super::compiled::CompiledPolicy;
use super::compiler::PolicyCompiler;
use super::fault::PolicyRejected;
use super::host::{PolicyHost, wait};
use super::instance::{Init, PolicyInstance};
use super::limits::{self, Budget};

/// Compiles policies as a broker does. One for a process is enough: it has the engine, and a thread that makes guests' time pass.
pub struct PolicyLab(Arc<PolicyHost>);

/// A policy that a broker would take.
#[derive(Clone)]
pub struct LoadedPolicy(pub(super) Arc<CompiledPolicy>);

/// A policy at work for one group, in the broker's sandbox. After a fault it answers [`PolicyFault::Poisoned`] for good.
pub struct Trial {
    policy: Arc<CompiledPolicy>,
    instance: PolicyInstance,
    briefing: Briefing,
}

/// Why bytes are not a policy that a broker would take. The text says what they are instead, and what would help.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct NotLoaded(#[from] PolicyRejected);

/// What a policy is told beside numbers that the scheduler has.
pub trait Telling {
    /// A tenant's name and labels. Asked once for each tenant, before it is mentioned.
    fn tenant(&mut self, tenant: TenantId) -> Named;

    /// Name and labels of a lite topic that has labels. Asked once for each, if the policy learns lite topics.
    fn lite(&mut self, lite: LiteId) -> Option<Named>;

    /// The number that the head of a lite topic has in a message property, if it has one.
    fn number(&mut self, lite: LiteId, property: &str) -> Option<u64>;
}

impl PolicyLab {
    /// # Errors
    /// The machine cannot run compiled Wasm, or has no thread left.
    pub fn open() -> Result<Self, NoPolicyHost> {
        PolicyHost::new(PolicyCompiler::Here, None).map(Self)
    }

    /// Checks and compiles a component, as an upload is but in this process, and has it describe itself. Takes a tenth of a second.
    ///
    /// # Errors
    /// A broker would refuse it.
    pub fn load(&self, component: &[u8]) -> Result<LoadedPolicy, NotLoaded> {
        let compiled = wait(self.0.compile(component)).map_err(|error| PolicyRejected::no_worker(&error))?;
        Ok(LoadedPolicy(compiled?))
    }
}

impl LoadedPolicy {
    /// What the policy says of itself.
    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        self.0.descriptor()
    }

    /// SHA-256 of the component, 64 hexadecimal digits.
    #[must_use]
    pub fn digest(&self) -> &str {
        self.0.digest()
    }

    /// An instance for a group of this name, which may be any text, that starts to decide at `now`. The configuration is JSON text; empty
    /// means the defaults.
    ///
    /// # Errors
    /// [`PolicyFault::Config`] if the policy refuses its configuration, another fault if it fails to start.
    pub fn start(&self, group: &str, seed: u64, now: Timestamp, config: &str) -> Result<Trial, PolicyFault> {
        let init = Init { group: group.into(), shard: 0, seed, now };
        let instance = self.0.instantiate(&init, config)?;
        Ok(Trial { policy: Arc::clone(&self.0), instance, briefing: Briefing::default() })
    }
}

impl Trial {
    /// Most bytes of linear memory.
    pub const MEMORY_BYTES_MAX: usize = limits::MEMORY_BYTES_MAX;
    /// Most bytes of a state.
    pub const STATE_BYTES_MAX: usize = limits::STATE_BYTES_MAX;

    /// Has the policy decide, as a shard would: it forgets, learns, observes and decides within one budget, and the answer is checked. Fuel is
    /// limited as there, time is not: what comes of it is the same on every machine.
    ///
    /// # Errors
    /// What would be a strike in a broker.
    pub fn ask(&mut self, ask: &Ask, telling: &mut dyn Telling) -> Result<Plan, PolicyFault> {
        let question = self.briefing.question(self.policy.descriptor(), ask, &mut Told(telling));
        self.instance.say_within(Budget::untimed(question.rows()), &question).map(|(_, plan)| plan)
    }

    /// The fuel that the last call used: Wasm instructions, roughly. The same for the same calls, on every machine.
    #[must_use]
    pub fn fuel_used(&self) -> u64 {
        self.instance.fuel_used()
    }

    /// The fuel that the last call had. One that uses it up is a fault.
    #[must_use]
    pub fn fuel_max(&self) -> u64 {
        self.instance.fuel_max()
    }

    /// Bytes of linear memory that it has by now. It never gets less.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.instance.memory_bytes()
    }

    /// The policy's state, or `None` if it keeps none.
    ///
    /// # Errors
    /// The policy fails, or its state is too large.
    pub fn snapshot(&mut self) -> Result<Option<StateBlob>, PolicyFault> {
        self.instance.snapshot()
    }

    /// Has the policy go on from an earlier state, before the first ask. The inner error is its own refusal: it starts cold.
    ///
    /// # Errors
    /// The policy fails.
    pub fn restore(&mut self, state: &StateBlob) -> Result<Result<(), String>, PolicyFault> {
        self.instance.restore(state)
    }
}

impl Telling for &Facts<'_> {
    fn tenant(&mut self, tenant: TenantId) -> Named {
        Facts::tenant(self, tenant).clone()
    }

    fn lite(&mut self, lite: LiteId) -> Option<Named> {
        Facts::lite(self, lite)
    }

    fn number(&mut self, lite: LiteId, property: &str) -> Option<u64> {
        Facts::number(self, lite, property)
    }
}

/// What is told, as an instance asks for it.
struct Told<'a>(&'a mut dyn Telling);

impl Directory for Told<'_> {
    fn tenant(&mut self, tenant: TenantId) -> Known {
        known(self.0.tenant(tenant))
    }

    fn labelled(&mut self, lites: &[LiteId]) -> Vec<(LiteId, Known)> {
        let named = lites.iter().filter_map(|&lite| Some((lite, known(self.0.lite(lite)?))));
        named.collect()
    }

    fn columns(&mut self, properties: &[String], rows: &[LiteView]) -> Vec<Vec<u64>> {
        let mut value = |row: &LiteView, property: &str| self.0.number(row.lite, property).unwrap_or(u64::MAX);
        properties.iter().map(|property| rows.iter().map(|row| value(row, property)).collect()).collect()
    }
}

fn known(Named { name, labels }: Named) -> Known {
    Known { name, labels }
}
