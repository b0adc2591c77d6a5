//! The demo's traffic: one producer that sends each request when it arrives, workers that hold each
//! lease for its service time, and records of both.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sluicegate_client::{Consumer, GroupName, Message, Producer, SettleError, TopicName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ledger::{Delivery, Ledger, Outcome, Published};
use super::workload::Plan;
use crate::broker_process::BrokerProcess;
use crate::clock::Clock;
use crate::output::Format;

/// Bytes of a request's body: what a short prompt has.
const BODY_BYTES: usize = 512;
/// How long nothing may come before a run is given up.
const PATIENCE: Duration = Duration::from_mins(1);
/// Receipts that wait to be recorded.
const RECEIPTS_MAX: usize = 4_096;

/// Sends and serves all requests of the plan.
pub(super) async fn run(
    broker: &BrokerProcess,
    plan: &Plan,
    topic: TopicName,
    group: GroupName,
    format: Format,
) -> anyhow::Result<Ledger> {
    let clock = Clock::start();
    let plan = Arc::new(plan.clone());
    let producer = broker.client("demo-producer").producer(topic).connect().await?;
    let consumer = broker.client("demo-workers").consumer(group).workers(plan.workers).connect().await?;
    let progress = progress(&plan, format);
    let producing = tokio::spawn(produce(producer, Arc::clone(&plan), clock));
    let consuming = consume(consumer, Arc::clone(&plan), clock, &progress);
    let deliveries = consuming.await;
    progress.finish_and_clear();
    let published = producing.await.context("the producer task")?;
    Ok(Ledger { published: published?, deliveries: deliveries? })
}

fn progress(plan: &Plan, format: Format) -> ProgressBar {
    let target = match format {
        Format::Text => ProgressDrawTarget::stderr(),
        Format::Json => ProgressDrawTarget::hidden(),
    };
    let style = ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} served {per_sec} {msg}")
        .expect("the template is well-formed");
    ProgressBar::with_draw_target(Some(plan.arrivals.len() as u64), target).with_style(style)
}

async fn produce(producer: Producer, plan: Arc<Plan>, clock: Clock) -> anyhow::Result<Vec<Published>> {
    let (sent, mut receipts) = mpsc::channel(RECEIPTS_MAX);
    let recording = tokio::spawn(async move {
        let mut published = Vec::new();
        while let Some((arrival, arrived_at, pending)) = receipts.recv().await {
            let (arrival, pending): (super::workload::Arrival, sluicegate_client::Pending) = (arrival, pending);
            let receipt = pending.await?;
            published.push(Published {
                user: arrival.user,
                sequence: arrival.sequence,
                offset: receipt.offset.0,
                arrived_at,
                receipt_at: clock.now(),
                cost_estimate: arrival.cost_estimate,
            });
        }
        anyhow::Ok(published)
    });
    let start = Instant::now();
    for arrival in &plan.arrivals {
        tokio::time::sleep_until(start + arrival.at).await;
        let arrived_at = clock.now();
        let mut body = format!("{} ", arrival.sequence).into_bytes();
        body.resize(BODY_BYTES, b'.');
        let user = &plan.users[arrival.user as usize].name;
        let message = Message::to(user)?.cost(arrival.cost_estimate.into()).body(body);
        let pending = producer.enqueue(message).await?;
        if sent.send((*arrival, arrived_at, pending)).await.is_err() {
            break; // The recording failed and says why.
        }
    }
    drop(sent);
    let published = recording.await.context("the recording task")?;
    producer.close().await;
    published
}

async fn consume(
    mut consumer: Consumer,
    plan: Arc<Plan>,
    clock: Clock,
    progress: &ProgressBar,
) -> anyhow::Result<Vec<Delivery>> {
    let users: HashMap<_, _> =
        plan.users.iter().zip(0_u32..).map(|(user, index)| (user.name.as_str(), index)).collect();
    let arrivals: HashMap<_, _> =
        plan.arrivals.iter().map(|arrival| ((arrival.user, arrival.sequence), *arrival)).collect();
    let (mut working, mut deliveries, mut acked) = (JoinSet::new(), Vec::new(), 0);
    while acked < plan.arrivals.len() {
        let next = tokio::select! {
            Some(done) = working.join_next() => {
                let done: Delivery = done.context("a worker")?;
                acked += usize::from(done.outcome == Outcome::Acked);
                progress.set_position(acked as u64);
                deliveries.push(done);
                continue;
            }
            next = tokio::time::timeout(PATIENCE, consumer.next()) => next,
        };
        let Ok(next) = next else {
            bail!("nothing came for {PATIENCE:?}: {acked} of {} are served", plan.arrivals.len())
        };
        let delivery = next.context("the consumer ended")??;
        let user = *users.get(delivery.lite()).context("a delivery of nobody's")?;
        let sequence = sequence(delivery.body()).context("a body that the demo did not send")?;
        let arrival = *arrivals.get(&(user, sequence)).context("a delivery of a request that was not sent")?;
        let delivered_at = clock.now();
        working.spawn(async move {
            tokio::time::sleep(arrival.service_time).await;
            let (offset, attempt, dispatched_at) = (delivery.offset().0, delivery.attempt(), delivery.dispatched_at());
            let cost = delivery.cost();
            let outcome = match delivery.ack_with_cost(arrival.cost_actual.into()).await {
                Ok(()) => Outcome::Acked,
                Err(SettleError::Closed) => Outcome::Returned,
                Err(_) => Outcome::LeaseLost,
            };
            Delivery {
                user,
                sequence,
                offset,
                attempt,
                dispatched_at,
                delivered_at,
                settled_at: clock.now(),
                outcome,
                cost_estimate: u32::try_from(cost).unwrap_or(u32::MAX),
                cost_actual: arrival.cost_actual,
            }
        });
    }
    consumer.close().await;
    Ok(deliveries)
}

fn sequence(body: &[u8]) -> Option<u64> {
    let end = body.iter().position(|byte| *byte == b' ')?;
    std::str::from_utf8(&body[..end]).ok()?.parse().ok()
}
