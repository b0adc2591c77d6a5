//! One policy at work, asked as the broker asks a guest.

use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler as scheduler;
use sluicegate_scheduler::Ask;
use sluicegate_scheduler::simulation::{Facts, START};

use super::learnt::Learnt;
use super::translate;
use crate::{Descriptor, Entity, Init, Policy, parse_config};

/// A policy, and what it has learnt.
#[derive(Debug)]
pub(super) struct Native<P> {
    policy: P,
    descriptor: Descriptor,
    tenants: Learnt,
    lites: Learnt,
}

impl<P: Policy> Native<P> {
    /// An instance that knows nobody yet.
    ///
    /// # Errors
    /// The configuration does not parse, or the policy refuses it.
    pub(super) fn start(config: &str, seed: u64) -> Result<Self, String> {
        let init = Init { group: "simulation".into(), shard: 0, seed, now_us: START.as_micros() };
        let policy = P::new(&init, parse_config(config)?)?;
        Ok(Self { policy, descriptor: P::describe(), tenants: Learnt::default(), lites: Learnt::default() })
    }

    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Has the policy forget, learn, observe and decide, in that order.
    ///
    /// # Errors
    /// The plan would be a fault in the broker.
    pub(super) fn ask(&mut self, ask: &Ask, facts: &Facts<'_>) -> Result<scheduler::Plan, String> {
        let rows = ask.frame.tenants.iter().map(|row| row.tenant);
        let mentioned = rows.chain(ask.feedback.iter().map(|feedback| feedback.tenant));
        let tenants = self.tenants.before(mentioned.map(|tenant| tenant.0));
        let learns_lites = self.descriptor.learns.contains(&Entity::LITE);
        let rows = ask.frame.lites.iter().map(|row| row.lite);
        let mentioned = rows.chain(ask.feedback.iter().map(|feedback| feedback.lite));
        let lites = self.lites.before(mentioned.map(|lite| lite.0).filter(|_| learns_lites));
        tenants.forgotten.iter().for_each(|&tenant| self.policy.forget(tenant));
        lites.forgotten.iter().for_each(|&lite| self.policy.forget_lite(lite));
        for tenant in tenants.unknown {
            let named = facts.tenant(TenantId(tenant)).clone();
            self.policy.learn(&translate::entity(Entity::TENANT, tenant, named));
        }
        for lite in lites.unknown {
            if let Some(named) = facts.lite(LiteId(lite)) {
                self.policy.learn_lite(&translate::entity(Entity::LITE, lite, named));
            }
        }
        for feedback in &ask.feedback {
            self.policy.observe(&translate::feedback(feedback));
        }
        let plan = self.policy.decide(&translate::frame(&ask.frame, facts, &self.descriptor));
        translate::plan(&plan, &ask.frame, &self.descriptor)
    }
}
