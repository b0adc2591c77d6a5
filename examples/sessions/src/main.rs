//! Session as topic: back ends that keep nothing stream the answers of conversations that outlive them.
//!
//! A question goes to the session's lite topic in `chat`, which a group of back ends consumes. The answer, token by token, goes to the
//! session's lite topic in `chat.replies`, which its user reads. Users lose their connections all the time, and a back end is killed
//! in the middle of an answer of every session. Nothing is lost, and nothing comes twice.

mod back_end;
mod caller;
mod conversation;
mod model;

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::{Parser, Subcommand};
use sluicegate_client::admin::{
    CreateGroup, CreateTopic, GroupSettings, LogRetention, ReclaimMode, ReclaimSettings, Retention, TopicSettings,
};
use sluicegate_client::{GroupName, LiteName, TopicName};
use sluicegate_example_broker::Broker;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::caller::Caller;
use crate::conversation::Turn;

const USERS: [&str; 4] = ["ada", "grace", "barbara", "edsger"];
const QUESTIONS: [&str; 3] = ["What is a sluice gate?", "Who opens it?", "And when does the water come?"];
const BACK_ENDS: usize = 2;
/// The question in whose answer a back end is killed, and after how many messages of it.
const KILLED_IN: usize = 1;
const KILLED_AFTER: usize = 12;
/// A lease that nobody extends: how long a conversation waits for another back end.
const LEASE_MS: u64 = 1_500;
/// All of it.
const PATIENCE: Duration = Duration::from_mins(2);
const DAY_MS: u64 = 86_400_000;

/// Session as topic: conversations that outlive connections and back ends.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Answers questions until it is killed; the example starts its own.
    BackEnd,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { broker, role } = Arguments::parse();
    match role {
        Some(Role::BackEnd) => back_end::run(&broker, group()).await,
        None => timeout(PATIENCE, converse(&broker)).await.context("the conversations have no end in time")?,
    }
}

fn questions() -> TopicName {
    TopicName::parse("chat").expect("a good name")
}

fn group() -> GroupName {
    GroupName::parse("back-ends").expect("a good name")
}

/// What `sluice topic create chat`, `sluice topic create chat.replies --for sessions` and `sluice group create` do.
async fn set_up(broker: &Broker) -> anyhow::Result<()> {
    let admin = broker.admin()?;
    admin.create_topic(&CreateTopic { name: questions(), settings: TopicSettings::default() }).await?;
    let settings = TopicSettings {
        retention: Retention::Log(LogRetention { age_ms: Some(DAY_MS), bytes: None }),
        reclaim: ReclaimSettings { mode: ReclaimMode::Idle, after_ms: DAY_MS },
        ..TopicSettings::default()
    };
    admin.create_topic(&CreateTopic { name: conversation::topic(), settings }).await?;
    let settings = GroupSettings { lease_ms: LEASE_MS, ..GroupSettings::default() };
    admin.create_group(&CreateGroup::new(group(), questions(), settings)).await?;
    Ok(())
}

/// All conversations at once, while back ends are killed under them.
async fn converse(broker: &Broker) -> anyhow::Result<()> {
    set_up(broker).await?;
    // A run of its own: on a broker that is there already the sessions of an earlier one may be, too.
    let run = std::process::id();
    let mut back_ends = (0..BACK_ENDS).map(|_| back_end(broker)).collect::<anyhow::Result<Vec<_>>>()?;
    let (kill, mut kills) = mpsc::channel(USERS.len());
    let mut conversations = JoinSet::new();
    for user in USERS {
        let session = LiteName::parse(&format!("{user}/{run}"))?;
        conversations.spawn(conversation(Caller::new(broker.clone(), session), kill.clone()));
    }
    drop(kill);
    while let Some(id) = kills.recv().await {
        // Another one has killed it meanwhile, for all that it had in work.
        let Some(found) = back_ends.iter().position(|back_end| back_end.id() == Some(id)) else { continue };
        back_ends.swap_remove(found).kill().await?;
        println!("back end {id} is killed in the middle of a token stream");
        back_ends.push(back_end(broker)?);
    }
    let mut callers = Vec::new();
    while let Some(caller) = conversations.join_next().await {
        callers.push(caller??);
    }
    for caller in &callers {
        check(broker, caller).await?;
    }
    let continued = callers.iter().filter(|caller| writers(caller, KILLED_IN).len() > 1).count();
    ensure!(continued > 0, "no back end went on with what another one had begun");
    show(&callers[0]);
    println!("\nEach session has every token once and in order; in {continued} of {} another back end", callers.len());
    println!("went on with an answer that was cut. What a back end knows of a conversation is what this shows:");
    println!("  sluice read {}/{}", conversation::topic(), callers[0].session());
    Ok(())
}

/// A user who asks one question after the other, in the middle of whose second answer the back end is killed.
async fn conversation(mut caller: Caller, kill: mpsc::Sender<u32>) -> anyhow::Result<Caller> {
    for (turn, question) in QUESTIONS.into_iter().enumerate() {
        caller.ask(questions(), question).await?;
        if turn == KILLED_IN {
            caller.read(KILLED_AFTER).await?;
            let (_, streaming) = *caller.writers.last().context("something was read")?;
            kill.send(streaming).await?;
        }
        caller.read(usize::MAX).await?;
    }
    Ok(caller)
}

fn back_end(broker: &Broker) -> anyhow::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("back-end").envs(broker.variables()).stdin(Stdio::null()).kill_on_drop(true);
    command.spawn().context("cannot start a back end")
}

/// The model says the same whenever it is asked the same: so what a conversation must be is known.
async fn check(broker: &Broker, caller: &Caller) -> anyhow::Result<()> {
    let (session, turns) = (caller.session(), &caller.turns);
    ensure!(turns.len() == QUESTIONS.len(), "session {session} has {} questions", turns.len());
    for (index, (turn, question)) in turns.iter().zip(QUESTIONS).enumerate() {
        let answer = model::answer(&turns[..index], question);
        ensure!(turn.question == question && turn.answer == answer, "session {session}: {turn:#?} is not {answer:#?}");
    }
    ensure!(
        conversation::read(&broker.client(), session).await? == *turns,
        "session {session} is read otherwise again"
    );
    println!("{session}: {} messages, read over {} connections", caller.writers.len(), caller.connections);
    Ok(())
}

/// Processes that wrote a turn, with how many messages each, in order.
fn writers(caller: &Caller, turn: usize) -> Vec<(u32, usize)> {
    let of_turn: Vec<_> = caller.writers.iter().filter(|(of, _)| *of == turn).map(|(_, writer)| *writer).collect();
    of_turn.chunk_by(|one, next| one == next).map(|run| (run[0], run.len())).collect()
}

/// A conversation, and who said what of it.
fn show(caller: &Caller) {
    for (turn, Turn { question, answer, .. }) in caller.turns.iter().enumerate() {
        println!("\n> {question}");
        // The question and the end are messages too.
        let mut tokens = std::iter::once("").chain(answer.iter().map(String::as_str)).chain([""]);
        for (writer, messages) in writers(caller, turn) {
            println!("  back end {writer}: {}", tokens.by_ref().take(messages).collect::<String>());
        }
    }
}
