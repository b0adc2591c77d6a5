//! "Sixty workers share one token limit, and together they overrun it."

use std::time::Duration;

use sluicegate_protocol::Rate;
use sluicegate_scheduler::Quotas;
use sluicegate_scheduler::simulation::{Delivery, Load, Workload};

use crate::{fair, group};

const CONSUMERS: u32 = 64;

fn run(rate: Rate, seed: u64, error_percent: u64) -> Vec<Delivery> {
    let mut workload = Workload::new(seed);
    for nth in 0..40 {
        let load = Load::at_once(150).each_its_own_lite().cost(100..=4_000);
        let load = load.measured_percent(100 - error_percent..=100 + error_percent);
        // Seconds, as model calls take: so that many run at once.
        let load = load.service(Duration::from_secs(10)..=Duration::from_secs(30));
        workload.add(&format!("tenant {nth}"), load);
    }
    let group = group(CONSUMERS, 1, Quotas { messages: None, cost: Some(rate) });
    let report = fair(group, &workload, Duration::from_hours(3));
    assert_eq!(report.counts().done, 6_000);
    assert_eq!(report.cost_quota.expect("it has one").excess, 0);
    report.deliveries
}

/// The most by which a window exceeds burst and rate, beyond what the two deliveries at its ends allow it.
fn overshoot(
    rate: Rate,
    served: &[Delivery],
    of: fn(&Delivery) -> u64,
    allowance: impl Fn(usize, usize) -> u64,
) -> u128 {
    let mut worst = 0;
    for first in 0..served.len() {
        let mut sum = 0u128;
        for last in first..served.len() {
            sum += u128::from(of(&served[last]));
            let window = served[last].delivered_at.saturating_sub(served[first].delivered_at).as_nanos();
            let at_once = u128::from(rate.burst()) + u128::from(allowance(first, last));
            let allowed = at_once * rate.period().as_nanos() + u128::from(rate.units()) * window;
            worst = worst.max((sum * rate.period().as_nanos()).saturating_sub(allowed));
        }
    }
    worst.div_ceil(rate.period().as_nanos())
}

/// By how much the leases that are open at this delivery, it included, were estimated wrong.
fn errors_in_flight(served: &[Delivery], at: usize) -> u64 {
    let now = served[at].delivered_at;
    let open = served[..=at].iter().filter(|row| row.ended.is_some_and(|(ended_at, _)| ended_at > now));
    open.map(|row| row.measured.abs_diff(row.cost)).sum()
}

#[test]
fn consumers_that_share_a_quota_never_reserve_more_than_it_allows() {
    let rate: Rate = "100000/min".parse().unwrap();
    let served = run(rate, 11, 0);
    assert_eq!(overshoot(rate, &served, |row| row.cost, |_, _| 0), 0);
    // Nor less: the bucket is never left full while something waits.
    let minutes = served[served.len() - 1].delivered_at.saturating_sub(served[0].delivered_at).as_secs_f64() / 60.0;
    let tokens: u64 = served.iter().map(|row| row.cost).sum();
    assert!(tokens as f64 > 100_000.0 * minutes + 90_000.0, "{tokens} tokens in {minutes} minutes");
}

#[test]
fn what_they_measure_exceeds_it_by_the_estimate_errors_in_flight_at_most() {
    let rate: Rate = "100000/min".parse().unwrap();
    for seed in 21..24 {
        let served = run(rate, seed, 30);
        let errors: Vec<u64> = (0..served.len()).map(|at| errors_in_flight(&served, at)).collect();
        let before = |first: usize| first.checked_sub(1).map_or(0, |before| errors[before]);
        let measured = |row: &Delivery| row.measured;
        assert_eq!(overshoot(rate, &served, measured, |first, last| before(first) + errors[last]), 0);
        let bare = overshoot(rate, &served, measured, |_, _| 0);
        println!("seed {seed}: {bare} tokens above the quota, errors in flight {}", errors.iter().max().unwrap());
    }
}
