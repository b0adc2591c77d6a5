//! Each rule finds what breaks it, and nothing in a history that is as it should be.

use sluicegate_client::admin::ConcurrencySettings;
use sluicegate_client::{SettleError, Timestamp};
use sluicegate_protocol::LeaseToken;

use super::{broken_so_far, unaccounted};
use crate::history::{Delivered, End, Ended, Hold, Life, Record, Session, Source, Span, Subscribed};

fn span(after: u64, before: u64) -> Span {
    Span { after: Timestamp(after), before: Timestamp(before) }
}

/// A lease of one lite topic from `at` until 100 later, and how its holder ended it 10 to 20 after its beginning.
fn lease(offset: u64, attempt: u32, at: u64, ended: Ended) -> Delivered {
    Delivered {
        place: (0, offset),
        body: Some(format!("m{offset}")),
        session: 0,
        attempt,
        at: Timestamp(at),
        deadline: Timestamp(at + 100),
        cost: 1,
        tenant: "tenant".into(),
        token: Some(LeaseToken { epoch: 1, counter: at }),
        ended: Some((span(at + 10, at + 20), ended)),
    }
}

fn done() -> Ended {
    Ended::Settled(End::Ack, Ok(()))
}

/// Two messages, one after the other; the first is tried twice.
fn good() -> Record {
    let retried = Ended::Settled(End::Retry(None), Ok(()));
    Record {
        max_attempts: 3,
        lites: vec![Life { name: "lite".into(), over: None }],
        published: [((0, 0), "m0".to_owned()), ((0, 1), "m1".to_owned())].into(),
        sessions: vec![Session { subscriptions: vec![Subscribed::all()] }],
        concurrency: vec![(Span::exact(Timestamp(0)), ConcurrencySettings::default())],
        deliveries: vec![lease(0, 1, 1_000, retried), lease(0, 2, 1_050, done()), lease(1, 1, 1_100, done())],
        ..Record::default()
    }
}

fn breaks(change: impl FnOnce(&mut Record)) -> String {
    let mut record = good();
    change(&mut record);
    broken_so_far(&record).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn a_history_as_it_should_be_breaks_nothing() {
    assert_eq!(breaks(|_| {}), "");
}

#[test]
fn each_promise_that_is_broken_is_named() {
    let told = |change: fn(&mut Record), what: &str| {
        let breaks = breaks(change);
        assert!(breaks.contains(what), "no `{what}` in: {breaks}");
    };
    told(|record| record.deliveries[1].body = Some("m7".into()), "has the body m7, not m0");
    told(|record| record.deliveries.push(lease(1, 1, 1_200, done())), "although it was settled before");
    told(|record| record.deliveries[2].at = Timestamp(1_040), "came before offset 0, which waited");
    told(|record| record.deliveries[1].attempt = 1, "2 to 2 expected");
    told(|record| record.deliveries[1].attempt = 4, "is beyond 3 attempts");
    told(|record| record.deliveries[0].attempt = 2, "is the first delivery");
    told(|record| record.deliveries[1].at = Timestamp(1_005), "was leased");
    told(|record| record.deliveries[1].token = record.deliveries[0].token, "not above the one before");
    told(|record| record.deliveries[2].at = Timestamp(1_055), "1 leases open in its lite topic, 1 allowed");
    told(
        |record| {
            let (from, until) = (Timestamp(1_030), Timestamp(1_060));
            record.holds.push(Hold { lite: 0, source: Source::Operator, from, until });
        },
        "in the Operator hold",
    );
    told(|record| record.pauses.push((Timestamp(1_090), Timestamp(1_110))), "while the group was paused");
    told(|record| record.sessions[0].subscriptions.clear(), "who did not subscribe");
    told(|record| record.lites[0].over = Some(span(1_060, 1_080)), "although it was settled before");
}

#[test]
fn a_power_cut_takes_back_what_nobody_was_told_and_nothing_else() {
    let cut = |record: &mut Record| {
        record.cuts.push(span(1_030, 1_040));
        record.restarts.push(span(1_030, 1_040));
    };
    let forgotten = breaks(|record| {
        cut(record);
        record.deliveries[0].ended = Some((span(1_030, 1_040), Ended::Forgotten));
        record.deliveries[1].attempt = 1;
    });
    assert_eq!(forgotten, "");
    let retry_taken_back = breaks(|record| {
        cut(record);
        record.deliveries[1].attempt = 1;
    });
    assert!(retry_taken_back.contains("2 to 2 expected"), "{retry_taken_back}");
    let unheard = breaks(|record| {
        record.deliveries[0].ended = Some((span(1_010, 1_020), Ended::Settled(End::Ack, Err(SettleError::Unknown))));
        record.deliveries[1].attempt = 1;
    });
    assert_eq!(unheard, "");
}

#[test]
fn what_nobody_settled_is_lost_unless_an_operator_deleted_its_lite_topic() {
    let told = |change: fn(&mut Record)| {
        let mut record = good();
        record.published.insert((0, 2), "m2".into());
        change(&mut record);
        unaccounted(&record).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert!(told(|_| {}).contains("lite@2: lost"), "{}", told(|_| {}));
    let deleted = told(|record| record.lites[0].over = Some(span(2_000, 2_010)));
    assert!(!deleted.contains("lost"), "{deleted}");
}
