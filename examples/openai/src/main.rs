//! A door that speaks the OpenAI API, in front of workers that take their work from Sluicegate.
//!
//! A request becomes a message in its caller's lite topic, the answer streams through a lite topic of its own, and nobody between the
//! two keeps the state of a connection. `cargo xtask example openai` runs all of it and checks what it promises.

mod chat;
mod chunk;
mod door;
mod identity;
mod listen;
mod model;
mod refused;
mod telling;
mod topics;
mod tour;
mod worker;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use sluicegate_example_broker::Broker;
use tokio::net::TcpListener;

use door::Door;
use worker::Desk;

/// An OpenAI-compatible door.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    broker: Broker,
    #[command(subcommand)]
    task: Option<Task>,
}

/// Default: `tour`.
#[derive(Debug, Subcommand)]
enum Task {
    /// Runs door and workers, uses them as callers do, and checks what comes.
    Tour,
    /// Runs door and workers until it is stopped.
    Serve {
        #[command(flatten)]
        door: DoorOptions,
        #[command(flatten)]
        worker: WorkerOptions,
    },
    /// Runs the door.
    Door {
        #[command(flatten)]
        door: DoorOptions,
    },
    /// Runs workers. They may be on other machines than the door, as many as there is compute.
    Worker {
        #[command(flatten)]
        worker: WorkerOptions,
    },
}

#[derive(Debug, Args)]
struct DoorOptions {
    /// Where callers come in. It is plain HTTP: keep it on loopback, or behind something that speaks TLS.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// An API key that is let in; may be there several times. Without any, each key is.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Requests of one caller that may wait or be in work, when the door makes the topic.
    #[arg(long, default_value_t = topics::QUEUE, value_name = "MESSAGES")]
    queue: u64,
    /// How long a caller waits for the next word of an answer, in seconds; a request that waited longer is never begun.
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    patience: u64,
}

#[derive(Debug, Args)]
struct WorkerOptions {
    /// Requests in work at once.
    #[arg(long, default_value_t = 4)]
    workers: u32,
    /// Milliseconds that the models take for a token.
    #[arg(long, default_value_t = 20, value_name = "MILLISECONDS")]
    pace: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { broker, task } = Arguments::parse();
    match task.unwrap_or(Task::Tour) {
        Task::Tour => tour::run(&broker).await,
        Task::Door { door } => serve(&broker, door).await,
        Task::Worker { worker } => work(&broker, worker).await,
        Task::Serve { door, worker } => {
            topics::ensure(&broker.admin()?, door.queue).await?;
            tokio::select! {
                ended = serve(&broker, door) => ended,
                ended = work(&broker, worker) => ended,
            }
        }
    }
}

async fn serve(broker: &Broker, options: DoorOptions) -> anyhow::Result<()> {
    let admin = broker.admin()?;
    topics::ensure(&admin, options.queue).await?;
    let door = Door::new(broker.client(), admin, options.keys, Duration::from_secs(options.patience)).await?;
    let listener = TcpListener::bind(options.listen).await?;
    let base = format!("http://{}/v1", listener.local_addr()?);
    println!("the door is open: {base}");
    println!("  curl -N {base}/chat/completions -H 'Authorization: Bearer me' -d '{}'", tour::EXAMPLE_REQUEST);
    listen::serve(listener, door::router(door)).await
}

async fn work(broker: &Broker, options: WorkerOptions) -> anyhow::Result<()> {
    let desk = Desk::new(model::shipped(), Duration::from_millis(options.pace));
    desk.work(&broker.client(), options.workers).await
}
