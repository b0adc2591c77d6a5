//! What a policy keeps back without a word, and what the watchdog lets through.

use std::time::Duration;

use sluicegate_protocol::LiteId;

use super::bench::{Bench, UNBOUNDED, answer, bench, delivery, head, millis, rate, serve};
use crate::{Concurrency, Decision, Event, Explanation, Head, HoldSource, Quotas, SessionKey, Verdict};

const SECOND: Duration = Duration::from_secs(1);

fn bound(mut bench: Bench) -> Bench {
    bench.on(Event::PolicyBound);
    bench
}

fn throttle(wait: Duration) -> crate::Answer {
    answer(Verdict::Throttle(wait))
}

/// What is delivered, with when, while the policy throttles all that it is asked about for so long each time.
fn throttling(bench: &mut Bench, wait: Duration, span: Duration) -> Vec<(Duration, u64)> {
    let (start, end) = (bench.now, bench.now.plus(span));
    let mut delivered = Vec::new();
    loop {
        while let Some(decision) = bench.poll() {
            match decision {
                Decision::Ask(ask) => bench.answer_all(&ask, throttle(wait)),
                decision => delivered.push((bench.now.since(start), delivery(decision).lite)),
            }
        }
        match bench.scheduler.next_timeout().filter(|&at| at <= end) {
            Some(at) => bench.now = at,
            None => break,
        }
    }
    bench.now = end;
    delivered
}

fn explain(bench: &Bench, lite: u64) -> Explanation {
    bench.scheduler.explain(bench.now, LiteId(lite)).unwrap()
}

#[test]
fn who_is_throttled_for_thirty_seconds_with_room_to_run_is_served_once() {
    for wait in [millis(1_000), SECOND * 7, SECOND * 60] {
        let mut bench = bound(bench());
        bench.head(1, head(0));
        assert_eq!(throttling(&mut bench, wait, SECOND * 70), [(SECOND * 30, 1)], "throttled for {wait:?} each time");
        assert_eq!(bench.scheduler.stats().starved, 1);
        // Its next message is kept back anew.
        bench.head(1, head(1));
        assert_eq!(throttling(&mut bench, wait, SECOND * 29), []);
    }
}

#[test]
fn the_watchdogs_time_is_the_groups_and_without_one_a_throttle_holds_for_ever() {
    let mut bench = bound(bench());
    bench.on(Event::Watchdog(Some(SECOND * 2)));
    bench.head(1, head(0));
    assert_eq!(throttling(&mut bench, SECOND * 60, SECOND * 10), [(SECOND * 2, 1)]);
    bench.on(Event::Watchdog(None));
    bench.head(2, head(0));
    assert_eq!(throttling(&mut bench, SECOND * 60, SECOND * 600), []);
}

#[test]
fn a_stated_suspension_is_obeyed() {
    let mut bench = bound(bench());
    bench.head(1, head(0));
    for _ in 0..4 {
        let ask = bench.ask();
        bench.answer_all(&ask, answer(Verdict::Suspend(SECOND * 60)));
        assert!(matches!(bench.poll(), Some(Decision::Suspend { .. })));
        assert_eq!(bench.poll(), None);
        bench.now = bench.scheduler.next_timeout().unwrap();
    }
    // A throttle after it is the first one.
    assert_eq!(throttling(&mut bench, SECOND, SECOND * 29), []);
}

#[test]
fn a_tenant_of_which_something_runs_is_not_starved() {
    let mut bench = bound(bench());
    bench.head_of(7, 1, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, serve());
    let running = bench.deliver_one();
    bench.head_of(7, 2, head(0));
    assert_eq!(throttling(&mut bench, SECOND * 10, SECOND * 100), []);
    bench.ack(running);
    assert_eq!(throttling(&mut bench, SECOND * 10, SECOND * 100), [(SECOND * 30, 2)]);
}

#[test]
fn of_one_tenant_one_message_is_let_through_at_a_time_and_of_many_tenants_one_each() {
    let mut bench = bound(bench());
    for lite in 1..=3 {
        bench.head_of(7, lite, head(0));
    }
    bench.head_of(8, 9, head(0));
    let mut delivered = Vec::new();
    for _ in 0..3 {
        // Whoever is delivered settles at once.
        let now = throttling(&mut bench, SECOND * 3, SECOND * 30);
        for (_, lite) in &now {
            let charge = crate::Charge { cost: 1, band: 4, weight: 1 };
            let lite = LiteId(*lite);
            bench.on(Event::Settled { lite, charge, ending: crate::Ending::done(None, millis(1)) });
        }
        delivered.push(now.into_iter().map(|(_, lite)| lite).collect::<Vec<_>>());
    }
    assert_eq!(delivered, [vec![1, 9], vec![2], vec![3]]);
}

