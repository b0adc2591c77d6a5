//! `sluice lite`.

use std::time::UNIX_EPOCH;

use sluicegate_client::admin::{
    BodyPreview, LiteChange, LitePage, LiteReclaim, LiteTopic, MessageState, Page, Peek, ReclaimSettings,
    SuspensionSource,
};
use sluicegate_client::{GroupName, LiteName, Offset, Position, Timestamp, TopicName};

use crate::connect::Broker;
use crate::explain;
use crate::keeping;
use crate::output::{self, Format, or_dash, time};

/// Look at lite topics, explain why they wait, suspend and resume them, move in them, skip and purge messages, delete them.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Lite {
    /// List a topic's lite topics by name, a page at a time.
    List {
        /// The topic; a dead-letter topic `TOPIC.dlq.GROUP` too.
        #[arg(value_parser = TopicName::parse_existing)]
        topic: TopicName,
        #[command(flatten)]
        page: Stretch,
    },
    /// Show a lite topic as a group stands in it: what is settled, waits, is leased, and what holds it back.
    Show {
        #[command(flatten)]
        of: Of,
    },
    /// Say why a lite topic is not being served to a group now: everything that blocks it with its end, what the policy said,
    /// and who is served before it.
    Explain {
        #[command(flatten)]
        of: Of,
    },
    /// Hold new deliveries of a lite topic back, across restarts too. Open leases run on, unless --revoke.
    /// Replaces an operator's suspension before; those of the policy and of consumers stand beside it.
    Suspend {
        #[command(flatten)]
        of: Of,
        /// For how long: 1ms to 30days.
        #[arg(long = "for", value_name = "DURATION")]
        duration: humantime::Duration,
        /// Take open leases away: their messages wait again, uncounted, and who held them can no longer settle.
        #[arg(long)]
        revoke: bool,
    },
    /// End suspensions now: those of all sources, or of one.
    Resume {
        #[command(flatten)]
        of: Of,
        /// Only this one: `operator`, `policy`, `settle` (a consumer's) or `retry` (the delay after a failure).
        #[arg(long, value_parser = source)]
        source: Option<SuspensionSource>,
    },
    /// Go on from another position: what is before is settled without delivery, all from there on is delivered (again), and
    /// attempts count from 0.
    ///
    /// Refused while a lease is open: wait, or `suspend --revoke` first. A message that every group of the topic has
    /// settled is deleted, so there is no way back before the first kept one.
    Seek {
        #[command(flatten)]
        of: Of,
        /// `earliest` (the first kept message), `latest` (after the last), `offset:N`, `timestamp:T` (the first published at T
        /// or later, for example 2026-03-01T12:00:00Z, or microseconds since 1970) or `last:N` (N messages before the end).
        #[arg(long, value_parser = position, value_name = "POSITION")]
        to: Position,
    },
    /// Settle one waiting message without delivery. A leased one is refused: wait, or `suspend --revoke` first.
    Skip {
        #[command(flatten)]
        of: Of,
        /// The message.
        #[arg(long, value_name = "N")]
        offset: u64,
    },
    /// Settle all messages that wait for the group without delivery. Refused while a lease is open: wait, or
    /// `suspend --revoke` first.
    Purge {
        #[command(flatten)]
        of: Of,
    },
    /// Give a lite topic a reclaim of its own, for this life.
    Set {
        /// The topic; a dead-letter topic `TOPIC.dlq.GROUP` too.
        #[arg(value_parser = TopicName::parse_existing)]
        topic: TopicName,
        /// The lite topic's name.
        lite: LiteName,
        /// When its life ends by itself: `empty:1h`, `idle:1h`, `absolute:1h`, `never`, or `topic` for what its topic says.
        #[arg(long, value_parser = own_reclaim)]
        reclaim: Own,
    },
    /// End a lite topic's life: its messages, positions and leases are gone, in all groups. The next message to its name
    /// begins a new one.
    Delete {
        /// The topic; a dead-letter topic `TOPIC.dlq.GROUP` too.
        #[arg(value_parser = TopicName::parse_existing)]
        topic: TopicName,
        /// The lite topic's name.
        lite: LiteName,
    },
    /// Look at messages: headers, properties, and the first 4 KiB of each body. Delivers nothing, changes nothing.
    Peek {
        #[command(flatten)]
        of: Of,
        /// The first to show; without, the first that the group has not settled.
        #[arg(long, value_name = "N")]
        from: Option<u64>,
        /// At most so many, 1 to 100.
        #[arg(long, value_name = "N", default_value_t = 10)]
        limit: u32,
    },
}

