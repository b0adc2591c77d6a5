//! Runs what was built: the demo, benches and soaks; builds the policies with `sluice`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::{build, cargo, root, shown, sluice, succeed, target_dir};
use crate::fuzz;
use crate::setup::{self, entries};

const BENCH_DEFAULT: [&str; 7] = ["end-to-end", "--size", "1024", "--lite-topics", "1000", "--seconds", "10"];

/// Tests that a variable makes longer than they are among all tests.
type LongTest = (&'static str, &'static str, &'static str);
const LONG_TESTS: &[LongTest] = &[
    ("storm", "SLUICE_STORM_SESSIONS", "1000"),
    ("replies", "SLUICE_REPLY_MINUTES", "5"),
    ("hostile", "SLUICE_HOSTILE_SECONDS", "1"),
    ("swap", "SLUICE_SWAPS", "1000"),
];
const LONG_TESTS_OF_SHORT_SOAK: &[LongTest] = &[("replies", "SLUICE_REPLY_MINUTES", "1")];

/// How long [`soak`] goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Soak {
    /// Three runs of 120 seconds, the [`LONG_TESTS`], and 5 minutes of each fuzzer.
    Full,
    /// One run of 20 seconds, a minute of replies, and 10 seconds of each fuzzer.
    Short,
}

/// Sets up, builds, and runs `sluice demo` with `args`.
pub(crate) fn demo(args: &[String]) -> anyhow::Result<()> {
    policies()?;
    succeed(in_repository("demo").args(args))
}

/// Sets up, builds, and runs `sluice bench` with `args`.
pub(crate) fn bench(args: &[String]) -> anyhow::Result<()> {
    policies()?;
    let mut command = in_repository("bench");
    if args.is_empty() {
        command.args(BENCH_DEFAULT);
    }
    command.args(args);
    succeed(&mut command)
}

/// Runs the demo, which checks what it claims, once per seed, and the fuzzers.
pub(crate) fn soak(soak: Soak) -> anyhow::Result<()> {
    policies()?;
    let (seconds, seeds, tests, fuzz_seconds): (&str, &[&str], _, u32) = match soak {
        Soak::Full => ("120", &["1", "2", "3"], LONG_TESTS, 300),
        Soak::Short => ("20", &["1"], LONG_TESTS_OF_SHORT_SOAK, 10),
    };
    let mut ran = Vec::new();
    for seed in seeds {
        let mut command = in_repository("demo");
        command.args(["--seconds", seconds, "--seed", seed]);
        succeed(&mut command)?;
        ran.push(shown(&command));
    }
    long_tests(tests)?;
    fuzz::run(fuzz_seconds)?;
    println!("soak passed, {} run(s):\n  {}", ran.len(), ran.join("\n  "));
    Ok(())
}

/// These tests, which have longer to go.
fn long_tests(tests: &[LongTest]) -> anyhow::Result<()> {
    guests()?;
    let mut command = cargo(&["test", "--release", "--locked", "--workspace"]);
    for (name, variable, value) in tests {
        command.args(["--test", name]).env(variable, value);
    }
    succeed(command.args(["--", "--nocapture"]))
}

/// Sets up, builds everything, and builds each of `plugins/` to `<target>/policies/<name>.wasm`.
pub(crate) fn policies() -> anyhow::Result<()> {
    setup::ensure()?;
    build()?;
    sources("plugins").iter().try_for_each(|source| policy(source))
}

/// The same for what tests need beside: each of `tests/guests/`, after [`policies`].
pub(crate) fn guests() -> anyhow::Result<()> {
    sources("tests/guests").iter().try_for_each(|source| policy(source))
}

fn policy(source: &Path) -> anyhow::Result<()> {
    let name = source.file_name().expect("an entry of a directory has a name").to_string_lossy().into_owned();
    let component = target_dir().join("policies").join(format!("{name}.wasm"));
    std::fs::create_dir_all(target_dir().join("policies"))?;
    succeed(in_repository("policy").arg("build").arg(source).arg("--out").arg(component))
}

/// Directories of policies in this one.
pub(crate) fn sources(directory: &str) -> Vec<PathBuf> {
    entries(root().join(directory)).into_iter().filter(|dir| dir.join("Cargo.toml").exists()).collect()
}

fn in_repository(subcommand: &str) -> Command {
    let mut command = Command::new(sluice());
    command.current_dir(root()).arg(subcommand);
    command
}
