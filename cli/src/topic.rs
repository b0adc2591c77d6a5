//! `sluice topic`.

use sluicegate_client::TopicName;
use sluicegate_client::admin::{
    CreateTopic, DeletedTopic, Dependents, Durability, ExpiredMessages, ReclaimSettings, Retention, TenantRule,
    Topic as TopicView, TopicSettings,
};

use crate::connect::Broker;
use crate::group::millis;
use crate::keeping::{self, Use};
use crate::output::{self, Format};

/// Make, look at and delete topics.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Topic {
    /// Make a topic. Making it again with the same settings changes nothing.
    Create {
        /// 1 to 127 of `A-Z a-z 0-9 . _ -`.
        name: TopicName,
        /// When a publish is acknowledged: `fsync` survives a power cut, `os` the broker process.
        #[arg(long, default_value = "fsync", value_parser = durability)]
        durability: Durability,
        /// Whose a lite topic is: `lite-topic` (each its own tenant), `prefix` (its name up to the
        /// first `/`) or `property:KEY` (a property of its first message).
        #[arg(long, default_value = "lite-topic", value_parser = tenant_rule, value_name = "RULE")]
        tenant: TenantRule,
        /// What becomes of messages that expire before delivery: `drop` or `dead-letter`.
        #[arg(long, default_value = "drop", value_parser = expired)]
        expired: ExpiredMessages,
        /// How long a message's idempotency key is remembered, from 1 s to 7 days.
        #[arg(long, default_value = "10m", value_name = "DURATION")]
        idempotency_window: humantime::Duration,
        /// When a lite topic's life ends by itself: `empty:1h` (all settled, and nothing published or settled for so long),
        /// `idle:1h` (the same, whatever waits), `absolute:1h` (so long after it was made) or `never`; 1s to 10 years.
        /// Without it, what belongs to --for.
        #[arg(long, value_parser = keeping::reclaim)]
        reclaim: Option<ReclaimSettings>,
        /// When messages are deleted: `work-queue` (when every group has settled them), `log:AGE`, `log:SIZE` or `log:AGE,SIZE` (when
        /// they are too old, or a lite topic has too many bytes; settled or not). Without it, what belongs to --for.
        #[arg(long, value_parser = keeping::retention)]
        retention: Option<Retention>,
        /// What the topic is for.
        #[arg(long = "for", value_enum, default_value_t = Use::Work)]
        purpose: Use,
        /// The topic that replies to this topic's requests go to; it must exist and be a log, as made with `--for replies`. Workers
        /// of this topic may publish their replies there.
        #[arg(long, value_name = "TOPIC")]
        replies: Option<TopicName>,
        #[command(flatten)]
        limits: Box<keeping::Limits>,
    },
    /// List all topics.
    List,
    /// Show one topic.
    Show {
        /// The topic.
        name: String,
    },
    /// Delete a topic with all its lite topics, messages and dead letters. The name is free at once.
    Delete {
        /// The topic.
        #[arg(value_parser = TopicName::parse_existing)]
        name: TopicName,
        /// Delete the groups that consume it or its dead letters too; without this, there may be none.
        #[arg(long)]
        with_groups: bool,
    },
}

impl Topic {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let admin = broker.admin()?;
        match self {
            Self::Create {
                name,
                durability,
                tenant,
                expired,
                idempotency_window,
                reclaim,
                retention,
                purpose,
                replies,
                limits,
            } => {
                let reclaim = reclaim.unwrap_or(purpose.reclaim());
                let retention = retention.unwrap_or(purpose.retention());
                let limits = (*limits).into();
                let idempotency_window_ms = millis(idempotency_window);
                let settings = TopicSettings {
                    durability,
                    tenant,
                    expired,
                    idempotency_window_ms,
                    reclaim,
                    retention,
                    limits,
                    replies,
                };
                let topic = admin.create_topic(&CreateTopic { name, settings }).await?;
                output::print(format, &topic, |topic| format!("topic {} is there", topic.name))
            }
            Self::List => output::print(format, &admin.topics().await?, |topics| table(topics)),
            Self::Show { name } => {
                let name = TopicName::parse_existing(&name)?;
                output::print(format, &admin.topic(&name).await?, |topic| table(std::slice::from_ref(topic)))
            }
            Self::Delete { name, with_groups } => {
                let groups = if with_groups { Dependents::Delete } else { Dependents::Keep };
                output::print(format, &admin.delete_topic(&name, groups).await?, deleted)
            }
        }
    }
}

fn deleted(gone: &DeletedTopic) -> String {
    let with = |what: &str, names: Vec<&str>| match names.is_empty() {
        true => String::new(),
        false => format!(", with {what} {}", names.join(", ")),
    };
    let groups = with("groups", gone.groups.iter().map(sluicegate_client::GroupName::as_str).collect());
    let dead_letters = with("dead letters", gone.dead_letter_topics.iter().map(TopicName::as_str).collect());
    format!("topic {} is gone, it had {} lite topics{groups}{dead_letters}", gone.name, gone.lite_topics)
}

fn table(topics: &[TopicView]) -> String {
    let mut table = output::table(&[
        "TOPIC",
        "LITE TOPICS",
        "MESSAGES",
        "DURABILITY",
        "TENANT",
        "RETENTION",
        "RECLAIM",
        "REPLIES",
        "GROUPS",
    ]);
    for topic in topics {
        let groups: Vec<_> = topic.groups.iter().map(sluicegate_client::GroupName::as_str).collect();
        let durability = match topic.settings.durability {
            Durability::Fsync => "fsync",
            Durability::Os => "os",
        };
        let tenant = match &topic.settings.tenant {
            TenantRule::LiteTopic => "lite-topic".to_owned(),
            TenantRule::Prefix => "prefix".to_owned(),
            TenantRule::Property(key) => format!("property:{key}"),
        };
        let name = topic.name.as_str().to_owned();
        let reclaim = keeping::reclaim_text(topic.settings.reclaim);
        let lite_topics = topic.lite_topics.to_string();
        let retention = keeping::retention_text(topic.settings.retention);
        let (messages, durability) = (topic.messages.to_string(), durability.to_owned());
        let replies = topic.settings.replies.as_ref().map_or_else(|| "–".into(), ToString::to_string);
        let groups = groups.join(", ");
        table.add_row([name, lite_topics, messages, durability, tenant, retention, reclaim, replies, groups]);
    }
    table.to_string()
}

fn durability(text: &str) -> Result<Durability, String> {
    match text {
        "fsync" => Ok(Durability::Fsync),
        "os" => Ok(Durability::Os),
        _ => Err("it is `fsync` or `os`".into()),
    }
}

fn expired(text: &str) -> Result<ExpiredMessages, String> {
    match text {
        "drop" => Ok(ExpiredMessages::Drop),
        "dead-letter" => Ok(ExpiredMessages::DeadLetter),
        _ => Err("it is `drop` or `dead-letter`".into()),
    }
}

fn tenant_rule(text: &str) -> Result<TenantRule, String> {
    match text.split_once(':') {
        None if text == "lite-topic" => Ok(TenantRule::LiteTopic),
        None if text == "prefix" => Ok(TenantRule::Prefix),
        Some(("property", key)) if !key.is_empty() => Ok(TenantRule::Property(key.to_owned())),
        _ => Err("it is `lite-topic`, `prefix` or `property:KEY`".into()),
    }
}
