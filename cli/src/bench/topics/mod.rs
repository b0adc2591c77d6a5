//! `sluice bench topics`: how a broker stands very many lite topics. What each costs to make, in memory and on disk; and what a kill
//! and a restart take when all of them wait.

mod client;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sluicegate_client::admin::GroupSettings;

use self::client::{Population, Side};
use self::report::Report;
use super::measure::now;
use crate::broker_process::{BrokerProcess, StoreMemory};
use crate::output::{self, Format};

/// Lite topics of the drain that the large one is compared with.
const REFERENCE_LITE_TOPICS: u64 = 10_000;
/// How often a figure is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(20);
/// Time for what the broker does behind its answers: writes late, drops what lingers.
const QUIET: Duration = Duration::from_secs(15);

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Lite topics, with one message each; `10k` and `1M` are understood.
    #[arg(long, default_value = "1M", value_name = "N", value_parser = super::scheduler::count)]
    lite_topics: u32,
    /// Tenants that own them, in turn.
    #[arg(long, default_value = "10k", value_name = "COUNT", value_parser = super::scheduler::count)]
    tenants: u32,
    /// Bytes of a body.
    #[arg(long, default_value_t = 100, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=4_096))]
    size: u32,
    /// Messages of the drain from 10,000 lite topics that the large drain is compared with; as many as lite topics without.
    #[arg(long, value_name = "N", value_parser = super::scheduler::count)]
    reference_messages: Option<u32>,
    /// Where the data directory is made; it decides which disk is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Settings {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<()> {
        let report = self.measure().await?;
        output::print(format, &report, report::text)
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let population = Population::new(u64::from(self.lite_topics), u64::from(self.tenants), self.size);
        begin("drains 10,000 lite topics, to compare with");
        let (reference, few) = self.reference_drain().await?;
        begin("makes all lite topics, without a group");
        let without_group = self.without_group(&population).await?;
        begin("makes them again, for a group");
        let mut broker = BrokerProcess::start(self.dir.as_deref())?;
        let empty = broker.resident_bytes()?;
        let side = Side::new(&broker, Some(GroupSettings::default())).await?;
        let created = side.create(&population).await?;
        begin("waits until all are ready");
        // Its consumer takes all lite topics, so that all are brought before the scheduler.
        let taker = side.taker().await?;
        self.wait_until_loaded(&side).await?;
        let rss_bytes = broker.resident_bytes()?;
        let disk_bytes = broker.disk_bytes()?;

        begin("kills the broker and starts it again");
        taker.close().await;
        broker.kill()?;
        // The client is there before the broker is, and tries.
        let trying = tokio::spawn(side.first_delivery());
        let started = now();
        broker.start_again()?;
        let (first, taker) = trying.await.context("the consumer that tries")??;
        self.wait_until_loaded(&side).await?;
        let all_ready = started.elapsed();
        begin("drains them");
        taker.close().await;
        let drained = side.drain(&broker, population.lite_topics).await?;
        let idle = Memory::of(&broker).await?;
        broker.stop()?;
        Ok(Report {
            lite_topics: population.lite_topics,
            tenants: population.tenants,
            size: self.size,
            created_per_s_first: created.first,
            created_per_s_last: created.last,
            empty_rss_bytes: empty,
            rss_without_group_bytes: without_group.rss_bytes,
            rss_bytes,
            idle_rss_bytes: idle.rss_bytes,
            reference_rss_bytes: few.rss_bytes,
            idle_added_bytes: idle.rss_bytes.cast_signed() - few.rss_bytes.cast_signed(),
            idle_store: idle.store,
            reference_store: few.store,
            disk_bytes_per_lite_topic: disk_bytes as f64 / population.lite_topics as f64,
            restart_first_delivery_ms: millis(first.saturating_duration_since(started)),
            restart_all_ready_ms: millis(all_ready),
            drained_per_s: drained,
            reference_drained_per_s: reference,
            drain_ratio: drained / reference,
        })
    }

    /// Memory of a broker with all lite topics and no group.
    async fn without_group(&self, population: &Population) -> anyhow::Result<Memory> {
        let broker = BrokerProcess::start(self.dir.as_deref())?;
        let side = Side::new(&broker, None).await?;
        side.create(population).await?;
        let memory = Memory::of(&broker).await?;
        broker.stop()?;
        Ok(memory)
    }

    /// Messages per second out of few lite topics with many messages each, and the memory when all are settled.
    async fn reference_drain(&self) -> anyhow::Result<(f64, Memory)> {
        let messages = u64::from(self.reference_messages.unwrap_or(self.lite_topics));
        let population = Population::new(messages, u64::from(self.tenants), self.size).over(REFERENCE_LITE_TOPICS);
        let broker = BrokerProcess::start(self.dir.as_deref())?;
        let side = Side::new(&broker, Some(GroupSettings::default())).await?;
        side.create(&population).await?;
        let rate = side.drain(&broker, messages).await?;
        let memory = Memory::of(&broker).await?;
        broker.stop()?;
        Ok((rate, memory))
    }

    /// Until the scheduler knows every lite topic that waits.
    async fn wait_until_loaded(&self, side: &Side) -> anyhow::Result<()> {
        loop {
            let stats = side.stats().await?;
            if stats.unloaded_lite_topics == 0 {
                let known = stats.waiting_lite_topics + stats.in_flight;
                ensure!(known == u64::from(self.lite_topics), "{known} lite topics are known: {stats:?}");
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Memory of a broker that has nothing to do.
struct Memory {
    rss_bytes: u64,
    store: StoreMemory,
}

impl Memory {
    /// What a broker has when it has been left alone for a moment.
    async fn of(broker: &BrokerProcess) -> anyhow::Result<Self> {
        tokio::time::sleep(QUIET).await;
        Ok(Self { rss_bytes: broker.resident_bytes()?, store: broker.store_memory().await? })
    }
}

/// A run takes minutes: says what it does.
fn begin(step: &str) {
    eprintln!("sluice bench: {step}");
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
