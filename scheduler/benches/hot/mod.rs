//! The hot paths of the scheduler, prepared to be measured by time or by instructions.

use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, Rate, TenantId, Timestamp};
use sluicegate_scheduler::{
    Answer, Charge, Concurrency, Decision, Ending, Event, Head, HoldSource, Members, Plan, Quotas, Scheduler, Scope,
    SessionKey, Verdict,
};

/// Lite topics that a case starts with.
const LITES: u64 = 10_000;
/// Operations of a case.
const OPERATIONS: u64 = 1_000;
const LEASES: u32 = 64;
const SESSION: SessionKey = SessionKey(1);
const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// When held lite topics return.
const HELD_FOR: Duration = Duration::from_secs(1);

/// A hot path: what comes before it, and what is measured.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// How many of what it is named after are done by `run`.
    pub(crate) operations: u64,
    pub(crate) prepare: fn() -> Bench,
    pub(crate) run: fn(&mut Bench),
}

/// A decision is a settle, the next head, credit and a poll.
pub(crate) const CASES: [Case; 7] = [
    Case { name: "decision-100-tenants", operations: OPERATIONS, prepare: || Bench::busy(100), run: Bench::decide },
    Case { name: "decision-tenant-each", operations: OPERATIONS, prepare: || Bench::busy(LITES), run: Bench::decide },
    Case { name: "decision-with-quotas", operations: OPERATIONS, prepare: Bench::metered, run: Bench::decide },
    Case { name: "head-of-new-lite-topic", operations: OPERATIONS, prepare: || Bench::ready(LITES), run: Bench::add },
    Case { name: "hold", operations: OPERATIONS, prepare: || Bench::ready(LITES), run: Bench::hold },
    Case { name: "resume", operations: OPERATIONS, prepare: Bench::held, run: Bench::resume },
    Case { name: "row-of-policy-frame", operations: 1_024, prepare: Bench::governed, run: Bench::answer },
];

/// A scheduler, and what its owner knows.
pub(crate) struct Bench {
    scheduler: Scheduler,
    now: Timestamp,
    leases: Vec<(LiteId, TenantId, Offset, Charge)>,
    draws: u64,
}

impl Bench {
    fn new(quotas: Quotas) -> Self {
        let concurrency = Concurrency { group: u32::MAX, tenant: u32::MAX, lite: 1 };
        let scheduler = Scheduler::new(START, quotas, concurrency, None, 1);
        Self { scheduler, now: START, leases: Vec::new(), draws: 1 }
    }

    /// So many lite topics, each its own tenant, have a message.
    pub(crate) fn ready(lites: u64) -> Self {
        Self::new(Quotas::default()).with_heads(lites, lites)
    }

    /// So many lite topics have a message and are suspended until different times.
    pub(crate) fn suspended(lites: u64) -> Self {
        let mut bench = Self::ready(lites);
        for lite in 0..lites {
            let until = START.plus(HELD_FOR + Duration::from_micros(lite));
            bench.hold_until(lite, until);
        }
        bench
    }

    fn with_heads(mut self, lites: u64, tenants: u64) -> Self {
        for lite in 0..lites {
            // An odd factor visits all of them, not in their order.
            let lite = lite * 7_919 % lites;
            self.head(LiteId(lite), TenantId(lite % tenants), Offset(0));
        }
        self
    }

    /// All lite topics wait, but those of the open leases.
    fn busy(tenants: u64) -> Self {
        Self::new(Quotas::default()).with_heads(LITES, tenants).with_leases()
    }

    /// As busy, with quotas that always suffice.
    fn metered() -> Self {
        let plenty: Rate = "1000000/s".parse().expect("a rate");
        Self::new(Quotas { messages: Some(plenty), cost: Some(plenty) }).with_heads(LITES, 100).with_leases()
    }

    /// Ready to be asked about by a policy.
    fn governed() -> Self {
        let mut bench = Self::new(Quotas::default()).with_heads(LITES, 100);
        bench.scheduler.handle(START, Event::PolicyBound);
        bench.with_credit()
    }

