//! Set-up and checks: `cargo xtask demo | example | test | crash | check | bench |
//! bench-instructions | fuzz | soak | policies | policy-pages`.
//!
//! One way to build: `--release --locked --workspace`. Tests, demo, benches and checks then share every
//! compiled dependency, and RocksDB, which takes minutes, compiles once.

mod cargo;
mod check;
mod chromium;
mod edges;
mod example;
mod fuzz;
mod instructions;
mod libclang;
mod python;
mod run;
mod setup;
mod suite;
mod tidy;

use clap::{Parser, Subcommand};

/// Set-up and checks of Sluicegate.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Builds everything and runs `sluice demo`.
    Demo {
        /// Passed to `sluice demo`, for example `-- --seconds 20 --json out.json`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds everything and runs one of `examples/` against a broker of its own.
    Example {
        /// A folder of `examples/` that has a `src/main.rs`.
        name: String,
        /// Passed to the example, for example `-- --help`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs all tests, over real QUIC and real Wasm.
    Test {
        /// Passed to `cargo test`, for example `-- --test publish` or `-- name_of_a_test`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Kills a broker under load again and again, by `kill -9` and by a power cut, and checks what its clients were told.
    Crash {
        /// How often it dies, in each of the two ways; `cargo xtask test` has 5 and 3.
        #[arg(long, default_value_t = 20)]
        rounds: u32,
        /// Of what the clients draw.
        #[arg(long, default_value_t = 1)]
        seed: u32,
    },
    /// Format, tidiness, dependency edges, clippy, docs, and cargo-deny where it is installed.
    Check,
    /// Builds everything and runs `sluice bench`.
    Bench {
        /// Passed to `sluice bench`; default `end-to-end --size 1024 --lite-topics 1000 --seconds 10`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Counts the instructions of the scheduler's hot paths under valgrind, beside the committed counts.
    BenchInstructions {
        /// The counts become the committed ones.
        #[arg(long)]
        save: bool,
    },
    /// Looks for bytes that break the decoding of frames and rows, starting from those in `fuzz/corpus`.
    Fuzz {
        /// For each of the two.
        #[arg(long, default_value_t = 10)]
        seconds: u32,
    },
    /// Runs the demo for longer, with several seeds, and the fuzzers.
    Soak {
        /// One run of 20 seconds, and 10 seconds of each fuzzer.
        #[arg(long)]
        short: bool,
    },
    /// Builds each of `plugins/` to a Wasm component in the target directory.
    Policies,
    /// Makes `docs/policies` anew: what each bundled policy says of itself, and a plot of a simulation of it.
    PolicyPages,
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Demo { args } => run::demo(&args),
        Task::Example { name, args } => example::run(&name, &args),
        Task::Test { args } => suite::run(&args),
        Task::Crash { rounds, seed } => suite::crash(rounds, seed),
        Task::Check => check::run(),
        Task::Bench { args } => run::bench(&args),
        Task::BenchInstructions { save } => {
            instructions::run(if save { instructions::Then::Save } else { instructions::Then::Compare })
        }
        Task::Fuzz { seconds } => fuzz::run(seconds),
        Task::Soak { short } => run::soak(if short { run::Soak::Short } else { run::Soak::Full }),
        Task::Policies => run::policies(),
        Task::PolicyPages => suite::policy_pages(),
    }
}