/// A lite topic in a group.
#[derive(Debug, clap::Args)]
pub(crate) struct Of {
    /// The group.
    group: GroupName,
    /// The lite topic's name in the group's topic.
    lite: LiteName,
}

/// A stretch of names.
#[derive(Debug, clap::Args)]
pub(crate) struct Stretch {
    /// Only names that start so.
    #[arg(long)]
    prefix: Option<String>,
    /// Only what comes after: the last line of the page before.
    #[arg(long)]
    after: Option<String>,
    /// At most so many, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: u32,
}

impl Stretch {
    pub(crate) fn page(self) -> Page {
        Page { prefix: self.prefix, after: self.after, limit: Some(self.limit) }
    }
}

impl Lite {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let admin = broker.admin()?;
        match self {
            Self::List { topic, page } => output::print(format, &admin.lite_topics(&topic, &page.page()).await?, list),
            Self::Show { of } => output::print(format, &admin.lite_topic(&of.group, &of.lite).await?, details),
            Self::Explain { of } => output::print(format, &admin.explain(&of.group, &of.lite).await?, explain::text),
            Self::Suspend { of, duration, revoke } => {
                let change = match revoke {
                    true => admin.revoke_lite(&of.group, &of.lite, *duration).await?,
                    false => admin.suspend_lite(&of.group, &of.lite, *duration).await?,
                };
                output::print(format, &change, changed)
            }
            Self::Resume { of, source } => {
                output::print(format, &admin.resume_lite(&of.group, &of.lite, source).await?, changed)
            }
            Self::Seek { of, to } => output::print(format, &admin.seek_lite(&of.group, &of.lite, to).await?, changed),
            Self::Skip { of, offset } => {
                output::print(format, &admin.skip_message(&of.group, &of.lite, Offset(offset)).await?, changed)
            }
            Self::Purge { of } => output::print(format, &admin.purge_lite(&of.group, &of.lite).await?, changed),
            Self::Set { topic, lite, reclaim: Own(reclaim) } => {
                output::print(format, &admin.set_reclaim(&topic, &lite, reclaim).await?, lives)
            }
            Self::Delete { topic, lite } => {
                let deleted = admin.delete_lite(&topic, &lite).await?;
                output::print(format, &deleted, |gone| {
                    format!(
                        "lite topic {} is gone with {} messages and {} leases",
                        gone.name, gone.messages, gone.revoked
                    )
                })
            }
            Self::Peek { of, from, limit } => {
                let peek = admin.peek(&of.group, &of.lite, from.map(Offset), Some(limit)).await?;
                output::print(format, &peek, messages)
            }
        }
    }
}

/// A reclaim of its own; none for its topic's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own(Option<ReclaimSettings>);

fn own_reclaim(text: &str) -> Result<Own, String> {
    if text == "topic" { Ok(Own(None)) } else { keeping::reclaim(text).map(Some).map(Own) }
}

fn lives(lite: &LiteReclaim) -> String {
    let whose = if lite.is_own { "of its own" } else { "of its topic" };
    let reclaim = keeping::reclaim_text(lite.reclaim);
    let due = lite.due_at.map_or_else(String::new, |at| format!(", looked at {}", time(at)));
    format!("lite topic {} goes by `{reclaim}` {whose}{due}", lite.name)
}

fn source(text: &str) -> Result<SuspensionSource, String> {
    match text {
        "operator" => Ok(SuspensionSource::Operator),
        "policy" => Ok(SuspensionSource::Policy),
        "settle" => Ok(SuspensionSource::Settle),
        "retry" => Ok(SuspensionSource::Retry),
        _ => Err("it is `operator`, `policy`, `settle` or `retry`".into()),
    }
}

const fn source_name(source: SuspensionSource) -> &'static str {
    match source {
        SuspensionSource::Operator => "operator",
        SuspensionSource::Policy => "policy",
        SuspensionSource::Settle => "settle",
        SuspensionSource::Retry => "retry",
    }
}

