//! `sluice consume`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;
use sluicegate_client::{BodyReader, Delivery, GroupName, LiteId, LiteName, Position, Subscription};

use crate::connect::Broker;
use crate::exit::WrongInput;
use crate::lite::position;
use crate::output::{self, Body, Format};

/// Consumes messages of a group and acknowledges each when it is printed.
#[derive(Debug, clap::Args)]
pub(crate) struct Consume {
    /// The group.
    group: GroupName,
    /// Only this lite topic, whether it exists yet or not; may be given several times. Without it and `--prefix`, all.
    #[arg(long = "lite", value_name = "NAME", value_parser = LiteName::parse)]
    lites: Vec<LiteName>,
    /// Only lite topics whose names start like this; may be given several times.
    #[arg(long = "prefix", value_name = "PREFIX", value_parser = LiteName::parse)]
    prefixes: Vec<LiteName>,
    /// Where the group begins in those that it does not follow yet (`group create --follows subscribed`): `earliest`, `latest`,
    /// `timestamp:T`, and with `--lite` alone `offset:N` or `last:N`. Lite topics of later begin with their first message.
    #[arg(long, value_name = "POSITION", default_value = "earliest", value_parser = position)]
    start: Position,
    /// Messages in flight at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    workers: u32,
    /// Write each body to a file of its own in this directory, `LITE_ID-OFFSET`, and print its path in place of the body.
    #[arg(long, value_name = "DIR")]
    body_dir: Option<PathBuf>,
    /// Stop after so many messages.
    #[arg(long, short = 'n', value_name = "N")]
    count: Option<u64>,
    /// Stop when nothing came for so long, for example `2s`.
    #[arg(long, value_name = "DURATION")]
    until_idle: Option<humantime::Duration>,
}

#[derive(Debug, Serialize)]
struct Consumed {
    lite: String,
    lite_id: LiteId,
    offset: u64,
    attempt: u32,
    priority: u8,
    cost: u64,
    properties: BTreeMap<String, String>,
    body_bytes: u64,
    /// With `--body-dir` the path of its file.
    #[serde(flatten)]
    body: Body,
}

impl Consume {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let mut consumer = broker.client().consumer(self.group).workers(self.workers);
        let mut subscription = None;
        if !self.lites.is_empty() || !self.prefixes.is_empty() {
            let named = Subscription::default().lite_topics(self.lites).starting_at(self.start);
            subscription = Some(self.prefixes.into_iter().fold(named, Subscription::prefix));
            consumer = consumer.subscribe_to(Subscription::default());
        } else if self.start != Position::Earliest {
            return Err(WrongInput("--start: says where to begin in what --lite or --prefix names".into()).into());
        }
        if let Some(directory) = &self.body_dir {
            let wrong = |error: std::io::Error| WrongInput(format!("{}: {error}", directory.display()));
            tokio::fs::create_dir_all(directory).await.map_err(wrong)?;
            consumer = consumer.stream_bodies_above(0);
        }
        let mut consumer = consumer.connect().await?;
        if let Some(subscription) = subscription {
            let met = consumer.subscribe(subscription).await?;
            for name in met.kept {
                eprintln!("{name}: the group follows it already and goes on where it was");
            }
        }
        let patience = self.until_idle.map_or(Duration::MAX, Into::into);
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let next = tokio::select! {
                next = tokio::time::timeout(patience, consumer.next()) => next,
                // Ctrl-C ends in order: what is not settled returns at once.
                _ = tokio::signal::ctrl_c() => break,
            };
            let Ok(Some(delivery)) = next else { break };
            let delivery = delivery?;
            let body = match &self.body_dir {
                Some(directory) => {
                    let path = directory.join(format!("{}-{}", delivery.lite_id(), delivery.offset()));
                    write_body(delivery.body_reader(), &path).await?;
                    Body::at(&path)
                }
                None => Body::of(delivery.body()),
            };
            output::print(format, &describe(&delivery, body), |consumed| {
                format!("{} {}: {}", consumed.lite, consumed.offset, consumed.body.text())
            })?;
            delivery.ack().await?;
            left -= 1;
        }
        consumer.close().await;
        Ok(())
    }
}

/// Writes a body to its file.
pub(crate) async fn write_body(mut body: BodyReader, path: &Path) -> anyhow::Result<()> {
    let wrong = |error: std::io::Error| WrongInput(format!("{}: {error}", path.display()));
    let mut file = tokio::fs::File::create(path).await.map_err(wrong)?;
    body.copy_to(&mut file).await.with_context(|| path.display().to_string())?;
    Ok(())
}

fn describe(delivery: &Delivery, body: Body) -> Consumed {
    Consumed {
        lite: delivery.lite().to_owned(),
        lite_id: delivery.lite_id(),
        offset: delivery.offset().0,
        attempt: delivery.attempt(),
        priority: delivery.priority(),
        cost: delivery.cost(),
        properties: delivery.properties().clone(),
        body_bytes: delivery.body_bytes(),
        body,
    }
}
