//! Asking a policy, and what its answers do.

use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset};

use super::bench::{Bench, UNBOUNDED, answer, bench, head, millis, rate, serve};
use crate::{
    Answer, Ask, Concurrency, ConcurrencyCap, Decision, Ending, Event, Feedback, GroupView, Head, HoldSource, LiteView,
    Plan, Quotas, Scope, SessionKey, TenantView, Verdict, WorkResult,
};

fn bound() -> Bench {
    let mut bench = bench();
    bench.on(Event::PolicyBound);
    bench
}

fn serve_messages(max_messages: u32) -> Answer {
    answer(Verdict::Serve { band: None, max_messages })
}

fn rows(ask: &Ask) -> Vec<u64> {
    ask.frame.lites.iter().map(|row| row.lite.0).collect()
}

#[test]
fn a_lite_topic_that_becomes_ready_is_asked_about_and_served() {
    let mut bench = bound();
    bench.head(1, head(0));
    bench.head(2, head(0));
    let ask = bench.ask();
    assert_eq!(rows(&ask), [1, 2]);
    assert_eq!(bench.poll(), None);
    bench.answer_all(&ask, serve());
    assert_eq!(bench.delivered_lites(), [1, 2]);
}

#[test]
fn a_frame_shows_what_a_policy_may_know() {
    let mut bench =
        Bench::new(Quotas { messages: Some(rate("100/s")), cost: None }, Concurrency { lite: 2, ..UNBOUNDED })
            .with_session(1, 10);
    bench.on(Event::Load(SessionKey(1), 250_000));
    bench.head_of(7, 1, head(0));
    let running = bench.deliver_one();
    bench.on(Event::PolicyBound);
    bench.advance(millis(30));
    let next = Head { expires_at: Some(bench.now.plus(millis(500))), cost: 9, attempts: 2, ..head(1) };
    bench.head_with_backlog(7, 1, next, 5);
    let ask = bench.ask();
    assert_eq!(running.lite, 1);
    assert_eq!(ask.frame.sequence, 1);
    assert_eq!(
        ask.frame.group,
        GroupView {
            backlog: 5,
            in_flight: 1,
            capacity: 10,
            load_ppm: 250_000,
            messages_left: 100,
            cost_left: u64::MAX
        }
    );
    let tenant = sluicegate_protocol::TenantId(7);
    assert_eq!(ask.frame.tenants, [TenantView { tenant, weight: 1, in_flight: 1, waiting: 1 }]);
    let row = LiteView {
        lite: LiteId(1),
        tenant: 0,
        head_offset: Offset(1),
        head_age: millis(30),
        head_cost: 9,
        priority: 4,
        expires_in: Some(millis(500)),
        backlog: 5,
        in_flight: 1,
        attempts: 2,
        last_service: None,
        memo: 0,
    };
    assert_eq!(ask.frame.lites, [row]);
}

#[test]
fn seeds_are_the_same_for_the_same_scheduler_seed() {
    let seeds = || {
        let mut bench = bound();
        let mut seeds = Vec::new();
        for lite in 0..3 {
            bench.head(lite, head(0));
            let ask = bench.ask();
            seeds.push(ask.frame.seed);
            bench.answer_all(&ask, answer(Verdict::Throttle(millis(1_000))));
        }
        seeds
    };
    let first = seeds();
    assert_eq!(first, seeds());
    assert!(first[0] != first[1] && first[1] != first[2]);
}

#[test]
fn at_most_a_frame_of_rows_is_asked_at_once_and_one_ask_is_open() {
    let mut bench = bound();
    for lite in 0..600 {
        bench.head(lite, head(0));
    }
    let mut sizes = Vec::new();
    for _ in 0..3 {
        let ask = bench.ask();
        sizes.push(ask.frame.lites.len());
        bench.answer_all(&ask, answer(Verdict::Throttle(Duration::from_secs(9))));
    }
    assert_eq!(sizes, [256, 256, 88]);
    assert_eq!(bench.poll(), None);
}

