//! What comes in: batch work all at once, and people who come when they come.

use std::time::Duration;

use sluicegate_client::{Message, Producer};
use tokio::time::{Instant, sleep_until};

/// Lite topics with batch work. At one message of each at a time, batch has no more slots than this.
pub(crate) const BATCH_LANES: usize = 5;
const BATCH_PER_LANE: usize = 30;
pub(crate) const BATCH: usize = BATCH_LANES * BATCH_PER_LANE;
/// Between two people.
const QUIET: Duration = Duration::from_millis(250);
const RUSH: Duration = Duration::from_millis(22);
/// When the rush begins and ends.
pub(crate) const RUSH_FROM: Duration = Duration::from_secs(3);
pub(crate) const RUSH_TO: Duration = Duration::from_secs(9);
/// When the last people come.
const ALL: Duration = Duration::from_secs(14);

/// The lite topic of one kind of batch work.
pub(crate) fn lane(number: usize) -> String {
    format!("batch/{number}")
}

/// All batch work. The label is what the policy knows it by.
pub(crate) async fn batch(producer: &Producer) -> anyhow::Result<()> {
    for number in 0..BATCH {
        let message = Message::to(&lane(number % BATCH_LANES))?.property("label.class", "batch");
        producer.send(message).await?;
    }
    Ok(())
}

/// People, each in a lite topic of their own; answers how many came.
pub(crate) async fn people(producer: &Producer, origin: Instant) -> anyhow::Result<usize> {
    let (mut next, mut came) = (Duration::ZERO, 0);
    while next < ALL {
        sleep_until(origin + next).await;
        producer.send(Message::to(&format!("chat/{came}"))?).await?;
        came += 1;
        next += if (RUSH_FROM..RUSH_TO).contains(&next) { RUSH } else { QUIET };
    }
    Ok(came)
}
