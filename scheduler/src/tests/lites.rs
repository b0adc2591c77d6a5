//! Order and concurrency per lite topic, tenant and group.

use super::bench::{Bench, UNBOUNDED, bench, head, rate};
use crate::{Charge, Concurrency, Decision, Event, Head, Quotas, SessionKey};
use sluicegate_protocol::{LiteId, Offset, TenantId};

fn bench_with(concurrency: Concurrency) -> Bench {
    Bench::new(Quotas::default(), concurrency).with_session(1, 1_000)
}

#[test]
fn one_message_after_the_other_at_concurrency_one() {
    let mut bench = bench();
    bench.head(1, head(0));
    let first = bench.deliver_one();
    bench.head(1, head(1));
    assert_eq!(bench.poll(), None);
    bench.ack(first);
    assert_eq!(bench.deliver_one().offset, 1);
}

#[test]
fn lite_concurrency_bounds_open_leases_and_keeps_the_session() {
    let mut bench = bench_with(Concurrency { lite: 2, ..UNBOUNDED }).with_session(2, 1_000);
    bench.head(1, head(0));
    let first = bench.deliver_one();
    bench.head(1, head(1));
    let second = bench.deliver_one();
    assert_eq!(first.session, second.session);
    bench.head(1, head(2));
    assert_eq!(bench.poll(), None);
    bench.ack(first);
    assert_eq!(bench.deliver_one().session, second.session);
}

#[test]
fn a_lite_topic_waits_for_room_in_its_session_without_blocking_others() {
    let mut bench =
        Bench::new(Quotas::default(), Concurrency { lite: 2, ..UNBOUNDED }).with_session(1, 1).with_session(2, 0);
    bench.head_of(7, 1, head(0));
    assert_eq!(bench.deliver_one().session, 1);
    bench.on(Event::Credit(SessionKey(2), 5));
    bench.head_of(7, 1, head(1));
    bench.head_of(7, 2, head(0));
    assert_eq!(bench.delivered_lites(), [2]);
    bench.on(Event::Credit(SessionKey(1), 1));
    let delivery = bench.deliver_one();
    assert_eq!((delivery.lite, delivery.session), (1, 1));
}

#[test]
fn a_parked_lite_topic_goes_on_elsewhere_when_its_leases_end() {
    let mut bench =
        Bench::new(Quotas::default(), Concurrency { lite: 2, ..UNBOUNDED }).with_session(1, 1).with_session(2, 0);
    bench.head(1, head(0));
    let first = bench.deliver_one();
    bench.on(Event::Credit(SessionKey(2), 5));
    bench.head(1, head(1));
    bench.on(Event::Detached(SessionKey(1)));
    assert_eq!(bench.poll(), None);
    bench.ack(first);
    assert_eq!(bench.deliver_one().session, 2);
}

#[test]
fn a_tenant_at_its_concurrency_leaves_the_queue_until_a_lease_ends() {
    let mut bench = bench_with(Concurrency { tenant: 2, ..UNBOUNDED });
    for lite in 1..=3 {
        bench.head_of(10, lite, head(0));
    }
    bench.head_of(20, 9, head(0));
    let deliveries = bench.deliveries();
    assert_eq!(deliveries.iter().map(|delivery| delivery.lite).collect::<Vec<_>>(), [1, 9, 2]);
    bench.ack(deliveries[0]);
    assert_eq!(bench.delivered_lites(), [3]);
}

#[test]
fn group_concurrency_bounds_all() {
    let mut bench = bench_with(Concurrency { group: 2, ..UNBOUNDED });
    for lite in 1..=3 {
        bench.head(lite, head(0));
    }
    let deliveries = bench.deliveries();
    assert_eq!(deliveries.len(), 2);
    bench.ack(deliveries[1]);
    assert_eq!(bench.delivered_lites(), [3]);
}

