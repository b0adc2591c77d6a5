//! What happened in a history, in the broker's own time. Nothing here judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use sluicegate_client::admin::{ConcurrencySettings, DeadLetter, LiteTopic, QuotaSettings};
use sluicegate_client::{Outcome, SettleError, Timestamp};
use sluicegate_protocol::LeaseToken;

/// Something took effect at one instant: not before `after`, not after `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The earliest that it may have been.
    pub after: Timestamp,
    /// The latest.
    pub before: Timestamp,
}

impl Span {
    /// It is known when.
    pub fn exact(at: Timestamp) -> Self {
        Self { after: at, before: at }
    }
}

/// A position in a lite topic: index of the [`Life`], offset.
pub type Place = (usize, u64);

/// One life of a lite topic, from the message that made it until it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Life {
    /// The lite topic's name.
    pub name: String,
    /// When it was deleted.
    pub over: Option<Span>,
}

/// What a consumer does with a delivery.
#[derive(Debug, Clone, Copy)]
pub enum End {
    /// Done.
    Ack,
    /// Done, with its measured cost.
    AckWithCost(u64),
    /// Again, after this or after the group's delay.
    Retry(Option<Duration>),
    /// Again, uncounted, and nothing of the lite topic for this long.
    Suspend(Duration),
    /// Given up.
    DeadLetter,
    /// Never settled: its lease runs out.
    Abandon,
}

impl End {
    /// The message is not delivered again.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Ack | Self::AckWithCost(_) | Self::DeadLetter)
    }

    /// How the client says it; what is abandoned says nothing.
    pub fn outcome(self) -> Option<Outcome> {
        Some(match self {
            Self::Ack => Outcome::Ack,
            Self::AckWithCost(cost) => Outcome::AckWithCost(cost),
            Self::Retry(delay) => Outcome::Retry(delay),
            Self::Suspend(duration) => Outcome::Suspend(duration),
            Self::DeadLetter => Outcome::DeadLetter("given up".into()),
            Self::Abandon => return None,
        })
    }
}

/// A delivery as its consumer got it.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// Which message.
    pub place: Place,
    /// None where only the lease is known: the delivery went down with the broker.
    pub body: Option<String>,
    /// Index of the session in [`Record::sessions`].
    pub session: usize,
    /// 1 for the first.
    pub attempt: u32,
    /// Dispatched.
    pub at: Timestamp,
    /// As it was delivered, or as it was extended. Extensions move it, later only.
    pub deadline: Timestamp,
    /// Estimated.
    pub cost: u64,
    /// Whose message.
    pub tenant: String,
    /// Where the consumer shows it.
    pub token: Option<LeaseToken>,
    /// None while it is open.
    pub ended: Option<(Span, Ended)>,
}

/// How the consumer's side saw a lease end.
#[derive(Debug, Clone)]
pub enum Ended {
    /// As its holder asked, or it is not known how.
    Settled(End, Result<(), SettleError>),
    /// Dropped, or its holder is gone: by its deadline or the end of the grace.
    Abandoned,
    /// The same, unless something else returned it in the span.
    Unsure,
    /// With its consumer, in order.
    Closed,
    /// By an operator.
    Revoked,
    /// Its lite topic was deleted.
    Deleted,
    /// A power cut took the lease, which had never been synced.
    Forgotten,
}

/// One session as it stood to the group.
#[derive(Debug, Default)]
pub struct Session {
    /// What it may have been subscribed to.
    pub subscriptions: Vec<Subscribed>,
}

/// A session takes a lite topic, or all whose names begin so.
#[derive(Debug)]
pub struct Subscribed {
    /// The name or the prefix.
    pub name: String,
    /// Which of the two.
    pub is_prefix: bool,
    /// It may have begun then.
    pub from: Timestamp,
    /// It was over then.
    pub until: Timestamp,
}

impl Subscribed {
    /// All lite topics, always.
    pub fn all() -> Self {
        Self { name: String::new(), is_prefix: true, from: Timestamp(0), until: Timestamp::MAX }
    }

    /// Whether the lite topic of this name is meant.
    pub fn matches(&self, lite: &str) -> bool {
        if self.is_prefix { lite.starts_with(&self.name) } else { lite == self.name }
    }
}

