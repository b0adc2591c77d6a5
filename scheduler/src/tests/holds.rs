//! Holds and timers.

use super::bench::{bench, head, millis};
use crate::{Event, Head, HoldSource};
use sluicegate_protocol::LiteId;

#[test]
fn a_suspended_lite_topic_returns_after_its_deadline_and_not_before() {
    let mut bench = bench();
    bench.head(1, head(0));
    bench.hold(1, HoldSource::Settle, millis(50));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(millis(50))));
    bench.advance(millis(49));
    assert_eq!(bench.poll(), None);
    bench.advance(millis(1));
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn the_last_hold_to_end_counts() {
    let mut bench = bench();
    bench.hold(1, HoldSource::Settle, millis(50));
    bench.hold(1, HoldSource::Operator, millis(80));
    bench.hold(1, HoldSource::Retry, millis(20));
    bench.head(1, Head { deliver_at: Some(bench.now.plus(millis(90))), ..head(0) });
    bench.advance(millis(89));
    assert_eq!(bench.poll(), None);
    bench.advance(millis(1));
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn a_source_replaces_its_own_deadline() {
    let mut bench = bench();
    bench.head(1, head(0));
    bench.hold(1, HoldSource::Operator, millis(80));
    bench.hold(1, HoldSource::Operator, millis(10));
    bench.advance(millis(10));
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn resume_ends_one_sources_hold_or_all() {
    let mut bench = bench();
    bench.head(1, head(0));
    bench.hold(1, HoldSource::Operator, millis(80));
    bench.hold(1, HoldSource::Settle, millis(40));
    bench.on(Event::Resumed { lite: LiteId(1), source: Some(HoldSource::Operator) });
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(millis(40))));
    bench.on(Event::Resumed { lite: LiteId(1), source: None });
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn resume_does_not_deliver_before_its_time() {
    let mut bench = bench();
    bench.head(1, Head { deliver_at: Some(bench.now.plus(millis(5))), ..head(0) });
    bench.on(Event::Resumed { lite: LiteId(1), source: None });
    assert_eq!(bench.poll(), None);
}

#[test]
fn a_hold_without_messages_is_kept_until_it_ends_and_then_forgotten() {
    let mut bench = bench();
    bench.hold(1, HoldSource::Operator, millis(30));
    assert_eq!(bench.scheduler.stats().held, 1);
    bench.advance(millis(30));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.lites.iter().count(), 0);
}

#[test]
fn a_hold_stops_new_deliveries_only() {
    let mut bench = bench();
    bench.head(1, head(0));
    let first = bench.deliver_one();
    bench.hold(1, HoldSource::Operator, millis(30));
    bench.head(1, head(1));
    bench.ack(first);
    assert_eq!(bench.poll(), None);
    bench.advance(millis(30));
    assert_eq!(bench.deliver_one().offset, 1);
}

#[test]
fn many_holds_that_end_together_are_ended_in_portions_and_none_is_forgotten() {
    let mut bench = bench();
    for lite in 0..5_000 {
        bench.head(lite, head(0));
        bench.hold(lite, HoldSource::Operator, millis(10));
    }
    bench.advance(millis(10));
    let mut delivered = 0;
    let mut rounds = 0;
    while bench.scheduler.stats().held > 0 {
        let before = bench.scheduler.stats().held;
        assert_eq!(bench.scheduler.next_timeout(), Some(bench.now));
        delivered += usize::from(bench.scheduler.poll(bench.now).is_some());
        assert_eq!(before.min(256), before - bench.scheduler.stats().held);
        rounds += 1;
    }
    assert_eq!(rounds, 20);
    delivered += bench.deliveries().len();
    assert_eq!(delivered, 5_000);
}
