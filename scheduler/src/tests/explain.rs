//! Why a lite topic waits.

use sluicegate_protocol::LiteId;

use super::bench::{Bench, UNBOUNDED, answer, bench, head, millis, rate};
use crate::{Blocker, Bucket, Concurrency, Event, Head, HoldSource, Quotas, Rank, Scope, SessionKey, Verdict};

fn blockers(bench: &Bench, lite: u64) -> Vec<Blocker> {
    bench.scheduler.explain(bench.now, LiteId(lite)).unwrap().blockers
}

#[test]
fn what_is_not_known_has_nothing_to_explain() {
    assert_eq!(bench().scheduler.explain(super::bench::START, LiteId(1)), None);
}

#[test]
fn what_is_next_has_no_blocker_and_starts_now() {
    let mut bench = bench();
    bench.head(1, head(0));
    let explanation = bench.scheduler.explain(bench.now, LiteId(1)).unwrap();
    assert_eq!((explanation.blockers, explanation.estimated_start), (vec![], Some(bench.now)));
    assert_eq!(
        (explanation.rank_in_tenant, explanation.rank_in_band),
        (Some(Rank::Exactly(0)), Some(Rank::Exactly(0)))
    );
}

#[test]
fn every_hold_is_named_with_its_end_the_last_first() {
    let mut bench = bench();
    bench.head(1, Head { deliver_at: Some(bench.now.plus(millis(20))), ..head(0) });
    bench.hold(1, HoldSource::Settle, millis(10));
    bench.hold(1, HoldSource::Operator, millis(30));
    let at = |wait| bench.now.plus(millis(wait));
    let expected = [
        Blocker::Held(HoldSource::Operator, at(30)),
        Blocker::DeliverAt(at(20)),
        Blocker::Held(HoldSource::Settle, at(10)),
    ];
    assert_eq!(blockers(&bench, 1), expected);
    assert_eq!(bench.scheduler.explain(bench.now, LiteId(1)).unwrap().estimated_start, Some(at(30)));
}

#[test]
fn the_quota_says_which_bucket_is_how_short_and_until_when() {
    let quotas = Quotas { messages: Some(rate("1000/s")), cost: Some(rate("10/s burst 10")) };
    let mut bench = Bench::new(quotas, UNBOUNDED).with_session(1, 10);
    bench.head(1, Head { cost: 8, ..head(0) });
    bench.head(2, Head { cost: 7, ..head(0) });
    bench.head(3, head(0));
    bench.deliver_one();
    let since = bench.now;
    assert_eq!(bench.poll(), None);
    bench.advance(millis(100));
    let until = since.plus(millis(500));
    let gate = Blocker::Quota { bucket: Bucket::Cost, short: 4, since, until };
    assert_eq!(blockers(&bench, 2), [gate]);
    assert_eq!(blockers(&bench, 3), [gate, Blocker::Turn]);
}

#[test]
fn concurrency_is_named_at_each_level() {
    let mut bench = Bench::new(Quotas::default(), Concurrency { group: 2, tenant: 1, lite: 1 }).with_session(1, 10);
    bench.head_of(7, 1, head(0));
    bench.deliver_one();
    bench.head_of(7, 1, head(1));
    bench.head_of(7, 2, head(0));
    assert_eq!(blockers(&bench, 1), [Blocker::LiteConcurrency(1), Blocker::TenantConcurrency(1)]);
    assert_eq!(blockers(&bench, 2), [Blocker::TenantConcurrency(1), Blocker::Turn]);
    bench.head_of(8, 3, head(0));
    bench.deliver_one();
    bench.head_of(9, 4, head(0));
    assert_eq!(blockers(&bench, 4), [Blocker::GroupConcurrency(2)]);
}

#[test]
fn a_missing_consumer_and_a_full_one_are_told_apart() {
    let mut bench = Bench::new(Quotas::default(), UNBOUNDED);
    bench.head_for(&[1], 1, 1, head(0));
    bench.on(Event::Attached(SessionKey(2), Scope::Named));
    bench.on(Event::Credit(SessionKey(2), 5));
    assert_eq!(blockers(&bench, 1), [Blocker::NoSession]);
    bench.on(Event::Attached(SessionKey(1), Scope::Named));
    assert_eq!(blockers(&bench, 1), [Blocker::NoCredit]);
    bench.on(Event::Credit(SessionKey(1), 1));
    assert_eq!(blockers(&bench, 1), []);
}

#[test]
fn the_policy_is_quoted() {
    let mut bench = bench();
    bench.on(Event::PolicyBound);
    bench.head(1, head(0));
    let ask = bench.ask();
    assert_eq!(blockers(&bench, 1), [Blocker::Asking(Some(bench.now))]);
    bench.answer_all(&ask, answer(Verdict::Throttle(millis(40))));
    let explanation = bench.scheduler.explain(bench.now, LiteId(1)).unwrap();
    assert_eq!(explanation.blockers, [Blocker::Throttled(bench.now.plus(millis(40)))]);
    let said = explanation.said.unwrap();
    assert_eq!((said.verdict, said.reason), (Verdict::Throttle(millis(40)), 3));
}

#[test]
fn ranks_are_counted_in_the_tenant_and_in_the_band_and_time_is_estimated_from_the_pace() {
    let mut bench = bench();
    for lite in 0..9 {
        bench.head_of(lite % 3, lite, head(0));
    }
    for _ in 0..3 {
        bench.advance(millis(10));
        bench.deliver_one();
    }
    let explanation = bench.scheduler.explain(bench.now, LiteId(8)).unwrap();
    assert_eq!(
        (explanation.rank_in_tenant, explanation.rank_in_band),
        (Some(Rank::Exactly(1)), Some(Rank::Exactly(2)))
    );
    // Two tenants before its own, and a round of three for the one before it in its tenant.
    assert_eq!(explanation.estimated_start, Some(bench.now.plus(millis(50))));
}

#[test]
fn a_rank_beyond_ten_thousand_is_not_counted_further() {
    let mut bench = bench();
    for lite in 0..=20_000 {
        bench.head_of(1, lite, head(0));
    }
    let rank = |lite| bench.scheduler.explain(bench.now, LiteId(lite)).unwrap().rank_in_tenant;
    assert_eq!((rank(10_000), rank(10_001)), (Some(Rank::Exactly(10_000)), Some(Rank::MoreThan(10_000))));
}

#[test]
fn the_oldest_waiters_are_those_whose_heads_were_published_first() {
    let mut bench = bench();
    for (lite, age) in [(1, 5), (2, 50), (3, 20), (4, 90)] {
        bench.head(lite, Head { published_at: bench.now.plus(millis(100 - age)), ..head(0) });
    }
    bench.hold(4, HoldSource::Operator, millis(1));
    let lites = |after| bench.scheduler.oldest_waiters(after).map(|(_, lite)| lite.0).collect::<Vec<_>>();
    assert_eq!(lites(None), [2, 3, 1]);
    assert_eq!(lites(bench.scheduler.oldest_waiters(None).next()), [3, 1]);
    assert_eq!(bench.scheduler.stats().oldest_wait, Some(bench.now.plus(millis(50))));
}
