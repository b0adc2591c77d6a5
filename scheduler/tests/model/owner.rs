//! The owner's side of the contract, beside both schedulers: what the shard knows, and does with each decision.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::{
    Ask, Charge, Concurrency, Decision, Ending, Event, Head, HoldSource, Members, QuotaState, Quotas, Scheduler, Scope,
    SessionKey, WorkResult,
};

use crate::answers;
use crate::history::{Step, quotas};
use crate::model::Model;
use crate::quota;

const SOURCES: [HoldSource; 4] = [HoldSource::Settle, HoldSource::Policy, HoldSource::Operator, HoldSource::Retry];
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const SEED: u64 = 5;
/// Of those that wait longest so many are compared.
const WAITERS: usize = 5;

pub(crate) struct Owner {
    scheduler: Scheduler,
    model: Model,
    now: Timestamp,
    quotas: Quotas,
    concurrency: Concurrency,
    is_paused: bool,
    watchdog: Option<Duration>,
    is_bound: bool,
    /// Tells the next head right after each delivery, whatever the concurrency is.
    is_eager: bool,
    lites: u64,
    tenants: u64,
    messages: BTreeMap<u64, BTreeMap<u64, Message>>,
    next_offset: BTreeMap<u64, u64>,
    leases: Vec<Lease>,
    holds: BTreeMap<(u64, HoldSource), Timestamp>,
    sessions: BTreeMap<u64, (Scope, u32)>,
    /// The sessions that each lite topic names, a bit for each.
    named: BTreeMap<u64, u8>,
    ask: Option<Ask>,
    late_asks: Vec<Ask>,
}

#[derive(Debug, Clone, Copy)]
struct Message {
    head: Head,
    is_leased: bool,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    lite: u64,
    offset: u64,
    session: u64,
    charge: Charge,
}

impl Owner {
    /// A group with three sessions of that scope, so that histories need not begin with them.
    pub(crate) fn new(lites: u64, tenants: u64, concurrency: Concurrency, scope: Scope, is_eager: bool) -> Self {
        let mut owner = Self {
            scheduler: Scheduler::new(START, quotas(0), concurrency, None, SEED),
            model: Model::new(START, quotas(0), concurrency, None, SEED),
            now: START,
            quotas: quotas(0),
            concurrency,
            is_paused: false,
            watchdog: Some(Duration::from_secs(30)),
            is_bound: false,
            is_eager,
            lites,
            tenants,
            messages: BTreeMap::new(),
            next_offset: BTreeMap::new(),
            leases: Vec::new(),
            holds: BTreeMap::new(),
            sessions: BTreeMap::new(),
            named: BTreeMap::new(),
            ask: None,
            late_asks: Vec::new(),
        };
        if scope == Scope::Named {
            owner.named = (0..lites).zip((0..16).cycle()).collect();
        }
        for session in 0..3 {
            owner.apply(Step::Attach(session, scope));
            owner.apply(Step::Credit(session, 3));
        }
        owner
    }

    /// Polls both until they have nothing to do.
    pub(crate) fn poll_all(&mut self) -> Result<(), TestCaseError> {
        loop {
            let decision = self.scheduler.poll(self.now);
            let expected = self.model.poll(self.now);
            prop_assert_eq!(&decision, &expected, "the scheduler, the model");
            let Some(decision) = decision else { break };
            self.obey(decision);
        }
        self.compare()
    }

