//! `sluice bench latency`: how long one message takes from its publish to its delivery when nothing else is to do, beside
//! what a bare QUIC round trip of the same bytes takes at the same time.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use serde::Serialize;
use sluicegate_client::admin::{CreateGroup, CreateTopic, Durability, GroupSettings, TopicSettings};
use sluicegate_client::{Consumer, GroupName, LiteName, Message, Producer, TopicName};

use super::echo::Echo;
use super::measure::{self, Latencies, Latency};
use super::{WARM_UP, durability};
use crate::broker_process::BrokerProcess;
use crate::output::{self, Format};

/// Longest wait for one delivery.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Bytes of a body.
    #[arg(long, default_value_t = 1_024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=262_144))]
    size: u32,
    /// Length of the measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// When a message is visible, and its publish acknowledged.
    #[arg(long, default_value = "os", value_parser = durability)]
    durability: Durability,
    /// Where the data directory is made; it decides which disk is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    size: u32,
    durability: Durability,
    messages: u64,
    /// From the call that publishes to the delivery in the consumer's hands.
    delivery_us: Latency,
    /// The same bytes to another endpoint and back, by turns with the messages.
    quic_round_trip_us: Latency,
    ratio_p50: f64,
    ratio_p99: f64,
}

/// A producer and a consumer, each with a connection of its own, and nothing under way.
struct Pair {
    producer: Producer,
    consumer: Consumer,
    lite: LiteName,
}

impl Settings {
    pub(super) async fn run(self, format: Format) -> anyhow::Result<()> {
        let broker = BrokerProcess::start(self.dir.as_deref())?;
        let report = self.measure(&broker).await?;
        broker.stop()?;
        output::print(format, &report, text)
    }

    async fn measure(&self, broker: &BrokerProcess) -> anyhow::Result<Report> {
        let mut body = vec![0; self.size as usize];
        Pcg64Mcg::seed_from_u64(1).fill_bytes(&mut body);
        let mut pair = Pair::new(broker, self.durability).await?;
        let mut echo = Echo::start(body.len()).await?;
        let start = measure::now();
        while start.elapsed() < WARM_UP {
            pair.deliver(&body).await?;
            echo.round_trip(&body).await?;
        }
        let (mut deliveries, mut round_trips, mut messages) = (Latencies::new(), Latencies::new(), 0);
        let start = measure::now();
        while start.elapsed() < Duration::from_secs(self.seconds) {
            deliveries.record(pair.deliver(&body).await?);
            round_trips.record(echo.round_trip(&body).await?);
            messages += 1;
        }
        pair.close().await;
        let (delivery_us, quic_round_trip_us) = (deliveries.latency(), round_trips.latency());
        Ok(Report {
            bench: "latency",
            size: self.size,
            durability: self.durability,
            messages,
            delivery_us,
            quic_round_trip_us,
            ratio_p50: delivery_us.p50 as f64 / quic_round_trip_us.p50 as f64,
            ratio_p99: delivery_us.p99 as f64 / quic_round_trip_us.p99 as f64,
        })
    }
}

impl Pair {
    async fn new(broker: &BrokerProcess, durability: Durability) -> anyhow::Result<Self> {
        let (admin, topic, group) = (broker.admin()?, TopicName::parse("bench")?, GroupName::parse("bench")?);
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), GroupSettings::default())).await?;
        Ok(Self {
            producer: broker.client("bench-producer").producer(topic).connect().await?,
            consumer: broker.client("bench-consumer").consumer(group).connect().await?,
            lite: LiteName::parse("session/1")?,
        })
    }

    /// How long a message takes to its consumer. When this returns, nothing of it is under way any more.
    async fn deliver(&mut self, body: &[u8]) -> anyhow::Result<Duration> {
        let message = Message::to_lite(&self.lite).body(body.to_vec());
        let start = measure::now();
        let receipt = self.producer.send(message);
        let delivery = tokio::time::timeout(PATIENCE, self.consumer.next()).await.context("no delivery came")?;
        let delivery = delivery.context("the consumer ended")??;
        let took = start.elapsed();
        anyhow::ensure!(delivery.body()[..] == *body, "another message was delivered");
        receipt.await?;
        delivery.ack().await?;
        Ok(took)
    }

    async fn close(self) {
        self.consumer.close().await;
        self.producer.close().await;
    }
}

fn text(report: &Report) -> String {
    let line = |what: &str, Latency { p50, p99, p999 }: Latency| {
        format!("{what}: p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs")
    };
    let delivery = line("publish to delivery", report.delivery_us);
    let round_trip = line("bare QUIC round trip", report.quic_round_trip_us);
    let (p50, p99) = (report.ratio_p50, report.ratio_p99);
    format!("{delivery}\n{round_trip}\nratio: p50 {p50:.2}, p99 {p99:.2}, of {} messages", report.messages)
}
