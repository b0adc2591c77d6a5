use sluicegate_plugin_sdk::{GroupView, LiteView, parse_config};

use super::*;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
const MINUTE_US: u64 = 60 * SECOND;
const START: u64 = 1_700_000_000 * SECOND;

fn policy(config: &str) -> Adaptive {
    let init = Init { now_us: START, ..Init::default() };
    Adaptive::new(&init, parse_config(config).unwrap()).unwrap()
}

/// A lite topic of tenant 7 and one of tenant 8, with so many open leases in the group.
fn frame(at: u64, in_flight: u32) -> Frame {
    let tenant = |tenant| TenantView { tenant, ..TenantView::default() };
    Frame {
        now_us: START + at,
        group: GroupView { in_flight, ..GroupView::default() },
        tenants: vec![tenant(7), tenant(8)],
        lites: vec![LiteView::default(), LiteView { tenant: 1, ..LiteView::default() }],
        ..Frame::default()
    }
}

fn done(at: u64, service: u64) -> Feedback {
    let (at_us, none) = (START + at, u64::MAX);
    Feedback { at_us, tenant: 7, service_us: service, cost_measured: 1, retry_after_us: none, ..Feedback::default() }
}

fn leases(policy: &mut Adaptive, at: u64, in_flight: u32) -> u32 {
    policy.decide(&frame(at, in_flight)).concurrency
}

/// A second in which 20 deliveries take so long each, all leases in use; then how many there are.
fn window(policy: &mut Adaptive, at: u64, service: u64) -> u32 {
    let in_flight = leases(policy, at, 0);
    leases(policy, at, in_flight);
    (0..20).for_each(|_| policy.observe(&done(at + SECOND, service)));
    leases(policy, at + SECOND, 0)
}

/// What takes 100 ms each up to `knee` at once, and proportionally longer beyond.
struct Server {
    knee: u32,
    at: u64,
}

impl Server {
    fn run(&mut self, policy: &mut Adaptive, minutes: u64) -> u32 {
        let end = self.at + minutes * MINUTE_US;
        let mut last = 0;
        while self.at < end {
            let open = leases(policy, self.at, 0);
            last = window(policy, self.at, 100 * MS * u64::from(open.max(self.knee)) / u64::from(self.knee));
            self.at += SECOND;
        }
        last
    }
}

