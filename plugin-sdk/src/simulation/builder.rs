//! The world that a policy is put into.

use std::time::Duration;

use sluicegate_protocol::Rate;
use sluicegate_scheduler::Ask;
use sluicegate_scheduler::simulation::{self, Decider, Drawn, Facts, Group, Load, Workload};

use super::native::Native;
use super::outcome::Outcome;
use crate::Policy;

/// How long a [drawn](Simulation::drawn) simulation is worth looking at.
pub const DRAWN_SPAN: Duration = Drawn::SPAN;

/// A consumer group, and what its tenants publish.
///
/// Unless it says otherwise: one consumer with 10 slots, one message at a time of each lite topic, no other bounds, no quotas, 16
/// attempts with a back-off from 1 s to 5 min.
///
/// ```
/// use std::time::Duration;
/// use sluicegate_plugin_sdk::simulation::{Load, Simulation};
///
/// let load = Load::every(Duration::from_millis(100)).cost(500).service(Duration::from_millis(20));
/// let simulation = Simulation::new().cost_quota("90000/min").tenant("ada", load);
/// let outcome = simulation.run_fair(Duration::from_secs(600));
/// outcome.assert_quota_kept();
/// assert!(outcome.tenant("ada").counts.waiting > 1_000, "it wants 5,000 a second and gets 1,500");
/// ```
#[derive(Debug, Clone)]
pub struct Simulation {
    group: Group,
    loads: Vec<(String, Load)>,
    labels: Vec<(String, String, String)>,
}

impl Default for Simulation {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulation {
    /// Without tenants.
    #[must_use]
    pub fn new() -> Self {
        Self { group: Group { seed: 1, ..Group::default() }, loads: Vec::new(), labels: Vec::new() }
    }

    /// A group and tenants that are drawn, whose messages may have these numeric properties: to try a policy with what nobody thought of.
    /// `sluice policy check` draws the same.
    #[must_use]
    pub fn drawn(seed: u64, properties: &[String]) -> Self {
        let Drawn { group, loads, labels } = Drawn::new(seed, properties);
        Self { group, loads, labels }
    }

    /// Decides everything that is drawn, and the seeds that a policy sees; 1 by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.group.seed = seed;
        self
    }

    /// A tenant publishes this. A tenant may have several loads, with lite topics of their own.
    #[must_use]
    pub fn tenant(mut self, name: &str, load: Load) -> Self {
        self.loads.push((name.into(), load));
        self
    }

    /// A label of a tenant, as the group's settings have them. For labels of lite topics see [`Load::label`].
    #[must_use]
    pub fn tenant_label(mut self, tenant: &str, key: &str, value: &str) -> Self {
        self.labels.push((tenant.into(), key.into(), value.into()));
        self
    }

    /// Consumers, each with as many slots as the others; 1 by default.
    #[must_use]
    pub fn sessions(mut self, sessions: u32) -> Self {
        self.group.sessions = sessions;
        self
    }

    /// Messages that each consumer works on at once; 10 by default. The load that it reports is the part of them that is in work.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.group.slots = slots;
        self
    }

    /// Open leases at once in the group; no bound by default.
    #[must_use]
    pub fn concurrency(mut self, leases: u32) -> Self {
        self.group.settings.concurrency.group = Some(leases);
        self
    }

    /// Open leases at once per tenant; no bound by default.
    #[must_use]
    pub fn tenant_concurrency(mut self, leases: u32) -> Self {
        self.group.settings.concurrency.tenant = Some(leases);
        self
    }

    /// Open leases at once per lite topic; 1 by default.
    #[must_use]
    pub fn lite_concurrency(mut self, leases: u32) -> Self {
        self.group.settings.concurrency.lite_topic = leases;
        self
    }

    /// Deliveries that the group may have, like `100/s` or `5000/min burst 200`.
    ///
    /// # Panics
    /// If it is no rate.
    #[must_use]
    pub fn messages_quota(mut self, rate: &str) -> Self {
        self.group.settings.quotas.messages = Some(parsed(rate));
        self
    }

    /// Cost units that the group may use, like `90000/min`.
    ///
    /// # Panics
    /// If it is no rate.
    #[must_use]
    pub fn cost_quota(mut self, rate: &str) -> Self {
        self.group.settings.quotas.cost = Some(parsed(rate));
        self
    }

    /// Deliveries of a message that count before it is dead-lettered; 16 by default.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.group.settings.max_attempts = attempts;
        self
    }

    /// Has a policy decide for this span of virtual time. Its configuration is JSON text; empty means the defaults.
    ///
    /// # Panics
    /// If the policy refuses its configuration, gives a plan that the broker would refuse, or panics itself.
    #[must_use]
    #[track_caller]
    pub fn run<P: Policy>(&self, config: &str, span: Duration) -> Outcome {
        let mut policy = match Native::<P>::start(config, self.group.seed) {
            Ok(policy) => policy,
            Err(refusal) => panic!("{} refuses its configuration: {refusal}", P::describe().name),
        };
        let name = policy.descriptor().name.clone();
        let mut decide = |ask: &Ask, facts: &Facts<'_>| match policy.ask(ask, facts) {
            Ok(plan) => Ok(plan),
            Err(fault) => {
                panic!("the broker would refuse the plan of {name} for frame {}: {fault}", ask.frame.sequence)
            }
        };
        self.outcome(&name, Decider::Policy(&mut decide), span)
    }

    /// Has built-in fair scheduling decide, with the same weight for all: what a policy can be held against.
    #[must_use]
    pub fn run_fair(&self, span: Duration) -> Outcome {
        self.outcome("fair scheduling", Decider::Fair, span)
    }

    fn outcome(&self, decider_name: &str, decider: Decider<'_>, span: Duration) -> Outcome {
        let mut workload = Workload::new(self.group.seed);
        for (tenant, load) in &self.loads {
            workload.add(tenant, load.clone());
        }
        for (tenant, key, value) in &self.labels {
            workload.label(tenant, key, value);
        }
        let simulation = simulation::Simulation::new(self.group.clone());
        let report = simulation.run(workload.names(), workload.jobs(), decider, span);
        Outcome::new(decider_name, workload.names().clone(), report)
    }
}

#[track_caller]
fn parsed(rate: &str) -> Rate {
    match rate.parse() {
        Ok(rate) => rate,
        Err(invalid) => panic!("{invalid}"),
    }
}
