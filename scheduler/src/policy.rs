//! What a policy sees and answers: plain data, so that the scheduler knows nothing of Wasm.

use std::time::Duration;

use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};

use crate::WorkResult;

/// One question to the policy: what happened since the last one, then rows to decide on.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// What happened to deliveries since the last ask, oldest first, at most [`Ask::FEEDBACK_MAX`].
    pub feedback: Vec<Feedback>,
    /// The rows.
    pub frame: Frame,
}

impl Ask {
    /// Rows of one frame.
    pub const LITES_MAX: usize = 256;
    /// Feedback rows kept between two asks; the oldest beyond it are counted, not kept.
    pub const FEEDBACK_MAX: usize = 1_024;
}

/// Rows to decide on. Time and seed are given, so that the same frames give the same answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The only clock.
    pub now: Timestamp,
    /// Counts the asks of this scheduler.
    pub sequence: u64,
    /// The only randomness.
    pub seed: u64,
    /// The group.
    pub group: GroupView,
    /// The tenants of the rows, each once.
    pub tenants: Vec<TenantView>,
    /// The lite topics to decide on, at most [`Ask::LITES_MAX`].
    pub lites: Vec<LiteView>,
}

/// The group as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupView {
    /// Waiting messages.
    pub backlog: u64,
    /// Open leases.
    pub in_flight: u32,
    /// Leases that may be open: concurrency, or what the sessions have room for, the lower.
    pub capacity: u32,
    /// Highest load that a session reported, in millionths.
    pub load_ppm: u32,
    /// Deliveries that the quota would allow at once; `u64::MAX` without one.
    pub messages_left: u64,
    /// Cost that the quota would allow at once; `u64::MAX` without one.
    pub cost_left: u64,
}

/// A tenant as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantView {
    /// Which tenant; the host has told the policy its name.
    pub tenant: TenantId,
    /// Its weight at present.
    pub weight: u32,
    /// Its open leases.
    pub in_flight: u32,
    /// Its lite topics that have a head.
    pub waiting: u32,
}

/// A lite topic with a head, as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiteView {
    /// Which lite topic.
    pub lite: LiteId,
    /// Index into [`Frame::tenants`].
    pub tenant: u32,
    /// The head's position.
    pub head_offset: Offset,
    /// Since the head was published.
    pub head_age: Duration,
    /// The head's estimated cost.
    pub head_cost: u64,
    /// The head's priority, 0 to 9.
    pub priority: u8,
    /// Until the head expires, if it does.
    pub expires_in: Option<Duration>,
    /// Waiting messages, the head included.
    pub backlog: u64,
    /// Open leases.
    pub in_flight: u32,
    /// Deliveries of the head that counted.
    pub attempts: u32,
    /// Service time of the lite topic's last settled message.
    pub last_service: Option<Duration>,
    /// The policy's own word for this lite topic, from its last answer; 0 at first.
    pub memo: u64,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Feedback {
    /// When the lease ended.
    pub at: Timestamp,
    /// Whose.
    pub tenant: TenantId,
    /// Which lite topic.
    pub lite: LiteId,
    /// From publish to delivery; none if that was before this scheduler, or before the policy was bound.
    pub wait: Option<Duration>,
    /// From delivery to settle.
    pub service: Duration,
    /// Cost that was reserved.
    pub cost_estimate: u64,
    /// Cost that was measured, or the estimate; 0 when the message came back unused.
    pub cost_measured: u64,
    /// What came of the work; none if the message came back unused.
    pub result: Option<WorkResult>,
    /// How long what does the work asked to be left alone.
    pub retry_after: Option<Duration>,
}

/// The answer to one [`Ask`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// One for each of [`Frame::lites`], in that order.
    pub lites: Vec<Answer>,
    /// One for each of [`Frame::tenants`], in that order: 1 to 10,000, or 0 to leave it. May be empty.
    pub weights: Vec<u32>,
    /// Leases that may be open in the group, below its setting; in place of what an earlier plan said.
    pub concurrency: Option<ConcurrencyCap>,
    /// So many lite topics in bands that the policy chose are to be asked about again, whatever their answers are valid for; at most
    /// [`Plan::REFRESH_MAX`], and not within [`Plan::REFRESH_EVERY`] of the last time.
    pub refresh: u32,
}

impl Plan {
    /// Lite topics that one plan may have asked about again.
    pub const REFRESH_MAX: u32 = 1_024;
    /// How often that is possible: without a pause a policy could have itself asked for ever.
    pub const REFRESH_EVERY: Duration = Duration::from_millis(10);
}

/// A policy's own bound on open leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConcurrencyCap {
    /// Leases that may be open in the group, at least 1.
    pub leases: u32,
    /// How long that holds unless another plan says otherwise.
    pub valid_for: Duration,
}

/// What to do with one lite topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// How long [`Verdict::Serve`] may be used without asking again.
    pub valid_for: Duration,
    /// An index into the policy's reasons.
    pub reason: u32,
    /// The policy's own word for this lite topic, handed back in the next view.
    pub memo: u64,
}

/// What a policy can decide for a lite topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its messages may run.
    Serve {
        /// Band to serve it in; the head's priority when absent.
        band: Option<u8>,
        /// Messages until the policy is asked again.
        max_messages: u32,
    },
    /// Hold it this long, in memory only, then ask again.
    Throttle(Duration),
    /// Hold it this long, durably.
    Suspend(Duration),
    /// The head goes to the dead-letter topic.
    DeadLetter,
    /// The head is settled without delivery.
    Drop,
}
