//! Where the policies are that come with Sluicegate.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where `cargo xtask policies` puts their components: `policies` in the target directory that this program is in.
pub(crate) fn directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let target = program.parent().and_then(Path::parent).context("this program has no target directory")?;
    Ok(target.join("policies"))
}
