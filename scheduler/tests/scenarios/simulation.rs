//! A group in virtual time: what arrives when, who works on it and for how long, and what became of each message.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::{
    Answer, Ask, Charge, Concurrency, Decision, Ending, Event, Head, HoldSource, Members, Plan, Quotas, Scheduler,
    Scope, SessionKey, Verdict,
};

pub(crate) const START: Timestamp = Timestamp::from_millis(1_000_000);

/// A message to be published.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) lite: u64,
    pub(crate) tenant: u64,
    pub(crate) priority: u8,
    pub(crate) cost: u64,
    /// What it turns out to cost.
    pub(crate) measured: u64,
    pub(crate) service: Duration,
}

/// What became of a message, in the order of deliveries.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    pub(crate) job: Job,
    pub(crate) published_at: Timestamp,
    pub(crate) delivered_at: Timestamp,
    pub(crate) band: u8,
    /// Deliveries before its own settle; `usize::MAX` while it runs.
    pub(crate) settled_before: usize,
}

impl Served {
    pub(crate) fn wait(&self) -> Duration {
        self.delivered_at.since(self.published_at)
    }

    /// From publish to ack.
    pub(crate) fn latency(&self) -> Duration {
        self.wait() + self.job.service
    }
}

#[derive(Debug, Clone, Copy)]
enum Happening {
    Publish(Job),
    Suspend { lite: u64, tenant: u64, wait: Duration },
    Finish { index: usize, session: SessionKey, charge: Charge },
}

pub(crate) struct Simulation {
    scheduler: Scheduler,
    now: Timestamp,
    agenda: BinaryHeap<Reverse<(Timestamp, usize)>>,
    happenings: Vec<Happening>,
    waiting: HashMap<u64, VecDeque<(u64, Job, Timestamp)>>,
    next_offset: HashMap<u64, u64>,
    held_until: HashMap<u64, Timestamp>,
    weights: BTreeMap<u64, u32>,
    pub(crate) served: Vec<Served>,
    /// Deliveries of lite topics that were suspended at that moment.
    pub(crate) wasted: usize,
}

impl Simulation {
    /// So many consumers, each with room for so many messages at once.
    pub(crate) fn new(quotas: Quotas, consumers: u64, slots: u32) -> Self {
        let concurrency = Concurrency { group: u32::MAX, tenant: u32::MAX, lite: 1 };
        let mut scheduler = Scheduler::new(START, quotas, concurrency, None, 1);
        for session in (1..=consumers).map(SessionKey) {
            scheduler.handle(START, Event::Attached(session, Scope::All));
            scheduler.handle(START, Event::Credit(session, slots));
        }
        Self {
            scheduler,
            now: START,
            agenda: BinaryHeap::new(),
            happenings: Vec::new(),
            waiting: HashMap::new(),
            next_offset: HashMap::new(),
            held_until: HashMap::new(),
            weights: BTreeMap::new(),
            served: Vec::new(),
            wasted: 0,
        }
    }

    /// A policy that lets everything run, and gives the tenants these weights.
    pub(crate) fn with_weights(mut self, weights: impl IntoIterator<Item = (u64, u32)>) -> Self {
        self.weights = weights.into_iter().collect();
        self.scheduler.handle(self.now, Event::PolicyBound);
        self
    }

    pub(crate) fn publish(&mut self, after: Duration, job: Job) {
        self.plan(START.plus(after), Happening::Publish(job));
    }

    pub(crate) fn suspend(&mut self, after: Duration, lite: u64, tenant: u64, wait: Duration) {
        self.plan(START.plus(after), Happening::Suspend { lite, tenant, wait });
    }

    /// Lets happen what happens until that time.
    pub(crate) fn run_for(&mut self, span: Duration) {
        let end = START.plus(span);
        loop {
            self.decide();
            let planned = self.agenda.peek().map(|Reverse((at, _))| *at);
            let Some(next) = planned.into_iter().chain(self.scheduler.next_timeout()).min() else { return };
            if next > end {
                return;
            }
            self.now = self.now.max(next);
            while let Some(&Reverse((at, index))) = self.agenda.peek()
                && at <= self.now
            {
                self.agenda.pop();
                self.happen(self.happenings[index]);
            }
        }
    }