#[test]
fn the_answers_band_counts_and_is_clamped() {
    let mut bench = bound();
    bench.head(1, Head { priority: 9, ..head(0) });
    bench.head(2, Head { priority: 0, ..head(0) });
    let ask = bench.ask();
    let band = |band| answer(Verdict::Serve { band: Some(band), max_messages: 1 });
    let plan = Plan { lites: vec![band(3), band(200)], ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    let deliveries = bench.deliveries();
    let bands: Vec<_> = deliveries.iter().map(|delivery| (delivery.lite, delivery.charge.band)).collect();
    assert_eq!(bands, [(2, 9), (1, 3)]);
}

#[test]
fn an_answer_serves_so_many_messages_and_then_it_is_asked_again() {
    let mut bench = bound();
    bench.head(1, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, serve_messages(2));
    for offset in 0..2 {
        let delivery = bench.deliver_one();
        assert_eq!(delivery.offset, offset);
        bench.ack(delivery);
        bench.head(1, head(offset + 1));
    }
    assert_eq!(rows(&bench.ask()), [1]);
}

#[test]
fn an_answer_that_expired_near_the_front_is_asked_again_together_with_others() {
    let mut bench = bound();
    bench.on(Event::Concurrency(Concurrency { group: 1, ..UNBOUNDED }));
    for lite in 0..400 {
        bench.head(lite, head(0));
    }
    for _ in 0..2 {
        let ask = bench.scheduler.next_ask().unwrap();
        bench.answer_all(&ask, Answer { valid_for: millis(50), ..serve_messages(9) });
    }
    let first = bench.deliver_one();
    bench.advance(millis(60));
    assert_eq!(bench.poll(), None);
    bench.ack(first);
    let ask = bench.ask();
    assert_eq!(ask.frame.lites.len(), 256);
    assert_eq!(rows(&ask)[..3], [1, 2, 3]);
    assert_eq!(ask.feedback.len(), 1);
}

#[test]
fn lite_topics_that_were_ready_before_the_policy_are_asked_about_at_the_front() {
    let mut bench = bench();
    for lite in 0..2_000 {
        bench.head(lite, head(0));
    }
    bench.on(Event::PolicyBound);
    let ask = bench.ask();
    assert_eq!(rows(&ask).len(), 256);
    assert_eq!(bench.poll(), None);
    // While the policy thinks, only a bounded number of stale ones is taken out of the queue.
    assert!(bench.scheduler.stats().ready > 500);
    bench.answer_all(&ask, serve());
    let mut delivered = 0;
    while let Some(decision) = bench.poll() {
        match decision {
            Decision::Ask(ask) => bench.answer_all(&ask, serve()),
            Decision::Deliver { .. } => delivered += 1,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(delivered, 2_000);
}

#[test]
fn a_throttled_lite_topic_is_held_and_asked_again() {
    let mut bench = bound();
    bench.head(1, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, answer(Verdict::Throttle(millis(40))));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(millis(40))));
    assert_eq!(bench.scheduler.stats().throttled, 1);
    bench.advance(millis(40));
    assert_eq!(rows(&bench.ask()), [1]);
}

#[test]
fn throttles_are_clamped() {
    for (asked, held) in [(Duration::ZERO, millis(1)), (Duration::MAX, Duration::from_mins(1))] {
        let mut bench = bound();
        bench.on(Event::Watchdog(None));
        bench.head(1, head(0));
        let ask = bench.ask();
        bench.answer_all(&ask, answer(Verdict::Throttle(asked)));
        assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(held)));
    }
}

#[test]
fn a_suspension_is_told_to_the_owner_and_held() {
    let mut bench = bound();
    bench.head(1, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, answer(Verdict::Suspend(Duration::MAX)));
    let until = bench.now.plus(Duration::from_hours(30 * 24));
    assert_eq!(bench.poll(), Some(Decision::Suspend { lite: LiteId(1), until, reason: 3 }));
    assert_eq!(bench.poll(), None);
    bench.on(Event::Resumed { lite: LiteId(1), source: Some(HoldSource::Policy) });
    assert_eq!(rows(&bench.ask()), [1]);
}

#[test]
fn a_suspension_that_is_over_before_the_owner_polls_is_not_told() {
    let mut bench = bound();
    bench.head(1, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, answer(Verdict::Suspend(millis(2))));
    bench.advance(millis(2));
    assert_eq!(rows(&bench.ask()), [1]);
}

