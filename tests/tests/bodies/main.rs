//! Bodies of every size: where they are kept, how they travel, what becomes of them when something ends in the middle.

mod broken;
mod kept;
mod neighbours;
mod sizes;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde::Deserialize;
use sluicegate_client::{Consumer, Delivery};
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_tests::noise::{Made, Noise};
use sluicegate_tests::raw::RawStream;
use sluicegate_tests::{Broker, PATIENCE, sluice};

/// Largest body in a frame, and largest part of a larger one in one.
const CHUNK: usize = 256 << 10;
/// Larger bodies are stored in parts of so many bytes.
const PART: usize = 48 << 10;

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
