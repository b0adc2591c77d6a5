//! Environments of Python packages, in the target directory: made when they are missing or their requirements changed.
//!
//! They are for tests and examples alone. Where they cannot be made, those parts are skipped, and somebody says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

use crate::cargo::{output, root, succeed, target_dir, works};
use crate::setup;

/// The oldest Python that the pinned packages run on.
const OLDEST: (u32, u32) = (3, 11);

/// Packages for one purpose, as a file lists them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requirements {
    /// Of the environment.
    pub(crate) name: &'static str,
    /// In the repository: every package with its version, and all that it needs.
    pub(crate) file: &'static str,
}

/// What tests use.
pub(crate) const TESTS: Requirements = Requirements { name: "tests", file: "tests/python/requirements.txt" };

/// What `examples/embeddings` needs for its model: 104 MB to download, most of it the model's weights.
pub(crate) const EMBEDDINGS: Requirements =
    Requirements { name: "embeddings", file: "examples/embeddings/requirements.txt" };

/// The variable that tells it.
pub(crate) const EMBEDDER: &str = "SLUICEGATE_EMBEDDINGS_PYTHON";

/// Tells a command by this variable which Python has the packages; or answers, and says, why there is none, and what is skipped.
pub(crate) fn tell(command: &mut Command, variable: &str, requirements: Requirements, skipped: &str) -> Option<String> {
    match environment(requirements) {
        Ok(python) => {
            command.env(variable, python);
            None
        }
        Err(error) => {
            command.env_remove(variable);
            let why = format!("skipped: {skipped}: {error:#}");
            eprintln!("{why}");
            Some(why)
        }
    }
}

/// The Python of the environment that has these packages; makes it if need be.
///
/// # Errors
/// There is no Python that can be used, or the packages are not to be had.
fn environment(requirements: Requirements) -> anyhow::Result<PathBuf> {
    let directory = target_dir().join("python").join(requirements.name);
    let (python, made_of) = (directory.join("bin").join("python"), directory.join("requirements.txt"));
    let file = root().join(requirements.file);
    let wanted = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let is_made = std::fs::read(&made_of).is_ok_and(|made| made == wanted) && works(&python, &["--version"]);
    if !is_made {
        make(&directory, &python, &file)?;
        // Last, so that an environment that was not finished is made anew.
        std::fs::write(&made_of, wanted).with_context(|| format!("cannot write {}", made_of.display()))?;
    }
    Ok(python)
}

fn make(directory: &Path, python: &Path, requirements: &Path) -> anyhow::Result<()> {
    setup::ensure_python();
    let version = output(Command::new("python3").arg("--version")).context("there is no python3")?;
    let found = parse_version(&version).with_context(|| format!("python3 says `{}`", version.trim()))?;
    let (major, minor) = OLDEST;
    ensure!(found >= OLDEST, "python3 is {}.{}, at least {major}.{minor} is needed", found.0, found.1);
    succeed(Command::new("python3").args(["-m", "venv", "--clear"]).arg(directory))?;
    let mut install = Command::new(python);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]);
    // The file has the whole tree; what a package says that it needs beside may be gigabytes.
    install.args(["--no-deps", "--only-binary", ":all:", "--requirement"]).arg(requirements);
    if succeed(&mut install).is_err() {
        bail!("the packages of {} cannot be installed (no network?)", requirements.display());
    }
    Ok(())
}

/// Of `Python 3.12.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim().strip_prefix("Python ")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_its_first_two_numbers() {
        assert_eq!(parse_version("Python 3.12.1\n"), Some((3, 12)));
        assert_eq!(parse_version("Python 3.15.0a2\n"), Some((3, 15)));
        assert_eq!(parse_version("pyenv: no python3"), None);
        assert!((3, 9) < OLDEST && (4, 0) > OLDEST);
    }
}
