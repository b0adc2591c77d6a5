//! The repository, its target directory, and how commands are started in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use anyhow::{Context as _, bail};

/// The repository's root, as `cargo run` says it: a target directory that several clones share holds a binary of
/// any of them, so the path must not be compiled in.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").expect("xtask is started by `cargo xtask`");
        Path::new(&xtask).parent().expect("xtask lies in the repository").to_owned()
    });
    &ROOT
}

/// Where cargo builds: `CARGO_TARGET_DIR`, or `target` in the repository.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// The `sluice` binary that [`build`] makes.
pub(crate) fn sluice() -> PathBuf {
    target_dir().join("release").join(format!("sluice{}", std::env::consts::EXE_SUFFIX))
}

/// A cargo command in the repository, of the toolchain that runs this program.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    // What `cargo run` says of this package. Build scripts that look at such a variable (that of `ring` does) would run again whenever
    // somebody calls cargo without us in between, and half of the workspace with them.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Builds every crate of the workspace, so that features unify the same way each time.
pub(crate) fn build() -> anyhow::Result<()> {
    succeed(&mut cargo(&["build", "--release", "--locked", "--workspace"]))
}

/// Runs a command, shown first, with this program's output; it must succeed.
pub(crate) fn succeed(command: &mut Command) -> anyhow::Result<()> {
    let shown = shown(command);
    eprintln!("+ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

/// What a command prints; it must succeed.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    if !output.status.success() {
        bail!("`{shown}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` printed something else than UTF-8"))
}

/// Whether a command can be started and succeeds; it prints nothing.
pub(crate) fn works(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> bool {
    Command::new(program).current_dir(root()).args(args).output().is_ok_and(|output| output.status.success())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_stem().unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words.map(std::ffi::OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
