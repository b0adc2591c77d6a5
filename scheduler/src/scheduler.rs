//! The scheduler of one group: what happens to it, and what it has to say.

use std::collections::BTreeSet;
use std::time::Duration;

use sluicegate_protocol::limits::WATCHDOG_DEFAULT;
use sluicegate_protocol::{LiteId, TenantId, Timestamp};

use crate::asks::Asks;
use crate::band::Bands;
use crate::explain::Pace;
use crate::hold::Timers;
use crate::lite::{Chain, LiteKey, Lites};
use crate::pick::{Gate, Pick};
use crate::quota::{Buckets, QuotaState};
use crate::route::Sessions;
use crate::tenant::Tenants;
use crate::{Charge, Concurrency, Decision, Ending, Event, Feedback, Head, HoldSource, Members, Quotas, SessionKey};

/// Holds that one poll ends, so that a million that end together are no spike.
const HOLDS_ENDED_AT_ONCE: usize = 256;

/// Decides who gets what next, for one consumer group in one partition.
///
/// The owner tells it what happens ([`Scheduler::handle`]), then does what it says ([`Scheduler::poll`] until `None`),
/// and polls again no later than [`Scheduler::next_timeout`]. Time never runs backwards: an earlier `now` counts as the
/// latest one. Every place that a lite topic can be in is left by an event or a timer; nothing scans all lite topics.
///
/// ```
/// use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
/// use sluicegate_scheduler::{Concurrency, Decision, Event, Head, Members, Quotas, Scheduler, Scope, SessionKey};
///
/// let now = Timestamp::from_millis(1_000);
/// let concurrency = Concurrency { group: u32::MAX, tenant: u32::MAX, lite: 1 };
/// let mut scheduler = Scheduler::new(now, Quotas::default(), concurrency, None, 7);
/// scheduler.handle(now, Event::Attached(SessionKey(1), Scope::All));
/// scheduler.handle(now, Event::Credit(SessionKey(1), 1));
/// let head = Head {
///     offset: Offset(0), published_at: now, priority: 4, cost: 1, deliver_at: None, expires_at: None, attempts: 0,
/// };
/// let (lite, tenant, members) = (LiteId(5), TenantId(5), Members::default());
/// scheduler.handle(now, Event::Head { lite, tenant, members, head, backlog: 1 });
/// assert!(matches!(scheduler.poll(now), Some(Decision::Deliver { lite: LiteId(5), .. })));
/// assert_eq!(scheduler.poll(now), None);
/// ```
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) now: Timestamp,
    pub(crate) concurrency: Concurrency,
    pub(crate) paused: bool,
    pub(crate) in_flight: u32,
    pub(crate) lites: Lites,
    pub(crate) tenants: Tenants,
    pub(crate) bands: Bands,
    pub(crate) sessions: Sessions,
    pub(crate) buckets: Buckets,
    pub(crate) gate: Option<Gate>,
    pub(crate) timers: Timers,
    /// Lite topics in flight: those to look at when more may be.
    pub(crate) full: BTreeSet<LiteId>,
    /// Lite topics with nothing to do that are remembered, longest idle first.
    pub(crate) idle: Chain,
    pub(crate) asks: Asks,
    /// Lite topics whose head could run if the group let it, the one that waits longest first.
    pub(crate) waiters: BTreeSet<(Timestamp, LiteId)>,
    pub(crate) pace: Pace,
    pub(crate) counts: Counts,
    /// How long a policy may keep back what a tenant has; none for ever.
    pub(crate) watchdog: Option<Duration>,
}

/// Figures of one scheduler, for telemetry. Those that count, count from its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Open leases.
    pub in_flight: u64,
    /// Lite topics in band queues, those of tenants at their concurrency included.
    pub ready: u64,
    /// Lite topics that are held until a time.
    pub held: u64,
    /// Lite topics that wait for the policy's answer.
    pub asking: u64,
    /// Lite topics that have a head, wherever they are.
    pub waiting: u64,
    /// Waiting messages.
    pub backlog: u64,
    /// Throttle verdicts that were applied.
    pub throttled: u64,
    /// Throttle verdicts that the watchdog overruled.
    pub starved: u64,
    /// Settles that gave quota back.
    pub refunds: u64,
    /// Deliveries above the burst, and settles above the estimate, that a quota booked as debt.
    pub debts: u64,
    /// Feedback that was dropped, oldest first, because the policy was not asked in time.
    pub feedback_dropped: u64,
    /// When the head that waits longest was published, of those that could run if the group let them.
    pub oldest_wait: Option<Timestamp>,
    /// Until when the quotas keep the gate closed.
    pub gate: Option<Timestamp>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) ready: u64,
    pub(crate) held: u64,
    pub(crate) asking: u64,
    pub(crate) waiting: u64,
    pub(crate) backlog: u64,
    pub(crate) throttled: u64,
    pub(crate) starved: u64,
}

