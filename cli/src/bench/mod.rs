//! `sluice bench`: throughput and latency, beside the raw write ceiling of the same disk in the same run; and what the
//! scheduler alone takes in time and memory.

mod ceiling;
mod echo;
mod latency;
mod load;
mod measure;
mod policy;
mod reclaim;
mod scheduler;
mod topics;
mod transfer;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use sluicegate_client::admin::Durability;

use crate::broker_process::BrokerProcess;
use crate::exit::WrongInput;
use crate::output::{self, Format};
use load::{Bench, Load};
use measure::Latency;

/// Part of the measured throughput that the latency phase offers, when no rate is given.
const LATENCY_LOAD: f64 = 0.5;
/// Turns with and without the policy; each pair runs one after the other.
const POLICY_TURNS: u32 = 4;
/// Time before a measurement, for connections and caches.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures throughput and latency on this machine, client and broker together.
///
/// Each run but `scheduler` and `policy` starts a broker of its own on an empty data directory. Throughput is measured in a
/// closed loop; latency at a fixed rate, from when each message was due, so that a stall counts for
/// all who waited (no coordinated omission).
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Publish only.
    Produce(Settings),
    /// Drain a backlog: deliver and ack.
    Consume(Settings),
    /// Publish, commit, deliver, ack.
    EndToEnd(Settings),
    /// One message at a time, from publish to delivery, beside a bare QUIC round trip of the same bytes.
    Latency(latency::Settings),
    /// Policies: nanoseconds by lite topic, in the broker's sandbox; what a swap takes; on demand, throughput with each and without.
    Policy(policy::Settings),
    /// Many lite topics that end by themselves at once: time, what publishers notice, disk.
    Reclaim(reclaim::Settings),
    /// The scheduler alone: decisions per second, bytes by lite topic, fairness. No broker runs.
    Scheduler(scheduler::Settings),
    /// Very many lite topics: what each costs in time, memory and on disk; then a kill, a restart, a drain.
    Topics(topics::Settings),
    /// Large bodies in and out, and how much the broker's memory grows by each.
    Transfer(transfer::Settings),
}

/// What to run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Settings {
    /// Bytes of a body.
    #[arg(long, default_value_t = 1_024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=262_144))]
    size: u32,
    /// Lite topics, taken in turn.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    lite_topics: u32,
    /// Length of each measurement.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// When a publish is acknowledged.
    #[arg(long, default_value = "fsync", value_parser = durability)]
    durability: Durability,
    /// Messages per second of the latency phase; half of the measured throughput without.
    #[arg(long)]
    rate: Option<u32>,
    /// Compare with this policy component deciding, in turns in the same run (end-to-end only).
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Its configuration, JSON.
    #[arg(long, value_name = "JSON", default_value = "", requires = "policy")]
    policy_config: String,
    /// Where the data directory is made; it decides which disk is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What was measured.
#[derive(Debug, Serialize)]
struct Report {
    bench: &'static str,
    size: u32,
    lite_topics: u32,
    durability: Durability,
    throughput_per_s: f64,
    raw_ceiling_per_s: f64,
    ratio: f64,
    /// Messages per second at which latency was measured.
    latency_rate_per_s: f64,
    latency_us: Latency,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyCost>,
}

/// Throughput with and without a policy, medians of the turns.
#[derive(Debug, Serialize)]
struct PolicyCost {
    without_per_s: f64,
    with_per_s: f64,
    ratio: f64,
}

impl Command {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<()> {
        let (bench, settings) = match self {
            Self::Produce(settings) => (Bench::Produce, settings),
            Self::Consume(settings) => (Bench::Consume, settings),
            Self::EndToEnd(settings) => (Bench::EndToEnd, settings),
            Self::Latency(settings) => return settings.run(format).await,
            Self::Policy(settings) => return settings.run(format).await,
            Self::Reclaim(settings) => return settings.run(format).await,
            Self::Scheduler(settings) => return settings.run(format).await,
            Self::Topics(settings) => return settings.run(format).await,
            Self::Transfer(settings) => return settings.run(format).await,
        };
        let report = settings.measure(bench).await?;
        output::print(format, &report, text)
    }
}

impl Settings {
    async fn measure(&self, bench: Bench) -> anyhow::Result<Report> {
        let before = self.ceiling().await?;
        let broker = BrokerProcess::start(self.dir.as_deref())?;
        let load = Load::new(&broker, bench, self.size, self.lite_topics, self.durability).await?;
        let length = Duration::from_secs(self.seconds);
        let throughput = load.throughput(WARM_UP, length).await?;
        let rate = self.rate.map_or(throughput * LATENCY_LOAD, f64::from);
        let latency = load.latency(rate, length).await?;
        let policy = match &self.policy {
            Some(path) if bench == Bench::EndToEnd => Some(self.policy_cost(&load, path).await?),
            Some(_) => return Err(WrongInput("--policy is for end-to-end".into()).into()),
            None => None,
        };
        load.close().await?;
        broker.stop()?;
        let ceiling = before.max(self.ceiling().await?);
        Ok(Report {
            bench: bench.name(),
            size: self.size,
            lite_topics: self.lite_topics,
            durability: self.durability,
            throughput_per_s: throughput,
            raw_ceiling_per_s: ceiling,
            ratio: throughput / ceiling,
            latency_rate_per_s: rate,
            latency_us: latency,
            policy,
        })
    }

    /// Each turn is one measurement without and one with the policy, so that a change of the
    /// machine's mood meets both.
    async fn policy_cost(&self, load: &Load, path: &PathBuf) -> anyhow::Result<PolicyCost> {
        let component = std::fs::read(path).map_err(|error| WrongInput(format!("{}: {error}", path.display())))?;
        let digest = load.push_policy(component).await?;
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let length = Duration::from_secs(self.seconds.div_ceil(2));
        for _ in 0..POLICY_TURNS {
            load.activate_policy(None).await?;
            without.push(load.throughput(WARM_UP, length).await?);
            load.activate_policy(Some((&digest, &self.policy_config))).await?;
            with.push(load.throughput(WARM_UP, length).await?);
        }
        load.check_policy().await?;
        let (without_per_s, with_per_s) = (median(without), median(with));
        Ok(PolicyCost { without_per_s, with_per_s, ratio: with_per_s / without_per_s })
    }

    async fn ceiling(&self) -> anyhow::Result<f64> {
        let parent = self.dir.clone().unwrap_or_else(std::env::temp_dir);
        let (durability, size, length) = (self.durability, self.size as usize, Duration::from_secs(self.seconds));
        let options = sluicegate_broker::database_options();
        let run = move || ceiling::puts_per_second(&parent, options, durability, size, length);
        tokio::task::spawn_blocking(run).await.context("the ceiling's thread")?
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

fn text(report: &Report) -> String {
    let Latency { p50, p99, p999 } = report.latency_us;
    let mut text = format!(
        "{}: {:.0} messages/s, {:.0} % of the raw write ceiling of {:.0} puts/s\nlatency at {:.0} messages/s: p50 {p50} µs, p99 {p99} µs, p99.9 {p999} µs",
        report.bench,
        report.throughput_per_s,
        report.ratio * 100.0,
        report.raw_ceiling_per_s,
        report.latency_rate_per_s,
    );
    if let Some(policy) = &report.policy {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\npolicy: {:.0} messages/s with, {:.0} without, {:.1} %",
            policy.with_per_s,
            policy.without_per_s,
            policy.ratio * 100.0
        );
    }
    text
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "fsync" => Ok(Durability::Fsync),
        "os" => Ok(Durability::Os),
        _ => Err("it is `fsync` or `os`".into()),
    }
}
