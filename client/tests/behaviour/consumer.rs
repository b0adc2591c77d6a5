//! Behaviour of a consumer against a peer that answers as each test tells it to.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::peer::{Peer, Stream};
use sluicegate_client::{
    ConsumeError, Consumer, ConsumerState, ErrorCode, GroupName, LiteId, Offset, Outcome, SessionId, SettleError,
    Timestamp,
};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use tokio::time::timeout;

/// The peer's clock at Welcome; it has nothing to do with ours.
const NOW_US: u64 = 1_000_000;
const LONG_US: u64 = 60_000_000;

fn welcome(held: Vec<wire::HeldLease>) -> wire::Welcome {
    wire::Welcome { lease_ms: 60_000, session_grace_ms: 15_000, held, now_us: NOW_US, ..Default::default() }
}

async fn connected(peer: &Peer, workers: u32) -> (Consumer, Stream) {
    let builder = peer.client().consumer(GroupName::parse("workers").unwrap()).workers(workers).session(SessionId(9));
    let connecting = tokio::spawn(builder.connect());
    let mut stream = peer.accept().await;
    stream.welcome(welcome(Vec::new())).await;
    (connecting.await.unwrap().unwrap(), stream)
}

fn token(counter: u64) -> wire::Token {
    wire::Token { epoch: 3, counter }
}

fn held(counter: u64) -> wire::HeldLease {
    wire::HeldLease {
        token: Some(token(counter)),
        lite: "a".into(),
        lite_id: 7,
        offset: counter,
        deadline_us: NOW_US + LONG_US,
    }
}

async fn deliver(stream: &mut Stream, counters: impl IntoIterator<Item = u64>, lease_us: u64) {
    let delivery = |counter: u64| wire::Delivery {
        token: Some(token(counter)),
        lite: "a".into(),
        lite_id: 7,
        offset: counter,
        attempt: 1,
        deadline_us: NOW_US + lease_us,
        published_at_us: 5,
        dispatched_at_us: 6,
        priority: 4,
        cost: 10,
        properties: [("model".into(), "small".into())].into(),
        body_bytes: u32::try_from(counter.to_string().len()).unwrap(),
        tenant: "t".into(),
        large_body_bytes: 0,
    };
    let deliveries: Vec<_> = counters.into_iter().map(delivery).collect();
    let bodies: String = deliveries.iter().map(|delivery| delivery.offset.to_string()).collect();
    stream.send(Frame::Deliveries(wire::Deliveries { deliveries }, bodies.into())).await;
}

async fn settle(stream: &mut Stream) -> wire::Settle {
    match stream.next().await {
        Frame::Settle(settle, ()) => settle,
        other => panic!("{other:?} is no settle"),
    }
}

async fn credit(stream: &mut Stream) -> u32 {
    match stream.next().await {
        Frame::Credit(credit, ()) => credit.messages,
        other => panic!("{other:?} is no credit"),
    }
}

async fn settled(stream: &mut Stream, sequence: u64, codes: impl IntoIterator<Item = u32>) {
    let results = codes.into_iter().map(|code| wire::SettleResult { code }).collect();
    stream.send(Frame::Settled(wire::Settled { sequence, results }, ())).await;
}

fn role(stream: &Stream) -> &wire::ConsumerRole {
    match &stream.hello.role {
        Some(wire::hello::Role::Consumer(role)) => role,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_delivery_carries_everything_that_the_broker_said() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 4).await;
    let expected = wire::ConsumerRole {
        group: "workers".into(),
        session_id: SessionId(9).to_bytes().to_vec(),
        credit_messages: 4,
        named: false,
    };
    assert_eq!(role(&stream), &expected);
    deliver(&mut stream, [11, 12], LONG_US).await;
    for counter in [11, 12] {
        let delivery = consumer.next().await.unwrap().unwrap();
        assert_eq!((delivery.lite(), delivery.lite_id(), delivery.offset()), ("a", LiteId(7), Offset(counter)));
        assert_eq!(delivery.body(), &counter.to_string());
        assert_eq!((delivery.attempt(), delivery.priority(), delivery.cost(), delivery.tenant()), (1, 4, 10, "t"));
        assert_eq!((delivery.published_at(), delivery.dispatched_at()), (Timestamp(5), Timestamp(6)));
        assert_eq!((delivery.deadline(), delivery.property("model")), (Timestamp(NOW_US + LONG_US), Some("small")));
    }
}

