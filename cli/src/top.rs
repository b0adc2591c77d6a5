//! `sluice group top`.

use std::time::Duration;

use sluicegate_client::GroupName;
use sluicegate_client::admin::{Admin, AdminError, Waiters};

use crate::exit::WrongInput;
use crate::explain;
use crate::output::{self, Format, or_dash, span, time_from};

/// Time between two looks.
const REDRAW_EVERY: Duration = Duration::from_secs(1);
/// Clears the terminal and goes to its top left.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// A look at a group.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// The group.
    group: GroupName,
    /// Show so many lite topics, 1 to 1000.
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Show it anew every second until Ctrl-C.
    #[arg(long)]
    watch: bool,
}

impl Top {
    pub(crate) async fn run(self, admin: &Admin, format: Format) -> anyhow::Result<()> {
        if self.watch && format == Format::Json {
            return Err(WrongInput("--watch draws for people; leave it out with -o json".into()).into());
        }
        let first = admin.waiters(&self.group, self.limit).await?;
        if self.watch { self.draw(admin, first).await } else { output::print(format, &first, text) }
    }

    async fn draw(&self, admin: &Admin, first: Waiters) -> anyhow::Result<()> {
        let mut shown = text(&first);
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            output::line(&format!("{CLEAR}{shown}"))?;
            tokio::select! {
                _ = &mut interrupted => return Ok(()),
                () = tokio::time::sleep(REDRAW_EVERY) => {}
            }
            shown = match admin.waiters(&self.group, self.limit).await {
                Ok(waiters) => text(&waiters),
                // A broker that restarts comes back.
                Err(error @ AdminError::Http { .. }) => error.to_string(),
                Err(error) => return Err(error.into()),
            };
        }
    }
}

fn text(group: &Waiters) -> String {
    let columns = ["LITE TOPIC", "TENANT", "WAITS", "BLOCKED BY", "BEFORE IT: OF ITS TENANT", "TENANTS"];
    let mut table = output::table(&columns);
    for waiter in &group.waiters {
        let blocker = waiter.blocker.as_ref().map(|blocker| explain::cause(&blocker.cause));
        table.add_row([
            waiter.name.as_str().to_owned(),
            waiter.tenant.clone(),
            span(group.at.since(waiter.since)),
            or_dash(blocker),
            or_dash(waiter.rank_in_tenant.map(explain::rank)),
            or_dash(waiter.rank_in_band.map(explain::rank)),
        ]);
    }
    format!("{}\n{table}", levels(group))
}

fn levels(group: &Waiters) -> String {
    let stats = &group.stats;
    let served = match (group.draining, group.paused) {
        (true, _) => "gets nothing more: the broker is stopping",
        (false, true) => "is paused",
        (false, false) => "is served",
    };
    let left = |left: Option<u64>| left.map_or_else(|| "no limit".to_owned(), |left| left.to_string());
    let rows = [
        ("sessions", stats.sessions.to_string()),
        ("in flight", stats.in_flight.to_string()),
        ("backlog", stats.backlog.to_string()),
        ("lite topics: waiting", stats.waiting_lite_topics.to_string()),
        ("held until a time", stats.held_lite_topics.to_string()),
        ("not in memory, held / other", format!("{} / {}", stats.asleep_lite_topics, stats.unloaded_lite_topics)),
        ("asking the policy", stats.asking_lite_topics.to_string()),
        ("throttled so far", stats.throttled.to_string()),
        ("quota left", format!("messages {}, cost {}", left(stats.messages_left), left(stats.cost_left))),
        ("quota gate", stats.gate_closed_until.map_or_else(|| "open".into(), |at| closed(group, at))),
        ("longest wait", or_dash(stats.oldest_wait.map(|since| span(group.at.since(since))))),
    ];
    let mut table = output::table(&[]);
    for (name, value) in rows {
        table.add_row([name, &value]);
    }
    format!("group {} {served}\n{table}\n", group.group)
}

fn closed(group: &Waiters, until: sluicegate_client::Timestamp) -> String {
    format!("closed until {}", time_from(group.at, until))
}
