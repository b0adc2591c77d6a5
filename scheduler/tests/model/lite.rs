//! What the model knows of one lite topic, and the rule that says where it belongs.

use std::time::Duration;

use sluicegate_protocol::{LiteId, TenantId, Timestamp};
use sluicegate_scheduler::{Head, HoldSource, SessionKey};

use crate::fair::Route;
use crate::model::Model;

pub(crate) const NEVER: Timestamp = Timestamp(0);

/// Where a lite topic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    New,
    Idle,
    Ready(u8),
    Asking,
    InFlight,
    Held(Timestamp),
    Parked(SessionKey),
    Refused,
}

/// A policy's leave to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Leave {
    pub(crate) generation: u32,
    pub(crate) band: Option<u8>,
    pub(crate) left: u32,
    pub(crate) until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    DeadLetter,
    Drop,
}

#[derive(Debug)]
pub(crate) struct Lite {
    pub(crate) tenant: TenantId,
    pub(crate) route: Route,
    pub(crate) place: Place,
    /// When it came to its place, in the one order of all things that happened.
    pub(crate) came: u64,
    /// A policy's answer with a band brought it to its place.
    pub(crate) is_banded: bool,
    pub(crate) head: Option<Head>,
    pub(crate) backlog: u64,
    pub(crate) open: u32,
    pub(crate) session: Option<SessionKey>,
    pub(crate) holds: [(HoldSource, Timestamp); 4],
    pub(crate) throttle: Timestamp,
    /// Since when throttles, and nothing else, keep it back.
    pub(crate) kept_since: Option<Timestamp>,
    pub(crate) refusal: Option<Refusal>,
    pub(crate) leave: Option<Leave>,
    pub(crate) memo: u64,
    pub(crate) memo_tenure: u32,
    /// Sequence of the ask that has a row for it, until that one is over.
    pub(crate) asked: u64,
    pub(crate) last_service: Option<Duration>,
    pub(crate) last_wait: Option<Duration>,
}

impl Lite {
    pub(crate) fn new(tenant: TenantId, route: Route) -> Self {
        let sources = [HoldSource::Settle, HoldSource::Policy, HoldSource::Operator, HoldSource::Retry];
        Self {
            tenant,
            route,
            place: Place::New,
            came: 0,
            is_banded: false,
            head: None,
            backlog: 0,
            open: 0,
            session: None,
            holds: sources.map(|source| (source, NEVER)),
            throttle: NEVER,
            kept_since: None,
            refusal: None,
            leave: None,
            memo: 0,
            memo_tenure: 0,
            asked: 0,
            last_service: None,
            last_wait: None,
        }
    }

    pub(crate) fn set_hold(&mut self, source: HoldSource, until: Timestamp) {
        let hold = self.holds.iter_mut().find(|hold| hold.0 == source).expect("one for each source");
        hold.1 = until;
    }

    pub(crate) fn hold(&self, source: HoldSource) -> Timestamp {
        self.holds.iter().find(|hold| hold.0 == source).expect("one for each source").1
    }

    pub(crate) fn set_head(&mut self, head: Option<Head>) {
        self.head = head;
        self.refusal = None;
    }

    /// The head was leased, or the owner is about to settle it.
    pub(crate) fn take_head(&mut self) {
        self.backlog = self.backlog.saturating_sub(1);
        self.set_head(None);
    }
}

impl Model {
    /// Moves the lite topic to where it belongs; where it is there already, it keeps its turn.
    pub(crate) fn place(&mut self, id: LiteId) {
        let now = self.now;
        let lite = self.lite(id);
        if lite.throttle <= now {
            lite.throttle = NEVER;
        }
        let to = self.place_of(id);
        let lite = self.lite(id);
        if to != Place::Asking && to != Place::Held(lite.throttle) {
            lite.kept_since = None;
        }
        if self.lites[&id].place == to {
            return;
        }
        self.leave(id);
        if to == Place::Idle && !self.is_worth_remembering(id) {
            let gone = self.lites.remove(&id).expect("it is known");
            self.part(&gone.route);
            return;
        }
        if let Place::Ready(band) = to {
            self.enter_band(id, band);
        }
        let came = self.count();
        let is_bound = self.policy.is_bound;
        let lite = self.lite(id);
        (lite.place, lite.came) = (to, came);
        lite.is_banded =
            matches!(to, Place::Ready(_)) && is_bound && lite.leave.is_some_and(|leave| leave.band.is_some());
    }

    /// Takes the lite topic out of its place.
    pub(crate) fn leave(&mut self, id: LiteId) {
        let lite = self.lite(id);
        lite.is_banded = false;
        if let Place::Ready(band) = std::mem::replace(&mut lite.place, Place::New) {
            self.leave_band(id, band);
        }
    }

    /// Whether the session may be given a message of the lite topic.
    pub(crate) fn may_take(&self, key: SessionKey, lite: &Lite) -> bool {
        let session = self.sessions.iter().find(|session| session.key == key && session.credit > 0);
        session.is_some_and(|session| session.serves(&lite.route))
    }

    /// Where the lite topic belongs now.
    pub(crate) fn place_of(&self, id: LiteId) -> Place {
        let lite = &self.lites[&id];
        if lite.refusal.is_some() {
            return Place::Refused;
        }
        let deliver_at = lite.head.and_then(|head| head.deliver_at).unwrap_or(NEVER);
        let held_until = lite.holds.iter().map(|hold| hold.1).chain([deliver_at, lite.throttle]).max();
        if let Some(until) = held_until.filter(|&until| until > self.now) {
            return Place::Held(until);
        }
        match lite.head {
            None if lite.open > 0 => return Place::InFlight,
            None => return Place::Idle,
            Some(_) if lite.open >= self.concurrency.lite => return Place::InFlight,
            Some(_) => {}
        }
        if lite.open > 0 {
            match lite.session {
                None => return Place::InFlight,
                Some(session) if self.may_take(session, lite) => {}
                Some(session) if self.has_credit(session) => return Place::InFlight,
                Some(session) => return Place::Parked(session),
            }
        }
        let priority = lite.head.map_or(0, |head| head.priority);
        if !self.policy.is_bound {
            return Place::Ready(priority.min(9));
        }
        match self.valid_leave(id) {
            Some(leave) => Place::Ready(leave.band.unwrap_or(priority).min(9)),
            None => Place::Asking,
        }
    }

    pub(crate) fn valid_leave(&self, id: LiteId) -> Option<Leave> {
        let is_valid =
            |leave: &Leave| leave.generation == self.policy.generation && leave.left > 0 && leave.until > self.now;
        self.lites[&id].leave.filter(is_valid)
    }

    /// An idle lite topic is remembered for its policy's answer or memo, and for who served it.
    fn is_worth_remembering(&self, id: LiteId) -> bool {
        let lite = &self.lites[&id];
        let has_leave = self.policy.is_bound && self.valid_leave(id).is_some();
        has_leave || (lite.memo != 0 && lite.memo_tenure == self.policy.tenure) || lite.session.is_some()
    }
}
