//! What no well-behaved reader says, and who may read.

use anyhow::{Context, Result};
use sluicegate_client::{ConnectError, ErrorCode, ReadError, TopicName};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role, start::At};
use sluicegate_tests::Broker;
use sluicegate_tests::raw::RawStream;

use super::{World, counted, lite, log, own, rest};

fn role() -> wire::ReaderRole {
    wire::ReaderRole { topic: "t".into(), lite: "a".into(), follow: true, ..Default::default() }
}

fn at(at: At) -> wire::Start {
    wire::Start { at: Some(at) }
}

async fn refusal(broker: &Broker, role: Role) -> Result<String> {
    let mut stream = RawStream::open(broker).await?;
    stream.say_hello(role).await?;
    let (code, message) = stream.refusal().await?;
    assert!(stream.next().await?.is_none(), "the stream goes on");
    Ok(format!("{code}: {message}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_a_code_and_a_reason() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("a", counted(0..2)).await?;
    let of_body =
        |lite_id, offset| wire::ReadBodyRole { topic: "t".into(), lite: "a".into(), lite_id, offset, from: 0 };
    let cases = [
        Role::Reader(wire::ReaderRole { topic: "no such".into(), ..role() }),
        Role::Reader(wire::ReaderRole { topic: "nothing".into(), ..role() }),
        Role::Reader(wire::ReaderRole { lite: String::new(), ..role() }),
        Role::Reader(wire::ReaderRole { lite: "line\nbreak".into(), ..role() }),
        Role::Reader(wire::ReaderRole { lite: "b".into(), follow: false, ..role() }),
        Role::Reader(wire::ReaderRole { start: Some(wire::Start { at: None }), ..role() }),
        Role::Reader(wire::ReaderRole { start: Some(at(At::Offset(u64::MAX))), ..role() }),
        Role::Reader(wire::ReaderRole { lite_id: Some(7), ..role() }),
        Role::Reader(wire::ReaderRole { lite_id: Some(7), start: Some(at(At::Offset(0))), ..role() }),
        Role::Reader(wire::ReaderRole {
            lite_id: Some(7),
            start: Some(at(At::Offset(0))),
            goes_on: true,
            lite: "b".into(),
            ..role()
        }),
        Role::ReadBody(of_body(7, 0)),
        Role::ReadBody(wire::ReadBodyRole { topic: "nothing".into(), ..of_body(7, 0) }),
    ];
    let mut refusals = Vec::new();
    for case in cases {
        refusals.push(refusal(&world.broker, case).await?);
    }
    insta::assert_snapshot!(refusals.join("\n"), @r"
    invalid_argument: topic name has ' ' at byte 2, allowed are A-Z a-z 0-9 `.` `_` `-`
    unknown_topic: topic `nothing` does not exist
    invalid_argument: lite topic name is empty
    invalid_argument: lite topic name has '\n' at byte 4, allowed are any UTF-8 but control characters
    unknown_lite: lite topic `b` does not exist in topic `t`
    protocol_violation: a start that this broker does not know
    beyond_end: offset 18446744073709551615 of lite topic `a` is beyond its end, 2 is the next to come
    invalid_argument: a reader that names a life begins at an offset of it
    reclaimed: life 7 of lite topic `a` is over
    reclaimed: life 7 of lite topic `b` is over
    reclaimed: life 7 of lite topic `a` is over
    unknown_topic: topic `nothing` does not exist
    ");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_end_their_reader_and_nothing_else() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("a", counted(0..2)).await?;
    let garbage: [&[u8]; 3] =
        [&[0xff, 0xff, 0xff, 0xff], &[0, 0, 0, 9, 200, 0, 0, 0, 0], &[0, 0, 0, 6, 11, 0, 0, 0, 1, 0xff]];
    let mut refusals = Vec::new();
    for bytes in garbage {
        let (mut stream, _) = RawStream::hello(&world.broker, Role::Reader(role())).await?;
        stream.send_bytes(bytes).await?;
        refusals.push(stream.refusal().await?);
    }
    for frame in [
        Frame::Credit(wire::Credit { messages: 1, load_ppm: None }, ()),
        Frame::Settle(wire::Settle::default(), ()),
        Frame::Messages(wire::Messages::default(), bytes::Bytes::new()),
    ] {
        let (mut stream, _) = RawStream::hello(&world.broker, Role::Reader(role())).await?;
        stream.send_frame(&frame).await?;
        refusals.push(stream.refusal().await?);
    }
    let (mut cut, _) = RawStream::hello(&world.broker, Role::Reader(role())).await?;
    cut.send_bytes(&[0, 0, 0, 9, 11]).await?;
    cut.finish()?;
    refusals.push(cut.refusal().await?);
    insta::assert_snapshot!(refusals.iter().map(|(code, message)| format!("{code}: {message}")).collect::<Vec<_>>().join("\n"), @r"
    too_large: frame of 4294967295 bytes, at most 16384 are allowed
    protocol_violation: unknown frame type 200
    protocol_violation: header of a ReadCredit frame: failed to decode Protobuf message: invalid varint
    protocol_violation: Credit has no place on this stream
    protocol_violation: Settle has no place on this stream
    protocol_violation: Messages has no place on this stream
    protocol_violation: stream ended inside a frame, after 5 of its bytes
    ");
    assert_eq!(rest(&mut world.reader("a").connect().await?).await?, own(0..2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_needs_the_right_to_read() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let config = directory.path().join("sluice.toml");
    let grants = ["read", "publish"].map(|right| {
        use sha2::Digest as _;
        let sha256 = format!("{:x}", sha2::Sha256::digest(right.as_bytes()));
        format!("[[tokens]]\nname = '{right}'\nsha256 = '{sha256}'\nrights = ['{right}']\n")
    });
    std::fs::write(&config, grants.concat())?;
    let broker = Broker::start_with(&["--dev", "--config", config.to_str().context("temporary paths are UTF-8")?])?;
    let topic = TopicName::parse("t")?;
    let producer = broker.client_with("publish").producer(topic.clone()).connect().await?;
    producer.send(sluicegate_client::Message::to("a")?.body("0")).await?;
    let refused = broker.client_with("publish").reader(topic.clone(), lite("a")).connect().await.unwrap_err();
    assert!(
        matches!(&refused, ReadError::Connect(ConnectError::Refused(refusal)) if refusal.code == ErrorCode::PermissionDenied),
        "{refused}"
    );
    let mut reader = broker.client_with("read").reader(topic, lite("a")).connect().await?;
    assert_eq!(rest(&mut reader).await?, own(0..1));
    Ok(())
}
