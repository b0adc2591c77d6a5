//! Builds and runs the fuzzers of `fuzz/`, with the pinned toolchain: coverage without a sanitizer needs no other.

use std::process::Command;

use anyhow::Context as _;

use crate::cargo::{cargo, output, root, succeed, target_dir};
use crate::setup;

/// The binaries, and their corpora in `fuzz/corpus`.
const FUZZERS: [&str; 2] = ["frames", "rows"];
/// What cargo-fuzz gives the compiler, less the sanitizer; with the checks of a debug build.
const RUSTFLAGS: [&str; 7] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions",
];
/// Of an input.
const BYTES_MAX: &str = "-max_len=4096";
/// An input that takes longer is a finding.
const SECONDS_MAX: &str = "-timeout=5";

/// Runs each fuzzer for so many seconds. What it finds worth keeping stays in the target directory.
///
/// # Errors
/// An input breaks what must hold: its file is named.
pub(crate) fn run(seconds: u32) -> anyhow::Result<()> {
    setup::ensure()?;
    let host = host()?;
    // For a target by name, so that build scripts are those of every other build.
    let build =
        ["build", "--release", "--locked", "-p", "sluicegate-fuzz", "--features", "libfuzzer", "--target", &host];
    succeed(cargo(&build).env("RUSTFLAGS", RUSTFLAGS.join(" ")))?;
    for fuzzer in FUZZERS {
        let found = target_dir().join("fuzz").join(fuzzer);
        std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        let program = format!("fuzz-{fuzzer}{}", std::env::consts::EXE_SUFFIX);
        let mut fuzz = Command::new(target_dir().join(&host).join("release").join(program));
        fuzz.current_dir(root()).args([BYTES_MAX, SECONDS_MAX, "-verbosity=0", "-print_final_stats=1"]);
        fuzz.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/breaks-", found.display()));
        // The first directory takes what is new.
        succeed(fuzz.arg(&found).arg(root().join("fuzz/corpus").join(fuzzer)))?;
    }
    Ok(())
}

/// The target that this toolchain builds for when none is named.
fn host() -> anyhow::Result<String> {
    let said = output(Command::new("rustc").current_dir(root()).arg("-vV"))?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc says what its host is")
}
