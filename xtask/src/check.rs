//! Everything that is checked without running the product.

use anyhow::bail;

use crate::cargo::{cargo, succeed, works};
use crate::{edges, setup, tidy};

type Check = fn() -> anyhow::Result<()>;

/// Runs every check, quick ones first, and names those that failed at the end.
pub(crate) fn run() -> anyhow::Result<()> {
    let checks: [(&str, Check); 6] = [
        ("format", || succeed(&mut cargo(&["fmt", "--all", "--check"]))),
        ("tidy", tidy::run),
        ("dependency edges", edges::run),
        ("clippy", clippy),
        ("docs", docs),
        ("cargo-deny", deny),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("check: {name}");
        if let Err(error) = check() {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    println!("all checks passed");
    Ok(())
}

fn clippy() -> anyhow::Result<()> {
    setup::ensure()?;
    succeed(&mut cargo(&["clippy", "--release", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn docs() -> anyhow::Result<()> {
    setup::ensure()?;
    succeed(cargo(&["doc", "--release", "--locked", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> anyhow::Result<()> {
    if !works("cargo-deny", &["--version"]) {
        println!("skipped: cargo-deny is not installed");
        return Ok(());
    }
    succeed(&mut cargo(&["deny", "--locked", "check"]))
}