#[tokio::test]
async fn settles_are_batched_and_give_their_credit_back() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 300).await;
    deliver(&mut stream, 0..300, LONG_US).await;
    let mut settling = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let delivery = consumer.next().await.unwrap().unwrap();
        settling.spawn(delivery.ack());
    }
    let (mut settles, mut credits, mut frames) = (0, 0, 0);
    while settles < 300 || credits < 300 {
        match stream.next().await {
            Frame::Settle(settle, ()) => {
                assert!(settle.settles.len() <= 256);
                settles += settle.settles.len();
                settled(&mut stream, settle.sequence, settle.settles.iter().map(|_| 0)).await;
            }
            Frame::Credit(credit, ()) => credits += credit.messages,
            other => panic!("{other:?}"),
        }
        frames += 1;
    }
    assert_eq!((settles, credits), (300, 300));
    assert!(frames < 30, "{frames} frames for 300 settles");
    assert!(settling.join_all().await.into_iter().all(|result| result == Ok(())));
}

#[tokio::test]
async fn each_outcome_is_said_on_the_wire_and_its_result_comes_back() {
    use wire::settle_one::Outcome as Wire;
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 1).await;
    let outcomes = [
        (Outcome::Ack, Wire::Ack(wire::Ack {}), None),
        (Outcome::AckWithCost(77), Wire::Ack(wire::Ack {}), Some(77)),
        (Outcome::Retry(None), Wire::Retry(wire::Retry { delay_ms: None, upstream: false }), None),
        (
            Outcome::Retry(Some(Duration::from_secs(2))),
            Wire::Retry(wire::Retry { delay_ms: Some(2_000), upstream: false }),
            None,
        ),
        (Outcome::Suspend(Duration::from_secs(3)), Wire::Suspend(wire::Suspend { duration_ms: 3_000 }), None),
        (Outcome::DeadLetter("bad".into()), Wire::DeadLetter(wire::DeadLetter { reason: "bad".into() }), None),
    ];
    for (counter, (outcome, wire_outcome, cost)) in (1..).zip(outcomes) {
        deliver(&mut stream, [counter], LONG_US).await;
        let settling = tokio::spawn(consumer.next().await.unwrap().unwrap().settle(outcome));
        let sent = settle(&mut stream).await;
        let expected = wire::SettleOne {
            token: Some(token(counter)),
            lite_id: 7,
            offset: counter,
            cost,
            outcome: Some(wire_outcome),
        };
        assert_eq!((sent.sequence, sent.settles), (counter, vec![expected]));
        assert_eq!(credit(&mut stream).await, 1);
        settled(&mut stream, counter, [0]).await;
        assert_eq!(settling.await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn a_lost_lease_and_a_refused_settle_are_told_apart() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 2).await;
    deliver(&mut stream, [1, 2], LONG_US).await;
    let first = tokio::spawn(consumer.next().await.unwrap().unwrap().ack());
    let sent = settle(&mut stream).await;
    settled(&mut stream, sent.sequence, [ErrorCode::LeaseLost.number()]).await;
    assert_eq!(first.await.unwrap(), Err(SettleError::LeaseLost));
    assert_eq!(credit(&mut stream).await, 1);

    let second = tokio::spawn(consumer.next().await.unwrap().unwrap().ack());
    let sent = settle(&mut stream).await;
    let code = ErrorCode::InvalidArgument.number();
    let error = wire::Error { sequence: Some(sent.sequence), code, message: "no".into(), ..Default::default() };
    stream.send(Frame::Error(error, ())).await;
    let Err(SettleError::Refused(refusal)) = second.await.unwrap() else { panic!("refused") };
    assert_eq!(refusal.to_string(), "invalid_argument: no");
}

#[tokio::test]
async fn a_lease_is_extended_while_its_delivery_is_held() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 2).await;
    deliver(&mut stream, [1, 2], 200_000).await;
    let (_kept, dropped) = (consumer.next().await.unwrap().unwrap(), consumer.next().await.unwrap().unwrap());
    drop(dropped);
    assert_eq!(credit(&mut stream).await, 1);
    for round in 1..=3 {
        let Frame::Extend(extend, ()) = stream.next().await else { panic!("no extend") };
        let expected = wire::ExtendOne { token: Some(token(1)), lite_id: 7, offset: 1 };
        assert_eq!((extend.sequence, extend.leases), (round, vec![expected]));
        let results =
            vec![wire::ExtendResult { code: 0, deadline_us: NOW_US + 200_000 + round * 100_000, cancelled: false }];
        stream.send(Frame::Extended(wire::Extended { sequence: round, results }, ())).await;
    }
}

