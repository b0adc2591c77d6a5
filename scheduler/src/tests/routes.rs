//! Subscriptions: lite topics that only some sessions may serve.

use std::collections::HashMap;
use std::time::Duration;

use sluicegate_protocol::{LiteId, TenantId};

use super::bench::{Bench, Delivery, UNBOUNDED, answer, head, millis, rate, serve};
use crate::{Charge, Concurrency, Ending, Event, Head, Plan, Quotas, Scope, SessionKey, Verdict};

/// With sessions that take what names them.
fn bench_named(sessions: &[(u64, u32)]) -> Bench {
    let mut bench = Bench::new(Quotas::default(), UNBOUNDED);
    for &(session, credit) in sessions {
        bench.on(Event::Attached(SessionKey(session), Scope::Named));
        bench.on(Event::Credit(SessionKey(session), credit));
    }
    bench
}

fn served(bench: &mut Bench) -> Vec<(u64, u64)> {
    bench.deliveries().into_iter().map(|delivery| (delivery.lite, delivery.session)).collect()
}

#[test]
fn a_lite_topic_goes_only_to_sessions_that_subscribed_to_it() {
    let mut bench = bench_named(&[(1, 10), (2, 10)]);
    bench.head_for(&[2], 1, 1, head(0));
    bench.head_for(&[1, 2], 2, 2, head(0));
    bench.head_for(&[], 3, 3, head(0));
    assert_eq!(served(&mut bench), [(1, 2), (2, 1)]);
}

#[test]
fn a_session_that_takes_all_serves_what_others_subscribed_to() {
    let mut bench = bench_named(&[(1, 1)]).with_session(9, 1);
    bench.head_for(&[1], 1, 1, head(0));
    bench.head_for(&[1], 2, 2, head(0));
    bench.head_for(&[1], 3, 3, head(0));
    assert_eq!(served(&mut bench), [(1, 1), (2, 9)]);
}

#[test]
fn a_route_without_room_holds_nobody_up() {
    let mut bench = bench_named(&[(1, 0), (2, 10)]);
    bench.head_for(&[1], 1, 1, Head { priority: 9, ..head(0) });
    bench.head_for(&[2], 2, 2, Head { priority: 1, ..head(0) });
    assert_eq!(served(&mut bench), [(2, 2)]);
    bench.on(Event::Credit(SessionKey(1), 1));
    assert_eq!(served(&mut bench), [(1, 1)]);
}

#[test]
fn new_members_take_over_what_waits() {
    let mut bench = bench_named(&[(1, 0), (2, 10)]);
    bench.head_for(&[1], 1, 1, head(0));
    assert_eq!(served(&mut bench), []);
    bench.head_for(&[1, 2], 1, 1, head(0));
    assert_eq!(served(&mut bench), [(1, 2)]);
}

#[test]
fn a_session_that_lost_the_lite_topic_gets_no_more_of_it() {
    let mut bench = Bench::new(Quotas::default(), Concurrency { lite: 3, ..UNBOUNDED });
    for session in [1, 2] {
        bench.on(Event::Attached(SessionKey(session), Scope::Named));
        bench.on(Event::Credit(SessionKey(session), 5));
    }
    bench.head_for(&[1], 1, 1, head(0));
    let first = bench.deliver_one();
    bench.head_for(&[2], 1, 1, head(1));
    // Its deliveries stay with one session while a lease is open.
    assert_eq!(bench.poll(), None);
    bench.on(Event::Credit(SessionKey(1), 1));
    assert_eq!(bench.poll(), None);
    bench.ack(first);
    assert_eq!(served(&mut bench), [(1, 2)]);
}

#[test]
fn a_tenant_in_two_routes_is_charged_once_for_all() {
    let mut bench = bench_named(&[(1, 100), (2, 100)]);
    for lite in 0..20 {
        bench.head_for(&[1 + lite % 2], 50, lite, Head { cost: 10, ..head(0) });
        bench.head_for(&[1 + lite % 2], 60 + lite, 100 + lite, Head { cost: 10, ..head(0) });
    }
    // Ten tenants of one lite topic each in each route, and one with ten in both: as many turns as they all have.
    let order = bench.delivered_lites();
    let early = order[..21].iter().filter(|&&lite| lite < 100).count();
    assert_eq!(early, 1, "{order:?}");
}

