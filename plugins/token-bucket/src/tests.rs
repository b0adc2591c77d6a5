use sluicegate_plugin_sdk::{TenantView, parse_config};

use super::*;

const SECOND: u64 = 1_000_000;
const START: u64 = 1_700_000_000 * SECOND;

fn policy(config: &str) -> PerTenantTokenBucket {
    let init = Init { now_us: START, ..Init::default() };
    PerTenantTokenBucket::new(&init, parse_config(config).unwrap()).unwrap()
}

/// Lite topics of tenant 7 with heads of these costs, none asked about before.
fn frame(at: u64, costs: &[u64]) -> Frame {
    let lite = |(index, cost): (usize, &u64)| LiteView { lite: index as u64, head_cost: *cost, ..LiteView::default() };
    Frame {
        now_us: START + at,
        tenants: vec![TenantView { tenant: 7, ..TenantView::default() }],
        lites: costs.iter().enumerate().map(lite).collect(),
        ..Frame::default()
    }
}

fn waits(plan: &Plan) -> Vec<Option<u64>> {
    let wait = |answer: &Answer| (answer.verdict == Answer::THROTTLE).then_some(answer.duration_us);
    plan.answers.iter().map(wait).collect()
}

fn feedback(at: u64, lite: u64, estimate: u64, measured: u64, returned: bool) -> Feedback {
    Feedback {
        at_us: START + at,
        tenant: 7,
        lite,
        cost_estimate: estimate,
        cost_measured: measured,
        outcome: if returned { Feedback::RETURNED } else { Feedback::DONE },
        ..Feedback::default()
    }
}

const TEN_A_SECOND: &str = r#"{"rate_per_second": 10, "burst": 10}"#;

