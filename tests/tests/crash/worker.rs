//! A consumer that speaks frames, so that it sees tokens, keeps leases over a restart, and settles by tokens that are worth
//! nothing any more.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_client::{ErrorCode, GroupName, LiteId, Offset, Outcome, SessionId, SettleError, Timestamp};
use sluicegate_protocol::LeaseToken;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role, settle_one};
use sluicegate_tests::Broker;
use sluicegate_tests::history::{BrokerClock, Delivered, End};
use sluicegate_tests::raw::RawStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::fact::{Fact, OneLife};
use crate::publisher::fingerprint;
use crate::world::QUIET;

const CREDIT: u32 = 6;
const STALE_MAX: usize = 32;
const SETTLES_MAX: usize = 8;

/// A lease that the worker has.
#[derive(Debug, Clone)]
pub(crate) struct Held {
    pub(crate) token: LeaseToken,
    pub(crate) lite: OneLife,
    pub(crate) offset: Offset,
    /// Asked for and not answered.
    pub(crate) asked: Option<(End, Timestamp)>,
}

/// What one settle of a frame was about.
enum Asked {
    Lease(LeaseToken, End, Instant),
    /// By a token whose lease is over.
    Stale(Held),
    /// More time.
    Extension(LeaseToken),
}

/// How it goes about its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// All kinds of settles.
    Mixed,
    /// Everything is done at once.
    Diligent,
}

pub(crate) struct Worker {
    pub(crate) id: SessionId,
    /// In the record.
    pub(crate) session: usize,
    group: GroupName,
    random: Pcg64Mcg,
    pub(crate) held: HashMap<LeaseToken, Held>,
    stale: VecDeque<Held>,
    /// What is to be settled, and when.
    due: BTreeMap<(Instant, u64, u64), End>,
    extend: BTreeSet<(Instant, u64, u64)>,
    requests: HashMap<u64, Vec<Asked>>,
    next_request: u64,
    credit: u32,
    mood: Mood,
    pub(crate) facts: Vec<Fact>,
}

impl Worker {
    pub(crate) fn new(session: usize, group: GroupName, seed: u64) -> Self {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        Self {
            id: SessionId(random.random()),
            session,
            group,
            random,
            held: HashMap::new(),
            stale: VecDeque::new(),
            due: BTreeMap::new(),
            extend: BTreeSet::new(),
            requests: HashMap::new(),
            next_request: 1,
            credit: 0,
            mood: Mood::Mixed,
            facts: Vec::new(),
        }
    }

    /// Attaches with its session: the stream, and what the broker says that the session holds.
    pub(crate) async fn connect(&mut self, broker: &Broker) -> Result<(RawStream, wire::Welcome)> {
        self.requests.clear();
        self.credit = 0;
        let role = wire::ConsumerRole {
            group: self.group.as_str().into(),
            session_id: self.id.to_bytes().to_vec(),
            credit_messages: CREDIT,
            named: false,
        };
        RawStream::hello(broker, Role::Consumer(role)).await
    }

    /// Plans the work on everything that it holds anew.
    pub(crate) fn resume(&mut self, mood: Mood) {
        self.mood = mood;
        (self.due, self.extend) = Default::default();
        let tokens: Vec<_> = self.held.keys().copied().collect();
        for token in tokens {
            self.plan(token);
        }
    }

    /// Works until it is stopped, and then takes the answers that came.
    pub(crate) async fn run(
        mut self,
        mut stream: RawStream,
        clock: BrokerClock,
        mut stop: watch::Receiver<bool>,
    ) -> Self {
        while !*stop.borrow() {
            let (due, extend) = (self.due.keys().next().map(|key| key.0), self.extend.first().map(|key| key.0));
            let done = tokio::select! {
                // Stopped, or the test is gone.
                _ = stop.changed() => break,
                frame = stream.next() => match frame {
                    Ok(Some(frame)) => self.receive(frame, &clock),
                    other => Err(anyhow::anyhow!("the stream ended: {other:?}")),
                },
                () = at(due) => self.settle(&mut stream).await,
                () = at(extend) => self.extend(&mut stream).await,
            };
            let given = match done {
                Ok(()) => self.give_credit(&mut stream).await,
                Err(error) => Err(error),
            };
            if let Err(error) = given {
                self.facts.push(Fact::Wrong(format!("session {}: {error:#}", self.session)));
                break;
            }
        }
        while let Ok(Ok(Some(frame))) = tokio::time::timeout(QUIET, stream.next()).await {
            if self.receive(frame, &clock).is_err() {
                break;
            }
        }
        self.unanswered(&clock);
        self
    }

