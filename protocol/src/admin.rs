//! JSON bodies of the admin HTTP API, shared by the broker and its clients.
//!
//! | route | request | answer |
//! |---|---|---|
//! | `GET /admin/v1/health` | – | [`Health`] (no token needed; 503 unless `ok`) |
//! | `GET /admin/v1/topics`, `GET …/topics/{topic}` | – | [`Topic`] or a list of them |
//! | `POST /admin/v1/topics` | [`CreateTopic`] | [`Topic`] |
//! | `GET /admin/v1/groups`, `GET …/groups/{group}` | – | [`Group`] or a list of them |
//! | `POST /admin/v1/groups` | [`CreateGroup`] | [`Group`] |
//! | `PUT /admin/v1/groups/{group}/quotas` | [`QuotaSettings`] | [`Group`] |
//! | `PUT /admin/v1/groups/{group}/concurrency` | [`ConcurrencySettings`] | [`Group`] |
//! | `PUT /admin/v1/groups/{group}/retry` | [`RetrySettings`] | [`Group`] |
//! | `PUT /admin/v1/groups/{group}/watchdog` | [`WatchdogSettings`] | [`Group`] |
//! | `PUT /admin/v1/groups/{group}/tenant-labels?tenant=` | labels: keys and values, none to take them away | [`Group`] |
//! | `POST /admin/v1/groups/{group}/pause`, `POST …/groups/{group}/resume` | – | [`Group`] |
//! | `DELETE /admin/v1/groups/{group}` | query [`DeleteGroup`] | [`DeletedGroup`] |
//! | `DELETE /admin/v1/topics/{topic}` | query [`DeleteTopic`] | [`DeletedTopic`] |
//! | `GET /admin/v1/topics/{topic}/lite` | query [`Page`] | [`LitePage`] |
//! | `DELETE /admin/v1/topics/{topic}/lite?lite=` | – | [`DeletedLite`] |
//! | `PUT /admin/v1/topics/{topic}/lite/reclaim?lite=` | [`SetReclaim`] | [`LiteReclaim`] |
//! | `GET /admin/v1/groups/{group}/lite?lite=` | – | [`LiteTopic`] |
//! | `POST /admin/v1/groups/{group}/lite/suspend?lite=` | [`SuspendLite`] | [`LiteChange`] |
//! | `POST /admin/v1/groups/{group}/lite/resume?lite=` | [`ResumeLite`] | [`LiteChange`] |
//! | `POST /admin/v1/groups/{group}/lite/seek?lite=` | [`SeekLite`] | [`LiteChange`] |
//! | `POST /admin/v1/groups/{group}/lite/skip?lite=` | [`SkipMessage`] | [`LiteChange`] |
//! | `POST /admin/v1/groups/{group}/lite/purge?lite=` | – | [`LiteChange`] |
//! | `GET /admin/v1/groups/{group}/lite/messages?lite=&from=&limit=` | – | [`Peek`] |
//! | `GET /admin/v1/groups/{group}/explain?lite=` | – | [`Explanation`] |
//! | `GET /admin/v1/groups/{group}/waiters?limit=` | – | [`Waiters`]: at most 10, or `limit`, 1 to 1,000 |
//! | `GET /admin/v1/groups/{group}/dead-letters` | query [`Page`] | [`DeadLetterPage`] |
//! | `POST /admin/v1/groups/{group}/dead-letters/redrive`, with `?lite=` for one lite topic | [`Redrive`] | [`Redriven`] |
//! | `POST /admin/v1/groups/{group}/policy/rollback` | – | [`Activation`] of what decided before |
//! | `POST /admin/v1/groups/{group}/recording` | [`RecordGroup`] | the recording, line by line, until it ends ([`crate::recording`]) |
//! | `DELETE /admin/v1/groups/{group}/recording` | – | nothing: the recording ends |
//! | `GET /admin/v1/groups/{group}/policy/history` | – | list of [`PolicyChange`], newest first |
//! | `PUT /admin/v1/groups/{group}/policy/shadow` | [`ActivatePolicy`] | [`Shadow`] |
//! | `GET /admin/v1/groups/{group}/policy/shadow` | – | [`Shadow`], or `null` |
//! | `DELETE /admin/v1/groups/{group}/policy/shadow` | – | nothing |
//! | `POST /admin/v1/policies/{digest}/release` | – | [`Policy`], out of quarantine |
//! | `POST /admin/v1/store/backup` | [`BackUp`] | [`BackedUp`] |
//! | `GET /admin/v1/policies` | – | list of [`Policy`] |
//! | `GET /admin/v1/policies/{digest}` | – | [`PolicyDetails`] |
//! | `GET /admin/v1/policies/{digest}/component` | – | the component's bytes, `application/wasm` |
//! | `GET /admin/v1/capsules` | query [`CapsuleQuery`] | list of [`Capsule`], newest first |
//! | `GET /admin/v1/capsules/{id}` | – | the capsule: JSON lines, the first a [`CapsuleHeader`] |
//! | `POST /admin/v1/policies` | the component's bytes, `application/wasm` | [`Policy`] |
//! | `POST /admin/v1/policies/validate` | [`ValidatePolicy`] | [`ValidatedPolicy`], nothing is stored |
//! | `PUT /admin/v1/groups/{group}/policy` | [`ActivatePolicy`] | [`Activation`] |
//! | `PUT /admin/v1/groups/{group}/policy/config` | [`ConfigurePolicy`] | [`Activation`] |
//! | `DELETE /admin/v1/groups/{group}/policy` | – | [`Activation`] |
//!
//! Beside them, `GET /metrics` answers in the OpenMetrics text format (`docs/metrics.md`).
//!
//! Names of lite topics travel in the query, because proxies decode `%2F` in paths. Every refusal has an [`ErrorBody`] and the
//! status of its [`ErrorCode`].

