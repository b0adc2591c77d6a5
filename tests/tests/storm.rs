//! A reconnect storm: many token streams at once, readers that are cut at random, a broker that is killed twice. Each reader has its stream
//! complete, in order, and without repeat.
//!
//! `SLUICE_STORM_SESSIONS` is how many streams there are, `SLUICE_STORM_SECONDS` how long each of them is at its pace,
//! `SLUICE_STORM_SEED` the seed of who is cut. Where the machine does not keep the pace, the streams take longer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sha2::{Digest as _, Sha256};
use sluicegate_client::admin::{CreateTopic, LogRetention, ReclaimSettings, Retention, TopicSettings};
use sluicegate_client::{Client, LiteName, Message, MessageId, ReadMessage, Reader, TopicName, Trust};
use sluicegate_tests::Broker;
use sluicegate_tests::traffic::percentile;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet, block_in_place};
use tokio::time::{Instant, interval, timeout};

const SESSIONS: u64 = 200;
const SECONDS: u64 = 10;
const SEED: u64 = 1;
/// Of each session.
const MESSAGES_PER_SECOND: u64 = 50;
/// Back ends that stream the sessions, each over a connection of its own.
const PRODUCERS: u64 = 4;
/// Of a hundred readers, how many lose their connection in a second.
const CUT_PERCENT: u64 = 5;
const KILLS: u64 = 2;
/// How often it is looked whether the broker is to be killed.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For a message: the broker may be killed, and come back, in between.
const MESSAGE_PATIENCE: Duration = Duration::from_mins(1);

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text} is not a number")),
        Err(_) => Ok(default),
    }
}

/// Where the broker is, in each of its lives.
#[derive(Clone)]
struct Place {
    address: String,
    trust: Trust,
}

impl Place {
    /// A client with a connection of its own.
    fn client(&self) -> Client {
        Client::builder(&self.address, self.trust.clone()).connect_timeout(MESSAGE_PATIENCE).build()
    }
}

fn topic() -> TopicName {
    TopicName::parse("storm").expect("a good name")
}

fn lite(session: u64) -> LiteName {
    LiteName::parse(&format!("session/{session}")).expect("a good name")
}

/// Session, counter, and what belongs to them and to nothing else.
fn body(session: u64, counter: u64) -> Vec<u8> {
    let said = [session.to_le_bytes(), counter.to_le_bytes()].concat();
    let checksum = Sha256::digest(&said);
    [&said[..], &checksum[..]].concat()
}

/// Streams some sessions, a message of each in turn, and answers when all of it is durable.
async fn stream(client: Client, sessions: Vec<u64>, length: u64) -> Result<()> {
    let producer = client.producer(topic()).connect().await?;
    let mut pace = interval(Duration::from_secs(1) / u32::try_from(MESSAGES_PER_SECOND)?);
    let mut receipts = VecDeque::new();
    for counter in 0..length {
        // What was missed while the broker was away is made up for.
        pace.tick().await;
        for session in &sessions {
            let message = Message::to_lite(&lite(*session)).body(body(*session, counter));
            let message = if counter + 1 == length { message.end() } else { message };
            receipts.push_back(producer.enqueue(message).await?);
        }
    }
    for receipt in receipts {
        receipt.await?;
    }
    producer.close().await;
    Ok(())
}

/// A session's reader, whose connection is lost whenever somebody says so.
struct Listener {
    place: Place,
    session: u64,
    length: u64,
    cut: Arc<Notify>,
    /// When the broker was last there again.
    restarted: watch::Receiver<Instant>,
    /// Messages that all listeners have read.
    total: Arc<AtomicU64>,
    last: Option<MessageId>,
    resumed: Resumed,
}

/// How long it took until the next message was there.
#[derive(Default)]
struct Resumed {
    /// Since the reader was cut.
    after_cut: Vec<Duration>,
    /// Since the broker was there again.
    after_restart: Vec<Duration>,
}

impl Listener {
    /// Reads up to the end, over all that happens.
    async fn listen(mut self) -> Result<Resumed> {
        let cut = Arc::clone(&self.cut);
        let mut cut_at = None;
        // A client has one connection, and it ends with it.
        let mut attached = self.attach().await?;
        loop {
            let message = tokio::select! {
                biased;
                () = cut.notified() => {
                    cut_at = Some(Instant::now());
                    drop(attached);
                    attached = self.attach().await?;
                    continue;
                }
                next = timeout(MESSAGE_PATIENCE, attached.1.next()) => next,
            };
            let message =
                message.with_context(|| format!("session {} is silent behind {:?}", self.session, self.last))?;
            let message = message.context("a stream has an end")??;
            self.take(&message)?;
            self.resumed.after_cut.extend(cut_at.take().map(|at: Instant| at.elapsed()));
            if self.restarted.has_changed()? {
                self.resumed.after_restart.push(self.restarted.borrow_and_update().elapsed());
            }
            if message.is_end() {
                return Ok(self.resumed);
            }
        }
    }

    async fn attach(&self) -> Result<(Client, Reader)> {
        let client = self.place.client();
        let reader = client.reader(topic(), lite(self.session)).follow(true);
        let reader = match self.last {
            Some(id) => reader.after(id).connect().await?,
            None => reader.connect().await?,
        };
        Ok((client, reader))
    }

