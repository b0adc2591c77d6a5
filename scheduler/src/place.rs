//! Moves of a lite topic: the one function that changes where it is.

use sluicegate_protocol::limits::PRIORITY_MAX;
use sluicegate_protocol::{LiteId, TenantId, Timestamp};

use crate::lite::{LiteKey, Place};
use crate::route::RouteKey;
use crate::scheduler::Scheduler;
use crate::tenant::TenantKey;
use crate::{Head, Members};

/// Lite topics with nothing to do that are remembered for their memo, their answer, or who served them last.
const IDLE_REMEMBERED_MAX: usize = 16_384;

impl Scheduler {
    /// Moves the lite topic to where its facts put it. Where it already is there, it keeps its turn. An entry with
    /// nothing to do and nothing to remember is gone afterwards.
    pub(crate) fn place(&mut self, lite: LiteKey) {
        self.end_throttle_if_over(lite);
        let (from, to) = (self.lites[lite].place, self.place_of(lite));
        self.end_keeping_back(lite, to);
        if from != to {
            self.leave(lite, from);
            self.lites[lite].place = to;
            self.lites.trim(lite);
            self.list(lite, matches!(to, Place::Ready(_) | Place::Asking | Place::Parked(_)));
            self.enter(lite, to);
        }
    }

    /// Puts the lite topic among the waiters, or takes it out.
    fn list(&mut self, lite: LiteKey, is_waiting: bool) {
        let row = &mut self.lites[lite];
        if row.is_listed == is_waiting {
            return;
        }
        row.is_listed = is_waiting;
        if is_waiting {
            self.waiters.insert(row.wait());
        } else {
            self.waiters.remove(&row.wait());
        }
    }

    /// The lite topic has other members: it moves to their route, and waits there behind those of its tenant. The caller
    /// places it, then parts it from the route that it left.
    pub(crate) fn reroute(&mut self, lite: LiteKey, members: &Members) -> RouteKey {
        self.leave(lite, self.lites[lite].place);
        self.lites[lite].place = Place::New;
        let route = self.sessions.join(members);
        self.tell_turned();
        std::mem::replace(&mut self.lites[lite].route, route)
    }

    /// Where the lite topic belongs now.
    pub(crate) fn place_of(&self, lite: LiteKey) -> Place {
        let row = &self.lites[lite];
        let extra = self.lites.extra(lite);
        if extra.refusal.is_some() {
            return Place::Refused;
        }
        let held_until = self.lites.held_until(lite);
        if held_until > self.now {
            return Place::Held(held_until);
        }
        let Some(priority) = row.priority() else {
            return if row.open > 0 { Place::InFlight } else { Place::Idle };
        };
        if row.open >= self.concurrency.lite {
            return Place::InFlight;
        }
        if row.open > 0 {
            // Its deliveries stay with one session. Who holds leases from before a restart is not known here.
            match row.session() {
                None => return Place::InFlight,
                Some(session) if self.sessions.may_serve(session, row.route) => {}
                // It no longer takes this lite topic.
                Some(session) if self.sessions.has_credit(session) => return Place::InFlight,
                Some(session) => return Place::Parked(session),
            }
        }
        if !self.asks.bound {
            return Place::Ready(priority.min(PRIORITY_MAX));
        }
        match self.asks.valid(extra.answer, self.now) {
            Some(answer) => Place::Ready(answer.band.unwrap_or(priority).min(PRIORITY_MAX)),
            None => Place::Asking,
        }
    }

    /// The entry of the lite topic; a new one is for these members.
    pub(crate) fn find_or_add(&mut self, id: LiteId, tenant: TenantId, members: &Members) -> LiteKey {
        if let Some(lite) = self.lites.find(id) {
            debug_assert_eq!(self.tenants[self.lites[lite].tenant].id, tenant, "the tenant of a lite topic is fixed");
            return lite;
        }
        let tenant = self.tenants.find_or_add(tenant);
        self.tenants[tenant].lites += 1;
        let route = self.sessions.join(members);
        self.tell_turned();
        self.lites.add(id, tenant, route)
    }

    /// The bands learn who has room or none, and which routes opened or closed.
    pub(crate) fn tell_turned(&mut self) {
        while let Some(change) = self.sessions.next_room_change() {
            self.bands.room_changed(&self.sessions, change);
        }
        while let Some(route) = self.sessions.next_turned() {
            self.bands.set_open(route, self.sessions.is_open_to_members(route));
        }
    }

    /// Names the head, which voids a verdict against the one before. The caller places the lite topic.
    pub(crate) fn set_head(&mut self, lite: LiteKey, head: &Head) {
        let row = &self.lites[lite];
        if !row.has_head() {
            self.tenants[row.tenant].waiting += 1;
            self.counts.waiting += 1;
        }
        let is_listed = self.lites[lite].is_listed;
        self.list(lite, false);
        self.lites.set_head(lite, head);
        self.list(lite, is_listed);
    }

