use sluicegate_plugin_sdk::{LiteView, TenantView, parse_config};

use super::*;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;
const START: u64 = 1_700_000_000 * SECOND;

fn policy(config: &str) -> FairShare {
    let init = Init { now_us: START, ..Init::default() };
    FairShare::new(&init, parse_config(config).unwrap()).unwrap()
}

/// One lite topic with a head of cost 10 for each of these tenants, with so many open leases.
fn frame(at: u64, tenants: &[(u64, u32)]) -> Frame {
    let view = |(tenant, in_flight): &(u64, u32)| TenantView {
        tenant: *tenant,
        in_flight: *in_flight,
        ..TenantView::default()
    };
    let lite =
        |tenant: usize| LiteView { tenant: u32::try_from(tenant).unwrap(), head_cost: 10, ..LiteView::default() };
    Frame {
        now_us: START + at,
        tenants: tenants.iter().map(view).collect(),
        lites: (0..tenants.len()).map(lite).collect(),
        ..Frame::default()
    }
}

fn weights(policy: &mut FairShare, at: u64, tenants: &[u64]) -> Vec<u32> {
    let idle: Vec<_> = tenants.iter().map(|tenant| (*tenant, 0)).collect();
    policy.decide(&frame(at, &idle)).weights
}

fn uses(policy: &mut FairShare, at: u64, tenant: u64, cost: u64) {
    policy.observe(&Feedback { at_us: START + at, tenant, cost_measured: cost, ..Feedback::default() });
}

fn used(policy: &FairShare, tenant: u64) -> String {
    policy.counters.used(tenant).to_string()
}

#[test]
fn who_used_more_than_the_fair_level_has_a_lower_weight_in_proportion() {
    let mut policy = policy("");
    assert_eq!(weights(&mut policy, 0, &[1, 2, 3, 4]), [100, 100, 100, 100]);
    for (tenant, cost) in [(1, 800), (2, 600), (3, 200), (4, 0)] {
        uses(&mut policy, 0, tenant, cost);
    }
    // The fair level is 400: a message takes 1 at least.
    let plan = policy.decide(&frame(0, &[(1, 0), (2, 0), (3, 0), (4, 0)]));
    assert_eq!(plan.weights, [50, 67, 100, 100]);
    assert_eq!(plan.answers.iter().map(|answer| answer.reason).collect::<Vec<_>>(), [HEAVY, HEAVY, MODEST, MODEST]);
    assert!(plan.answers.iter().all(|answer| answer.verdict == Answer::SERVE && answer.band == Answer::BAND_OF_HEAD));
}

