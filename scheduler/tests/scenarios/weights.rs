//! "Fair by message is not fair: some messages cost a thousand times as much."

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt;
use sluicegate_scheduler::Quotas;

use crate::simulation::{Job, Simulation, around_100_ms, random};

const WEIGHTS: [(u64, u32); 5] = [(0, 1), (1, 2), (2, 3), (3, 7), (4, 10)];
const LITES_OF_EACH: u64 = 60;

/// Each tenant has its own mix, all between 10 and 10,000 tokens.
fn cost(tenant: u64, random: &mut rand_pcg::Pcg64Mcg) -> u64 {
    match tenant {
        0 => random.random_range(10..=10_000),
        1 => 10_000,
        2 => [10, 10_000][random.random_range(0..2)],
        // As many between 10 and 100 as between 1,000 and 10,000.
        3 => 10u64.pow(random.random_range(1..=3)) * random.random_range(1..=10),
        _ => random.random_range(1_000..=3_000),
    }
}

#[test]
fn tokens_are_shared_by_weight_whatever_a_message_costs() {
    let mut simulation = Simulation::new(Quotas::default(), 1, 50).with_weights(WEIGHTS);
    let mut draws = random(3);
    for (tenant, weight) in WEIGHTS {
        // Enough that each tenant has something waiting all the time.
        let mean_cost = [5_005, 10_000, 5_005, 2_035, 2_000][usize::try_from(tenant).unwrap()];
        let count = 12_000 * 10_000 * u64::from(weight) / mean_cost;
        for nth in 0..count {
            let cost = cost(tenant, &mut draws);
            let measured = cost * draws.random_range(80..=120) / 100;
            let lite = tenant * LITES_OF_EACH + nth % LITES_OF_EACH;
            let service = around_100_ms(&mut draws) / 100;
            simulation.publish(Duration::ZERO, Job { lite, tenant, priority: 4, cost, measured, service });
        }
    }
    simulation.run_for(Duration::from_mins(3));
    let mut dispatches: BTreeMap<u64, u64> = BTreeMap::new();
    let mut tokens: BTreeMap<u64, u64> = BTreeMap::new();
    for served in &simulation.served {
        *dispatches.entry(served.job.tenant).or_default() += 1;
        *tokens.entry(served.job.tenant).or_default() += served.job.measured;
        if dispatches.len() == WEIGHTS.len() && dispatches.values().all(|&count| count >= 10_000) {
            break;
        }
    }
    assert!(dispatches.values().all(|&count| count >= 10_000), "too few: {dispatches:?}");
    let (all_tokens, all_weights): (u64, u32) =
        (tokens.values().sum(), WEIGHTS.iter().map(|&(_, weight)| weight).sum());
    for (tenant, weight) in WEIGHTS {
        let share = tokens[&tenant] as f64 / all_tokens as f64;
        let due = f64::from(weight) / f64::from(all_weights);
        println!("tenant {tenant}: {} dispatches, share {share:.5} instead of {due:.5}", dispatches[&tenant]);
        assert!((share / due - 1.0).abs() <= 0.02, "tenant {tenant} has {share} instead of {due}");
    }
}
