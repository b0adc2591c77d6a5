//! The topics and the group of the pipeline.

use sluicegate_client::admin::{
    Admin, AdminError, CreateGroup, CreateTopic, GroupSettings, LogRetention, ReclaimSettings, Retention, TenantRule,
    TopicSettings,
};
use sluicegate_client::{ErrorCode, GroupName, InvalidName, TopicName};

/// Bytes of vectors that are kept of a folder: some 500,000 chunks.
const INDEX_BYTES: u64 = 1 << 30;

/// Chunks to embed: a lite topic for each file.
pub(crate) fn chunks() -> Result<TopicName, InvalidName> {
    TopicName::parse("code")
}

/// Vectors: a lite topic for each folder.
pub(crate) fn index() -> Result<TopicName, InvalidName> {
    TopicName::parse("code.index")
}

/// Who embeds.
pub(crate) fn embedders() -> Result<GroupName, InvalidName> {
    GroupName::parse("code.embedders")
}

/// Makes what is not there yet.
pub(crate) async fn ensure(admin: &Admin) -> anyhow::Result<()> {
    // The folder is the tenant: one that is huge does not keep the others waiting.
    let work = TopicSettings { tenant: TenantRule::Prefix, ..TopicSettings::default() };
    let retention = Retention::Log(LogRetention { age_ms: None, bytes: Some(INDEX_BYTES) });
    let log = TopicSettings { retention, reclaim: ReclaimSettings::NEVER, ..TopicSettings::default() };
    unless_there(admin.create_topic(&CreateTopic { name: chunks()?, settings: work }).await)?;
    unless_there(admin.create_topic(&CreateTopic { name: index()?, settings: log }).await)?;
    unless_there(admin.create_group(&CreateGroup::new(embedders()?, chunks()?, GroupSettings::default())).await)
}

fn unless_there<T>(made: Result<T, AdminError>) -> anyhow::Result<()> {
    match made {
        Err(AdminError::Refused(refusal)) if refusal.code == ErrorCode::AlreadyExists => Ok(()),
        made => Ok(made.map(drop)?),
    }
}
