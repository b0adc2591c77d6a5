//! Replies come and go: 100,000 requests a minute, each with a reply lite topic of its own, which ends by itself soon after it was read.
//!
//! `SLUICE_REPLY_MINUTES` is for how long, a tenth of a minute unless it says otherwise. From 3 on the memory that the broker takes in
//! the last minute, and what the store has on disk, are held against the second: on average each has grown by a tenth at most. A quiet
//! minute after the last reply nearly all of it must be gone. Where the machine does not keep the pace, a minute is longer.
#![cfg(target_os = "linux")]

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluicegate_client::admin::{
    Admin, ConcurrencySettings, CreateGroup, CreateTopic, GroupSettings, LogRetention, ReclaimMode, ReclaimSettings,
    Retention, TopicSettings,
};
use sluicegate_client::{Consumer, GroupName, Message, Outcome, Requester, RequesterId, TopicName};
use sluicegate_tests::openmetrics::Page;
use sluicegate_tests::{Broker, PATIENCE};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

const PER_MINUTE: u64 = 100_000;
/// Without minutes.
const FEW: u64 = PER_MINUTE / 10;
/// Made at once, so often that they come to that.
const BURST: u64 = 100;
/// Requests under way, above which none is made.
const OPEN_MAX: usize = 1_000;
/// Lite topics that requests wait in.
const LANES: u64 = 100;
const WORKERS: u32 = 512;
/// How long a reply stays that nobody touches.
const IDLE_MS: u64 = 5_000;
/// Keys of requests and replies are kept for so long: less than a minute, so that all minutes are alike.
const KEYS_MS: u64 = 10_000;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so long without work the disk has back what was deleted.
const QUIET: Duration = Duration::from_mins(1);
const LEFT_BYTES_MAX: u64 = 16 << 20;

/// What the broker took in a minute, in bytes, on average over its looks.
#[derive(Debug, Default)]
struct Minute {
    /// The store's log, which is begun anew whenever it has its size.
    log: u64,
    /// All other files.
    files: u64,
    /// Resident memory without the store's two caches, which fill up to their size.
    memory: u64,
    caches: u64,
    looks: u64,
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a good name")
}

fn group() -> GroupName {
    GroupName::parse("workers").expect("a good name")
}

async fn make(admin: &Admin) -> Result<()> {
    let settings = TopicSettings {
        retention: Retention::Log(LogRetention { age_ms: Some(600_000), bytes: None }),
        reclaim: ReclaimSettings { mode: ReclaimMode::Idle, after_ms: IDLE_MS },
        idempotency_window_ms: KEYS_MS,
        ..TopicSettings::default()
    };
    admin.create_topic(&CreateTopic { name: topic("replies"), settings }).await?;
    let settings = TopicSettings {
        replies: Some(topic("replies")),
        idempotency_window_ms: KEYS_MS,
        reclaim: ReclaimSettings::NEVER,
        ..TopicSettings::default()
    };
    admin.create_topic(&CreateTopic { name: topic("asks"), settings }).await?;
    let concurrency = ConcurrencySettings { lite_topic: 16, ..ConcurrencySettings::default() };
    let settings = GroupSettings { concurrency, ..GroupSettings::default() };
    admin.create_group(&CreateGroup::new(group(), topic("asks"), settings)).await?;
    Ok(())
}

/// Replies to everything with what it was asked.
async fn reply(mut consumer: Consumer) -> Result<()> {
    let work = consumer.run(|request| async move {
        match request.reply(request.body().clone()).await {
            Ok(_) => Outcome::Ack,
            Err(error) => Outcome::DeadLetter(error.to_string()),
        }
    });
    Ok(work.await?)
}

async fn ask(requester: Requester, number: u64) -> Result<()> {
    let message = Message::to(&format!("ask/{}", number % LANES))?.body(number.to_string());
    let reply = requester.request(message, PATIENCE).await?;
    ensure!(reply.body[..] == *number.to_string().as_bytes(), "{number} was answered with {:?}", reply.body);
    Ok(())
}

/// Bytes of the files below a directory that are these. One that is deleted meanwhile takes no room.
fn bytes_of(directory: &Path, is_one: &impl Fn(&Path) -> bool) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let bytes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_of(&entry.path(), is_one),
        Ok(metadata) if is_one(&entry.path()) => metadata.len(),
        Ok(_) | Err(_) => 0,
    });
    bytes.sum()
}

