//! What a decision takes: a lease ends, its lite topic has its next message, the session has room again, and the
//! scheduler says who is served next.

use std::time::Duration;

use hdrhistogram::Histogram;
use rand::RngExt as _;
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::{Charge, Decision, Ending, Event, Scheduler, Scope, SessionKey};

use super::super::measure;
use super::BLOCK;
use super::fairness::{self, Fairness, Turn};
use super::population::{self, Population, START};

/// Leases that are open all the time.
pub(super) const LEASES: u32 = 64;
/// Sessions that hold them, each as many.
const SESSIONS: u32 = 8;
/// Part of the blocks, in addition, that runs before anything is timed.
const WARM_UP: u32 = 10;
/// Time that passes in the scheduler's eyes from one decision to the next.
const STEP: Duration = Duration::from_micros(1);
/// From delivery to settle, as the scheduler is told.
const SERVICE: Duration = Duration::from_millis(10);
/// Blocks that take longer are counted as this.
const BLOCK_MAX: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Figures {
    pub(super) decisions: u64,
    pub(super) decisions_per_s: f64,
    pub(super) ns_p50: f64,
    pub(super) ns_p99: f64,
    pub(super) fairness: Fairness,
}

/// A scheduler in steady state, all lite topics waiting but those being served.
struct Steady {
    scheduler: Scheduler,
    now: Timestamp,
    leases: Vec<Lease>,
    rng: Pcg64Mcg,
    /// Of one block, for the look at fairness when all is over: a look now would take the place of others in the caches.
    turns: Vec<Turn>,
}

struct Lease {
    lite: LiteId,
    tenant: TenantId,
    offset: Offset,
    session: SessionKey,
    charge: Charge,
}

/// Times `blocks` blocks of [`BLOCK`] decisions.
pub(super) fn measure(population: &Population, blocks: u32) -> Figures {
    let mut steady = Steady::new(population);
    let mut turns = std::mem::take(&mut steady.turns);
    for _ in 0..blocks / WARM_UP {
        steady.block();
        turns.append(&mut steady.turns);
    }
    let max = u64::try_from(BLOCK_MAX.as_nanos()).expect("ten seconds in nanoseconds fit");
    let mut histogram = Histogram::<u64>::new_with_bounds(1, max, 3).expect("the bounds are in order");
    let mut all = Duration::ZERO;
    for _ in 0..blocks {
        let start = measure::now();
        steady.block();
        let block = start.elapsed();
        all += block;
        histogram.saturating_record(u64::try_from(block.as_nanos()).unwrap_or(u64::MAX));
        turns.append(&mut steady.turns);
    }
    let decisions = u64::from(blocks) * u64::from(BLOCK);
    let of_one = |quantile| histogram.value_at_quantile(quantile) as f64 / f64::from(BLOCK);
    Figures {
        decisions,
        decisions_per_s: decisions as f64 / all.as_secs_f64(),
        ns_p50: of_one(0.5),
        ns_p99: of_one(0.99),
        fairness: fairness::audit(population, turns),
    }
}

impl Steady {
    fn new(population: &Population) -> Self {
        let (mut scheduler, mut rng) = (population::scheduler(), population.rng());
        for session in 0..SESSIONS {
            let session = SessionKey(u64::from(session));
            scheduler.handle(START, Event::Attached(session, Scope::All));
            scheduler.handle(START, Event::Credit(session, LEASES / SESSIONS));
        }
        for lite in population.shuffled() {
            scheduler.handle(START, population.head(lite, population::cost(&mut rng)));
        }
        let mut steady = Self { scheduler, now: START, leases: Vec::new(), rng, turns: Vec::new() };
        while let Some(lease) = steady.deliver() {
            steady.note(None, &lease);
            steady.leases.push(lease);
        }
        assert_eq!(steady.leases.len(), LEASES as usize, "there are more lite topics than leases");
        steady
    }

    fn block(&mut self) {
        for _ in 0..BLOCK {
            self.decide();
        }
    }

    /// One decision: any of the open leases ends, and the next one starts.
    fn decide(&mut self) {
        self.now = self.now.plus(STEP);
        let slot = self.rng.random_range(0..self.leases.len());
        let Lease { lite, tenant, offset, session, charge } = self.leases[slot];
        let ending = Ending::done(None, SERVICE);
        self.scheduler.handle(self.now, Event::Settled { lite, charge, ending });
        let cost = population::cost(&mut self.rng);
        self.scheduler.handle(self.now, population::head(lite, tenant, Offset(offset.0 + 1), self.now, cost));
        self.scheduler.handle(self.now, Event::Credit(session, 1));
        let lease = self.deliver().expect("a session has room, and lite topics wait");
        self.note(Some(tenant), &lease);
        self.leases[slot] = lease;
    }

    fn deliver(&mut self) -> Option<Lease> {
        match self.scheduler.poll(self.now)? {
            Decision::Deliver { lite, offset, tenant, session, charge } => {
                Some(Lease { lite, tenant, offset, session, charge })
            }
            other => unreachable!("without a policy and expiry there are only deliveries, not {other:?}"),
        }
    }

    fn note(&mut self, settled: Option<TenantId>, lease: &Lease) {
        let number = |number: u64| u32::try_from(number).expect("tenants are numbered by u32, and costs are small");
        let (settled, served) = (settled.map(|tenant| number(tenant.0)), number(lease.tenant.0));
        self.turns.push(Turn { settled, served, cost: number(lease.charge.cost) });
    }
}

#[cfg(test)]
mod tests {
    use super::super::population::{Shape, Tenants};
    use super::*;

    #[test]
    fn a_run_is_fair_within_the_bound() {
        for shape in [Shape::Uniform, Shape::Zipf] {
            let figures = measure(&Population::new(5_000, Tenants::Count(128), shape, 1), 500);
            assert_eq!(figures.decisions, 500 * 64);
            let gap = figures.fairness.max_service_gap.unwrap();
            assert!(gap > 0 && gap <= figures.fairness.max_service_gap_bound, "{shape:?}: {gap}");
        }
    }
}
