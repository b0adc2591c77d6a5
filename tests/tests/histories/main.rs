//! Random histories through the whole broker, over real QUIC and with its files, held against what users may rely on.
//!
//! `SLUICE_HISTORIES` is how many, `SLUICE_HISTORY_STEPS` how long, `SLUICE_HISTORY_SEED` the seed of the first; a
//! history that fails says its own. The same seed draws the same steps; what the broker makes of them depends on time.

mod crash;
mod drain;
mod draw;
mod run;
mod steps;

use anyhow::{Context as _, Result};
use run::Run;
use sluicegate_tests::caught::caught;
use sluicegate_tests::history::Record;
use sluicegate_tests::history::rules::{self, Breach};
use tokio::task::JoinSet;

const HISTORIES: u64 = 30;
const STEPS: u64 = 60;
const SEED: u64 = 1;
const AT_ONCE: usize = 4;
/// What went wrong first explains the rest.
const BROKEN_SHOWN_MAX: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn random_histories_keep_what_users_rely_on() -> Result<()> {
    let seed = setting("SLUICE_HISTORY_SEED", SEED)?;
    let steps = usize::try_from(setting("SLUICE_HISTORY_STEPS", STEPS)?)?;
    let mut seeds = seed..seed + setting("SLUICE_HISTORIES", HISTORIES)?;
    let mut running = JoinSet::new();
    let mut failures = Vec::new();
    loop {
        while running.len() < AT_ONCE
            && let Some(seed) = seeds.next()
        {
            running.spawn(history(seed, steps));
        }
        match running.join_next().await {
            Some(failure) => failures.extend(failure.context("a history's task")?),
            None => break,
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

/// Runs one history; what is told is what is wrong with it.
async fn history(seed: u64, steps: usize) -> Option<String> {
    follow(seed, &draw::plan(seed, steps)).await
}

async fn follow(seed: u64, plan: &draw::Plan) -> Option<String> {
    let mut run = match Run::start(plan).await {
        Ok(run) => run,
        Err(error) => return Some(format!("SLUICE_HISTORY_SEED={seed}: {error:?}")),
    };
    // What a step or a rule panics of is told with all that led to it.
    let done = caught(carry_out(&mut run, plan)).await.and_then(|done| done);
    let mut broken: Vec<_> = done.err().map(|error| Breach::general(format!("{error:?}"))).into_iter().collect();
    let record = run.finish();
    match caught(async { rules::broken(&record) }).await {
        Ok(breaches) => broken.extend(breaches),
        Err(panic) => broken.push(Breach::general(format!("the rules: {panic:?}"))),
    }
    (!broken.is_empty()).then(|| report(seed, plan, &record, &broken))
}

async fn carry_out(run: &mut Run, plan: &draw::Plan) -> Result<()> {
    for step in &plan.steps {
        run.step(step).await.with_context(|| format!("{step:?}"))?;
    }
    run.drain().await.context("drain")
}

fn report(seed: u64, plan: &draw::Plan, record: &Record, broken: &[Breach]) -> String {
    let shown = broken.iter().take(BROKEN_SHOWN_MAX).map(Breach::to_string).collect::<Vec<_>>().join("\n  ");
    let story = record.story.join("\n  ");
    let (topic, group) = (&plan.topic, &plan.group);
    let count = broken.len();
    format!(
        "SLUICE_HISTORY_SEED={seed} SLUICE_HISTORIES=1 breaks {count} times:\n  {shown}\n{topic:?}\n{group:?}\n  {story}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_history_is_reported_with_its_seed_and_its_steps() {
    let mut plan = draw::plan(7, 60);
    let steps = &mut plan.steps;
    steps.truncate(1);
    steps.push(draw::Step::ResumeLite(usize::MAX));
    let report = follow(7, &plan).await.expect("there is no such lite topic");
    for part in ["SLUICE_HISTORY_SEED=7", "panicked: index out of bounds", "Publish(", "ResumeLite("] {
        assert!(report.contains(part), "no `{part}` in: {report}");
    }
}
