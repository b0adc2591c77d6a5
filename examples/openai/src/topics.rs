//! The topics and the group that door and workers meet in.

use sluicegate_client::admin::{
    Admin, AdminError, CreateGroup, CreateTopic, GroupSettings, LogRetention, ReclaimMode, ReclaimSettings, Retention,
    TenantRule, TopicLimits, TopicSettings,
};
use sluicegate_client::{ErrorCode, GroupName, InvalidName, TopicName};

/// Requests of one caller that may wait or be in work, unless somebody says otherwise.
pub(crate) const QUEUE: u64 = 16;
/// How long an answer is kept, and its caller may come back for it.
const KEPT_MS: u64 = 600_000;
/// How long the work of a worker that is gone waits for it to come back.
const GRACE_MS: u64 = 3_000;

/// Requests: a lite topic for each caller.
pub(crate) fn requests() -> Result<TopicName, InvalidName> {
    TopicName::parse("completions")
}

/// Answers: a lite topic for each request.
pub(crate) fn answers() -> Result<TopicName, InvalidName> {
    TopicName::parse("completions.replies")
}

/// Who answers. Quotas, fairness and policy are the group's: `sluice group show completions.workers`.
pub(crate) fn workers() -> Result<GroupName, InvalidName> {
    GroupName::parse("completions.workers")
}

/// Makes what is not there yet; what is there stays as an operator has it.
pub(crate) async fn ensure(admin: &Admin, queue: u64) -> anyhow::Result<()> {
    let replies = TopicSettings {
        retention: Retention::Log(LogRetention { age_ms: Some(KEPT_MS), bytes: None }),
        reclaim: ReclaimSettings { mode: ReclaimMode::Idle, after_ms: KEPT_MS },
        ..TopicSettings::default()
    };
    unless_there(admin.create_topic(&CreateTopic { name: answers()?, settings: replies }).await)?;
    let chat = TopicSettings {
        // The API key is the tenant, whatever users it speaks for.
        tenant: TenantRule::Prefix,
        limits: TopicLimits { lite_messages: queue, ..TopicLimits::default() },
        replies: Some(answers()?),
        ..TopicSettings::default()
    };
    unless_there(admin.create_topic(&CreateTopic { name: requests()?, settings: chat }).await)?;
    let settings = GroupSettings { session_grace_ms: GRACE_MS, ..GroupSettings::default() };
    unless_there(admin.create_group(&CreateGroup::new(workers()?, requests()?, settings)).await)
}

fn unless_there<T>(made: Result<T, AdminError>) -> anyhow::Result<()> {
    match made {
        Err(AdminError::Refused(refusal)) if refusal.code == ErrorCode::AlreadyExists => Ok(()),
        made => Ok(made.map(drop)?),
    }
}
