//! `sluice` and `cargo` as a policy's author runs them: without a network, in a target directory below that of the tests, so that the SDK is
//! compiled once.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::sluice;

/// A command that builds where these tests build.
///
/// # Panics
/// Never: the binary is in target/release.
pub fn command(program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let target = sluice().ancestors().nth(2).expect("the binary is in target/release").join("author-test");
    let mut command = Command::new(program);
    command.current_dir(folder).env("CARGO_TARGET_DIR", &target).env("XDG_CACHE_HOME", &target);
    // The crates of the workspace's own lock file, which its build has fetched.
    command.env("CARGO_NET_OFFLINE", "true").env("CARGO_TERM_COLOR", "never");
    command
}

/// What a command that must succeed printed.
///
/// # Errors
/// It fails, with all that it printed.
pub fn ran(command: &mut Command) -> Result<Output> {
    let output = command.output()?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{command:?}: {}\n{stdout}\n{stderr}", output.status);
    Ok(output)
}

/// What `sluice` answers in JSON.
///
/// # Errors
/// It fails, or answers something else.
pub fn answer(folder: &Path, arguments: &[&str]) -> Result<Value> {
    let output = ran(command(sluice(), folder).args(arguments).args(["-o", "json"]))?;
    serde_json::from_slice(&output.stdout).with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
