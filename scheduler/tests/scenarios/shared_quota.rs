//! "Sixty workers share one token limit, and together they overrun it."

use std::time::Duration;

use rand::RngExt;
use sluicegate_protocol::Rate;
use sluicegate_scheduler::Quotas;

use crate::simulation::{Job, Served, Simulation, around_100_ms, random};

const CONSUMERS: u64 = 64;

fn run(rate: Rate, seed: u64, error_percent: u64) -> Vec<Served> {
    let mut simulation = Simulation::new(Quotas { messages: None, cost: Some(rate) }, CONSUMERS, 1);
    let mut draws = random(seed);
    for lite in 0..6_000 {
        let cost = draws.random_range(100..=4_000);
        let measured = cost * draws.random_range(100 - error_percent..=100 + error_percent) / 100;
        // Seconds, as model calls take: so that many run at once.
        let service = around_100_ms(&mut draws) * 200;
        simulation.publish(Duration::ZERO, Job { lite, tenant: lite % 40, priority: 4, cost, measured, service });
    }
    simulation.run_for(Duration::from_hours(3));
    assert_eq!(simulation.served.len(), 6_000);
    simulation.served
}

/// The most by which a window exceeds burst and rate, beyond what the two deliveries at its ends allow it.
fn overshoot(rate: Rate, served: &[Served], of: fn(&Served) -> u64, allowance: impl Fn(usize, usize) -> u64) -> u128 {
    let mut worst = 0;
    for first in 0..served.len() {
        let mut sum = 0u128;
        for last in first..served.len() {
            sum += u128::from(of(&served[last]));
            let window = served[last].delivered_at.since(served[first].delivered_at).as_nanos();
            let at_once = u128::from(rate.burst()) + u128::from(allowance(first, last));
            let allowed = at_once * rate.period().as_nanos() + u128::from(rate.units()) * window;
            worst = worst.max((sum * rate.period().as_nanos()).saturating_sub(allowed));
        }
    }
    worst.div_ceil(rate.period().as_nanos())
}

/// By how much the leases that are open at this delivery, it included, were estimated wrong.
fn errors_in_flight(served: &[Served], at: usize) -> u64 {
    let open = served[..=at].iter().filter(|row| row.settled_before > at);
    open.map(|row| row.job.measured.abs_diff(row.job.cost)).sum()
}

#[test]
fn consumers_that_share_a_quota_never_reserve_more_than_it_allows() {
    let rate: Rate = "100000/min".parse().unwrap();
    let served = run(rate, 11, 0);
    assert_eq!(overshoot(rate, &served, |row| row.job.cost, |_, _| 0), 0);
    // Nor less: the bucket is never left full while something waits.
    let minutes = served[served.len() - 1].delivered_at.since(served[0].delivered_at).as_secs_f64() / 60.0;
    let tokens: u64 = served.iter().map(|row| row.job.cost).sum();
    assert!(tokens as f64 > 100_000.0 * minutes + 90_000.0, "{tokens} tokens in {minutes} minutes");
}

#[test]
fn what_they_measure_exceeds_it_by_the_estimate_errors_in_flight_at_most() {
    let rate: Rate = "100000/min".parse().unwrap();
    for seed in 21..24 {
        let served = run(rate, seed, 30);
        let errors: Vec<u64> = (0..served.len()).map(|at| errors_in_flight(&served, at)).collect();
        let before = |first: usize| first.checked_sub(1).map_or(0, |before| errors[before]);
        let measured = |row: &Served| row.job.measured;
        assert_eq!(overshoot(rate, &served, measured, |first, last| before(first) + errors[last]), 0);
        let bare = overshoot(rate, &served, measured, |_, _| 0);
        println!("seed {seed}: {bare} tokens above the quota, errors in flight {}", errors.iter().max().unwrap());
    }
}
