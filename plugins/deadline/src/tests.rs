use sluicegate_plugin_sdk::{TenantView, parse_config};

use super::*;

const SECOND: u64 = 1_000_000;
const START: u64 = 1_700_000_000 * SECOND;

fn policy(config: &str) -> Deadline {
    let init = Init { now_us: START, ..Init::default() };
    Deadline::new(&init, parse_config(config).unwrap()).unwrap()
}

/// Lite topics of tenant 7 whose heads expire in so many milliseconds.
fn frame(at: u64, expires_in_ms: &[Option<u64>]) -> Frame {
    let lite = |expires: &Option<u64>| LiteView {
        expires_in_us: expires.map_or(u64::MAX, |ms| ms * 1_000),
        ..LiteView::default()
    };
    Frame {
        now_us: START + at,
        tenants: vec![TenantView { tenant: 7, ..TenantView::default() }],
        lites: expires_in_ms.iter().map(lite).collect(),
        ..Frame::default()
    }
}

fn measured(policy: &mut Deadline, at: u64, ms: u64) {
    policy.observe(&Feedback { at_us: START + at, tenant: 7, service_us: ms * 1_000, ..Feedback::default() });
}

fn bands(plan: &Plan) -> Vec<u32> {
    plan.answers.iter().map(|answer| answer.band).collect()
}

fn reasons(plan: &Plan) -> Vec<u32> {
    plan.answers.iter().map(|answer| answer.reason).collect()
}

#[test]
fn the_least_slack_goes_first() {
    let plan = policy("").decide(&frame(0, &[Some(60_000), Some(200), Some(4_000), None, Some(600_000)]));
    assert_eq!(bands(&plan), [6, 9, 8, 4, 5]);
    assert_eq!(reasons(&plan), [RANKED, URGENT, RANKED, NO_DEADLINE, RANKED]);
    assert!(plan.answers.iter().all(|answer| answer.max_messages == 1), "the next head has its own deadline");
}

#[test]
fn what_the_work_takes_is_no_slack() {
    let mut policy = policy("");
    measured(&mut policy, 0, 4_500);
    assert_eq!(bands(&policy.decide(&frame(0, &[Some(5_000), Some(6_000), Some(10_000)]))), [9, 8, 7]);
    let mut other = frame(0, &[Some(5_000)]);
    other.tenants[0].tenant = 8;
    assert_eq!(bands(&policy.decide(&other)), [7], "another tenant's work");
}

#[test]
fn a_head_is_ranked_again_when_its_slack_comes_to_the_next_limit() {
    let mut policy = policy("");
    measured(&mut policy, 0, 500);
    let plan = policy.decide(&frame(0, &[Some(7_500), Some(5_501), Some(900), Some(600_000)]));
    assert_eq!(
        plan.answers.iter().map(|answer| answer.valid_us).collect::<Vec<_>>(),
        [2 * SECOND, 10_000, 400_000, 10 * SECOND]
    );
}