    /// Nothing of the lite topic may start. The caller places it.
    pub(crate) fn clear_head(&mut self, lite: LiteKey) {
        let row = &self.lites[lite];
        if row.has_head() {
            self.tenants[row.tenant].waiting -= 1;
            self.counts.waiting -= 1;
        }
        self.list(lite, false);
        self.lites.clear_head(lite);
    }

    pub(crate) fn set_backlog(&mut self, lite: LiteKey, backlog: u32) {
        let before = std::mem::replace(&mut self.lites[lite].backlog, backlog);
        self.counts.backlog = self.counts.backlog - u64::from(before) + u64::from(backlog);
    }

    /// The head is gone from the lite topic: leased, or about to be settled by the owner.
    pub(crate) fn take_head(&mut self, lite: LiteKey) {
        self.set_backlog(lite, self.lites[lite].backlog.saturating_sub(1));
        self.clear_head(lite);
    }

    pub(crate) fn block_if_full(&mut self, tenant: TenantKey) {
        let row = &self.tenants[tenant];
        if !row.blocked && row.in_flight >= self.concurrency.tenant {
            self.bands.block(&mut self.tenants, tenant);
        }
    }

    pub(crate) fn unblock_if_free(&mut self, tenant: TenantKey) {
        let row = &self.tenants[tenant];
        if row.blocked && row.in_flight < self.concurrency.tenant {
            self.bands.unblock(&self.sessions, &mut self.tenants, tenant);
        }
    }

    /// Counts the end of a throttle that is over, wherever the lite topic goes.
    fn end_throttle_if_over(&mut self, lite: LiteKey) {
        let throttle = self.lites.extra(lite).throttle;
        if throttle != Timestamp::default() && throttle <= self.now {
            self.lites.extra_mut(lite).throttle = Timestamp::default();
            self.asks.throttled.remove(&self.lites[lite].id);
        }
    }

    fn leave(&mut self, lite: LiteKey, from: Place) {
        match from {
            Place::New | Place::Refused => {}
            Place::Idle => self.idle.remove(&mut self.lites, lite),
            Place::Ready(band) => {
                self.counts.ready -= 1;
                self.asks.banded.remove(&self.lites[lite].id);
                self.bands.remove(&self.sessions, &mut self.tenants, &mut self.lites, lite, band);
            }
            Place::Asking => {
                self.counts.asking -= 1;
                self.asks.leave(&mut self.lites, lite);
            }
            Place::InFlight => {
                self.full.remove(&self.lites[lite].id);
            }
            Place::Held(until) => {
                self.counts.held -= 1;
                self.timers.stop(until, self.lites[lite].id);
            }
            Place::Parked(session) => self.sessions.unpark(session, &mut self.lites, lite),
        }
    }

    fn enter(&mut self, lite: LiteKey, to: Place) {
        match to {
            Place::New => unreachable!("nothing becomes new"),
            Place::Refused => {}
            Place::Idle => self.rest(lite),
            Place::Ready(band) => {
                self.counts.ready += 1;
                if self.asks.bound && self.lites.extra(lite).answer.is_some_and(|answer| answer.band.is_some()) {
                    self.asks.banded.insert(self.lites[lite].id);
                }
                self.bands.push(&self.sessions, &mut self.tenants, &mut self.lites, lite, band);
            }
            Place::Asking => {
                self.counts.asking += 1;
                self.asks.enter(&mut self.lites, lite);
            }
            Place::InFlight => {
                self.full.insert(self.lites[lite].id);
            }
            Place::Held(until) => {
                self.counts.held += 1;
                self.timers.start(until, self.lites[lite].id);
            }
            Place::Parked(session) => self.sessions.park(session, &mut self.lites, lite),
        }
    }

    /// Nothing waits: the entry goes, or is kept for what it remembers while it is among the last that did.
    fn rest(&mut self, lite: LiteKey) {
        let extra = self.lites.extra(lite);
        let has_answer = self.asks.bound && self.asks.valid(extra.answer, self.now).is_some();
        let has_memo = extra.memo != 0 && extra.memo_tenure == self.tenants.tenure;
        if !has_answer && !has_memo && self.lites[lite].session().is_none() {
            self.forget(lite);
            return;
        }
        self.idle.push(&mut self.lites, lite);
        if self.idle.len() > IDLE_REMEMBERED_MAX {
            let oldest = self.idle.first().expect("it is longer than its limit");
            self.idle.remove(&mut self.lites, oldest);
            self.forget(oldest);
        }
    }

    fn forget(&mut self, lite: LiteKey) {
        self.set_backlog(lite, 0);
        let row = self.lites.remove(lite);
        assert!(row.open == 0 && !row.has_head(), "only an idle lite topic is forgotten");
        // What the route forgets with its last lite topic may be the last flow of the tenant, which is still needed.
        self.part(row.route);
        self.tenants[row.tenant].lites -= 1;
        self.tenants.release(row.tenant);
    }

    pub(crate) fn part(&mut self, route: RouteKey) {
        if self.sessions.part(route) {
            self.bands.close(&self.sessions, &mut self.tenants, route);
        }
    }
}
