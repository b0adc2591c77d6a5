//! Random histories: the owner's side of the contract as a model, and what it may rely on.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};

use super::bench::{START, millis, rate};
use super::{check_invariants, check_nothing_to_do};
use crate::{
    Answer, Ask, Charge, Concurrency, ConcurrencyCap, Decision, Ending, Event, Head, HoldSource, Members, Plan, Quotas,
    Scheduler, Scope, SessionKey, Verdict,
};

const SOURCES: [HoldSource; 4] = [HoldSource::Settle, HoldSource::Policy, HoldSource::Operator, HoldSource::Retry];

#[derive(Debug, Clone, Copy)]
enum Step {
    Publish {
        lite: u64,
        priority: u8,
        cost: u64,
        deliver_in: Option<u64>,
        expires_in: Option<u64>,
    },
    Attach(u64, Scope),
    /// Sessions that name the lite topic, a bit for each.
    Subscribe {
        lite: u64,
        members: u64,
    },
    Detach(u64),
    Credit(u64, u32),
    Load(u64, u32),
    Ack {
        nth: usize,
        cost: Option<u64>,
    },
    Retry {
        nth: usize,
        delay: u64,
    },
    Return {
        nth: usize,
        suspend: u64,
    },
    Hold {
        lite: u64,
        source: usize,
        wait: u64,
    },
    Resume {
        lite: u64,
        source: Option<usize>,
    },
    Advance(u64),
    Quotas(usize),
    Concurrency(u32, u32, u32),
    Pause(bool),
    Bind(bool),
    Answer {
        seed: u64,
        wrong_length: bool,
    },
    LateAnswer {
        seed: u64,
    },
    FailAsk,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let after = || prop::option::weighted(0.15, 0u64..60);
    prop_oneof![
        10 => (0u64..12, 0u8..10, 0u64..30, after(), after()).prop_map(|(lite, priority, cost, deliver_in, expires_in)| {
            Step::Publish { lite, priority, cost, deliver_in, expires_in }
        }),
        2 => (0u64..3, prop::bool::weighted(0.5)).prop_map(|(session, takes_all)| {
            Step::Attach(session, if takes_all { Scope::All } else { Scope::Named })
        }),
        2 => (0u64..12, 0u64..8).prop_map(|(lite, members)| Step::Subscribe { lite, members }),
        1 => (0u64..3).prop_map(Step::Detach),
        6 => (0u64..3, 0u32..4).prop_map(|(session, credit)| Step::Credit(session, credit)),
        1 => (0u64..3, 0u32..3).prop_map(|(session, load)| Step::Load(session, load)),
        6 => (0usize..20, prop::option::of(0u64..40)).prop_map(|(nth, cost)| Step::Ack { nth, cost }),
        2 => (0usize..20, 0u64..30).prop_map(|(nth, delay)| Step::Retry { nth, delay }),
        2 => (0usize..20, 0u64..30).prop_map(|(nth, suspend)| Step::Return { nth, suspend }),
        2 => (0u64..12, 0usize..4, 0u64..50).prop_map(|(lite, source, wait)| Step::Hold { lite, source, wait }),
        1 => (0u64..12, prop::option::of(0usize..4)).prop_map(|(lite, source)| Step::Resume { lite, source }),
        6 => (0u64..20).prop_map(Step::Advance),
        1 => (0usize..4).prop_map(Step::Quotas),
        1 => (1u32..8, 1u32..4, 1u32..4).prop_map(|(group, tenant, lite)| Step::Concurrency(group, tenant, lite)),
        1 => any::<bool>().prop_map(Step::Pause),
        1 => prop::bool::weighted(0.7).prop_map(Step::Bind),
        5 => (any::<u64>(), prop::bool::weighted(0.05)).prop_map(|(seed, wrong_length)| Step::Answer { seed, wrong_length }),
        1 => any::<u64>().prop_map(|seed| Step::LateAnswer { seed }),
        1 => Just(Step::FailAsk),
        1 => Just(Step::Restart),
    ]
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
    is_from_before: bool,
}