#[test]
fn refused_heads_are_told_to_the_owner_once() {
    let mut bench = bound();
    bench.head(1, head(5));
    bench.head(2, head(6));
    let ask = bench.ask();
    let plan = Plan { lites: vec![answer(Verdict::DeadLetter), answer(Verdict::Drop)], ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    let decisions = bench.poll_all();
    assert_eq!(
        decisions,
        [
            Decision::DeadLetter { lite: LiteId(1), offset: Offset(5), reason: 3 },
            Decision::Drop { lite: LiteId(2), offset: Offset(6), reason: 3 },
        ]
    );
    bench.head(1, head(6));
    assert_eq!(rows(&bench.ask()), [1]);
}

#[test]
fn a_refusal_does_not_hit_a_head_that_it_did_not_see() {
    let mut bench = bound();
    bench.head(1, head(5));
    bench.head(2, head(5));
    let ask = bench.ask();
    bench.head(1, head(4));
    bench.answer_all(&ask, answer(Verdict::Drop));
    bench.head(2, head(4));
    assert_eq!(rows(&bench.ask()), [1, 2]);
    assert_eq!(bench.poll(), None);
}

#[test]
fn a_serve_answer_counts_for_a_newer_head() {
    let mut bench = bound();
    bench.head(1, head(5));
    let ask = bench.ask();
    bench.head(1, head(4));
    assert_eq!(bench.poll(), None);
    bench.answer_all(&ask, serve());
    assert_eq!(bench.deliver_one().offset, 4);
}

#[test]
fn without_an_answer_built_in_scheduling_serves_and_then_asks_again() {
    let mut bench = bound();
    bench.head(1, head(0));
    let ask = bench.ask();
    assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(millis(5))));
    bench.advance(millis(5));
    let delivery = bench.deliver_one();
    bench.ack(delivery);
    bench.advance(millis(50));
    bench.head(1, head(1));
    let delivery = bench.deliver_one();
    bench.ack(delivery);
    bench.advance(millis(51));
    bench.head(1, head(2));
    assert_eq!(bench.ask().frame.sequence, ask.frame.sequence + 1);
}

#[test]
fn a_failed_ask_and_a_plan_of_the_wrong_length_are_served_built_in() {
    for length in [None, Some(0), Some(7)] {
        let mut bench = bound();
        bench.head(1, head(0));
        let sequence = bench.ask().frame.sequence;
        bench.on(match length {
            None => Event::AskFailed { sequence },
            Some(length) => {
                Event::Answered { sequence, plan: Plan { lites: vec![serve(); length], ..Plan::default() } }
            }
        });
        assert_eq!(bench.delivered_lites(), [1]);
    }
}

#[test]
fn a_late_answer_brings_memos_and_weights_only() {
    let mut bench = bound();
    bench.on(Event::Paused);
    bench.head(1, head(0));
    bench.on(Event::Unpaused);
    let ask = bench.ask();
    bench.advance(millis(6));
    let first = bench.deliver_one();
    let lites = vec![Answer { memo: 77, ..answer(Verdict::Suspend(millis(1_000))) }];
    bench.on(Event::Answered {
        sequence: ask.frame.sequence,
        plan: Plan { lites, weights: vec![5], concurrency: Some(cap(1)), refresh: 0 },
    });
    bench.ack(first);
    bench.advance(millis(200));
    bench.head(1, head(1));
    let again = bench.ask();
    assert_eq!((again.frame.lites[0].memo, again.frame.tenants[0].weight), (77, 5));
    assert_eq!(again.frame.group.in_flight, 0);
    assert_eq!(bench.scheduler.stats().held, 0);
}

#[test]
fn memos_outlive_an_idle_time_and_a_swap_but_not_the_policies_end() {
    let mut bench = bound();
    bench.head(1, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, Answer { memo: 9, ..serve_messages(1) });
    let delivery = bench.deliver_one();
    bench.ack(delivery);
    bench.on(Event::Emptied(LiteId(1)));
    bench.on(Event::PolicyBound);
    bench.head(1, head(1));
    assert_eq!(bench.ask().frame.lites[0].memo, 9);
    bench.on(Event::PolicyUnbound);
    bench.on(Event::PolicyBound);
    assert_eq!(bench.ask().frame.lites[0].memo, 0);
}

#[test]
fn a_swapped_policy_is_asked_about_everything_again() {
    let mut bench = bound();
    bench.on(Event::Concurrency(Concurrency { group: 1, ..UNBOUNDED }));
    for lite in 1..=3 {
        bench.head(lite, head(0));
    }
    let ask = bench.ask();
    let lites = vec![serve(), serve(), answer(Verdict::Throttle(Duration::from_secs(50)))];
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: Plan { lites, ..Plan::default() } });
    let first = bench.deliver_one();
    bench.on(Event::PolicyBound);
    bench.ack(first);
    let ask = bench.ask();
    assert_eq!(rows(&ask), [3]);
    bench.on(Event::PolicyBound);
    bench.answer_all(&ask, serve());
    let again = bench.ask();
    assert_eq!(rows(&again), [3]);
    bench.answer_all(&again, serve());
    // 2 is ready since the policy before; it is found stale at the front.
    assert_eq!(rows(&bench.ask()), [2]);
}

