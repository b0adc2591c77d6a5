//! A scheduler under test, with shorthands for what happens to it.

use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, Rate, TenantId, Timestamp};

use super::check_nothing_to_do;
use crate::{
    Answer, Ask, Charge, Concurrency, Decision, Ending, Event, Head, HoldSource, Members, Plan, Quotas, Scheduler,
    Scope, SessionKey, Verdict,
};

pub(crate) const START: Timestamp = Timestamp::from_millis(1_000_000);
pub(crate) const UNBOUNDED: Concurrency = Concurrency { group: u32::MAX, tenant: u32::MAX, lite: 1 };

/// A delivery, as the tests look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) lite: u64,
    pub(crate) offset: u64,
    pub(crate) tenant: u64,
    pub(crate) session: u64,
    pub(crate) charge: Charge,
}

pub(crate) struct Bench {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: Timestamp,
}

/// Without quotas and bounds, and with session 1 attached, which has much credit.
pub(crate) fn bench() -> Bench {
    Bench::new(Quotas::default(), UNBOUNDED).with_session(1, 60_000)
}

pub(crate) fn head(offset: u64) -> Head {
    Head {
        offset: Offset(offset),
        published_at: START,
        priority: 4,
        cost: 1,
        deliver_at: None,
        expires_at: None,
        attempts: 0,
    }
}

pub(crate) fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

pub(crate) fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn answer(verdict: Verdict) -> Answer {
    Answer { verdict, valid_for: Duration::from_secs(10), reason: 3, memo: 0 }
}

pub(crate) fn serve() -> Answer {
    answer(Verdict::Serve { band: None, max_messages: 1_000 })
}

impl Bench {
    pub(crate) fn new(quotas: Quotas, concurrency: Concurrency) -> Self {
        Self { scheduler: Scheduler::new(START, quotas, concurrency, None, 42), now: START }
    }

    pub(crate) fn with_session(mut self, session: u64, credit: u32) -> Self {
        self.on(Event::Attached(SessionKey(session), Scope::All));
        self.on(Event::Credit(SessionKey(session), credit));
        self
    }

    pub(crate) fn on(&mut self, event: Event) {
        self.scheduler.handle(self.now, event);
    }

    /// The lite topic is its own tenant.
    pub(crate) fn head(&mut self, lite: u64, head: Head) {
        self.head_of(lite, lite, head);
    }

    pub(crate) fn head_of(&mut self, tenant: u64, lite: u64, head: Head) {
        self.head_for(&[], tenant, lite, head);
    }

    pub(crate) fn head_with_backlog(&mut self, tenant: u64, lite: u64, head: Head, backlog: u64) {
        let (lite, tenant, members) = (LiteId(lite), TenantId(tenant), Members::default());
        self.on(Event::Head { lite, tenant, members, head, backlog });
    }

    /// The lite topic is for these sessions, beside those that take all.
    pub(crate) fn head_for(&mut self, members: &[u64], tenant: u64, lite: u64, head: Head) {
        let members: Members = members.iter().copied().map(SessionKey).collect();
        self.on(Event::Head { lite: LiteId(lite), tenant: TenantId(tenant), members, head, backlog: 1 });
    }

    pub(crate) fn hold(&mut self, lite: u64, source: HoldSource, wait: Duration) {
        let until = self.now.plus(wait);
        self.on(Event::Held { lite: LiteId(lite), tenant: TenantId(lite), source, until });
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now = self.now.plus(by);
    }

    pub(crate) fn poll(&mut self) -> Option<Decision> {
        let decision = self.scheduler.poll(self.now);
        if decision.is_none() {
            check_nothing_to_do(&self.scheduler);
        }
        decision
    }

    pub(crate) fn poll_all(&mut self) -> Vec<Decision> {
        std::iter::from_fn(|| self.poll()).collect()
    }

    /// Everything that it wants delivered now; nothing else may come.
    pub(crate) fn deliveries(&mut self) -> Vec<Delivery> {
        self.poll_all().into_iter().map(delivery).collect()
    }

    pub(crate) fn delivered_lites(&mut self) -> Vec<u64> {
        self.deliveries().into_iter().map(|delivery| delivery.lite).collect()
    }

    pub(crate) fn deliver_one(&mut self) -> Delivery {
        delivery(self.poll().expect("a delivery"))
    }

    pub(crate) fn ask(&mut self) -> Ask {
        match self.poll() {
            Some(Decision::Ask(ask)) => ask,
            other => panic!("expected an ask, got {other:?}"),
        }
    }

    /// Every row gets the same answer.
    pub(crate) fn answer_all(&mut self, ask: &Ask, answer: Answer) {
        let plan = Plan { lites: vec![answer; ask.frame.lites.len()], ..Plan::default() };
        self.on(Event::Answered { sequence: ask.frame.sequence, plan });
    }

    pub(crate) fn settle(&mut self, delivery: Delivery, ending: Ending) {
        self.on(Event::Settled { lite: LiteId(delivery.lite), charge: delivery.charge, ending });
    }

    pub(crate) fn ack(&mut self, delivery: Delivery) {
        self.settle(delivery, Ending::done(None, millis(10)));
    }
}

pub(crate) fn delivery(decision: Decision) -> Delivery {
    match decision {
        Decision::Deliver { lite, offset, tenant, session, charge } => {
            Delivery { lite: lite.0, offset: offset.0, tenant: tenant.0, session: session.0, charge }
        }
        other => panic!("expected a delivery, got {other:?}"),
    }
}
