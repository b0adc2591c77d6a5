//! "Strict priorities: since the high queue never empties, the low one never runs."

use std::time::Duration;

use sluicegate_scheduler::Quotas;

use crate::simulation::{Job, Served, Simulation, around_100_ms, random};

/// Dispatches of a group in which these bands always have something waiting.
fn dispatches(bands: &[u8]) -> Vec<Served> {
    let mut simulation = Simulation::new(Quotas::default(), 1, 50);
    let mut draws = random(7);
    for &priority in bands {
        for nth in 0..16_000 {
            let tenant = u64::from(priority) * 10 + nth % 10;
            let lite = u64::from(priority) * 100_000 + nth;
            let service = around_100_ms(&mut draws);
            simulation.publish(Duration::ZERO, Job { lite, tenant, priority, cost: 1, measured: 1, service });
        }
    }
    simulation.run_for(Duration::from_secs(30));
    assert!(simulation.served.len() > 12_000, "50 slots of 100 ms");
    simulation.served.truncate(12_000);
    simulation.served
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
