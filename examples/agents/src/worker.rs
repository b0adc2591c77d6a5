//! A worker: counts the words of what it is asked about, takes its time, and replies.

use std::time::Duration;

use sluicegate_client::{GroupName, Outcome, Replied};
use sluicegate_example_broker::Broker;

use crate::moment::{Moment, reached};

/// How long a paragraph takes.
const WORK: Duration = Duration::from_millis(150);

/// Works until it is killed.
pub(crate) async fn run(broker: &Broker, group: GroupName) -> anyhow::Result<()> {
    let mut consumer = broker.client().consumer(group).connect().await?;
    while let Some(request) = consumer.next().await {
        let request = request?;
        reached(Moment::Working, request.lite()).await;
        tokio::time::sleep(WORK).await;
        let words = request.body().split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).count();
        // Each worker says something else, and each run of it: who replies first has replied.
        let reply = format!("{words} words, says worker {}", std::process::id());
        if request.reply(reply).await? == Replied::Before {
            eprintln!("{}: it had a reply", request.lite());
        }
        reached(Moment::Replied, request.lite()).await;
        // The lease may be over: then somebody does it again, for nothing.
        drop(request.settle(Outcome::Ack).await);
    }
    Ok(())
}
