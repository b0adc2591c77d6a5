//! `sluice group`.

use sluicegate_client::admin::{
    BackOff, ConcurrencySettings, ConsumeMode, CreateGroup, DeletedGroup, Dependents, Follows, Group as GroupView,
    GroupSettings, PolicyRuns, QuotaSettings, RetrySettings, WatchdogSettings,
};
use sluicegate_client::{GroupName, Position, Rate, TopicName};

use crate::connect::Broker;
use crate::lite::position;
use crate::output::{self, Format, or_dash, time};
use crate::top::Top;

/// Make consumer groups, look at them, change and delete them, see who waits longest.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Group {
    /// Make a group. Making it again with the same settings changes nothing.
    Create(Create),
    /// List all groups.
    List,
    /// Show one group.
    Show {
        /// The group.
        name: GroupName,
    },
    /// Show how a group stands and which of its lite topics wait longest.
    Top(Top),
    /// Set a group's quotas; what is not given has no limit from now on.
    Quota {
        /// The group.
        name: GroupName,
        #[command(flatten)]
        quotas: Quotas,
    },
    /// Set how many leases may be open at once; what is not given has no bound of its own from now on,
    /// and a lite topic strict order. Open leases above a lower bound run on.
    Concurrency {
        /// The group.
        name: GroupName,
        #[command(flatten)]
        concurrency: Concurrency,
    },
    /// Set when failed messages are tried again, from the next failure on; what is not given has its default.
    Retry {
        /// The group.
        name: GroupName,
        #[command(flatten)]
        retry: Retry,
    },
    /// Set after which time the watchdog lets a message through that the policy throttles again and again, although there is room and
    /// nothing else of its tenant runs.
    Watchdog {
        /// The group.
        name: GroupName,
        /// 1 s to 24 h, or `off`.
        #[arg(value_parser = watchdog, value_name = "DURATION")]
        after: WatchdogSettings,
    },
    /// Give a tenant labels, which the group's policy learns; without any, its labels are taken away.
    Label {
        /// The group.
        name: GroupName,
        /// The tenant.
        tenant: String,
        /// Labels, at most 16.
        #[arg(value_name = "KEY=VALUE", value_parser = label)]
        labels: Vec<(String, String)>,
    },
    /// No new deliveries until `resume`, across restarts too. Open leases run on and may be settled.
    Pause {
        /// The group.
        name: GroupName,
    },
    /// Let deliveries go on after `pause`.
    Resume {
        /// The group.
        name: GroupName,
    },
    /// Delete a group. Its consumers are ended, and no message waits for it any more.
    Delete {
        /// The group.
        name: GroupName,
        /// Delete what it could not process too; without this, its dead-letter topic stays.
        #[arg(long)]
        with_dead_letters: bool,
    },
}

/// A new group.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// 1 to 127 of `A-Z a-z 0-9 . _ -`.
    name: GroupName,
    /// The topic that it consumes; a dead-letter topic `TOPIC.dlq.GROUP` too.
    #[arg(long, value_parser = TopicName::parse_existing)]
    topic: TopicName,
    #[command(flatten)]
    quotas: Quotas,
    #[command(flatten)]
    concurrency: Concurrency,
    /// Each lite topic has one owner: the consumer that subscribed to it last, by name.
    #[arg(long)]
    exclusive: bool,
    /// Which lite topics it is to settle: `all`, or those that its consumers `subscribed` to by name or prefix, until they
    /// unsubscribe. What no group follows is kept.
    #[arg(long, default_value = "all", value_parser = follows, value_name = "FOLLOWS")]
    follows: Follows,
    /// How long a lease lasts unless it is extended, for example `60s`.
    #[arg(long, default_value = "60s", value_name = "DURATION")]
    lease: humantime::Duration,
    /// How long a session may be away before its leases return.
    #[arg(long, default_value = "15s", value_name = "DURATION")]
    session_grace: humantime::Duration,
    /// Counted deliveries before a message is dead-lettered.
    #[arg(long, default_value_t = 16, value_name = "N")]
    max_attempts: u32,
    #[command(flatten)]
    retry: Retry,
    /// After which time the watchdog lets a message through that the policy throttles again and again: 1 s to 24 h, or `off`.
    #[arg(long, default_value = "30s", value_parser = watchdog, value_name = "DURATION")]
    watchdog: WatchdogSettings,
    /// Where it starts in the lite topics that exist now: `earliest`, `latest`, `timestamp:T` or `last:N`. Later ones start at
    /// their first message.
    #[arg(long, default_value = "earliest", value_parser = position, value_name = "POSITION")]
    start: Position,
}