    /// What can be seen from outside is the same.
    pub(crate) fn compare(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.scheduler.stats(), self.model.stats(), "the scheduler, the model");
        prop_assert_eq!(self.scheduler.service_gap(), self.model.service_gap(), "the scheduler, the model");
        prop_assert_eq!(self.scheduler.next_timeout(), self.model.next_timeout(), "the scheduler, the model");
        prop_assert_eq!(self.scheduler.quota_state(), self.model.quotas.state(), "the scheduler, the model");
        let waiters: Vec<_> = self.scheduler.oldest_waiters(None).take(WAITERS).collect();
        prop_assert_eq!(waiters, self.model.oldest_waiters(WAITERS), "the scheduler, the model");
        Ok(())
    }

    pub(crate) fn apply(&mut self, step: Step) {
        match step {
            Step::Publish { lite, priority, cost, deliver_in, expires_in } => {
                let deliver_at = deliver_in.map(|wait| self.after(wait));
                let expires_at = expires_in.map(|wait| self.after(wait));
                self.publish(lite, |head| Head { priority, cost, deliver_at, expires_at, ..head });
            }
            Step::Flood { from, count, priority } => {
                for lite in from..from + count {
                    let cost = 1 + lite % 7;
                    self.publish(lite % self.lites, |head| Head { priority, cost, ..head });
                }
            }
            Step::Tell(lite) => self.tell_head(lite),
            Step::Purge(lite) => {
                if let Some(messages) = self.messages.get_mut(&lite) {
                    messages.retain(|_, message| message.is_leased);
                }
                self.tell_head(lite);
            }
            Step::Attach(session, scope) => {
                self.sessions.insert(session, (scope, 0));
                self.on(&Event::Attached(SessionKey(session), scope));
            }
            Step::Subscribe { lite, sessions } => {
                self.named.insert(lite, sessions);
                self.tell_head(lite);
            }
            Step::Detach(session) => self.detach(session),
            Step::Close(session) => {
                self.detach(session);
                // Highest offset first, as the shard does it.
                while let Some(nth) = self.leases.iter().rposition(|lease| lease.session == session) {
                    self.give_back(nth, Ending::Returned, 0);
                }
            }
            Step::Credit(session, credit) => {
                if let Some((_, held)) = self.sessions.get_mut(&session) {
                    *held = held.saturating_add(credit);
                }
                self.on(&Event::Credit(SessionKey(session), credit));
            }
            Step::Load(session, load_ppm) => self.on(&Event::Load(SessionKey(session), load_ppm)),
            Step::Ack { nth, measured } => {
                if let Some(nth) = self.nth(nth) {
                    let lease = self.leases.remove(nth);
                    self.messages.get_mut(&lease.lite).expect("it was leased").remove(&lease.offset);
                    self.end(lease, Ending::done(measured, Duration::from_millis(2)));
                }
            }
            Step::AckOldest { count } => {
                for _ in 0..count {
                    self.apply(Step::Ack { nth: 0, measured: None });
                }
            }
            Step::Retry { nth, delay } => {
                if let Some(nth) = self.nth(nth) {
                    self.hold(self.leases[nth].lite, HoldSource::Retry, delay);
                    let (service, result) = (Duration::from_millis(3), WorkResult::Retried);
                    let retry_after = (delay % 2 == 0).then(|| Duration::from_millis(delay));
                    self.give_back(nth, Ending::Used { cost: None, service, result, retry_after }, 1);
                }
            }
            Step::ExpireLease { nth } => {
                if let Some(nth) = self.nth(nth) {
                    let (service, result) = (Duration::from_mins(1), WorkResult::TimedOut);
                    self.give_back(nth, Ending::Used { cost: None, service, result, retry_after: None }, 1);
                }
            }
            Step::Return { nth, suspend } => {
                if let Some(nth) = self.nth(nth) {
                    if suspend > 0 {
                        self.hold(self.leases[nth].lite, HoldSource::Settle, suspend);
                    }
                    self.give_back(nth, Ending::Returned, 0);
                }
            }
            Step::Hold { lite, source, wait } => self.hold(lite, SOURCES[source], wait),
            Step::Resume { lite, source } => {
                let source = source.map(|source| SOURCES[source]);
                self.holds.retain(|&(held, by), _| held != lite || source.is_some_and(|source| source != by));
                self.on(&Event::Resumed { lite: LiteId(lite), source });
            }
            Step::AdvanceMicros(by) => self.now = self.now.plus(Duration::from_micros(by)),
            Step::AdvanceSeconds(by) => self.now = self.now.plus(Duration::from_secs(by)),
            Step::GoBack(by) => self.now = Timestamp(self.now.0 - by * 1_000),
            Step::Quotas(index) => {
                self.quotas = quotas(index);
                self.on(&Event::Quotas(self.quotas));
            }
            Step::Concurrency(group, tenant, lite) => self.set_concurrency(Concurrency { group, tenant, lite }),
            Step::Pause(is_paused) => {
                self.is_paused = is_paused;
                self.on(if is_paused { &Event::Paused } else { &Event::Unpaused });
            }
            Step::Watchdog(seconds) => {
                self.watchdog = (seconds > 0).then(|| Duration::from_secs(seconds));
                self.on(&Event::Watchdog(self.watchdog));
            }
            Step::Bind(is_bound) => {
                let event = if is_bound { Event::PolicyBound } else { Event::PolicyUnbound };
                self.is_bound = is_bound;
                self.on(&event);
            }
            Step::Answer { seed, is_wrong_length } => {
                if let Some(ask) = self.ask.take() {
                    self.answer(ask, seed, is_wrong_length);
                }
            }
            Step::LateAnswer { seed } => {
                if let Some(ask) = self.late_asks.pop() {
                    self.answer(ask, seed, false);
                }
            }
            Step::FailAsk => {
                if let Some(ask) = self.ask.take() {
                    self.on(&Event::AskFailed { sequence: ask.frame.sequence });
                    self.late_asks.push(ask);
                }
            }
            Step::FailLateAsk => {
                if let Some(ask) = self.late_asks.pop() {
                    self.on(&Event::AskFailed { sequence: ask.frame.sequence });
                }
            }
            Step::Restart { is_state_lost } => self.restart(is_state_lost),
        }
    }

    fn on(&mut self, event: &Event) {
        self.scheduler.handle(self.now, event.clone());
        self.model.handle(self.now, event.clone());
    }

    fn tenant_of(&self, lite: u64) -> TenantId {
        TenantId(lite % self.tenants)
    }

    fn after(&self, wait: u64) -> Timestamp {
        self.now.plus(Duration::from_millis(wait))
    }

    fn publish(&mut self, lite: u64, message: impl Fn(Head) -> Head) {
        let offset = self.next_offset.entry(lite).or_default();
        let head = message(Head {
            offset: Offset(*offset),
            published_at: self.now,
            priority: 4,
            cost: 1,
            deliver_at: None,
            expires_at: None,
            attempts: 0,
        });
        self.messages.entry(lite).or_default().insert(*offset, Message { head, is_leased: false });
        *offset += 1;
        let is_open = self.leases.iter().any(|lease| lease.lite == lite);
        if !is_open || self.is_eager || self.concurrency.lite > 1 {
            self.tell_head(lite);
        }
    }

    fn tell_head(&mut self, lite: u64) {
        let waiting = self.messages.get(&lite).into_iter().flat_map(BTreeMap::values).filter(|row| !row.is_leased);
        let heads: Vec<Head> = waiting.map(|message| message.head).collect();
        let (id, tenant, backlog) = (LiteId(lite), self.tenant_of(lite), heads.len() as u64);
        let named = self.named.get(&lite).copied().unwrap_or(0);
        let members: Members = (0..8).filter(|bit| named >> bit & 1 == 1).map(SessionKey).collect();
        match heads.first() {
            Some(&head) => self.on(&Event::Head { lite: id, tenant, members, head, backlog }),
            None => self.on(&Event::Emptied(id)),
        }
    }

    fn detach(&mut self, session: u64) {
        self.sessions.remove(&session);
        self.on(&Event::Detached(SessionKey(session)));
    }

    fn nth(&self, nth: usize) -> Option<usize> {
        nth.checked_rem(self.leases.len())
    }

    /// Leased -> Waiting
    fn give_back(&mut self, nth: usize, ending: Ending, attempts: u32) {
        let lease = self.leases.remove(nth);
        let messages = self.messages.get_mut(&lease.lite).expect("it was leased");
        let message = messages.get_mut(&lease.offset).expect("it was leased");
        message.is_leased = false;
        message.head.attempts += attempts;
        self.end(lease, ending);
    }

    fn end(&mut self, lease: Lease, ending: Ending) {
        self.on(&Event::Settled { lite: LiteId(lease.lite), charge: lease.charge, ending });
        self.tell_head(lease.lite);
    }

    fn hold(&mut self, lite: u64, source: HoldSource, wait: u64) {
        let until = self.after(wait);
        self.holds.insert((lite, source), until);
        self.on(&Event::Held { lite: LiteId(lite), tenant: self.tenant_of(lite), source, until });
    }

    fn set_concurrency(&mut self, concurrency: Concurrency) {
        self.concurrency = concurrency;
        self.on(&Event::Concurrency(concurrency));
        if concurrency.lite > 1 {
            let open: BTreeSet<u64> = self.leases.iter().map(|lease| lease.lite).collect();
            for lite in open {
                self.tell_head(lite);
            }
        }
    }

    fn answer(&mut self, ask: Ask, seed: u64, is_wrong_length: bool) {
        let plan = answers::plan(&ask, seed, is_wrong_length);
        self.on(&Event::Answered { sequence: ask.frame.sequence, plan });
        self.late_asks.push(ask);
    }

    /// A new process: everything durable is told again.
    fn restart(&mut self, is_state_lost: bool) {
        let saved = if is_state_lost { quota::empty(self.now, self.quotas) } else { self.scheduler.quota_state() };
        assert!(!is_state_lost || saved == QuotaState::empty(self.now, self.quotas), "empty buckets differ");
        self.scheduler = Scheduler::new(self.now, self.quotas, self.concurrency, Some(saved), SEED);
        self.model = Model::new(self.now, self.quotas, self.concurrency, Some(saved), SEED);
        self.ask = None;
        self.late_asks.clear();
        if self.is_bound {
            self.on(&Event::PolicyBound);
        }
        self.on(&Event::Watchdog(self.watchdog));
        if self.is_paused {
            self.on(&Event::Paused);
        }
        for Lease { lite, charge, .. } in self.leases.clone() {
            self.on(&Event::Leased { lite: LiteId(lite), tenant: self.tenant_of(lite), charge });
        }
        for ((lite, source), until) in self.holds.clone() {
            self.on(&Event::Held { lite: LiteId(lite), tenant: self.tenant_of(lite), source, until });
        }
        for lite in self.messages.keys().copied().collect::<Vec<_>>() {
            self.tell_head(lite);
        }
        for (session, (scope, credit)) in self.sessions.clone() {
            self.on(&Event::Attached(SessionKey(session), scope));
            self.on(&Event::Credit(SessionKey(session), credit));
        }
    }

    fn obey(&mut self, decision: Decision) {
        match decision {
            Decision::Deliver { lite, offset, session, charge, .. } => {
                let lite = lite.0;
                self.sessions.get_mut(&session.0).expect("it is attached").1 -= 1;
                let messages = self.messages.get_mut(&lite).expect("it has messages");
                messages.get_mut(&offset.0).expect("it waits").is_leased = true;
                self.leases.push(Lease { lite, offset: offset.0, session: session.0, charge });
                if self.is_eager || self.concurrency.lite > 1 {
                    self.tell_head(lite);
                }
            }
            Decision::Ask(ask) => self.late_asks.extend(self.ask.replace(ask)),
            Decision::Suspend { lite, until, .. } => {
                self.holds.insert((lite.0, HoldSource::Policy), until);
            }
            Decision::Expired { lite, offset }
            | Decision::DeadLetter { lite, offset, .. }
            | Decision::Drop { lite, offset, .. } => {
                self.messages.get_mut(&lite.0).expect("it has messages").remove(&offset.0);
                self.tell_head(lite.0);
            }
        }
    }
}
