//! "One customer uploads everything and all others wait."
//!
//! 50 slots of 100 ms serve 500 tasks a second. The quiet tenants offer 300, so the hog may have the other 200: all
//! slots are always busy, and running work is never preempted. A quiet task goes before all of the hog's, so it waits
//! for the next slot that frees up, on average 2 ms, behind quiet tasks that came before it: as in a queue of one
//! server with the rate of all 50, the wait is above `t` with probability `exp(-(500 - 300) t)`; 1 in 100 waits 23 ms.

use std::time::Duration;

use sluicegate_scheduler::Quotas;
use sluicegate_scheduler::simulation::{Delivery, Load, Waits, Workload};

use crate::{AROUND_100_MS, fair, group};

const QUIET: u32 = 1_000;
const SPAN: Duration = Duration::from_mins(1);

fn quiet_tasks(seed: u64, hogs_tasks: u64) -> Vec<Delivery> {
    let mut workload = Workload::new(seed);
    // Of all together 300 a second. They draw on their own, so they are the same with and without the hog.
    let quiet = Load::poisson(Duration::from_secs(1) * QUIET / 300).each_its_own_lite().service(AROUND_100_MS);
    for nth in 0..QUIET {
        workload.add(&format!("quiet {nth}"), quiet.clone());
    }
    let hog = workload.add("hog", Load::at_once(hogs_tasks).each_its_own_lite().service(AROUND_100_MS));
    let report = fair(group(1, 50, Quotas::default()), &workload, SPAN);
    assert_eq!(hogs_tasks > 0, report.tenants.contains_key(&hog));
    report.deliveries.into_iter().filter(|delivery| delivery.tenant != hog).collect()
}

#[test]
fn quiet_tenants_hardly_notice_a_hog() {
    for seed in 1..=5 {
        let (alone, beside) = (quiet_tasks(seed, 0), quiet_tasks(seed, 100_000));
        assert!(beside.len() + 100 > alone.len(), "some are not served: {} of {}", beside.len(), alone.len());
        let p99 = |waits: Waits| waits.quantile(990);
        let latency = |delivery: &Delivery| Some(delivery.wait() + delivery.service()?);
        let before = p99(alone.iter().filter_map(latency).collect());
        let after = p99(beside.iter().filter_map(latency).collect());
        let wait = p99(beside.iter().map(Delivery::wait).collect());
        println!("seed {seed}: p99 to the ack {before:?} alone, {after:?} beside the hog; p99 wait {wait:?}");
        assert!(after.as_secs_f64() <= 1.15 * before.as_secs_f64(), "{after:?} to the ack instead of {before:?}");
        assert!(wait <= Duration::from_millis(25), "1 in 100 waits {wait:?}");
    }
}