/// Open leases at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Concurrency {
    /// Open leases at once in the group.
    #[arg(long = "concurrency", value_name = "N")]
    group: Option<u32>,
    /// Open leases at once per tenant.
    #[arg(long = "tenant-concurrency", value_name = "N")]
    tenant: Option<u32>,
    /// Open leases at once per lite topic; 1 keeps strict order.
    #[arg(long = "lite-topic-concurrency", value_name = "N", default_value_t = 1)]
    lite_topic: u32,
}

/// When a failed message is tried again, unless its consumer names a delay.
#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    /// How the delay grows: `exponential` doubles the first delay with each attempt, `fixed` keeps it.
    #[arg(long = "retry-back-off", default_value = "exponential", value_parser = back_off, value_name = "BACK_OFF")]
    back_off: BackOff,
    /// First retry delay.
    #[arg(long = "retry-initial", default_value = "1s", value_name = "DURATION")]
    initial: humantime::Duration,
    /// Longest retry delay; without effect when the back-off is fixed.
    #[arg(long = "retry-max", default_value = "5min", value_name = "DURATION")]
    max: humantime::Duration,
}

/// A group's token buckets.
#[derive(Debug, clap::Args)]
pub(crate) struct Quotas {
    /// Deliveries, for example `100/s`, `5000/min` or `100/s burst 20`.
    #[arg(long, value_name = "RATE")]
    messages: Option<Rate>,
    /// Cost units, for example `90000/min`.
    #[arg(long, value_name = "RATE")]
    cost: Option<Rate>,
}

impl Quotas {
    const fn settings(&self) -> QuotaSettings {
        QuotaSettings { messages: self.messages, cost: self.cost }
    }
}

impl Group {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let admin = broker.admin()?;
        match self {
            Self::Create(create) => {
                let group = admin.create_group(&create.request()).await?;
                output::print(format, &group, |group| format!("group {} consumes topic {}", group.name, group.topic))
            }
            Self::List => output::print(format, &admin.groups().await?, |groups| table(groups)),
            Self::Show { name } => output::print(format, &admin.group(&name).await?, details),
            Self::Top(top) => top.run(&admin, format).await,
            Self::Quota { name, quotas } => {
                let group = admin.set_quotas(&name, &quotas.settings()).await?;
                output::print(format, &group, |group| table(std::slice::from_ref(group)))
            }
            Self::Concurrency { name, concurrency } => {
                output::print(format, &admin.set_concurrency(&name, &concurrency.settings()).await?, details)
            }
            Self::Retry { name, retry } => {
                output::print(format, &admin.set_retry(&name, &retry.settings()).await?, details)
            }
            Self::Watchdog { name, after } => output::print(format, &admin.set_watchdog(&name, &after).await?, details),
            Self::Label { name, tenant, labels } => {
                let labels = labels.into_iter().collect();
                output::print(format, &admin.set_tenant_labels(&name, &tenant, &labels).await?, details)
            }
            Self::Pause { name } => output::print(format, &admin.pause_group(&name).await?, |group| {
                format!("group {} is paused, {} leases are open", group.name, group.stats.in_flight)
            }),
            Self::Resume { name } => output::print(format, &admin.resume_group(&name).await?, |group| {
                format!("group {} is served", group.name)
            }),
            Self::Delete { name, with_dead_letters } => {
                let dead_letters = if with_dead_letters { Dependents::Delete } else { Dependents::Keep };
                output::print(format, &admin.delete_group(&name, dead_letters).await?, deleted)
            }
        }
    }
}