#[test]
fn without_the_policy_everything_runs_by_default() {
    let mut bench = bound();
    for lite in 1..=3 {
        bench.head(lite, head(0));
    }
    let ask = bench.ask();
    let lites = vec![serve(), answer(Verdict::Throttle(Duration::from_secs(50))), answer(Verdict::Drop)];
    bench.head(4, head(0));
    let weights = vec![7, 8, 9];
    bench.on(Event::Answered {
        sequence: ask.frame.sequence,
        plan: Plan { lites, weights, concurrency: Some(cap(1)), refresh: 0 },
    });
    bench.on(Event::PolicyUnbound);
    let deliveries = bench.deliveries();
    assert_eq!(deliveries.len(), 4);
    assert!(deliveries.iter().all(|delivery| delivery.charge.weight == 1));
}

#[test]
fn without_the_policy_bands_are_the_heads_priorities_again() {
    let mut bench = bound();
    bench.head(1, Head { priority: 9, ..head(0) });
    bench.head(2, Head { priority: 3, ..head(0) });
    let ask = bench.ask();
    let band = |band| answer(Verdict::Serve { band: Some(band), max_messages: 1 });
    let plan = Plan { lites: vec![band(0), band(5)], ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    bench.on(Event::PolicyUnbound);
    assert_eq!(bench.delivered_lites(), [1, 2]);
}

#[test]
fn a_policy_lowers_the_groups_concurrency_until_it_says_otherwise() {
    let mut bench = bound();
    for lite in 1..=4 {
        bench.head(lite, head(0));
    }
    let ask = bench.ask();
    let plan = Plan { lites: vec![serve(); 4], weights: vec![], concurrency: Some(cap(2)), refresh: 0 };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    assert_eq!(bench.delivered_lites(), [1, 2]);
    bench.head(5, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, serve());
    assert_eq!(bench.poll(), None);
    bench.head(6, head(0));
    let ask = bench.ask();
    let plan = Plan { lites: vec![serve()], weights: vec![], concurrency: Some(cap(100)), refresh: 0 };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    assert_eq!(bench.delivered_lites(), [3, 4, 5, 6]);
}

#[test]
fn a_lower_concurrency_is_valid_for_so_long() {
    let mut bench = bound();
    for lite in 1..=4 {
        bench.head(lite, head(0));
    }
    let ask = bench.ask();
    let cap = ConcurrencyCap { leases: 1, valid_for: millis(50) };
    let plan = Plan { lites: vec![serve(); 4], concurrency: Some(cap), ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    assert_eq!(bench.delivered_lites(), [1]);
    bench.advance(millis(49));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(millis(1))));
    bench.advance(millis(1));
    assert_eq!(bench.delivered_lites(), [2, 3, 4]);
}

#[test]
fn a_changed_load_is_told_at_once() {
    let mut bench = bound();
    assert_eq!(bench.poll(), None);
    bench.on(Event::Load(SessionKey(1), 99_999));
    assert_eq!(bench.poll(), None);
    bench.on(Event::Load(SessionKey(1), 100_000));
    let ask = bench.ask();
    assert_eq!((ask.frame.group.load_ppm, ask.frame.lites.len()), (100_000, 0));
    bench.answer_all(&ask, serve());
    assert_eq!(bench.poll(), None);
}

#[test]
fn a_policy_has_those_that_it_ranked_ranked_again_in_turn() {
    let mut bench = bound();
    bench.on(Event::Credit(SessionKey(1), 0));
    bench.on(Event::Detached(SessionKey(1)));
    bench.on(Event::Attached(SessionKey(1), Scope::All));
    for lite in 1..=5 {
        bench.head(lite, head(0));
    }
    // The fifth stays in the band of its head: it has no rank to be looked at again.
    let lites = [5, 5, 5, 5].map(band).into_iter().chain([serve()]).collect();
    let ask = bench.ask();
    let again = Plan { lites, refresh: 3, ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: again });
    let rows = |ask: &Ask| ask.frame.lites.iter().map(|row| row.lite.0).collect::<Vec<_>>();
    let ask = bench.ask();
    assert_eq!(rows(&ask), [1, 2, 3]);
    let again = |ask: &Ask| Plan { lites: vec![band(6); ask.frame.lites.len()], refresh: 3, ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: again(&ask) });
    assert_eq!(bench.poll(), None, "not at once: a policy could have itself asked for ever");
    bench.advance(millis(10));
    bench.head(6, head(0));
    let ask = bench.ask();
    assert_eq!(rows(&ask), [6]);
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: again(&ask) });
    assert_eq!(rows(&bench.ask()), [4, 6, 1]);
}

