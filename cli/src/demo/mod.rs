//! `sluice demo`: the main job, end to end, on real parts.
//!
//! A broker process of its own, a request trace replayed through it over QUIC, a Wasm policy
//! activated in the middle, and a check of every claim from what the clients saw.

mod audit;
mod generator;
mod ledger;
mod plots;
mod report;
mod summary;
pub(crate) mod table;
pub(crate) mod trace;
mod traffic;
mod workload;

#[cfg(test)]
mod rehearsal;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use sluicegate_client::admin::{
    ActivatePolicy, Activation, Admin, CreateGroup, CreateTopic, GroupSettings, QuotaSettings, TopicSettings,
};
use sluicegate_client::{GroupName, TopicName};

use crate::broker_process::BrokerProcess;
use crate::bundled;
use crate::exit::{Violation, WrongInput};
use crate::output::{self, Format};
use audit::{Terms, audit};
use generator::{Mix, generate};
use plots::Run;
use summary::Summary;
use trace::Trace;
use workload::{Plan, Settings};

const TOPIC: &str = "requests";
const GROUP: &str = "llm";

/// Replays a trace of LLM requests through a broker, activates a Wasm policy halfway, and shows what
/// it changed: one lite topic per user, a few greedy users, a group with quotas.
///
/// Checks what it claims and fails with the first violation: nothing lost, nothing delivered twice
/// without cause, order kept, quotas kept in every one-second window, no dispatch lost in the swap,
/// nine in ten light users' requests better off after it.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    /// Trace in the public Azure format (`TIMESTAMP,ContextTokens,GeneratedTokens`); a built-in
    /// generator without.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Time in which all requests arrive.
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(10..=3_600))]
    seconds: u64,
    /// Seed of the draws of users and of the generator.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Users to draw from.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    users: u32,
    /// Policy component to activate; the bundled token bucket beside this program without.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Whose medians and tails the generator follows.
    #[arg(long, default_value = "code", conflicts_with = "trace")]
    mix: Mix,
    /// Where the HTML report goes.
    #[arg(long, value_name = "FILE", default_value = "sluicegate-demo.html")]
    report: PathBuf,
    /// Write the summary as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the overview picture as SVG.
    #[arg(long, value_name = "FILE", hide = true)]
    svg: Option<PathBuf>,
}

impl Demo {
    pub(crate) async fn run(self, format: Format) -> anyhow::Result<()> {
        let settings = Settings {
            length: Duration::from_secs(self.seconds),
            users: self.users,
            seed: self.seed,
            ..Settings::default()
        };
        let trace = match &self.trace {
            Some(path) => Trace::read(path).map_err(|error| WrongInput(format!("{error:#}")))?,
            None => generate(self.mix, settings.requests_max(), self.seed),
        };
        let plan = Plan::new(&trace, settings).map_err(|error| WrongInput(format!("{error:#}")))?;
        let component = self.component()?;
        if format == Format::Text {
            output::line(&format!(
                "{} requests of {} users from the {}",
                plan.arrivals.len(),
                plan.users.len(),
                trace.source
            ))?;
            output::line(&format!("quotas: {} messages, {} cost units\n", plan.messages_quota, plan.cost_quota))?;
        }

        let broker = BrokerProcess::start(None)?;
        let admin = broker.admin()?;
        let (topic, group) = create(&admin, &plan).await?;
        let length = plan.arrivals.last().map_or(plan.settings.length, |arrival| arrival.at);
        let swap = swap_later(admin, group.clone(), component, plan.policy.to_json(), plan.swap_after, length);
        let swap = tokio::spawn(swap);
        let ledger = traffic::run(&broker, &plan, topic, group, format).await;
        let activation = swap.await.context("the swap task")?.context("the policy was not activated")?;
        let ledger = ledger?;
        broker.stop()?;

        let classes: Vec<_> = plan.users.iter().map(|user| user.class).collect();
        let terms = Terms {
            planned: plan.arrivals.len() as u64,
            classes: &classes,
            messages_quota: plan.messages_quota,
            cost_quota: plan.cost_quota,
            swap_at: activation.at,
        };
        let summary = Summary::new(&plan, &ledger, activation.at, &audit(&ledger, &terms));
        let run = Run { plan: &plan, ledger: &ledger, swap_at: activation.at };
        self.write(run, &summary, &self.setup(&trace, &activation))?;
        match format {
            Format::Json => output::line(&serde_json::to_string(&summary)?)?,
            Format::Text => {
                output::line(&format!("{}\n\nreport: {}", table::table(&summary), self.report.display()))?;
            }
        }
        match summary.violation {
            Some(violation) => Err(Violation(format!("a claim does not hold: {violation}")).into()),
            None => Ok(()),
        }
    }

    fn component(&self) -> anyhow::Result<Vec<u8>> {
        let path = match &self.policy {
            Some(path) => path.clone(),
            None => bundled::directory()?.join("token-bucket.wasm"),
        };
        let read = std::fs::read(&path);
        read.map_err(|error| WrongInput(format!("{}: {error}; `cargo xtask demo` builds it", path.display())).into())
    }

    fn setup(&self, trace: &Trace, activation: &Activation) -> report::Setup {
        let policy = activation.policy.as_ref();
        let mut command = format!("sluice demo --seconds {} --seed {} --users {}", self.seconds, self.seed, self.users);
        if let Some(trace) = &self.trace {
            let name = trace.file_name().unwrap_or(trace.as_os_str()).to_string_lossy();
            command = format!("{command} --trace {name}");
        }
        report::Setup {
            source: trace.source.to_string(),
            policy: policy.map(|policy| format!("{} ({})", policy.name, &policy.digest[..12])).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            command,
        }
    }

    fn write(&self, run: Run<'_>, summary: &Summary, setup: &report::Setup) -> anyhow::Result<()> {
        write(&self.report, &report::html(run, summary, setup)?)?;
        if let Some(path) = &self.json {
            write(path, &serde_json::to_string_pretty(summary)?)?;
        }
        if let Some(path) = &self.svg {
            write(path, &plots::overview_svg(run)?)?;
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

async fn create(admin: &Admin, plan: &Plan) -> anyhow::Result<(TopicName, GroupName)> {
    let (topic, group) = (TopicName::parse(TOPIC)?, GroupName::parse(GROUP)?);
    admin.create_topic(&CreateTopic { name: topic.clone(), settings: TopicSettings::default() }).await?;
    let quotas = QuotaSettings { messages: Some(plan.messages_quota), cost: Some(plan.cost_quota) };
    let settings = GroupSettings { quotas, ..GroupSettings::default() };
    admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), settings)).await?;
    Ok((topic, group))
}

/// Uploads the policy and activates it while traffic flows; takes it off when all requests have
/// arrived, so that what the greedy users have left is served at the group's full quota.
async fn swap_later(
    admin: Admin,
    group: GroupName,
    component: Vec<u8>,
    config: String,
    after: Duration,
    length: Duration,
) -> anyhow::Result<Activation> {
    tokio::time::sleep(after).await;
    let policy = admin.push_policy(component).await?;
    let activation = admin.activate_policy(&group, &ActivatePolicy { digest: policy.digest, config }).await?;
    tokio::time::sleep(length.saturating_sub(after)).await;
    admin.deactivate_policy(&group).await?;
    Ok(activation)
}
