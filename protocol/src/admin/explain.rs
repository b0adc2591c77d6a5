//! Why a lite topic is not being served, and who waits longest.

use serde::{Deserialize, Serialize};

use super::{GroupStats, LiteLease, PolicyRuns, SuspensionSource};
use crate::{GroupName, LiteId, LiteName, Offset, Timestamp, TopicName};

/// Why a lite topic is not being served to a group at this moment, until when, and behind whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The group.
    pub group: GroupName,
    /// The lite topic's topic.
    pub topic: TopicName,
    /// The lite topic's name.
    pub name: LiteName,
    /// Its present life.
    pub lite_id: LiteId,
    /// Whose it is.
    pub tenant: String,
    /// The moment, by the broker's clock: all that is said holds then.
    pub at: Timestamp,
    /// All that keeps it from being served: first what somebody must end, then what ends last. Empty when it is served at the
    /// next turn.
    pub blockers: Vec<Blocker>,
    /// The message that would start next.
    pub head: Option<ExplainedHead>,
    /// Messages that are neither settled nor leased.
    pub backlog: u64,
    /// Open leases, by offset.
    pub leases: Vec<LiteLease>,
    /// The tenant's weight; absent where nothing waits.
    pub weight: Option<u32>,
    /// The priority band that it waits in, 9 first: the head's priority, or what the policy chose.
    pub band: Option<u8>,
    /// Lite topics of its tenant that are served before it.
    pub rank_in_tenant: Option<Rank>,
    /// Tenants of its band that are served before its own.
    pub rank_in_band: Option<Rank>,
    /// When it is likely to start, at the pace of the last deliveries; absent where nothing can be said.
    pub estimated_start: Option<Timestamp>,
    /// The policy that is bound to the group; absent for built-in fair scheduling.
    pub policy: Option<ExplainedPolicy>,
}

/// The message of a lite topic that would start next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedHead {
    /// Its position.
    pub offset: Offset,
    /// When it was published; its age counts from here.
    pub published_at: Timestamp,
    /// 0 to 9, 9 first.
    pub priority: u8,
    /// Estimated cost.
    pub cost: u64,
    /// Deliveries of it that counted.
    pub attempts: u32,
    /// Not delivered after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// Something that keeps a lite topic from being served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocker {
    /// What it is.
    #[serde(flatten)]
    pub cause: Cause,
    /// Since when, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When it ends by itself, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

/// What keeps a lite topic from being served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// The broker was asked to stop: no new leases.
    Draining,
    /// An operator paused the group.
    Paused,
    /// No connected session takes deliveries of it.
    NoSession,
    /// It is held back.
    Suspended {
        /// By whom.
        source: SuspensionSource,
    },
    /// The head's `deliver_at` is not reached.
    DeliverAt,
    /// The policy throttles it.
    Throttled,
    /// A quota cannot pay for what is served next in its band or above: the gate is closed.
    Quota {
        /// The bucket that takes longest to fill.
        bucket: Bucket,
        /// Units it is short of.
        short: u64,
    },
    /// Nothing waits in it.
    Empty,
    /// All that is in it is leased.
    AllLeased,
    /// What is less than 1,024 past its first unsettled message is leased or settled; nothing later starts before that one is
    /// settled.
    Window {
        /// The first unsettled message.
        first: Offset,
    },
    /// It has as many open leases as it may have.
    LiteConcurrency {
        /// So many.
        limit: u32,
    },
    /// Its tenant has as many open leases as it may have.
    TenantConcurrency {
        /// So many.
        limit: u32,
    },
    /// The group has as many open leases as it may have.
    GroupConcurrency {
        /// So many.
        limit: u32,
        /// The policy set the limit, below the group's own.
        by_policy: bool,
    },
    /// The policy is being asked about it, or will be.
    Asking,
    /// The policy refused the head, which is about to be settled or dead-lettered.
    Refused,
    /// Every session that takes deliveries of it has as many messages as it wants.
    NoCredit,
    /// Its deliveries stay with this session while it has an open lease, and the session has no room.
    SessionFull {
        /// The session, 32 hexadecimal digits; absent where it is gone.
        session: Option<String>,
    },
    /// Others are served before it.
    Turn,
}

/// One of a group's token buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bucket {
    /// Deliveries.
    Messages,
    /// Cost units.
    Cost,
}

/// A count of those that are served before, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rank {
    /// So many.
    Exactly(u32),
    /// More than were counted.
    MoreThan(u32),
}

/// The policy that is bound to a group, and what it said of a lite topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedPolicy {
    /// Its own name.
    pub name: String,
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
    /// Why it does not decide at present although it is bound, if so.
    pub suspended_because: Option<String>,
    /// Where its frames are answered at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<PolicyRuns>,
    /// What it last said of the lite topic, if it was asked about it and the broker still knows.
    pub said: Option<PolicyWord>,
}

/// What a policy said of a lite topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyWord {
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub verdict: PolicyVerdict,
    /// Why, in the policy's words.
    pub reason: String,
    /// The watchdog let a message through all the same.
    #[serde(default, skip_serializing_if = "is_not")]
    pub overruled: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out a reference")]
const fn is_not(flag: &bool) -> bool {
    !*flag
}

/// What a policy can decide for a lite topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum PolicyVerdict {
    /// Its messages may run.
    Serve {
        /// In this band; in the head's priority when absent.
        band: Option<u8>,
        /// Messages until the policy is asked again.
        max_messages: u32,
    },
    /// It waits, in memory only, and the policy is asked again.
    Throttle {
        /// For so long, in milliseconds.
        for_ms: u64,
    },
    /// It is suspended.
    Suspend {
        /// For so long, in milliseconds.
        for_ms: u64,
    },
    /// The head goes to the dead-letter topic.
    DeadLetter,
    /// The head is settled without delivery.
    Drop,
}

/// How a group stands, and the lite topics that wait longest in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiters {
    /// The group.
    pub group: GroupName,
    /// The moment, by the broker's clock.
    pub at: Timestamp,
    /// An operator paused the group.
    pub paused: bool,
    /// The broker was asked to stop: no new leases.
    pub draining: bool,
    /// The group's counters and levels.
    pub stats: GroupStats,
    /// Those whose head waits longest, of the ones that could run if the group let them: what is suspended, delayed or
    /// throttled, and what waits for its own open lease, is not among them.
    pub waiters: Vec<Waiter>,
}

/// A lite topic that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiter {
    /// Its name.
    pub name: LiteName,
    /// Its present life.
    pub lite_id: LiteId,
    /// Whose it is.
    pub tenant: String,
    /// When its head was published.
    pub since: Timestamp,
    /// The first of what keeps it from being served; absent when it is served at the next turn.
    pub blocker: Option<Blocker>,
    /// Lite topics of its tenant that are served before it.
    pub rank_in_tenant: Option<Rank>,
    /// Tenants of its band that are served before its own.
    pub rank_in_band: Option<Rank>,
}