#[tokio::test]
async fn the_holder_is_told_when_an_extension_finds_the_request_cancelled() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 1).await;
    deliver(&mut stream, [1], 100_000).await;
    let delivery = consumer.next().await.unwrap().unwrap();
    let Frame::Extend(extend, ()) = stream.next().await else { panic!("no extend") };
    let results = vec![wire::ExtendResult { code: 0, deadline_us: NOW_US + LONG_US, cancelled: true }];
    stream.send(Frame::Extended(wire::Extended { sequence: extend.sequence, results }, ())).await;
    timeout(Duration::from_secs(5), delivery.cancelled()).await.unwrap();
    assert!(!delivery.is_lease_lost());
}

#[tokio::test]
async fn the_holder_is_told_when_an_extension_finds_the_lease_lost() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 1).await;
    deliver(&mut stream, [1], 100_000).await;
    let delivery = consumer.next().await.unwrap().unwrap();
    let Frame::Extend(extend, ()) = stream.next().await else { panic!("no extend") };
    let results = vec![wire::ExtendResult { code: ErrorCode::LeaseLost.number(), ..Default::default() }];
    stream.send(Frame::Extended(wire::Extended { sequence: extend.sequence, results }, ())).await;
    timeout(Duration::from_secs(5), delivery.lease_lost()).await.unwrap();
    assert_eq!(delivery.ack().await, Err(SettleError::LeaseLost));
    assert_eq!(credit(&mut stream).await, 1);
}

#[tokio::test]
async fn a_reattach_goes_on_with_held_leases_and_returns_unknown_ones() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 6).await;
    deliver(&mut stream, 1..=4, LONG_US).await;
    let kept = consumer.next().await.unwrap().unwrap();
    let gone = consumer.next().await.unwrap().unwrap();
    let settling_kept = tokio::spawn(consumer.next().await.unwrap().unwrap().ack());
    assert_eq!(settle(&mut stream).await.settles[0].offset, 3);
    assert_eq!(credit(&mut stream).await, 1);
    let settling_gone = tokio::spawn(consumer.next().await.unwrap().unwrap().ack());
    assert_eq!(settle(&mut stream).await.settles[0].offset, 4);
    stream.cut();

    let mut stream = peer.accept().await;
    assert_eq!((role(&stream).session_id.as_slice(), role(&stream).credit_messages), (&SessionId(9).to_bytes()[..], 4));
    stream.welcome(welcome(vec![held(1), held(3), held(50)])).await;
    timeout(Duration::from_secs(5), gone.lease_lost()).await.unwrap();
    assert!(!kept.is_lease_lost());
    assert_eq!(settling_gone.await.unwrap(), Err(SettleError::Unknown));

    let sent = settle(&mut stream).await;
    let suspend = wire::settle_one::Outcome::Suspend(wire::Suspend { duration_ms: 1 });
    assert_eq!(sent.settles.iter().map(|settle| settle.offset).collect::<Vec<_>>(), [3, 50]);
    assert_eq!(sent.settles[1].outcome, Some(suspend));
    settled(&mut stream, sent.sequence, [0, 0]).await;
    assert_eq!(settling_kept.await.unwrap(), Ok(()));

    // Their credit was in the Hello; these two give back their own.
    drop(gone);
    assert_eq!(credit(&mut stream).await, 1);
    let settling = tokio::spawn(kept.ack());
    let sent = settle(&mut stream).await;
    assert_eq!(sent.settles[0].token, Some(token(1)));
    assert_eq!(credit(&mut stream).await, 1);
    settled(&mut stream, sent.sequence, [0]).await;
    assert_eq!(settling.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_delivery_that_was_lost_before_it_was_taken_is_skipped() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 2).await;
    deliver(&mut stream, [1], LONG_US).await;
    // Once this one is extended, both are with the client.
    deliver(&mut stream, [2], 100_000).await;
    assert!(matches!(stream.next().await, Frame::Extend(..)));
    stream.cut();
    let mut stream = peer.accept().await;
    assert_eq!((role(&stream).credit_messages, consumer.state()), (0, ConsumerState::Reconnecting));
    stream.welcome(welcome(Vec::new())).await;
    let mut state = consumer.watch_state();
    state.wait_for(|&state| state == ConsumerState::Connected).await.unwrap();
    let next = tokio::spawn(async move { consumer.next().await.unwrap().unwrap() });
    assert_eq!(credit(&mut stream).await, 2);
    deliver(&mut stream, [3], LONG_US).await;
    assert_eq!(next.await.unwrap().offset(), Offset(3));
}

