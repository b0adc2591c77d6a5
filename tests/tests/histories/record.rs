//! What happened in a history, in the broker's own time. Nothing here judges.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sluicegate_client::admin::{ConcurrencySettings, DeadLetter, LiteTopic, QuotaSettings};
use sluicegate_client::{SettleError, Timestamp};

use crate::draw::End;

/// Something took effect at one instant: not before `after`, not after `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) after: Timestamp,
    pub(crate) before: Timestamp,
}

impl Span {
    pub(crate) fn exact(at: Timestamp) -> Self {
        Self { after: at, before: at }
    }
}

/// A position in a lite topic.
pub(crate) type Place = (usize, u64);

/// A delivery as its consumer got it.
#[derive(Debug, Clone)]
pub(crate) struct Delivered {
    pub(crate) place: Place,
    pub(crate) body: String,
    /// Index of the session in [`Record::sessions`].
    pub(crate) session: usize,
    pub(crate) attempt: u32,
    pub(crate) at: Timestamp,
    /// As it was delivered. Extensions move it, later only.
    pub(crate) deadline: Timestamp,
    pub(crate) cost: u64,
    pub(crate) tenant: String,
    pub(crate) ended: Option<(Span, Ended)>,
}

/// How the consumer's side saw a lease end.
#[derive(Debug, Clone)]
pub(crate) enum Ended {
    Settled(End, Result<(), SettleError>),
    /// Dropped, or its holder is gone: by its deadline or the end of the grace.
    Abandoned,
    /// The same, unless something else returned it in the span.
    Unsure,
    /// With its consumer, in order.
    Closed,
    /// By an operator.
    Revoked,
}

/// One session as it stood to the group.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// What it may have been subscribed to, from the first until the second; names, or prefixes of names.
    pub(crate) subscriptions: Vec<Subscribed>,
}

#[derive(Debug)]
pub(crate) struct Subscribed {
    pub(crate) name: String,
    pub(crate) is_prefix: bool,
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

impl Subscribed {
    pub(crate) fn matches(&self, lite: &str) -> bool {
        if self.is_prefix { lite.starts_with(&self.name) } else { lite == self.name }
    }
}

/// A time in which leases may have begun that no consumer told the test of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Blind {
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
    /// How many at most.
    pub(crate) leases: u32,
    /// How many of them may have ended as counted attempts.
    pub(crate) counted: u32,
}

/// A lite topic got no new deliveries, strictly between these times.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hold {
    pub(crate) lite: usize,
    pub(crate) source: Source,
    pub(crate) from: Timestamp,
    pub(crate) until: Timestamp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Operator,
    Settle,
    Retry,
}

/// A lite topic as the admin API showed it at the end, and what it left in the dead-letter topic.
#[derive(Debug, Default)]
pub(crate) struct AtTheEnd {
    pub(crate) lite_topics: Vec<Option<LiteTopic>>,
    pub(crate) dead_letters: Vec<DeadLetter>,
}

/// All that the test knows of one history.
#[derive(Debug, Default)]
pub(crate) struct Record {
    pub(crate) max_attempts: u32,
    pub(crate) grace: Duration,
    /// Acknowledged messages by offset.
    pub(crate) published: BTreeMap<Place, String>,
    pub(crate) deliveries: Vec<Delivered>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) holds: Vec<Hold>,
    pub(crate) pauses: Vec<(Timestamp, Timestamp)>,
    pub(crate) concurrency: Vec<(Span, ConcurrencySettings)>,
    pub(crate) quotas: Vec<(Span, QuotaSettings)>,
    /// Settled by an operator without delivery.
    pub(crate) skipped: BTreeMap<Place, Span>,
    pub(crate) blind: Vec<Blind>,
    /// What was wrong at once, before any rule is asked.
    pub(crate) wrong: Vec<String>,
    pub(crate) end: AtTheEnd,
    /// What the test did, to be read by people.
    pub(crate) story: Vec<String>,
}

impl Record {
    /// The hold of a source, or of all, of this lite topic ends at `at` at the earliest.
    pub(crate) fn cut_holds(&mut self, lite: usize, source: Option<Source>, at: Timestamp) {
        for hold in &mut self.holds {
            if hold.lite == lite && source.is_none_or(|source| source == hold.source) {
                hold.until = hold.until.min(at);
            }
        }
    }

    /// Deliveries by time, with the index that tells equal ones apart.
    pub(crate) fn in_order(&self) -> Vec<&Delivered> {
        let mut deliveries: Vec<_> = self.deliveries.iter().collect();
        deliveries.sort_by_key(|delivery| (delivery.at, delivery.place));
        deliveries
    }

    /// Those of one message, by time.
    pub(crate) fn of_messages(&self) -> BTreeMap<Place, Vec<&Delivered>> {
        let mut by_place = BTreeMap::<_, Vec<_>>::new();
        for delivery in self.in_order() {
            by_place.entry(delivery.place).or_default().push(delivery);
        }
        by_place
    }

    /// Counted leases that may have begun in this time unseen.
    pub(crate) fn unseen(&self, from: Timestamp, until: Timestamp) -> u32 {
        let overlapping = self.blind.iter().filter(|blind| blind.from <= until && blind.until >= from);
        overlapping.map(|blind| blind.counted).sum()
    }

    /// Every message that is known, whether it was delivered or not.
    pub(crate) fn places(&self) -> BTreeSet<Place> {
        self.published.keys().copied().collect()
    }
}

impl Delivered {
    /// A session that does not find back to its broker within the grace has lost its leases.
    pub(crate) fn survives(&mut self, killed: Span, grace: Duration) {
        self.deadline = self.deadline.min(killed.after.plus(grace));
    }

    /// Until when the lease was open for certain.
    pub(crate) fn open_until(&self, grace: Duration) -> Timestamp {
        match &self.ended {
            None => self.deadline,
            Some((span, Ended::Abandoned)) => self.deadline.min(span.after.plus(grace)),
            Some((span, _)) => self.deadline.min(span.after),
        }
    }

    /// When the lease was over for certain; never, as far as the test knows, for one that only runs out.
    pub(crate) fn over_at(&self) -> Option<Timestamp> {
        match &self.ended {
            Some((span, Ended::Settled(_, Ok(())) | Ended::Closed | Ended::Revoked)) => Some(span.before),
            _ => None,
        }
    }

    /// The message was settled for certain, at the latest at this time.
    pub(crate) fn done_before(&self) -> Option<Timestamp> {
        match &self.ended {
            Some((span, Ended::Settled(end, Ok(())))) if end.is_final() => Some(span.before),
            _ => None,
        }
    }

    /// The message may have been settled, at the earliest at this time.
    pub(crate) fn may_be_done_after(&self) -> Option<Timestamp> {
        match &self.ended {
            Some((span, Ended::Settled(end, Ok(()) | Err(SettleError::Unknown)))) if end.is_final() => Some(span.after),
            _ => None,
        }
    }

    /// How many attempts the end of this lease counted: at least, and at most.
    pub(crate) fn counted(&self) -> (u32, u32) {
        match &self.ended {
            Some((_, Ended::Settled(End::Retry(_), Ok(())) | Ended::Abandoned)) => (1, 1),
            Some((_, Ended::Settled(End::Suspend(_), Ok(())))) => (0, 0),
            Some((span, Ended::Closed | Ended::Revoked)) if span.before < self.deadline => (0, 0),
            _ => (0, 1),
        }
    }
}

impl End {
    pub(crate) fn is_final(self) -> bool {
        matches!(self, Self::Ack | Self::AckWithCost(_) | Self::DeadLetter)
    }
}