    fn plan(&mut self, at: Timestamp, happening: Happening) {
        self.agenda.push(Reverse((at, self.happenings.len())));
        self.happenings.push(happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Publish(job) => {
                let offset = self.next_offset.entry(job.lite).or_default();
                let waiting = self.waiting.entry(job.lite).or_default();
                waiting.push_back((*offset, job, self.now));
                *offset += 1;
                self.tell_head(job.lite, job.tenant);
            }
            Happening::Suspend { lite, tenant, wait } => {
                let until = self.now.plus(wait);
                self.held_until.insert(lite, until);
                let (lite, tenant, source) = (LiteId(lite), TenantId(tenant), HoldSource::Operator);
                self.scheduler.handle(self.now, Event::Held { lite, tenant, source, until });
            }
            Happening::Finish { index, session, charge } => {
                let Job { lite, tenant, measured, service, .. } = self.served[index].job;
                let ending = Ending::done(Some(measured), service);
                self.scheduler.handle(self.now, Event::Settled { lite: LiteId(lite), charge, ending });
                self.served[index].settled_before = self.served.len();
                self.scheduler.handle(self.now, Event::Credit(session, 1));
                self.tell_head(lite, tenant);
            }
        }
    }

    fn tell_head(&mut self, lite: u64, tenant: u64) {
        let waiting = self.waiting.entry(lite).or_default();
        let (id, tenant, backlog) = (LiteId(lite), TenantId(tenant), waiting.len() as u64);
        let event = match waiting.front() {
            None => Event::Emptied(id),
            Some(&(offset, Job { priority, cost, .. }, published_at)) => {
                let offset = Offset(offset);
                let head =
                    Head { offset, published_at, priority, cost, deliver_at: None, expires_at: None, attempts: 0 };
                Event::Head { lite: id, tenant, members: Members::default(), head, backlog }
            }
        };
        self.scheduler.handle(self.now, event);
    }

    fn decide(&mut self) {
        while let Some(decision) = self.scheduler.poll(self.now) {
            match decision {
                Decision::Deliver { lite, session, charge, .. } => self.deliver(lite.0, session, charge),
                Decision::Ask(ask) => self.answer(&ask),
                other => panic!("nobody decided {other:?}"),
            }
        }
    }

    fn deliver(&mut self, lite: u64, session: SessionKey, charge: Charge) {
        let waiting = self.waiting.get_mut(&lite).expect("it has messages");
        let (_, job, published_at) = waiting.pop_front().expect("only what waits is delivered");
        self.wasted += usize::from(self.held_until.get(&lite).is_some_and(|&until| until > self.now));
        let index = self.served.len();
        let (delivered_at, band) = (self.now, charge.band);
        self.served.push(Served { job, published_at, delivered_at, band, settled_before: usize::MAX });
        self.plan(self.now.plus(job.service), Happening::Finish { index, session, charge });
    }

    fn answer(&mut self, ask: &Ask) {
        let verdict = Verdict::Serve { band: None, max_messages: u32::MAX };
        let answer = Answer { verdict, valid_for: Duration::MAX, reason: 0, memo: 0 };
        let weights = ask.frame.tenants.iter().map(|row| self.weights.get(&row.tenant.0).copied().unwrap_or(1));
        let plan = Plan { lites: vec![answer; ask.frame.lites.len()], weights: weights.collect(), ..Plan::default() };
        self.scheduler.handle(self.now, Event::Answered { sequence: ask.frame.sequence, plan });
    }
}

pub(crate) fn random(seed: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(seed)
}

/// Arrival times of a Poisson process of so many per second.
pub(crate) fn arrivals(random: &mut Pcg64Mcg, per_second: f64, span: Duration) -> Vec<Duration> {
    let mut at = 0.0;
    let mut times = Vec::new();
    loop {
        at -= (1.0 - random.random::<f64>()).ln() / per_second;
        if at >= span.as_secs_f64() {
            return times;
        }
        times.push(Duration::from_secs_f64(at));
    }
}

/// A service time of 100 ms, give or take half.
pub(crate) fn around_100_ms(random: &mut Pcg64Mcg) -> Duration {
    Duration::from_micros(random.random_range(50_000..=150_000))
}

/// The value that so many of a thousand do not exceed.
pub(crate) fn quantile(mut values: Vec<Duration>, of_1000: usize) -> Duration {
    values.sort_unstable();
    values[(values.len() * of_1000 / 1_000).min(values.len() - 1)]
}

pub(crate) fn mean(values: &[Duration]) -> Duration {
    values.iter().sum::<Duration>() / u32::try_from(values.len()).expect("few values")
}
