//! What the scheduler knows of one lite topic, and the chains that lite topics wait in.
//!
//! There may be ten million entries, so an entry holds what every lite topic needs; what few of them need is in an
//! [`Extra`] of its own, which exists only while it says something.

use std::num::NonZeroU64;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, Timestamp};

use crate::hold::Holds;
use crate::index::KeyIndex;
use crate::route::RouteKey;
use crate::slab::{Key, Slab};
use crate::tenant::TenantKey;
use crate::{Head, HoldSource, Said, SessionKey};

/// Names an entry while it exists.
pub(crate) type LiteKey = Key<Lite>;

/// One lite topic with something to do, or something to remember.
#[derive(Debug)]
pub(crate) struct Lite {
    pub(crate) id: LiteId,
    pub(crate) tenant: TenantKey,
    /// The sessions that may serve it.
    pub(crate) route: RouteKey,
    pub(crate) place: Place,
    /// Open leases.
    pub(crate) open: u32,
    /// Waiting messages, the head included; what does not fit counts as the most that does.
    pub(crate) backlog: u32,
    head_attempts: u32,
    head_offset: Offset,
    head_published_at: Timestamp,
    head_cost: u64,
    /// [`NO_HEAD`] without a head.
    head_priority: u8,
    /// Source of the one hold that most held lite topics have; further ones are in the extra.
    hold_source: HoldSource,
    hold_until: Timestamp,
    /// Among the waiters.
    pub(crate) is_listed: bool,
    session: SessionKey,
    extra: Option<Key<Extra>>,
    links: Links,
}

const NO_HEAD: u8 = u8::MAX;
const NOBODY: SessionKey = SessionKey(u64::MAX);

/// Where a lite topic is. It is in exactly one place, and in that place's structure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Just made, in no structure yet.
    New,
    /// Nothing waits; kept only for what it remembers.
    Idle,
    /// In its tenant's rotation of this band. The tenant may be blocked there, as one entry.
    Ready(u8),
    /// Waits for the policy's answer.
    Asking,
    /// Its concurrency is reached, or all that waits in it is leased.
    InFlight,
    /// Not before this time.
    Held(Timestamp),
    /// Its session, which holds an open lease of it, has no room.
    Parked(SessionKey),
    /// The policy refused the head; the owner is about to be told.
    Refused,
}

/// What few lite topics need.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Extra {
    /// Holds beside the one in the entry.
    holds: Holds,
    deliver_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    /// Until when the policy throttles it; never durable.
    pub(crate) throttle: Timestamp,
    /// Since when nothing but the policy's throttles keeps it; never durable.
    pub(crate) kept_since: Timestamp,
    /// The policy's verdict against the head, until the owner is told.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) answer: Option<Service>,
    pub(crate) memo: u64,
    /// Policy tenure that the memo is from.
    pub(crate) memo_tenure: u32,
    /// Sequence of the outstanding ask that has a row for it; 0 for none.
    pub(crate) asked: u64,
    pub(crate) last_service: Option<Duration>,
    /// Of its last delivery, from publish on, in microseconds; known while a policy is bound.
    pub(crate) last_wait_us: Option<NonZeroU64>,
    /// What the policy last said, and why.
    pub(crate) said: Option<Said>,
}

/// What a lite topic without an extra has.
static NOTHING_EXTRA: Extra = Extra {
    holds: Holds::NONE,
    deliver_at: None,
    expires_at: None,
    throttle: Timestamp(0),
    kept_since: Timestamp(0),
    refusal: None,
    answer: None,
    memo: 0,
    memo_tenure: 0,
    asked: 0,
    last_service: None,
    last_wait_us: None,
    said: None,
};

/// A policy's leave to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Service {
    pub(crate) generation: u32,
    pub(crate) band: Option<u8>,
    pub(crate) left: u32,
    pub(crate) valid_until: Timestamp,
}

/// What is to become of a refused head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    DeadLetter,
    Drop,
}

#[derive(Debug, Clone, Copy, Default)]
struct Links {
    before: Option<LiteKey>,
    after: Option<LiteKey>,
}

impl Lite {
    pub(crate) fn has_head(&self) -> bool {
        self.head_priority != NO_HEAD
    }

    /// The head's priority, if there is a head.
    pub(crate) fn priority(&self) -> Option<u8> {
        self.has_head().then_some(self.head_priority)
    }

    /// The head's estimated cost, if there is a head.
    pub(crate) fn cost(&self) -> Option<u64> {
        self.has_head().then_some(self.head_cost)
    }

    /// When the head was published; of no meaning without a head.
    pub(crate) fn head_published_at(&self) -> Timestamp {
        self.head_published_at
    }

