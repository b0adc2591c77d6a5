//! The load: one producer, one consumer, against a broker process, in a closed loop or at a fixed rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::admin::{
    ActivatePolicy, Admin, CreateGroup, CreateTopic, Durability, GroupSettings, TopicLimits, TopicSettings,
};
use sluicegate_client::{
    Client, Consumer, GroupName, LiteName, Message, Outcome, Pending, Producer, Settling, TopicName,
};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::measure::{Latencies, Latency};
use crate::broker_process::BrokerProcess;

/// Messages between publish and the end of what is measured.
const IN_FLIGHT_MAX: usize = 4_096;
/// Receipts or acknowledgements that are counted together.
const COUNTED_AT_ONCE: usize = 64;
/// Messages that the consumer works on at once.
const WORKERS: u32 = 2_048;
/// Body bytes that messages are cut from.
const RANDOM_BYTES: usize = 16 << 20;
/// How often a fixed rate sends what is due.
const PACE: Duration = Duration::from_millis(1);
/// Longest wait for an idle system between two measurements.
const PATIENCE: Duration = Duration::from_mins(2);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bench {
    Produce,
    Consume,
    EndToEnd,
}

impl Bench {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Produce => "produce",
            Self::Consume => "consume",
            Self::EndToEnd => "end-to-end",
        }
    }
}

/// A connected producer, and a consumer where one is measured.
pub(super) struct Load {
    bench: Bench,
    admin: Admin,
    group: GroupName,
    producer: Producer,
    client: Client,
    lites: Vec<LiteName>,
    random: Vec<u8>,
    size: usize,
    pending: mpsc::Sender<(Pending, Instant)>,
    consuming: Mutex<Option<Consuming>>,
    shared: Arc<Shared>,
}

/// What the tasks that see receipts and deliveries count.
struct Shared {
    bench: Bench,
    start: Instant,
    sent: AtomicU64,
    /// Publishes with a receipt.
    published: AtomicU64,
    /// Messages that their consumer has acknowledged.
    acked: AtomicU64,
    /// Room in the closed loop.
    room: Semaphore,
    latencies: std::sync::Mutex<Option<Latencies>>,
    failed: AtomicBool,
}

