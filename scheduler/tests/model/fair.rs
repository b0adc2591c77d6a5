//! Start-time fair queueing by looking at everything, each time.

use sluicegate_protocol::limits::COST_MAX;
use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler::{Charge, WEIGHT_DEFAULT};

use crate::lite::Place;
use crate::model::Model;

/// While a higher band is ready, every so many dispatches one goes to the lower ones.
const TURN_EVERY: u32 = 20;

/// A tenant in one band. Kept for good: a finish tag that the clock passed changes nothing.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Flow {
    /// The band's clock when the tenant last became eligible.
    floor: u128,
    finish: u128,
    /// Decides between equal start tags: when the flow was last filed.
    filed: u64,
}

/// Which band is served next; a turn goes to a lower one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) band: u8,
    pub(crate) is_turn: bool,
}

impl Model {
    pub(crate) fn choose(&self) -> Option<Choice> {
        let ready: Vec<u8> = (0..10).rev().filter(|&band| self.is_ready(band)).collect();
        let (&highest, lower) = ready.split_first()?;
        let is_turn = !lower.is_empty() && self.passed_over + 1 >= TURN_EVERY;
        if !is_turn {
            return Some(Choice { band: highest, is_turn });
        }
        let after_last = self.last_turn.and_then(|last| lower.iter().find(|&&band| band < last));
        Some(Choice { band: *after_last.unwrap_or(&lower[0]), is_turn })
    }

    /// Tenants that may be served in this band, next first.
    pub(crate) fn queue(&self, band: u8) -> Vec<TenantId> {
        let is_here = |lite: &&crate::lite::Lite| lite.place == Place::Ready(band);
        let mut tenants: Vec<TenantId> = self.lites.values().filter(is_here).map(|lite| lite.tenant).collect();
        tenants.sort_unstable();
        tenants.dedup();
        tenants.retain(|tenant| !self.blocked.contains(tenant));
        tenants.sort_by_key(|&tenant| {
            let flow = self.flow(tenant, band);
            (flow.floor.max(flow.finish), flow.filed)
        });
        tenants
    }

    /// The tenant's lite topics in this band, next first.
    pub(crate) fn rotation(&self, tenant: TenantId, band: u8) -> Vec<LiteId> {
        let mut lites: Vec<(u64, LiteId)> = (self.lites.iter())
            .filter(|(_, lite)| lite.tenant == tenant && lite.place == Place::Ready(band))
            .map(|(&id, lite)| (lite.came, id))
            .collect();
        lites.sort_unstable();
        lites.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn is_ready(&self, band: u8) -> bool {
        (self.lites.values()).any(|lite| lite.place == Place::Ready(band) && !self.blocked.contains(&lite.tenant))
    }

    /// A lite topic of the tenant is about to enter the band.
    pub(crate) fn enter_band(&mut self, tenant: TenantId, band: u8) {
        if self.rotation(tenant, band).is_empty() {
            self.lift_floor(tenant, band);
        }
    }

    /// Charges a delivery; the lite topic has left the rotation.
    pub(crate) fn charge_dispatch(&mut self, tenant: TenantId, choice: Choice, cost: u64) {
        let weight = self.weight(tenant);
        let filed = self.count();
        let flow = self.flow_mut(tenant, choice.band);
        let start = flow.floor.max(flow.finish);
        flow.finish = start + charge(cost, weight);
        flow.filed = filed;
        let clock = &mut self.clocks[usize::from(choice.band)];
        *clock = start.max(*clock);
        if choice.is_turn {
            (self.passed_over, self.last_turn) = (0, Some(choice.band));
        } else if (0..choice.band).any(|lower| self.is_ready(lower)) {
            self.passed_over = (self.passed_over + 1).min(TURN_EVERY - 1);
        }
    }

    pub(crate) fn charge_adopted(&mut self, tenant: TenantId, lease: Charge) {
        let clock = self.clocks[usize::from(lease.band)];
        let filed = self.count();
        let flow = self.flow_mut(tenant, lease.band);
        flow.finish = flow.finish.max(clock) + charge(lease.cost, lease.weight);
        flow.filed = filed;
    }

    pub(crate) fn charge_settled(&mut self, tenant: TenantId, lease: Charge, used: Option<u64>) {
        let filed = self.count();
        let flow = self.flow_mut(tenant, lease.band);
        let used = used.map_or(0, |cost| charge(cost, lease.weight));
        flow.finish = (flow.finish + used).saturating_sub(charge(lease.cost, lease.weight));
        flow.filed = filed;
    }

    pub(crate) fn block_if_full(&mut self, tenant: TenantId) {
        if self.in_flight_of(tenant) >= self.concurrency.tenant {
            self.blocked.insert(tenant);
        }
    }

    pub(crate) fn unblock_if_free(&mut self, tenant: TenantId) {
        if self.in_flight_of(tenant) < self.concurrency.tenant && self.blocked.remove(&tenant) {
            for band in 0..10 {
                if !self.rotation(tenant, band).is_empty() {
                    self.lift_floor(tenant, band);
                }
            }
        }
    }

    pub(crate) fn weight(&self, tenant: TenantId) -> u32 {
        self.weights.get(&tenant).copied().unwrap_or(WEIGHT_DEFAULT)
    }

    /// Whether the tenant still has a lite topic here, or a finish tag ahead of the clock.
    pub(crate) fn knows(&self, tenant: TenantId) -> bool {
        let is_ahead = |band: u8| self.flow(tenant, band).finish > self.clocks[usize::from(band)];
        self.lites.values().any(|lite| lite.tenant == tenant) || (0..10).any(is_ahead)
    }

    fn lift_floor(&mut self, tenant: TenantId, band: u8) {
        let filed = self.count();
        let clock = self.clocks[usize::from(band)];
        let flow = self.flow_mut(tenant, band);
        (flow.floor, flow.filed) = (clock, filed);
    }

    fn flow(&self, tenant: TenantId, band: u8) -> Flow {
        self.flows.get(&(tenant, band)).copied().unwrap_or_default()
    }

    fn flow_mut(&mut self, tenant: TenantId, band: u8) -> &mut Flow {
        self.flows.entry((tenant, band)).or_default()
    }
}

/// Virtual time with 40 bits after the point, rounded up.
fn charge(cost: u64, weight: u32) -> u128 {
    (u128::from(cost.clamp(1, COST_MAX)) << 40).div_ceil(u128::from(weight.max(1)))
}
