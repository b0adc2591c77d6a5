//! Start-time fair queueing over tenants.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sluicegate_protocol::{LiteId, Offset, TenantId};

use super::bench::{Bench, UNBOUNDED, bench, delivery, head, millis, serve};
use crate::{Concurrency, Ending, Event, Head, Plan, Quotas, TenantView};

fn costing(cost: u64) -> Head {
    Head { cost, ..head(0) }
}

fn tenants_of(bench: &mut Bench, count: usize) -> Vec<u64> {
    (0..count).map(|_| bench.deliver_one().tenant).collect()
}

#[test]
fn tenants_share_however_many_lite_topics_they_have() {
    let mut bench = bench();
    for lite in 0..20 {
        bench.head_of(1, lite, head(0));
    }
    bench.head_of(2, 100, head(0));
    bench.head_of(2, 101, head(0));
    assert_eq!(tenants_of(&mut bench, 6), [1, 2, 1, 2, 1, 1]);
}

#[test]
fn what_is_likely_next_is_what_comes_next_if_nothing_happens() {
    let mut bench = bench();
    for tenant in 1..=4 {
        for lite in 0..3 {
            bench.head_of(tenant, 10 * tenant + lite, head(lite));
        }
    }
    let first = bench.deliver_one();
    let likely = |bench: &Bench, count| bench.scheduler.likely_next(LiteId(first.lite), first.charge.band, count);
    let few = likely(&bench, 3);
    assert_eq!(few, (0..3).map(|_| LiteId(bench.deliver_one().lite)).collect::<Vec<_>>());
    let mut all = likely(&bench, 100);
    let mut rest: Vec<_> = (0..8).map(|_| LiteId(bench.deliver_one().lite)).collect();
    all.sort_unstable();
    rest.sort_unstable();
    assert_eq!(all, rest);
    assert_eq!(likely(&bench, 100), []);
    assert_eq!(bench.scheduler.likely_next(LiteId(999), first.charge.band, 100), []);
}

