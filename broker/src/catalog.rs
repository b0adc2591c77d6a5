//! What operators made: topics, groups, policies. An immutable picture that is replaced as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluicegate_protocol::admin::{
    ConcurrencySettings, GroupSettings, PolicyChange, PolicyEvent, PolicyRole, Quarantine, QuotaSettings,
    RetrySettings, TopicSettings, WatchdogSettings,
};
use sluicegate_protocol::{GroupId, GroupName, Timestamp, TopicId, TopicName};

use crate::policy::ShadowBinding;
use crate::store::ShardId;

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct TopicSpec {
    pub(crate) id: TopicId,
    pub(crate) name: String,
    pub(crate) settings: TopicSettings,
    pub(crate) created_at: Timestamp,
    /// The shard that holds the topic's only partition.
    pub(crate) shard: ShardId,
}

impl TopicSpec {
    pub(crate) fn topic_name(&self) -> TopicName {
        TopicName::parse_existing(&self.name).expect("names in the catalog were parsed before")
    }
}

/// A consumer group, bound to one topic.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct GroupSpec {
    pub(crate) id: GroupId,
    pub(crate) name: GroupName,
    pub(crate) topic: TopicId,
    /// The topic of what this group could not process.
    pub(crate) dead_letter: TopicId,
    pub(crate) settings: GroupSettings,
    pub(crate) created_at: Timestamp,
    /// No new deliveries until an operator resumes it.
    #[serde(default)]
    pub(crate) paused: bool,
    pub(crate) policy: Option<PolicyBinding>,
    /// What decided when, oldest first; at most [`POLICY_CHANGES_MAX`].
    #[serde(default)]
    pub(crate) policy_history: Vec<PolicyChange>,
    /// What is asked too.
    #[serde(default)]
    pub(crate) shadow: Option<ShadowBinding>,
    /// The same for shadows.
    #[serde(default)]
    pub(crate) shadow_history: Vec<PolicyChange>,
}

/// Changes of policy that a group remembers, and what was done with one.
const POLICY_CHANGES_MAX: usize = 32;
/// Who activated what was active before there was a history.
const UNKNOWN: &str = "unknown";

/// What an operator changes of a group while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum GroupChange {
    Quotas(QuotaSettings),
    Concurrency(ConcurrencySettings),
    Retry(RetrySettings),
    Watchdog(WatchdogSettings),
    /// A tenant's labels; none to take them away.
    TenantLabels(String, BTreeMap<String, String>),
    Pause,
    Resume,
}

impl GroupSpec {
    /// From now on this decides.
    pub(crate) fn bind(&mut self, policy: Option<PolicyBinding>, at: Timestamp, by: &str, because: Option<Because>) {
        if let Some(before) = self.policy.take().filter(|_| self.policy_history.is_empty()) {
            // Activated before there was a history.
            let (at, by) = (before.activated_at, UNKNOWN.into());
            let (digest, config) = (Some(before.digest), before.config);
            self.policy_history.push(PolicyChange {
                at,
                by,
                role: PolicyRole::Deciding,
                because: None,
                capsule: None,
                digest,
                config,
            });
        }
        let (digest, config) = policy.as_ref().map(|bound| (bound.digest.clone(), bound.config.clone())).unzip();
        let config = config.unwrap_or_default();
        // The same again says nothing new, and pushes nothing out.
        self.policy_history.pop_if(|last| last.digest == digest && last.config == config);
        remember(&mut self.policy_history, (PolicyRole::Deciding, digest, config), at, by, because);
        self.policy = policy;
    }

    /// From now on this is asked too, or nothing.
    pub(crate) fn set_shadow(
        &mut self,
        shadow: Option<ShadowBinding>,
        at: Timestamp,
        by: &str,
        because: Option<Because>,
    ) {
        let (digest, config) = shadow.as_ref().map(|shadow| (shadow.digest.clone(), shadow.config.clone())).unzip();
        let what = (PolicyRole::Shadow, digest, config.unwrap_or_default());
        remember(&mut self.shadow_history, what, at, by, because);
        self.shadow = shadow;
    }

    /// What decided before what decides now, if that was a policy: its digest and configuration.
    pub(crate) fn policy_before(&self) -> Option<(String, String)> {
        let now = self.policy.as_ref().map(|bound| (bound.digest.clone(), bound.config.clone()));
        let past = self.policy_history.iter().rev();
        let mut past = past.map(|change| change.digest.clone().map(|digest| (digest, change.config.clone())));
        past.find(|before| *before != now).flatten()
    }

    /// The last policy that decided, is not this one, and `is_good`; none that is older than when an operator chose to do without.
    pub(crate) fn last_good(&self, broken: &str, is_good: impl Fn(&str) -> bool) -> Option<(String, String)> {
        let is_wanted = |change: &&PolicyChange| change.digest.is_some() || change.because.is_some();
        self.policy_history.iter().rev().take_while(is_wanted).find_map(|change| {
            let digest = change.digest.as_deref().filter(|digest| *digest != broken && is_good(digest))?;
            Some((digest.into(), change.config.clone()))
        })
    }

