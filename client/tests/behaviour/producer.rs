//! Behaviour of a producer against a peer that answers as each test tells it to.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::peer::Peer;
use sluicegate_client::{
    ConnectError, ErrorCode, LiteId, Message, Offset, Producer, ProducerId, PublishError, Receipt, TopicName,
};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use tokio::time::Instant;

fn topic() -> TopicName {
    TopicName::parse("chat").unwrap()
}

fn message(number: u64) -> Message {
    Message::to("user/1").unwrap().body(number.to_string())
}

fn receipt(sequence: u64) -> Receipt {
    Receipt { sequence, lite_id: LiteId(7), offset: Offset(sequence - 1), created: false, duplicate: false }
}

fn refusal(code: ErrorCode, sequence: Option<u64>) -> Frame {
    let detail = BTreeMap::from([("limit".into(), "10".into())]);
    let error = wire::Error { sequence, code: code.number(), message: "no".into(), retry_after_ms: Some(20), detail };
    Frame::Error(error, ())
}

async fn connected(peer: &Peer) -> (Producer, crate::peer::Stream) {
    let client = peer.client();
    let connecting = tokio::spawn(async move { client.producer(topic()).id(ProducerId(5)).await });
    let mut stream = peer.accept().await;
    stream.welcome_producer().await;
    (connecting.await.unwrap().unwrap(), stream)
}

#[tokio::test]
async fn the_hello_says_who_speaks_and_what_the_stream_is_for() {
    let peer = Peer::start();
    let (producer, stream) = connected(&peer).await;
    let role = wire::ProducerRole {
        topic: "chat".into(),
        producer_id: ProducerId(5).to_bytes().to_vec(),
        ..Default::default()
    };
    let hello = wire::Hello {
        version_min: 1,
        version_max: 1,
        token: "secret".into(),
        client: concat!("sluicegate-client/", env!("CARGO_PKG_VERSION")).into(),
        role: Some(wire::hello::Role::Producer(role)),
    };
    assert_eq!((stream.hello, producer.id()), (hello, ProducerId(5)));
}

#[tokio::test]
async fn publishes_are_pipelined_in_the_order_of_the_calls() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let receipts: Vec<_> = (1..=500).map(|number| producer.send(message(number))).collect();
    // All are there before the first receipt.
    for number in 1..=500 {
        let (header, body) = stream.publish().await;
        assert_eq!((header.sequence, header.lite.as_str(), body), (number, "user/1", number.to_string().into()));
    }
    stream.published(1..=500).await;
    for (sent, number) in receipts.into_iter().zip(1..) {
        assert_eq!(sent.await, Ok(receipt(number)));
    }
}

#[tokio::test]
async fn a_cut_connection_resends_what_has_no_receipt_with_the_same_numbers() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let receipts: Vec<_> = (1..=5).map(|number| producer.send(message(number))).collect();
    for _ in 1..=5 {
        stream.publish().await;
    }
    stream.published([1, 2, 4]).await;
    let mut receipts = receipts.into_iter();
    for number in [1, 2] {
        assert_eq!(receipts.next().unwrap().await, Ok(receipt(number)));
    }
    stream.cut();

    let mut stream = peer.accept().await;
    let Some(wire::hello::Role::Producer(role)) = &stream.hello.role else { panic!("{:?}", stream.hello) };
    assert_eq!(role.producer_id, ProducerId(5).to_bytes());
    stream.welcome_producer().await;
    for number in [3, 5] {
        let (header, body) = stream.publish().await;
        assert_eq!((header.sequence, body), (number, number.to_string().into()));
    }
    stream.published([3, 5]).await;
    for (sent, number) in receipts.zip(3..) {
        assert_eq!(sent.await, Ok(receipt(number)));
    }
}

#[tokio::test]
async fn a_refusal_with_a_sequence_fails_that_message_alone() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let (first, second) = (producer.send(message(1)), producer.send(message(2)));
    stream.send(refusal(ErrorCode::LimitReached, Some(1))).await;
    stream.publish().await;
    stream.publish().await;
    stream.send(refusal(ErrorCode::LimitReached, Some(1))).await;
    stream.published([2]).await;
    let Err(PublishError::Refused(refused)) = first.await else { panic!("refused") };
    assert_eq!((refused.code, refused.retry_after), (ErrorCode::LimitReached, Some(Duration::from_millis(20))));
    assert_eq!(refused.detail["limit"], "10");
    assert_eq!(second.await, Ok(receipt(2)));
}