impl Scheduler {
    /// A scheduler that knows no lite topic and no session yet.
    ///
    /// `saved` is the quota state from the store. `None` starts with full buckets, right for a new group; where saved
    /// state was lost, give [`QuotaState::empty`]. The seed decides the seeds that a policy sees.
    pub fn new(now: Timestamp, quotas: Quotas, concurrency: Concurrency, saved: Option<QuotaState>, seed: u64) -> Self {
        Self {
            now,
            concurrency,
            paused: false,
            in_flight: 0,
            lites: Lites::default(),
            tenants: Tenants::default(),
            bands: Bands::default(),
            sessions: Sessions::default(),
            buckets: Buckets::new(quotas, saved.unwrap_or_default()),
            gate: None,
            timers: Timers::default(),
            full: BTreeSet::new(),
            idle: Chain::default(),
            asks: Asks::new(seed),
            waiters: BTreeSet::new(),
            pace: Pace::default(),
            counts: Counts::default(),
            watchdog: Some(WATCHDOG_DEFAULT),
        }
    }

    /// Takes in what happened. Events about lite topics and sessions that are not known, beyond those that make them
    /// known, change nothing.
    pub fn handle(&mut self, now: Timestamp, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Attached(session, scope) => {
                self.detach(session);
                self.sessions.attach(session, scope);
            }
            Event::Detached(session) => self.detach(session),
            Event::Credit(session, credit) => self.credited(session, credit),
            Event::Load(session, load_ppm) => self.sessions.set_load(session, load_ppm),
            Event::Head { lite, tenant, members, head, backlog } => {
                self.headed(lite, tenant, &members, &head, backlog);
            }
            Event::Emptied(lite) => self.emptied(lite),
            Event::Leased { lite, tenant, charge } => self.leased(lite, tenant, charge),
            Event::Settled { lite, charge, ending } => self.settled(lite, charge, ending),
            Event::Held { lite, tenant, source, until } => self.held(lite, tenant, source, until),
            Event::Resumed { lite, source } => self.resumed(lite, source),
            Event::Quotas(quotas) => {
                self.buckets.change(self.now, quotas);
                self.reopen_gate();
            }
            Event::Concurrency(concurrency) => self.concurrency_changed(concurrency),
            Event::Watchdog(watchdog) => self.watchdog = watchdog,
            Event::Paused => self.paused = true,
            Event::Unpaused => self.paused = false,
            Event::PolicyBound => self.policy_bound(),
            Event::PolicyUnbound => self.policy_unbound(),
            Event::Answered { sequence, plan } => self.answered(sequence, &plan),
            Event::AskFailed { sequence } => self.ask_failed(sequence),
        }
        self.tell_turned();
    }

    /// The next thing to do now; to be called until `None`. O(log n), but for the holds that end at this moment, of which
    /// one call ends at most 256: where more are due, [`Scheduler::next_timeout`] is not after `now`.
    pub fn poll(&mut self, now: Timestamp) -> Option<Decision> {
        self.now = self.now.max(now);
        self.end_due_holds();
        self.end_late_ask();
        if let Some(decision) = self.next_verdict() {
            return Some(decision);
        }
        loop {
            if let Some(ask) = self.next_ask() {
                return Some(Decision::Ask(ask));
            }
            match self.pick() {
                Pick::Decided(decision) => return Some(decision),
                // Asked together if the policy is free; if not, there is more to pick from.
                Pick::Stale => {}
                Pick::Nothing => return None,
            }
        }
    }

    /// When to poll again if nothing else happens: a hold ends, the gate opens, or an ask has waited long enough.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let times = [self.timers.next(), self.gate_closed_until(), self.asks.deadline(), self.cap_ends()];
        times.into_iter().flatten().min()
    }

    /// The quota buckets, for the store.
    pub fn quota_state(&self) -> QuotaState {
        self.buckets.state()
    }

    /// What the quotas would allow at once: messages and cost, `u64::MAX` without a quota.
    pub fn quota_left(&self, now: Timestamp) -> (u64, u64) {
        self.buckets.left(self.now.max(now))
    }

    /// By how much the service of any two tenants that could be served now differs at most: cost / weight in cost units,
    /// rounded up, within a band. Fair queueing keeps it within their dearest messages and the estimate errors in flight.
    /// Looks at every route.
    pub fn service_gap(&self) -> u64 {
        self.bands.service_gap(&self.sessions)
    }

    /// Messages that the sessions have room for, those that they work on included.
    pub fn room(&self) -> u64 {
        u64::from(self.in_flight) + self.sessions.credit()
    }

    /// Lite topics that have a head, wherever they are.
    pub fn waiting(&self) -> u64 {
        self.counts.waiting
    }

    /// Whether the lite topic has a head here.
    pub fn has_head(&self, lite: LiteId) -> bool {
        self.lites.find(lite).is_some_and(|key| self.lites[key].has_head())
    }

    /// Up to `count` lite topics that are likely to be served next in this band by whom could serve this one: for an owner
    /// that has to read of them, and reads of many at once for less.
    pub fn likely_next(&self, like: LiteId, band: u8, count: usize) -> Vec<LiteId> {
        let Some(route) = self.lites.find(like).map(|key| self.lites[key].route) else { return Vec::new() };
        let near = self.bands.near_front(&self.lites, route, band, count);
        near.into_iter().map(|key| self.lites[key].id).collect()
    }

    /// Lite topics with a head that none of the sessions subscribed to of which `is_here` holds. Looks at `slots` entries from
    /// `from` on, and answers where to go on if there are more. For an owner that keeps few of those that nobody takes.
    pub fn unnamed(
        &self,
        from: usize,
        slots: usize,
        is_here: impl Fn(SessionKey) -> bool,
    ) -> (Vec<LiteId>, Option<usize>) {
        let (rows, next) = self.lites.page(from, slots);
        let is_named = |row: &crate::lite::Lite| self.sessions.members(row.route).iter().any(|&key| is_here(key));
        (rows.filter(|row| row.has_head() && !is_named(row)).map(|row| row.id).collect(), next)
    }

    /// Figures for telemetry.
    pub fn stats(&self) -> Stats {
        let Counts { ready, held, asking, waiting, backlog, throttled, starved } = self.counts;
        Stats {
            in_flight: u64::from(self.in_flight),
            ready,
            held,
            asking,
            waiting,
            backlog,
            throttled,
            starved,
            refunds: self.buckets.refunds,
            debts: self.buckets.debts,
            feedback_dropped: self.asks.feedback_dropped(),
            oldest_wait: self.waiters.first().map(|&(since, _)| since),
            gate: self.gate_closed_until(),
        }
    }

    fn end_due_holds(&mut self) {
        for _ in 0..HOLDS_ENDED_AT_ONCE {
            let Some(lite) = self.timers.due(self.now).and_then(|id| self.lites.find(id)) else { return };
            self.place(lite);
        }
    }

    fn detach(&mut self, session: SessionKey) {
        self.sessions.detach(session);
        self.bands.forget(session);
    }

    fn credited(&mut self, session: SessionKey, credit: u32) {
        self.sessions.add_credit(session, credit);
        self.tell_turned();
        // At most as many as the session has open leases.
        while self.sessions.has_credit(session) {
            let Some(lite) = self.sessions.first_parked(session) else { return };
            self.place(lite);
        }
    }

    fn headed(&mut self, id: LiteId, tenant: TenantId, members: &Members, head: &Head, backlog: u64) {
        let lite = self.find_or_add(id, tenant, members);
        self.set_backlog(lite, u32::try_from(backlog).unwrap_or(u32::MAX));
        let is_rerouted = !self.sessions.leads_to(self.lites[lite].route, members);
        let left = is_rerouted.then(|| self.reroute(lite, members));
        if is_rerouted || !self.lites.is_head(lite, head) {
            self.set_head(lite, head);
            self.place(lite);
        }
        // Only now, so that the tenant takes its finish tag along.
        if let Some(route) = left {
            self.part(route);
        }
    }

    fn emptied(&mut self, id: LiteId) {
        let Some(lite) = self.lites.find(id) else { return };
        self.set_backlog(lite, 0);
        self.clear_head(lite);
        self.place(lite);
    }

    fn leased(&mut self, id: LiteId, tenant: TenantId, charge: Charge) {
        let lite = self.find_or_add(id, tenant, &Members::default());
        self.count_lease(lite);
        let (tenant, route) = (self.lites[lite].tenant, self.lites[lite].route);
        self.bands.adopt(&self.sessions, &mut self.tenants, (tenant, route), charge);
        self.block_if_full(tenant);
        self.place(lite);
    }

    fn settled(&mut self, id: LiteId, charge: Charge, ending: Ending) {
        let Some(lite) = self.lites.find(id).filter(|&lite| self.lites[lite].open > 0) else {
            debug_assert!(false, "lite topic {id} has no open lease");
            return;
        };
        let row = &mut self.lites[lite];
        row.open -= 1;
        let (tenant, route) = (row.tenant, row.route);
        self.in_flight -= 1;
        let of_tenant = &mut self.tenants[tenant];
        (of_tenant.in_flight, of_tenant.served_at) = (of_tenant.in_flight - 1, self.now);
        let refunds_before = self.buckets.refunds;
        let mut feedback = Feedback {
            at: self.now,
            tenant: self.tenants[tenant].id,
            lite: id,
            wait: self.lites.extra(lite).last_wait_us.map(|wait| Duration::from_micros(wait.get())),
            service: Duration::ZERO,
            cost_estimate: charge.cost,
            cost_measured: 0,
            result: None,
            retry_after: None,
        };
        let used = match ending {
            Ending::Used { cost, service, result, retry_after } => {
                if self.asks.bound {
                    self.lites.extra_mut(lite).last_service = Some(service);
                }
                let cost = cost.unwrap_or(charge.cost);
                self.buckets.correct(self.now, charge.cost, cost);
                feedback = Feedback { service, cost_measured: cost, result: Some(result), retry_after, ..feedback };
                Some(cost)
            }
            Ending::Returned => {
                self.buckets.refund(self.now, charge.cost);
                None
            }
        };
        if self.buckets.refunds > refunds_before {
            self.reopen_gate();
        }
        self.asks.record(feedback);
        self.bands.settle(&self.sessions, &mut self.tenants, (tenant, route), charge, used);
        self.unblock_if_free(tenant);
        self.place(lite);
    }

    fn held(&mut self, id: LiteId, tenant: TenantId, source: HoldSource, until: Timestamp) {
        let lite = self.find_or_add(id, tenant, &Members::default());
        self.lites.hold(lite, source, until, self.now);
        self.place(lite);
    }

    fn resumed(&mut self, id: LiteId, source: Option<HoldSource>) {
        let Some(lite) = self.lites.find(id) else { return };
        if let Some(source) = source {
            self.lites.end_hold(lite, source);
        } else {
            self.lites.end_holds(lite);
            self.asks.throttled.remove(&id);
        }
        self.place(lite);
    }

    fn concurrency_changed(&mut self, concurrency: Concurrency) {
        let before = std::mem::replace(&mut self.concurrency, concurrency);
        // Lower bounds are noticed when a lite topic or tenant comes to the front.
        if concurrency.lite > before.lite {
            for id in self.full.clone() {
                let lite = self.lites.find(id).expect("a lite topic in flight has an entry");
                self.place(lite);
            }
        }
        if concurrency.tenant > before.tenant {
            for id in self.tenants.blocked.clone() {
                let tenant = self.tenants.find(id).expect("a blocked tenant has an entry");
                self.unblock_if_free(tenant);
            }
        }
    }

    /// A delivery started or was found open: counts it for the lite topic, its tenant and the group.
    pub(crate) fn count_lease(&mut self, lite: LiteKey) {
        let row = &mut self.lites[lite];
        row.open += 1;
        self.in_flight += 1;
        let of_tenant = &mut self.tenants[row.tenant];
        (of_tenant.in_flight, of_tenant.served_at) = (of_tenant.in_flight + 1, self.now);
    }
}
