//! What a policy keeps back without a word. A throttle is one for a moment: who is throttled again and again, with nothing else of its
//! tenant in work although there is room, is starved, and is served all the same. A suspension is a stated will and is obeyed.
//!
//! No timer of its own: a throttle ends at the latest when the watchdog's time is over, and then the policy is asked as ever.

use std::time::Duration;

use sluicegate_protocol::Timestamp;

use crate::asks::{THROTTLE_MAX, THROTTLE_MIN};
use crate::lite::{LiteKey, Place};
use crate::scheduler::Scheduler;

impl Scheduler {
    /// Whether the policy, which throttles the lite topic once more, is overruled.
    pub(crate) fn is_starved(&self, lite: LiteKey) -> bool {
        let row = &self.lites[lite];
        let has_room = !self.paused
            && self.in_flight < self.concurrency.group
            && self.sessions.is_open(row.route)
            && self.gate_closed_until().is_none();
        has_room && self.starves_at(lite).is_some_and(|at| at <= self.now)
    }

    /// When a throttle of this length that begins now is over.
    pub(crate) fn throttle_ends(&self, lite: LiteKey, wait: Duration) -> Timestamp {
        let until = self.now.plus(wait.clamp(THROTTLE_MIN, THROTTLE_MAX));
        let Some(limit) = self.watchdog else { return until };
        let starves_at = self.starves_at(lite).filter(|&at| at > self.now);
        until.min(starves_at.unwrap_or_else(|| self.now.plus(limit)))
    }

    /// The policy throttles the lite topic: since when it does without a break.
    pub(crate) fn keep_back(&mut self, lite: LiteKey) {
        let now = self.now;
        let extra = self.lites.extra_mut(lite);
        if extra.kept_since == Timestamp::default() {
            extra.kept_since = now;
        }
    }

    /// It counts as served: of one tenant nothing more is let through for a while.
    pub(crate) fn let_through(&mut self, lite: LiteKey) {
        let (tenant, now) = (self.lites[lite].tenant, self.now);
        self.tenants[tenant].served_at = now;
        self.counts.starved += 1;
    }

    /// Something else than the policy decides about the lite topic in this place, or it may be served there.
    pub(crate) fn end_keeping_back(&mut self, lite: LiteKey, place: Place) {
        let extra = self.lites.extra(lite);
        let is_kept = match place {
            Place::Asking => true,
            Place::Held(until) => until == extra.throttle,
            Place::New | Place::Idle | Place::Ready(_) | Place::InFlight | Place::Parked(_) | Place::Refused => false,
        };
        if !is_kept && extra.kept_since != Timestamp::default() {
            self.lites.extra_mut(lite).kept_since = Timestamp::default();
        }
    }

    /// When the watchdog's time is over for a lite topic that is kept back, unless something of its tenant is served before.
    fn starves_at(&self, lite: LiteKey) -> Option<Timestamp> {
        let (tenant, since) = (&self.tenants[self.lites[lite].tenant], self.lites.extra(lite).kept_since);
        let limit = self.watchdog.filter(|_| since != Timestamp::default() && tenant.in_flight == 0)?;
        Some(since.max(tenant.served_at).plus(limit))
    }
}
