//! Runs all tests and adds up what the test binaries report.

use std::io::{BufRead as _, BufReader};
use std::num::NonZero;
use std::process::Stdio;

use anyhow::{Context as _, bail};

use crate::cargo::{cargo, shown, succeed};
use crate::{chromium, python, run, setup};

/// How many tests of one binary run at once.
const THREADS: &str = "RUST_TEST_THREADS";

/// What the `test result:` lines of all test binaries add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// Sets up, builds everything and the policies, and runs `cargo test` over the workspace.
pub(crate) fn run(args: &[String]) -> anyhow::Result<()> {
    run::policies()?;
    run::guests()?;
    setup::ensure_clang();
    let mut command = cargo(&["test", "--release", "--locked", "--workspace", "--no-fail-fast"]);
    if std::env::var_os(THREADS).is_none() {
        // Most tests wait for a broker's timers half of their time.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        command.env(THREADS, (2 * cores).to_string());
    }
    let skipped = [
        python::tell(&mut command, "SLUICEGATE_PYTHON", python::TESTS, "the parts of the tests that are in Python"),
        python::tell(&mut command, python::EMBEDDER, python::EMBEDDINGS, "the embedding by a model"),
        chromium::tell(&mut command),
    ];
    command.args(args).stdout(Stdio::piped());
    eprintln!("+ {}", shown(&command));
    let mut tests = command.spawn().context("cannot start cargo test")?;
    let mut counts = Counts::default();
    for line in BufReader::new(tests.stdout.take().expect("stdout is piped")).lines() {
        let line = line.context("cannot read what the tests print")?;
        counts.add(&line);
        println!("{line}");
    }
    let status = tests.wait()?;
    let ignored = if counts.ignored > 0 { format!(", {} ignored", counts.ignored) } else { String::new() };
    for why in skipped.iter().flatten() {
        println!("{why}");
    }
    println!("{} passed, {} failed{ignored}", counts.passed, counts.failed);
    if !status.success() {
        bail!("tests failed: {status}");
    }
    Ok(())
}

/// Sets up, builds everything, and runs the crash tests for so many rounds.
pub(crate) fn crash(rounds: u32, seed: u32) -> anyhow::Result<()> {
    run::policies()?;
    let tests = ["test", "--release", "--locked", "--workspace", "--test", "crash", "--", "--nocapture"];
    let (rounds, seed) = (rounds.to_string(), seed.to_string());
    succeed(cargo(&tests).env("SLUICE_CRASH_ROUNDS", rounds).env("SLUICE_CRASH_SEED", seed))
}

/// Makes the pages of the bundled policies anew, by the test that else holds them against what is committed.
pub(crate) fn policy_pages() -> anyhow::Result<()> {
    setup::ensure()?;
    let test = ["test", "--release", "--locked", "--workspace", "--test", "policy_pages"];
    succeed(cargo(&test).env("SLUICE_SAVE_POLICY_PAGES", "1"))
}

impl Counts {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; …`; skips others.
    fn add(&mut self, line: &str) {
        let Some((_, result)) = line.split_once("test result:") else { return };
        for part in result.split(['.', ';']) {
            match part.split_whitespace().collect::<Vec<_>>()[..] {
                [number, "passed"] => self.passed += number.parse().unwrap_or(0),
                [number, "failed"] => self.failed += number.parse().unwrap_or(0),
                [number, "ignored"] => self.ignored += number.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_add_up() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test a ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.25s",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 5, failed: 1, ignored: 1 });
    }
}