#[tokio::test]
async fn a_store_failure_is_resent_on_a_new_stream_of_the_same_connection() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let sent = producer.send(message(1));
    stream.publish().await;
    let failed_at = Instant::now();
    stream.send(refusal(ErrorCode::StoreFailed, Some(1))).await;
    let mut again = crate::peer::Stream::accept(stream.connection.clone()).await;
    assert!(failed_at.elapsed() >= Duration::from_millis(20), "retry_after is honoured");
    again.welcome_producer().await;
    assert_eq!(again.publish().await.0.sequence, 1);
    again.published([1]).await;
    assert_eq!(sent.await, Ok(receipt(1)));
}

#[tokio::test]
async fn a_refusal_of_the_stream_ends_the_producer_for_good() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let sent = producer.send(message(1));
    stream.publish().await;
    stream.send(refusal(ErrorCode::PermissionDenied, None)).await;
    let Err(PublishError::Ended(refused)) = sent.await else { panic!("ended") };
    assert_eq!(refused.to_string(), "permission_denied: no");
    assert_eq!(producer.send(message(2)).await, Err(PublishError::Ended(refused)));
    producer.close().await;
}

#[tokio::test]
async fn a_refused_hello_is_the_error_of_connect() {
    let peer = Peer::start();
    let client = peer.client();
    let connecting = tokio::spawn(async move { client.producer(topic()).connect().await });
    let mut stream = peer.accept().await;
    stream.send(refusal(ErrorCode::UnknownTopic, None)).await;
    let error = connecting.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "broker refused: unknown_topic: no");
    assert!(matches!(error, ConnectError::Refused(refused) if refused.code == ErrorCode::UnknownTopic));
}

#[tokio::test]
async fn the_broker_s_window_bounds_what_is_out_and_room_bounds_what_is_taken() {
    let peer = Peer::start();
    let client = peer.client();
    let connecting = tokio::spawn(async move { client.producer(topic()).unacknowledged_max(3).await });
    let mut stream = peer.accept().await;
    stream.welcome(wire::Welcome { unacknowledged_publishes_max: 2, ..Default::default() }).await;
    let producer = connecting.await.unwrap().unwrap();

    let mut pending = Vec::new();
    for number in 1..=3 {
        pending.push(producer.enqueue(message(number)).await.unwrap());
    }
    let fourth = producer.enqueue(message(4));
    tokio::pin!(fourth);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut fourth).await.is_err(), "there is no room");
    assert_eq!(stream.publish().await.0.sequence, 1);
    assert_eq!(stream.publish().await.0.sequence, 2);
    stream.published([1]).await;
    assert_eq!(stream.publish().await.0.sequence, 3);
    pending.push(fourth.await.unwrap());
    stream.published([2, 3]).await;
    assert_eq!(stream.publish().await.0.sequence, 4);
    stream.published([4]).await;
    for (sent, number) in pending.into_iter().zip(1..) {
        assert_eq!(sent.await, Ok(receipt(number)));
    }
}

#[tokio::test]
async fn a_message_beyond_a_limit_is_refused_without_being_sent() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let Err(PublishError::Refused(refused)) = producer.send(message(1).property("k", "v".repeat(16 << 10))).await
    else {
        panic!("refused")
    };
    assert_eq!(refused.code, ErrorCode::TooLarge);
    let sent = producer.send(message(2));
    assert_eq!(stream.publish().await.0.sequence, 1);
    stream.published([1]).await;
    assert_eq!(sent.await, Ok(receipt(1)));
}

#[tokio::test]
async fn close_waits_for_the_receipts_and_ends_the_stream() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    let other = producer.clone();
    let sent = producer.send(message(1));
    let closing = tokio::spawn(producer.close());
    stream.publish().await;
    assert!(!closing.is_finished());
    stream.published([1]).await;
    stream.end().await;
    closing.await.unwrap();
    assert_eq!(sent.await, Ok(receipt(1)));
    assert_eq!(other.send(message(2)).await, Err(PublishError::Closed));
}

#[tokio::test]
async fn a_dropped_producer_still_delivers_what_it_was_given() {
    let peer = Peer::start();
    let (producer, mut stream) = connected(&peer).await;
    drop(producer.send(message(1)));
    drop(producer);
    assert_eq!(stream.publish().await.0.sequence, 1);
    stream.published([1]).await;
    stream.end().await;
}