/// A time in which leases may have begun that no consumer told the test of.
#[derive(Debug, Clone, Copy)]
pub struct Blind {
    /// First moment.
    pub from: Timestamp,
    /// Last moment.
    pub until: Timestamp,
    /// How many at most.
    pub leases: u32,
    /// How many of them may have ended as counted attempts.
    pub counted: u32,
}

/// A lite topic got no new deliveries, strictly between these times.
#[derive(Debug, Clone, Copy)]
pub struct Hold {
    /// Index of the life.
    pub lite: usize,
    /// Who asked for it.
    pub source: Source,
    /// It held for certain from then.
    pub from: Timestamp,
    /// It was not over before.
    pub until: Timestamp,
}

/// Who holds a lite topic back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An operator.
    Operator,
    /// A settle by `suspend`.
    Settle,
    /// A retry's delay.
    Retry,
}

/// The lite topics as the admin API showed them at the end, and what they left in the dead-letter topic.
#[derive(Debug, Default)]
pub struct AtTheEnd {
    /// By life; none where nothing was published.
    pub lite_topics: Vec<Option<LiteTopic>>,
    /// All.
    pub dead_letters: Vec<DeadLetter>,
}

/// All that the test knows of one history.
#[derive(Debug, Default)]
pub struct Record {
    /// The group's setting.
    pub max_attempts: u32,
    /// The group's setting.
    pub grace: Duration,
    /// The dearest message's cost.
    pub cost_max: u64,
    /// The lives of the lite topics.
    pub lites: Vec<Life>,
    /// Acknowledged messages by offset.
    pub published: BTreeMap<Place, String>,
    /// In any order.
    pub deliveries: Vec<Delivered>,
    /// Those that consumers had.
    pub sessions: Vec<Session>,
    /// In any order.
    pub holds: Vec<Hold>,
    /// The group was paused between these times.
    pub pauses: Vec<(Timestamp, Timestamp)>,
    /// By time.
    pub concurrency: Vec<(Span, ConcurrencySettings)>,
    /// By time.
    pub quotas: Vec<(Span, QuotaSettings)>,
    /// Settled by an operator without delivery.
    pub skipped: BTreeMap<Place, Span>,
    /// What no consumer saw.
    pub blind: Vec<Blind>,
    /// The broker was killed and started again.
    pub restarts: Vec<Span>,
    /// Those of them that were power cuts: what was written and not synced is gone.
    pub cuts: Vec<Span>,
    /// What was wrong at once, before any rule is asked.
    pub wrong: Vec<String>,
    /// What was left.
    pub end: AtTheEnd,
    /// What the test did, to be read by people.
    pub story: Vec<String>,
}

impl Record {
    /// A life's lite topic name.
    pub fn name(&self, life: usize) -> &str {
        self.lites.get(life).map_or("a lite topic of nobody", |life| &life.name)
    }

    /// A receipt: the message with this body is there.
    pub fn acknowledged(&mut self, place: Place, body: &str) {
        // A message that is sent again gets the same answer.
        if let Some(other) = self.published.insert(place, body.to_owned())
            && other != body
        {
            self.wrong.push(format!("{}@{} was given to {other} and {body}", self.name(place.0), place.1));
        }
    }

    /// The hold of a source, or of all, of this lite topic ends at `at` at the earliest.
    pub fn cut_holds(&mut self, lite: usize, source: Option<Source>, at: Timestamp) {
        for hold in &mut self.holds {
            if hold.lite == lite && source.is_none_or(|source| source == hold.source) {
                hold.until = hold.until.min(at);
            }
        }
    }

    /// Deliveries by time, with the index that tells equal ones apart.
    pub fn in_order(&self) -> Vec<&Delivered> {
        let mut deliveries: Vec<_> = self.deliveries.iter().collect();
        deliveries.sort_by_key(|delivery| (delivery.at, delivery.place));
        deliveries
    }

    /// Those of one message, by time.
    pub fn of_messages(&self) -> BTreeMap<Place, Vec<&Delivered>> {
        let mut by_place = BTreeMap::<_, Vec<_>>::new();
        for delivery in self.in_order() {
            by_place.entry(delivery.place).or_default().push(delivery);
        }
        by_place
    }

    /// Counted leases that may have begun in this time unseen.
    pub fn unseen(&self, from: Timestamp, until: Timestamp) -> u32 {
        let overlapping = self.blind.iter().filter(|blind| blind.from <= until && blind.until >= from);
        overlapping.map(|blind| blind.counted).sum()
    }

