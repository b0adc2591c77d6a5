//! "Strict priorities: since the high queue never empties, the low one never runs."

use std::time::Duration;

use sluicegate_scheduler::Quotas;
use sluicegate_scheduler::simulation::{Delivery, Load, Workload};

use crate::{AROUND_100_MS, fair, group};

/// Dispatches of a group in which these bands always have something waiting.
fn dispatches(bands: &[u8]) -> Vec<Delivery> {
    let mut workload = Workload::new(7);
    for &priority in bands {
        for nth in 0..10 {
            let load = Load::at_once(1_600).each_its_own_lite().priority(priority).service(AROUND_100_MS);
            workload.add(&format!("{priority}/{nth}"), load);
        }
    }
    let mut report = fair(group(1, 50, Quotas::default()), &workload, Duration::from_secs(30));
    assert!(report.deliveries.len() > 12_000, "50 slots of 100 ms");
    report.deliveries.truncate(12_000);
    report.deliveries
}

#[test]
fn a_flood_of_high_priority_leaves_the_lower_bands_every_twentieth_dispatch() {
    for bands in [vec![9, 0], vec![9, 5, 0], (0..10).rev().collect::<Vec<u8>>()] {
        let served = dispatches(&bands);
        let lower = bands.len() - 1;
        for &band in &bands[1..] {
            let at: Vec<usize> =
                (0..).zip(&served).filter(|(_, row)| row.band == band).map(|(index, _)| index).collect();
            let due = served.len() / (20 * lower);
            assert!(at.len().abs_diff(due) <= 1, "band {band} of {bands:?} has {} dispatches, not {due}", at.len());
            let longest = at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            assert!(at[0] < 20 * lower && longest <= 20 * lower, "band {band} of {bands:?} waits {longest}");
        }
    }
}