/// What the shard would know.
struct Owner {
    scheduler: Scheduler,
    now: Timestamp,
    quotas: Quotas,
    concurrency: Concurrency,
    is_paused: bool,
    is_bound: bool,
    /// Tells the next head right after each delivery, whatever the concurrency is.
    is_eager: bool,
    lites: BTreeMap<u64, BTreeMap<u64, Message>>,
    next_offset: BTreeMap<u64, u64>,
    leases: Vec<Lease>,
    holds: BTreeMap<(u64, HoldSource), Timestamp>,
    credit: BTreeMap<u64, (Scope, u32)>,
    members: BTreeMap<u64, u64>,
    asks: Vec<Ask>,
    old_asks: Vec<Ask>,
    delivered: u64,
}

fn tenant_of(lite: u64) -> TenantId {
    TenantId(lite % 4)
}

fn quotas(index: usize) -> Quotas {
    match index {
        0 => Quotas::default(),
        1 => Quotas { messages: Some(rate("200/s burst 3")), cost: None },
        2 => Quotas { messages: None, cost: Some(rate("1000/s burst 20")) },
        _ => Quotas { messages: Some(rate("100/s burst 5")), cost: Some(rate("2000/s burst 15")) },
    }
}

impl Owner {
    fn new(lite_concurrency: u32, is_eager: bool) -> Self {
        let concurrency = Concurrency { group: 6, tenant: 3, lite: lite_concurrency };
        Self {
            scheduler: Scheduler::new(START, quotas(0), concurrency, None, 5),
            now: START,
            quotas: quotas(0),
            concurrency,
            is_paused: false,
            is_bound: false,
            is_eager,
            lites: BTreeMap::new(),
            next_offset: BTreeMap::new(),
            leases: Vec::new(),
            holds: BTreeMap::new(),
            credit: BTreeMap::new(),
            members: BTreeMap::new(),
            asks: Vec::new(),
            old_asks: Vec::new(),
            delivered: 0,
        }
    }

    fn on(&mut self, event: Event) {
        self.scheduler.handle(self.now, event);
        check_invariants(&self.scheduler);
    }

    fn head_of(&self, lite: u64) -> Option<Head> {
        self.lites.get(&lite)?.values().find(|message| !message.is_leased).map(|message| message.head)
    }