#[test]
fn who_is_ranked_again_keeps_its_turn() {
    let mut bench = bound();
    bench.on(Event::Detached(SessionKey(1)));
    bench.on(Event::Attached(SessionKey(1), Scope::All));
    for lite in 1..=3 {
        bench.head(lite, head(0));
    }
    let ask = bench.ask();
    let again = |ask: &Ask| Plan { lites: vec![band(5); ask.frame.lites.len()], refresh: 1_000, ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: again(&ask) });
    // One slot, and a policy that has everything ranked again whenever it is asked: each lite topic has its turn.
    let mut served = Vec::new();
    for offset in 1..=6 {
        bench.on(Event::Credit(SessionKey(1), 1));
        let delivery = loop {
            match bench.poll().expect("something waits") {
                Decision::Ask(ask) => {
                    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: again(&ask) });
                }
                decision => break super::bench::delivery(decision),
            }
        };
        served.push(delivery.lite);
        bench.advance(millis(100));
        let lite = delivery.lite;
        bench.settle(delivery, Ending::done(None, millis(100)));
        bench.head(lite, head(offset));
    }
    assert_eq!(served, [1, 2, 3, 1, 2, 3]);
}

fn cap(leases: u32) -> ConcurrencyCap {
    ConcurrencyCap { leases, valid_for: Duration::MAX }
}

fn band(band: u8) -> Answer {
    answer(Verdict::Serve { band: Some(band), max_messages: u32::MAX })
}

#[test]
fn a_weight_reorders_the_backlog_that_exists() {
    let mut bench = bound();
    for lite in 0..20 {
        bench.head_of(1, lite, head(0));
        bench.head_of(2, 100 + lite, head(0));
    }
    let ask = bench.ask();
    let plan = Plan { lites: vec![serve(); 40], weights: vec![4, 1], ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    let first: Vec<u64> = (0..10).map(|_| bench.deliver_one().tenant).collect();
    assert_eq!(first.iter().filter(|&&tenant| tenant == 1).count(), 8);
}

#[test]
fn feedback_goes_along_with_the_next_ask() {
    let mut bench = bound();
    bench.head(1, Head { cost: 4, ..head(0) });
    bench.advance(millis(7));
    let ask = bench.ask();
    bench.answer_all(&ask, serve_messages(1));
    let delivery = bench.deliver_one();
    bench.advance(millis(3));
    bench.settle(delivery, Ending::done(Some(6), millis(3)));
    bench.head(1, head(1));
    let ask = bench.ask();
    let feedback = Feedback {
        at: bench.now,
        tenant: sluicegate_protocol::TenantId(1),
        lite: LiteId(1),
        wait: Some(millis(7)),
        service: millis(3),
        cost_estimate: 4,
        cost_measured: 6,
        result: Some(WorkResult::Done),
        retry_after: None,
    };
    assert_eq!(ask.feedback, [feedback]);
    assert_eq!(ask.frame.lites[0].last_service, Some(millis(3)));
}

#[test]
fn feedback_alone_is_sent_when_half_full_and_the_oldest_is_dropped_beyond_the_limit() {
    let mut bench = bound();
    bench.head(0, head(0));
    let ask = bench.ask();
    bench.answer_all(&ask, serve_messages(u32::MAX));
    let run = |bench: &mut Bench, from: u64, to: u64| {
        for offset in from..to {
            let delivery = bench.deliver_one();
            bench.ack(delivery);
            bench.head(0, head(offset + 1));
        }
    };
    run(&mut bench, 0, 512);
    let ask = bench.ask();
    assert_eq!((ask.feedback.len(), ask.frame.lites.len()), (512, 0));
    run(&mut bench, 512, 512 + 1_100);
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: Plan::default() });
    let ask = bench.ask();
    assert_eq!((ask.feedback.len(), bench.scheduler.stats().feedback_dropped), (1_024, 76));
}

#[test]
fn the_policy_is_not_asked_while_paused() {
    let mut bench = bound();
    bench.on(Event::Paused);
    bench.head(1, head(0));
    assert_eq!(bench.poll(), None);
    bench.on(Event::Unpaused);
    assert_eq!(rows(&bench.ask()), [1]);
}

#[test]
fn weights_are_remembered_while_a_tenant_is_idle() {
    let mut bench = bound();
    bench.head_of(1, 1, head(0));
    let ask = bench.ask();
    bench.on(Event::Emptied(LiteId(1)));
    let plan = Plan { lites: vec![serve()], weights: vec![50_000], ..Plan::default() };
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan: plan.clone() });
    bench.head_of(1, 1, head(0));
    let ask = bench.ask();
    bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
    bench.on(Event::Emptied(LiteId(1)));
    bench.head_of(1, 2, head(0));
    assert_eq!(bench.ask().frame.tenants[0].weight, 10_000);
}
