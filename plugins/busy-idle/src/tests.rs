use sluicegate_plugin_sdk::{Column, GroupView, Label, LiteView, TenantView, parse_config};

use super::*;

const SECOND: u64 = 1_000_000;
const HOUR: u64 = 3_600 * SECOND;
/// Midnight of a day.
const START: u64 = 19_000 * 24 * HOUR;

fn policy(config: &str) -> BusyIdle {
    BusyIdle::new(&Init::default(), parse_config(config).unwrap()).unwrap()
}

/// One that knows lite topic 1 to be batch.
fn policy_with_batch(config: &str) -> BusyIdle {
    let mut policy = policy(config);
    policy.learn_lite(&labelled(2, 1, "class", "batch"));
    policy
}

fn labelled(kind: u32, id: u64, key: &str, value: &str) -> Entity {
    let labels = vec![Label { key: key.into(), value: value.into() }];
    Entity { kind, id, labels, ..Entity::default() }
}

/// Lite topics 0 and 1 of tenant 7, the first with a head of priority 5, the second of 4.
fn frame(at: u64, load_ppm: u32) -> Frame {
    let lite = |lite, priority| LiteView { lite, priority, ..LiteView::default() };
    Frame {
        now_us: START + at,
        group: GroupView { load_ppm, ..GroupView::default() },
        tenants: vec![TenantView { tenant: 7, ..TenantView::default() }],
        lites: vec![lite(0, 5), lite(1, 4)],
        ..Frame::default()
    }
}

/// How long each row is held, in microseconds.
fn held(plan: &Plan) -> Vec<Option<u64>> {
    plan.answers.iter().map(|answer| (answer.verdict != Answer::SERVE).then_some(answer.duration_us)).collect()
}

