//! Agents that ask each other, are never sure to be online together, and die at the worst moments: each task has one result.
//!
//! A planner and two workers are processes of their own. The planner splits a task into steps and asks for them; the workers reply; the
//! planner publishes one result. All three are killed (SIGKILL) at chosen moments, and started again.

mod agents;
mod moment;
mod place;
mod planner;
mod worker;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use sluicegate_client::{
    Client, GroupName, LiteName, Message, MessageId, ReadMessage, Receipt, RequesterId, TopicName,
};
use sluicegate_example_broker::Broker;
use tokio::time::timeout;

use crate::agents::{Agent, Agents, Event};
use crate::moment::Moment;

/// What is done: each paragraph is a step.
const TEXT: &str = "\
A sluice is a channel with a gate at its head, by which its keeper says how much water goes through.

At a mill the gate decides how fast the wheel turns. Who opens it too far has a broken wheel, and who keeps it shut has no flour.

On a canal a lock has sluices at both ends. No boat is in a hurry there, for the water takes the time that it takes.

In the mines they washed gold in sluice boxes: what is heavy stays behind the bars, and all else goes with the stream.
";
const TASKS: usize = 3;
/// When who is killed: each once, when it comes to that.
const KILLS: [(Agent, Moment); 8] = [
    (Agent::Planner, Moment::Planning),
    (Agent::WorkerA, Moment::Working),
    (Agent::Planner, Moment::Asked),
    (Agent::WorkerB, Moment::Replied),
    (Agent::Planner, Moment::Collected),
    (Agent::WorkerA, Moment::Replied),
    (Agent::Planner, Moment::Published),
    (Agent::WorkerB, Moment::Working),
];
/// All of it.
const PATIENCE: Duration = Duration::from_mins(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Three agents that die at the worst moments, and one result for each task.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Splits tasks and asks the workers; the example starts its own.
    Planner,
    /// Does steps; the example starts its own.
    Worker,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { broker, role } = Arguments::parse();
    match role {
        Some(Role::Planner) => planner::run(&broker).await,
        Some(Role::Worker) => worker::run(&broker, place::workers()).await,
        None => timeout(PATIENCE, task(&broker)).await.context("the tasks have no results in time")?,
    }
}

/// Gives tasks to agents, kills them, and looks at what there is in the end.
async fn task(broker: &Broker) -> anyhow::Result<()> {
    place::set_up(broker).await?;
    let client = broker.client();
    let (mut agents, mut events) = Agents::start(broker)?;
    let tasks = publish_tasks(&client).await?;
    let done = all_done(broker);
    tokio::pin!(done);
    let (mut kills, mut runs) = (KILLS.to_vec(), HashMap::<(Moment, String), usize>::new());
    loop {
        let Event { agent, moment, what } = tokio::select! {
            event = events.recv() => event.context("the agents are running")?,
            done = &mut done => break done?,
        };
        println!("{agent:?} has {moment} {what}");
        *runs.entry((moment, what)).or_default() += 1;
        if let Some(now) = kills.iter().position(|kill| *kill == (agent, moment)) {
            kills.remove(now);
            println!("{agent:?} is killed, and another process takes its place");
            agents.kill(agent).await?;
        }
    }
    drop(agents);
    let twice = |moment| runs.iter().filter(|((of, _), runs)| *of == moment && **runs > 1).count();
    let (planned, worked) = (twice(Moment::Planning), twice(Moment::Working));
    ensure!(planned > 0 && worked > 0, "{planned} tasks and {worked} steps ran more than once: nobody was in the way");
    println!();
    for (lite, receipt) in &tasks {
        let result = only(&client, &place::results(), lite).await?;
        println!("{lite}: {result}");
        check_steps(&client, receipt.message(), &result).await?;
    }
    println!(
        "\n{planned} tasks were planned and {worked} steps were worked on more than once, after {} kills.",
        KILLS.len() - kills.len()
    );
    println!("Each task has one result, and each step one reply. While the broker runs, look at them with");
    println!("  sluice read {}/{}", place::results(), tasks[0].0);
    println!("  sluice read {}/{}", place::replies(), reply(tasks[0].1.message(), 0)?);
    Ok(())
}

/// Lite topics of this run's own, since an earlier one's may be there.
async fn publish_tasks(client: &Client) -> anyhow::Result<Vec<(LiteName, Receipt)>> {
    let (producer, mut tasks) = (client.producer(place::tasks()).connect().await?, Vec::new());
    for number in 1..=TASKS {
        let lite = LiteName::parse(&format!("task-{number}/{}", std::process::id()))?;
        let receipt = producer.send(Message::to_lite(&lite).body(TEXT)).await?;
        tasks.push((lite, receipt));
    }
    producer.close().await;
    Ok(tasks)
}

/// Waits until every task and every step is settled: nothing runs once more after that.
async fn all_done(broker: &Broker) -> anyhow::Result<()> {
    let admin = broker.admin()?;
    let open = async |group: GroupName| {
        let stats = admin.group(&group).await?.stats;
        anyhow::Ok(stats.backlog + stats.in_flight)
    };
    while open(place::planners()).await? > 0 || open(place::workers()).await? > 0 {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// The one message of a lite topic.
async fn only(client: &Client, topic: &TopicName, lite: &LiteName) -> anyhow::Result<String> {
    let (mut reader, mut read) =
        (client.reader(topic.clone(), lite.clone()).connect().await?, Vec::<ReadMessage>::new());
    while let Some(message) = reader.next().await {
        read.push(message?);
    }
    ensure!(read.len() == 1, "{} messages in {topic}/{lite}, where one belongs", read.len());
    Ok(String::from_utf8(read[0].body().to_vec())?)
}

/// The result is made of the replies that are there, and says what is true.
async fn check_steps(client: &Client, task: MessageId, result: &str) -> anyhow::Result<()> {
    for (step, paragraph) in planner::paragraphs(TEXT).enumerate() {
        let said = only(client, &place::replies(), &reply(task, step)?).await?;
        ensure!(said.starts_with(&format!("{} words", paragraph.split_whitespace().count())), "step {step}: {said}");
        ensure!(result.contains(&said), "`{result}` does not have `{said}`");
    }
    ensure!(result.starts_with(&format!("{} words in all", TEXT.split_whitespace().count())), "{result}");
    Ok(())
}

/// Where the reply to a step is.
fn reply(task: MessageId, step: usize) -> anyhow::Result<LiteName> {
    Ok(LiteName::reply(&RequesterId::parse("planner")?, &planner::request_id(task, step)?))
}