#[test]
fn what_can_no_longer_make_it_is_refused() {
    for (late, verdict) in [("dead_letter", Answer::DEAD_LETTER), ("drop", Answer::DROP)] {
        let mut policy = policy(&format!(r#"{{"late": "{late}"}}"#));
        measured(&mut policy, 0, 2_000);
        let plan = policy.decide(&frame(0, &[Some(1_999), Some(2_000), None]));
        assert_eq!(plan.answers.iter().map(|answer| answer.verdict).collect::<Vec<_>>(), [verdict, 0, 0]);
        assert_eq!(reasons(&plan), [LATE, URGENT, NO_DEADLINE]);
    }
    let mut policy = policy(r#"{"late": "serve"}"#);
    measured(&mut policy, 0, 2_000);
    let plan = policy.decide(&frame(0, &[Some(1_999)]));
    assert_eq!((bands(&plan), reasons(&plan)), (vec![9], vec![LATE_SERVED]));
}

#[test]
fn nothing_is_refused_on_a_guess_unless_the_operator_made_it() {
    assert_eq!(reasons(&policy("").decide(&frame(0, &[Some(0)]))), [URGENT]);
    let mut policy = policy(r#"{"service_default_ms": 1000}"#);
    assert_eq!(reasons(&policy.decide(&frame(0, &[Some(999), Some(1_000)]))), [LATE, URGENT]);
    assert_eq!(reasons(&policy.decide(&frame(3_600 * SECOND, &[Some(999)]))), [LATE]);
}

#[test]
fn failures_and_returns_measure_nothing() {
    let mut policy = policy("");
    for outcome in [Feedback::RETRIED, Feedback::DEAD_LETTERED, Feedback::TIMED_OUT, Feedback::RETURNED] {
        policy.observe(&Feedback { tenant: 7, service_us: 60 * SECOND, outcome, ..Feedback::default() });
    }
    assert_eq!(reasons(&policy.decide(&frame(0, &[Some(1)]))), [URGENT]);
}

#[test]
fn after_a_slow_hour_one_head_a_minute_is_let_through_to_measure_again() {
    let mut policy = policy("");
    measured(&mut policy, 0, 60_000);
    assert_eq!(reasons(&policy.decide(&frame(60 * SECOND, &[Some(9_000)]))), [LATE]);
    assert_eq!(reasons(&policy.decide(&frame(61 * SECOND, &[Some(9_000), Some(9_000)]))), [LATE_SERVED, LATE]);
    assert_eq!(reasons(&policy.decide(&frame(62 * SECOND, &[Some(9_000)]))), [LATE], "another head");
    measured(&mut policy, 63 * SECOND, 20_000);
    assert_eq!(reasons(&policy.decide(&frame(123 * SECOND, &[Some(9_000)]))), [LATE]);
    assert_eq!(reasons(&policy.decide(&frame(124 * SECOND, &[Some(9_000)]))), [LATE_SERVED]);
    measured(&mut policy, 125 * SECOND, 100);
    assert_eq!(reasons(&policy.decide(&frame(125 * SECOND, &[Some(9_000)]))), [RANKED]);
    measured(&mut policy, 126 * SECOND, 8_100);
    assert_eq!(policy.state.times.of(7).unwrap().service_us(), 1_100_000, "then it goes by eighths again");
}

#[test]
fn a_head_that_was_let_through_stays_so_until_it_is_delivered() {
    let mut policy = policy("");
    measured(&mut policy, 0, 60_000);
    let mut asked = frame(61 * SECOND, &[Some(9_000)]);
    for at in [61, 62, 72, 82] {
        asked.now_us = START + at * SECOND;
        let plan = policy.decide(&asked);
        assert_eq!((reasons(&plan), plan.answers[0].verdict), (vec![LATE_SERVED], Answer::SERVE), "{at}");
        asked.lites[0].memo = plan.answers[0].memo;
    }
    let mut retried = asked.clone();
    retried.lites[0].attempts = 1;
    assert_eq!(reasons(&policy.decide(&retried)), [LATE]);
    asked.lites[0].head_offset = 1;
    assert_eq!(reasons(&policy.decide(&asked)), [LATE]);
}

#[test]
fn those_that_wait_are_ranked_anew_at_the_configured_pace_while_a_deadline_waits() {
    let mut policy = policy(r#"{"rerank_per_second": 1000}"#);
    let mut refresh = |at, expires_in_ms| policy.decide(&frame(at, &[expires_in_ms])).refresh;
    assert_eq!(refresh(SECOND, None), 0);
    assert_eq!(refresh(SECOND, Some(60_000)), 1_000);
    assert_eq!(refresh(SECOND, Some(60_000)), 0);
    assert_eq!(refresh(SECOND + 9_999, Some(60_000)), 0);
    assert_eq!(refresh(SECOND + 10_000, Some(60_000)), 10);
    assert_eq!(refresh(SECOND + 110_000, None), 100);
    assert_eq!(refresh(62 * SECOND, None), 0);
}

#[test]
fn a_pace_of_nothing_ranks_nothing_anew() {
    let plan = policy(r#"{"rerank_per_second": 0}"#).decide(&frame(SECOND, &[Some(60_000)]));
    assert_eq!(plan.refresh, 0);
}

#[test]
fn a_head_without_a_deadline_may_keep_its_priority() {
    let plan = policy(r#"{"no_deadline_band": null}"#).decide(&frame(0, &[None]));
    assert_eq!(bands(&plan), [Answer::BAND_OF_HEAD]);
}

#[test]
fn averages_carry_over() {
    let mut before = policy("");
    measured(&mut before, 0, 2_000);
    let mut after = policy("");
    after.restore(before.snapshot().unwrap()).unwrap();
    assert_eq!(reasons(&after.decide(&frame(0, &[Some(1_000)]))), [LATE]);
}
