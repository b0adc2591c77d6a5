//! Quotas: the gate, debts, refunds, changes, and the promise.

use std::time::Duration;

use proptest::prelude::*;
use sluicegate_protocol::Timestamp;

use super::bench::{Bench, UNBOUNDED, head, millis, rate};
use crate::{Ending, Event, Head, QuotaState, Quotas, Scheduler};

fn bench(messages: Option<&str>, cost: Option<&str>) -> Bench {
    let quotas = Quotas { messages: messages.map(rate), cost: cost.map(rate) };
    Bench::new(quotas, UNBOUNDED).with_session(1, 60_000)
}

fn costing(cost: u64) -> Head {
    Head { cost, ..head(0) }
}

#[test]
fn the_gate_closes_until_the_next_pick_can_be_paid() {
    let mut bench = bench(Some("10/s burst 2"), None);
    for lite in 1..=4 {
        bench.head(lite, head(0));
    }
    assert_eq!(bench.delivered_lites(), [1, 2]);
    assert_eq!(bench.scheduler.next_timeout(), Some(bench.now.plus(millis(100))));
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(millis(100))));
    bench.advance(Duration::from_micros(99_999));
    assert_eq!(bench.poll(), None);
    bench.advance(Duration::from_micros(1));
    assert_eq!(bench.delivered_lites(), [3]);
}

#[test]
fn nothing_in_its_band_or_below_overtakes_a_pick_that_waits() {
    let mut bench = bench(None, Some("100/s"));
    bench.head(1, costing(60));
    bench.head(2, costing(60));
    assert_eq!(bench.delivered_lites(), [1]);
    bench.head(3, costing(1));
    bench.head(4, Head { priority: 1, ..costing(1) });
    assert_eq!(bench.poll(), None);
    bench.advance(millis(200));
    assert_eq!(bench.delivered_lites(), [2]);
    bench.advance(millis(20));
    assert_eq!(bench.delivered_lites(), [3, 4]);
}

#[test]
fn a_newcomer_with_an_earlier_start_tag_does_not_overtake_it_either() {
    let mut bench = bench(None, Some("100/s"));
    bench.head_of(1, 1, costing(60));
    bench.head_of(1, 2, costing(60));
    assert_eq!(bench.delivered_lites(), [1]);
    bench.head_of(3, 3, costing(60));
    bench.advance(millis(200));
    assert_eq!(bench.delivered_lites(), [2]);
}

#[test]
fn an_arrival_in_a_higher_band_is_picked_anew() {
    let mut bench = bench(None, Some("100/s"));
    bench.head(1, costing(60));
    bench.head(2, costing(60));
    assert_eq!(bench.delivered_lites(), [1]);
    bench.head(3, Head { priority: 9, ..costing(10) });
    assert_eq!(bench.delivered_lites(), [3]);
    // The one that waited pays for what was let in before it, and is still the next.
    bench.head(4, costing(1));
    bench.advance(millis(300));
    assert_eq!(bench.delivered_lites(), [2]);
}

#[test]
fn a_pick_that_goes_away_opens_the_gate() {
    let mut bench = bench(None, Some("100/s"));
    bench.head(1, costing(60));
    bench.head(2, costing(60));
    bench.head(3, costing(1));
    assert_eq!(bench.delivered_lites(), [1]);
    bench.on(Event::Emptied(sluicegate_protocol::LiteId(2)));
    assert_eq!(bench.delivered_lites(), [3]);
}

#[test]
fn a_delivery_is_paid_from_both_buckets_or_from_none() {
    let mut bench = bench(Some("10/s"), Some("100/s"));
    bench.head(1, costing(100));
    assert_eq!(bench.delivered_lites(), [1]);
    let state = bench.scheduler.quota_state();
    bench.head(2, costing(50));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.quota_state(), state);
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(millis(500))));
}

#[test]
fn a_cost_above_the_burst_waits_for_a_full_bucket_and_leaves_a_debt() {
    let mut bench = bench(None, Some("10/s"));
    bench.head(1, costing(1));
    bench.head(2, costing(25));
    bench.head(3, costing(1));
    assert_eq!(bench.delivered_lites(), [1]);
    bench.advance(millis(100));
    assert_eq!(bench.delivered_lites(), [2]);
    assert_eq!(bench.scheduler.stats().debts, 1);
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(millis(1_600))));
}

#[test]
fn a_message_without_cost_passes_an_empty_cost_bucket() {
    let mut bench = bench(None, Some("1/h"));
    bench.head(1, costing(1));
    bench.head(2, costing(0));
    assert_eq!(bench.delivered_lites(), [1, 2]);
}

#[test]
fn a_measured_cost_above_the_estimate_is_owed_and_below_is_given_back() {
    let mut bench = bench(None, Some("10/s"));
    bench.head(1, costing(10));
    let first = bench.deliver_one();
    bench.settle(first, Ending::done(Some(15), millis(1)));
    bench.head(2, costing(5));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(millis(1_000))));
    bench.advance(millis(1_000));
    let second = bench.deliver_one();
    bench.head(3, costing(5));
    assert_eq!(bench.poll(), None);
    bench.settle(second, Ending::done(Some(0), millis(1)));
    assert_eq!(bench.delivered_lites(), [3]);
    assert_eq!((bench.scheduler.stats().refunds, bench.scheduler.stats().debts), (1, 1));
}

