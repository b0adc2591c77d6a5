//! Plays a plan in virtual time against the smallest broker that has quotas, fair queueing and the policy, so that
//! plans, checks and the report are tested without a broker. For tests only.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use sluicegate_protocol::{Rate, Timestamp};

use super::ledger::{Delivery, Ledger, Outcome, Published};
use super::workload::Plan;

/// When a rehearsal starts.
pub(super) const START: Timestamp = Timestamp(1_700_000_000_000_000);
const TICK: Duration = Duration::from_micros(500);

/// A bucket as a theoretical arrival time, in seconds.
struct Gate {
    full_at: f64,
    rate: f64,
    burst: f64,
}

impl Gate {
    fn new(rate: Rate) -> Self {
        Self { full_at: 0.0, rate: f64::from(rate.units()), burst: f64::from(rate.burst()) }
    }

    fn is_open(&self, units: f64, now: f64) -> bool {
        self.full_at.max(now) + units.min(self.burst) / self.rate <= now + self.burst / self.rate
    }

    fn reserve(&mut self, units: f64, now: f64) {
        self.full_at = self.full_at.max(now) + units / self.rate;
    }

    fn correct(&mut self, units: f64, now: f64) {
        self.full_at = (self.full_at + units / self.rate).max(now);
    }
}

/// Plays a plan to its end; the policy decides from the swap until the last arrival.
pub(super) fn rehearse(plan: &Plan) -> Ledger {
    let mut ledger = Ledger::default();
    let users = plan.users.len();
    let mut queues: Vec<VecDeque<usize>> = vec![VecDeque::new(); users];
    let mut busy = vec![false; users];
    let mut finish = vec![0.0_f64; users];
    let mut clock: f64 = 0.0;
    let (mut cost, mut messages) = (Gate::new(plan.cost_quota), Gate::new(plan.messages_quota));
    let mut accounts: Vec<(f64, f64)> = vec![(f64::from(plan.policy.burst), plan.swap_after.as_secs_f64()); users];
    let mut services: BinaryHeap<Reverse<(Duration, usize)>> = BinaryHeap::new();
    let (mut now, mut next, mut done) = (Duration::ZERO, 0, 0);
    while done < plan.arrivals.len() {
        let seconds = now.as_secs_f64();
        let decides = now >= plan.swap_after && now < plan.settings.length;
        while services.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((_, index)) = services.pop().expect("it was peeked");
            let arrival = plan.arrivals[index];
            let user = arrival.user as usize;
            busy[user] = false;
            done += 1;
            let error = f64::from(arrival.cost_actual) - f64::from(arrival.cost_estimate);
            cost.correct(error, seconds);
            finish[user] += error;
            accounts[user].0 -= error;
        }
        while let Some(arrival) = plan.arrivals.get(next).filter(|arrival| arrival.at <= now) {
            queues[arrival.user as usize].push_back(next);
            next += 1;
        }
        loop {
            let payable = |user: &usize| {
                let (level, since) = accounts[*user];
                let grown = level + (seconds - since).max(0.0) * f64::from(plan.policy.rate_per_second);
                let price = f64::from(plan.arrivals[queues[*user][0]].cost_estimate);
                !decides || grown.min(f64::from(plan.policy.burst)) >= price.min(f64::from(plan.policy.burst))
            };
            let ready = (0..users).filter(|user| !busy[*user] && !queues[*user].is_empty()).filter(payable);
            let Some(user) = ready.min_by(|a, b| finish[*a].max(clock).total_cmp(&finish[*b].max(clock))) else {
                break;
            };
            let index = queues[user][0];
            let arrival = plan.arrivals[index];
            let price = f64::from(arrival.cost_estimate);
            if !cost.is_open(price, seconds) || !messages.is_open(1.0, seconds) {
                break;
            }
            cost.reserve(price, seconds);
            messages.reserve(1.0, seconds);
            clock = clock.max(finish[user].max(clock));
            finish[user] = finish[user].max(clock) + price;
            if decides {
                let (level, since) = accounts[user];
                let grown = level + (seconds - since).max(0.0) * f64::from(plan.policy.rate_per_second);
                accounts[user] = (grown.min(f64::from(plan.policy.burst)) - price, seconds.max(since));
            }
            queues[user].pop_front();
            busy[user] = true;
            let settled = now + arrival.service_time.max(TICK);
            services.push(Reverse((settled, index)));
            record(&mut ledger, &arrival, now, settled);
        }
        now += TICK;
    }
    ledger
}

