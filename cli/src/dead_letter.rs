//! `sluice dead-letter`.

use sluicegate_client::admin::{DeadLetterPage, Redriven};
use sluicegate_client::{GroupName, LiteName};

use crate::connect::Broker;
use crate::lite::{Stretch, with_next};
use crate::output::{self, Format, time};

/// Look at what groups could not process, and move it back.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum DeadLetter {
    /// List a group's dead letters by lite topic, a page at a time.
    List {
        /// The group.
        group: GroupName,
        #[command(flatten)]
        page: Stretch,
    },
    /// Move dead letters back to the end of the lite topics that they came from, where they start with attempt 1. They leave
    /// the dead-letter topic with the same write, so doing it again moves only what is left.
    ///
    /// Other groups of the topic do not get them again, except where they are more than 1,023 messages behind.
    Redrive {
        /// The group.
        group: GroupName,
        /// Only this lite topic's.
        lite: Option<LiteName>,
        /// At most so many messages, 1 to 1000.
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: u32,
    },
}

impl DeadLetter {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let admin = broker.admin()?;
        match self {
            Self::List { group, page } => output::print(format, &admin.dead_letters(&group, &page.page()).await?, list),
            Self::Redrive { group, lite, limit } => {
                output::print(format, &admin.redrive(&group, lite.as_ref(), Some(limit)).await?, redriven)
            }
        }
    }
}

fn list(page: &DeadLetterPage) -> String {
    let mut table = output::table(&["LITE TOPIC", "OFFSET", "ORIGIN", "ATTEMPTS", "WHEN", "CAUSE"]);
    for dead in &page.dead_letters {
        table.add_row([
            dead.lite.as_str().to_owned(),
            dead.offset.to_string(),
            dead.origin.to_string(),
            dead.attempts.to_string(),
            time(dead.at),
            dead.cause.escape_debug().to_string(),
        ]);
    }
    with_next(table.to_string(), page.next.as_deref())
}

fn redriven(done: &Redriven) -> String {
    let mut parts = vec![format!("moved {} messages back", done.moved)];
    if done.in_use > 0 {
        parts.push(format!("passed over {} lite topics that a consumer works on", done.in_use));
    }
    if done.more {
        parts.push("more are left".to_owned());
    }
    parts.join("; ")
}