    /// What was asked of a broker that is gone may have been done.
    fn unanswered(&mut self, clock: &BrokerClock) {
        for asked in std::mem::take(&mut self.requests).into_values().flatten() {
            if let Asked::Lease(token, end, at) = asked
                && let Some(held) = self.held.get_mut(&token)
            {
                held.asked = Some((end, clock.earliest(at)));
            }
        }
    }

    fn receive(&mut self, frame: Frame, clock: &BrokerClock) -> Result<()> {
        match frame {
            Frame::Deliveries(header, bodies) => self.delivered(header, bodies, clock),
            Frame::Settled(settled, ()) => self.settled(settled, clock),
            Frame::Extended(extended, ()) => self.extended(extended),
            other => anyhow::bail!("an unexpected frame: {other:?}"),
        }
        Ok(())
    }

    fn delivered(&mut self, header: wire::Deliveries, mut bodies: Bytes, clock: &BrokerClock) {
        for delivery in header.deliveries {
            let body = bodies.split_to(delivery.body_bytes as usize);
            let token = delivery.token.map(token).expect("a delivery has a token");
            let lite = OneLife { id: LiteId(delivery.lite_id), name: delivery.lite };
            let delivered = Delivered {
                place: (usize::MAX, delivery.offset),
                body: Some(fingerprint(&body)),
                session: self.session,
                attempt: delivery.attempt,
                at: Timestamp(delivery.dispatched_at_us),
                deadline: Timestamp(delivery.deadline_us),
                cost: delivery.cost,
                tenant: delivery.tenant,
                token: Some(token),
                ended: None,
            };
            self.facts.push(Fact::Delivered(lite.clone(), Box::new(delivered)));
            self.held.insert(token, Held { token, lite, offset: Offset(delivery.offset), asked: None });
            if self.mood == Mood::Mixed && self.percent(2) {
                let now = Instant::now();
                self.facts.push(Fact::Abandoned(token, clock.span(now, now)));
                // Its token is worth something until it runs out.
                self.held.remove(&token);
                self.credit += 1;
            } else {
                self.plan(token);
            }
        }
    }

    /// When the work on a message will be over, and how.
    fn plan(&mut self, token: LeaseToken) {
        let now = Instant::now();
        let is_long = self.mood == Mood::Mixed && self.percent(2);
        let millis = match (self.mood, is_long) {
            (Mood::Diligent, _) => 0,
            (Mood::Mixed, true) => self.random.random_range(300..2_500),
            (Mood::Mixed, false) => self.random.random_range(0..15),
        };
        let at = now + Duration::from_millis(millis);
        if millis > 1_000 {
            self.extend.insert((now + Duration::from_millis(millis / 2), token.epoch, token.counter));
        }
        let end = self.end();
        self.due.insert((at, token.epoch, token.counter), end);
    }

    fn end(&mut self) -> End {
        let millis = Duration::from_millis(self.random.random_range(5..150));
        match self.random.random_range(0..100) {
            _ if self.mood == Mood::Diligent => End::Ack,
            0..66 => End::Ack,
            66..76 => End::AckWithCost(self.random.random_range(0..12)),
            76..82 => End::Retry(Some(Duration::ZERO)),
            82..88 => End::Retry(Some(millis)),
            88..89 => End::Retry(None),
            89..96 => End::Suspend(millis),
            _ => End::DeadLetter,
        }
    }

    async fn settle(&mut self, stream: &mut RawStream) -> Result<()> {
        let (now, mut asked, mut settles) = (Instant::now(), Vec::new(), Vec::new());
        while let Some((&(at, epoch, counter), &end)) = self.due.first_key_value()
            && at <= now
            && asked.len() < SETTLES_MAX
        {
            self.due.pop_first();
            let token = LeaseToken { epoch, counter };
            let Some(held) = self.held.get(&token) else { continue };
            settles.push(settle_one(held, end));
            asked.push(Asked::Lease(token, end, now));
        }
        if self.percent(10)
            && let Some(held) = self.stale.pop_front()
        {
            settles.push(settle_one(&held, End::Ack));
            asked.push(Asked::Stale(held));
        }
        if settles.is_empty() {
            return Ok(());
        }
        let sequence = self.request();
        self.requests.insert(sequence, asked);
        stream.send_frame(&Frame::Settle(wire::Settle { sequence, settles }, ())).await
    }

    async fn extend(&mut self, stream: &mut RawStream) -> Result<()> {
        let now = Instant::now();
        let (mut leases, mut asked) = (Vec::new(), Vec::new());
        while let Some(&(at, epoch, counter)) = self.extend.first()
            && at <= now
        {
            self.extend.pop_first();
            let Some(held) = self.held.get(&LeaseToken { epoch, counter }) else { continue };
            let token = wire::Token { epoch, counter };
            asked.push(Asked::Extension(held.token));
            leases.push(wire::ExtendOne { token: Some(token), lite_id: held.lite.id.0, offset: held.offset.0 });
        }
        if leases.is_empty() {
            return Ok(());
        }
        let sequence = self.request();
        self.requests.insert(sequence, asked);
        stream.send_frame(&Frame::Extend(wire::Extend { sequence, leases }, ())).await
    }