#[tokio::test]
async fn a_draining_broker_is_seen_and_still_takes_settles() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 1).await;
    deliver(&mut stream, [1], LONG_US).await;
    stream.send(Frame::Draining(wire::Draining {}, ())).await;
    let delivery = consumer.next().await.unwrap().unwrap();
    let settling = tokio::spawn(delivery.ack());
    let sent = settle(&mut stream).await;
    settled(&mut stream, sent.sequence, [0]).await;
    assert_eq!(settling.await.unwrap(), Ok(()));
    assert_eq!(consumer.state(), ConsumerState::Draining);
}

#[tokio::test]
async fn a_refusal_of_the_stream_is_the_last_item() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 1).await;
    deliver(&mut stream, [1], LONG_US).await;
    let delivery = consumer.next().await.unwrap().unwrap();
    let code = ErrorCode::PermissionDenied.number();
    stream.send(Frame::Error(wire::Error { code, message: "no".into(), ..Default::default() }, ())).await;
    let Some(Err(ConsumeError::Ended(refusal))) = consumer.next().await else { panic!("ended") };
    assert_eq!(refusal.code, ErrorCode::PermissionDenied);
    assert!(consumer.next().await.is_none());
    assert_eq!(consumer.state(), ConsumerState::Closed);
    assert_eq!(delivery.ack().await, Err(SettleError::Closed));
}

#[tokio::test]
async fn close_flushes_settles_first_and_what_is_unsettled_is_lost() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 2).await;
    deliver(&mut stream, [1, 2], LONG_US).await;
    let (first, second) = (consumer.next().await.unwrap().unwrap(), consumer.next().await.unwrap().unwrap());
    let settling = tokio::spawn(first.ack());
    let sent = settle(&mut stream).await;
    assert_eq!(credit(&mut stream).await, 1);
    let closing = tokio::spawn(consumer.close());
    second.lease_lost().await;
    assert_eq!(second.ack().await, Err(SettleError::Closed));
    settled(&mut stream, sent.sequence, [0]).await;
    stream.end().await;
    assert_eq!(settling.await.unwrap(), Ok(()));
    closing.await.unwrap();
}

#[tokio::test]
async fn a_dropped_consumer_is_closed() {
    let peer = Peer::start();
    let (consumer, stream) = connected(&peer, 2).await;
    drop(consumer);
    stream.end().await;
}

#[tokio::test]
async fn run_keeps_as_many_handlers_at_work_as_there_are_workers() {
    let peer = Peer::start();
    let (mut consumer, mut stream) = connected(&peer, 2).await;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (at_work, most) = (AtomicU64::new(0), AtomicU64::new(0));
    let counters = std::sync::Arc::new((at_work, most));
    let seen = std::sync::Arc::clone(&counters);
    let running = tokio::spawn(async move {
        let stop = async { drop(stopped.await) };
        let ended = consumer.run_until(stop, |delivery| {
            let counters = std::sync::Arc::clone(&seen);
            async move {
                let now = counters.0.fetch_add(1, Ordering::SeqCst) + 1;
                counters.1.fetch_max(now, Ordering::SeqCst);
                tokio::task::yield_now().await;
                counters.0.fetch_sub(1, Ordering::SeqCst);
                match delivery.offset().0 % 2 {
                    0 => Outcome::Ack,
                    _ => Outcome::DeadLetter("odd".into()),
                }
            }
        });
        (ended.await, consumer)
    });
    deliver(&mut stream, [0, 1], LONG_US).await;
    let (mut next, mut done) = (2, 0);
    while done < 20 {
        match stream.next().await {
            Frame::Settle(settle, ()) => {
                done += settle.settles.len();
                settled(&mut stream, settle.sequence, settle.settles.iter().map(|_| 0)).await;
            }
            Frame::Credit(credit, ()) => {
                let until = (next + u64::from(credit.messages)).min(20);
                deliver(&mut stream, next..until, LONG_US).await;
                next = until;
            }
            other => panic!("{other:?}"),
        }
    }
    stop.send(()).unwrap();
    let (ended, consumer) = running.await.unwrap();
    assert_eq!((ended, counters.1.load(Ordering::SeqCst)), (Ok(()), 2));
    drop(consumer);
}
