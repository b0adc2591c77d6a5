//! "One customer uploads everything and all others wait."
//!
//! 50 slots of 100 ms serve 500 tasks a second. The quiet tenants offer 300, so the hog may have the other 200: all
//! slots are always busy, and running work is never preempted. A quiet task goes before all of the hog's, so it waits
//! for the next slot that frees up, on average 2 ms, behind quiet tasks that came before it: as in a queue of one
//! server with the rate of all 50, the wait is above `t` with probability `exp(-(500 - 300) t)`; 1 in 100 waits 23 ms.

use std::time::Duration;

use rand::RngExt;
use sluicegate_scheduler::Quotas;

use crate::simulation::{Job, Served, Simulation, around_100_ms, arrivals, quantile, random};

const SLOTS: u32 = 50;
const QUIET: u64 = 1_000;
const HOG: u64 = 1_000_000;
const SPAN: Duration = Duration::from_mins(1);

fn quiet_tasks(seed: u64, hogs_tasks: u64) -> Vec<Served> {
    let mut simulation = Simulation::new(Quotas::default(), 1, SLOTS);
    let mut draws = random(seed);
    for lite in 0..hogs_tasks {
        let job = Job {
            lite: HOG + lite,
            tenant: HOG,
            priority: 4,
            cost: 1,
            measured: 1,
            service: around_100_ms(&mut draws),
        };
        simulation.publish(Duration::ZERO, job);
    }
    // Drawn on their own, so that the quiet ones are the same with and without the hog.
    let mut draws = random(!seed);
    for (lite, after) in (0..).zip(arrivals(&mut draws, 300.0, SPAN)) {
        let tenant = draws.random_range(0..QUIET);
        simulation.publish(
            after,
            Job { lite, tenant, priority: 4, cost: 1, measured: 1, service: around_100_ms(&mut draws) },
        );
    }
    simulation.run_for(SPAN);
    assert_eq!(hogs_tasks > 0, simulation.served.iter().any(|served| served.job.tenant == HOG));
    simulation.served.retain(|served| served.job.tenant != HOG);
    simulation.served
}

#[test]
fn quiet_tenants_hardly_notice_a_hog() {
    for seed in 1..=5 {
        let (alone, beside) = (quiet_tasks(seed, 0), quiet_tasks(seed, 100_000));
        assert!(beside.len() + 100 > alone.len(), "some are not served: {} of {}", beside.len(), alone.len());
        let p99 = |served: &[Served], of: fn(&Served) -> Duration| quantile(served.iter().map(of).collect(), 990);
        let (before, after) = (p99(&alone, Served::latency), p99(&beside, Served::latency));
        let wait = p99(&beside, Served::wait);
        println!("seed {seed}: p99 to the ack {before:?} alone, {after:?} beside the hog; p99 wait {wait:?}");
        assert!(after.as_secs_f64() <= 1.15 * before.as_secs_f64(), "{after:?} to the ack instead of {before:?}");
        assert!(wait <= Duration::from_millis(25), "1 in 100 waits {wait:?}");
    }
}