/// Serves what is ready in `turns` rounds; in each, a session gets as much credit as it is fast.
fn run(bench: &mut Bench, turns: usize, speeds: &[(u64, u32)], lites: &mut HashMap<u64, (u64, u64)>) -> Vec<Delivery> {
    let mut all = Vec::new();
    for _ in 0..turns {
        for &(session, credit) in speeds {
            bench.on(Event::Credit(SessionKey(session), credit));
        }
        while let Some(decision) = bench.poll() {
            if let crate::Decision::Ask(ask) = decision {
                let plan = Plan {
                    lites: vec![serve(); ask.frame.lites.len()],
                    weights: ask.frame.tenants.iter().map(|row| u32::try_from(row.tenant.0 % 10).unwrap()).collect(),
                    ..Plan::default()
                };
                bench.on(Event::Answered { sequence: ask.frame.sequence, plan });
                continue;
            }
            let delivery = super::bench::delivery(decision);
            bench.ack(delivery);
            let (member, offset) = lites.get_mut(&delivery.lite).unwrap();
            *offset += 1;
            bench.head_for(&[*member], delivery.tenant, delivery.lite, head(*offset));
            all.push(delivery);
        }
    }
    all
}

#[test]
fn weights_hold_and_newcomers_are_served_in_a_route_that_is_slower_than_another() {
    let mut bench = bench_named(&[(1, 0), (2, 0)]);
    bench.on(Event::PolicyBound);
    // Tenants x1 and x3 with weights 1 and 3 in each route; session 1 is a hundred times as fast.
    let mut lites = HashMap::new();
    for (lite, member) in [(11, 1), (13, 1), (21, 2), (23, 2)] {
        bench.head_for(&[member], lite, lite, head(0));
        lites.insert(lite, (member, 0));
    }
    let before = run(&mut bench, 200, &[(1, 100), (2, 1)], &mut lites);
    let count = |list: &[Delivery], lite: u64| list.iter().filter(|delivery| delivery.lite == lite).count();
    assert_eq!((count(&before, 21), count(&before, 23)), (50, 150));
    assert_eq!((count(&before, 11), count(&before, 13)), (5_000, 15_000));
    bench.head_for(&[2], 31, 31, head(0));
    lites.insert(31, (2, 0));
    let after = run(&mut bench, 100, &[(1, 100), (2, 1)], &mut lites);
    // One more or less: a newcomer's weight is known only once the policy was asked.
    for (lite, expected) in [(21, 20), (23, 60), (31, 20)] {
        assert!(count(&after, lite).abs_diff(expected) <= 1, "{lite} was served {} times", count(&after, lite));
    }
}

#[test]
fn the_gate_lets_others_pass_while_nobody_has_room_for_what_waits_there() {
    let quotas = Quotas { messages: None, cost: Some(rate("10/s burst 10")) };
    let mut bench = Bench::new(quotas, UNBOUNDED);
    for session in [1, 2] {
        bench.on(Event::Attached(SessionKey(session), Scope::Named));
        bench.on(Event::Credit(SessionKey(session), 1));
    }
    bench.head_for(&[1], 1, 1, Head { cost: 5, ..head(0) });
    bench.head_for(&[2], 2, 2, Head { cost: 10, ..head(0) });
    bench.head_for(&[1], 3, 3, Head { cost: 1, ..head(0) });
    // 2 waits at the gate, and 3 behind it for its session.
    assert_eq!(served(&mut bench), [(1, 1)]);
    bench.on(Event::Credit(SessionKey(1), 1));
    assert_eq!(served(&mut bench), []);
    bench.on(Event::Detached(SessionKey(2)));
    assert_eq!(served(&mut bench), [(3, 1)]);
}

#[test]
fn routes_are_forgotten_with_their_last_lite_topic() {
    let mut bench = bench_named(&[(1, 10), (2, 10)]);
    for lite in 0..5 {
        bench.head_for(&[1, 2], lite, lite, head(0));
        bench.on(Event::Emptied(LiteId(lite)));
    }
    assert_eq!(bench.scheduler.sessions.routes().count(), 0);
    bench.head_for(&[1], 7, 7, head(0));
    bench.on(Event::PolicyBound);
    let ask = bench.ask();
    bench.answer_all(&ask, answer(Verdict::Drop));
    bench.poll_all();
    assert_eq!(bench.scheduler.sessions.routes().count(), 0);
}

#[test]
fn a_tenants_lite_topics_are_served_in_turn_whatever_their_routes() {
    let mut bench = Bench::new(Quotas::default(), UNBOUNDED).with_session(9, 100);
    // Two lite topics of one tenant in each of two routes.
    for lite in 0..4 {
        bench.head_for(&[lite / 2], 50, lite, head(0));
    }
    let mut served = Vec::new();
    for offset in 1..9 {
        let delivery = bench.deliver_one();
        bench.ack(delivery);
        bench.head_for(&[delivery.lite / 2], 50, delivery.lite, head(offset));
        served.push(delivery.lite);
    }
    assert_eq!(served, [0, 2, 1, 3, 0, 2, 1, 3]);
}

#[test]
fn a_tenant_whose_lite_topic_changes_hands_keeps_what_it_owes() {
    let mut bench = Bench::new(Quotas::default(), UNBOUNDED).with_session(9, 100);
    bench.head_for(&[1], 1, 1, Head { cost: 100, ..head(0) });
    let dear = bench.deliver_one();
    bench.ack(dear);
    bench.head_for(&[2], 1, 1, head(1));
    bench.head_for(&[2], 2, 2, head(0));
    assert_eq!(served(&mut bench), [(2, 9), (1, 9)]);
}

