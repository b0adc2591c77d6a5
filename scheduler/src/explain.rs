//! Why a lite topic is not being served now, until when, and behind whom.

use std::ops::Bound;
use std::time::Duration;

use sluicegate_protocol::{LiteId, TenantId, Timestamp};

use crate::lite::{Chain, LiteKey, Place};
use crate::scheduler::Scheduler;
use crate::{Head, HoldSource, SessionKey, Verdict};

/// Ranks are counted to here.
const RANK_MAX: usize = 10_000;

/// What the scheduler knows of one lite topic, as an operator asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Which lite topic.
    pub lite: LiteId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The tenant's weight at present.
    pub weight: u32,
    /// The message that would start next.
    pub head: Option<Head>,
    /// Waiting messages, the head included.
    pub backlog: u64,
    /// Open leases.
    pub in_flight: u32,
    /// The priority band it waits in; the policy may have chosen it.
    pub band: Option<u8>,
    /// All that keeps it from being served, what ends last first. Empty when it is served at the next poll.
    pub blockers: Vec<Blocker>,
    /// Lite topics of its tenant that are served before it.
    pub rank_in_tenant: Option<Rank>,
    /// Tenants of its band that are served before its own.
    pub rank_in_band: Option<Rank>,
    /// When it is likely to start, at the pace of the last deliveries; absent where nothing can be said.
    pub estimated_start: Option<Timestamp>,
    /// Since when nothing but the policy's throttles keeps it back.
    pub kept_since: Option<Timestamp>,
    /// What the policy last said of it.
    pub said: Option<Said>,
}

/// A count of those before, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// So many.
    Exactly(u32),
    /// More than were counted.
    MoreThan(u32),
}

/// Something that keeps a lite topic from being served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocker {
    /// Nothing waits in it.
    Empty,
    /// The group is paused.
    Paused,
    /// A suspension or a retry delay.
    Held(HoldSource, Timestamp),
    /// The head's `deliver_at` is not reached.
    DeliverAt(Timestamp),
    /// The policy throttles it.
    Throttled(Timestamp),
    /// The policy refused the head; the owner is about to settle it.
    Refused,
    /// It has as many open leases as it may have.
    LiteConcurrency(u32),
    /// Its tenant has as many open leases as it may have.
    TenantConcurrency(u32),
    /// The group has as many open leases as it may have.
    GroupConcurrency(u32),
    /// The policy is being asked about it, since then; or will be.
    Asking(Option<Timestamp>),
    /// No connected session subscribed to it.
    NoSession,
    /// Every session that subscribed to it has as many messages as it wants.
    NoCredit,
    /// Its deliveries stay with this session while it has an open lease, and the session has no room.
    SessionFull(SessionKey),
    /// A quota cannot pay for what is served next in its band or above.
    Quota {
        /// The bucket that lasts longest to fill.
        bucket: Bucket,
        /// Units it is short of.
        short: u64,
        /// Since when the gate is closed.
        since: Timestamp,
        /// When the gate opens.
        until: Timestamp,
    },
    /// Others are served before it.
    Turn,
}

/// One of a group's token buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bucket {
    /// Deliveries.
    Messages,
    /// Cost units.
    Cost,
}

/// A policy's last word on a lite topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// When.
    pub at: Timestamp,
    /// What.
    pub verdict: Verdict,
    /// Why: an index into the policy's reasons.
    pub reason: u32,
    /// It was a throttle, and the watchdog let one message through all the same.
    pub overruled: bool,
}

impl Blocker {
    /// When it ends by itself, where that is known.
    pub const fn until(&self) -> Option<Timestamp> {
        match *self {
            Self::Held(_, until) | Self::DeliverAt(until) | Self::Throttled(until) | Self::Quota { until, .. } => {
                Some(until)
            }
            Self::Empty
            | Self::Paused
            | Self::Refused
            | Self::LiteConcurrency(_)
            | Self::TenantConcurrency(_)
            | Self::GroupConcurrency(_)
            | Self::Asking(_)
            | Self::NoSession
            | Self::NoCredit
            | Self::SessionFull(_)
            | Self::Turn => None,
        }
    }
}

/// Mean time between deliveries, the last ones counting most.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    last: Option<Timestamp>,
    mean: Option<Duration>,
}

impl Pace {
    /// Weight of the last interval is one of so many.
    const MEMORY: u32 = 64;

    pub(crate) fn count(&mut self, now: Timestamp) {
        if let Some(last) = self.last.replace(now) {
            let interval = now.since(last);
            let mean = self.mean.unwrap_or(interval);
            self.mean = Some((mean * (Self::MEMORY - 1)).saturating_add(interval) / Self::MEMORY);
        }
    }

    fn of(self, deliveries: usize) -> Option<Duration> {
        Some(self.mean?.saturating_mul(u32::try_from(deliveries).unwrap_or(u32::MAX)))
    }
}