mod capsule;
mod dead_letter;
mod delete;
mod explain;
mod keeping;
mod lite;
mod policy;
mod record;
mod shadow;
mod store;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{
    IDEMPOTENCY_WINDOW_DEFAULT, IDEMPOTENCY_WINDOW_MAX, IDEMPOTENCY_WINDOW_MIN, LABEL_KEY_BYTES_MAX,
    LABEL_VALUE_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX, WATCHDOG_DEFAULT, WATCHDOG_MAX, WATCHDOG_MIN,
};
use crate::{ErrorCode, GroupName, Position, Rate, Timestamp, TopicName};

pub use capsule::{
    CAPSULE_FORMAT, CAPSULE_VERSION, Capsule, CapsuleHeader, CapsuleLimits, CapsulePolicy, CapsuleQuery, PolicyRole,
    PolicyStrike,
};
pub use dead_letter::{DeadLetter, DeadLetterPage, Redrive, Redriven};
pub use delete::{DeleteGroup, DeleteTopic, DeletedGroup, DeletedTopic, Dependents};
pub use explain::{
    Blocker, Bucket, Cause, ExplainedHead, ExplainedPolicy, Explanation, PolicyVerdict, PolicyWord, Rank, Waiter,
    Waiters,
};
pub use keeping::{LiteReclaim, LogRetention, ReclaimMode, ReclaimSettings, Retention, SetReclaim, TopicLimits};
pub use lite::{
    BodyPreview, DeletedLite, LiteChange, LiteEntry, LiteHead, LiteLease, LitePage, LiteTopic, MessageState, Page,
    Peek, PeekedMessage, ResumeLite, SeekLite, SkipMessage, SuspendLite, Suspension, SuspensionSource,
};
pub use policy::{
    ConfigurePolicy, PolicyAct, PolicyDescription, PolicyDetails, PolicyEvent, PolicyLimits, ValidatePolicy,
    ValidatedPolicy,
};
pub use record::RecordGroup;
pub use shadow::{Shadow, ShadowFigures};
pub use store::{BackUp, BackedUp};

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What the caller should do decides the code.
    pub code: ErrorCode,
    /// One line for a person.
    pub message: String,
    /// When another try may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Key and value pairs that a program can use.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, String>,
}

/// When a publish is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// It survives a power cut: synced to disk, many publishes with one sync.
    #[default]
    Fsync,
    /// It survives the broker process: written to the operating system.
    Os,
}

/// How a lite topic's tenant is found when it is made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantRule {
    /// Every lite topic is its own tenant.
    #[default]
    LiteTopic,
    /// The lite topic's name up to the first `/`.
    Prefix,
    /// This property of its first message.
    Property(String),
}

