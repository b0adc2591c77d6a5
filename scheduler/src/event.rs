//! What happens to a group, as its scheduler is told.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, Rate, TenantId, Timestamp};

use crate::{Charge, Plan};

/// A consumer session, numbered by the shard while it is known there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub u64);

/// Which lite topics a session takes deliveries from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of the group.
    All,
    /// Those that count it among their [`Members`].
    Named,
}

/// The sessions that subscribed to a lite topic by name or prefix, each once, in order. Sessions that take all are not
/// among them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Members(Option<Arc<[SessionKey]>>);

impl FromIterator<SessionKey> for Members {
    fn from_iter<I: IntoIterator<Item = SessionKey>>(sessions: I) -> Self {
        let mut sessions: Vec<SessionKey> = sessions.into_iter().collect();
        sessions.sort_unstable();
        sessions.dedup();
        Self((!sessions.is_empty()).then(|| sessions.into()))
    }
}

impl Deref for Members {
    type Target = [SessionKey];

    fn deref(&self) -> &[SessionKey] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// The message of a lite topic that may start next: the lowest offset neither settled nor leased.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its position.
    pub offset: Offset,
    /// When it was published; its wait counts from here.
    pub published_at: Timestamp,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// Estimated cost, at least 0.
    pub cost: u64,
    /// Not before this time.
    pub deliver_at: Option<Timestamp>,
    /// Never after this time.
    pub expires_at: Option<Timestamp>,
    /// Deliveries that counted before this one.
    pub attempts: u32,
}

/// Who holds a lite topic back. Each source has one deadline; the last to end counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HoldSource {
    /// A consumer settled with `suspend`.
    Settle,
    /// The policy suspended it.
    Policy,
    /// An operator suspended it.
    Operator,
    /// The head waits for its retry delay.
    Retry,
}

/// How a lease ended, as far as quotas and fairness care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// The work was done or failed: the reservation stands, corrected by the measured cost.
    Used {
        /// Measured cost; the estimate stands when absent.
        cost: Option<u64>,
        /// From delivery to settle.
        service: Duration,
        /// What came of the work.
        result: WorkResult,
        /// How long what does the work asked to be left alone.
        retry_after: Option<Duration>,
    },
    /// The message came back unused (suspend, orderly close, loss of ownership): all is refunded.
    Returned,
}

/// What came of a delivery that was worked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkResult {
    /// Done.
    Done,
    /// It failed and is tried again.
    Retried,
    /// It went to the dead-letter topic.
    DeadLettered,
    /// The lease ran out, or its session was lost.
    TimedOut,
}

impl Ending {
    /// The work was done; nobody asked to be left alone.
    pub const fn done(cost: Option<u64>, service: Duration) -> Self {
        Self::Used { cost, service, result: WorkResult::Done, retry_after: None }
    }
}

/// How many leases may be open at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Concurrency {
    /// In the group; `u32::MAX` for no bound of its own.
    pub group: u32,
    /// Per tenant; `u32::MAX` for no bound of its own.
    pub tenant: u32,
    /// Per lite topic; 1 keeps strict order.
    pub lite: u32,
}

/// A group's token buckets; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quotas {
    /// Deliveries.
    pub messages: Option<Rate>,
    /// Cost units.
    pub cost: Option<Rate>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A session takes deliveries from these lite topics of the group. Its credit is 0 at first.
    Attached(SessionKey, Scope),
    /// The session takes no more deliveries; its open leases stay with their owner, the shard.
    Detached(SessionKey),
    /// The session has room for this many more messages.
    Credit(SessionKey, u32),
    /// The session reports how busy it is, in millionths.
    Load(SessionKey, u32),
    /// The lite topic's head is this, with so many messages waiting, the head included.
    /// A lite topic that is not known yet is thereby. To be told again when its members change.
    Head {
        /// Which lite topic.
        lite: LiteId,
        /// Whose it is.
        tenant: TenantId,
        /// Who subscribed to it, beside the sessions that take all.
        members: Members,
        /// The head.
        head: Head,
        /// Waiting messages, the head included.
        backlog: u64,
    },
    /// Nothing in the lite topic may start: all settled or leased.
    Emptied(LiteId),
    /// A lease from before a restart is still open.
    Leased {
        /// Which lite topic.
        lite: LiteId,
        /// Whose it is.
        tenant: TenantId,
        /// What its delivery reserved.
        charge: Charge,
    },
    /// A lease ended. The new head, if any, follows as [`Event::Head`].
    Settled {
        /// Which lite topic.
        lite: LiteId,
        /// What its delivery reserved.
        charge: Charge,
        /// How it ended.
        ending: Ending,
    },
    /// No delivery of the lite topic before this time. Replaces the deadline of the same source.
    /// A lite topic that is not known yet is thereby.
    Held {
        /// Which lite topic.
        lite: LiteId,
        /// Whose it is.
        tenant: TenantId,
        /// Who holds it.
        source: HoldSource,
        /// Until when.
        until: Timestamp,
    },
    /// The hold of one source, or of all, ends now.
    Resumed {
        /// Which lite topic.
        lite: LiteId,
        /// Which hold; `None` for all.
        source: Option<HoldSource>,
    },
    /// The group's quotas are these from now on. What is owed is rescaled; nothing is given away.
    Quotas(Quotas),
    /// The group's concurrency is this from now on.
    Concurrency(Concurrency),
    /// How long a policy may throttle all that a tenant has, while there is room; none for ever. Before the first of these it is 30 s.
    Watchdog(Option<Duration>),
    /// No new deliveries until [`Event::Unpaused`].
    Paused,
    /// Deliveries go on.
    Unpaused,
    /// A policy decides from now on; answers of an earlier one no longer count.
    PolicyBound,
    /// The built-in fair scheduling decides from now on.
    PolicyUnbound,
    /// The policy's answer to the ask with this sequence.
    Answered {
        /// [`crate::Frame::sequence`] of the ask.
        sequence: u64,
        /// One answer for each row of the ask, checked for length by the host.
        plan: Plan,
    },
    /// The policy failed on the ask with this sequence: built-in fair scheduling serves those rows.
    AskFailed {
        /// [`crate::Frame::sequence`] of the ask.
        sequence: u64,
    },
}
