//! Many lite topics that end by themselves at once: how long it takes, what publishers notice, and what the disk holds after it.

use std::time::Duration;

use anyhow::{Context, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;
use sluicegate_client::admin::{Admin, CreateTopic, ReclaimMode, ReclaimSettings, TopicLimits, TopicSettings};
use sluicegate_client::{Message, Producer, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::measure::{Latencies, Latency};
use crate::broker_process::BrokerProcess;
use crate::output::{self, Format};

/// How often the lite topics are counted.
const LOOK: Duration = Duration::from_millis(200);
/// How long publishers are measured without a reclaim.
const CALM: Duration = Duration::from_secs(10);
/// How long the store is left alone before the disk is looked at.
const QUIET: Duration = Duration::from_mins(1);
/// Longest wait for all to be gone.
const PATIENCE: Duration = Duration::from_mins(20);
/// Lite topics that live on, for each that ends.
const KEPT_DIVISOR: u32 = 4;
/// Publishes of the traffic whose answers are waited for; more wait before they are sent, and count from when they were due.
const TRAFFIC_UNDER_WAY: usize = 65_536;
/// Lite topics that the measured publishers use.
const TRAFFIC: u64 = 100;

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Lite topics that end together, each with one message, 1k at least; `10k` and `1M` are understood. A quarter as many live on.
    #[arg(long, default_value = "1M", value_name = "N", value_parser = enough)]
    lite_topics: u32,
    /// Bytes of a body.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(8..=65_536))]
    size: u32,
    /// How long after its message a lite topic ends; more than it takes to publish all.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(5..=3_600))]
    after: u64,
    /// Publishes per second that are measured meanwhile, to the same topic.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Where the data directory is made; it decides which disk is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<std::path::PathBuf>,
}

fn enough(text: &str) -> Result<u32, String> {
    let count = super::scheduler::count(text)?;
    if count < 1_000 { Err("1k at least".into()) } else { Ok(count) }
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    lite_topics: u32,
    publish_s: f64,
    /// From when the first was due to when the last was gone.
    gone_s: f64,
    /// From when the last was due.
    late_s: f64,
    rate_per_s: u32,
    calm_us: Latency,
    meanwhile_us: Latency,
    p99_ratio: f64,
    disk_bytes_before: u64,
    /// A quiet minute after the last was gone.
    disk_bytes_after: u64,
    /// Keys and rows of all that is there, not compressed.
    live_bytes: u64,
    disk_ratio: f64,
}

impl Settings {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<()> {
        output::print(format, &self.measure().await?, text)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let broker = BrokerProcess::start(self.dir.as_deref())?;
        let (admin, client) = (broker.admin()?, broker.client("bench"));
        let after_ms = self.after * 1_000;
        let ending = topic(&admin, "ending", ReclaimSettings { mode: ReclaimMode::Idle, after_ms }).await?;
        let kept = topic(&admin, "kept", ReclaimSettings::NEVER).await?;
        let producer = client.producer(kept).connect().await?;
        self.fill(&producer, self.lite_topics / KEPT_DIVISOR).await?;
        let producer = client.producer(ending.clone()).connect().await?;
        let calm_us = self.traffic(&producer, Until::Over(CALM)).await?;
        let begun = Instant::now();
        self.fill(&producer, self.lite_topics).await?;
        let published = Instant::now();
        let disk_bytes_before = broker.disk_bytes()?;
        ensure!(published - begun < Duration::from_secs(self.after), "the first ended before the last began: --after");
        tokio::time::sleep_until(begun + Duration::from_secs(self.after)).await;
        let gone = tokio::spawn(all_gone(admin, ending));
        let meanwhile_us = self.traffic(&producer, Until::Done(&gone)).await?;
        let gone = gone.await??;
        producer.close().await;
        tokio::time::sleep(QUIET).await;
        let disk_bytes_after = broker.disk_bytes()?;
        let directory = broker.stop_and_keep()?;
        let data = directory.path().join("data");
        let checked = tokio::task::spawn_blocking(move || sluicegate_broker::check_store(&data)).await??;
        let live_bytes = checked.tables.values().map(|table| table.bytes).sum::<u64>();
        let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
        let after = Duration::from_secs(self.after);
        #[expect(clippy::cast_precision_loss, reason = "ratios")]
        Ok(Report {
            lite_topics: self.lite_topics,
            publish_s: seconds(begun, published),
            gone_s: seconds(begun + after, gone),
            late_s: seconds(published + after, gone),
            rate_per_s: self.rate,
            calm_us,
            meanwhile_us,
            p99_ratio: meanwhile_us.p99 as f64 / calm_us.p99.max(1) as f64,
            disk_bytes_before,
            disk_bytes_after,
            live_bytes,
            disk_ratio: disk_bytes_after as f64 / live_bytes.max(1) as f64,
        })
    }

    /// One message to each of so many lite topics. Bodies do not compress.
    async fn fill(&self, producer: &Producer, lite_topics: u32) -> anyhow::Result<()> {
        let mut random = Pcg64Mcg::seed_from_u64(u64::from(lite_topics));
        let (pending, mut receipts) = mpsc::channel::<sluicegate_client::Pending>(8_192);
        let taking = tokio::spawn(async move {
            while let Some(receipt) = receipts.recv().await {
                receipt.await?;
            }
            anyhow::Ok(())
        });
        for number in 0..lite_topics {
            let mut body = vec![0; self.size as usize];
            random.fill_bytes(&mut body);
            let message = Message::to(&format!("lite/{number}"))?.body(body);
            pending.send(producer.enqueue(message).await?).await.context("a publish failed")?;
        }
        drop(pending);
        taking.await?
    }

    /// Publishes at the rate, and measures from when each was due.
    async fn traffic(&self, producer: &Producer, until: Until<'_>) -> anyhow::Result<Latency> {
        let every = Duration::from_secs(1) / self.rate;
        let (sent, mut receipts) = mpsc::channel::<(sluicegate_client::Pending, Instant)>(TRAFFIC_UNDER_WAY);
        let taking = tokio::spawn(async move {
            let mut latencies = Latencies::new();
            while let Some((receipt, due)) = receipts.recv().await {
                receipt.await?;
                latencies.record(due.elapsed());
            }
            anyhow::Ok(latencies.latency())
        });
        let begun = Instant::now();
        let mut due = begun;
        for number in 0_u64.. {
            if until.is_over(begun) {
                break;
            }
            tokio::time::sleep_until(due).await;
            let message = Message::to(&format!("traffic/{}", number % TRAFFIC))?.body(vec![7; 8]);
            sent.send((producer.enqueue(message).await?, due)).await.context("a publish failed")?;
            due += every;
        }
        drop(sent);
        taking.await?
    }
}

/// How long traffic goes on.
enum Until<'a> {
    Over(Duration),
    Done(&'a JoinHandle<anyhow::Result<Instant>>),
}

impl Until<'_> {
    fn is_over(&self, begun: Instant) -> bool {
        match self {
            Self::Over(length) => begun.elapsed() >= *length,
            Self::Done(task) => task.is_finished(),
        }
    }
}

