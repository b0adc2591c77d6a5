//! Tenants: weight, what they have in flight, and their flows in the bands.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::{Index, IndexMut};

use sluicegate_protocol::{TenantId, Timestamp};

use crate::band::FlowKey;
use crate::index::KeyIndex;
use crate::slab::{Key, Slab};

/// Weight of a tenant that no policy gave one.
pub const WEIGHT_DEFAULT: u32 = 1;

/// Tenants with nothing to do whose weight, given by the policy, is remembered.
const WEIGHTS_REMEMBERED_MAX: usize = 65_536;

/// Names a tenant's entry while it exists.
pub(crate) type TenantKey = Key<Tenant>;

/// A tenant that has a lite topic here, or a finish tag that still counts.
#[derive(Debug)]
pub(crate) struct Tenant {
    pub(crate) id: TenantId,
    /// Open leases.
    pub(crate) in_flight: u32,
    /// Entries of its lite topics.
    pub(crate) lites: u32,
    /// Its lite topics that have a head.
    pub(crate) waiting: u32,
    /// Its lite topics in band rotations.
    pub(crate) ready: u32,
    /// When a delivery of it last started or ended, or the watchdog let one through.
    pub(crate) served_at: Timestamp,
    /// Its concurrency is reached: none of its flows is queued.
    pub(crate) blocked: bool,
    /// Its flows, one for each band that it is in, as a list.
    pub(crate) flows: Option<FlowKey>,
    weight: u32,
    weight_tenure: u32,
}

/// All tenants that matter now.
#[derive(Debug, Default)]
pub(crate) struct Tenants {
    rows: Slab<Tenant>,
    by_id: KeyIndex<Tenant>,
    /// Those whose concurrency is reached.
    pub(crate) blocked: BTreeSet<TenantId>,
    /// Counts the policies' terms of office: weights and memos of an ended one are void.
    pub(crate) tenure: u32,
    remembered: HashMap<TenantId, (u32, u64)>,
    remembered_order: VecDeque<(TenantId, u64)>,
    remembered_count: u64,
}

impl Tenants {
    pub(crate) fn find(&self, id: TenantId) -> Option<TenantKey> {
        self.by_id.find(id.0, |key| self.rows[key].id.0)
    }

    pub(crate) fn find_or_add(&mut self, id: TenantId) -> TenantKey {
        if let Some(key) = self.find(id) {
            return key;
        }
        let weight = self.remembered.remove(&id).map(|(weight, _)| weight);
        let key = self.rows.insert(Tenant {
            id,
            in_flight: 0,
            lites: 0,
            waiting: 0,
            ready: 0,
            served_at: Timestamp::default(),
            blocked: false,
            flows: None,
            weight: weight.unwrap_or(WEIGHT_DEFAULT),
            weight_tenure: self.tenure,
        });
        self.by_id.insert(id.0, key, |key| self.rows[key].id.0);
        key
    }

    /// Forgets the tenant if nothing of it is left.
    pub(crate) fn release(&mut self, key: TenantKey) {
        let tenant = &self.rows[key];
        if tenant.lites > 0 || tenant.flows.is_some() {
            return;
        }
        assert!(tenant.in_flight == 0, "an open lease keeps its lite topic's entry");
        let (id, weight) = (tenant.id, self.weight(key));
        self.blocked.remove(&id);
        self.by_id.remove(id.0, key, |key| self.rows[key].id.0);
        self.rows.remove(key);
        self.remember(id, weight);
    }

    pub(crate) fn weight(&self, key: TenantKey) -> u32 {
        let tenant = &self.rows[key];
        if tenant.weight_tenure == self.tenure { tenant.weight } else { WEIGHT_DEFAULT }
    }

    /// Gives the tenant a weight; one that has nothing to do just now has it when it comes back.
    pub(crate) fn set_weight(&mut self, id: TenantId, weight: u32) {
        let Some(key) = self.find(id) else { return self.remember(id, weight) };
        let tenure = self.tenure;
        let tenant = &mut self.rows[key];
        (tenant.weight, tenant.weight_tenure) = (weight, tenure);
    }

    /// All weights are the default again, and all memos void.
    pub(crate) fn end_tenure(&mut self) {
        self.tenure += 1;
        self.remembered.clear();
        self.remembered_order.clear();
    }

    fn remember(&mut self, id: TenantId, weight: u32) {
        if weight == WEIGHT_DEFAULT {
            self.remembered.remove(&id);
            return;
        }
        self.remembered_count += 1;
        self.remembered.insert(id, (weight, self.remembered_count));
        self.remembered_order.push_back((id, self.remembered_count));
        if self.remembered_order.len() <= WEIGHTS_REMEMBERED_MAX {
            return;
        }
        let (oldest, count) = self.remembered_order.pop_front().expect("it is longer than its limit");
        if self.remembered.get(&oldest).is_some_and(|&(_, since)| since == count) {
            self.remembered.remove(&oldest);
        }
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (TenantKey, &Tenant)> {
        self.rows.iter()
    }
}

impl Index<TenantKey> for Tenants {
    type Output = Tenant;

    fn index(&self, key: TenantKey) -> &Tenant {
        &self.rows[key]
    }
}

impl IndexMut<TenantKey> for Tenants {
    fn index_mut(&mut self, key: TenantKey) -> &mut Tenant {
        &mut self.rows[key]
    }
}
