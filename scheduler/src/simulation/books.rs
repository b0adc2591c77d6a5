//! What is written down while a run goes on, and the report that it makes.

use std::collections::HashMap;
use std::time::Duration;

use sluicegate_protocol::{TenantId, Timestamp};

use super::digest::Digest;
use super::meter::Meter;
use super::readiness::{Look, Readiness};
use super::report::{Counts, Delivery, Report, TenantReport};
use super::run::START;
use super::series::{Competed, Series};
use super::waiting::{Lite, Message, Waiting};
use crate::{Charge, Concurrency, Decision, Quotas, Verdict, WorkResult};

/// The books of one run.
#[derive(Debug)]
pub(super) struct Books {
    concurrency: Concurrency,
    /// Leases that may be open at once.
    capacity: u64,
    at: Timestamp,
    in_flight: u64,
    /// Open leases, times their microseconds.
    busy_us: u128,
    tenants: Vec<(TenantId, Counts)>,
    by_id: HashMap<TenantId, usize>,
    deliveries: Vec<Delivery>,
    /// By the tenant's row: how long what was skipped waited, if it was never delivered.
    skipped: Vec<(usize, Duration)>,
    series: Series,
    readiness: Readiness,
    messages: Option<Meter>,
    cost: Option<Meter>,
    asks: u64,
    faults: u64,
    first_fault: Option<String>,
    service_gap_max: u64,
    digest: Digest,
}

impl Books {
    pub(super) fn new(concurrency: Concurrency, quotas: Quotas, capacity: u64) -> Self {
        Self {
            concurrency,
            capacity,
            at: START,
            in_flight: 0,
            busy_us: 0,
            tenants: Vec::new(),
            by_id: HashMap::new(),
            deliveries: Vec::new(),
            skipped: Vec::new(),
            series: Series::new(START),
            readiness: Readiness::default(),
            messages: quotas.messages.map(|rate| Meter::new(rate, START)),
            cost: quotas.cost.map(|rate| Meter::new(rate, START)),
            asks: 0,
            faults: 0,
            first_fault: None,
            service_gap_max: 0,
            digest: Digest::new(),
        }
    }

    /// Until now everything stayed as it was.
    pub(super) fn advance(&mut self, now: Timestamp) {
        self.busy_us += u128::from(self.in_flight) * now.since(self.at).as_micros();
        self.at = now;
        self.series.advance(now);
    }

    /// The row of a tenant, new if there is none.
    pub(super) fn tenant(&mut self, id: TenantId) -> usize {
        *self.by_id.entry(id).or_insert_with(|| {
            self.tenants.push((id, Counts::default()));
            self.series.push(id);
            self.tenants.len() - 1
        })
    }

