//! The model: what happens to it, and what it has to say. Everything is found by looking at all lite topics.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sluicegate_protocol::limits::CREDIT_MESSAGES_MAX;
use sluicegate_protocol::{LiteId, TenantId, Timestamp};
use sluicegate_scheduler::{
    Charge, Concurrency, Decision, Ending, Event, Feedback, Head, HoldSource, QuotaState, Quotas, Scope, SessionKey,
    Stats,
};

use crate::fair::{Flow, Lane, LaneName, Route};
use crate::lite::{Lite, NEVER, Place};
use crate::pick::{Gate, Pick};
use crate::policy::Policy;
use crate::quota::Buckets;

/// Holds that one poll ends.
const HOLDS_ENDED_AT_ONCE: usize = 256;

pub(crate) struct Model {
    pub(crate) now: Timestamp,
    pub(crate) concurrency: Concurrency,
    pub(crate) is_paused: bool,
    pub(crate) lites: BTreeMap<LiteId, Lite>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) quotas: Buckets,
    pub(crate) gate: Option<Gate>,
    pub(crate) policy: Policy,
    pub(crate) throttled: u64,
    pub(crate) watchdog: Option<Duration>,
    pub(crate) starved: u64,
    /// When a delivery of the tenant last started or ended, or the watchdog let one through.
    pub(crate) served_at: BTreeMap<TenantId, Timestamp>,
    /// What policies said; forgotten with the policy.
    pub(crate) weights: BTreeMap<TenantId, u32>,
    pub(crate) flows: BTreeMap<(TenantId, u8), Flow>,
    /// Tenants whose concurrency was found to be reached.
    pub(crate) blocked: BTreeSet<TenantId>,
    /// Every lane has a lite topic.
    pub(crate) lanes: BTreeMap<LaneName, Lane>,
    /// Virtual time of each route in each band that it was used in.
    pub(crate) clocks: BTreeMap<(Route, u8), u128>,
    /// Virtual time of each band for those that take all: no route is behind it.
    pub(crate) clocks_of_all: [u128; 10],
    /// The latest start tags of deliveries, in the time by which routes are compared.
    pub(crate) group_clocks: [u128; 10],
    /// What a route's time is behind that while it is open; there is one where there is a clock.
    pub(crate) offsets: BTreeMap<(Route, u8), u128>,
    /// The same of those that take all.
    pub(crate) offsets_of_all: [u128; 10],
    /// The same of sessions that take what names them; none is 0.
    pub(crate) session_offsets: BTreeMap<(SessionKey, u8), u128>,
    pub(crate) passed_over: u32,
    /// The highest band that passed over others since the last turn.
    pub(crate) passed_by: u8,
    pub(crate) last_turn: Option<u8>,
    counted: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    pub(crate) key: SessionKey,
    pub(crate) scope: Scope,
    pub(crate) credit: u32,
    pub(crate) load_ppm: u32,
    pub(crate) idle_since: u64,
}

impl Session {
    pub(crate) fn serves(&self, route: &Route) -> bool {
        self.scope == Scope::All || route.contains(&self.key)
    }
}

impl Model {
    pub(crate) fn new(
        now: Timestamp,
        quotas: Quotas,
        concurrency: Concurrency,
        saved: Option<QuotaState>,
        seed: u64,
    ) -> Self {
        Self {
            now,
            concurrency,
            is_paused: false,
            lites: BTreeMap::new(),
            sessions: Vec::new(),
            quotas: Buckets::new(quotas, saved),
            gate: None,
            policy: Policy::new(seed),
            throttled: 0,
            watchdog: Some(Duration::from_secs(30)),
            starved: 0,
            served_at: BTreeMap::new(),
            weights: BTreeMap::new(),
            flows: BTreeMap::new(),
            blocked: BTreeSet::new(),
            lanes: BTreeMap::new(),
            clocks: BTreeMap::new(),
            clocks_of_all: [0; 10],
            group_clocks: [0; 10],
            offsets: BTreeMap::new(),
            offsets_of_all: [0; 10],
            session_offsets: BTreeMap::new(),
            passed_over: 0,
            passed_by: 0,
            last_turn: None,
            counted: 0,
        }
    }