#[test]
fn who_is_alone_is_never_heavy() {
    let mut policy = policy(r#"{"weight": 3}"#);
    for at in 0..100 {
        let plan = policy.decide(&frame(at * 7 * SECOND, &[(1, 1)]));
        assert_eq!((plan.weights[0], plan.answers[0].reason), (300, MODEST));
        uses(&mut policy, at * 7 * SECOND, 1, 1 + at * at);
    }
}

#[test]
fn a_heavy_user_keeps_a_part_of_its_weight() {
    let mut policy = policy(r#"{"heavy_min_percent": 25}"#);
    let all: Vec<u64> = (0..100).collect();
    weights(&mut policy, 0, &all);
    uses(&mut policy, 0, 1, 1_000_000);
    assert_eq!(weights(&mut policy, 0, &[1, 2]), [25, 100]);
}

#[test]
fn what_a_tier_may_use_grows_with_its_weight() {
    let mut policy = policy(r#"{"tiers": [{"name": "gold", "weight": 9, "tenants": ["gold/*"]}]}"#);
    policy.learn(&Entity { kind: 1, id: 1, name: "gold/ada".into(), ..Entity::default() });
    policy.learn(&Entity { kind: 1, id: 2, name: "bob".into(), ..Entity::default() });
    assert_eq!(weights(&mut policy, 0, &[1, 2]), [900, 100]);
    uses(&mut policy, 0, 1, 900);
    uses(&mut policy, 0, 2, 100);
    assert_eq!(weights(&mut policy, 0, &[1, 2]), [900, 100]);
    uses(&mut policy, 0, 2, 100);
    assert_eq!(weights(&mut policy, 0, &[1, 2]), [900, 55]);
    policy.learn(&Entity { kind: 1, id: 1, name: "ada".into(), ..Entity::default() });
    assert_eq!(weights(&mut policy, 0, &[1, 2]), [61, 100]);
}

#[test]
fn open_leases_count_before_they_are_settled() {
    let mut policy = policy("");
    assert_eq!(policy.decide(&frame(0, &[(1, 30), (2, 10)])).weights, [67, 100]);
    // What was measured is also taken for what is still open.
    uses(&mut policy, 0, 2, 70);
    assert_eq!(policy.decide(&frame(0, &[(1, 30), (2, 9)])).weights, [100, 71]);
}

#[test]
fn an_estimate_goes_when_its_delivery_is_settled() {
    let mut policy = policy("");
    policy.decide(&frame(0, &[(1, 2), (2, 0)]));
    uses(&mut policy, 0, 1, 70);
    assert_eq!(policy.counters.fair_level().to_string(), "40", "70 used and 10 expected, of two");
    uses(&mut policy, 0, 1, 30);
    uses(&mut policy, 0, 1, 100);
    assert_eq!(policy.counters.fair_level().to_string(), "100");
}

#[test]
fn what_a_long_delivery_costs_is_counted_when_it_ends() {
    let mut policy = policy("");
    weights(&mut policy, 0, &[1, 2]);
    weights(&mut policy, 61 * SECOND, &[2]);
    assert_eq!(policy.counters.len(), 1, "nobody knew that 1 works");
    let returned =
        Feedback { tenant: 1, at_us: START + 62 * SECOND, outcome: Feedback::RETURNED, ..Feedback::default() };
    policy.observe(&returned);
    assert_eq!(policy.counters.len(), 1);
    uses(&mut policy, 70 * SECOND, 1, 500);
    assert_eq!(used(&policy, 1), "500");
    weights(&mut policy, 70 * SECOND, &[1, 2]);
    assert_eq!(used(&policy, 1), "500");
}

#[test]
fn who_works_on_something_long_is_neither_forgotten_nor_a_newcomer() {
    let mut policy = policy("");
    policy.decide(&frame(0, &[(1, 0), (2, 1)]));
    uses(&mut policy, 0, 1, 1_000);
    policy.decide(&frame(65 * SECOND, &[(1, 0)]));
    assert_eq!(policy.counters.len(), 2);
    policy.decide(&frame(66 * SECOND, &[(2, 1)]));
    assert_eq!(used(&policy, 2), "0");
}

#[test]
fn what_came_back_unused_costs_nothing() {
    let mut policy = policy("");
    weights(&mut policy, 0, &[1, 2]);
    uses(&mut policy, 0, 2, 5);
    let returned = Feedback { tenant: 1, at_us: START, outcome: Feedback::RETURNED, ..Feedback::default() };
    policy.observe(&returned);
    assert_eq!([used(&policy, 1), used(&policy, 2)], ["0", "5"]);
}

#[test]
fn who_comes_or_comes_back_starts_at_half_of_the_fair_level() {
    let mut policy = policy("");
    weights(&mut policy, 0, &[1, 2]);
    uses(&mut policy, 0, 1, 1_000);
    uses(&mut policy, 0, 2, 200);
    weights(&mut policy, 0, &[3]);
    assert_eq!(used(&policy, 3), "300");
    // A tenant that has been there is not lifted.
    weights(&mut policy, 50 * SECOND, &[1, 2, 3]);
    assert_eq!(used(&policy, 2), "200");
    weights(&mut policy, 111 * SECOND, &[2]);
    assert_eq!(used(&policy, 2), "250");
}

#[test]
fn who_is_away_is_forgotten_when_it_makes_no_difference() {
    let mut policy = policy("");
    weights(&mut policy, 0, &[1, 2]);
    uses(&mut policy, 0, 1, 1_000);
    uses(&mut policy, 0, 2, 1);
    weights(&mut policy, 61 * SECOND, &[1]);
    assert_eq!(policy.counters.len(), 1);
    policy.decide(&frame(12 * HOUR, &[]));
    assert_eq!(policy.counters.len(), 1, "alone it is the fair level");
    policy.decide(&frame(400 * HOUR, &[]));
    policy.decide(&frame(400 * HOUR, &[]));
    assert_eq!(policy.counters.len(), 0);
}

/// Two tenants that always wait, served one message a second as the scheduler would by these weights.
#[test]
fn who_used_less_catches_up_and_then_both_have_the_same() {
    let mut policy = policy("");
    weights(&mut policy, 0, &[1, 2]);
    uses(&mut policy, 0, 1, 2_000);
    let (mut tags, mut served, mut weight) = ([0.0; 2], [0_u32; 2], vec![100; 2]);
    for second in 0..4 * 3_600 {
        if second % 10 == 0 {
            weight = weights(&mut policy, second * SECOND, &[1, 2]);
        }
        let next = usize::from(tags[1] < tags[0]);
        tags[next] += 10.0 / f64::from(weight[next]);
        uses(&mut policy, second * SECOND, next as u64 + 1, 10);
        served[next] += u32::from(second < 300);
    }
    assert!((170..220).contains(&served[1]), "{served:?}");
    let (one, two) = (policy.counters.used(1), policy.counters.used(2));
    assert!((one / two - 1.0).abs() < 0.02, "{one} {two}");
}

#[test]
fn state_carries_over() {
    let mut before = policy("");
    weights(&mut before, 0, &[1, 2]);
    uses(&mut before, 0, 1, 300);
    uses(&mut before, 0, 2, 100);
    assert_eq!(weights(&mut before, 30 * SECOND, &[1, 2]), [67, 100]);
    let mut after = policy(r#"{"half_life_seconds": 60}"#);
    after.restore(before.snapshot().unwrap()).unwrap();
    after.learn(&Entity { kind: 1, id: 1, name: "ada".into(), ..Entity::default() });
    assert_eq!(weights(&mut after, 30 * SECOND, &[1, 2]), [67, 100]);
}

#[test]
fn there_is_a_bound_and_who_used_little_is_forgotten_first() {
    let mut policy = policy("");
    for tenant in 0..20_000 {
        weights(&mut policy, 0, &[tenant]);
        uses(&mut policy, 0, tenant, if tenant % 100 == 0 { 1_000 } else { 1 });
    }
    assert_eq!(policy.counters.len(), 16_384);
    let heavy = (0..16_000).step_by(100).filter(|tenant| policy.counters.used(*tenant) > 0.0);
    assert!(heavy.count() > 155);
}