async fn topic(admin: &Admin, name: &str, reclaim: ReclaimSettings) -> anyhow::Result<TopicName> {
    let name = TopicName::parse(name)?;
    let settings = TopicSettings { reclaim, limits: TopicLimits::NONE, ..TopicSettings::default() };
    admin.create_topic(&CreateTopic { name: name.clone(), settings }).await?;
    Ok(name)
}

/// When only the lite topics of the traffic are left.
async fn all_gone(admin: Admin, topic: TopicName) -> anyhow::Result<Instant> {
    let gone = async {
        while admin.topic(&topic).await?.lite_topics > TRAFFIC {
            tokio::time::sleep(LOOK).await;
        }
        anyhow::Ok(Instant::now())
    };
    tokio::time::timeout(PATIENCE, gone).await.context("the lite topics did not end")?
}

fn text(report: &Report) -> String {
    let mebibytes = |bytes: u64| bytes >> 20;
    format!(
        "{} lite topics, published in {:.1} s: all gone {:.1} s after the first was due, {:.1} s after the last\n\
         p99 of {} publishes/s: {} µs before, {} µs meanwhile, {:.1} times\n\
         disk: {} MiB before, {} MiB a quiet minute after, {} MiB live, {:.2} times",
        report.lite_topics,
        report.publish_s,
        report.gone_s,
        report.late_s,
        report.rate_per_s,
        report.calm_us.p99,
        report.meanwhile_us.p99,
        report.p99_ratio,
        mebibytes(report.disk_bytes_before),
        mebibytes(report.disk_bytes_after),
        mebibytes(report.live_bytes),
        report.disk_ratio,
    )
}
