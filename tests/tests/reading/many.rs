//! Many readers on one connection, and readers that do not read.

use anyhow::Result;
use sluicegate_client::{Message, Reader};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_tests::raw::RawStream;
use tokio::task::JoinSet;

use super::{World, counted, log, next, own, rest};

/// Messages for each of many readers.
const MESSAGES: u64 = 3;

/// How many readers, unless the environment says otherwise.
fn readers() -> usize {
    std::env::var("SLUICE_READERS").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

async fn reads_all(mut reader: Reader) -> Result<Reader> {
    for offset in 0..MESSAGES {
        let message = next(&mut reader).await?;
        assert_eq!((message.offset().0, message.body().as_ref()), (offset, offset.to_string().as_bytes()));
    }
    Ok(reader)
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_readers_on_as_many_lite_topics_share_one_connection() -> Result<()> {
    let count = readers();
    let mut world = World::start(log(None)).await?;
    let before = world.broker.memory_bytes("VmRSS")?;
    let mut connecting = JoinSet::new();
    for index in 0..count {
        connecting.spawn(world.reader(&format!("session/{index}")).follow(true).connect());
    }
    let mut attached = Vec::with_capacity(count);
    while let Some(reader) = connecting.join_next().await {
        attached.push(reader??);
    }
    assert_eq!(
        (world.metric("sluicegate_readers").await?, world.metric("sluicegate_connections").await?),
        (count as u64, 1)
    );
    let grown = world.broker.memory_bytes("VmRSS")?.saturating_sub(before);
    println!("{count} readers: the broker grew by {} KiB, {} bytes each", grown >> 10, grown / count as u64);
    let reading: JoinSet<_> = attached.into_iter().map(reads_all).collect();
    let producer = world.producer().await?;
    let mut pending = Vec::new();
    for offset in 0..MESSAGES {
        for index in 0..count {
            let message = Message::to(&format!("session/{index}"))?.body(offset.to_string());
            pending.push(producer.enqueue(message).await?);
        }
    }
    for receipt in pending {
        receipt.await?;
    }
    let mut attached: Vec<_> = reading.join_all().await.into_iter().collect::<Result<_>>()?;
    let grown = world.broker.memory_bytes("VmRSS")?.saturating_sub(before);
    println!("with {MESSAGES} messages for each: {} KiB", grown >> 10);

    // All of them come back by themselves, and go on where they were.
    let waiting: JoinSet<_> = attached.drain(..).map(|mut reader| async move { next(&mut reader).await }).collect();
    tokio::task::block_in_place(|| world.broker.crash_and_restart())?;
    let mut pending = Vec::new();
    for index in 0..count {
        let message = Message::to(&format!("session/{index}"))?.body("last");
        pending.push(producer.enqueue(message).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    for message in waiting.join_all().await {
        assert_eq!(message?.offset().0, MESSAGES);
    }
    world.metric_becomes("sluicegate_readers", 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_nobody_polls_has_its_window_under_way_and_no_more() -> Result<()> {
    let world = World::start(log(None)).await?;
    let body = |number: u64| format!("{number:0>1000}");
    world.publish("a", (0..500).map(body)).await?;
    let mut idle = world.reader("a").connect().await?;
    let mut quick = world.reader("a").connect().await?;
    assert_eq!(rest(&mut quick).await?.len(), 500);
    // 1,064 bytes each, and one that overdraws.
    let idle_has = world.metric("sluicegate_read_messages_total").await? - 500;
    assert!(idle_has <= (32 << 10) / 1_064 + 1, "{idle_has} messages are under way");
    let read = rest(&mut idle).await?;
    assert!(read.iter().enumerate().all(|(index, (offset, text))| *offset == index as u64 && *text == body(*offset)));
    assert_eq!(read.len(), 500);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_ask_for_all_and_read_nothing_cost_the_broker_a_bounded_amount() -> Result<()> {
    const STREAMS: usize = 200;
    let world = World::start(log(None)).await?;
    let producer = world.producer().await?;
    for _ in 0..100 {
        producer.send(Message::to("a")?.body(vec![b'x'; 250_000])).await?;
    }
    // What the store keeps of what it has read is not counted.
    assert_eq!(rest(&mut world.reader("a").connect().await?).await?.len(), 100);
    let before = world.broker.memory_bytes("VmRSS")?;
    let greedy = || {
        let (topic, lite) = ("t".into(), "a".into());
        Role::Reader(wire::ReaderRole { topic, lite, follow: true, credit_bytes: u64::MAX, ..Default::default() })
    };
    let (first, _) = RawStream::hello(&world.broker, greedy()).await?;
    let mut streams = Vec::with_capacity(STREAMS);
    for _ in 0..STREAMS {
        let mut stream = first.beside().await?;
        stream.say_hello(greedy()).await?;
        streams.push(stream);
    }
    // Readers of other connections have what they want.
    assert_eq!(rest(&mut world.reader("a").connect().await?).await?.len(), 100);
    let grown = world.broker.memory_bytes("VmRSS")?.saturating_sub(before);
    println!("{STREAMS} readers that do not read: {} KiB", grown >> 10);
    assert!(grown < 96 << 20, "{grown} bytes");
    drop((first, streams));
    world.metric_becomes("sluicegate_readers", 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_beyond_a_connections_streams_are_let_in_as_others_leave() -> Result<()> {
    let world = World::start(log(None)).await?;
    world.publish("a", counted(0..2)).await?;
    // More than a connection may open before it has any reader, four times over.
    for _ in 0..4 {
        let connecting: JoinSet<_> = (0..400).map(|_| world.reader("a").connect()).collect();
        for reader in connecting.join_all().await {
            assert_eq!(rest(&mut reader?).await?, own(0..2));
        }
    }
    // A raw connection meets the same.
    let role = || Role::Reader(wire::ReaderRole { topic: "t".into(), lite: "a".into(), ..Default::default() });
    let (mut stream, welcome) = RawStream::hello(&world.broker, role()).await?;
    assert_eq!(welcome.reading.map(|at| at.offset), Some(0));
    stream.send_frame(&Frame::ReadCredit(wire::ReadCredit { bytes: 1 }, ())).await?;
    let Some(Frame::Messages(header, _)) = stream.next().await? else { anyhow::bail!("no messages") };
    assert_eq!(header.messages.len(), 1, "a byte of credit brings one message");
    Ok(())
}
