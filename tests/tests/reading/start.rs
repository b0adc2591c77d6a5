//! Where readers begin.

use anyhow::Result;
use sluicegate_client::{ConnectError, ErrorCode, Message, MessageId, Offset, Position, ReadError, Timestamp};

use super::{World, counted, log, next, own, rest};

#[tokio::test(flavor = "multi_thread")]
async fn each_position_begins_where_it_says_and_stops_behind_the_last() -> Result<()> {
    let world = World::start(log(None)).await?;
    let receipts = world.publish("a", counted(0..10)).await?;
    let lite_id = receipts[0].lite_id;
    let mut all = world.reader("a").connect().await?;
    let mut times = Vec::new();
    while let Some(message) = all.next().await {
        times.push(message?.published_at());
    }
    assert_eq!(times.len(), 10);
    assert!(times.is_sorted());
    let cases = [
        (Position::Earliest, own(0..10)),
        (Position::Latest, own(10..10)),
        (Position::Offset(Offset(3)), own(3..10)),
        (Position::Offset(Offset(10)), own(10..10)),
        (Position::Timestamp(times[6]), own(6..10)),
        (Position::Timestamp(Timestamp(0)), own(0..10)),
        (Position::Timestamp(times[9].plus(std::time::Duration::from_hours(1))), own(10..10)),
        (Position::Last(2), own(8..10)),
        (Position::Last(0), own(10..10)),
        (Position::Last(99), own(0..10)),
    ];
    for (from, expected) in cases {
        let mut reader = world.reader("a").from(from).connect().await?;
        assert_eq!(rest(&mut reader).await?, expected, "{from:?}");
    }
    let mut reader = world.reader("a").after(MessageId { lite_id, offset: Offset(4) }).connect().await?;
    assert_eq!(rest(&mut reader).await?, own(5..10));
    assert_eq!(reader.last(), Some(MessageId { lite_id, offset: Offset(9) }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_refused_or_waited_for() -> Result<()> {
    let world = World::start(log(None)).await?;
    let refused = world.reader("a").connect().await.unwrap_err();
    assert!(
        matches!(&refused, ReadError::Connect(ConnectError::Refused(refusal)) if refusal.code == ErrorCode::UnknownLite),
        "{refused}"
    );
    let beyond = world.reader("a").from(Position::Offset(Offset(1))).follow(true).connect().await.unwrap_err();
    assert_eq!(beyond, ReadError::BeyondEnd { end: Offset(0) });
    let positions = [
        Position::Earliest,
        Position::Latest,
        Position::Offset(Offset(0)),
        Position::Last(3),
        Position::Timestamp(Timestamp(0)),
    ];
    let mut readers = Vec::new();
    for from in positions {
        readers.push(world.reader("a").from(from).follow(true).connect().await?);
    }
    world.publish("b", counted(0..2)).await?;
    world.publish("a", counted(0..2)).await?;
    for reader in &mut readers {
        assert_eq!((next(reader).await?.body().as_ref(), next(reader).await?.body().as_ref()), (&b"0"[..], &b"1"[..]));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_end_is_said_with_the_end_and_the_end_itself_is_waited_at() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("a", counted(0..3)).await?;
    let beyond = world.reader("a").from(Position::Offset(Offset(4))).follow(true).connect().await.unwrap_err();
    assert_eq!(beyond, ReadError::BeyondEnd { end: Offset(3) });
    let mut reader = world.reader("a").from(Position::Offset(Offset(3))).follow(true).connect().await?;
    world.publish("a", counted(3..4)).await?;
    assert_eq!(next(&mut reader).await?.body().as_ref(), b"3");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_read_as_it_was_published() -> Result<()> {
    let world = World::start(log(None)).await?;
    let later = Timestamp(u64::MAX / 2);
    // It is held for groups, and readers have it now.
    let message = Message::to("a")?.body("hello").property("k", "v").priority(7).cost(12).deliver_at(later);
    let receipt = world.producer().await?.send(message).await?;
    let mut reader = world.reader("a").connect().await?;
    let read = next(&mut reader).await?;
    assert_eq!((read.lite_id(), read.offset(), read.priority(), read.cost()), (receipt.lite_id, receipt.offset, 7, 12));
    assert_eq!((read.property("k"), read.properties().len(), read.is_end()), (Some("v"), 1, false));
    assert_eq!((read.body().as_ref(), read.body_bytes()), (&b"hello"[..], 5));
    assert!(read.published_at() > Timestamp(0));
    Ok(())
}