#[test]
fn heads_within_the_burst_run_and_the_others_wait_their_turn() {
    let plan = policy(TEN_A_SECOND).decide(&frame(0, &[6, 4, 5, 5]));
    assert_eq!(waits(&plan), [None, None, Some(SECOND / 2), Some(SECOND)]);
    assert_eq!(plan.answers.iter().map(|answer| answer.reason).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_eq!(plan.answers[0].max_messages, 1);
}

#[test]
fn a_paid_head_is_not_paid_again_while_it_waits_for_capacity() {
    let mut policy = policy(TEN_A_SECOND);
    let mut frame = frame(0, &[10]);
    for _ in 0..3 {
        let plan = policy.decide(&frame);
        assert_eq!(waits(&plan), [None]);
        frame.lites[0].memo = plan.answers[0].memo;
    }
    frame.lites[0].head_offset = 1;
    assert_eq!(waits(&policy.decide(&frame)), [Some(SECOND)]);
}

#[test]
fn a_retried_head_is_paid_again() {
    let mut policy = policy(TEN_A_SECOND);
    let mut frame = frame(0, &[10]);
    frame.lites[0].memo = policy.decide(&frame).answers[0].memo;
    policy.observe(&feedback(0, 0, 10, 10, false));
    frame.lites[0].attempts = 1;
    assert_eq!(waits(&policy.decide(&frame)), [Some(SECOND)]);
}

#[test]
fn a_returned_message_is_refunded_and_paid_again_at_its_next_start() {
    let mut policy = policy(TEN_A_SECOND);
    let mut frame = frame(0, &[10]);
    frame.lites[0].memo = policy.decide(&frame).answers[0].memo;
    policy.observe(&feedback(0, 0, 10, 0, true));
    assert_eq!(waits(&policy.decide(&frame)), [None]);
    frame.lites[0].memo = 0;
    assert_eq!(waits(&policy.decide(&frame)), [Some(SECOND)]);
}

#[test]
fn measured_cost_corrects_the_estimate_both_ways() {
    let mut policy = policy(TEN_A_SECOND);
    assert_eq!(waits(&policy.decide(&frame(0, &[10]))), [None]);
    policy.observe(&feedback(0, 0, 10, 4, false));
    assert_eq!(waits(&policy.decide(&frame(0, &[6]))), [None]);
    policy.observe(&feedback(0, 0, 6, 26, false));
    assert_eq!(waits(&policy.decide(&frame(0, &[5]))), [Some(2_500_000)]);
}

#[test]
fn a_head_dearer_than_the_burst_runs_from_a_full_bucket_and_leaves_a_debt() {
    let mut policy = policy(TEN_A_SECOND);
    assert_eq!(waits(&policy.decide(&frame(0, &[25]))), [None]);
    assert_eq!(waits(&policy.decide(&frame(0, &[25]))), [Some(2_500_000)]);
    assert_eq!(waits(&policy.decide(&frame(2_500_000, &[25]))), [None]);
}

#[test]
fn cheap_heads_do_not_starve_a_dear_one() {
    let mut policy = policy(TEN_A_SECOND);
    let asleep = |lite: u64, cost: u64, at: u64| {
        let mut frame = frame(at, &[cost]);
        frame.lites[0].lite = lite;
        frame
    };
    assert_eq!(waits(&policy.decide(&asleep(100, 8, 0))), [None]);
    assert_eq!(waits(&policy.decide(&asleep(1, 8, 0))), [Some(600_000)]);
    for step in 1..6 {
        assert_ne!(waits(&policy.decide(&asleep(step + 1, 1, step * 100_000))), [None]);
    }
    assert_eq!(waits(&policy.decide(&asleep(1, 8, 600_000))), [None]);
    assert_eq!(waits(&policy.decide(&asleep(2, 1, 700_000))), [None]);
}

#[test]
fn a_claim_that_nobody_comes_back_for_ends() {
    let mut policy = policy(TEN_A_SECOND);
    assert_eq!(waits(&policy.decide(&frame(0, &[10, 10]))), [None, Some(SECOND)]);
    assert_eq!(waits(&policy.decide(&frame(2 * SECOND + 1, &[5]))), [None]);
}

#[test]
fn a_tenant_deep_in_debt_is_suspended_for_a_minute_at_a_time_and_one_with_an_override_waits_less() {
    let mut policy = policy(
        r#"{"rate_per_second": 0.01, "burst": 1, "overrides": [{"tenant": "vip*", "rate_per_second": 1, "burst": 1}]}"#,
    );
    let plan = policy.decide(&frame(0, &[1, 1, 1]));
    let suspended = Answer::suspend(SUSPEND_MAX).because(OVER_RATE);
    assert_eq!((waits(&plan)[0], &plan.answers[1..]), (None, &[suspended; 2][..]));
    policy.learn(&Entity { kind: 1, id: 7, name: "vip/ada".into(), ..Entity::default() });
    assert_eq!(waits(&policy.decide(&frame(0, &[1, 1]))), [Some(2 * SECOND), Some(SECOND)]);
}

#[test]
fn who_waits_long_behind_its_own_tenant_is_throttled_all_the_same() {
    let plan = policy(TEN_A_SECOND).decide(&frame(0, &[10; 5]));
    assert_eq!(waits(&plan), [None, Some(SECOND), Some(2 * SECOND), Some(3 * SECOND), Some(4 * SECOND)]);
    let plan = policy(r#"{"rate_per_second": 1, "burst": 10}"#).decide(&frame(0, &[10; 5]));
    assert_eq!(waits(&plan)[1..], [Some(10 * SECOND); 4]);
}

#[test]
fn messages_count_one_each_whatever_they_cost() {
    let mut policy = policy(r#"{"unit": "messages", "rate_per_second": 2}"#);
    assert_eq!(waits(&policy.decide(&frame(0, &[500, 500, 500]))), [None, None, Some(500_000)]);
    policy.observe(&feedback(0, 0, 500, 900, false));
    assert_eq!(waits(&policy.decide(&frame(500_000, &[1, 1, 500]))), [Some(500_000), Some(1_000_000), None]);
}

#[test]
fn state_carries_over_and_takes_the_new_rate() {
    let mut before = policy(TEN_A_SECOND);
    assert_eq!(waits(&before.decide(&frame(0, &[30]))), [None]);
    let mut after = policy(r#"{"rate_per_second": 20, "burst": 10}"#);
    after.restore(before.snapshot().unwrap()).unwrap();
    after.learn(&Entity { kind: 1, id: 7, name: "ada".into(), ..Entity::default() });
    assert_eq!(waits(&after.decide(&frame(0, &[10]))), [Some(1_500_000)]);
}

#[test]
fn each_rule_counts_what_it_says() {
    let mut policy = policy(
        r#"{"rate_per_second": 10, "burst": 10, "overrides": [
            {"tenant": "org/*", "rate_per_second": 1, "burst": 2, "unit": "messages"}]}"#,
    );
    assert_eq!(waits(&policy.decide(&frame(0, &[10, 10]))), [None, Some(SECOND)]);
    policy.learn(&Entity { kind: 1, id: 7, name: "org/ada".into(), ..Entity::default() });
    assert_eq!(waits(&policy.decide(&frame(0, &[500, 500, 500]))), [None, None, Some(SECOND)]);
    policy.observe(&feedback(0, 0, 500, 900, false));
    assert_eq!(waits(&policy.decide(&frame(SECOND, &[500, 500, 500]))), [Some(SECOND), Some(2 * SECOND), None]);
}

#[test]
fn a_debt_in_another_unit_is_no_debt() {
    let mut before = policy(TEN_A_SECOND);
    assert_eq!(waits(&before.decide(&frame(0, &[5_000]))), [None]);
    let mut after = policy(r#"{"rate_per_second": 1, "unit": "messages"}"#);
    after.restore(before.snapshot().unwrap()).unwrap();
    after.learn(&Entity { kind: 1, id: 7, name: "ada".into(), ..Entity::default() });
    assert_eq!(waits(&after.decide(&frame(0, &[10, 10]))), [None, Some(SECOND)]);
}

#[test]
fn full_buckets_are_forgotten_and_there_is_a_bound() {
    let mut policy = policy(TEN_A_SECOND);
    for tenant in 0..20_000 {
        let mut frame = frame(0, &[1]);
        frame.tenants[0].tenant = tenant;
        policy.decide(&frame);
    }
    assert_eq!(policy.accounts.len(), 16_384);
    for _ in 0..1_100 {
        policy.decide(&frame(SECOND, &[]));
    }
    assert_eq!(policy.accounts.len(), 0);
}

#[test]
fn a_head_that_waits_for_a_full_bucket_keeps_its_claim_over_a_snapshot() {
    let mut before = policy(TEN_A_SECOND);
    assert_eq!(waits(&before.decide(&frame(0, &[10, 10]))), [None, Some(SECOND)]);
    let mut after = policy(TEN_A_SECOND);
    after.restore(before.snapshot().unwrap()).unwrap();
    let cheap = frame(SECOND / 2, &[1]);
    assert_eq!(waits(&after.decide(&cheap)), waits(&before.decide(&cheap)));
}
