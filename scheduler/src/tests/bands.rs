//! Priority bands and turns.

use super::bench::{bench, head};
use crate::{Ending, Event, Head};
use sluicegate_protocol::LiteId;

#[test]
fn a_higher_priority_is_served_first() {
    let mut bench = bench();
    for (lite, priority) in [(1, 0), (2, 9), (3, 4), (4, 9)] {
        bench.head(lite, Head { priority, ..head(0) });
    }
    assert_eq!(bench.delivered_lites(), [2, 4, 3, 1]);
}

#[test]
fn every_twentieth_dispatch_goes_to_the_lower_bands_in_turn() {
    let mut bench = bench();
    for lite in 0..200 {
        bench.head(lite, Head { priority: 9, ..head(0) });
    }
    for (lite, priority) in [(1_000, 5), (1_001, 2), (1_002, 2), (1_003, 0), (1_004, 5)] {
        bench.head(lite, Head { priority, ..head(0) });
    }
    let order = bench.delivered_lites();
    let turns: Vec<(usize, u64)> = order.iter().copied().enumerate().filter(|&(_, lite)| lite >= 1_000).collect();
    assert_eq!(turns, [(19, 1_000), (39, 1_001), (59, 1_003), (79, 1_004), (99, 1_002)]);
}

#[test]
fn no_turn_is_counted_while_nothing_lower_waits() {
    let mut bench = bench();
    for lite in 0..100 {
        bench.head(lite, Head { priority: 9, ..head(0) });
    }
    for _ in 0..50 {
        bench.deliver_one();
    }
    bench.head(1_000, Head { priority: 1, ..head(0) });
    let order = bench.delivered_lites();
    assert_eq!(order.iter().position(|&lite| lite == 1_000), Some(19));
}

#[test]
fn a_new_head_moves_the_lite_topic_to_its_band() {
    let mut bench = bench();
    bench.head(1, Head { priority: 3, ..head(1) });
    bench.head(2, Head { priority: 4, ..head(0) });
    bench.head(1, Head { priority: 5, ..head(0) });
    assert_eq!(bench.delivered_lites(), [1, 2]);
}

#[test]
fn a_head_that_is_named_twice_keeps_its_turn() {
    let mut bench = bench();
    bench.head_of(1, 1, head(0));
    bench.head_of(1, 2, head(0));
    bench.head_of(1, 1, head(0));
    assert_eq!(bench.scheduler.stats().waiting, 2);
    assert_eq!(bench.delivered_lites(), [1, 2]);
}

#[test]
fn an_emptied_lite_topic_is_not_served() {
    let mut bench = bench();
    bench.head(1, head(0));
    bench.on(Event::Emptied(LiteId(1)));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().backlog, 0);
    assert_eq!(bench.scheduler.lites.iter().count(), 0);
    assert_eq!(bench.scheduler.tenants.iter().count(), 0);
}

#[test]
fn running_work_is_settled_without_a_trace() {
    let mut bench = bench();
    bench.head(1, head(0));
    let delivery = bench.deliver_one();
    bench.settle(delivery, Ending::Returned);
    bench.on(Event::Detached(crate::SessionKey(1)));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().in_flight, 0);
}
