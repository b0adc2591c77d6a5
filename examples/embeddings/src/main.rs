//! Embeds a folder of code, and finds what is nearest to a question. Run again, it embeds what has changed.
//!
//! A chunk of a file is a message in the file's lite topic; whoever has time embeds it, and publishes the vector to the folder's
//! index, a lite topic too. `cargo xtask example embeddings` runs all of it and checks what it promises.

mod chunks;
mod embedder;
mod index;
mod topics;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use sluicegate_client::LiteName;
use sluicegate_example_broker::Broker;
use tokio::sync::Mutex;

use embedder::Embedder;
use index::Index;

/// An asynchronous embedding pipeline over a folder of code.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    broker: Broker,
    /// A Python that has the packages of `requirements.txt`; without one, words are hashed.
    #[arg(long, global = true, env = "SLUICEGATE_EMBEDDINGS_PYTHON", value_name = "FILE")]
    python: Option<PathBuf>,
    /// The folder.
    #[arg(long, default_value = "examples")]
    folder: PathBuf,
    /// What is looked for.
    #[arg(long, default_value = "attention in a transformer model")]
    query: String,
    #[command(subcommand)]
    task: Option<Task>,
}

/// Default: brings the folder's index up to date, with a worker of its own, and looks for something.
#[derive(Debug, Subcommand)]
enum Task {
    /// Embeds what others want, until it is stopped. There may be many.
    Worker,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut embedder = Embedder::new(arguments.python.clone());
    embedder.check().await?;
    topics::ensure(&arguments.broker.admin()?).await?;
    let embedder = Arc::new(Mutex::new(embedder));
    let worker = worker::run(arguments.broker.client(), Arc::clone(&embedder));
    if let Some(Task::Worker) = arguments.task {
        return worker.await;
    }
    tokio::select! {
        done = index(&arguments, &embedder) => done,
        ended = worker => ended.context("the worker ended"),
    }
}

async fn index(arguments: &Arguments, embedder: &Mutex<Embedder>) -> Result<()> {
    let name = embedder.lock().await.name();
    let folder =
        arguments.folder.canonicalize().with_context(|| format!("no folder {}", arguments.folder.display()))?;
    let lite = LiteName::parse(&chunks::digest(&[&folder.to_string_lossy()]))?;
    let wanted = chunks::of_folder(&folder, name)?;
    println!("{}: {} chunks; vectors by {name}", folder.display(), wanted.len());
    if let Embedder::Hashing = *embedder.lock().await {
        println!("  (there is no Python with a model: words are hashed, and nearness is that of words alone)");
    }
    let client = arguments.broker.client();
    let mut index = Index::read(&client, &lite).await?;
    let missing = index.update(&client, &lite, &wanted, name).await?;
    println!("embedded: {missing}, there before: {}", wanted.len() - missing);

    // What the index says is all there is: who reads it anew has nothing to do.
    let mut anew = Index::read(&client, &lite).await?;
    ensure!(anew.update(&client, &lite, &wanted, name).await? == 0, "something was embedded twice");
    if let Some(chunk) = wanted.values().next() {
        let vector = embedder.lock().await.embed(&chunk.text).await?;
        let nearest = anew.nearest(&vector, &wanted, 1)?;
        ensure!(nearest[0].0 > 0.999, "a chunk is not near to itself: {}:{}", chunk.path, chunk.line);
    }

    println!("\nnearest to \"{}\":", arguments.query);
    let vector = embedder.lock().await.embed(&arguments.query).await?;
    for (near, chunk) in anew.nearest(&vector, &wanted, 5)? {
        let first = chunk.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        println!("  {near:.3}  {}:{}  {}", chunk.path, chunk.line, first.trim());
    }
    println!("\nRun it again against the same broker: what did not change is there before.");
    Ok(())
}
