//! Whether tenants were served alike: a second look at a run's deliveries, by a model of its own.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::population::{COST_MAX, Population};

/// What one decision settled, and what it delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Tenant whose lease ended; its lite topic has a message again. `None` while leases are opened at first.
    pub(super) settled: Option<u32>,
    /// Tenant that was served.
    pub(super) served: u32,
    pub(super) cost: u32,
}

/// How fair a run was.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Fairness {
    /// Tenants with lite topics.
    pub(super) tenants: u32,
    /// Those that had a message to start whenever their turn came.
    pub(super) always_eligible: u32,
    /// The largest difference of service (cost / weight) between two of those, at any moment of the run.
    pub(super) max_service_gap: Option<u64>,
    /// What the algorithm promises for that difference, with all weights 1.
    pub(super) max_service_gap_bound: u64,
    /// Jain's index of the tenants' service at the end: 1 when all had as much.
    pub(super) jain: f64,
}

/// Holds a run's turns against start-time fair queueing.
struct Audit {
    tenants: Vec<Tenant>,
    /// Start tag that was served last.
    clock: u64,
    /// How many of the always eligible tenants have had how much service.
    levels: BTreeMap<u64, u32>,
    gap: u64,
}

#[derive(Clone, Copy, Default)]
struct Tenant {
    service: u64,
    finish: u64,
    owned: u32,
    open: u32,
    missed: bool,
}

pub(super) fn audit(population: &Population, turns: impl IntoIterator<Item = Turn>) -> Fairness {
    let mut audit = Audit::new(population);
    for turn in turns {
        if let Some(tenant) = turn.settled {
            audit.settled(tenant);
        }
        audit.served(turn.served, u64::from(turn.cost));
    }
    audit.fairness()
}

impl Audit {
    fn new(population: &Population) -> Self {
        let mut tenants = vec![Tenant::default(); population.tenants() as usize];
        for lite in 0..population.lite_topics() {
            tenants[population.tenant(lite) as usize].owned += 1;
        }
        let owners = tenants.iter().filter(|tenant| tenant.owned > 0).count();
        let owners = u32::try_from(owners).expect("tenants are numbered by u32");
        Self { tenants, clock: 0, levels: BTreeMap::from([(0, owners)]), gap: 0 }
    }

    fn served(&mut self, tenant: u32, cost: u64) {
        let tenant = &mut self.tenants[tenant as usize];
        self.clock = self.clock.max(tenant.finish);
        tenant.finish += cost;
        tenant.open += 1;
        let before = tenant.service;
        tenant.service += cost;
        if !tenant.missed {
            *self.levels.entry(tenant.service).or_default() += 1;
            leave(&mut self.levels, before);
        }
        if let (Some((least, _)), Some((most, _))) = (self.levels.first_key_value(), self.levels.last_key_value()) {
            self.gap = self.gap.max(most - least);
        }
    }

    /// A tenant whose every lite topic was being served is eligible again. If the clock passed it meanwhile, it missed
    /// service that it cannot claim, and no bound speaks of it any more.
    fn settled(&mut self, tenant: u32) {
        let tenant = &mut self.tenants[tenant as usize];
        tenant.open -= 1;
        if tenant.open + 1 == tenant.owned && tenant.finish < self.clock {
            tenant.finish = self.clock;
            if !std::mem::replace(&mut tenant.missed, true) {
                leave(&mut self.levels, tenant.service);
            }
        }
    }

    fn fairness(&self) -> Fairness {
        let owners: Vec<_> = self.tenants.iter().filter(|tenant| tenant.owned > 0).collect();
        let always_eligible: u32 = self.levels.values().sum();
        let sum: f64 = owners.iter().map(|tenant| tenant.service as f64).sum();
        let squares: f64 = owners.iter().map(|tenant| (tenant.service as f64).powi(2)).sum();
        Fairness {
            tenants: u32::try_from(owners.len()).expect("tenants are numbered by u32"),
            always_eligible,
            max_service_gap: (always_eligible > 1).then_some(self.gap),
            max_service_gap_bound: 2 * COST_MAX,
            jain: sum * sum / (owners.len() as f64 * squares),
        }
    }
}

fn leave(levels: &mut BTreeMap<u64, u32>, service: u64) {
    let count = levels.get_mut(&service).expect("a tenant is counted at its service");
    *count -= 1;
    if *count == 0 {
        levels.remove(&service);
    }
}

#[cfg(test)]
mod tests {
    use super::super::population::{Shape, Tenants};
    use super::*;

    fn of(turns: &[(Option<u32>, u32, u32)]) -> Fairness {
        let population = Population::new(4, Tenants::Count(2), Shape::Uniform, 1);
        audit(&population, turns.iter().map(|&(settled, served, cost)| Turn { settled, served, cost }))
    }

    #[test]
    fn the_gap_is_the_largest_of_any_moment() {
        let fair = of(&[(None, 0, 7), (None, 1, 3), (Some(1), 1, 4)]);
        assert_eq!((fair.max_service_gap, fair.always_eligible), (Some(7), 2));
        assert!((fair.jain - 1.0).abs() < 1e-9, "{}", fair.jain);
    }

    #[test]
    fn a_tenant_that_missed_its_turn_is_not_compared() {
        // Both lite topics of tenant 1 are being served while the clock passes its finish tag.
        let turns = [(None, 1, 1), (None, 1, 1), (None, 0, 9), (Some(0), 0, 9), (Some(1), 1, 1)];
        let fair = of(&turns);
        assert_eq!((fair.max_service_gap, fair.always_eligible, fair.tenants), (None, 1, 2));
        assert!(fair.jain < 0.7, "{}", fair.jain);
    }
}