fn record(ledger: &mut Ledger, arrival: &super::workload::Arrival, now: Duration, settled: Duration) {
    let super::workload::Arrival { at, user, sequence, cost_estimate, cost_actual, .. } = *arrival;
    ledger.published.push(Published {
        user,
        sequence,
        offset: sequence,
        arrived_at: START.plus(at),
        receipt_at: START.plus(at),
        cost_estimate,
    });
    ledger.deliveries.push(Delivery {
        user,
        sequence,
        offset: sequence,
        attempt: 1,
        dispatched_at: START.plus(now),
        delivered_at: START.plus(now),
        settled_at: START.plus(settled),
        outcome: Outcome::Acked,
        cost_estimate,
        cost_actual,
    });
}

mod tests {
    use super::super::audit::{Terms, audit};
    use super::super::generator::{Mix, generate};
    use super::super::summary::Summary;
    use super::super::trace::Trace;
    use super::super::workload::Settings;
    use super::*;

    fn played(trace: &Trace, settings: Settings) -> (Plan, Summary) {
        let plan = Plan::new(trace, settings).unwrap();
        let ledger = rehearse(&plan);
        let classes: Vec<_> = plan.users.iter().map(|user| user.class).collect();
        let swap_at = START.plus(plan.swap_after);
        let terms = Terms {
            planned: plan.arrivals.len() as u64,
            classes: &classes,
            messages_quota: plan.messages_quota,
            cost_quota: plan.cost_quota,
            swap_at,
        };
        let audit = audit(&ledger, &terms);
        let summary = Summary::new(&plan, &ledger, swap_at, &audit);
        (plan, summary)
    }

    /// The claims hold with a margin, so that a broker that does its work passes, whatever the seed and length.
    fn assert_claims(trace: &Trace, settings: Settings) {
        let (plan, summary) = played(trace, settings);
        let light = summary.classes[2].wait_ms;
        let shown = format!("{} {settings:?}\n{summary:#?}\n{}", trace.source, super::super::table::table(&summary));
        assert_eq!(summary.violation, None, "{shown}");
        assert!(summary.quota_bound_seconds * 10 >= summary.run_seconds * 3, "{shown}");
        assert!(light.after.p90 < 0.5 * light.before.p90, "{shown}");
        assert!(light.after.p99 < 0.8 * light.before.p99, "{shown}");
        assert!(summary.run_seconds <= 2 * plan.settings.length.as_secs(), "{shown}");
    }

    #[test]
    fn the_claims_hold_over_the_generator() {
        for seed in 1..=6 {
            for (seconds, mix) in [(60, Mix::Code), (20, Mix::Code), (120, Mix::Code), (60, Mix::Conversation)] {
                let settings = Settings { length: Duration::from_secs(seconds), seed, ..Settings::default() };
                assert_claims(&generate(mix, settings.requests_max(), seed), settings);
            }
        }
    }

    #[test]
    fn the_claims_hold_over_a_recorded_trace() {
        let Some(path) = std::env::var_os("SLUICE_TRACE") else {
            println!("skipped: SLUICE_TRACE names no trace");
            return;
        };
        let trace = Trace::read(path.as_ref()).unwrap();
        for seed in 1..=6 {
            for seconds in [60, 20, 120] {
                assert_claims(&trace, Settings { length: Duration::from_secs(seconds), seed, ..Settings::default() });
            }
        }
    }
}