    fn tell_head(&mut self, lite: u64) {
        let waiting = self.lites.get(&lite).map_or(0, |rows| rows.values().filter(|row| !row.is_leased).count());
        match self.head_of(lite) {
            Some(head) => {
                let tenant = tenant_of(lite);
                self.on(Event::Head {
                    lite: LiteId(lite),
                    tenant,
                    members: self.members_of(lite),
                    head,
                    backlog: waiting as u64,
                });
            }
            None => self.on(Event::Emptied(LiteId(lite))),
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Publish { lite, priority, cost, deliver_in, expires_in } => {
                let offset = self.next_offset.entry(lite).or_default();
                let head = Head {
                    offset: Offset(*offset),
                    published_at: self.now,
                    priority,
                    cost,
                    deliver_at: deliver_in.map(|wait| self.now.plus(millis(wait))),
                    expires_at: expires_in.map(|wait| self.now.plus(millis(wait))),
                    attempts: 0,
                };
                self.lites.entry(lite).or_default().insert(*offset, Message { head, is_leased: false });
                *offset += 1;
                let is_open = self.leases.iter().any(|lease| lease.lite == lite);
                if !is_open || self.is_eager || self.concurrency.lite > 1 {
                    self.tell_head(lite);
                }
            }
            Step::Attach(session, scope) => {
                self.credit.insert(session, (scope, 0));
                self.on(Event::Attached(SessionKey(session), scope));
            }
            Step::Subscribe { lite, members } => {
                self.members.insert(lite, members);
                if !self.leases.iter().any(|lease| lease.lite == lite) || self.is_eager || self.concurrency.lite > 1 {
                    self.tell_head(lite);
                }
            }
            Step::Detach(session) => {
                self.credit.remove(&session);
                self.on(Event::Detached(SessionKey(session)));
            }
            Step::Credit(session, credit) => {
                if let Some((_, held)) = self.credit.get_mut(&session) {
                    *held += credit;
                }
                self.on(Event::Credit(SessionKey(session), credit));
            }
            Step::Load(session, load) => self.on(Event::Load(SessionKey(session), load)),
            Step::Ack { nth, cost } => {
                if let Some(lease) = self.take_lease(nth) {
                    self.lites.get_mut(&lease.lite).unwrap().remove(&lease.offset);
                    self.end(lease, Ending::done(cost, millis(2)));
                }
            }
            Step::Retry { nth, delay } => {
                if let Some(lease) = self.take_lease(nth) {
                    let message = self.lites.get_mut(&lease.lite).unwrap().get_mut(&lease.offset).unwrap();
                    message.is_leased = false;
                    message.head.attempts += 1;
                    self.hold(lease.lite, HoldSource::Retry, delay);
                    self.end(lease, Ending::done(None, millis(2)));
                }
            }
            Step::Return { nth, suspend } => {
                if let Some(lease) = self.take_lease(nth) {
                    self.lites.get_mut(&lease.lite).unwrap().get_mut(&lease.offset).unwrap().is_leased = false;
                    if suspend > 0 {
                        self.hold(lease.lite, HoldSource::Settle, suspend);
                    }
                    self.end(lease, Ending::Returned);
                }
            }
            Step::Hold { lite, source, wait } => self.hold(lite, SOURCES[source], wait),
            Step::Resume { lite, source } => {
                let source = source.map(|source| SOURCES[source]);
                self.holds.retain(|&(held, by), _| held != lite || source.is_some_and(|source| source != by));
                self.on(Event::Resumed { lite: LiteId(lite), source });
            }
            Step::Advance(by) => self.now = self.now.plus(Duration::from_micros(by * 997)),
            Step::Quotas(index) => {
                self.quotas = quotas(index);
                self.on(Event::Quotas(self.quotas));
            }
            Step::Concurrency(group, tenant, lite) => {
                self.concurrency = Concurrency { group, tenant, lite };
                self.on(Event::Concurrency(self.concurrency));
                if lite > 1 {
                    let open: BTreeSet<u64> = self.leases.iter().map(|lease| lease.lite).collect();
                    for lite in open {
                        self.tell_head(lite);
                    }
                }
            }
            Step::Pause(is_paused) => {
                self.is_paused = is_paused;
                self.on(if is_paused { Event::Paused } else { Event::Unpaused });
            }
            Step::Bind(is_bound) => {
                self.is_bound = is_bound;
                self.on(if is_bound { Event::PolicyBound } else { Event::PolicyUnbound });
            }
            Step::Answer { seed, wrong_length } => {
                if let Some(ask) = self.asks.pop() {
                    self.answer(&ask, seed, wrong_length);
                    self.old_asks.push(ask);
                }
            }
            Step::LateAnswer { seed } => {
                if let Some(ask) = self.old_asks.pop() {
                    self.answer(&ask, seed, false);
                }
            }
            Step::FailAsk => {
                if let Some(ask) = self.asks.pop() {
                    self.on(Event::AskFailed { sequence: ask.frame.sequence });
                    self.old_asks.push(ask);
                }
            }
            Step::Restart => self.restart(),
        }
    }

    fn members_of(&self, lite: u64) -> Members {
        let members = self.members.get(&lite).copied().unwrap_or_default();
        (0..3).filter(|session| members & (1 << session) != 0).map(SessionKey).collect()
    }

    fn take_lease(&mut self, nth: usize) -> Option<Lease> {
        (!self.leases.is_empty()).then(|| self.leases.remove(nth % self.leases.len()))
    }

    fn end(&mut self, lease: Lease, ending: Ending) {
        self.on(Event::Settled { lite: LiteId(lease.lite), charge: lease.charge, ending });
        self.tell_head(lease.lite);
    }

    fn hold(&mut self, lite: u64, source: HoldSource, wait: u64) {
        let until = self.now.plus(millis(wait));
        self.holds.insert((lite, source), until);
        self.on(Event::Held { lite: LiteId(lite), tenant: tenant_of(lite), source, until });
    }

