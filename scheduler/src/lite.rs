//! What the scheduler knows of one lite topic, and the chains that lite topics wait in.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};
use std::time::Duration;

use sluicegate_protocol::{LiteId, Timestamp};

use crate::hold::Holds;
use crate::slab::{Key, Slab};
use crate::tenant::TenantKey;
use crate::{Head, SessionKey};

/// Names an entry while it exists.
pub(crate) type LiteKey = Key<Lite>;

/// One lite topic with something to do, or something to remember.
#[derive(Debug)]
pub(crate) struct Lite {
    pub(crate) id: LiteId,
    pub(crate) tenant: TenantKey,
    pub(crate) place: Place,
    pub(crate) head: Option<Head>,
    /// Waiting messages, the head included.
    pub(crate) backlog: u64,
    /// Open leases.
    pub(crate) open: u32,
    /// Who served it last; while a lease is open, the only one that may. Unknown for leases from before a restart.
    pub(crate) session: Option<SessionKey>,
    pub(crate) holds: Holds,
    /// The policy's verdict against the head, until the owner is told.
    pub(crate) refusal: Option<Refusal>,
    pub(crate) answer: Option<Service>,
    pub(crate) memo: u64,
    /// Policy tenure that the memo is from.
    pub(crate) memo_tenure: u32,
    /// Sequence of the outstanding ask that has a row for it; 0 for none.
    pub(crate) asked: u64,
    pub(crate) last_service: Option<Duration>,
    links: Links,
}

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

/// A policy's leave to serve.
#[derive(Debug, Clone, Copy)]
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

/// All entries.
#[derive(Debug, Default)]
pub(crate) struct Lites {
    rows: Slab<Lite>,
    by_id: HashMap<LiteId, LiteKey>,
}

impl Lites {
    pub(crate) fn find(&self, id: LiteId) -> Option<LiteKey> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn add(&mut self, id: LiteId, tenant: TenantKey) -> LiteKey {
        let key = self.rows.insert(Lite {
            id,
            tenant,
            place: Place::New,
            head: None,
            backlog: 0,
            open: 0,
            session: None,
            holds: Holds::default(),
            refusal: None,
            answer: None,
            memo: 0,
            memo_tenure: 0,
            asked: 0,
            last_service: None,
            links: Links::default(),
        });
        let earlier = self.by_id.insert(id, key);
        assert!(earlier.is_none(), "lite topic {id} has two entries");
        key
    }

    pub(crate) fn remove(&mut self, key: LiteKey) -> Lite {
        let lite = self.rows.remove(key);
        self.by_id.remove(&lite.id);
        lite
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

/// Lite topics in the order in which they came. The links are in the entries, so an entry is in one chain at most,
/// and leaves from anywhere in it at the same small cost.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chain {
    first: Option<LiteKey>,
    last: Option<LiteKey>,
    len: usize,
}

impl Chain {
    pub(crate) fn first(&self) -> Option<LiteKey> {
        self.first
    }

    pub(crate) fn len(&self) -> usize {
        self.len
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
}