    pub(crate) fn handle(&mut self, now: Timestamp, event: Event) {
        self.now = self.now.max(now);
        match event {
            Event::Attached(key, scope) => {
                let idle_since = self.count();
                self.detached(key);
                self.sessions.push(Session { key, scope, credit: 0, load_ppm: 0, idle_since });
            }
            Event::Detached(key) => self.detached(key),
            Event::Credit(key, credit) => self.credited(key, credit),
            Event::Load(key, load_ppm) => {
                if let Some(session) = self.session(key) {
                    session.load_ppm = load_ppm;
                }
            }
            Event::Head { lite, tenant, members, head, backlog } => {
                self.headed(lite, tenant, &members, (head, backlog));
            }
            Event::Emptied(id) => {
                if let Some(lite) = self.lites.get_mut(&id) {
                    lite.backlog = 0;
                    lite.set_head(None);
                    self.place(id);
                }
            }
            Event::Leased { lite, tenant, charge } => self.leased(lite, tenant, charge),
            Event::Settled { lite, charge, ending } => self.settled(lite, charge, ending),
            Event::Held { lite, tenant, source, until } => {
                self.find_or_add(lite, tenant, &[]).set_hold(source, until);
                self.place(lite);
            }
            Event::Resumed { lite, source } => self.resumed(lite, source),
            Event::Quotas(quotas) => {
                self.quotas.change(self.now, quotas);
                self.reopen_gate();
            }
            Event::Concurrency(concurrency) => self.concurrency_changed(concurrency),
            Event::Watchdog(watchdog) => self.watchdog = watchdog,
            Event::Paused => self.is_paused = true,
            Event::Unpaused => self.is_paused = false,
            Event::PolicyBound => self.policy_bound(),
            Event::PolicyUnbound => self.policy_unbound(),
            Event::Answered { sequence, plan } => self.answered(sequence, &plan),
            Event::AskFailed { sequence } => self.ask_failed(sequence),
        }
    }

