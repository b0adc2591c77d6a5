//! "The long prompt never runs: short ones eat the budget before enough of it is there."

use std::time::Duration;

use sluicegate_scheduler::Quotas;
use sluicegate_scheduler::simulation::{Delivery, Load, Workload};

use crate::{fair, group};

const CHEAP_TENANTS: u32 = 20;

/// 1,000 tokens a second; cheap messages ask for twice as much, and every minute a dear one comes: less
/// than its tenant's share, also of the dearest.
fn waits_of_dear_ones(dear_cost: u64, cheap_priority: u8) -> Vec<Duration> {
    let cost = Some("1000/s".parse().expect("it is a rate"));
    let service = Duration::from_millis(20);
    let mut workload = Workload::new(1);
    for nth in 0..CHEAP_TENANTS {
        let starts = Duration::from_millis(5) * nth;
        let load = Load::every(Duration::from_millis(5) * CHEAP_TENANTS).starting(starts).each_its_own_lite();
        workload.add(&format!("cheap {nth}"), load.priority(cheap_priority).cost(10).service(service));
    }
    let load = Load::every(Duration::from_mins(1)).starting(Duration::from_millis(10_003)).each_its_own_lite();
    let dear = workload.add("dear", load.messages(4).cost(dear_cost).service(service));
    let report = fair(group(1, 1_000, Quotas { messages: None, cost }), &workload, Duration::from_secs(220));
    report.deliveries.iter().filter(|delivery| delivery.tenant == dear).map(Delivery::wait).collect()
}

/// One cheap message of each tenant may have an earlier start tag; then the bucket fills up, at most once.
#[test]
fn dear_messages_are_served_while_cheap_ones_arrive() {
    for cost in [400, 1_000, 2_500] {
        let waits = waits_of_dear_ones(cost, 4);
        let bound = Duration::from_millis(10 * (u64::from(CHEAP_TENANTS) + 1) + cost.min(1_000));
        assert_eq!(waits.len(), 4);
        assert!(waits.iter().all(|&wait| wait <= bound), "{waits:?} of {bound:?} for {cost} tokens");
    }
}

/// At the turn of the lower bands the higher ones wait with the dear message until it is paid.
#[test]
fn dear_messages_are_served_below_a_flood_of_cheap_ones_with_priority() {
    for cost in [400, 1_000, 2_500] {
        let waits = waits_of_dear_ones(cost, 9);
        let bound = Duration::from_millis(10 * 20 + cost.min(1_000));
        assert_eq!(waits.len(), 4);
        assert!(waits.iter().all(|&wait| wait <= bound), "{waits:?} of {bound:?} for {cost} tokens");
    }
}
