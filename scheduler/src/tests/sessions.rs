//! Which session gets a delivery.

use super::bench::{Bench, UNBOUNDED, head};
use crate::{Event, Quotas, SessionKey};
use sluicegate_protocol::limits::CREDIT_MESSAGES_MAX;

fn bench() -> Bench {
    Bench::new(Quotas::default(), UNBOUNDED)
}

fn sessions_of(bench: &mut Bench) -> Vec<u64> {
    bench.deliveries().into_iter().map(|delivery| delivery.session).collect()
}

#[test]
fn nothing_is_delivered_without_credit() {
    let mut bench = bench().with_session(1, 0);
    bench.head(1, head(0));
    bench.head(2, head(0));
    assert_eq!(bench.poll(), None);
    bench.on(Event::Credit(SessionKey(1), 1));
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn the_session_that_served_a_lite_topic_last_is_preferred() {
    let mut bench = bench().with_session(1, 100).with_session(2, 50);
    bench.head(1, head(0));
    let first = bench.deliver_one();
    assert_eq!(first.session, 1);
    bench.ack(first);
    bench.on(Event::Load(SessionKey(1), 900_000));
    bench.head(2, head(0));
    bench.head(1, head(1));
    assert_eq!(sessions_of(&mut bench), [2, 1]);
}

#[test]
fn then_lowest_load_then_most_credit_then_longest_idle() {
    let mut bench = bench().with_session(1, 5).with_session(2, 5).with_session(3, 7);
    bench.on(Event::Load(SessionKey(3), 10));
    for lite in 0..5 {
        bench.head(lite, head(0));
    }
    // Equal credit: 1 is idle for longer; then 2 has more; and so on.
    assert_eq!(sessions_of(&mut bench), [1, 2, 1, 2, 1]);
    bench.on(Event::Load(SessionKey(1), 20));
    bench.on(Event::Load(SessionKey(2), 20));
    bench.head(10, head(0));
    assert_eq!(sessions_of(&mut bench), [3]);
}

#[test]
fn a_detached_session_gets_nothing_more() {
    let mut bench = bench().with_session(1, 5).with_session(2, 1);
    bench.on(Event::Detached(SessionKey(1)));
    bench.on(Event::Credit(SessionKey(1), 5));
    bench.head(1, head(0));
    bench.head(2, head(0));
    assert_eq!(sessions_of(&mut bench), [2]);
}

#[test]
fn credit_saturates() {
    let mut bench = bench().with_session(1, u32::MAX);
    bench.on(Event::Credit(SessionKey(1), u32::MAX));
    assert_eq!(bench.scheduler.sessions.credit(), u64::from(CREDIT_MESSAGES_MAX));
}