/// What becomes of a message whose `expires_at` passed before it was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiredMessages {
    /// It is gone.
    #[default]
    Drop,
    /// It goes to the group's dead-letter topic.
    DeadLetter,
}

/// Settings of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicSettings {
    /// When a publish is acknowledged; default `fsync`.
    pub durability: Durability,
    /// Whose a lite topic is; default `lite_topic`.
    pub tenant: TenantRule,
    /// What becomes of expired messages; default `drop`.
    pub expired: ExpiredMessages,
    /// How long an idempotency key is remembered, in milliseconds; default 10 min, 1 s to 7 days.
    pub idempotency_window_ms: u64,
    /// When a lite topic's life ends by itself; default `empty` after 1 h.
    pub reclaim: ReclaimSettings,
    /// When messages are deleted; default `work_queue`.
    pub retention: Retention,
    /// How much there may be.
    pub limits: TopicLimits,
    /// The topic that replies to this topic's requests go to: a log that exists; default none. Workers of this topic's groups may
    /// publish there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replies: Option<TopicName>,
}

impl TopicSettings {
    /// What is wrong with them, if anything.
    ///
    /// # Errors
    /// The rule that they break.
    pub fn check(&self) -> Result<(), String> {
        let windows = IDEMPOTENCY_WINDOW_MIN..=IDEMPOTENCY_WINDOW_MAX;
        if !windows.contains(&self.idempotency_window()) {
            let (min, max) = (windows.start().as_millis(), windows.end().as_millis());
            return Err(format!("idempotency_window_ms: allowed are {min} (1 s) to {max} (7 days)"));
        }
        self.reclaim.check()?;
        self.retention.check()
    }

    /// How long an idempotency key is remembered.
    pub const fn idempotency_window(&self) -> Duration {
        Duration::from_millis(self.idempotency_window_ms)
    }
}

impl Default for TopicSettings {
    fn default() -> Self {
        let window = u64::try_from(IDEMPOTENCY_WINDOW_DEFAULT.as_millis()).expect("the default is short");
        Self {
            durability: Durability::default(),
            tenant: TenantRule::default(),
            expired: ExpiredMessages::default(),
            idempotency_window_ms: window,
            reclaim: ReclaimSettings::default(),
            retention: Retention::default(),
            limits: TopicLimits::default(),
            replies: None,
        }
    }
}

/// A new topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTopic {
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    #[serde(default)]
    pub settings: TopicSettings,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: TopicName,
    /// Its settings.
    pub settings: TopicSettings,
    /// When it was created.
    pub created_at: Timestamp,
    /// The groups bound to it.
    pub groups: Vec<GroupName>,
    /// Lite topics that exist.
    pub lite_topics: u64,
    /// Messages that are kept.
    #[serde(default)]
    pub messages: u64,
    /// Bytes of their bodies and properties.
    #[serde(default)]
    pub bytes: u64,
}

/// A group's token buckets. Absent is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaSettings {
    /// Deliveries, for example `100/s`.
    pub messages: Option<Rate>,
    /// Cost units, for example `90000/min`.
    pub cost: Option<Rate>,
}

/// Open leases at once. Absent is no bound of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConcurrencySettings {
    /// In the group.
    pub group: Option<u32>,
    /// Per tenant.
    pub tenant: Option<u32>,
    /// Per lite topic; default 1, strictly one after the other.
    pub lite_topic: u32,
}

impl Default for ConcurrencySettings {
    fn default() -> Self {
        Self { group: None, tenant: None, lite_topic: 1 }
    }
}

/// How the delay before a retry grows with the attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackOff {
    /// The first delay, doubled with each attempt up to the longest.
    #[default]
    Exponential,
    /// The first delay each time.
    Fixed,
}

/// When a message that failed is tried again, unless its consumer names a delay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// How the delay grows; default `exponential`.
    pub back_off: BackOff,
    /// First delay, in milliseconds; default 1 s, at most 30 days.
    pub initial_ms: u64,
    /// Longest delay, in milliseconds; default 5 min. With a `fixed` back-off it has no effect.
    pub max_ms: u64,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self { back_off: BackOff::default(), initial_ms: 1_000, max_ms: 300_000 }
    }
}