#[test]
fn batch_may_run_again_without_any_load_however_low_the_limit_is() {
    let mut policy = policy_with_batch(r#"{"idle_below": 1e-7}"#);
    assert_eq!(held(&policy.decide(&frame(0, 900_000)))[1], Some(5 * SECOND));
    assert_eq!(held(&policy.decide(&frame(SECOND, 1)))[1], Some(5 * SECOND));
    assert_eq!(held(&policy.decide(&frame(2 * SECOND, 0)))[1], None);
}

#[test]
fn batch_waits_while_consumers_are_busy_and_interactive_work_never() {
    let mut policy = policy_with_batch("");
    let plan = policy.decide(&frame(0, 800_000));
    assert_eq!((held(&plan), plan.refresh), (vec![None, None], 0));
    assert_eq!((plan.answers[0].band, plan.answers[1].band), (Answer::BAND_OF_HEAD, 0));
    let plan = policy.decide(&frame(0, 800_001));
    assert_eq!((held(&plan), plan.refresh), (vec![None, Some(5 * SECOND)], 1_024));
    assert_eq!((plan.answers[0].reason, plan.answers[1].reason), (INTERACTIVE, BUSY));
}

#[test]
fn a_load_between_the_limits_changes_nothing() {
    let mut policy = policy_with_batch("");
    let mut batch_waits = |load| held(&policy.decide(&frame(0, load)))[1].is_some();
    assert_eq!(
        [700_000, 900_000, 700_000, 600_000, 599_999, 700_000].map(&mut batch_waits),
        [false, true, true, true, false, false]
    );
}

#[test]
fn a_hold_is_half_of_the_time_that_consumers_have_been_busy() {
    let mut policy = policy_with_batch("");
    let mut hold = |at, load| policy.decide(&frame(at, load)).answers[1];
    for (at, verdict, seconds) in [
        (0, Answer::THROTTLE, 5),
        (10 * SECOND, Answer::THROTTLE, 5),
        (14 * SECOND, Answer::SUSPEND, 7),
        (120 * SECOND, Answer::SUSPEND, 60),
        (122 * SECOND, Answer::SUSPEND, 61),
        (HOUR, Answer::SUSPEND, 1_800),
        (5 * HOUR, Answer::SUSPEND, 1_800),
    ] {
        let answer = hold(at, 900_000);
        assert_eq!((answer.verdict, answer.duration_us), (verdict, seconds * SECOND));
    }
    assert_eq!(hold(6 * HOUR, 100_000).verdict, Answer::SERVE);
    assert_eq!(hold(6 * HOUR, 900_000).duration_us, 5 * SECOND, "it starts anew");
}

#[test]
fn outside_of_its_windows_batch_waits_and_no_longer_than_to_the_next() {
    let config = r#"{"windows": ["22:00-06:00", "12:00-12:30"], "step_max_seconds": 7200}"#;
    let mut policy = policy_with_batch(config);
    let mut row = |at, load| policy.decide(&frame(at, load)).answers[1];
    let closed = |seconds| Answer::suspend(Duration::from_secs(seconds)).because(CLOSED);
    assert_eq!(row(6 * HOUR, 0), closed(7_200));
    assert_eq!(row(11 * HOUR, 0), closed(3_600));
    assert_eq!(row(12 * HOUR - 1, 0), Answer::throttle(Duration::from_micros(1)).because(CLOSED));
    assert_eq!((row(12 * HOUR, 0).verdict, row(12 * HOUR, 0).reason), (Answer::SERVE, MAY_RUN));
    assert_eq!(row(12 * HOUR + 1_799 * SECOND, 0).valid_us, SECOND, "to the end of the window");
    assert_eq!(row(23 * HOUR, 900_000).reason, BUSY);
}

#[test]
fn a_hold_for_load_ends_when_a_window_starts() {
    let mut policy = policy_with_batch(r#"{"windows": ["01:00-02:00", "02:00-03:00"], "step_min_seconds": 600}"#);
    let answer = policy.decide(&frame(2 * HOUR - 60 * SECOND, 900_000)).answers[1];
    assert_eq!((answer.reason, answer.duration_us), (BUSY, 60 * SECOND));
}

#[test]
fn a_label_of_the_tenant_a_priority_or_a_property_marks_as_well() {
    let rows = |policy: &mut BusyIdle, frame: &Frame| {
        held(&policy.decide(frame)).iter().map(Option::is_some).collect::<Vec<_>>()
    };
    let busy = frame(0, 900_000);
    let mut by_tenant = policy(r#"{"label": "kind", "label_value": "night"}"#);
    by_tenant.learn(&labelled(1, 7, "kind", "night"));
    assert_eq!(rows(&mut by_tenant, &busy), [true, true]);
    by_tenant.learn(&labelled(1, 7, "kind", "day"));
    assert_eq!(rows(&mut by_tenant, &busy), [false, false]);
    assert_eq!(rows(&mut policy(r#"{"priority_at_most": 4}"#), &busy), [false, true]);
    let columns = vec![Column { key: 0, values: vec![3, u64::MAX] }];
    let with_property = Frame { columns, ..busy };
    assert_eq!(rows(&mut policy(r#"{"property_at_least": 3}"#), &with_property), [true, false]);
    assert_eq!(rows(&mut policy(r#"{"property_at_least": 4}"#), &with_property), [false, false]);
    assert_eq!(rows(&mut policy(""), &with_property), [false, false]);
}

#[test]
fn what_is_forgotten_is_not_marked() {
    let mut policy = policy_with_batch("");
    policy.forget_lite(1);
    assert_eq!(held(&policy.decide(&frame(0, 900_000))), [None, None]);
}

#[test]
fn steps_go_on_growing_after_a_restart() {
    let mut before = policy_with_batch("");
    before.decide(&frame(0, 900_000));
    let mut after = policy_with_batch("");
    after.restore(before.snapshot().unwrap()).unwrap();
    assert_eq!(held(&after.decide(&frame(100 * SECOND, 700_000))), [None, Some(50 * SECOND)]);
}
