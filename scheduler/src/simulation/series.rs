//! What tenants had and got, second by second.

use std::time::Duration;

use sluicegate_protocol::{TenantId, Timestamp};

use crate::WEIGHT_DEFAULT;

const SECOND: Duration = Duration::from_secs(1);

/// A tenant in one second of virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Seconds since the start; what is counted is from here to the next one.
    pub second: u64,
    /// Whose.
    pub tenant: TenantId,
    /// Deliveries in it.
    pub delivered: u64,
    /// What those turn out to cost.
    pub cost: u64,
    /// Open leases at its end.
    pub in_flight: u64,
    /// Waiting messages at its end.
    pub backlog: u64,
}

impl Sample {
    fn is_quiet(&self) -> bool {
        self.delivered == 0 && self.in_flight == 0 && self.backlog == 0
    }
}

/// Gathers samples. A second in which a tenant is as it was in the one before has none.
#[derive(Debug)]
pub(super) struct Series {
    /// End of the second that runs.
    ends_at: Timestamp,
    second: u64,
    tenants: Vec<Tenant>,
    /// Rows of tenants that have something to do, or had in this second.
    active: Vec<usize>,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug)]
struct Tenant {
    now: Sample,
    told: Sample,
    is_active: bool,
    weight: u32,
    /// Lite topics that could run.
    ready: u32,
    /// Since when it always had one.
    ready_since: Timestamp,
    competed: Competed,
}

/// What a tenant got while it and others always had something that could run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Competed {
    pub(super) cost: u64,
    /// What it would have got by its weight.
    pub(super) due: f64,
}

impl Series {
    pub(super) fn new(start: Timestamp) -> Self {
        Self { ends_at: start.plus(SECOND), second: 0, tenants: Vec::new(), active: Vec::new(), samples: Vec::new() }
    }

    /// One more tenant.
    pub(super) fn push(&mut self, tenant: TenantId) {
        let quiet = Sample { second: 0, tenant, delivered: 0, cost: 0, in_flight: 0, backlog: 0 };
        self.tenants.push(Tenant {
            now: quiet,
            told: quiet,
            is_active: false,
            weight: WEIGHT_DEFAULT,
            ready: 0,
            ready_since: Timestamp::default(),
            competed: Competed::default(),
        });
    }

    /// What the tenant has in this second, to be changed.
    pub(super) fn of(&mut self, row: usize) -> &mut Sample {
        let tenant = &mut self.tenants[row];
        if !tenant.is_active {
            tenant.is_active = true;
            self.active.push(row);
        }
        &mut tenant.now
    }

    pub(super) fn set_weight(&mut self, row: usize, weight: u32) {
        self.tenants[row].weight = weight;
    }

    /// A lite topic of the tenant can run from now on, or can no longer.
    pub(super) fn turned(&mut self, row: usize, is_ready: bool, now: Timestamp) {
        let tenant = &mut self.tenants[row];
        if !is_ready {
            tenant.ready -= 1;
            return;
        }
        if tenant.ready == 0 {
            tenant.ready_since = now;
        }
        tenant.ready += 1;
    }

    /// Ends the seconds that are over.
    pub(super) fn advance(&mut self, now: Timestamp) {
        while self.ends_at <= now {
            let was_quiet = self.end_second();
            // The next seconds are all like this one.
            let skipped = if was_quiet { now.since(self.ends_at).as_secs() } else { 0 };
            self.second += 1 + skipped;
            self.ends_at = self.ends_at.plus(SECOND * u32::try_from(skipped).unwrap_or(u32::MAX)).plus(SECOND);
        }
    }

    /// Ends the second that runs, and answers whether there were no deliveries in it.
    pub(super) fn end_second(&mut self) -> bool {
        self.compete();
        let mut delivered = 0;
        let (tenants, samples, second) = (&mut self.tenants, &mut self.samples, self.second);
        self.active.retain(|&row| {
            let Tenant { now, told, is_active, .. } = &mut tenants[row];
            delivered += now.delivered;
            now.second = second;
            if *now != (Sample { second, ..*told }) {
                samples.push(*now);
                *told = *now;
            }
            // It stays for one more second, which says that it has nothing any more.
            *is_active = !now.is_quiet();
            (now.delivered, now.cost) = (0, 0);
            *is_active
        });
        delivered == 0
    }

    /// Shares what was served of those that always had something by their weights.
    fn compete(&mut self) {
        let from = Timestamp(self.ends_at.0 - u64::try_from(SECOND.as_micros()).expect("a second fits"));
        let rows =
            self.active.iter().filter(|&&row| self.tenants[row].ready > 0 && self.tenants[row].ready_since <= from);
        let rows: Vec<usize> = rows.copied().collect();
        if rows.len() < 2 {
            return;
        }
        let cost = rows.iter().fold(0u64, |sum, &row| sum.saturating_add(self.tenants[row].now.cost));
        let weights: u64 = rows.iter().map(|&row| u64::from(self.tenants[row].weight)).sum();
        for row in rows {
            let tenant = &mut self.tenants[row];
            tenant.competed.cost = tenant.competed.cost.saturating_add(tenant.now.cost);
            tenant.competed.due += cost as f64 * f64::from(tenant.weight) / weights as f64;
        }
    }

    pub(super) fn competed(&self, row: usize) -> Competed {
        self.tenants[row].competed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_in_which_nothing_changes_have_no_sample() {
        let start = Timestamp::from_millis(5_000);
        let mut series = Series::new(start);
        series.push(TenantId(1));
        *series.of(0) = Sample { delivered: 3, cost: 30, backlog: 1, ..*series.of(0) };
        series.advance(start.plus(SECOND * 10));
        series.of(0).backlog = 0;
        series.advance(start.plus(SECOND * 20));
        let sample = |second, delivered, cost, backlog| Sample {
            second,
            tenant: TenantId(1),
            delivered,
            cost,
            in_flight: 0,
            backlog,
        };
        assert_eq!(series.samples, [sample(0, 3, 30, 1), sample(1, 0, 0, 1), sample(10, 0, 0, 0)]);
    }

    #[test]
    fn what_is_due_goes_by_weight_among_those_that_always_have_something() {
        let start = Timestamp::from_millis(5_000);
        let mut series = Series::new(start);
        for (row, cost) in [30, 30, 1_000].into_iter().enumerate() {
            series.push(TenantId(row as u64));
            series.of(row).cost = cost;
        }
        series.set_weight(1, 2);
        series.turned(0, true, start);
        series.turned(1, true, start);
        series.turned(2, true, start.plus(Duration::from_millis(1)));
        series.advance(start.plus(SECOND));
        let competed = |row| (series.competed(row).cost, series.competed(row).due);
        assert_eq!([competed(0), competed(1), competed(2)], [(30, 20.0), (30, 40.0), (0, 0.0)]);
    }

    #[test]
    fn the_highest_costs_saturate() {
        let start = Timestamp::from_millis(5_000);
        let mut series = Series::new(start);
        for row in 0..2 {
            series.push(TenantId(row as u64));
            series.turned(row, true, start);
        }
        for second in 1..=2 {
            (series.of(0).cost, series.of(1).cost) = (u64::MAX, 2);
            series.advance(start.plus(SECOND * second));
        }
        let competed = |row| (series.competed(row).cost, series.competed(row).due);
        assert_eq!([competed(0), competed(1)], [(u64::MAX, u64::MAX as f64), (4, u64::MAX as f64)]);
    }
}