/// Who may serve a lite topic of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConsumeMode {
    /// Every consumer that takes all, and every one that subscribed to it.
    #[default]
    Shared,
    /// The consumer that subscribed to it last, by name; the one before is told, and loses what it has of it in work.
    Exclusive,
}

/// Which lite topics of its topic a group is to settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Follows {
    /// All, whether a consumer is connected or not.
    #[default]
    All,
    /// Those that a consumer of the group subscribed to, by name or prefix, until one unsubscribes. What nobody follows is kept.
    Subscribed,
}

/// Settings of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupSettings {
    /// Token buckets.
    pub quotas: QuotaSettings,
    /// Open leases at once.
    pub concurrency: ConcurrencySettings,
    /// Whether several consumers may serve a lite topic; default `shared`.
    pub mode: ConsumeMode,
    /// Which lite topics it is to settle; default `all`.
    pub follows: Follows,
    /// How long a lease lasts unless it is extended, in milliseconds; default 60 s.
    pub lease_ms: u64,
    /// How long a session may be away before its leases return, in milliseconds; default 15 s.
    pub session_grace_ms: u64,
    /// Counted deliveries before a message is dead-lettered; default 16.
    pub max_attempts: u32,
    /// How the retry delay grows; default `exponential`.
    pub retry_back_off: BackOff,
    /// First retry delay, in milliseconds; default 1 s.
    pub retry_initial_ms: u64,
    /// Longest retry delay, in milliseconds; default 5 min. With a `fixed` back-off it has no effect.
    pub retry_max_ms: u64,
    /// How long its policy may throttle all that a tenant has, while there is room, before the watchdog lets one message through, in
    /// milliseconds; default 30 s, 1 s to 24 h, 0 for no watchdog.
    pub watchdog_ms: u64,
    /// Labels of tenants, by the tenant's name, for the group's policy: at most 1,000 tenants with 16 labels each.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tenant_labels: BTreeMap<String, BTreeMap<String, String>>,
}

impl GroupSettings {
    /// How long its policy may keep work back without a word; none for no watchdog.
    pub fn watchdog(&self) -> Option<Duration> {
        (self.watchdog_ms > 0).then(|| Duration::from_millis(self.watchdog_ms))
    }
}

/// When the watchdog lets a message through that a group's policy keeps back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WatchdogSettings {
    /// After so long, in milliseconds; default 30 s, 1 s to 24 h, 0 for never.
    pub after_ms: u64,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self { after_ms: u64::try_from(WATCHDOG_DEFAULT.as_millis()).expect("the default is short") }
    }
}

impl WatchdogSettings {
    /// What is wrong with them, if anything.
    ///
    /// # Errors
    /// The rule that they break.
    pub fn check(&self) -> Result<(), String> {
        let allowed = WATCHDOG_MIN..=WATCHDOG_MAX;
        if self.after_ms != 0 && !allowed.contains(&Duration::from_millis(self.after_ms)) {
            let (min, max) = (allowed.start().as_millis(), allowed.end().as_millis());
            return Err(format!(
                "the watchdog's time: allowed are {min} (1 s) to {max} (24 h) milliseconds, and 0 for never"
            ));
        }
        Ok(())
    }
}

/// Query of a change of a tenant's labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// The tenant's name.
    pub tenant: String,
}

/// Whether these labels of a tenant or lite topic keep to the limits.
///
/// # Errors
/// What does not.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > LABELS_MAX {
        return Err(format!("{} labels, at most {LABELS_MAX} are taken", labels.len()));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > LABEL_KEY_BYTES_MAX {
            return Err(format!("the label `{key}` must have 1 to {LABEL_KEY_BYTES_MAX} bytes"));
        }
        if value.len() > LABEL_VALUE_BYTES_MAX {
            return Err(format!("label `{key}` has {} bytes, at most {LABEL_VALUE_BYTES_MAX}", value.len()));
        }
    }
    let bytes: usize = labels.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > LABELS_BYTES_MAX {
        return Err(format!("labels of {bytes} bytes, at most {LABELS_BYTES_MAX} in all"));
    }
    Ok(())
}

