//! The planner: splits a task into steps, asks the workers, and publishes what they said as one result.

use std::time::Duration;

use anyhow::Context as _;
use sluicegate_client::{
    Delivery, ErrorCode, Message, MessageId, Outcome, Producer, PublishError, RequestId, Requester, RequesterId,
};
use sluicegate_example_broker::Broker;

use crate::moment::{Moment, reached};
use crate::place;

/// For each reply; long, since a worker may have to be started anew first.
const PATIENCE: Duration = Duration::from_mins(1);

/// Plans until it is killed.
pub(crate) async fn run(broker: &Broker) -> anyhow::Result<()> {
    let client = broker.client();
    // The name is the same in each process that plans: the replies are the planner's, not the process's.
    let requester = client.requester(place::steps(), RequesterId::parse("planner")?).await?;
    let results = client.producer(place::results()).connect().await?;
    let mut consumer = client.consumer(place::planners()).connect().await?;
    while let Some(task) = consumer.next().await {
        let task = task?;
        plan(&requester, &results, &task).await?;
        // The lease may be over: then somebody does it again, for nothing.
        drop(task.settle(Outcome::Ack).await);
    }
    Ok(())
}

/// All of it may have happened before, to any point, in a process that is gone.
async fn plan(requester: &Requester, results: &Producer, task: &Delivery) -> anyhow::Result<()> {
    reached(Moment::Planning, task.lite()).await;
    let text = std::str::from_utf8(task.body())?;
    let mut requests = Vec::new();
    for (step, paragraph) in paragraphs(text).enumerate() {
        // The id is made of the task's: asked again, it is the same request, and its reply may be there already.
        let lite = format!("{}/{step}", task.lite());
        let message = Message::to(&lite)?.body(paragraph.to_owned());
        requests.push(requester.start_as(request_id(id(task), step)?, message).await?);
    }
    reached(Moment::Asked, task.lite()).await;
    let (mut words, mut said) = (0, Vec::new());
    for request in &requests {
        let reply = String::from_utf8(request.reply(PATIENCE).await?.body.to_vec())?;
        words += reply.split(' ').next().and_then(|count| count.parse::<usize>().ok()).context("a count of words")?;
        said.push(reply);
    }
    reached(Moment::Collected, task.lite()).await;
    let result = format!("{words} words in all, says planner {}: {}", std::process::id(), said.join("; "));
    // The task is the key: it has one result, whoever comes second and whatever that one would say.
    let message = Message::to(task.lite())?.body(result).idempotency_key(id(task).to_string());
    match results.send(message).await {
        Ok(_) => {}
        Err(PublishError::Refused(refusal)) if refusal.code == ErrorCode::IdempotencyConflict => {
            eprintln!("{}: it had a result", task.lite());
        }
        Err(error) => return Err(error.into()),
    }
    reached(Moment::Published, task.lite()).await;
    Ok(())
}

fn id(task: &Delivery) -> MessageId {
    MessageId { lite_id: task.lite_id(), offset: task.offset() }
}

/// What the planner calls a step of a task.
pub(crate) fn request_id(task: MessageId, step: usize) -> anyhow::Result<RequestId> {
    Ok(RequestId::parse(&format!("{task}.{step}"))?)
}

pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    text.split("\n\n").map(str::trim).filter(|paragraph| !paragraph.is_empty())
}