#[test]
fn a_tenants_lite_topics_take_turns() {
    let mut bench = bench();
    for lite in 1..=3 {
        bench.head_of(1, lite, head(0));
    }
    let mut order = Vec::new();
    for offset in 1..=6 {
        let delivery = bench.deliver_one();
        order.push(delivery.lite);
        bench.ack(delivery);
        bench.head_of(1, delivery.lite, head(offset));
    }
    assert_eq!(order, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn shares_follow_cost() {
    let mut bench = bench();
    for lite in 0..20 {
        bench.head_of(1, lite, costing(3));
        bench.head_of(2, 100 + lite, costing(1));
    }
    let order = tenants_of(&mut bench, 16);
    assert_eq!(order.iter().filter(|&&tenant| tenant == 1).count(), 4);
}

#[test]
fn a_message_without_cost_counts_as_one_unit() {
    let mut bench = bench();
    for lite in 0..20 {
        bench.head_of(1, lite, costing(0));
        bench.head_of(2, 100 + lite, costing(1));
    }
    let order = tenants_of(&mut bench, 10);
    assert_eq!(order.iter().filter(|&&tenant| tenant == 1).count(), 5);
}

#[test]
fn a_newcomer_has_no_claim_for_the_time_before_it_came() {
    let mut bench = bench();
    for lite in 0..20 {
        bench.head_of(1, lite, head(0));
    }
    tenants_of(&mut bench, 10);
    for lite in 100..120 {
        bench.head_of(2, lite, head(0));
    }
    let order = tenants_of(&mut bench, 10);
    assert_eq!(order.iter().filter(|&&tenant| tenant == 2).count(), 5);
}

#[test]
fn leaving_and_coming_back_gains_nothing() {
    let mut bench = bench();
    for lite in 0..40 {
        bench.head_of(1, lite, head(0));
    }
    // Tenant 2 has one message at a time, costly ones, and names its next one as soon as the last is done.
    let mut served = BTreeMap::from([(1, 0), (2, 0)]);
    bench.head_of(2, 100, costing(4));
    for offset in 1..=25 {
        let delivery = bench.deliver_one();
        *served.get_mut(&delivery.tenant).unwrap() += 1;
        bench.ack(delivery);
        if delivery.tenant == 2 {
            bench.head_of(2, 100, Head { offset: Offset(offset), ..costing(4) });
        }
    }
    assert_eq!(served, BTreeMap::from([(1, 20), (2, 5)]));
}

#[test]
fn a_measured_cost_above_the_estimate_is_paid_in_later_service() {
    let mut bench = bench();
    for lite in 0..20 {
        bench.head_of(1, lite, head(0));
        bench.head_of(2, 100 + lite, head(0));
    }
    let first = bench.deliver_one();
    assert_eq!(first.tenant, 1);
    bench.settle(first, Ending::done(Some(6), millis(1)));
    assert_eq!(tenants_of(&mut bench, 7), [2, 2, 2, 2, 2, 2, 1]);
}

#[test]
fn a_message_that_came_back_unused_takes_no_service() {
    let mut bench = bench();
    bench.head_of(1, 1, costing(10));
    bench.head_of(1, 2, costing(1));
    bench.head_of(2, 100, costing(1));
    bench.head_of(2, 101, costing(1));
    let first = bench.deliver_one();
    bench.settle(first, Ending::Returned);
    assert_eq!(tenants_of(&mut bench, 3), [2, 1, 2]);
}

#[test]
fn a_tenant_that_was_blocked_comes_back_without_arrears() {
    let mut bench = Bench::new(Quotas::default(), Concurrency { tenant: 1, ..UNBOUNDED }).with_session(1, 1_000);
    bench.head_of(1, 1, head(0));
    bench.head_of(1, 2, head(0));
    let first = bench.deliver_one();
    for lite in 100..110 {
        bench.head_of(2, lite, head(0));
    }
    for _ in 0..5 {
        let other = bench.deliver_one();
        assert_eq!(other.tenant, 2);
        bench.ack(other);
    }
    bench.ack(first);
    let next = bench.deliver_one();
    assert_eq!(next.tenant, 1);
}

#[test]
fn order_is_the_same_each_time() {
    let run = || {
        let mut bench = bench();
        for lite in 0..500 {
            bench.head_of(lite % 37, lite, Head { priority: u8::try_from(lite % 10).unwrap(), ..costing(lite % 11) });
        }
        bench.delivered_lites()
    };
    assert_eq!(run(), run());
}

/// A bench where a policy gave tenants 1 and 2 these weights and lets everything run.
fn weighted(weights: [u32; 2], lites: u64, cost: impl Fn(u64) -> u64) -> Bench {
    let mut bench = bench();
    bench.on(Event::PolicyBound);
    for lite in 0..lites {
        bench.head_of(1, lite, costing(cost(lite)));
        bench.head_of(2, 1_000_000 + lite, costing(cost(1_000_000 + lite)));
    }
    // Only asks: polling would deliver what is answered already.
    while let Some(ask) = bench.scheduler.next_ask() {
        let weight_of = |tenant: &TenantView| weights[usize::from(tenant.tenant == TenantId(2))];
        let weights = ask.frame.tenants.iter().map(weight_of).collect();
        let plan = Plan { lites: vec![serve(); ask.frame.lites.len()], weights, ..Plan::default() };
        bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    }
    bench
}

#[test]
fn shares_follow_weight() {
    let mut bench = weighted([3, 1], 100, |_| 1);
    let order = tenants_of(&mut bench, 80);
    assert_eq!(order.iter().filter(|&&tenant| tenant == 1).count(), 60);
}

proptest! {
    /// Bound of SFQ: in any interval in which both tenants are backlogged, the normalised service of two tenants
    /// differs by at most cmax/w1 + cmax/w2.
    #[test]
    fn two_backlogged_tenants_share_by_weight_within_the_bound(
        weights in [1u32..50, 1u32..50],
        costs in prop::collection::vec(0u64..100, 1..40),
    ) {
        let cost_of = |lite: u64| costs[usize::try_from(lite).unwrap() % costs.len()];
        let mut bench = weighted(weights, 120, cost_of);
        let cost_max = costs.iter().copied().max().unwrap().max(1);
        let bound = f64::from(u32::try_from(cost_max).unwrap()) * (1.0 / f64::from(weights[0]) + 1.0 / f64::from(weights[1]));
        let mut left = [120u32; 2];
        let mut lead = 0.0f64;
        let (mut lowest, mut highest) = (0.0f64, 0.0f64);
        while left.iter().all(|&count| count > 1) {
            let next = delivery(bench.scheduler.poll(bench.now).unwrap());
            let side = usize::from(next.tenant == 2);
            prop_assert_eq!(next.charge.weight, weights[side]);
            left[side] -= 1;
            let service = f64::from(u32::try_from(next.charge.cost.max(1)).unwrap()) / f64::from(weights[side]);
            lead += if side == 0 { service } else { -service };
            lowest = lowest.min(lead);
            highest = highest.max(lead);
            prop_assert!(highest - lowest <= bound + 1e-6, "apart by {} of {bound}", highest - lowest);
        }
    }
}
