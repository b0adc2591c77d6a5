//! The scarce compute: ten slots, which tell the broker how many of them are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sluicegate_client::{Consumer, Delivery, Load, Outcome};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) const SLOTS: u32 = 10;
const INTERACTIVE_TAKES: Duration = Duration::from_millis(200);
const BATCH_TAKES: Duration = Duration::from_millis(250);

/// Something that was done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job {
    pub(crate) is_batch: bool,
    /// Since the example began.
    pub(crate) began: Duration,
    pub(crate) ended: Duration,
    /// From when the broker had it until it let it run.
    pub(crate) waited: Duration,
}

/// Works until nobody takes what was done any more.
pub(crate) async fn work(mut consumer: Consumer, origin: Instant, done: mpsc::Sender<Job>) -> anyhow::Result<()> {
    let (taken, load) = (Arc::new(AtomicU32::new(0)), consumer.load());
    let until = done.clone();
    let work = consumer.run_until(async move { until.closed().await }, |delivery| {
        one(delivery, origin, Slot::take(&taken, &load), done.clone())
    });
    work.await?;
    // What was settled last is settled when this is over.
    consumer.close().await;
    Ok(())
}

async fn one(delivery: Arc<Delivery>, origin: Instant, slot: Slot, done: mpsc::Sender<Job>) -> Outcome {
    let began = origin.elapsed();
    let is_batch = delivery.property("label.class") == Some("batch");
    tokio::time::sleep(if is_batch { BATCH_TAKES } else { INTERACTIVE_TAKES }).await;
    let waited = delivery.dispatched_at().since(delivery.published_at());
    drop(slot);
    // Who counts may have gone.
    let _ = done.send(Job { is_batch, began, ended: origin.elapsed(), waited }).await;
    Outcome::Ack
}

/// One of the slots. That it is taken, and free again, is reported: this is all that the policy learns of how busy the compute is.
struct Slot {
    taken: Arc<AtomicU32>,
    load: Load,
}

impl Slot {
    fn take(taken: &Arc<AtomicU32>, load: &Load) -> Self {
        let slot = Self { taken: Arc::clone(taken), load: load.clone() };
        slot.report(slot.taken.fetch_add(1, Ordering::Relaxed) + 1);
        slot
    }

    fn report(&self, taken: u32) {
        self.load.report(f64::from(taken) / f64::from(SLOTS));
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.report(self.taken.fetch_sub(1, Ordering::Relaxed) - 1);
    }
}
