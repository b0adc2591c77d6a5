//! "Fair by message is not fair: some messages cost a thousand times as much."

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_protocol::TenantId;
use sluicegate_scheduler::simulation::{Decider, Facts, Load, Simulation, Spread, Workload};
use sluicegate_scheduler::{Answer, Ask, Plan, Quotas, Verdict};

use crate::group;

/// Each tenant has a weight and its own mix, all between 10 and 10,000 tokens: of each part as many messages.
const TENANTS: [(u32, &[Spread<u64>]); 5] = [
    (1, &[Spread::Between(10, 10_000)]),
    (2, &[Spread::Fixed(10_000)]),
    (3, &[Spread::Fixed(10), Spread::Fixed(10_000)]),
    (7, &[Spread::Between(10, 100), Spread::Between(100, 1_000), Spread::Between(1_000, 10_000)]),
    (10, &[Spread::Between(1_000, 3_000)]),
];
const MEAN_COSTS: [u64; 5] = [5_005, 10_000, 5_005, 2_035, 2_000];

fn weight_of(tenant: TenantId) -> u32 {
    TENANTS[usize::try_from(tenant.0 - 1).expect("there are five")].0
}

/// A policy that lets everything run, and gives the tenants their weights.
fn weigh(ask: &Ask) -> Plan {
    let verdict = Verdict::Serve { band: None, max_messages: u32::MAX };
    let answer = Answer { verdict, valid_for: Duration::MAX, reason: 0, memo: 0 };
    let weights = ask.frame.tenants.iter().map(|row| weight_of(row.tenant)).collect();
    Plan { lites: vec![answer; ask.frame.lites.len()], weights, ..Plan::default() }
}

#[test]
fn tokens_are_shared_by_weight_whatever_a_message_costs() {
    let mut workload = Workload::new(3);
    for (nth, (weight, mix)) in TENANTS.into_iter().enumerate() {
        // Enough that each tenant has something waiting all the time.
        let count = 12_000 * 10_000 * u64::from(weight) / MEAN_COSTS[nth] / mix.len() as u64;
        for &cost in mix {
            let service = Duration::from_micros(500)..=Duration::from_micros(1_500);
            let load = Load::at_once(count).lites(60).cost(cost).measured_percent(80..=120).service(service);
            workload.add(&format!("tenant {nth}"), load);
        }
    }
    let simulation = Simulation::new(group(1, 50, Quotas::default()));
    let span = Duration::from_mins(3);
    let mut decide = |ask: &Ask, _: &Facts<'_>| Ok(weigh(ask));
    let report = simulation.run(workload.names(), workload.jobs(), Decider::Policy(&mut decide), span);
    let mut dispatches: BTreeMap<TenantId, u64> = BTreeMap::new();
    let mut tokens: BTreeMap<TenantId, u64> = BTreeMap::new();
    for delivery in &report.deliveries {
        *dispatches.entry(delivery.tenant).or_default() += 1;
        *tokens.entry(delivery.tenant).or_default() += delivery.measured;
        if dispatches.len() == TENANTS.len() && dispatches.values().all(|&count| count >= 10_000) {
            break;
        }
    }
    assert!(dispatches.values().all(|&count| count >= 10_000), "too few: {dispatches:?}");
    let (all_tokens, all_weights): (u64, u32) = (tokens.values().sum(), TENANTS.iter().map(|(weight, _)| weight).sum());
    for (&tenant, &got) in &tokens {
        let share = got as f64 / all_tokens as f64;
        let due = f64::from(weight_of(tenant)) / f64::from(all_weights);
        println!("tenant {tenant}: {} dispatches, share {share:.5} instead of {due:.5}", dispatches[&tenant]);
        assert!((share / due - 1.0).abs() <= 0.02, "tenant {tenant} has {share} instead of {due}");
    }
    assert!(report.fairness() > 0.999, "{}", report.fairness());
}