impl Default for GroupSettings {
    fn default() -> Self {
        let retry = RetrySettings::default();
        Self {
            quotas: QuotaSettings::default(),
            concurrency: ConcurrencySettings::default(),
            mode: ConsumeMode::default(),
            follows: Follows::default(),
            lease_ms: 60_000,
            session_grace_ms: 15_000,
            max_attempts: 16,
            retry_back_off: retry.back_off,
            retry_initial_ms: retry.initial_ms,
            retry_max_ms: retry.max_ms,
            watchdog_ms: WatchdogSettings::default().after_ms,
            tenant_labels: BTreeMap::new(),
        }
    }
}

/// A new group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateGroup {
    /// Its name.
    pub name: GroupName,
    /// The topic that it consumes.
    pub topic: TopicName,
    /// Its settings.
    #[serde(default)]
    pub settings: GroupSettings,
    /// Where it starts in the lite topics that exist now; default `earliest`. Later ones start at their first message. An
    /// offset is refused: it means something in one lite topic only.
    #[serde(default, skip_serializing_if = "Position::is_earliest")]
    pub start: Position,
}

impl CreateGroup {
    /// A group that starts at the first kept message of each lite topic.
    pub fn new(name: GroupName, topic: TopicName, settings: GroupSettings) -> Self {
        Self { name, topic, settings, start: Position::Earliest }
    }
}

/// A group as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Its name.
    pub name: GroupName,
    /// The topic that it consumes.
    pub topic: TopicName,
    /// Its settings.
    pub settings: GroupSettings,
    /// When it was created.
    pub created_at: Timestamp,
    /// An operator paused it: no new deliveries, open leases run on.
    #[serde(default)]
    pub paused: bool,
    /// The policy that decides, or none for built-in fair scheduling.
    pub policy: Option<BoundPolicy>,
    /// The last fault of a policy since the broker started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_strike: Option<PolicyStrike>,
    /// The policy that is asked too, without deciding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// Counters and levels.
    pub stats: GroupStats,
}

/// Counters since the broker started, and levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupStats {
    /// Connected sessions.
    pub sessions: u64,
    /// Open leases.
    pub in_flight: u64,
    /// Lite topics with a message that waits.
    pub waiting_lite_topics: u64,
    /// Those of them that wait for their turn, for a quota, for a slot of their tenant or for a consumer.
    pub ready_lite_topics: u64,
    /// Lite topics that are held until a time: suspended, delayed, or throttled by the policy.
    pub held_lite_topics: u64,
    /// Those of them that are held for longer than a minute, and not in memory until shortly before they wake.
    #[serde(default)]
    pub asleep_lite_topics: u64,
    /// Lite topics that wait in the store alone: not yet read after a start, or beyond those that are kept in memory although no
    /// session takes them.
    #[serde(default)]
    pub unloaded_lite_topics: u64,
    /// Lite topics that wait for the policy's answer.
    pub asking_lite_topics: u64,
    /// Messages that are neither settled nor leased.
    pub backlog: u64,
    /// When the message that waits longest was published, of those that could run if the group let them.
    pub oldest_wait: Option<Timestamp>,
    /// Fairness error: by how much the service (cost / weight, in cost units) of two tenants in one band that could be
    /// served now differs at most.
    pub service_gap: u64,
    /// Until when the quotas let nothing through.
    pub gate_closed_until: Option<Timestamp>,
    /// Deliveries that the quota would allow at once; absent without one.
    pub messages_left: Option<u64>,
    /// Cost units that the quota would allow at once; absent without one.
    pub cost_left: Option<u64>,
    /// Deliveries.
    pub delivered: u64,
    /// Messages settled with ack.
    pub acked: u64,
    /// Messages that came back by retry or expiry.
    pub retried: u64,
    /// Messages that came back by suspend.
    pub suspended: u64,
    /// Messages that went to the dead-letter topic.
    pub dead_lettered: u64,
    /// Rows that the policy throttled.
    pub throttled: u64,
    /// Reservations given back: the measured cost was below the estimate, or the message came back unused.
    pub refunds: u64,
    /// Reservations exceeded: the measured cost was above the estimate.
    pub debts: u64,
    /// Messages that the watchdog let through although the policy throttled them.
    #[serde(default)]
    pub policy_starved: u64,
    /// Frames that the policy answered.
    pub policy_frames: u64,
    /// Frames that the policy failed on.
    pub policy_strikes: u64,
    /// Frames that nobody answered, because the policy rested or was being made again; fair scheduling served their rows.
    #[serde(default)]
    pub policy_missed: u64,
    /// Processor time of the policy on the group's shard, in microseconds.
    #[serde(default)]
    pub policy_on_shard_us: u64,
    /// Processor time of the policy on policy threads, starts and snapshots included, in microseconds.
    #[serde(default)]
    pub policy_off_shard_us: u64,
    /// Outcomes that the policy was never told, because it was not asked in time.
    pub policy_feedback_dropped: u64,
}