impl Minute {
    async fn look(&mut self, broker: &Broker, admin: &Admin) -> Result<()> {
        let page = Page::parse(&admin.metrics().await?)?;
        let cache = |part| page.count("sluicegate_store_memory_bytes", &[("part", part)]);
        let caches = cache("block_cache")? + cache("memtables")?;
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        self.log += bytes_of(broker.data_dir(), &is_log);
        self.files += bytes_of(broker.data_dir(), &|path| !is_log(path));
        self.memory += broker.memory_bytes("VmRSS")?.saturating_sub(caches);
        self.caches += caches;
        self.looks += 1;
        Ok(())
    }

    /// On average, in KiB.
    fn mean(&self, sum: u64) -> u64 {
        (sum / self.looks.max(1)) >> 10
    }
}

/// The requests with these numbers, at their pace: a minute's, or fewer.
async fn one_minute((broker, admin): (&Broker, &Admin), requester: &Requester, numbers: Range<u64>) -> Result<Minute> {
    let mut pace = interval(Duration::from_mins(1) / u32::try_from(PER_MINUTE / BURST)?);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut next, mut open, mut seen, mut looked) = (numbers.start, JoinSet::new(), Minute::default(), Instant::now());
    while next < numbers.end {
        pace.tick().await;
        for _ in 0..BURST {
            open.spawn(ask(requester.clone(), next));
            next += 1;
        }
        while let Some(answered) = if open.len() > OPEN_MAX { open.join_next().await } else { open.try_join_next() } {
            answered??;
        }
        if looked.elapsed() >= LOOK_EVERY {
            looked += LOOK_EVERY;
            seen.look(broker, admin).await?;
        }
    }
    open.join_all().await.into_iter().collect::<Result<Vec<()>>>()?;
    Ok(seen)
}

/// Waits until the topic of replies has nothing left.
async fn all_gone(admin: &Admin) -> Result<()> {
    let gone = async {
        loop {
            let replies = admin.topic(&topic("replies")).await?;
            if (replies.lite_topics, replies.messages, replies.bytes) == (0, 0, 0) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(2 * PATIENCE, gone).await.context("replies are left")?
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_are_reclaimed_as_fast_as_they_come() -> Result<()> {
    let (minutes, each) = match std::env::var("SLUICE_REPLY_MINUTES") {
        Ok(minutes) => (minutes.parse()?, PER_MINUTE),
        Err(_) => (1, FEW),
    };
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    make(&admin).await?;
    let working = tokio::spawn(reply(broker.client().consumer(group()).workers(WORKERS).connect().await?));
    let requester = broker.client().requester(topic("asks"), RequesterId::parse("asker")?).await?;
    let mut seen = Vec::new();
    for minute in 0..minutes {
        let began = Instant::now();
        let looks = one_minute((&broker, &admin), &requester, minute * each..(minute + 1) * each).await?;
        let here = admin.topic(&topic("replies")).await?.lite_topics;
        println!(
            "minute {} of {:.0} s: {each} requests, {here} replies are left; {} KiB of log, {} KiB of other files, {} KiB of memory beside {} \
             KiB of caches",
            minute + 1,
            began.elapsed().as_secs_f64(),
            looks.mean(looks.log),
            looks.mean(looks.files),
            looks.mean(looks.memory),
            looks.mean(looks.caches),
        );
        ensure!(each < PER_MINUTE || here < each, "{here} replies are left: none is reclaimed");
        seen.push(looks);
    }
    all_gone(&admin).await?;
    let stats = admin.group(&group()).await?.stats;
    ensure!((stats.acked, stats.dead_lettered, stats.backlog) == (minutes * each, 0, 0), "{stats:?}");
    if let [_, second, .., last] = &seen[..] {
        let tenth_more = |kib: u64| kib + kib / 10;
        ensure!(last.mean(last.memory) <= tenth_more(second.mean(second.memory)), "the memory grows: {seen:?}");
        let disk = |minute: &Minute| minute.mean(minute.log + minute.files);
        ensure!(disk(last) <= tenth_more(disk(second)), "the store grows: {seen:?}");
        tokio::time::sleep(QUIET).await;
        let left = bytes_of(broker.data_dir(), &|_| true);
        println!("{} KiB on disk after a quiet minute", left >> 10);
        ensure!(left <= LEFT_BYTES_MAX, "{left} bytes are on disk, and nothing is stored");
    }
    working.abort();
    Ok(())
}