fn list(page: &LitePage) -> String {
    let mut table = output::table(&["LITE TOPIC", "TENANT", "LITE ID", "CREATED"]);
    for lite in &page.lite_topics {
        let name = lite.name.as_str().to_owned();
        table.add_row([name, lite.tenant.clone(), lite.lite_id.to_string(), time(lite.created_at)]);
    }
    with_next(table.to_string(), page.next.as_deref())
}

/// A page, and how to get the next one.
pub(crate) fn with_next(text: String, next: Option<&str>) -> String {
    match next {
        Some(next) => format!("{text}\nmore with --after '{next}'"),
        None => text,
    }
}

fn changed(change: &LiteChange) -> String {
    let counts = [("revoked leases", change.revoked), ("settled without delivery", change.settled)];
    let lines = counts.iter().filter(|(_, count)| *count > 0).map(|(what, count)| format!("{what}: {count}\n"));
    lines.chain([details(&change.lite_topic)]).collect()
}

fn messages(peek: &Peek) -> String {
    let columns = ["OFFSET", "STATE", "PUBLISHED", "PRIORITY", "COST", "PROPERTIES", "BYTES", "BODY"];
    let mut table = output::table(&columns);
    for message in &peek.messages {
        let state = match message.state {
            MessageState::Waiting => "waiting",
            MessageState::Leased => "leased",
            MessageState::Settled => "settled",
        };
        let properties: Vec<_> = message.properties.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let body = match &message.body {
            // One line a message: what a terminal would act on is escaped.
            BodyPreview::Text(text) => text.escape_debug().to_string(),
            BodyPreview::Base64(base64) => format!("base64:{base64}"),
        };
        table.add_row([
            message.offset.to_string(),
            state.to_owned(),
            time(message.published_at),
            message.priority.to_string(),
            message.cost.to_string(),
            properties.join(" ").escape_debug().to_string(),
            message.body_bytes.to_string(),
            body,
        ]);
    }
    match peek.next {
        Some(next) => format!("{table}\nmore with --from {next}"),
        None => table.to_string(),
    }
}

pub(crate) fn position(text: &str) -> Result<Position, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("`{text}` is not a number: {error}"));
    match text.split_once(':') {
        None if text == "earliest" => Ok(Position::Earliest),
        None if text == "latest" => Ok(Position::Latest),
        Some(("offset", offset)) => number(offset).map(|offset| Position::Offset(Offset(offset))),
        Some(("last", count)) => number(count).map(Position::Last),
        Some(("timestamp", at)) => timestamp(at).map(Position::Timestamp),
        _ => Err("it is `earliest`, `latest`, `offset:N`, `timestamp:T` or `last:N`".into()),
    }
}

pub(crate) fn timestamp(text: &str) -> Result<Timestamp, String> {
    if let Ok(micros) = text.parse() {
        return Ok(Timestamp(micros));
    }
    let at = humantime::parse_rfc3339_weak(text).map_err(|error| format!("`{text}` is not a time: {error}"))?;
    let since = at.duration_since(UNIX_EPOCH).map_err(|_| format!("`{text}` is before 1970"))?;
    Ok(Timestamp(u64::try_from(since.as_micros()).map_err(|_| format!("`{text}` is too late"))?))
}

fn details(lite: &LiteTopic) -> String {
    let head = lite.head.map(|head| format!("{} (attempts: {})", head.offset, head.attempts));
    let rows = [
        ("lite topic", lite.name.to_string()),
        ("topic", lite.topic.to_string()),
        ("lite id", lite.lite_id.to_string()),
        ("tenant", lite.tenant.clone()),
        ("first kept, next offset", format!("{}, {}", lite.first_kept, lite.next_offset)),
        ("group", lite.group.to_string()),
        ("settled up to", lite.settled_up_to.to_string()),
        ("backlog", lite.backlog.to_string()),
        ("head", or_dash(head)),
    ];
    let mut table = output::table(&[]);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    for lease in &lite.leases {
        let (offset, session, attempt) = (lease.offset, &lease.session, lease.attempt);
        let value = format!("offset {offset}, attempt {attempt}, session {session}, until {}", time(lease.deadline));
        table.add_row(["lease".to_owned(), value]);
    }
    for suspension in &lite.suspensions {
        let since = suspension.since.map_or_else(String::new, |since| format!(" since {}", time(since)));
        let value = format!("by {}{since} until {}", source_name(suspension.source), time(suspension.until));
        table.add_row(["suspended".to_owned(), value]);
    }
    table.to_string()
}
