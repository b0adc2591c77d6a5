//! `sluice policy simulate`: recorded traffic through the broker's own scheduler, in virtual time, once for each of those who could decide.
//!
//! A closed loop: a message is worked on for as long as it was when it was recorded, and a slot that is free sooner or later under
//! another policy changes what follows. Nothing here depends on the machine or on the time: the same traffic, group, seed and policies
//! give the same decisions and the same report.

mod compare;
mod page;
mod plots;
mod run;
mod table;
mod traffic;

use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use serde::Serialize;
use sluicegate_broker::policy_lab::PolicyLab;
use sluicegate_protocol::Rate;
use sluicegate_protocol::limits::CREDIT_MESSAGES_MAX;
use sluicegate_scheduler::simulation::Group;

use self::run::{Contender, Figures, Run};
use self::traffic::{Choices, Traffic};
use super::sandbox::Named;
use crate::exit::WrongInput;
use crate::output::{self, Format};

/// Who decides in one command, at most: as many colours as can be told apart.
const AGAINST_MAX: usize = 6;
/// Points of a plot over time.
const PARTS: u64 = 120;

/// Who decides in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Against {
    /// Built-in fair scheduling.
    Fair,
    /// A component.
    Policy(Named),
}

impl FromStr for Against {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fair" => Ok(Self::Fair),
            text => text.parse().map(Self::Policy).map_err(|error| format!("{error}, or `fair`")),
        }
    }
}

/// Replays recorded traffic through the scheduler in virtual time, and compares who could decide.
///
/// An hour of traffic takes seconds. Prints a table and writes an HTML page with plots. The same traffic, options and seed give the
/// same decisions: their digest is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Simulate {
    /// The traffic: a recording (docs/recordings.md), or a CSV file in the public Azure format (`TIMESTAMP,ContextTokens,GeneratedTokens`).
    #[arg(long, value_name = "FILE")]
    trace: PathBuf,
    /// Who decides, once for each: `fair`, `FILE.wasm`, or `FILE.wasm=CONFIG` with JSON or the name of a file. The others are held
    /// against the first.
    #[arg(long, value_name = "WHO", required = true)]
    against: Vec<Against>,
    /// Decides everything that is drawn, and the seeds that policies see.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Has the messages come so many times as fast; the work takes as long as before.
    #[arg(long, value_name = "FACTOR", value_parser = factor)]
    speed_up: Option<f64>,
    /// Tenants that messages of an Azure trace are given to, which names none.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tenants: u32,
    #[command(flatten)]
    room: Room,
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "sluicegate-simulation.html")]
    report: PathBuf,
}

/// The group, where it is not to be as it was recorded.
#[derive(Debug, Clone, clap::Args)]
struct Room {
    /// Consumers; default as recorded, else 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    consumers: Option<u32>,
    /// Messages that each consumer works on at once; default as recorded, else what the traffic needs on average.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(CREDIT_MESSAGES_MAX)))]
    slots: Option<u32>,
    /// Open leases in the group.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    concurrency: Option<u32>,
    /// Open leases of each tenant.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    tenant_concurrency: Option<u32>,
    /// Open leases of each lite topic; default as recorded, else 1.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    lite_concurrency: Option<u32>,
    /// Quota of deliveries, like `100/s burst 20`; `none` for none.
    #[arg(long, value_name = "RATE")]
    messages: Option<Quota>,
    /// Quota of cost, like `90000/min`; `none` for none.
    #[arg(long, value_name = "RATE")]
    cost: Option<Quota>,
}

/// A quota as one sets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Quota(Option<Rate>);

impl FromStr for Quota {
    type Err = sluicegate_protocol::InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" { Ok(Self(None)) } else { text.parse().map(|rate| Self(Some(rate))) }
    }
}

fn factor(text: &str) -> Result<f64, String> {
    let factor: Option<f64> = text.parse().ok();
    factor.filter(|factor| (0.001..=100_000.0).contains(factor)).ok_or_else(|| "expected 0.001 to 100000".into())
}

impl Room {
    fn apply(&self, group: &mut Group) {
        let settings = &mut group.settings;
        group.sessions = self.consumers.unwrap_or(group.sessions);
        group.slots = self.slots.unwrap_or(group.slots);
        settings.concurrency.group = self.concurrency.or(settings.concurrency.group);
        settings.concurrency.tenant = self.tenant_concurrency.or(settings.concurrency.tenant);
        settings.concurrency.lite_topic = self.lite_concurrency.unwrap_or(settings.concurrency.lite_topic);
        settings.quotas.messages = self.messages.map_or(settings.quotas.messages, |quota| quota.0);
        settings.quotas.cost = self.cost.map_or(settings.quotas.cost, |quota| quota.0);
    }
}

/// What was simulated, and what it came to.
#[derive(Debug, Serialize)]
struct Simulated {
    source: String,
    messages: u64,
    tenants: u64,
    /// Of virtual time.
    span_seconds: u64,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    speed_up: Option<f64>,
    consumers: u32,
    slots: u32,
    notes: Vec<String>,
    /// In the order of the command line.
    runs: Vec<Figures>,
    report: PathBuf,
}

impl Simulate {
    pub(crate) fn run(self, format: Format) -> anyhow::Result<()> {
        if self.against.len() > AGAINST_MAX {
            return Err(WrongInput(format!("{} to decide, at most {AGAINST_MAX} at a time", self.against.len())).into());
        }
        let traffic = self.traffic()?;
        let (simulated, runs) = self.simulate(&traffic)?;
        let page = page::html(&simulated, &traffic, &runs)?;
        std::fs::write(&self.report, page).with_context(|| format!("cannot write {}", self.report.display()))?;
        output::print(format, &simulated, table::text)
    }

    /// What comes, to the group that was asked for.
    fn traffic(&self) -> anyhow::Result<Traffic> {
        let mut traffic = Traffic::read(&self.trace, Choices { seed: self.seed, tenants: self.tenants })?;
        if let Some(factor) = self.speed_up {
            traffic.speed_up(factor);
        }
        self.room.apply(&mut traffic.group);
        Ok(traffic)
    }

    /// Has all of them decide, one after the other.
    fn simulate(&self, traffic: &Traffic) -> anyhow::Result<(Simulated, Vec<Run>)> {
        let contenders = Contender::all(&PolicyLab::open()?, &self.against)?;
        let span = traffic.span();
        let runs: Vec<Run> =
            contenders.iter().map(|contender| contender.run(traffic, span)).collect::<Result<_, _>>()?;
        let simulated = Simulated {
            source: traffic.source.clone(),
            messages: traffic.jobs.len() as u64,
            tenants: runs[0].report.tenants.len() as u64,
            span_seconds: span.as_secs(),
            seed: self.seed,
            speed_up: self.speed_up,
            consumers: traffic.group.sessions,
            slots: traffic.group.slots,
            notes: traffic.notes.clone(),
            runs: runs.iter().map(|run| Figures::new(run, &runs[0], traffic)).collect(),
            report: self.report.clone(),
        };
        Ok((simulated, runs))
    }
}

#[cfg(test)]
mod tests;