#[test]
fn it_doubles_until_the_first_jam_and_then_goes_in_steps() {
    let mut policy = policy(r#"{"initial": 2}"#);
    assert_eq!(leases(&mut policy, 0, 0), 2);
    let times = [100, 100, 140, 160, 120, 120, 151, 90];
    let found: Vec<_> =
        times.iter().zip(0..).map(|(ms, second)| window(&mut policy, second * SECOND, ms * MS)).collect();
    assert_eq!(found, [4, 8, 16, 13, 14, 15, 12, 13]);
}

#[test]
fn what_is_not_used_is_not_raised() {
    let mut policy = policy("");
    (0..20).for_each(|_| policy.observe(&done(SECOND, MS)));
    assert_eq!(leases(&mut policy, SECOND, 4), 8);
    (0..20).for_each(|_| policy.observe(&done(2 * SECOND, MS)));
    assert_eq!(leases(&mut policy, 2 * SECOND, 5), 16);
}

#[test]
fn a_window_has_enough_deliveries_and_only_those_that_began_in_it() {
    let mut policy = policy("");
    leases(&mut policy, 0, 8);
    (0..100).for_each(|_| policy.observe(&done(SECOND, 2 * SECOND)));
    (0..19).for_each(|_| policy.observe(&done(SECOND, SECOND)));
    assert_eq!(leases(&mut policy, SECOND, 8), 8);
    policy.observe(&Feedback { outcome: Feedback::RETURNED, ..done(SECOND, SECOND) });
    assert_eq!(leases(&mut policy, SECOND, 8), 8);
    policy.observe(&done(SECOND, SECOND));
    assert_eq!(leases(&mut policy, SECOND, 8), 16);
}

#[test]
fn failures_take_leases_away() {
    let mut policy = policy(r#"{"failures_max_percent": 10, "initial": 100}"#);
    let mut after = |second: u64, failures: usize| {
        leases(&mut policy, second * SECOND, 100);
        for index in 0..20 {
            let outcome = if index < failures { Feedback::TIMED_OUT } else { Feedback::DONE };
            policy.observe(&Feedback { outcome, ..done((second + 1) * SECOND, MS) });
        }
        leases(&mut policy, (second + 1) * SECOND, 100)
    };
    assert_eq!([after(0, 3), after(1, 2), after(2, 20)], [80, 81, 65]);
}

#[test]
fn it_stays_between_min_and_max_and_takes_what_is_measured_at_min_for_the_best() {
    let mut policy = policy(r#"{"initial": 4, "min": 3, "max": 5}"#);
    assert_eq!([0, 1].map(|second| window(&mut policy, second * SECOND, MS)), [5, 5]);
    assert_eq!([2, 3, 4].map(|second| window(&mut policy, second * SECOND, 9 * MS)), [4, 3, 4]);
}

#[test]
fn it_finds_what_the_server_bears_keeps_it_for_hours_and_follows_when_that_changes() {
    let mut policy = policy("");
    let mut server = Server { knee: 20, at: 0 };
    let found = server.run(&mut policy, 5);
    assert!((20..=31).contains(&found), "{found}");
    for _ in 0..10 {
        let found = server.run(&mut policy, 37);
        assert!((20..=31).contains(&found), "{found}");
    }
    server.knee = 5;
    let found = server.run(&mut policy, 30);
    assert!((4..=9).contains(&found), "{found}");
    server.knee = 40;
    let found = server.run(&mut policy, 30);
    assert!((40..=61).contains(&found), "{found}");
}

#[test]
fn a_server_that_is_slower_from_now_on_is_no_jam_for_long() {
    let mut policy = policy(r#"{"initial": 16, "max": 16}"#);
    for second in 0..30 {
        window(&mut policy, second * SECOND, 100 * MS);
    }
    let slow: Vec<_> = (30..60).map(|second| window(&mut policy, second * SECOND, 300 * MS)).collect();
    assert_eq!((slow[10], slow[29]), (1, 16));
}

#[test]
fn the_same_pace_with_longer_prompts_is_no_jam_when_measured_by_cost() {
    let longer = |measure: &str| {
        let mut policy = policy(&format!(r#"{{"measure": "{measure}"}}"#));
        window(&mut policy, 0, MS);
        leases(&mut policy, SECOND, 16);
        (0..20).for_each(|_| policy.observe(&Feedback { cost_measured: 10, ..done(2 * SECOND, 10 * MS) }));
        leases(&mut policy, 2 * SECOND, 16)
    };
    assert_eq!((longer("service"), longer("per_cost")), (13, 32));
}

#[test]
fn a_retry_after_holds_the_group_and_takes_leases_away_once() {
    let mut policy = policy(r#"{"initial": 10, "min": 2}"#);
    for _ in 0..3 {
        let asked = Feedback { retry_after_us: 90 * SECOND, outcome: Feedback::RETRIED, ..done(SECOND, SECOND / 2) };
        policy.observe(&asked);
    }
    let plan = policy.decide(&frame(SECOND, 10));
    assert_eq!((plan.concurrency, plan.concurrency_valid_us), (2, MINUTE_US));
    let held =
        |plan: &Plan| plan.answers.iter().map(|row| (row.verdict, row.duration_us, row.reason)).collect::<Vec<_>>();
    assert_eq!(held(&plan), [(Answer::SUSPEND, MINUTE_US, LEFT_ALONE); 2]);
    assert_eq!(held(&policy.decide(&frame(61 * SECOND, 0))), [(Answer::SUSPEND, 30 * SECOND, LEFT_ALONE); 2]);
    let plan = policy.decide(&frame(91 * SECOND, 0));
    assert_eq!((plan.concurrency, held(&plan)), (8, vec![(Answer::SERVE, 0, SERVED); 2]));
}

#[test]
fn nothing_is_measured_while_the_group_waits_after_a_retry_after() {
    let mut policy = policy(r#"{"initial": 10, "min": 2}"#);
    let asked = Feedback { retry_after_us: 10 * SECOND, outcome: Feedback::RETRIED, ..done(SECOND, SECOND / 2) };
    policy.observe(&asked);
    (0..20).for_each(|_| policy.observe(&done(3 * SECOND, MS)));
    assert_eq!(leases(&mut policy, 3 * SECOND, 10), 2);
    (0..20).for_each(|_| policy.observe(&done(12 * SECOND, 2 * SECOND)));
    assert_eq!(leases(&mut policy, 12 * SECOND, 10), 8, "these began before it was over");
    (0..20).for_each(|_| policy.observe(&done(12 * SECOND, MS)));
    assert_eq!(leases(&mut policy, 12 * SECOND, 8), 9);
}

#[test]
fn a_wait_that_carries_over_is_not_measured_either() {
    let mut before = policy(r#"{"initial": 10, "min": 2}"#);
    before.observe(&Feedback { retry_after_us: 10 * SECOND, outcome: Feedback::RETRIED, ..done(SECOND, 0) });
    let mut after = policy(r#"{"initial": 10, "min": 2}"#);
    after.restore(before.snapshot().unwrap()).unwrap();
    (0..20).for_each(|_| after.observe(&done(3 * SECOND, MS)));
    assert_eq!([3, 11].map(|second| leases(&mut after, second * SECOND, 10)), [2, 8]);
}

#[test]
fn a_retry_after_in_a_probe_raises_nothing() {
    let mut policy = policy(r#"{"initial": 16, "max": 16, "baseline_seconds": 10}"#);
    let found: Vec<_> = (0..10).map(|second| window(&mut policy, second * SECOND, MS)).collect();
    assert_eq!((found[8], found[9]), (16, 8));
    policy.observe(&Feedback { retry_after_us: SECOND, outcome: Feedback::RETRIED, ..done(11 * SECOND, MS) });
    assert_eq!(leases(&mut policy, 12 * SECOND, 8), 8);
    assert_eq!(window(&mut policy, 12 * SECOND, MS), 13);
}

#[test]
fn a_retry_after_may_hold_its_tenant_alone() {
    let mut policy = policy(r#"{"retry_after": "tenant"}"#);
    policy.observe(&Feedback { retry_after_us: 5 * SECOND, outcome: Feedback::RETRIED, ..done(0, 0) });
    let plan = policy.decide(&frame(SECOND, 8));
    assert_eq!(plan.concurrency, 8);
    assert_eq!((plan.answers[0].duration_us, plan.answers[0].reason), (4 * SECOND, TENANT_LEFT_ALONE));
    assert_eq!(plan.answers[1].verdict, Answer::SERVE);
    assert_eq!(policy.decide(&frame(5 * SECOND, 8)).answers[0].verdict, Answer::SERVE);
}

#[test]
fn what_was_found_carries_over_and_a_best_in_another_measure_does_not() {
    let mut before = policy("");
    window(&mut before, 0, MS);
    let go_on = |config: &str, service| {
        let mut after = policy(config);
        after.restore(before.snapshot().unwrap()).unwrap();
        window(&mut after, SECOND, service)
    };
    assert_eq!(go_on("", MS), 32, "it was still doubling");
    assert_eq!(go_on("", 2 * MS), 13);
    assert_eq!(go_on(r#"{"max": 40}"#, MS), 17, "another search");
    assert_eq!(go_on(r#"{"measure": "per_cost"}"#, 2 * MS), 17);
    assert_eq!(go_on(r#"{"max": 9}"#, MS), 9);
}
