//! "A rate-limited user is delivered again and again, only to be put back, and the others pay for it."

use std::time::Duration;

use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler::Quotas;
use sluicegate_scheduler::simulation::{Decider, Delivery, Draws, Load, Simulation, Waits, Workload};

use crate::{AROUND_100_MS, group};

const TENANTS: u64 = 1_000;
const SPAN: Duration = Duration::from_mins(1);
const SUSPENSION: Duration = Duration::from_millis(500);

/// Of each five lite topics one is suspended now and then. A tenant has one, with its own number.
fn is_suspended_at_times(lite: LiteId) -> bool {
    lite.0.is_multiple_of(5)
}

fn suspensions(seed: u64) -> Vec<(Duration, LiteId)> {
    let mut draws = Draws::new(seed);
    let lites = (1..=TENANTS).map(LiteId).filter(|&lite| is_suspended_at_times(lite)).flat_map(|lite| [lite; 20]);
    lites.map(|lite| (Duration::from_micros(draws.up_to(60_000_000)), lite)).collect()
}

fn run(seed: u64, suspensions: &[(Duration, LiteId)]) -> Vec<Delivery> {
    let mut workload = Workload::new(seed);
    for nth in 1..=TENANTS {
        // Of all together 400 a second.
        let load = Load::poisson(Duration::from_millis(2_500)).ending(SPAN).service(AROUND_100_MS);
        assert_eq!(workload.add(&format!("tenant {nth}"), load), TenantId(nth));
    }
    let simulation =
        suspensions.iter().fold(Simulation::new(group(1, 50, Quotas::default())), |simulation, &(after, lite)| {
            simulation.suspend(after, TenantId(lite.0), lite, SUSPENSION)
        });
    simulation.run(workload.names(), workload.jobs(), Decider::Fair, SPAN * 2).deliveries
}

fn mean(waits: &[Duration]) -> Duration {
    waits.iter().sum::<Duration>() / u32::try_from(waits.len()).expect("few waits")
}

#[test]
fn suspended_lite_topics_are_never_delivered_and_the_others_do_not_notice() {
    for seed in 1..=3 {
        let suspensions = suspensions(seed);
        let (without, with) = (run(seed, &[]), run(seed, &suspensions));
        let is_wasted = |delivery: &&Delivery| {
            let holds = |&(at, lite): &(Duration, LiteId)| {
                lite == delivery.lite && (at..at + SUSPENSION).contains(&delivery.delivered_at)
            };
            suspensions.iter().any(holds)
        };
        assert_eq!(with.iter().filter(is_wasted).count(), 0);
        assert_eq!(with.len(), without.len(), "what was suspended is served afterwards");
        let waits = |served: &[Delivery]| -> Vec<Duration> {
            served.iter().filter(|delivery| !is_suspended_at_times(delivery.lite)).map(Delivery::wait).collect()
        };
        let (before, after) = (waits(&without), waits(&with));
        let (mean_before, mean_after) = (mean(&before), mean(&after));
        let p99 = |waits: Vec<Duration>| waits.into_iter().collect::<Waits>().quantile(990);
        let (p99_before, p99_after) = (p99(before), p99(after));
        println!("seed {seed}: mean wait {mean_before:?} -> {mean_after:?}, p99 {p99_before:?} -> {p99_after:?}");
        assert!(mean_after <= mean_before + Duration::from_micros(200), "{mean_after:?} instead of {mean_before:?}");
        assert!(p99_after <= p99_before + Duration::from_millis(1), "{p99_after:?} instead of {p99_before:?}");
    }
}
