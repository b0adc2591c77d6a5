//! `sluice`: the broker and everything that an operator, a producer or a consumer does from a shell.

mod bench;
mod broker_process;
mod bundled;
mod clock;
mod connect;
mod consume;
mod dead_letter;
mod demo;
mod exit;
mod explain;
mod group;
mod health;
mod keeping;
mod lite;
mod output;
mod picture;
mod policy;
mod produce;
mod read;
mod record;
mod request;
mod serve;
mod store;
mod top;
mod topic;

use std::io::IsTerminal as _;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use connect::Broker;
use output::Format;

/// Message broker for AI work: one ordered, durable lite topic per user, session or task, and Wasm
/// policies that decide, before delivery, whose message may use the compute now.
///
/// Start with `sluice serve --dev`, then `sluice topic create chat` and `sluice group create
/// workers --topic chat` in another terminal.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, after_help = exit::HELP)]
struct Cli {
    #[command(flatten)]
    broker: Broker,
    /// How results are printed.
    #[arg(short = 'o', long = "output", global = true, default_value = "text")]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a broker.
    Serve(serve::Serve),
    /// Ask whether the broker serves fully.
    Health(health::Health),
    /// Make and look at topics.
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Make consumer groups, look at them, change them, see who waits longest.
    #[command(subcommand)]
    Group(group::Group),
    /// Look at lite topics, explain why they wait, suspend and resume them, move in them, skip and purge messages, delete them.
    #[command(subcommand)]
    Lite(lite::Lite),
    /// Look at what groups could not process, and move it back.
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetter),
    /// Publish messages: one from the command line, or one per line of standard input.
    Produce(produce::Produce),
    /// Consume messages of a group.
    Consume(consume::Consume),
    /// Record a group's traffic, to simulate policies with it.
    Record(record::Record),
    /// Read a lite topic: all messages that are kept, in order, from any position on.
    Read(read::Read),
    /// Ask the workers of a topic, and print their reply.
    Request(request::Ask),
    /// Print the reply to a request that was made before.
    Resume(request::Resume),
    /// Take a request back.
    Cancel(request::Cancel),
    /// Build, upload, activate and list Wasm policies.
    #[command(subcommand)]
    Policy(policy::Policy),
    /// Check, back up and restore what a broker keeps.
    #[command(subcommand)]
    Store(store::Store),
    /// Measure throughput and latency beside the raw write ceiling of the disk.
    #[command(subcommand)]
    Bench(bench::Command),
    /// What a broker starts of itself, with limits, to compile what was uploaded.
    #[command(hide = true)]
    PolicyWorker {
        /// What to do with standard input.
        job: String,
    },
    /// Replay a trace of LLM requests and show what a policy changes.
    Demo(Box<demo::Demo>),
}

/// Messages are made on one thread and freed on another all the time, which the system's allocator does slowly. Without huge pages: the
/// kernel takes up to ten milliseconds to find one, and a shard would stand still for so long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let cli = Cli::parse();
    if let Command::PolicyWorker { job } = &cli.command {
        return sluicegate_broker::policy_worker(job);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(cli)),
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        // Nothing went wrong.
        Err(error) if error.is::<output::ReaderGone>() => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error:#}");
            exit::code(&error)
        }
    }
}

/// Logs what `SLUICE_LOG` says, or from this level on.
fn log_to_stderr(level: &str) {
    let filter = EnvFilter::try_from_env("SLUICE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour).init();
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { broker, output, command } = cli;
    log_to_stderr(if matches!(command, Command::Serve(_)) { "info" } else { "warn" });
    match command {
        Command::Serve(serve) => serve.run(output).await,
        Command::Health(health) => health.run(&broker, output).await,
        Command::Topic(topic) => topic.run(&broker, output).await,
        Command::Group(group) => group.run(&broker, output).await,
        Command::Lite(lite) => lite.run(&broker, output).await,
        Command::DeadLetter(dead_letter) => dead_letter.run(&broker, output).await,
        Command::Produce(produce) => produce.run(&broker, output).await,
        Command::Consume(consume) => consume.run(&broker, output).await,
        Command::Record(record) => record.run(&broker, output).await,
        Command::Read(read) => read.run(&broker, output).await,
        Command::Request(ask) => ask.run(&broker, output).await,
        Command::Resume(resume) => resume.run(&broker, output).await,
        Command::Cancel(cancel) => cancel.run(&broker, output).await,
        Command::Policy(policy) => policy.run(&broker, output).await,
        Command::Store(store) => store.run(&broker, output).await,
        Command::Bench(bench) => bench.run(output).await,
        Command::PolicyWorker { .. } => unreachable!("it needs no runtime"),
        Command::Demo(demo) => demo.run(output).await,
    }
}