    fn settled(&mut self, settled: wire::Settled, clock: &BrokerClock) {
        let answered = Instant::now();
        let asked = self.requests.remove(&settled.sequence).unwrap_or_default();
        if asked.len() != settled.results.len() {
            self.facts.push(Fact::Wrong(format!("session {} got {settled:?}", self.session)));
        }
        for (asked, result) in asked.into_iter().zip(settled.results) {
            let is_lost = result.code == ErrorCode::LeaseLost.number();
            match asked {
                Asked::Stale(held) if !is_lost => {
                    let what = format!("session {} settled by a stale token: {held:?}, {result:?}", self.session);
                    self.facts.push(Fact::Wrong(what));
                }
                Asked::Stale(_) | Asked::Extension(_) => {}
                Asked::Lease(token, end, at) => {
                    let result = match result.code {
                        0 => Ok(()),
                        _ if is_lost => Err(SettleError::LeaseLost),
                        _ => Err(SettleError::Closed),
                    };
                    self.facts.push(Fact::Settled(token, clock.span(at, answered), end, result));
                    self.let_go(token);
                    self.credit += 1;
                }
            }
        }
    }

    fn extended(&mut self, extended: wire::Extended) {
        let asked = self.requests.remove(&extended.sequence).unwrap_or_default();
        for (asked, result) in asked.into_iter().zip(extended.results) {
            // What is refused is lost, which its settle will say.
            if let Asked::Extension(token) = asked
                && result.code == 0
            {
                self.facts.push(Fact::Extended(token, Timestamp(result.deadline_us)));
            }
        }
    }

    /// Its lease is over, or nobody works on it any more.
    fn let_go(&mut self, token: LeaseToken) {
        if let Some(held) = self.held.remove(&token) {
            self.forget_plan(token);
            self.stale.push_back(held);
        }
        if self.stale.len() > STALE_MAX {
            self.stale.pop_front();
        }
    }

    /// The broker says that the lease is over.
    pub(crate) fn lost(&mut self, token: LeaseToken) -> Option<Held> {
        let held = self.held.get(&token).cloned();
        self.let_go(token);
        held
    }

    fn forget_plan(&mut self, token: LeaseToken) {
        let is_it = |epoch, counter| (epoch, counter) == (token.epoch, token.counter);
        self.due.retain(|&(_, epoch, counter), _| !is_it(epoch, counter));
        self.extend.retain(|&(_, epoch, counter)| !is_it(epoch, counter));
    }

    async fn give_credit(&mut self, stream: &mut RawStream) -> Result<()> {
        let messages = std::mem::take(&mut self.credit);
        if messages == 0 {
            return Ok(());
        }
        stream.send_frame(&Frame::Credit(wire::Credit { messages, load_ppm: None }, ())).await
    }

    fn request(&mut self) -> u64 {
        self.next_request += 1;
        self.next_request
    }

    fn percent(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }
}

pub(crate) fn token(token: wire::Token) -> LeaseToken {
    LeaseToken { epoch: token.epoch, counter: token.counter }
}

fn settle_one(held: &Held, end: End) -> wire::SettleOne {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (outcome, cost) = match end.outcome().expect("what is abandoned is not settled") {
        Outcome::Ack => (settle_one::Outcome::Ack(wire::Ack {}), None),
        Outcome::AckWithCost(cost) => (settle_one::Outcome::Ack(wire::Ack {}), Some(cost)),
        Outcome::RetryAfter(delay) => {
            (settle_one::Outcome::Retry(wire::Retry { delay_ms: Some(millis(delay)), upstream: true }), None)
        }
        Outcome::Retry(delay) => {
            (settle_one::Outcome::Retry(wire::Retry { delay_ms: delay.map(millis), upstream: false }), None)
        }
        Outcome::Suspend(duration) => {
            (settle_one::Outcome::Suspend(wire::Suspend { duration_ms: millis(duration) }), None)
        }
        Outcome::DeadLetter(reason) => (settle_one::Outcome::DeadLetter(wire::DeadLetter { reason }), None),
    };
    let token = wire::Token { epoch: held.token.epoch, counter: held.token.counter };
    wire::SettleOne { token: Some(token), lite_id: held.lite.id.0, offset: held.offset.0, cost, outcome: Some(outcome) }
}

async fn at(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