    /// The message is the next one of this session, and of its one life.
    fn take(&mut self, message: &ReadMessage) -> Result<()> {
        let (session, counter) = (self.session, self.last.map_or(0, |last| last.offset.0 + 1));
        let is_next = message.offset().0 == counter && self.last.is_none_or(|last| last.lite_id == message.lite_id());
        ensure!(is_next, "session {session}: {} came behind {:?}", message.id(), self.last);
        ensure!(
            message.body()[..] == body(session, counter),
            "session {session}: the body of {} is not its",
            message.id()
        );
        ensure!(message.is_end() == (counter + 1 == self.length), "session {session} ends with {}", message.id());
        self.last = Some(message.id());
        self.total.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_stream_is_complete_in_order_and_without_repeat_in_a_storm() -> Result<()> {
    let (sessions, seed) = (setting("SLUICE_STORM_SESSIONS", SESSIONS)?, setting("SLUICE_STORM_SEED", SEED)?);
    let length = MESSAGES_PER_SECOND * setting("SLUICE_STORM_SECONDS", SECONDS)?;
    println!("SLUICE_STORM_SEED={seed}: {sessions} sessions of {length} messages");
    let mut broker = Broker::start()?;
    let settings = TopicSettings {
        retention: Retention::Log(LogRetention { age_ms: None, bytes: Some(1 << 30) }),
        reclaim: ReclaimSettings::NEVER,
        ..TopicSettings::default()
    };
    broker.admin(None)?.create_topic(&CreateTopic { name: topic(), settings }).await?;
    let place = Place { address: broker.address().to_owned(), trust: broker.trust() };

    let (restarts, restarted) = watch::channel(Instant::now());
    let (total, cuts) =
        (Arc::new(AtomicU64::new(0)), (0..sessions).map(|_| Arc::default()).collect::<Vec<Arc<Notify>>>());
    let listening: JoinSet<_> = (0..sessions)
        .zip(&cuts)
        .map(|(session, cut)| {
            let (place, cut, restarted, total) =
                (place.clone(), Arc::clone(cut), restarted.clone(), Arc::clone(&total));
            let resumed = Resumed::default();
            Listener { place, session, length, cut, restarted, total, last: None, resumed }.listen()
        })
        .collect();
    let began = Instant::now();
    let streaming: JoinSet<_> = (0..PRODUCERS)
        .map(|producer| {
            let own = (0..sessions).filter(|session| session % PRODUCERS == producer).collect();
            stream(place.client(), own, length)
        })
        .collect();

    let listening = tokio::spawn(async move { listening.join_all().await.into_iter().collect::<Result<Vec<_>>>() });
    let cut = storm(&mut broker, &cuts, &restarts, &listening, (&total, sessions * length), seed).await?;
    let resumed = listening.await??;
    let took = began.elapsed().as_secs_f64();
    for streamed in streaming.join_all().await {
        streamed?;
    }
    println!("{:.0} messages/s for {took:.1} s; {cut} readers were cut", (sessions * length) as f64 / took);
    report("a cut", resumed.iter().flat_map(|resumed| resumed.after_cut.clone()));
    report(
        "a kill of the broker, from when it was there again",
        resumed.iter().flat_map(|resumed| resumed.after_restart.clone()),
    );
    let restarts = resumed.iter().map(|resumed| resumed.after_restart.len()).sum::<usize>();
    ensure!(cut > 0 && restarts > 0, "{cut} cuts, {restarts} readers lived through a restart: it was no storm");
    Ok(())
}

/// Cuts readers each second, and kills the broker whenever another third of all messages was read; answers how many it cut.
async fn storm(
    broker: &mut Broker,
    cuts: &[Arc<Notify>],
    restarts: &watch::Sender<Instant>,
    listening: &JoinHandle<Result<Vec<Resumed>>>,
    (read, all): (&AtomicU64, u64),
    seed: u64,
) -> Result<usize> {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let (mut killed, mut cut, mut second) = (0, 0, Instant::now());
    while !listening.is_finished() {
        tokio::time::sleep(LOOK_EVERY).await;
        if second.elapsed() >= Duration::from_secs(1) {
            second += Duration::from_secs(1);
            let chosen = cuts.iter().filter(|_| random.random_range(0..100) < CUT_PERCENT);
            cut += chosen.map(|reader| reader.notify_one()).count();
        }
        if killed < KILLS && read.load(Ordering::Relaxed) > all * (killed + 1) / (KILLS + 1) {
            killed += 1;
            block_in_place(|| broker.crash_and_restart())?;
            restarts.send_replace(Instant::now());
        }
    }
    ensure!(killed == KILLS, "the broker was killed {killed} times");
    Ok(cut)
}

fn report(what: &str, times: impl Iterator<Item = Duration> + Clone) {
    let [half, most] = [50, 99].map(|percent| percentile(times.clone(), percent).as_secs_f64() * 1e3);
    println!("{} readers resumed after {what}: p50 {half:.0} ms, p99 {most:.0} ms", times.count());
}
