//! Bodies of every size: where they are kept, how they travel, what becomes of them when something ends in the middle.

mod broken;
mod kept;
mod neighbours;
mod sizes;

use std::collections::BTreeMap;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use sluicegate_client::{Consumer, Delivery};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_tests::raw::RawStream;
use sluicegate_tests::{Broker, PATIENCE, sluice};
use tokio::io::{AsyncRead, ReadBuf};

/// Largest body in a frame, and largest chunk.
const CHUNK: usize = 256 << 10;

/// Bytes that look like nothing, the same for the same seed.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn body(seed: u64, bytes: usize) -> Bytes {
        let mut noise = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut body = Vec::with_capacity(bytes + 8);
        while body.len() < bytes {
            body.extend_from_slice(&noise.next().to_le_bytes());
        }
        body.truncate(bytes);
        body.into()
    }
}

/// A body that is made while it is read, so that no memory holds it; ends in a failure if it is told to.
struct Made {
    noise: Noise,
    digest: Sha256,
    left: usize,
    fails: bool,
    done: Option<tokio::sync::oneshot::Sender<Vec<u8>>>,
}

impl Made {
    fn new(bytes: usize) -> (Self, tokio::sync::oneshot::Receiver<Vec<u8>>) {
        let (done, digest) = tokio::sync::oneshot::channel();
        (Self { noise: Noise(7), digest: Sha256::new(), left: bytes, fails: false, done: Some(done) }, digest)
    }

    fn failing_after(bytes: usize) -> Self {
        Self { fails: true, ..Self::new(bytes).0 }
    }
}

impl AsyncRead for Made {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.left == 0 && self.fails {
            return Poll::Ready(Err(std::io::Error::other("the source broke")));
        }
        let bytes = out.remaining().min(self.left).min(64 << 10);
        let mut part = Vec::with_capacity(bytes + 8);
        while part.len() < bytes {
            part.extend_from_slice(&self.noise.next().to_le_bytes());
        }
        part.truncate(bytes);
        self.digest.update(&part);
        self.left -= bytes;
        out.put_slice(&part);
        if self.left == 0
            && let Some(done) = self.done.take()
        {
            // The test may not want to know.
            let _ = done.send(self.digest.clone().finalize().to_vec());
        }
        Poll::Ready(Ok(()))
    }
}

async fn next(consumer: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
    Ok(next.context("the consumer ended")??)
}

/// Starts a broker that takes bodies up to this size.
fn start_with_limit(directory: &Path, bytes: u64) -> Result<Broker> {
    Broker::start_on(directory, vec![("SLUICE_SERVE_MAX_BODY_BYTES".into(), bytes.to_string().into())])
}

#[derive(Debug, Deserialize)]
struct Checked {
    tables: BTreeMap<String, Table>,
    problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Table {
    rows: u64,
}

/// Rows of the tables of bodies (chunk, body, share, sweep) in a data directory that no broker has open, which must have no
/// problem.
fn body_rows(data_dir: &Path) -> Result<[u64; 4]> {
    let check = ["store", "check", "-o", "json", "--data-dir"];
    let output = std::process::Command::new(sluice()).args(check).arg(data_dir).output()?;
    let checked: Checked =
        serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(checked.problems.is_empty(), "{:?}", checked.problems);
    Ok(["chunk", "body", "share", "sweep"].map(|table| checked.tables.get(table).map_or(0, |table| table.rows)))
}

/// Stops the broker and answers what it left of bodies.
fn stopped(mut broker: Broker) -> Result<[u64; 4]> {
    tokio::task::block_in_place(|| {
        broker.stop()?;
        body_rows(broker.data_dir())
    })
}

/// The Hello of an upload to topic `t`.
fn upload_role() -> Role {
    Role::Upload(wire::UploadRole { topic: "t".into(), producer_id: vec![7; 16], ..Default::default() })
}

fn upload_frame(sequence: u64, body_bytes: u64) -> Frame {
    let message = wire::Publish { sequence, lite: "x".into(), ..Default::default() };
    Frame::Upload(wire::Upload { message: Some(message), body_bytes }, ())
}

fn chunk(bytes: impl Into<Bytes>) -> Frame {
    Frame::Chunk(wire::Chunk {}, bytes.into())
}

/// An upload that was announced and welcomed.
async fn begun(broker: &Broker, sequence: u64, body_bytes: u64) -> Result<(RawStream, wire::Welcome)> {
    let mut stream = RawStream::open(broker).await?;
    stream.say_hello(upload_role()).await?;
    stream.send_frame(&upload_frame(sequence, body_bytes)).await?;
    match stream.next().await? {
        Some(Frame::Welcome(welcome, ())) => Ok((stream, welcome)),
        other => anyhow::bail!("not welcomed but answered with {other:?}"),
    }
}
