//! The largest body that a broker may take, over either door in and over both out.

use anyhow::{Context, Result, ensure};
use reqwest::Response;
use sha2::{Digest as _, Sha256};
use sluicegate_client::{Message, MessageId, Position};
use sluicegate_tests::PATIENCE;
use sluicegate_tests::noise::Made;
use tokio::io::AsyncReadExt as _;

use super::{World, lite, log};

const BYTES: usize = 256 << 20;

/// Publishes a body over HTTP that nobody holds, and answers its digest.
async fn publish(world: &World) -> Result<(MessageId, Vec<u8>)> {
    let (mut source, digest) = Made::new(BYTES);
    let mut raw = world.raw()?;
    raw.say(&format!(
        "POST /v1/topics/t/messages?lite=a HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {BYTES}\r\n\r\n"
    ))?;
    let mut part = vec![0; 64 << 10];
    loop {
        let bytes = source.read(&mut part).await?;
        if bytes == 0 {
            break;
        }
        tokio::task::block_in_place(|| raw.say_bytes(&part[..bytes]))?;
    }
    let answer = tokio::task::block_in_place(|| raw.all())?;
    ensure!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    let receipt: serde_json::Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).context("a body")?)?;
    Ok((receipt["id"].as_str().context("an id")?.parse()?, digest.await.context("all of it was read")?))
}

async fn digest_of(mut answer: Response) -> Result<Vec<u8>> {
    let (mut digest, mut came) = (Sha256::new(), 0);
    while let Some(part) = tokio::time::timeout(PATIENCE, answer.chunk()).await.context("nothing came")?? {
        digest.update(&part);
        came += part.len();
    }
    assert_eq!(came, BYTES);
    Ok(digest.finalize().to_vec())
}

/// The digest of a message's body, as both doors give it out.
async fn read(world: &World, id: MessageId) -> Result<[Vec<u8>; 2]> {
    let answer = world.get(&format!("messages/{id}?lite=a")).send().await?.error_for_status()?;
    let over_http = digest_of(answer).await?;
    let client = world.broker.client();
    let reader = client.reader(world.topic.clone(), lite("a")).from(Position::Offset(id.offset));
    let mut reader = reader.stream_bodies_above(1 << 20).connect().await?;
    let message = reader.next().await.context("a message")??;
    let (mut body, mut digest) = (message.body_reader(), Sha256::new());
    while let Some(part) = body.next().await? {
        digest.update(&part);
    }
    Ok([over_http, digest.finalize().to_vec()])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_256_mebibytes_passes_both_doors_bit_by_bit_and_the_broker_does_not_hold_it() -> Result<()> {
    let (_folder, config) = super::bad::with_tokens(&format!("max_body_bytes = {BYTES}"))?;
    let world = World::start_with(&["--dev", "--config", &config], log(None)).await?;
    let before = world.broker.memory_bytes("VmRSS")?;
    let mut grown = Vec::new();
    for over in ["HTTP", "QUIC"] {
        let (id, digest) = if over == "HTTP" {
            publish(&world).await?
        } else {
            let (source, digest) = Made::new(BYTES);
            let producer = world.broker.client().producer(world.topic.clone()).connect().await?;
            let receipt = producer.upload(Message::to("a")?, BYTES as u64, source).await?;
            (receipt.message(), digest.await.context("all of it was read")?)
        };
        let came = read(&world, id).await?;
        assert!(came.iter().all(|came| *came == digest), "a body of 256 MiB came over {over} as another one");
        grown.push(world.broker.memory_bytes("VmHWM")?.saturating_sub(before) >> 20);
    }
    eprintln!(
        "256 MiB in over HTTP, out over both: memory grew by {} MiB at its peak; then over QUIC: {} MiB",
        grown[0], grown[1]
    );
    // Memtables (128 MiB) and caches, which the first fills; not a body, nor a second one.
    assert!(grown[1] < 256, "{grown:?}");
    Ok(())
}
