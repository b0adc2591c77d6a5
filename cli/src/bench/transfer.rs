//! `sluice bench transfer`: large bodies in and out, and how much the broker's memory grows by each.

use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;
use sluicegate_client::admin::{CreateGroup, CreateTopic, GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, GroupName, Message, Producer, TopicName};
use sluicegate_protocol::limits::{BODY_BYTES_MAX, CHUNK_BYTES_MAX};
use tokio::io::{AsyncRead, ReadBuf};

use super::WARM_UP;
use super::measure::now;
use crate::broker_process::BrokerProcess;
use crate::output::{self, Format};

/// Bytes that bodies are made of, again and again: making them anew would measure the generator.
const RANDOM_BYTES: usize = 4 << 20;
/// Bytes of the first body of all, for connections and code.
const FIRST_BYTES: u64 = 1 << 20;
/// Time between two transfers for what goes on behind their answers.
const PAUSE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// MiB of a body.
    #[arg(long, default_value_t = 256, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=BODY_BYTES_MAX / MIB))]
    size: u64,
    /// Bodies, one after the other, each in and out.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    transfers: u32,
    /// Where the data directory is made; it decides which disk is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    size: u64,
    /// Resident bytes before the first.
    rss_bytes: u64,
    transfers: Vec<Transfer>,
    /// The most that one way of one transfer added.
    grown_bytes_max: u64,
    /// Resident bytes after the last, a second later.
    rss_bytes_after: u64,
}

/// A body's way in and out.
#[derive(Debug, Clone, Copy, Serialize)]
struct Transfer {
    upload: Way,
    fetch: Way,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Way {
    bytes_per_s: f64,
    /// The highest resident bytes meanwhile, less those from before.
    grown_bytes: u64,
}

impl Settings {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<()> {
        output::print(format, &self.measure().await?, text)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let limit = BODY_BYTES_MAX.to_string();
        let broker =
            BrokerProcess::start_with(self.dir.as_deref(), &[("SLUICE_SERVE_MAX_BODY_BYTES", limit.as_str())])?;
        let (admin, topic, group) = (broker.admin()?, TopicName::parse("bench")?, GroupName::parse("bench")?);
        admin.create_topic(&CreateTopic { name: topic.clone(), settings: TopicSettings::default() }).await?;
        admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), GroupSettings::default())).await?;
        let producer = broker.client("bench-producer").producer(topic).connect().await?;
        let consumer = broker.client("bench-consumer").consumer(group).stream_bodies_above(CHUNK_BYTES_MAX as u64);
        let mut consumer = consumer.connect().await?;
        pass(&broker, &producer, &mut consumer, FIRST_BYTES).await?;
        tokio::time::sleep(WARM_UP).await;
        let (rss_bytes, mut transfers) = (broker.resident_bytes()?, Vec::new());
        for _ in 0..self.transfers {
            transfers.push(pass(&broker, &producer, &mut consumer, self.size * MIB).await?);
            tokio::time::sleep(PAUSE).await;
        }
        let rss_bytes_after = broker.resident_bytes()?;
        consumer.close().await;
        producer.close().await;
        broker.stop()?;
        let grown = transfers.iter().flat_map(|passed| [passed.upload.grown_bytes, passed.fetch.grown_bytes]);
        let grown_bytes_max = grown.max().unwrap_or(0);
        Ok(Report { size: self.size * MIB, rss_bytes, transfers, grown_bytes_max, rss_bytes_after })
    }
}

/// A body goes in, comes out, and is acknowledged.
async fn pass(
    broker: &BrokerProcess,
    producer: &Producer,
    consumer: &mut Consumer,
    bytes: u64,
) -> anyhow::Result<Transfer> {
    let before = broker.forget_peak()?;
    let start = now();
    producer.upload(Message::to("session/1")?, bytes, Made::new(bytes)).await?;
    let upload = Way::new(bytes, start.elapsed(), broker.peak_resident_bytes()?, before);
    let delivery = consumer.next().await.context("the consumer ended")??;
    let before = broker.forget_peak()?;
    let start = now();
    let (mut reader, mut came) = (delivery.body_reader(), 0);
    while let Some(part) = reader.next().await? {
        came += part.len() as u64;
    }
    ensure!(came == bytes, "{came} bytes came of {bytes}");
    let fetch = Way::new(bytes, start.elapsed(), broker.peak_resident_bytes()?, before);
    delivery.ack().await?;
    Ok(Transfer { upload, fetch })
}

impl Way {
    fn new(bytes: u64, took: Duration, peak: u64, before: u64) -> Self {
        Self { bytes_per_s: bytes as f64 / took.as_secs_f64(), grown_bytes: peak.saturating_sub(before) }
    }
}

/// A body that nobody holds.
struct Made {
    random: Vec<u8>,
    left: u64,
    at: usize,
}

impl Made {
    fn new(bytes: u64) -> Self {
        let mut random = vec![0; RANDOM_BYTES];
        Pcg64Mcg::seed_from_u64(1).fill_bytes(&mut random);
        Self { random, left: bytes, at: 0 }
    }
}

impl AsyncRead for Made {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut TaskContext<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let part = &self.random[self.at..];
        let part = &part[..part.len().min(out.remaining()).min(left)];
        out.put_slice(part);
        let taken = part.len();
        self.left -= taken as u64;
        self.at = (self.at + taken) % RANDOM_BYTES;
        Poll::Ready(Ok(()))
    }
}

fn text(report: &Report) -> String {
    let way = |Way { bytes_per_s, grown_bytes }: Way| {
        format!("{:.0} MiB/s, + {:.1} MiB", bytes_per_s / MIB as f64, grown_bytes as f64 / MIB as f64)
    };
    let lines =
        report.transfers.iter().map(|transfer| format!("in {}; out {}\n", way(transfer.upload), way(transfer.fetch)));
    format!(
        "bodies of {} MiB, and how much the broker's memory grew by meanwhile\n{}at most + {:.1} MiB; {} MiB before, {} MiB after",
        report.size / MIB,
        lines.collect::<String>(),
        report.grown_bytes_max as f64 / MIB as f64,
        report.rss_bytes / MIB,
        report.rss_bytes_after / MIB,
    )
}
