//! Busy and idle: people and batch work share one group, and batch waits while people need the compute.
//!
//! The bundled policy `busy-idle` decides in the broker: the consumer says how busy it is, lite topics that are labelled as batch are held
//! while that is much, and what is held is never delivered. A picture shows who had the compute.

mod compute;
mod demand;
mod plot;
mod record;

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser;
use sluicegate_client::admin::{
    ActivatePolicy, Admin, CreateGroup, CreateTopic, GroupSettings, PolicyVerdict, TopicSettings,
};
use sluicegate_client::{GroupName, LiteName, TopicName};
use sluicegate_example_broker::Broker;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::compute::{Job, SLOTS};
use crate::demand::{RUSH_FROM, RUSH_TO};
use crate::record::Record;

const BUSY_ABOVE: f64 = 0.8;
const IDLE_BELOW: f64 = 0.5;
/// How long batch may go on to be let in after the compute became busy: the broker has to hear of it.
const NOTICED_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// All of it.
const PATIENCE: Duration = Duration::from_mins(2);

/// People and batch work on one group, with the bundled policy `busy-idle`.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    broker: Broker,
    /// The policy's component; default as `cargo xtask policies` builds it.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Where the picture goes, an SVG; default `busy-idle.svg` in the target directory.
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { broker, policy, picture } = Arguments::parse();
    let picture = picture.map_or_else(|| in_target("busy-idle.svg"), Ok)?;
    let admin = broker.admin()?;
    let component = policy.map_or_else(|| in_target("policies/busy-idle.wasm"), Ok)?;
    set_up(&admin, &component).await?;

    let producer = broker.client().producer(topic()).connect().await?;
    demand::batch(&producer).await?;
    let consumer = broker.client().consumer(group()).workers(SLOTS).connect().await?;
    let (done, mut jobs) = mpsc::channel(SLOTS as usize);
    let origin = Instant::now();
    let working = tokio::spawn(compute::work(consumer, origin, done));
    let word = tokio::spawn(why_batch_waits(admin.clone(), origin));
    let people = demand::people(&producer, origin);
    let all = timeout_at(origin + PATIENCE, all_done(people, &mut jobs));
    let (record, people) = all.await.context("the work is not done in time")??;
    drop(jobs);
    working.await??;

    std::fs::write(&picture, plot::draw(&record, BUSY_ABOVE)?).with_context(|| picture.display().to_string())?;
    report(&record, &word.await??);
    check(&record, people)?;
    println!("Look at {}: orange goes where green needs the room, and comes back.", picture.display());
    Ok(())
}

fn topic() -> TopicName {
    TopicName::parse("gpu").expect("a good name")
}

fn group() -> GroupName {
    GroupName::parse("gpu-workers").expect("a good name")
}

/// A file in the target directory that this program is in.
fn in_target(name: &str) -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    Ok(program.ancestors().nth(2).context("this program has no target directory")?.join(name))
}

/// What `sluice topic create`, `group create`, `policy push` and `policy activate` do.
async fn set_up(admin: &Admin, component: &Path) -> anyhow::Result<()> {
    admin.create_topic(&CreateTopic { name: topic(), settings: TopicSettings::default() }).await?;
    admin.create_group(&CreateGroup::new(group(), topic(), GroupSettings::default())).await?;
    let component = std::fs::read(component).with_context(|| component.display().to_string())?;
    let digest = admin.push_policy(component).await?.digest;
    let config =
        format!(r#"{{"busy_above":{BUSY_ABOVE},"idle_below":{IDLE_BELOW},"step_min_seconds":1,"step_max_seconds":2}}"#);
    admin.activate_policy(&group(), &ActivatePolicy { digest, config }).await?;
    Ok(())
}

/// What was done, and how many people came, when all of it is done.
async fn all_done(
    people: impl Future<Output = anyhow::Result<usize>>,
    jobs: &mut mpsc::Receiver<Job>,
) -> anyhow::Result<(Record, usize)> {
    let mut people = pin!(people);
    let (mut record, mut came) = (Record(Vec::new()), None);
    loop {
        tokio::select! {
            job = jobs.recv() => record.0.push(job.context("the compute works")?),
            all = &mut people, if came.is_none() => came = Some(all?),
        }
        if let Some(people) = came
            && record.0.len() == people + demand::BATCH
        {
            return Ok((record, people));
        }
    }
}

/// What the broker answers in the rush to who asks why batch work waits, as `sluice lite explain` does.
async fn why_batch_waits(admin: Admin, origin: Instant) -> anyhow::Result<String> {
    sleep_until(origin + RUSH_FROM + NOTICED_WITHIN).await;
    let lite = LiteName::parse(&demand::lane(0))?;
    while origin.elapsed() < RUSH_TO {
        let said = admin.explain(&group(), &lite).await?.policy.and_then(|policy| policy.said);
        if let Some(word) = said
            && matches!(word.verdict, PolicyVerdict::Throttle { .. } | PolicyVerdict::Suspend { .. })
        {
            return Ok(word.reason);
        }
        sleep_until(Instant::now() + LOOK_EVERY).await;
    }
    bail!("the policy never held batch work back in the rush")
}

fn report(record: &Record, word: &str) {
    let of = |is_rush: bool| {
        let in_rush = |job: &&Job| (RUSH_FROM..RUSH_TO).contains(&job.began) == is_rush;
        let mut waits: Vec<_> = record.interactive().filter(in_rush).map(|job| job.waited).collect();
        waits.sort_unstable();
        let at = |percent: usize| waits.get(waits.len() * percent / 100).map_or(0.0, |wait| wait.as_secs_f64() * 1e3);
        let batch = record.batch().filter(in_rush).count();
        format!("people waited {:.1} ms (p50) and {:.1} ms (p99), {batch} batch jobs began", at(50), at(99))
    };
    println!("rush:  {}", of(true));
    println!("quiet: {}", of(false));
    println!("why batch/0 waited: {word}");
}

/// What the policy promises: batch waits while the compute is busy, and only then.
fn check(record: &Record, people: usize) -> anyhow::Result<()> {
    let (interactive, batch) = (record.interactive().count(), record.batch().count());
    ensure!(
        interactive == people && batch == demand::BATCH,
        "{interactive} interactive and {batch} batch jobs were done"
    );
    let busy = record.busy(BUSY_ABOVE, IDLE_BELOW);
    let longest = busy.iter().map(|(from, to)| to.saturating_sub(*from)).max().unwrap_or_default();
    ensure!(longest > NOTICED_WITHIN, "the compute was never busy for long: {busy:?}");
    for (from, to) in &busy {
        let late = record.batch().filter(|job| (*from + NOTICED_WITHIN..*to).contains(&job.began)).count();
        ensure!(late == 0, "{late} batch jobs began while the compute was busy from {from:?} to {to:?}");
    }
    let (first, last) = (busy[0].0, busy[busy.len() - 1].1);
    let before = record.batch().filter(|job| job.began < first).count();
    let after = record.batch().filter(|job| job.began >= last).count();
    ensure!(before > 0 && after > 0, "{before} batch jobs began before the rush and {after} after it");
    println!("batch: {before} jobs began before the compute was busy, {after} when it was idle again; all are done");
    Ok(())
}