/// A policy as it decides for a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundPolicy {
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
    /// Its own name.
    pub name: String,
    /// Its configuration, as text.
    pub config: String,
    /// When it was activated.
    pub activated_at: Timestamp,
    /// Why it does not decide at present although it is bound, if so.
    pub suspended_because: Option<String>,
    /// Where its frames are answered at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<PolicyRuns>,
}

/// Where the frames of a policy are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyRuns {
    /// At once, on the group's shard: it computes little.
    OnShard,
    /// By a policy thread, a little later: it computed too much for the shard, or failed a while ago.
    OffShard,
    /// Nowhere for a moment: it has used up what it may compute, and built-in scheduling answers.
    Resting,
    /// Nowhere until its next guest is made: it failed, and built-in scheduling answers.
    Restarting,
}

/// An uploaded policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// SHA-256 of the component, 64 hexadecimal digits.
    pub digest: String,
    /// Its own name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// Size of the component.
    pub bytes: u64,
    /// When it was uploaded.
    pub uploaded_at: Timestamp,
    /// The groups for which it decides.
    pub active_in: Vec<GroupName>,
    /// Why no group may be given to it, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Quarantine>,
}

/// A policy failed three times within a minute, or did not start again: nobody may be given to it until it is released. Groups for which
/// it still decides go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantine {
    /// Since when.
    pub since: Timestamp,
    /// The group for which it decided.
    pub group: GroupName,
    /// Its last fault.
    pub cause: String,
}

/// A change of what decides for a group, or of its shadow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyChange {
    /// When.
    pub at: Timestamp,
    /// Who did it: the name of a token, or the address of a peer without one; `broker` when a policy failed.
    pub by: String,
    /// Whether it concerns what decides, or the shadow; default `deciding`.
    #[serde(default)]
    pub role: PolicyRole,
    /// The fault, where the broker did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The capsule that the fault left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capsule: Option<String>,
    /// The digest of the policy that decides from then on, or is the shadow; none for built-in fair scheduling, or no shadow.
    pub digest: Option<String>,
    /// The policy's configuration.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub config: String,
}

/// Lets a policy decide for a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivatePolicy {
    /// The policy's digest, or a prefix of at least 8 digits that no other policy shares.
    pub digest: String,
    /// Its configuration, as the policy documents it; empty for its defaults.
    #[serde(default)]
    pub config: String,
}

/// A change of policy that took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activation {
    /// The group.
    pub group: GroupName,
    /// The policy that decides now; none for built-in fair scheduling.
    pub policy: Option<BoundPolicy>,
    /// The instant between two frames at which it took effect.
    pub at: Timestamp,
    /// Whether the new policy took over the state of the one before.
    pub state_carried: bool,
}

/// The broker's health. The HTTP status is 200 for `ok`, 503 for all else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the broker serves fully. It answers only when it has recovered.
    pub status: HealthStatus,
    /// What failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Lite topics that wait and are not loaded yet since the start: they are not served before they are. What arrives is served.
    #[serde(default)]
    pub loading_lite_topics: u64,
    /// The broker's version.
    pub version: String,
}

/// Whether a broker serves fully.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// It does.
    Ok,
    /// It was asked to stop: no new leases, open ones may be settled.
    Draining,
    /// The disk is nearly full: publishes are refused until there is room, all else goes on.
    DiskFull,
    /// The store failed: what it concerns is refused until it is open again, which the broker tries by itself.
    Failed,
}