#[test]
fn a_raised_concurrency_counts_at_once_and_a_lowered_one_for_new_deliveries() {
    let mut bench = bench_with(Concurrency { group: 9, tenant: 1, lite: 1 });
    bench.head_of(5, 1, head(0));
    let first = bench.deliver_one();
    bench.head_of(5, 1, head(1));
    bench.head_of(5, 2, head(0));
    assert_eq!(bench.poll(), None);
    bench.on(Event::Concurrency(Concurrency { group: 9, tenant: 3, lite: 2 }));
    let raised = bench.deliveries();
    assert_eq!(raised.len(), 2);
    bench.head_of(5, 3, head(0));
    bench.on(Event::Concurrency(Concurrency { group: 9, tenant: 1, lite: 1 }));
    assert_eq!(bench.poll(), None);
    bench.ack(first);
    bench.ack(raised[0]);
    assert_eq!(bench.poll(), None);
    bench.ack(raised[1]);
    assert_eq!(bench.delivered_lites(), [3]);
}

#[test]
fn leases_from_before_a_restart_count() {
    let mut bench = bench_with(Concurrency { tenant: 1, ..UNBOUNDED });
    let charge = Charge { cost: 1, band: 4, weight: 1 };
    bench.on(Event::Leased { lite: LiteId(1), tenant: TenantId(5), charge });
    bench.head_of(5, 1, head(1));
    bench.head_of(5, 2, head(0));
    assert_eq!(bench.poll(), None);
    let ending = crate::Ending::done(None, std::time::Duration::ZERO);
    bench.on(Event::Settled { lite: LiteId(1), charge, ending });
    assert_eq!(bench.deliver_one().lite, 2);
}

#[test]
fn an_expired_head_is_never_delivered_and_costs_nothing() {
    let quotas = Quotas { messages: Some(rate("1/h")), cost: None };
    let mut bench = Bench::new(quotas, UNBOUNDED).with_session(1, 10);
    bench.head(1, Head { expires_at: Some(bench.now), ..head(0) });
    bench.head(2, head(0));
    assert_eq!(bench.poll(), Some(Decision::Expired { lite: LiteId(1), offset: Offset(0) }));
    assert_eq!(bench.delivered_lites(), [2]);
}

#[test]
fn nothing_is_delivered_while_paused() {
    let mut bench = bench();
    bench.on(Event::Paused);
    bench.head(1, head(0));
    assert_eq!(bench.poll(), None);
    bench.on(Event::Unpaused);
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn a_tenant_and_its_finish_tag_are_forgotten_once_the_clock_passed() {
    let mut bench = bench();
    bench.head(1, head(0));
    let first = bench.deliver_one();
    bench.ack(first);
    for offset in 0..10 {
        bench.head(2, head(offset));
        let delivery = bench.deliver_one();
        bench.ack(delivery);
    }
    // The entries themselves are remembered for the session that served them; let them go.
    assert_eq!(bench.scheduler.lites.iter().count(), 2);
    let flows = |tenant: u64| {
        let key = bench.scheduler.tenants.find(TenantId(tenant)).unwrap();
        bench.scheduler.bands.flows_of(&bench.scheduler.tenants, key).len()
    };
    assert_eq!((flows(1), flows(2)), (0, 1));
}

#[test]
fn the_last_lite_topic_takes_its_route_its_flow_and_its_tenant_with_it() {
    let mut bench = bench();
    let charge = Charge { cost: 5, band: 4, weight: 1 };
    bench.on(Event::Leased { lite: LiteId(1), tenant: TenantId(1), charge });
    let ending = crate::Ending::done(None, std::time::Duration::ZERO);
    bench.on(Event::Settled { lite: LiteId(1), charge, ending });
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.lites.iter().count(), 0);
    assert_eq!(bench.scheduler.tenants.iter().count(), 0);
    assert_eq!(bench.scheduler.sessions.routes().count(), 0);
}

#[test]
fn memory_of_idle_lite_topics_is_bounded() {
    let mut bench = bench();
    for lite in 0..20_000 {
        bench.head(lite, head(0));
        let delivery = delivery_of(&mut bench);
        bench.ack(delivery);
    }
    assert_eq!(bench.scheduler.lites.iter().count(), 16_384);
}

/// Without the checks of [`Bench::poll`], which look at all entries.
fn delivery_of(bench: &mut Bench) -> super::bench::Delivery {
    super::bench::delivery(bench.scheduler.poll(bench.now).unwrap())
}
