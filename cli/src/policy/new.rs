//! `sluice policy new`: a crate to start from, which needs nothing but stock Rust.

use std::path::PathBuf;

use anyhow::Context as _;
use askama::Template as _;
use serde::Serialize;

use super::kit;
use crate::exit::WrongInput;

/// Longest name of a policy, in bytes: the broker's bound.
const NAME_BYTES_MAX: usize = 64;

/// What a policy may start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Template {
    /// So much per second for each tenant.
    TokenBucket,
    /// Who used much lately weighs less; tiers.
    FairShare,
    /// Batch work waits while consumers are busy.
    BusyIdle,
    /// Least time left first; what is late is refused.
    Deadline,
    /// Finds how many messages may be in work at once.
    Adaptive,
}

impl Template {
    const fn name(self) -> &'static str {
        match self {
            Self::TokenBucket => "token-bucket",
            Self::FairShare => "fair-share",
            Self::BusyIdle => "busy-idle",
            Self::Deadline => "deadline",
            Self::Adaptive => "adaptive",
        }
    }

    const fn source(self) -> &'static str {
        match self {
            Self::TokenBucket => include_str!("../../templates/policy/token-bucket.rs"),
            Self::FairShare => include_str!("../../templates/policy/fair-share.rs"),
            Self::BusyIdle => include_str!("../../templates/policy/busy-idle.rs"),
            Self::Deadline => include_str!("../../templates/policy/deadline.rs"),
            Self::Adaptive => include_str!("../../templates/policy/adaptive.rs"),
        }
    }
}

#[derive(askama::Template)]
#[template(path = "policy/Cargo.toml.txt")]
struct Manifest<'a> {
    name: &'a str,
    rust_version: &'a str,
}

#[derive(askama::Template)]
#[template(path = "policy/README.md.txt")]
struct Readme<'a> {
    name: &'a str,
    template: &'static str,
    version: &'static str,
}

/// A crate that was written.
#[derive(Debug, Serialize)]
pub(crate) struct Begun {
    /// Its name, and the policy's.
    pub(crate) name: String,
    /// What it starts from.
    pub(crate) template: Template,
    /// Its folder.
    pub(crate) path: PathBuf,
    /// Version of the SDK in it.
    pub(crate) sdk: &'static str,
}

/// Writes a crate into a folder, by default one of its name here. The folder is made; what is in one that is there already stays.
///
/// # Errors
/// The name is none of a crate, the folder has something in it, or files cannot be written.
pub(crate) fn begin(name: &str, template: Template, folder: Option<PathBuf>) -> anyhow::Result<Begun> {
    check_name(name)?;
    let path = folder.unwrap_or_else(|| name.into());
    if std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) || path.is_file() {
        return Err(
            WrongInput(format!("{} is there already: name a folder that is not, with --path", path.display())).into()
        );
    }
    let rust_version = kit::rust_version()?;
    let write = |file: &str, text: &str| kit::write_file(&path.join(file), text);
    write("Cargo.toml", &Manifest { name, rust_version: &rust_version }.render()?)?;
    write("Cargo.lock", kit::lockfile())?;
    let version = env!("CARGO_PKG_VERSION");
    write("README.md", &Readme { name, template: template.name(), version }.render()?)?;
    write(".gitignore", "/target\n*.wasm\n")?;
    write("src/lib.rs", template.source())?;
    kit::write(&path)?;
    Ok(Begun { name: name.into(), template, path, sdk: version })
}

/// The SDK in a policy's folder that was replaced.
#[derive(Debug, Serialize)]
pub(crate) struct Renewed {
    /// The policy's folder.
    pub(crate) path: PathBuf,
    /// Version of the SDK in it.
    pub(crate) sdk: &'static str,
}