    pub(crate) fn poll(&mut self, now: Timestamp) -> Option<Decision> {
        self.now = self.now.max(now);
        for _ in 0..HOLDS_ENDED_AT_ONCE {
            let Some((_, id)) = self.timers().min().filter(|&(until, _)| until <= self.now) else { break };
            self.place(id);
        }
        self.end_late_ask();
        if let Some(verdict) = self.next_verdict() {
            return Some(verdict);
        }
        loop {
            if let Some(ask) = self.next_ask() {
                return Some(Decision::Ask(ask));
            }
            match self.pick() {
                Pick::Decided(decision) => return Some(decision),
                Pick::Stale => {}
                Pick::Nothing => return None,
            }
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        let timers = self.timers().map(|(until, _)| until);
        timers.chain(self.gate_closed_until()).chain(self.ask_deadline()).chain(self.policy_cap_ends()).min()
    }

    pub(crate) fn stats(&self) -> Stats {
        let count = |is: &dyn Fn(Place) -> bool| self.lites.values().filter(|lite| is(lite.place)).count() as u64;
        Stats {
            in_flight: self.lites.values().map(|lite| u64::from(lite.open)).sum(),
            ready: count(&|place| matches!(place, Place::Ready(_))),
            held: count(&|place| matches!(place, Place::Held(_))),
            asking: count(&|place| place == Place::Asking),
            waiting: self.lites.values().filter(|lite| lite.head.is_some()).count() as u64,
            backlog: self.lites.values().map(|lite| lite.backlog).sum(),
            throttled: self.throttled,
            starved: self.starved,
            refunds: self.quotas.refunds,
            debts: self.quotas.debts,
            feedback_dropped: self.policy.feedback_dropped,
            oldest_wait: self.oldest_waiters(1).first().map(|&(since, _)| since),
            gate: self.gate_closed_until(),
        }
    }

    /// Whose heads wait longest, of those that could run if the group let them.
    pub(crate) fn oldest_waiters(&self, count: usize) -> Vec<(Timestamp, LiteId)> {
        let could_run = |lite: &Lite| matches!(lite.place, Place::Ready(_) | Place::Asking | Place::Parked(_));
        let waiters = self.lites.iter().filter(|(_, lite)| could_run(lite));
        let mut waiters: Vec<_> =
            waiters.filter_map(|(&id, lite)| lite.head.map(|head| (head.published_at, id))).collect();
        waiters.sort_unstable();
        waiters.truncate(count);
        waiters
    }

    /// The next number in the one order of all things that happen.
    pub(crate) fn count(&mut self) -> u64 {
        self.counted += 1;
        self.counted
    }

    pub(crate) fn lite(&mut self, id: LiteId) -> &mut Lite {
        self.lites.get_mut(&id).expect("it is known")
    }

    pub(crate) fn session(&mut self, key: SessionKey) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.key == key)
    }

    pub(crate) fn has_credit(&self, key: SessionKey) -> bool {
        self.sessions.iter().any(|session| session.key == key && session.credit > 0)
    }

    pub(crate) fn in_flight_of(&self, tenant: TenantId) -> u32 {
        self.lites.values().filter(|lite| lite.tenant == tenant).map(|lite| lite.open).sum()
    }

    fn timers(&self) -> impl Iterator<Item = (Timestamp, LiteId)> {
        self.lites.iter().filter_map(|(&id, lite)| match lite.place {
            Place::Held(until) => Some((until, id)),
            _ => None,
        })
    }

    fn find_or_add(&mut self, id: LiteId, tenant: TenantId, members: &[SessionKey]) -> &mut Lite {
        self.lites.entry(id).or_insert_with(|| Lite::new(tenant, members.to_vec()))
    }

    fn detached(&mut self, key: SessionKey) {
        self.change_sessions(|sessions| sessions.retain(|session| session.key != key));
        self.session_offsets.retain(|&(other, _), _| other != key);
    }

    fn credited(&mut self, key: SessionKey, credit: u32) {
        let had_credit = self.has_credit(key);
        let before = self.change_sessions(|sessions| {
            if let Some(session) = sessions.iter_mut().find(|session| session.key == key) {
                session.credit = session.credit.saturating_add(credit).min(CREDIT_MESSAGES_MAX);
            }
        });
        if !had_credit && self.has_credit(key) {
            self.catch_up(key, &before);
        }
        while self.has_credit(key) {
            let parked = self.lites.iter().filter(|(_, lite)| lite.place == Place::Parked(key));
            let Some((&id, _)) = parked.min_by_key(|(_, lite)| lite.came) else { return };
            self.place(id);
        }
    }

    fn headed(&mut self, id: LiteId, tenant: TenantId, members: &[SessionKey], (head, backlog): (Head, u64)) {
        let lite = self.find_or_add(id, tenant, members);
        lite.backlog = backlog;
        let old = lite.route.clone();
        if old != members {
            self.leave(id);
            self.lite(id).route = members.to_vec();
        }
        let lite = self.lite(id);
        if old != members || lite.head != Some(head) {
            lite.set_head(Some(head));
            self.place(id);
            self.part(&old);
        }
    }

    fn leased(&mut self, id: LiteId, tenant: TenantId, charge: Charge) {
        self.find_or_add(id, tenant, &[]).open += 1;
        self.served_at.insert(tenant, self.now);
        self.charge_adopted(id, charge);
        self.block_if_full(tenant);
        self.place(id);
    }

    fn settled(&mut self, id: LiteId, charge: Charge, ending: Ending) {
        let (now, lite) = (self.now, self.lite(id));
        lite.open -= 1;
        let (tenant, wait) = (lite.tenant, lite.last_wait);
        self.served_at.insert(tenant, now);
        let refunds_before = self.quotas.refunds;
        let (used, service, result, retry_after) = match ending {
            Ending::Used { cost, service, result, retry_after } => {
                let used = cost.unwrap_or(charge.cost);
                if self.policy.is_bound {
                    self.lite(id).last_service = Some(service);
                }
                self.quotas.correct(now, charge.cost, used);
                (Some(used), service, Some(result), retry_after)
            }
            Ending::Returned => {
                self.quotas.refund(now, charge.cost);
                (None, Duration::ZERO, None, None)
            }
        };
        if self.quotas.refunds > refunds_before {
            self.reopen_gate();
        }
        self.record(Feedback {
            at: now,
            tenant,
            lite: id,
            wait,
            service,
            cost_estimate: charge.cost,
            cost_measured: used.unwrap_or(0),
            result,
            retry_after,
        });
        self.charge_settled(id, charge, used);
        self.unblock_if_free(tenant);
        self.place(id);
    }

    fn resumed(&mut self, id: LiteId, source: Option<HoldSource>) {
        let Some(lite) = self.lites.get_mut(&id) else { return };
        if let Some(source) = source {
            lite.set_hold(source, NEVER);
        } else {
            lite.holds = lite.holds.map(|(source, _)| (source, NEVER));
            lite.throttle = NEVER;
        }
        self.place(id);
    }

    fn concurrency_changed(&mut self, concurrency: Concurrency) {
        let before = std::mem::replace(&mut self.concurrency, concurrency);
        if concurrency.lite > before.lite {
            let full = self.lites.iter().filter(|(_, lite)| lite.place == Place::InFlight);
            for id in full.map(|(&id, _)| id).collect::<Vec<_>>() {
                self.place(id);
            }
        }
        if concurrency.tenant > before.tenant {
            for tenant in self.blocked.clone() {
                self.unblock_if_free(tenant);
            }
        }
    }
}