#[test]
fn without_room_to_run_nobody_is_starved() {
    // No session; no credit; the group is full, paused, or out of quota.
    let full = Concurrency { group: 1, ..UNBOUNDED };
    let quotas = Quotas { messages: Some(rate("1/h burst 1")), cost: None };
    let paused = || {
        let mut bench = bench();
        bench.on(Event::Paused);
        bench
    };
    let cases: [(&str, Bench); 5] = [
        ("no session", Bench::new(Quotas::default(), UNBOUNDED)),
        ("no credit", Bench::new(Quotas::default(), UNBOUNDED).with_session(1, 1)),
        ("a full group", Bench::new(Quotas::default(), full).with_session(1, 9)),
        ("a quota", Bench::new(quotas, UNBOUNDED).with_session(1, 9)),
        ("a pause", paused()),
    ];
    for (why, mut bench) in cases {
        // Whatever there is of room is taken by a tenant that is served before the policy comes, and another waits at the gate.
        bench.head(7, head(0));
        bench.head(8, head(0));
        bench.poll_all();
        bench.on(Event::PolicyBound);
        bench.head(1, head(0));
        let mut lites = Vec::new();
        for _ in 0..4 {
            while let Some(decision) = bench.poll() {
                match decision {
                    Decision::Ask(ask) => {
                        let verdict = |lite: LiteId| if lite.0 == 1 { throttle(SECOND * 20) } else { serve() };
                        let plan = ask.frame.lites.iter().map(|row| verdict(row.lite)).collect();
                        let plan = crate::Plan { lites: plan, ..crate::Plan::default() };
                        bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
                    }
                    decision => lites.push(delivery(decision).lite),
                }
            }
            bench.advance(SECOND * 20);
        }
        assert!(!lites.contains(&1), "with {why} there was no room: {lites:?}");
        assert_eq!(bench.scheduler.stats().starved, 0, "{why}");
    }
}

#[test]
fn what_somebody_else_holds_is_not_kept_back_by_the_policy() {
    let mut bench = bound(bench());
    bench.head(1, head(0));
    assert_eq!(throttling(&mut bench, SECOND * 10, SECOND * 25), []);
    bench.hold(1, HoldSource::Operator, SECOND * 20);
    assert_eq!(throttling(&mut bench, SECOND * 10, SECOND * 60), [(SECOND * 50, 1)]);
}

#[test]
fn who_was_allowed_in_between_is_kept_back_anew() {
    let mut bench = bound(bench());
    bench.on(Event::Credit(SessionKey(1), 1));
    bench.head(1, head(0));
    assert_eq!(throttling(&mut bench, SECOND * 10, SECOND * 29), []);
    bench.advance(SECOND);
    bench.on(Event::Detached(SessionKey(1)));
    let ask = bench.ask();
    bench.answer_all(&ask, serve());
    assert_eq!(bench.poll(), None);
    bench.advance(SECOND * 60);
    let mut bench = bench.with_session(2, 1);
    assert_eq!(throttling(&mut bench, SECOND * 10, SECOND * 40), [(SECOND * 30, 1)]);
}

#[test]
fn it_says_since_when_it_is_kept_back_and_that_the_policy_was_overruled() {
    let mut bench = bound(bench());
    bench.head(1, Head { priority: 2, ..head(0) });
    let since = bench.now;
    throttling(&mut bench, SECOND * 4, SECOND * 25);
    let explained = explain(&bench, 1);
    assert_eq!((explained.kept_since, explained.said.unwrap().overruled), (Some(since), false));
    bench.on(Event::Credit(SessionKey(1), 5));
    let delivered = throttling(&mut bench, SECOND * 4, SECOND * 10);
    assert_eq!(delivered, [(SECOND * 5, 1)]);
    let explained = explain(&bench, 1);
    assert_eq!((explained.kept_since, explained.said.unwrap().overruled), (None, true));
}