impl Scheduler {
    /// Why the lite topic is not being served now. None if the scheduler has no entry of it: nothing waits in it.
    ///
    /// Costs at most 10,000 steps through those before it.
    pub fn explain(&self, now: Timestamp, lite: LiteId) -> Option<Explanation> {
        let now = self.now.max(now);
        let key = self.lites.find(lite)?;
        let row = &self.lites[key];
        let band = match row.place {
            Place::Ready(band) => Some(band),
            _ => row.priority(),
        };
        let lanes = match row.place {
            Place::Ready(band) => self.bands.lanes_before(&self.tenants, &self.lites, (key, band), RANK_MAX + 1),
            _ => None,
        };
        let ahead =
            matches!(row.place, Place::Ready(_)).then(|| Chain::before(&self.lites, key).take(RANK_MAX + 1).count());
        let mut blockers = self.blockers(now, key);
        let is_first = ahead == Some(0) && lanes.is_some_and(|(before, _)| before == 0);
        if matches!(row.place, Place::Ready(_)) && !is_first {
            blockers.push(Blocker::Turn);
        }
        blockers.sort_by_key(|blocker| std::cmp::Reverse(blocker.until()));
        let turns = ahead.zip(lanes).map(|(ahead, (before, all))| before + ahead.saturating_mul(all.max(1)));
        Some(Explanation {
            lite,
            tenant: self.tenants[row.tenant].id,
            weight: self.tenants.weight(row.tenant),
            head: self.lites.head(key),
            backlog: u64::from(row.backlog),
            in_flight: row.open,
            band,
            rank_in_tenant: ahead.map(Rank::of),
            rank_in_band: lanes.map(|(before, _)| Rank::of(before)),
            estimated_start: self.estimated_start(now, &blockers, turns),
            kept_since: Some(self.lites.extra(key).kept_since).filter(|&since| since != Timestamp::default()),
            said: self.lites.extra(key).said,
            blockers,
        })
    }

    /// The lite topics whose heads wait longest, of those that could run if the group let them: when each was published.
    /// From the first one, or from behind one that was there.
    pub fn oldest_waiters(&self, after: Option<(Timestamp, LiteId)>) -> impl Iterator<Item = (Timestamp, LiteId)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.waiters.range((from, Bound::Unbounded)).copied()
    }

    fn blockers(&self, now: Timestamp, key: LiteKey) -> Vec<Blocker> {
        let row = &self.lites[key];
        let extra = self.lites.extra(key);
        let mut blockers = Vec::new();
        let mut block = |is_so: bool, blocker: Blocker| {
            if is_so {
                blockers.push(blocker);
            }
        };
        for source in [HoldSource::Settle, HoldSource::Policy, HoldSource::Operator, HoldSource::Retry] {
            let until = self.lites.hold_of(key, source);
            block(until > now, Blocker::Held(source, until));
        }
        block(extra.throttle > now, Blocker::Throttled(extra.throttle));
        let Some(head) = self.lites.head(key) else {
            block(true, if row.open > 0 { Blocker::LiteConcurrency(row.open) } else { Blocker::Empty });
            return blockers;
        };
        if let Some(until) = head.deliver_at {
            block(until > now, Blocker::DeliverAt(until));
        }
        block(extra.refusal.is_some(), Blocker::Refused);
        block(self.paused, Blocker::Paused);
        let tenant = &self.tenants[row.tenant];
        let group = self.capacity();
        block(row.open >= self.concurrency.lite, Blocker::LiteConcurrency(self.concurrency.lite));
        block(tenant.in_flight >= self.concurrency.tenant, Blocker::TenantConcurrency(self.concurrency.tenant));
        block(self.in_flight >= group, Blocker::GroupConcurrency(group));
        block(row.place == Place::Asking, Blocker::Asking(self.asks.asked_at(&self.lites, key)));
        match row.place {
            Place::Parked(session) => block(true, Blocker::SessionFull(session)),
            _ if !self.sessions.is_served(row.route) => block(true, Blocker::NoSession),
            _ => block(!self.sessions.is_open(row.route), Blocker::NoCredit),
        }
        let gate = self.gate.filter(|gate| gate.until > now);
        if let (Place::Ready(band), Some(gate)) = (row.place, gate)
            && band <= gate.blocks_to
        {
            let (bucket, short) = self.buckets.short_of(now, gate.cost).unwrap_or((Bucket::Cost, 0));
            block(true, Blocker::Quota { bucket, short, since: gate.since, until: gate.until });
        }
        blockers
    }

    fn estimated_start(&self, now: Timestamp, blockers: &[Blocker], turns: Option<usize>) -> Option<Timestamp> {
        let is_open_ended = |blocker: &Blocker| blocker.until().is_none() && *blocker != Blocker::Turn;
        if blockers.iter().any(is_open_ended) {
            return None;
        }
        let free = blockers.iter().filter_map(Blocker::until).max().unwrap_or(now);
        match turns {
            Some(0) | None => Some(free),
            Some(turns) => Some(free.plus(self.pace.of(turns)?)),
        }
    }
}

impl Rank {
    fn of(count: usize) -> Self {
        match u32::try_from(count) {
            Ok(count) if count as usize <= RANK_MAX => Self::Exactly(count),
            _ => Self::MoreThan(u32::try_from(RANK_MAX).expect("the limit is small")),
        }
    }
}