    /// The scheduler decided.
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.digest.add(self.at, decision);
        self.asks += u64::from(matches!(decision, Decision::Ask(_)));
    }

    /// The scheduler has nothing more to decide. The quotas may keep its gate closed.
    pub(super) fn rested(&mut self, gate: Option<Timestamp>, service_gap: u64) {
        self.readiness.set_room(self.in_flight < self.capacity && gate.is_none(), self.at);
        self.service_gap_max = self.service_gap_max.max(service_gap);
    }

    pub(super) fn published(&mut self, tenant: usize) {
        self.tenants[tenant].1.published += 1;
        self.series.of(tenant).backlog += 1;
    }

    /// Waiting -> Leased. Answers the place of the delivery.
    pub(super) fn delivered(&mut self, lite: &Lite, message: &Message, charge: Charge) -> usize {
        let Message { job, offset, published_at, attempts } = message;
        let tenant = lite.tenant;
        self.tenants[tenant].1.delivered += 1;
        self.in_flight += 1;
        let sample = self.series.of(tenant);
        sample.delivered += 1;
        sample.cost = sample.cost.saturating_add(job.measured);
        sample.backlog -= 1;
        sample.in_flight += 1;
        let is_full = sample.in_flight >= u64::from(self.concurrency.tenant);
        self.readiness.set_closed(tenant, is_full, self.at);
        if let Some(meter) = &mut self.messages {
            meter.reserve(1, self.at);
        }
        if let Some(meter) = &mut self.cost {
            meter.reserve(charge.cost, self.at);
        }
        self.deliveries.push(Delivery {
            tenant: job.tenant,
            lite: lite.id,
            offset: *offset,
            attempt: attempts + 1,
            band: charge.band,
            cost: job.cost,
            measured: job.measured,
            published_at: published_at.since(START),
            delivered_at: self.at.since(START),
            ended: None,
        });
        self.deliveries.len() - 1
    }

    /// Leased -> Settled, or Waiting again.
    pub(super) fn ended(&mut self, tenant: usize, delivery: usize, charge: Charge, result: WorkResult) {
        let row = &mut self.deliveries[delivery];
        row.ended = Some((self.at.since(START), result));
        if let Some(meter) = &mut self.cost {
            meter.correct(charge.cost, row.measured, self.at);
        }
        self.in_flight -= 1;
        let (counts, sample) = (&mut self.tenants[tenant].1, self.series.of(tenant));
        sample.in_flight -= 1;
        match result {
            WorkResult::Done => counts.done += 1,
            WorkResult::DeadLettered => counts.dead_lettered += 1,
            WorkResult::Retried | WorkResult::TimedOut => {
                counts.retried += 1;
                sample.backlog += 1;
            }
        }
        let is_full = sample.in_flight >= u64::from(self.concurrency.tenant);
        self.readiness.set_closed(tenant, is_full, self.at);
    }

    /// Waiting -> Settled, without a delivery. The counts are to say why.
    pub(super) fn skipped(&mut self, tenant: usize, message: &Message) -> &mut Counts {
        if message.attempts == 0 {
            self.skipped.push((tenant, self.at.since(message.published_at)));
        }
        self.series.of(tenant).backlog -= 1;
        &mut self.tenants[tenant].1
    }

    /// The policy gave a verdict.
    pub(super) fn judged(&mut self, tenant: usize, verdict: Verdict) {
        let counts = &mut self.tenants[tenant].1;
        match verdict {
            Verdict::Throttle(_) => counts.throttled += 1,
            Verdict::Suspend(_) => counts.suspended += 1,
            // What comes of these is a decision of the scheduler.
            Verdict::Serve { .. } | Verdict::DeadLetter | Verdict::Drop => {}
        }
    }

    /// The policy gave a tenant a weight.
    pub(super) fn weighed(&mut self, tenant: TenantId, weight: u32) {
        let row = self.tenant(tenant);
        self.series.set_weight(row, weight);
    }

    /// The policy did not answer as it must.
    pub(super) fn failed(&mut self, fault: String) {
        self.faults += 1;
        self.first_fault.get_or_insert(fault);
    }

    /// A lite topic changed.
    pub(super) fn look(&mut self, row: usize, lite: &Lite) {
        let is_free = lite.open < self.concurrency.lite && lite.held_until <= self.at;
        let look = Look {
            lite: lite.id,
            row,
            tenant: self.tenants[lite.tenant].0,
            tenant_row: lite.tenant,
            is_ready: is_free && lite.due().is_some_and(|due| due <= self.at),
            has_leases: lite.open > 0,
        };
        if let Some(is_ready) = self.readiness.look(look, self.at) {
            self.series.turned(lite.tenant, is_ready, self.at);
        }
    }

    /// The run is over.
    pub(super) fn close(mut self, waiting: &Waiting) -> Report {
        self.series.end_second();
        let span = self.at.since(START);
        let mut waits: Vec<Vec<Duration>> = vec![Vec::new(); self.tenants.len()];
        let mut costs = vec![0u64; self.tenants.len()];
        for delivery in &self.deliveries {
            let row = self.by_id[&delivery.tenant];
            costs[row] = costs[row].saturating_add(delivery.measured);
            if delivery.attempt == 1 {
                waits[row].push(delivery.wait());
            }
        }
        for &(row, wait) in &self.skipped {
            waits[row].push(wait);
        }
        for lite in waiting.iter() {
            self.tenants[lite.tenant].1.waiting += lite.waiting.len() as u64;
            let undelivered = lite.waiting.iter().filter(|message| message.attempts == 0);
            waits[lite.tenant].extend(undelivered.map(|message| self.at.since(message.published_at)));
        }
        for row in 0..waiting.len() {
            // What still waits waited until now.
            let lite = waiting.get(row);
            let tenant = self.tenants[lite.tenant].0;
            let over = Look { lite: lite.id, row, tenant, tenant_row: lite.tenant, is_ready: false, has_leases: false };
            self.readiness.look(over, self.at);
        }
        let all_costs = costs.iter().map(|&cost| cost as f64).sum::<f64>().max(1.0);
        let rows = self.tenants.iter().zip(waits).zip(costs).enumerate();
        let tenants = rows.map(|(row, ((&(id, counts), waits), cost))| {
            let Competed { cost: got, due } = self.series.competed(row);
            let fair_ratio = (due > 0.0).then(|| got as f64 / due);
            let waits = waits.into_iter().collect();
            (id, TenantReport { counts, waits, cost, share: cost as f64 / all_costs, fair_ratio })
        });
        let slot_us = u128::from(self.capacity) * span.as_micros().max(1);
        Report {
            span,
            tenants: tenants.collect(),
            samples: std::mem::take(&mut self.series.samples),
            deliveries: self.deliveries,
            asks: self.asks,
            faults: self.faults,
            first_fault: self.first_fault,
            starvation: self.readiness.longest(),
            service_gap_max: self.service_gap_max,
            messages_quota: self.messages.map(|meter| meter.total(span)),
            cost_quota: self.cost.map(|meter| meter.total(span)),
            utilisation: self.busy_us as f64 / slot_us as f64,
            digest: self.digest,
        }
    }
}
