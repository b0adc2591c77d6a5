//! `sluice consume`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sluicegate_client::{Delivery, GroupName, LiteName, Subscription};

use crate::connect::Broker;
use crate::output::{self, Format};

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
    /// Messages in flight at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    workers: u32,
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
    lite_id: u64,
    offset: u64,
    attempt: u32,
    priority: u8,
    cost: u64,
    properties: BTreeMap<String, String>,
    /// As text; what is not UTF-8 is replaced.
    body: String,
}

impl Consume {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let mut consumer = broker.client().consumer(self.group).workers(self.workers);
        if !self.lites.is_empty() || !self.prefixes.is_empty() {
            let subscription = Subscription::default().lite_topics(self.lites);
            consumer = consumer.subscribe_to(self.prefixes.into_iter().fold(subscription, Subscription::prefix));
        }
        let mut consumer = consumer.connect().await?;
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
            output::print(format, &describe(&delivery), |consumed| {
                format!("{} {}: {}", consumed.lite, consumed.offset, consumed.body)
            })?;
            delivery.ack().await?;
            left -= 1;
        }
        consumer.close().await;
        Ok(())
    }
}

fn describe(delivery: &Delivery) -> Consumed {
    Consumed {
        lite: delivery.lite().to_owned(),
        lite_id: delivery.lite_id().0,
        offset: delivery.offset().0,
        attempt: delivery.attempt(),
        priority: delivery.priority(),
        cost: delivery.cost(),
        properties: delivery.properties().clone(),
        body: String::from_utf8_lossy(delivery.body()).into_owned(),
    }
}