    /// Whether a power cut came in this time.
    pub fn was_cut(&self, from: Timestamp, until: Timestamp) -> bool {
        is_among(&self.cuts, from, until)
    }

    /// Whether the broker was started again in this time.
    pub fn was_restarted(&self, from: Timestamp, until: Timestamp) -> bool {
        is_among(&self.restarts, from, until)
    }

    /// Every message that is known, whether it was delivered or not.
    pub fn places(&self) -> BTreeSet<Place> {
        self.published.keys().copied().collect()
    }

    /// All that is known of one message, to be read by people.
    pub fn life_of(&self, place: Place) -> String {
        let (lite, offset) = place;
        let body = self.published.get(&place).map_or("without a receipt", String::as_str);
        let mut text = format!("life of {}@{offset} ({body}):", self.name(lite));
        for delivered in self.of_messages().get(&place).map_or(&[][..], Vec::as_slice) {
            let Delivered { attempt, session, at, deadline, token, ended, .. } = delivered;
            let token = token.map_or_else(String::new, |token| format!(" token {}.{}", token.epoch, token.counter));
            // Writing to a string cannot fail.
            let _ = write!(text, "\n      {at} #{attempt} to session {session}{token} until {deadline}");
            let _ = match ended {
                Some((span, ended)) => write!(text, ", ended {} to {} by {ended:?}", span.after, span.before),
                None => write!(text, ", open"),
            };
        }
        for hold in self.holds.iter().filter(|hold| hold.lite == lite).rev().take(HOLDS_SHOWN_MAX) {
            let _ = write!(text, "\n      held by {:?} from {} until {}", hold.source, hold.from, hold.until);
        }
        text
    }
}

fn is_among(spans: &[Span], from: Timestamp, until: Timestamp) -> bool {
    let begun = spans.partition_point(|span| span.after <= until);
    spans[..begun].last().is_some_and(|span| from <= span.before)
}

/// The newest are what a reader of one message's life may need.
const HOLDS_SHOWN_MAX: usize = 5;

impl Delivered {
    /// A session that does not find back to its broker within the grace has lost its leases.
    pub fn survives(&mut self, killed: Span, grace: Duration) {
        self.deadline = self.deadline.min(killed.after.plus(grace));
    }

    /// A power cut took it back, and may have taken back what made it possible.
    pub fn is_undone(&self) -> bool {
        matches!(self.ended, Some((_, Ended::Forgotten)))
    }

    /// Until when the lease was open for certain.
    pub fn open_until(&self, grace: Duration) -> Timestamp {
        match &self.ended {
            None => self.deadline,
            Some((span, Ended::Abandoned)) => self.deadline.min(span.after.plus(grace)),
            Some((span, _)) => self.deadline.min(span.after),
        }
    }

    /// When the lease was over for certain; never, as far as the test knows, for one that only runs out.
    pub fn over_at(&self) -> Option<Timestamp> {
        match &self.ended {
            Some((span, Ended::Settled(_, Ok(())) | Ended::Closed | Ended::Revoked)) => Some(span.before),
            _ => None,
        }
    }

    /// The message was settled for certain, at the latest at this time.
    pub fn done_before(&self) -> Option<Timestamp> {
        match &self.ended {
            Some((span, Ended::Settled(end, Ok(())))) if end.is_final() => Some(span.before),
            _ => None,
        }
    }

    /// The message may have been settled, at the earliest at this time.
    pub fn may_be_done_after(&self) -> Option<Timestamp> {
        match &self.ended {
            Some((span, Ended::Settled(end, Ok(()) | Err(SettleError::Unknown)))) if end.is_final() => Some(span.after),
            _ => None,
        }
    }

    /// How many attempts the end of this lease counted: at least, and at most.
    pub fn counted(&self) -> (u32, u32) {
        match &self.ended {
            Some((_, Ended::Settled(End::Retry(_), Ok(())) | Ended::Abandoned)) => (1, 1),
            Some((_, Ended::Settled(End::Suspend(_), Ok(())))) => (0, 0),
            Some((span, Ended::Closed | Ended::Revoked)) if span.before < self.deadline => (0, 0),
            _ => (0, 1),
        }
    }
}