    /// As many as one run resumes.
    fn held() -> Self {
        Self::suspended(OPERATIONS)
    }

    fn with_credit(mut self) -> Self {
        self.scheduler.handle(START, Event::Attached(SESSION, Scope::All));
        self.scheduler.handle(START, Event::Credit(SESSION, LEASES));
        self
    }

    fn with_leases(self) -> Self {
        let mut bench = self.with_credit();
        while let Some(lease) = bench.deliver() {
            bench.leases.push(lease);
        }
        bench
    }

    fn decide(&mut self) {
        for _ in 0..OPERATIONS {
            // Far enough apart that the quotas suffice.
            self.now = self.now.plus(Duration::from_millis(1));
            let slot = usize::try_from(self.draw()).expect("64 bits") % self.leases.len();
            let (lite, tenant, offset, charge) = self.leases[slot];
            let ending = Ending::done(None, Duration::from_millis(10));
            self.scheduler.handle(self.now, Event::Settled { lite, charge, ending });
            self.head(lite, tenant, Offset(offset.0 + 1));
            self.scheduler.handle(self.now, Event::Credit(SESSION, 1));
            self.leases[slot] = self.deliver().expect("there is credit, and lite topics wait");
        }
    }

    fn add(&mut self) {
        for lite in LITES..LITES + OPERATIONS {
            self.head(LiteId(lite), TenantId(lite), Offset(0));
        }
    }

    fn hold(&mut self) {
        for lite in 0..OPERATIONS {
            let until = self.now.plus(HELD_FOR + Duration::from_micros(lite));
            self.hold_until(lite, until);
        }
    }

    /// Nobody has room: only the suspensions end.
    fn resume(&mut self) {
        let all = START.plus(2 * HELD_FOR);
        assert_eq!(self.scheduler.poll(all), None, "nobody is attached");
        assert_eq!(self.scheduler.stats().held, 0, "all are back");
    }

    /// Every row is put off, so that the next frame has others.
    fn answer(&mut self) {
        let verdict = Verdict::Throttle(Duration::from_secs(10));
        let answer = Answer { verdict, valid_for: Duration::from_secs(1), reason: 0, memo: 7 };
        for _ in 0..4 {
            let Some(Decision::Ask(ask)) = self.scheduler.poll(self.now) else { unreachable!("a policy is bound") };
            let plan = Plan { lites: vec![answer; ask.frame.lites.len()], ..Plan::default() };
            self.scheduler.handle(self.now, Event::Answered { sequence: ask.frame.sequence, plan });
        }
    }

    fn head(&mut self, lite: LiteId, tenant: TenantId, offset: Offset) {
        let head = Head {
            offset,
            published_at: self.now,
            priority: 4,
            cost: 1 + self.draw() % 100,
            deliver_at: None,
            expires_at: None,
            attempts: 0,
        };
        self.scheduler.handle(self.now, Event::Head { lite, tenant, members: Members::default(), head, backlog: 8 });
    }

    fn hold_until(&mut self, lite: u64, until: Timestamp) {
        let (lite, tenant) = (LiteId(lite), TenantId(lite));
        self.scheduler.handle(self.now, Event::Held { lite, tenant, source: HoldSource::Settle, until });
    }

    fn deliver(&mut self) -> Option<(LiteId, TenantId, Offset, Charge)> {
        match self.scheduler.poll(self.now)? {
            Decision::Deliver { lite, offset, tenant, charge, .. } => Some((lite, tenant, offset, charge)),
            other => unreachable!("without a policy there are only deliveries, not {other:?}"),
        }
    }

    /// Xorshift: the same numbers in every run.
    fn draw(&mut self) -> u64 {
        self.draws ^= self.draws << 13;
        self.draws ^= self.draws >> 7;
        self.draws ^= self.draws << 17;
        self.draws
    }
}