    /// Its place among the waiters.
    pub(crate) fn wait(&self) -> (Timestamp, LiteId) {
        (self.head_published_at, self.id)
    }

    /// The head's position, if there is a head.
    pub(crate) fn offset(&self) -> Option<Offset> {
        self.has_head().then_some(self.head_offset)
    }

    /// Who served it last; while a lease is open, the only one that may. Unknown for leases from before a restart.
    pub(crate) fn session(&self) -> Option<SessionKey> {
        (self.session != NOBODY).then_some(self.session)
    }

    pub(crate) fn set_session(&mut self, session: SessionKey) {
        self.session = session;
    }
}

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Lites {
    rows: Slab<Lite>,
    extras: Slab<Extra>,
    by_id: KeyIndex<Lite>,
}

impl Lites {
    pub(crate) fn find(&self, id: LiteId) -> Option<LiteKey> {
        self.by_id.find(id.0, |key| self.rows[key].id.0)
    }

    pub(crate) fn add(&mut self, id: LiteId, tenant: TenantKey, route: RouteKey) -> LiteKey {
        debug_assert!(self.find(id).is_none(), "lite topic {id} has two entries");
        let key = self.rows.insert(Lite {
            id,
            tenant,
            route,
            place: Place::New,
            open: 0,
            backlog: 0,
            head_attempts: 0,
            head_offset: Offset(0),
            head_published_at: Timestamp(0),
            head_cost: 0,
            head_priority: NO_HEAD,
            hold_source: HoldSource::Settle,
            hold_until: Timestamp(0),
            is_listed: false,
            session: NOBODY,
            extra: None,
            links: Links::default(),
        });
        self.by_id.insert(id.0, key, |key| self.rows[key].id.0);
        key
    }

    pub(crate) fn remove(&mut self, key: LiteKey) -> Lite {
        self.by_id.remove(self.rows[key].id.0, key, |key| self.rows[key].id.0);
        if let Some(extra) = self.rows[key].extra.take() {
            self.extras.remove(extra);
        }
        self.rows.remove(key)
    }

    /// The whole of the message that may start next.
    pub(crate) fn head(&self, key: LiteKey) -> Option<Head> {
        let row = &self.rows[key];
        let extra = self.extra(key);
        row.has_head().then_some(Head {
            offset: row.head_offset,
            published_at: row.head_published_at,
            priority: row.head_priority,
            cost: row.head_cost,
            deliver_at: extra.deliver_at,
            expires_at: extra.expires_at,
            attempts: row.head_attempts,
        })
    }

    /// Names the message that may start next.
    pub(crate) fn set_head(&mut self, key: LiteKey, head: &Head) {
        let row = &mut self.rows[key];
        row.head_offset = head.offset;
        row.head_published_at = head.published_at;
        row.head_cost = head.cost;
        row.head_attempts = head.attempts;
        row.head_priority = head.priority.min(NO_HEAD - 1);
        if row.extra.is_some() || head.deliver_at.is_some() || head.expires_at.is_some() {
            let extra = self.extra_mut(key);
            extra.refusal = None;
            extra.deliver_at = head.deliver_at;
            extra.expires_at = head.expires_at;
        }
    }

    /// Nothing may start.
    pub(crate) fn clear_head(&mut self, key: LiteKey) {
        let row = &mut self.rows[key];
        row.head_priority = NO_HEAD;
        if row.extra.is_some() {
            let extra = self.extra_mut(key);
            extra.refusal = None;
            extra.deliver_at = None;
            extra.expires_at = None;
        }
    }

    /// Whether the head is this one.
    pub(crate) fn is_head(&self, key: LiteKey, head: &Head) -> bool {
        let row = &self.rows[key];
        row.head_offset == head.offset
            && row.head_priority == head.priority.min(NO_HEAD - 1)
            && row.head_cost == head.cost
            && row.head_attempts == head.attempts
            && row.head_published_at == head.published_at
            && self.extra(key).deliver_at == head.deliver_at
            && self.extra(key).expires_at == head.expires_at
    }

    pub(crate) fn expires_at(&self, key: LiteKey) -> Option<Timestamp> {
        self.extra(key).expires_at
    }

    pub(crate) fn extra(&self, key: LiteKey) -> &Extra {
        self.rows[key].extra.map_or(&NOTHING_EXTRA, |extra| &self.extras[extra])
    }

    /// The extra, made if there is none.
    pub(crate) fn extra_mut(&mut self, key: LiteKey) -> &mut Extra {
        let extras = &mut self.extras;
        let extra = *self.rows[key].extra.get_or_insert_with(|| extras.insert(Extra::default()));
        &mut extras[extra]
    }

