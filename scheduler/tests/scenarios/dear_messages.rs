//! "The long prompt never runs: short ones eat the budget before enough of it is there."

use std::time::Duration;

use sluicegate_scheduler::Quotas;

use crate::simulation::{Job, Served, Simulation};

const DEAR: u64 = 1_000;
const CHEAP_TENANTS: u64 = 20;

/// 1,000 tokens a second; cheap messages ask for twice as much, and every minute a dear one comes: less
/// than its tenant's share, also of the dearest.
fn dear_ones(dear_cost: u64, cheap_priority: u8) -> Vec<Served> {
    let cost = Some("1000/s".parse().expect("it is a rate"));
    let mut simulation = Simulation::new(Quotas { messages: None, cost }, 1, 1_000);
    let service = Duration::from_millis(20);
    for (nth, after) in (0..44_000).map(|nth| (nth, Duration::from_micros(5_000 * nth))) {
        let tenant = nth % CHEAP_TENANTS;
        let job = Job { lite: nth, tenant, priority: cheap_priority, cost: 10, measured: 10, service };
        simulation.publish(after, job);
    }
    for nth in 0..4 {
        let after = Duration::from_millis(10_003) + Duration::from_mins(1) * nth;
        let lite = 1_000_000 + u64::from(nth);
        let job = Job { lite, tenant: DEAR, priority: 4, cost: dear_cost, measured: dear_cost, service };
        simulation.publish(after, job);
    }
    simulation.run_for(Duration::from_secs(220));
    simulation.served.retain(|served| served.job.tenant == DEAR);
    simulation.served
}

/// One cheap message of each tenant may have an earlier start tag; then the bucket fills up, at most once.
#[test]
fn dear_messages_are_served_while_cheap_ones_arrive() {
    for cost in [400, 1_000, 2_500] {
        let waits: Vec<Duration> = dear_ones(cost, 4).iter().map(Served::wait).collect();
        let bound = Duration::from_millis(10 * (CHEAP_TENANTS + 1) + cost.min(1_000));
        assert_eq!(waits.len(), 4);
        assert!(waits.iter().all(|&wait| wait <= bound), "{waits:?} of {bound:?} for {cost} tokens");
    }
}

/// At the turn of the lower bands the higher ones wait with the dear message until it is paid.
#[test]
fn dear_messages_are_served_below_a_flood_of_cheap_ones_with_priority() {
    for cost in [400, 1_000, 2_500] {
        let waits: Vec<Duration> = dear_ones(cost, 9).iter().map(Served::wait).collect();
        let bound = Duration::from_millis(10 * 20 + cost.min(1_000));
        assert_eq!(waits.len(), 4);
        assert!(waits.iter().all(|&wait| wait <= bound), "{waits:?} of {bound:?} for {cost} tokens");
    }
}