impl Concurrency {
    const fn settings(&self) -> ConcurrencySettings {
        let Self { group, tenant, lite_topic } = *self;
        ConcurrencySettings { group, tenant, lite_topic }
    }
}

impl Retry {
    fn settings(&self) -> RetrySettings {
        RetrySettings { back_off: self.back_off, initial_ms: millis(self.initial), max_ms: millis(self.max) }
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

pub(crate) fn millis(duration: humantime::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn watchdog(text: &str) -> Result<WatchdogSettings, String> {
    let after_ms = match text {
        "off" => 0,
        _ => millis(text.parse().map_err(|error| format!("{error}; it is a duration, or `off`"))?),
    };
    if text != "off" && after_ms == 0 {
        return Err("for no watchdog say `off`".into());
    }
    let settings = WatchdogSettings { after_ms };
    settings.check().map(|()| settings)
}

fn follows(text: &str) -> Result<Follows, String> {
    match text {
        "all" => Ok(Follows::All),
        "subscribed" => Ok(Follows::Subscribed),
        _ => Err("it is `all` or `subscribed`".into()),
    }
}

fn back_off(text: &str) -> Result<BackOff, String> {
    match text {
        "exponential" => Ok(BackOff::Exponential),
        "fixed" => Ok(BackOff::Fixed),
        _ => Err("it is `exponential` or `fixed`".into()),
    }
}

impl Create {
    fn request(self) -> CreateGroup {
        let retry = self.retry.settings();
        CreateGroup {
            settings: GroupSettings {
                quotas: self.quotas.settings(),
                concurrency: self.concurrency.settings(),
                mode: if self.exclusive { ConsumeMode::Exclusive } else { ConsumeMode::Shared },
                follows: self.follows,
                lease_ms: millis(self.lease),
                session_grace_ms: millis(self.session_grace),
                max_attempts: self.max_attempts,
                retry_back_off: retry.back_off,
                retry_initial_ms: retry.initial_ms,
                retry_max_ms: retry.max_ms,
                watchdog_ms: self.watchdog.after_ms,
                ..GroupSettings::default()
            },
            name: self.name,
            topic: self.topic,
            start: self.start,
        }
    }
}

fn deleted(gone: &DeletedGroup) -> String {
    let dead_letters: Vec<_> = gone.dead_letter_topics.iter().map(TopicName::as_str).collect();
    let with = if dead_letters.is_empty() { String::new() } else { format!(", with {}", dead_letters.join(", ")) };
    format!("group {} is gone, {} leases were open{with}", gone.name, gone.leases)
}

fn table(groups: &[GroupView]) -> String {
    let columns =
        ["GROUP", "TOPIC", "MESSAGES", "COST", "POLICY", "SESSIONS", "IN FLIGHT", "WAITING", "DELIVERED", "ACKED"];
    let mut table = output::table(&columns);
    for group in groups {
        let (quotas, stats) = (group.settings.quotas, group.stats);
        table.add_row([
            group.name.as_str().to_owned(),
            group.topic.as_str().to_owned(),
            or_dash(quotas.messages),
            or_dash(quotas.cost),
            or_dash(group.policy.as_ref().map(|policy| &policy.name)),
            stats.sessions.to_string(),
            stats.in_flight.to_string(),
            stats.waiting_lite_topics.to_string(),
            stats.delivered.to_string(),
            stats.acked.to_string(),
        ]);
    }
    table.to_string()
}

fn retry_delay(settings: &GroupSettings) -> String {
    match settings.retry_back_off {
        BackOff::Fixed => format!("{} ms each time", settings.retry_initial_ms),
        BackOff::Exponential => {
            format!("{} ms, doubled up to {} ms", settings.retry_initial_ms, settings.retry_max_ms)
        }
    }
}

/// Where a policy's frames are answered.
pub(crate) const fn where_it_runs(runs: PolicyRuns) -> &'static str {
    match runs {
        PolicyRuns::OnShard => "on its shard",
        PolicyRuns::OffShard => "off its shard",
        PolicyRuns::Resting => "resting: it used up its time",
        PolicyRuns::Restarting => "being made again after a fault",
    }
}

fn details(group: &GroupView) -> String {
    let (settings, counters) = (&group.settings, &group.stats);
    let policy = group.policy.as_ref().map(|policy| {
        let state = policy.suspended_because.as_ref().map_or(String::new(), |why| format!(", does not decide: {why}"));
        let runs = policy.runs.map_or(String::new(), |runs| format!(", {}", where_it_runs(runs)));
        format!("{} ({}{runs}{state})", policy.name, &policy.digest[..12])
    });
    let fault = group.last_strike.as_ref();
    let fault = fault.map(|strike| format!("{}: {}, capsule {}", time(strike.at), strike.fault, strike.capsule));
    let rows = [
        ("group", group.name.to_string()),
        ("topic", group.topic.to_string()),
        ("state", if group.paused { "paused" } else { "served" }.to_owned()),
        ("quota, messages", or_dash(settings.quotas.messages)),
        ("quota, cost", or_dash(settings.quotas.cost)),
        ("concurrency", or_dash(settings.concurrency.group)),
        ("concurrency, tenant", or_dash(settings.concurrency.tenant)),
        ("concurrency, lite topic", settings.concurrency.lite_topic.to_string()),
        (
            "follows",
            match settings.follows {
                Follows::All => "all lite topics".into(),
                Follows::Subscribed => "what its consumers subscribed to".into(),
            },
        ),
        ("lease", format!("{} ms", settings.lease_ms)),
        ("max attempts", settings.max_attempts.to_string()),
        ("retry delay", retry_delay(settings)),
        ("watchdog", if settings.watchdog_ms == 0 { "off".into() } else { format!("{} ms", settings.watchdog_ms) }),
        ("policy", or_dash(policy)),
        ("last fault of a policy", or_dash(fault)),
        ("sessions", counters.sessions.to_string()),
        ("in flight", counters.in_flight.to_string()),
        ("waiting lite topics", counters.waiting_lite_topics.to_string()),
        (
            "of these: ready, held, asking",
            format!("{}, {}, {}", counters.ready_lite_topics, counters.held_lite_topics, counters.asking_lite_topics),
        ),
        ("not in memory: held, other", format!("{}, {}", counters.asleep_lite_topics, counters.unloaded_lite_topics)),
        ("backlog", counters.backlog.to_string()),
        ("waits longest, since", or_dash(counters.oldest_wait.map(time))),
        ("largest service gap", counters.service_gap.to_string()),
        ("quota gate closed until", or_dash(counters.gate_closed_until.map(time))),
        ("quota left, messages, cost", format!("{}, {}", or_dash(counters.messages_left), or_dash(counters.cost_left))),
        ("delivered", counters.delivered.to_string()),
        ("acked", counters.acked.to_string()),
        ("retried", counters.retried.to_string()),
        ("suspended", counters.suspended.to_string()),
        ("dead-lettered", counters.dead_lettered.to_string()),
        ("throttled", counters.throttled.to_string()),
        ("refunds, debts", format!("{}, {}", counters.refunds, counters.debts)),
        (
            "policy frames, missed, strikes",
            format!("{}, {}, {}", counters.policy_frames, counters.policy_missed, counters.policy_strikes),
        ),
        (
            "policy time on, off the shard",
            format!("{} ms, {} ms", counters.policy_on_shard_us / 1_000, counters.policy_off_shard_us / 1_000),
        ),
        ("let through by the watchdog", counters.policy_starved.to_string()),
        ("policy feedback dropped", counters.policy_feedback_dropped.to_string()),
    ];
    let mut table = output::table(&[]);
    for (name, value) in rows {
        table.add_row([name.to_owned(), value]);
    }
    table.to_string()
}