    fn answer(&mut self, ask: &Ask, seed: u64, wrong_length: bool) {
        let mut draws = (0..).map(|step: u64| {
            let mixed = (seed ^ step.wrapping_mul(0x9e37_79b9)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^ (mixed >> 29)
        });
        let mut draw = |below: u64| draws.next().unwrap() % below;
        let lites = ask.frame.lites.iter().map(|_| {
            let verdict = match draw(8) {
                0 => Verdict::Throttle(millis(draw(20))),
                1 => Verdict::Suspend(millis(draw(20))),
                2 => Verdict::DeadLetter,
                3 => Verdict::Drop,
                _ => Verdict::Serve {
                    band: (draw(2) == 0).then(|| u8::try_from(draw(12)).unwrap()),
                    max_messages: u32::try_from(draw(3)).unwrap(),
                },
            };
            Answer { verdict, valid_for: millis(draw(30)), reason: 0, memo: draw(3) }
        });
        let mut lites: Vec<Answer> = lites.collect();
        if wrong_length {
            lites.pop();
        }
        let weights = ask.frame.tenants.iter().map(|_| u32::try_from(draw(5)).unwrap()).collect();
        let has_cap = draw(4) == 0;
        let concurrency =
            has_cap.then(|| ConcurrencyCap { leases: u32::try_from(draw(5)).unwrap(), valid_for: millis(draw(30)) });
        let refresh = u32::try_from(draw(5)).unwrap();
        let plan = Plan { lites, weights, concurrency, refresh };
        self.on(Event::Answered { sequence: ask.frame.sequence, plan });
    }

    /// A new process: everything durable is told again.
    fn restart(&mut self) {
        let saved = self.scheduler.quota_state();
        self.scheduler = Scheduler::new(self.now, self.quotas, self.concurrency, Some(saved), 5);
        assert_eq!(self.scheduler.quota_state(), saved);
        self.asks.clear();
        self.old_asks.clear();
        if self.is_bound {
            self.on(Event::PolicyBound);
        }
        if self.is_paused {
            self.on(Event::Paused);
        }
        for index in 0..self.leases.len() {
            self.leases[index].is_from_before = true;
            let Lease { lite, charge, .. } = self.leases[index];
            self.on(Event::Leased { lite: LiteId(lite), tenant: tenant_of(lite), charge });
        }
        for ((lite, source), until) in self.holds.clone() {
            self.on(Event::Held { lite: LiteId(lite), tenant: tenant_of(lite), source, until });
        }
        for lite in self.lites.keys().copied().collect::<Vec<_>>() {
            self.tell_head(lite);
        }
        for (session, (scope, credit)) in self.credit.clone() {
            self.on(Event::Attached(SessionKey(session), scope));
            self.on(Event::Credit(SessionKey(session), credit));
        }
    }

    fn poll_all(&mut self) {
        while let Some(decision) = self.scheduler.poll(self.now) {
            check_invariants(&self.scheduler);
            self.obey(decision);
        }
        check_nothing_to_do(&self.scheduler);
    }

    fn obey(&mut self, decision: Decision) {
        match decision {
            Decision::Deliver { lite, offset, tenant, session, charge } => {
                assert_eq!(tenant, tenant_of(lite.0));
                self.deliver(lite.0, offset, session.0, charge);
            }
            Decision::Ask(ask) => {
                assert!(self.is_bound && !self.is_paused);
                assert!(ask.frame.lites.len() <= Ask::LITES_MAX && ask.feedback.len() <= Ask::FEEDBACK_MAX);
                for row in &ask.frame.lites {
                    assert_eq!(ask.frame.tenants[row.tenant as usize].tenant, tenant_of(row.lite.0));
                    assert_eq!(Some(row.head_offset), self.head_of(row.lite.0).map(|head| head.offset));
                }
                self.old_asks.append(&mut self.asks);
                self.asks.push(ask);
            }
            Decision::Suspend { lite, until, .. } => {
                assert!(until > self.now);
                self.holds.insert((lite.0, HoldSource::Policy), until);
            }
            Decision::Expired { lite, offset } => {
                let head = self.lites[&lite.0][&offset.0].head;
                assert!(head.expires_at.unwrap() <= self.now);
                self.remove_head(lite.0, offset);
            }
            Decision::DeadLetter { lite, offset, .. } | Decision::Drop { lite, offset, .. } => {
                self.remove_head(lite.0, offset);
            }
        }
    }

    fn deliver(&mut self, lite: u64, offset: Offset, session: u64, charge: Charge) {
        let head = self.head_of(lite).expect("only what waits is delivered");
        assert_eq!(head.offset, offset, "order inside the lite topic");
        assert!(head.deliver_at.is_none_or(|at| at <= self.now), "early");
        assert!(head.expires_at.is_none_or(|at| at > self.now), "late");
        for source in SOURCES {
            assert!(self.holds.get(&(lite, source)).is_none_or(|&until| until <= self.now), "held by {source:?}");
        }
        assert!(!self.is_paused);
        assert_eq!(charge.cost, head.cost);
        let open: Vec<Lease> = self.leases.iter().copied().filter(|lease| lease.lite == lite).collect();
        assert!(open.len() < self.concurrency.lite as usize);
        assert!(open.iter().all(|lease| lease.session == session && !lease.is_from_before), "the session changed");
        let of_tenant = self.leases.iter().filter(|lease| tenant_of(lease.lite) == tenant_of(lite)).count();
        assert!(of_tenant < self.concurrency.tenant as usize);
        assert!(self.leases.len() < self.concurrency.group as usize);
        let (scope, credit) = self.credit.get_mut(&session).expect("an attached session");
        let is_member = self.members.get(&lite).is_some_and(|members| members & (1 << session) != 0);
        assert!(*scope == Scope::All || is_member, "a session that did not subscribe");
        *credit = credit.checked_sub(1).expect("a session with credit");
        self.lites.get_mut(&lite).unwrap().get_mut(&offset.0).unwrap().is_leased = true;
        self.leases.push(Lease { lite, offset: offset.0, session, charge, is_from_before: false });
        self.delivered += 1;
        if self.is_eager || self.concurrency.lite > 1 {
            self.tell_head(lite);
        }
    }

    fn remove_head(&mut self, lite: u64, offset: Offset) {
        assert_eq!(self.head_of(lite).map(|head| head.offset), Some(offset));
        self.lites.get_mut(&lite).unwrap().remove(&offset.0);
        self.tell_head(lite);
    }

    /// With credit, without a pause and with time, all that waits must come.
    fn drain(&mut self) {
        self.apply(Step::Pause(false));
        self.apply(Step::Attach(9, Scope::All));
        for _ in 0..10_000 {
            self.apply(Step::Credit(9, 50));
            self.poll_all();
            while let Some(ask) = self.asks.pop() {
                let leave = ConcurrencyCap { leases: 1_000, valid_for: Duration::MAX };
                let lites = vec![super::bench::serve(); ask.frame.lites.len()];
                let plan = Plan { lites, concurrency: Some(leave), ..Plan::default() };
                self.on(Event::Answered { sequence: ask.frame.sequence, plan });
                self.poll_all();
            }
            if !self.leases.is_empty() {
                self.apply(Step::Ack { nth: 0, cost: None });
                continue;
            }
            if self.lites.values().all(BTreeMap::is_empty) {
                let stats = self.scheduler.stats();
                assert_eq!((stats.waiting, stats.backlog, stats.in_flight, stats.ready, stats.asking), (0, 0, 0, 0, 0));
                return;
            }
            // Nothing runs and something waits: a timer must be set, or its wake-up is lost.
            self.now = self.scheduler.next_timeout().expect("a wake-up for what waits").max(self.now);
        }
        panic!("not drained: {:?}", self.lites);
    }
}

proptest! {
    #[test]
    fn any_history_keeps_the_contract_and_loses_no_wake_up(
        lite_concurrency in 1u32..4,
        is_eager in any::<bool>(),
        steps in prop::collection::vec((step(), prop::bool::weighted(0.8)), 1..150),
    ) {
        let mut owner = Owner::new(lite_concurrency, is_eager);
        for (step, is_polled) in steps {
            owner.apply(step);
            if is_polled {
                owner.poll_all();
            }
        }
        owner.drain();
    }
}
