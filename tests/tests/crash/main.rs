//! A real broker process that dies at any moment of a mixed load, and what its clients were told, held against what is there
//! after: by `kill -9`, and by a power cut, which takes what was not synced.
//!
//! `SLUICE_CRASH_ROUNDS` is how often it dies, `SLUICE_CRASH_SEED` the seed of what the clients draw. When and where the broker
//! dies depends on time too, so a seed does not repeat a run. A run that fails keeps its data directory.
#![cfg(target_os = "linux")]

mod after_kill;
mod audit;
mod fact;
mod finish;
mod leases;
mod lives;
mod merge;
mod operator;
mod os_topic;
mod process;
mod publisher;
mod worker;
mod world;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use audit::{HowItEnded, Seen};
use lives::Lives;
use os_topic::OsTopic;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::admin::Durability;
use sluicegate_tests::caught::caught;
use sluicegate_tests::history::Span;
use sluicegate_tests::history::rules::{self, Breach};
use sluicegate_tests::power_cut::{Lost, PowerCut, Syncs};
use sluicegate_tests::{Broker, sluice};
use tokio::sync::Mutex;
use tokio::time::Instant;
use worker::Mood;
use world::World;

const KILLS: u64 = 5;
const POWER_CUTS: u64 = 3;
const SEED: u64 = 1;
/// How long the broker lives in a round: always long enough for a client to come back in some.
const LIFE_MS: std::ops::Range<u64> = 400..2_500;
/// In a hundred, how often it is killed again while it starts.
const KILLED_AT_START_PERCENT: u32 = 30;
/// In a hundred, how often a consumer does not come back.
const WORKER_GONE_PERCENT: u32 = 40;
/// Two cores are enough for one of the tests at a time.
static TURN: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_were_told_holds_after_kill_9() -> Result<()> {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir()?;
    let result = Box::pin(caught(kills(folder.path()))).await.and_then(|done| done);
    kept_if_failed(folder, result)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_were_told_holds_after_a_power_cut() -> Result<()> {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir()?;
    let result = Box::pin(caught(power_cuts(folder.path()))).await.and_then(|done| done);
    kept_if_failed(folder, result)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_syncs_do_nothing_is_found_out() -> Result<()> {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir()?;
    let disk = PowerCut::new(folder.path())?;
    let mut run = Run::start(disk.data_dir(), Some(&disk), &[("fsync", Durability::Fsync)], seed()?).await?;
    let honest = run.round().await?;
    ensure!(honest.iter().all(Vec::is_empty), "already the honest round fails:\n{}", run.report(&honest));
    run.broker.set_environment(disk.environment(Syncs::Lie));
    run.life_ms = LIFE_MS.end..LIFE_MS.end + 1;
    // The process that runs now is honest still.
    run.broker.crash_and_restart()?;
    let broken = run.round().await?;
    let told = |what: fn(&str) -> bool| broken.iter().flatten().filter(|breach| what(&breach.what)).count();
    let (lost, back) =
        (told(|what| what.starts_with("lost: ")), told(|what| what.contains("was settled, and is back")));
    println!("{lost} messages are lost, {back} are back");
    assert!(lost > 0 && back > 0, "nothing is missed of what was never synced:\n{}", run.report(&broken));
    Ok(())
}

async fn kills(folder: &Path) -> Result<()> {
    let topics = [("fsync", Durability::Fsync), ("os", Durability::Os)];
    let mut run = Run::start(&folder.join("data"), None, &topics, seed()?).await?;
    let lives = Lives::start(&run.broker).await?;
    run.all_rounds(setting("SLUICE_CRASH_ROUNDS", KILLS)?).await?;
    let lives = lives.finish(&run.broker.admin(None)?).await.context("lite topics that end by themselves")?;
    println!("{lives} lives began, and ended");
    ensure!(lives as u64 > lives::NAMES, "no lite topic came back after its end");
    tokio::task::block_in_place(|| run.check_store())
}

async fn power_cuts(folder: &Path) -> Result<()> {
    let disk = PowerCut::new(folder)?;
    let mut run = Run::start(disk.data_dir(), Some(&disk), &[("fsync", Durability::Fsync)], seed()?).await?;
    run.os_topic = Some(OsTopic::new(&run.broker.admin(None)?, "os").await?);
    run.all_rounds(setting("SLUICE_CRASH_ROUNDS", POWER_CUTS)?).await?;
    ensure!(run.lost.bytes > 0, "no power cut took anything: {:?}", run.lost);
    tokio::task::block_in_place(|| run.check_store())
}

fn seed() -> Result<u64> {
    setting("SLUICE_CRASH_SEED", SEED)
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

fn kept_if_failed(folder: tempfile::TempDir, result: Result<()>) -> Result<()> {
    result.map_err(|error| {
        let folder = folder.keep();
        anyhow!("SLUICE_CRASH_SEED={}: {error:#}\n  its data is kept in {}", seed().unwrap_or(SEED), folder.display())
    })
}

/// One broker on one data directory, through all rounds.
struct Run<'a> {
    broker: Broker,
    disk: Option<&'a PowerCut>,
    worlds: Vec<World>,
    os_topic: Option<OsTopic>,
    random: Pcg64Mcg,
    /// How long the broker lives in a round.
    life_ms: std::ops::Range<u64>,
    lost: Lost,
}

impl<'a> Run<'a> {
    async fn start(data: &Path, disk: Option<&'a PowerCut>, topics: &[(&str, Durability)], seed: u64) -> Result<Self> {
        println!("SLUICE_CRASH_SEED={seed}");
        let environment = disk.map(|disk| disk.environment(Syncs::Honest)).unwrap_or_default();
        let broker = tokio::task::block_in_place(|| Broker::start_on(data, environment))?;
        let mut worlds = Vec::new();
        for (index, (name, durability)) in topics.iter().enumerate() {
            worlds.push(World::new(&broker, name, *durability, seed << 20 ^ (index as u64) << 16).await?);
        }
        let random = Pcg64Mcg::seed_from_u64(seed);
        Ok(Self { broker, disk, worlds, os_topic: None, random, life_ms: LIFE_MS, lost: Lost::default() })
    }

    async fn all_rounds(&mut self, rounds: u64) -> Result<()> {
        for round in 1..=rounds {
            let broken = self.round().await.with_context(|| format!("round {round}"))?;
            if broken.iter().any(|broken| !broken.is_empty()) {
                bail!("round {round} of {rounds}: {}", self.report(&broken));
            }
            println!("round {round}: {}", self.counts());
        }
        let mut broken = Vec::new();
        for world in &mut self.worlds {
            broken.push(world.finish(&self.broker).await.context("the end")?);
        }
        if broken.iter().any(|broken| !broken.is_empty()) {
            bail!("after {rounds} rounds: {}", self.report(&broken));
        }
        println!("drained: {}", self.counts());
        Ok(())
    }

    /// What is left in the store belongs together.
    fn check_store(&mut self) -> Result<()> {
        self.broker.stop()?;
        let check = ["store", "check", "--data-dir"];
        let output = std::process::Command::new(sluice()).args(check).arg(self.broker.data_dir()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Load, a sudden death, a start, and what is wrong after it, by topic.
    async fn round(&mut self) -> Result<Vec<Vec<Breach>>> {
        let mut working = Vec::new();
        for world in &mut self.worlds {
            working.push(world.work(&self.broker, Mood::Mixed).await?);
        }
        let os_topic = self.os_topic.as_mut().map(|topic| topic.publish(&self.broker)).transpose()?;
        tokio::time::sleep(Duration::from_millis(self.random.random_range(self.life_ms.clone()))).await;
        let killed = Instant::now();
        tokio::task::block_in_place(|| self.broker.crash())?;
        for (world, working) in self.worlds.iter_mut().zip(working) {
            world.stop(working).await?;
        }
        let sent = match os_topic {
            Some(publishing) => publishing.stop().await?,
            None => Vec::new(),
        };
        self.cut()?;
        while self.percent(KILLED_AT_START_PERCENT) {
            let after = Duration::from_millis(self.random.random_range(5..250));
            self.broker.start_and_crash(after).await?;
            self.cut()?;
        }
        tokio::task::block_in_place(|| self.broker.start_again())?;
        let mut broken = Vec::new();
        for index in 0..self.worlds.len() {
            broken.push(self.audit(index, killed).await?);
        }
        if broken.iter().all(Vec::is_empty)
            && let Some(topic) = &self.os_topic
        {
            let (wrong, gone) = topic.check(&self.broker.admin(None)?, &sent).await?;
            println!("{gone} messages that were sent to the os topic are not there");
            broken.push(wrong.into_iter().map(Breach::general).collect());
        }
        Ok(broken)
    }

    fn cut(&mut self) -> Result<()> {
        let Some(disk) = self.disk else { return Ok(()) };
        let random = &mut self.random;
        // All that was not synced is gone, or a part of it.
        let takes_all = random.random_range(0..100) < 50;
        let lost =
            disk.cut(|synced, written| if takes_all { synced } else { random.random_range(synced..=written) })?;
        println!("the power cut takes {lost:?}");
        self.lost.bytes += lost.bytes;
        self.lost.names += lost.names;
        Ok(())
    }

    async fn audit(&mut self, index: usize, killed: Instant) -> Result<Vec<Breach>> {
        let admin = self.broker.admin(None)?;
        let is_gone = self.percent(WORKER_GONE_PERCENT);
        let how = if self.disk.is_some() { HowItEnded::PowerCut } else { HowItEnded::Killed };
        let world = &mut self.worlds[index];
        let after = world.killed_at(killed);
        let clock = match world.read_clock(&admin).await {
            Ok(clock) => clock,
            // The topic itself is gone.
            Err(error) => return Ok(vec![Breach::general(format!("lost: {}: {error:#}", world.topic))]),
        };
        let (group, lites) = world.look(&admin).await?;
        let restart = Span { after, before: clock.latest(Instant::now()) };
        let mut gone: Vec<_> = is_gone.then(|| world.replace(0)).into_iter().collect();
        world.audit(&Seen { how, restart, clock: &clock, group: &group, lites: &lites }, &mut gone);
        Ok(rules::broken_so_far(&world.story.record))
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn report(&self, broken: &[Vec<Breach>]) -> String {
        let by_topic = self.worlds.iter().zip(broken).filter(|(_, broken)| !broken.is_empty());
        let reports = by_topic.map(|(world, broken)| world.report(broken));
        let others = broken.iter().skip(self.worlds.len()).flatten().map(Breach::to_string);
        reports.chain(others).collect::<Vec<_>>().join("\n")
    }

    fn counts(&self) -> String {
        let one = |world: &World| {
            let (published, delivered, restarts) = world.counts();
            format!("{} has {published} receipts, {delivered} deliveries, {restarts} restarts", world.topic)
        };
        self.worlds.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}