/// Writes the SDK of this binary into the folder of a policy that [`begin`] wrote.
///
/// # Errors
/// No policy is there, or files cannot be written.
pub(crate) fn renew(path: PathBuf) -> anyhow::Result<Renewed> {
    let manifest = path.join("Cargo.toml");
    let text = std::fs::read_to_string(&manifest).with_context(|| format!("cannot read {}", manifest.display()));
    let text = text.map_err(|error| WrongInput(format!("{error:#}: name the folder of the policy's crate")))?;
    if !text.contains(&format!("{}/plugin-sdk", kit::FOLDER)) {
        let manifest = manifest.display();
        return Err(WrongInput(format!("{manifest} does not use the SDK in `{}/plugin-sdk`", kit::FOLDER)).into());
    }
    kit::write(&path)?;
    Ok(Renewed { path, sdk: env!("CARGO_PKG_VERSION") })
}

/// What the text of the command says next.
pub(crate) fn next_steps(begun: &Begun) -> String {
    let (name, folder) = (&begun.name, begun.path.display());
    format!(
        "{name}: a policy from the template {}, in {folder}\n\n  cd {folder}\n  cargo test              # in virtual time, against the broker's own scheduler\n  \
         sluice policy build .   # writes {name}.wasm",
        begun.template.name()
    )
}

fn check_name(name: &str) -> Result<(), WrongInput> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
    let begins_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins_well || name.len() > NAME_BYTES_MAX || !name.chars().all(plain) {
        return Err(WrongInput(format!(
            "`{name}` is no name of a policy: 1 to {NAME_BYTES_MAX} of a-z 0-9 `-` `_`, beginning with a letter"
        )));
    }
    // Crates that the policy itself uses, and those of the language.
    let taken = ["alloc", "core", "proc_macro", "serde", "std", "test"];
    if taken.contains(&name) || name.starts_with("sluicegate-") {
        return Err(WrongInput(format!("`{name}` is the name of another crate: take one of your own")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_has_all_that_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mine");
        let begun = begin("my-policy", Template::Deadline, Some(path.clone())).unwrap();
        assert_eq!(begun.path, path);
        for file in ["Cargo.lock", ".gitignore", "sluicegate/wit/policy.wit", "sluicegate/LICENSE"] {
            assert!(path.join(file).is_file(), "{file}");
        }
        insta::assert_snapshot!(std::fs::read_to_string(path.join("Cargo.toml")).unwrap(), @r#"
        [package]
        name = "my-policy"
        version = "0.1.0"
        edition = "2024"
        rust-version = "1.95"
        publish = false

        [lib]
        # The component, and an ordinary library for its tests.
        crate-type = ["cdylib", "rlib"]

        [dependencies]
        serde = { version = "1", features = ["derive"] }
        sluicegate-plugin-sdk = { path = "sluicegate/plugin-sdk" }

        [dev-dependencies]
        # A consumer group in virtual time, for tests alone: nothing of it is in the component.
        sluicegate-plugin-sdk = { path = "sluicegate/plugin-sdk", features = ["simulation"] }

        # An hour of traffic in a test should take a second.
        [profile.dev]
        opt-level = 1

        [workspace]
        exclude = ["sluicegate"]
        "#);
        let sdk = std::fs::read_to_string(path.join("sluicegate/plugin-sdk/Cargo.toml")).unwrap();
        assert!(!sdk.contains("workspace") && sdk.contains("path = \"../scheduler\""), "{sdk}");
    }

    #[test]
    fn what_is_there_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine.txt"), "mine").unwrap();
        let error = begin("my-policy", Template::Adaptive, Some(folder.path().into())).unwrap_err().to_string();
        assert!(error.ends_with("is there already: name a folder that is not, with --path"), "{error}");
        assert!(renew(folder.path().into()).unwrap_err().to_string().contains("name the folder of the policy's crate"));
    }

    #[test]
    fn a_name_is_one_that_cargo_and_the_broker_take() {
        for name in ["a", "my-policy_2"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "2nd", "My", "a.b", "-a", "ü", "test", "sluicegate-x", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