#[test]
fn a_finish_tag_that_its_clock_passed_does_not_count_in_a_slower_route() {
    let mut bench = bench_named(&[(1, 0), (2, 100)]);
    // Tenant 1 is served where the clock goes on, by a session that also serves a route in which nothing is picked.
    bench.head_for(&[2], 1, 1, Head { cost: 50, ..head(0) });
    let dear = bench.deliver_one();
    bench.ack(dear);
    bench.head_for(&[2, 3], 2, 2, Head { cost: 100, ..head(0) });
    for offset in 1..3 {
        let delivery = bench.deliver_one();
        bench.ack(delivery);
        bench.head_for(&[2, 3], 2, 2, Head { cost: 100, ..head(offset) });
    }
    bench.head_for(&[1], 4, 4, head(0));
    bench.head_for(&[1], 1, 5, head(0));
    bench.head_for(&[1], 3, 3, head(0));
    bench.on(Event::Credit(SessionKey(1), 3));
    let order: Vec<u64> =
        served(&mut bench).into_iter().filter(|&(_, session)| session == 1).map(|row| row.0).collect();
    assert_eq!(order, [4, 5, 3]);
}

#[test]
fn a_tenant_goes_with_the_route_of_its_last_lite_topic() {
    let mut bench = bench_named(&[]);
    let (lite, tenant) = (LiteId(1), TenantId(1));
    let charge = Charge { cost: 1, band: 4, weight: 1 };
    // From before a restart: who served it is not known, so nothing of the lite topic is remembered.
    bench.on(Event::Leased { lite, tenant, charge });
    let ending = Ending::done(None, Duration::ZERO);
    bench.on(Event::Settled { lite, charge, ending });
    assert_eq!(bench.scheduler.tenants.find(tenant), None);
}

/// Tells the next message of whatever was served last, for the session that serves it.
fn go_on(bench: &mut Bench, delivery: Delivery) {
    bench.ack(delivery);
    bench.head_for(&[delivery.session], delivery.tenant, delivery.lite, head(delivery.offset + 1));
}

#[test]
fn a_lite_topic_that_comes_from_a_session_far_ahead_waits_for_no_more_than_one_turn_of_the_others() {
    for lites in [vec![1], vec![1, 4]] {
        let mut bench = bench_named(&[(1, 1_000), (2, 0)]);
        for &lite in &lites {
            bench.head_for(&[1], 1, lite, head(0));
        }
        for _ in 0..1_000 {
            let delivery = bench.deliver_one();
            go_on(&mut bench, delivery);
        }
        for other in [2, 3] {
            bench.head_for(&[2], other, other, head(0));
        }
        // Session 1 hands over to session 2, one lite topic after the other.
        for &lite in &lites {
            bench.head_for(&[2], 1, lite, head(1_000));
        }
        bench.on(Event::Credit(SessionKey(2), 6));
        let mut tenants = Vec::new();
        while let Some(decision) = bench.poll() {
            let delivery = super::bench::delivery(decision);
            go_on(&mut bench, delivery);
            tenants.push(delivery.tenant);
        }
        assert_eq!(tenants[..2], [2, 3], "tenant 1 had the last turn of all");
        assert_eq!(tenants.iter().filter(|&&tenant| tenant == 1).count(), 2, "{tenants:?}");
    }
}

#[test]
fn routes_without_a_common_session_share_a_scarce_quota_whatever_they_were_served_before() {
    let quotas = Quotas { messages: Some(rate("10/s burst 1")), cost: None };
    let mut bench = Bench::new(quotas, UNBOUNDED);
    for session in [1, 2] {
        bench.on(Event::Attached(SessionKey(session), Scope::Named));
        bench.head_for(&[session], session, session, head(0));
    }
    let mut served = HashMap::new();
    let mut run = |bench: &mut Bench, seconds: u64, slow: u32| {
        served.clear();
        for _ in 0..seconds {
            bench.on(Event::Credit(SessionKey(1), 10));
            bench.on(Event::Credit(SessionKey(2), slow));
            for _ in 0..10 {
                bench.advance(millis(100));
                while let Some(decision) = bench.poll() {
                    let delivery = super::bench::delivery(decision);
                    go_on(bench, delivery);
                    *served.entry(delivery.session).or_insert(0) += 1;
                }
            }
        }
        served.clone()
    };
    // Session 2 takes one a second, for long; then as many as session 1.
    let slow = run(&mut bench, 200, 1);
    assert_eq!((slow[&1], slow[&2]), (1_800, 200));
    let equal = run(&mut bench, 10, 10);
    assert_eq!((equal[&1], equal[&2]), (50, 50));
}
