//! "A rate-limited user is delivered again and again, only to be put back, and the others pay for it."

use std::time::Duration;

use rand::RngExt;
use sluicegate_scheduler::Quotas;

use crate::simulation::{Job, Served, Simulation, around_100_ms, arrivals, mean, quantile, random};

const LITES: u64 = 1_000;
const SPAN: Duration = Duration::from_mins(1);

/// Of each five lite topics one is suspended now and then.
fn is_suspended_at_times(lite: u64) -> bool {
    lite.is_multiple_of(5)
}

fn run(seed: u64, has_suspensions: bool) -> Simulation {
    let mut simulation = Simulation::new(Quotas::default(), 1, 50);
    let mut draws = random(seed);
    for after in arrivals(&mut draws, 400.0, SPAN) {
        let lite = draws.random_range(0..LITES);
        let service = around_100_ms(&mut draws);
        simulation.publish(after, Job { lite, tenant: lite, priority: 4, cost: 1, measured: 1, service });
    }
    for lite in (0..LITES).filter(|&lite| has_suspensions && is_suspended_at_times(lite)) {
        for _ in 0..20 {
            let after = Duration::from_micros(draws.random_range(0..60_000_000));
            simulation.suspend(after, lite, lite, Duration::from_millis(500));
        }
    }
    simulation.run_for(SPAN * 2);
    simulation
}

#[test]
fn suspended_lite_topics_are_never_delivered_and_the_others_do_not_notice() {
    for seed in 1..=3 {
        let (without, with) = (run(seed, false), run(seed, true));
        assert_eq!(with.wasted, 0);
        assert_eq!(with.served.len(), without.served.len(), "what was suspended is served afterwards");
        let waits = |simulation: &Simulation| -> Vec<Duration> {
            let others = simulation.served.iter().filter(|served| !is_suspended_at_times(served.job.lite));
            others.map(Served::wait).collect()
        };
        let (before, after) = (waits(&without), waits(&with));
        let (mean_before, mean_after) = (mean(&before), mean(&after));
        let (p99_before, p99_after) = (quantile(before, 990), quantile(after, 990));
        println!("seed {seed}: mean wait {mean_before:?} -> {mean_after:?}, p99 {p99_before:?} -> {p99_after:?}");
        assert!(mean_after <= mean_before + Duration::from_micros(200), "{mean_after:?} instead of {mean_before:?}");
        assert!(p99_after <= p99_before + Duration::from_millis(1), "{p99_after:?} instead of {p99_before:?}");
    }
}