    pub(crate) fn apply(&mut self, change: GroupChange) {
        let settings = &mut self.settings;
        match change {
            GroupChange::Quotas(quotas) => settings.quotas = quotas,
            GroupChange::Concurrency(concurrency) => settings.concurrency = concurrency,
            GroupChange::Retry(RetrySettings { back_off, initial_ms, max_ms }) => {
                settings.retry_back_off = back_off;
                settings.retry_initial_ms = initial_ms;
                settings.retry_max_ms = max_ms;
            }
            GroupChange::Watchdog(WatchdogSettings { after_ms }) => settings.watchdog_ms = after_ms,
            GroupChange::TenantLabels(tenant, labels) => {
                settings.tenant_labels.remove(&tenant);
                if !labels.is_empty() {
                    settings.tenant_labels.insert(tenant, labels);
                }
            }
            GroupChange::Pause => self.paused = true,
            GroupChange::Resume => self.paused = false,
        }
    }
}

fn remember(
    history: &mut Vec<PolicyChange>,
    (role, digest, config): (PolicyRole, Option<String>, String),
    at: Timestamp,
    by: &str,
    because: Option<Because>,
) {
    let (because, capsule) = because.map(|because| (because.cause, because.capsule)).unzip();
    history.push(PolicyChange { at, by: by.into(), role, because, capsule: capsule.flatten(), digest, config });
    let surplus = history.len().saturating_sub(POLICY_CHANGES_MAX);
    history.drain(..surplus);
}

/// Why the broker changed what decides for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Because {
    /// The fault.
    pub(crate) cause: String,
    /// The capsule that it left.
    pub(crate) capsule: Option<String>,
}

/// The policy that decides for a group.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PolicyBinding {
    pub(crate) digest: String,
    pub(crate) config: String,
    pub(crate) activated_at: Timestamp,
}

/// An uploaded policy; its bytes are in the store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct PolicySpec {
    pub(crate) digest: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) bytes: u64,
    pub(crate) uploaded_at: Timestamp,
    #[serde(default)]
    pub(crate) quarantine: Option<Quarantine>,
    /// What was done with it, oldest first; at most [`POLICY_CHANGES_MAX`]. Empty for one that was uploaded before there was a history.
    #[serde(default)]
    pub(crate) history: Vec<PolicyEvent>,
}

impl PolicySpec {
    /// From now on its history says this.
    pub(crate) fn remember(&mut self, event: PolicyEvent) {
        self.history.push(event);
        let surplus = self.history.len().saturating_sub(POLICY_CHANGES_MAX);
        self.history.drain(..surplus);
    }
}

/// Something that was deleted: nobody finds it any more, its rows are being removed. What a crash cuts short, the next start
/// goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Deletion {
    // In this order: a topic's groups go before it.
    Group { id: GroupId, topic: TopicId, shard: ShardId },
    Topic { id: TopicId, shard: ShardId },
}

impl Deletion {
    pub(crate) const fn shard(&self) -> ShardId {
        match *self {
            Self::Group { shard, .. } | Self::Topic { shard, .. } => shard,
        }
    }

    /// The id of its control row.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Group { id, .. } => format!("group-{id}"),
            Self::Topic { id, .. } => format!("topic-{id}"),
        }
    }
}

/// The first ids that nothing ever had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct FreeIds {
    pub(crate) topic: TopicId,
    pub(crate) group: GroupId,
}

impl FreeIds {
    /// Takes the next id of a topic.
    pub(crate) fn take_topic(&mut self) -> TopicId {
        let taken = self.topic;
        self.topic = TopicId(taken.0.checked_add(1).expect("ids of topics are used up"));
        taken
    }

    /// Takes the next id of a group.
    pub(crate) fn take_group(&mut self) -> GroupId {
        let taken = self.group;
        self.group = GroupId(taken.0.checked_add(1).expect("ids of groups are used up"));
        taken
    }
}

/// Everything that operators made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Catalog {
    pub(crate) topics: BTreeMap<String, Arc<TopicSpec>>,
    pub(crate) groups: BTreeMap<GroupName, Arc<GroupSpec>>,
    pub(crate) policies: BTreeMap<String, Arc<PolicySpec>>,
    pub(crate) deletions: BTreeSet<Deletion>,
}

impl Catalog {
    pub(crate) fn topic(&self, id: TopicId) -> Option<&Arc<TopicSpec>> {
        self.topics.values().find(|topic| topic.id == id)
    }

    pub(crate) fn groups_of(&self, topic: TopicId) -> impl Iterator<Item = &Arc<GroupSpec>> {
        self.groups.values().filter(move |group| group.topic == topic)
    }

    /// The topic, and the dead-letter topics of all groups that it ever had, and theirs.
    pub(crate) fn with_dead_letters(&self, topic: &TopicSpec) -> Vec<Arc<TopicSpec>> {
        let prefix = format!("{}.dlq.", topic.name);
        let is_one = |found: &&Arc<TopicSpec>| found.id == topic.id || found.name.starts_with(&prefix);
        self.topics.values().filter(is_one).cloned().collect()
    }

    /// The ids after all that are in use: for a store from before they were written down.
    pub(crate) fn free_ids(&self) -> FreeIds {
        FreeIds {
            topic: TopicId(self.topics.values().map(|topic| topic.id.0 + 1).max().unwrap_or(1)),
            group: GroupId(self.groups.values().map(|group| group.id.0 + 1).max().unwrap_or(1)),
        }
    }
}
