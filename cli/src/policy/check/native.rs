//! The same policy natively: its crate is built for this machine with a program that runs it, and decides the same as the component, or
//! does not.
//!
//! The program draws groups and traffic as the check does, has the policy decide in the broker's own scheduler, and prints the digest of the
//! decisions of each.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::exit::WrongInput;
use crate::policy::kit::write_file;

const SDK: &str = "sluicegate-plugin-sdk";

/// Digests of the decisions of the policy whose crate is in `dir`, for so many seeds from the first on.
///
/// # Errors
/// The crate is no policy's, or does not build, or the policy fails.
pub(super) fn digests(dir: &Path, config: &str, first_seed: u64, count: u64) -> anyhow::Result<Vec<String>> {
    let place = Place::of(dir)?;
    let folder = tempfile::tempdir().context("cannot make a folder for the native program")?;
    write_file(&folder.path().join("Cargo.toml"), &place.manifest())?;
    write_file(&folder.path().join("src/main.rs"), PROGRAM)?;
    if let Some(lockfile) = place.lockfile.as_ref().filter(|file| file.is_file()) {
        std::fs::copy(lockfile, folder.path().join("Cargo.lock")).context("cannot copy the crate's Cargo.lock")?;
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder.path()).args(["run", "--quiet", "--release", "--target-dir"]).arg(&place.target_directory);
    cargo.args(["--", config, &first_seed.to_string(), &count.to_string()]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "the policy in {} does not build or run natively", dir.display());
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Where the crate is, and what it uses.
struct Place {
    name: String,
    dir: PathBuf,
    sdk: PathBuf,
    lockfile: Option<PathBuf>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    path: Option<PathBuf>,
}

impl Place {
    fn of(dir: &Path) -> anyhow::Result<Self> {
        let dir = dir.canonicalize().map_err(|error| WrongInput(format!("{}: {error}", dir.display())))?;
        let mut cargo = Command::new("cargo");
        cargo.current_dir(&dir).args(["metadata", "--no-deps", "--format-version", "1"]);
        let output = cargo.output().context("cannot run cargo: is Rust installed? See https://rustup.rs")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
        let manifest = dir.join("Cargo.toml");
        let Some(package) = metadata.packages.into_iter().find(|package| package.manifest_path == manifest) else {
            bail!("{} has no crate of its own", dir.display());
        };
        let sdk = package.dependencies.iter().find(|dependency| dependency.name == SDK && dependency.path.is_some());
        let sdk = sdk.and_then(|dependency| dependency.path.clone());
        let name = package.name;
        Ok(Self {
            sdk: sdk.with_context(|| format!("{name} does not use {SDK} by its path"))?,
            name,
            dir,
            lockfile: Some(metadata.workspace_root.join("Cargo.lock")),
            target_directory: super::super::build::cache().join("native"),
        })
    }

    fn manifest(&self) -> String {
        let quoted = |path: &Path| toml::Value::from(path.display().to_string());
        format!(
            "[package]\nname = \"native\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
             policy = {{ package = \"{}\", path = {} }}\n{SDK} = {{ path = {}, features = [\"simulation\"] }}\n\n\
             [profile.release]\noverflow-checks = true\n\n[workspace]\n",
            self.name,
            quoted(&self.dir),
            quoted(&self.sdk)
        )
    }
}

const PROGRAM: &str = "\
use sluicegate_plugin_sdk::Policy;
use sluicegate_plugin_sdk::simulation::{DRAWN_SPAN, Simulation};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let config = arguments.next().expect(\"a configuration\");
    let mut number = || arguments.next().and_then(|text| text.parse::<u64>().ok()).expect(\"a number\");
    let (first, count) = (number(), number());
    let wants = <policy::ExportedPolicy as Policy>::describe().wants;
    for seed in first..first + count {
        println!(\"{}\", Simulation::drawn(seed, &wants).run::<policy::ExportedPolicy>(&config, DRAWN_SPAN).digest());
    }
}
";