    /// Gives the extra back if it says nothing.
    pub(crate) fn trim(&mut self, key: LiteKey) {
        if let Some(extra) = self.rows[key].extra.take_if(|extra| self.extras[*extra] == NOTHING_EXTRA) {
            self.extras.remove(extra);
        }
    }

    /// Replaces the source's deadline.
    pub(crate) fn hold(&mut self, key: LiteKey, source: HoldSource, until: Timestamp, now: Timestamp) {
        let row = &mut self.rows[key];
        if row.hold_source == source || row.hold_until <= now {
            (row.hold_source, row.hold_until) = (source, until);
            if row.extra.is_some() {
                self.extra_mut(key).holds.end(source);
            }
        } else {
            self.extra_mut(key).holds.set(source, until);
        }
    }

    pub(crate) fn hold_of(&self, key: LiteKey, source: HoldSource) -> Timestamp {
        let row = &self.rows[key];
        if row.hold_source == source { row.hold_until } else { self.extra(key).holds.of(source) }
    }

    pub(crate) fn end_hold(&mut self, key: LiteKey, source: HoldSource) {
        let row = &mut self.rows[key];
        if row.hold_source == source {
            row.hold_until = Timestamp(0);
        } else if row.extra.is_some() {
            self.extra_mut(key).holds.end(source);
        }
    }

    /// Ends the holds of all sources and the throttle.
    pub(crate) fn end_holds(&mut self, key: LiteKey) {
        self.rows[key].hold_until = Timestamp(0);
        if self.rows[key].extra.is_some() {
            let extra = self.extra_mut(key);
            (extra.holds, extra.throttle) = (Holds::NONE, Timestamp(0));
        }
    }

    /// When the last of the holds, the throttle and `deliver_at` ends.
    pub(crate) fn held_until(&self, key: LiteKey) -> Timestamp {
        let row = &self.rows[key];
        let extra = self.extra(key);
        let deliver_at = extra.deliver_at.filter(|_| row.has_head()).unwrap_or_default();
        row.hold_until.max(extra.holds.until()).max(extra.throttle).max(deliver_at)
    }

    /// Entries by place in memory: of so many slots from `from` on, and where to go on.
    pub(crate) fn page(&self, from: usize, slots: usize) -> (impl Iterator<Item = &Lite>, Option<usize>) {
        let (rows, next) = self.rows.page(from, slots);
        (rows.map(|(_, row)| row), next)
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LiteKey, &Lite)> {
        self.rows.iter()
    }
}

impl Index<LiteKey> for Lites {
    type Output = Lite;

    fn index(&self, key: LiteKey) -> &Lite {
        &self.rows[key]
    }
}

impl IndexMut<LiteKey> for Lites {
    fn index_mut(&mut self, key: LiteKey) -> &mut Lite {
        &mut self.rows[key]
    }
}

#[cfg(test)]
#[test]
fn an_entry_stays_small() {
    assert!(size_of::<Option<Lite>>() <= 104, "{} bytes", size_of::<Option<Lite>>());
}

/// Lite topics in the order in which they came. The links are in the entries, so an entry is in one chain at most,
/// and leaves from anywhere in it at the same small cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chain {
    first: Option<LiteKey>,
    last: Option<LiteKey>,
    len: u32,
}

impl Chain {
    pub(crate) fn first(&self) -> Option<LiteKey> {
        self.first
    }

    pub(crate) fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(crate) fn push(&mut self, lites: &mut Lites, key: LiteKey) {
        lites[key].links = Links { before: self.last, after: None };
        match self.last {
            Some(last) => lites[last].links.after = Some(key),
            None => self.first = Some(key),
        }
        self.last = Some(key);
        self.len += 1;
    }

    pub(crate) fn remove(&mut self, lites: &mut Lites, key: LiteKey) {
        let Links { before, after } = std::mem::take(&mut lites[key].links);
        match before {
            Some(before) => lites[before].links.after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => lites[after].links.before = before,
            None => self.last = before,
        }
        self.len -= 1;
    }

    pub(crate) fn iter(self, lites: &Lites) -> impl Iterator<Item = LiteKey> {
        std::iter::successors(self.first, |&key| lites[key].links.after)
    }

    /// The entries before this one in its chain, nearest first.
    pub(crate) fn before(lites: &Lites, key: LiteKey) -> impl Iterator<Item = LiteKey> {
        std::iter::successors(lites[key].links.before, |&key| lites[key].links.before)
    }
}
