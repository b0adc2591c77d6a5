//! The lite topics of a run: what waits in them, how much of it is in work, and until when they are held.

use std::collections::{HashMap, VecDeque};

use sluicegate_protocol::{LiteId, Offset, Timestamp};

use super::job::Job;
use crate::{Event, Head, Members};

/// A message that is not settled.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) job: Job,
    pub(super) offset: Offset,
    pub(super) published_at: Timestamp,
    /// Deliveries that counted.
    pub(super) attempts: u32,
}

impl Message {
    fn deliver_at(&self) -> Option<Timestamp> {
        self.job.deliver_after.map(|span| self.published_at.plus(span))
    }
}

/// One lite topic.
#[derive(Debug)]
pub(super) struct Lite {
    pub(super) id: LiteId,
    /// Row of its tenant in the books.
    pub(super) tenant: usize,
    next_offset: Offset,
    /// In the order of offsets.
    pub(super) waiting: VecDeque<Message>,
    /// Open leases.
    pub(super) open: u32,
    /// No deliveries before this time, whoever said so.
    pub(super) held_until: Timestamp,
}

/// All lite topics that had a message, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    lites: Vec<Lite>,
    by_id: HashMap<LiteId, usize>,
}

impl Waiting {
    /// The row of a lite topic, new if there is none.
    ///
    /// # Panics
    /// If it is another tenant's.
    pub(super) fn row_of(&mut self, id: LiteId, tenant: usize) -> usize {
        let row = *self.by_id.entry(id).or_insert_with(|| {
            let lite = Lite {
                id,
                tenant,
                next_offset: Offset(0),
                waiting: VecDeque::new(),
                open: 0,
                held_until: Timestamp::default(),
            };
            self.lites.push(lite);
            self.lites.len() - 1
        });
        assert!(self.lites[row].tenant == tenant, "lite topic {id} has two tenants");
        row
    }

    /// The row of a lite topic that had a message.
    pub(super) fn find(&self, id: LiteId) -> usize {
        self.by_id[&id]
    }

    pub(super) fn get(&self, row: usize) -> &Lite {
        &self.lites[row]
    }

    pub(super) fn get_mut(&mut self, row: usize) -> &mut Lite {
        &mut self.lites[row]
    }

    pub(super) fn len(&self) -> usize {
        self.lites.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lite> {
        self.lites.iter()
    }

    /// The message of a lite topic that may start next.
    pub(super) fn head(&self, id: LiteId) -> Option<&Message> {
        self.by_id.get(&id).and_then(|&row| self.lites[row].waiting.front())
    }
}

impl Lite {
    /// A message comes to its end.
    pub(super) fn publish(&mut self, job: Job, now: Timestamp) {
        let offset = self.next_offset;
        self.next_offset = offset.next();
        self.waiting.push_back(Message { job, offset, published_at: now, attempts: 0 });
    }

    /// A message is back in its place.
    pub(super) fn put_back(&mut self, message: Message) {
        let place = self.waiting.partition_point(|other| other.offset < message.offset);
        self.waiting.insert(place, message);
    }

    /// When its head may start, but for holds; none if nothing waits.
    pub(super) fn due(&self) -> Option<Timestamp> {
        self.waiting.front().map(|head| head.deliver_at().unwrap_or_default())
    }

    /// What the scheduler is told of it.
    pub(super) fn news(&self) -> Event {
        let Some(message) = self.waiting.front() else { return Event::Emptied(self.id) };
        let Message { job, offset, published_at, attempts } = message;
        let head = Head {
            offset: *offset,
            published_at: *published_at,
            priority: job.priority,
            cost: job.cost,
            deliver_at: message.deliver_at(),
            expires_at: job.expires_after.map(|span| published_at.plus(span)),
            attempts: *attempts,
        };
        let backlog = self.waiting.len() as u64;
        Event::Head { lite: self.id, tenant: job.tenant, members: Members::default(), head, backlog }
    }
}