struct Consuming {
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Load {
    pub(super) async fn new(
        broker: &BrokerProcess,
        bench: Bench,
        size: u32,
        lite_topics: u32,
        durability: Durability,
    ) -> anyhow::Result<Self> {
        let admin = broker.admin()?;
        let (topic, group) = (TopicName::parse("bench")?, GroupName::parse("bench")?);
        let settings = TopicSettings { durability, limits: TopicLimits::NONE, ..TopicSettings::default() };
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        if bench != Bench::Produce {
            let settings = GroupSettings::default();
            admin.create_group(&CreateGroup::new(group.clone(), topic.clone(), settings)).await?;
        }
        let lites: Result<Vec<_>, _> = (0..lite_topics).map(|n| LiteName::parse(&format!("session/{n}"))).collect();
        let mut random = vec![0; RANDOM_BYTES];
        Pcg64Mcg::seed_from_u64(1).fill_bytes(&mut random);
        let shared = Arc::new(Shared {
            bench,
            start: Instant::now(),
            sent: AtomicU64::new(0),
            published: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            room: Semaphore::new(IN_FLIGHT_MAX),
            latencies: std::sync::Mutex::new(None),
            failed: AtomicBool::new(false),
        });
        let (pending, receipts) = mpsc::channel(IN_FLIGHT_MAX);
        tokio::spawn(take_receipts(receipts, Arc::clone(&shared)));
        let this = Self {
            bench,
            admin,
            group,
            producer: broker.client("bench-producer").producer(topic).connect().await?,
            client: broker.client("bench-consumer"),
            lites: lites?,
            random,
            size: size as usize,
            pending,
            consuming: Mutex::new(None),
            shared,
        };
        if bench == Bench::EndToEnd {
            this.start_consumer().await?;
        }
        Ok(this)
    }

    /// Messages per second in a closed loop.
    pub(super) async fn throughput(&self, warm_up: Duration, length: Duration) -> anyhow::Result<f64> {
        if self.bench == Bench::Consume {
            return self.drain(length).await;
        }
        let (sent, rate) = tokio::join!(self.send_at_will(warm_up + length), self.count(warm_up, length));
        sent?;
        self.idle().await?;
        Ok(rate)
    }

    /// Latency at a fixed rate, from when each message was due.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count of messages is far below 2^53"
    )]
    pub(super) async fn latency(&self, rate: f64, length: Duration) -> anyhow::Result<Latency> {
        if self.bench == Bench::Consume {
            self.start_consumer().await?;
        }
        *self.shared.latencies.lock().expect("nobody panics while holding it") = Some(Latencies::new());
        let (start, mut sent) = (Instant::now(), 0_u64);
        while start.elapsed() < length {
            let due = (start.elapsed().as_secs_f64() * rate) as u64;
            while sent < due {
                self.send(start + Duration::from_secs_f64(sent as f64 / rate)).await?;
                sent += 1;
            }
            tokio::time::sleep(PACE).await;
        }
        self.idle().await?;
        let latencies = self.shared.latencies.lock().expect("nobody panics while holding it").take();
        Ok(latencies.context("latencies were collected")?.latency())
    }

    /// Uploads a policy and answers its digest.
    pub(super) async fn push_policy(&self, component: Vec<u8>) -> anyhow::Result<String> {
        Ok(self.admin.push_policy(component).await?.digest)
    }

    /// Lets a policy with a configuration decide, or none.
    pub(super) async fn activate_policy(&self, policy: Option<(&str, &str)>) -> anyhow::Result<()> {
        match policy {
            None => self.admin.deactivate_policy(&self.group).await?,
            Some((digest, config)) => {
                let policy = ActivatePolicy { digest: digest.to_owned(), config: config.to_owned() };
                self.admin.activate_policy(&self.group, &policy).await?
            }
        };
        Ok(())
    }

    /// Has a policy with a configuration be asked beside what decides, or none.
    pub(super) async fn shadow_policy(&self, policy: Option<(&str, &str)>) -> anyhow::Result<()> {
        match policy {
            None => self.admin.end_shadow(&self.group).await?,
            Some((digest, config)) => {
                let policy = ActivatePolicy { digest: digest.to_owned(), config: config.to_owned() };
                self.admin.shadow_policy(&self.group, &policy).await?;
            }
        }
        Ok(())
    }

    /// The shadow must have answered, without a fault: otherwise the comparison says nothing.
    pub(super) async fn check_shadow(&self) -> anyhow::Result<()> {
        let shadow = self.admin.policy_shadow(&self.group).await?.context("the shadow is gone")?;
        ensure!(shadow.figures.frames > 0, "the shadow was never asked");
        ensure!(shadow.figures.faults == 0, "the shadow failed {} times", shadow.figures.faults);
        Ok(())
    }

    /// The policy must have decided, without a fault: otherwise the comparison says nothing.
    pub(super) async fn check_policy(&self) -> anyhow::Result<()> {
        let stats = self.admin.group(&self.group).await?.stats;
        ensure!(stats.policy_frames > 0, "the policy was never asked");
        ensure!(stats.policy_strikes == 0, "the policy failed on {} frames", stats.policy_strikes);
        Ok(())
    }

    pub(super) async fn close(self) -> anyhow::Result<()> {
        self.stop_consumer().await?;
        self.producer.close().await;
        Ok(())
    }

    /// Publishes a backlog for `length`, then measures how fast it is delivered and acknowledged.
    async fn drain(&self, length: Duration) -> anyhow::Result<f64> {
        self.send_at_will(length).await?;
        self.idle().await?;
        let (backlog, start) = (self.shared.published.load(Ordering::Relaxed), Instant::now());
        self.start_consumer().await?;
        while self.shared.acked.load(Ordering::Relaxed) < backlog {
            ensure!(start.elapsed() < PATIENCE, "the backlog is not drained after {PATIENCE:?}");
            tokio::time::sleep(PACE).await;
        }
        let rate = backlog as f64 / start.elapsed().as_secs_f64();
        self.stop_consumer().await?;
        Ok(rate)
    }

    async fn count(&self, warm_up: Duration, length: Duration) -> f64 {
        let counter = if self.bench == Bench::Produce { &self.shared.published } else { &self.shared.acked };
        tokio::time::sleep(warm_up).await;
        let (before, start) = (counter.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(length).await;
        (counter.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64()
    }

    async fn send_at_will(&self, length: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        while start.elapsed() < length {
            self.send(Instant::now()).await?;
        }
        Ok(())
    }

    /// Publishes the next message as soon as there is room. Its first bytes say when it was due.
    async fn send(&self, due: Instant) -> anyhow::Result<()> {
        self.shared.room.acquire().await.context("the room is never closed")?.forget();
        let number = self.shared.sent.fetch_add(1, Ordering::Relaxed);
        let lite = &self.lites[usize::try_from(number % self.lites.len() as u64)?];
        let start = usize::try_from(number.wrapping_mul(7_919) % (self.random.len() - self.size) as u64)?;
        let mut body = self.random[start..start + self.size].to_vec();
        let due_micros = u64::try_from((due - self.shared.start).as_micros())?.to_be_bytes();
        body.iter_mut().zip(due_micros).for_each(|(byte, due)| *byte = due);
        let pending = self.producer.enqueue(Message::to_lite(lite).body(body)).await?;
        ensure!(!self.shared.failed.load(Ordering::Relaxed), "a publish was refused, see above");
        self.pending.send((pending, due)).await.context("the receipts' task ended")
    }

    /// Waits until nothing is under way.
    async fn idle(&self) -> anyhow::Result<()> {
        let start = Instant::now();
        while self.shared.room.available_permits() < IN_FLIGHT_MAX {
            ensure!(!self.shared.failed.load(Ordering::Relaxed), "a publish was refused, see above");
            if start.elapsed() > PATIENCE {
                let shared = &self.shared;
                bail!(
                    "{} of {} messages are published, {} acknowledged, and no more come",
                    shared.published.load(Ordering::Relaxed),
                    shared.sent.load(Ordering::Relaxed),
                    shared.acked.load(Ordering::Relaxed)
                );
            }
            tokio::time::sleep(PACE).await;
        }
        Ok(())
    }

    async fn start_consumer(&self) -> anyhow::Result<()> {
        let consumer = self.client.consumer(self.group.clone()).workers(WORKERS).connect().await?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(consume(consumer, Arc::clone(&self.shared), stopped));
        *self.consuming.lock().await = Some(Consuming { stop, task });
        Ok(())
    }

    async fn stop_consumer(&self) -> anyhow::Result<()> {
        let Some(Consuming { stop, task }) = self.consuming.lock().await.take() else { return Ok(()) };
        // It may have failed already; then its result says so.
        let _ = stop.send(());
        task.await.context("the consumer's task")?
    }
}

async fn take_receipts(mut receipts: mpsc::Receiver<(Pending, Instant)>, shared: Arc<Shared>) {
    let mut taken = Vec::with_capacity(COUNTED_AT_ONCE);
    while receipts.recv_many(&mut taken, COUNTED_AT_ONCE).await > 0 {
        let count = taken.len();
        for (pending, due) in taken.drain(..) {
            if let Err(error) = pending.await {
                eprintln!("sluice bench: {error}");
                shared.failed.store(true, Ordering::Relaxed);
                return;
            }
            if shared.bench == Bench::Produce {
                shared.record(due.elapsed());
            }
        }
        shared.published.fetch_add(count as u64, Ordering::Relaxed);
        if shared.bench != Bench::EndToEnd {
            shared.room.add_permits(count);
        }
    }
}

impl Shared {
    fn record(&self, latency: Duration) {
        if let Some(latencies) = self.latencies.lock().expect("nobody panics while holding it").as_mut() {
            latencies.record(latency);
        }
    }
}

/// Acknowledges what comes, and leaves the broker's replies to [`take_replies`].
async fn consume(
    mut consumer: Consumer,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) -> anyhow::Result<()> {
    let (acks, replies) = mpsc::channel(WORKERS as usize);
    let counting = tokio::spawn(take_replies(replies, Arc::clone(&shared)));
    loop {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery.context("the consumer ended")??,
            _ = &mut stopped => break,
        };
        if let Some(due) = delivery.body().first_chunk::<8>() {
            let due = shared.start + Duration::from_micros(u64::from_be_bytes(*due));
            shared.record(due.elapsed());
        }
        if acks.send(delivery.start_settle(Outcome::Ack)).await.is_err() {
            break; // An ack failed; its error follows.
        }
    }
    drop(acks);
    counting.await.context("the acks' task")??;
    consumer.close().await;
    Ok(())
}

async fn take_replies(mut replies: mpsc::Receiver<Settling>, shared: Arc<Shared>) -> anyhow::Result<()> {
    let mut taken = Vec::with_capacity(COUNTED_AT_ONCE);
    while replies.recv_many(&mut taken, COUNTED_AT_ONCE).await > 0 {
        let count = taken.len();
        for settling in taken.drain(..) {
            settling.await?;
        }
        shared.acked.fetch_add(count as u64, Ordering::Relaxed);
        if shared.bench == Bench::EndToEnd {
            shared.room.add_permits(count);
        }
    }
    Ok(())
}