#[test]
fn a_refund_never_fills_the_bucket_above_its_burst() {
    let mut bench = bench(None, Some("10/s"));
    bench.head(1, costing(10));
    let first = bench.deliver_one();
    bench.advance(Duration::from_secs(5));
    bench.settle(first, Ending::done(Some(0), millis(1)));
    bench.head(2, costing(10));
    bench.head(3, costing(1));
    assert_eq!(bench.delivered_lites(), [2]);
}

#[test]
fn a_message_that_came_back_unused_is_refunded_in_both_buckets() {
    let mut bench = bench(Some("1/h"), Some("10/h"));
    bench.head(1, costing(10));
    let first = bench.deliver_one();
    bench.head(2, costing(10));
    assert_eq!(bench.poll(), None);
    bench.settle(first, Ending::Returned);
    assert_eq!(bench.delivered_lites(), [2]);
}

#[test]
fn a_changed_quota_keeps_what_is_owed_and_counts_at_once() {
    let mut bench = bench(None, Some("10/s"));
    bench.head(1, costing(10));
    bench.head(2, costing(1));
    assert_eq!(bench.delivered_lites(), [1]);
    bench.on(Event::Quotas(Quotas { messages: None, cost: Some(rate("1/s burst 10")) }));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(Duration::from_secs(1))));
    bench.on(Event::Quotas(Quotas { messages: None, cost: Some(rate("1000/s burst 10")) }));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(millis(1))));
    bench.on(Event::Quotas(Quotas::default()));
    assert_eq!(bench.delivered_lites(), [2]);
}

#[test]
fn a_quota_where_none_was_gives_no_burst() {
    let mut bench = bench(None, None);
    bench.on(Event::Quotas(Quotas { messages: Some(rate("10/s")), cost: None }));
    bench.head(1, head(0));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().gate, Some(bench.now.plus(millis(100))));
}

#[test]
fn a_restart_goes_on_with_the_saved_state_and_lost_state_starts_empty() {
    let quotas = Quotas { messages: Some(rate("10/s")), cost: None };
    let mut bench = bench(Some("10/s"), None);
    for lite in 0..10 {
        bench.head(lite, head(0));
    }
    assert_eq!(bench.delivered_lites().len(), 10);
    let saved = bench.scheduler.quota_state();
    assert_eq!(saved, QuotaState::empty(bench.now, quotas));
    bench.scheduler = Scheduler::new(bench.now, quotas, UNBOUNDED, Some(saved), 1);
    let mut bench = bench.with_session(1, 10);
    bench.head(1, head(0));
    assert_eq!(bench.poll(), None);
    bench.advance(millis(100));
    assert_eq!(bench.delivered_lites(), [1]);
}

#[test]
fn absurd_costs_and_debts_do_not_wrap() {
    let mut bench = bench(None, Some("1/h"));
    bench.head(1, costing(u64::MAX));
    let first = bench.deliver_one();
    bench.settle(first, Ending::done(Some(u64::MAX), millis(1)));
    bench.head(2, costing(1));
    assert_eq!(bench.poll(), None);
    assert_eq!(bench.scheduler.stats().in_flight, 0);
}

proptest! {
    /// In any window the reserved cost is at most burst + rate x window, and the gate never opens late: with work
    /// waiting, each pick is delivered at the first microsecond at which the bucket could pay it.
    #[test]
    fn reserved_cost_keeps_the_promise_in_every_window(
        units in 1u32..5_000,
        period in prop::sample::select(vec!["s", "min"]),
        burst in 1u32..200,
        costs in prop::collection::vec((1u64..200, 0u64..40_000), 1..60),
    ) {
        let rate: sluicegate_protocol::Rate = format!("{units}/{period} burst {burst}").parse().unwrap();
        let mut bench = Bench::new(Quotas { messages: None, cost: Some(rate) }, UNBOUNDED).with_session(1, 60_000);
        let mut taken: Vec<(Timestamp, u64)> = Vec::new();
        for (lite, (cost, pause_micros)) in (0..).zip(costs) {
            let cost = cost.min(u64::from(burst));
            bench.advance(Duration::from_micros(pause_micros));
            bench.head(lite, costing(cost));
            let mut got = bench.poll();
            if got.is_none() {
                let opens = bench.scheduler.next_timeout().unwrap();
                bench.now = Timestamp(opens.0 - 1);
                prop_assert_eq!(bench.poll(), None);
                bench.now = opens;
                got = bench.poll();
            }
            prop_assert!(got.is_some(), "the gate did not open when it said");
            taken.push((bench.now, cost));
        }
        for (first, &(from, _)) in taken.iter().enumerate() {
            let mut sum: u128 = 0;
            for &(to, cost) in &taken[first..] {
                sum += u128::from(cost);
                let window = to.since(from).as_nanos();
                let allowed = u128::from(burst) * rate.period().as_nanos() + u128::from(rate.units()) * window;
                prop_assert!(sum * rate.period().as_nanos() <= allowed, "{sum} units in {window} ns");
            }
        }
    }
}
