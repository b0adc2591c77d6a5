//! The SDK as this binary carries it: its sources, and those of the crates that its simulation needs.
//!
//! They are those of the repository, without what is for tests alone. A crate outside of it cannot inherit from the workspace, so manifests get
//! what they inherit written out.

use std::path::Path;

use anyhow::{Context as _, ensure};
use toml::{Table, Value};

/// Paths in the repository, and what is there.
const FILES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/kit.rs"));

/// Where the SDK lies in a policy's folder.
pub(super) const FOLDER: &str = "sluicegate";
/// Says that a folder is the SDK's, so that it may be replaced.
const MARK: &str = "README.md";

/// The versions that this binary was built and tested with. Cargo drops those that a policy does not need.
pub(super) fn lockfile() -> &'static str {
    file("Cargo.lock")
}

/// The oldest Rust that builds the SDK.
pub(super) fn rust_version() -> anyhow::Result<String> {
    let version = workspace()?["package"].get("rust-version").and_then(Value::as_str).map(str::to_owned);
    version.context("the workspace says which Rust it needs")
}

/// Writes the SDK into a policy's folder, in place of one that is there.
///
/// # Errors
/// Something else is there, or files cannot be written.
pub(super) fn write(policy: &Path) -> anyhow::Result<()> {
    let folder = policy.join(FOLDER);
    if folder.exists() {
        let is_ours = std::fs::read_to_string(folder.join(MARK)).is_ok_and(|text| text.starts_with("# Sluicegate SDK"));
        ensure!(is_ours, "{} is there and is no SDK that `sluice policy new` wrote", folder.display());
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot replace {}", folder.display()))?;
    }
    let workspace = workspace()?;
    for (path, text) in FILES {
        let text = match path.split_once('/') {
            None if *path != "LICENSE" => continue,
            Some((_, "Cargo.toml")) => freed(text, &workspace).with_context(|| (*path).to_owned())?,
            _ => (*text).to_owned(),
        };
        write_file(&folder.join(path), &text)?;
    }
    write_file(&folder.join(MARK), &readme())
}

/// Writes a file, with the folders above it.
///
/// # Errors
/// It cannot be written.
pub(super) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().expect("a file has a folder");
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn readme() -> String {
    format!(
        "# Sluicegate SDK {}\n\nWritten by `sluice policy new`; `sluice policy sdk` of another version replaces it. Change nothing here.\n\
         `plugin-sdk` is what a policy uses, `wit` the contract with the broker, `scheduler` and `protocol` what its\n\
         simulation runs. `cargo doc --open -p sluicegate-plugin-sdk` shows the documentation.\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn file(path: &str) -> &'static str {
    FILES.iter().find(|(name, _)| *name == path).map(|(_, text)| *text).expect("the build gathers it")
}

fn workspace() -> anyhow::Result<Table> {
    let manifest: Table = file("Cargo.toml").parse()?;
    manifest["workspace"].as_table().cloned().context("the repository is a workspace")
}

/// A member's manifest without its workspace: inherited values are written out, what is for the workspace's own checks is left out.
fn freed(manifest: &str, workspace: &Table) -> anyhow::Result<String> {
    let mut manifest: Table = manifest.parse()?;
    for name in ["lints", "bench", "dev-dependencies"] {
        manifest.remove(name);
    }
    let package = manifest["package"].as_table_mut().context("a crate has a package")?;
    for (key, value) in package.iter_mut().filter(|(_, value)| value.get("workspace").is_some()) {
        *value = workspace["package"].get(key).with_context(|| format!("no {key} to inherit"))?.clone();
    }
    let tables = ["dependencies", "build-dependencies"];
    for name in tables {
        free_dependencies(manifest.get_mut(name), workspace)?;
    }
    let targets = manifest.get_mut("target").and_then(Value::as_table_mut).into_iter().flatten();
    for (_, target) in targets {
        for name in tables {
            free_dependencies(target.get_mut(name), workspace)?;
        }
    }
    Ok(toml::to_string(&manifest)?)
}

fn free_dependencies(table: Option<&mut Value>, workspace: &Table) -> anyhow::Result<()> {
    let dependencies = table.and_then(Value::as_table_mut).into_iter().flatten();
    for (name, own) in dependencies.filter(|(_, own)| own.get("workspace").is_some()) {
        let inherited = workspace["dependencies"].get(name).with_context(|| format!("no {name} to inherit"))?;
        let mut free = match inherited {
            Value::Table(table) => table.clone(),
            version => Table::from_iter([("version".to_owned(), version.clone())]),
        };
        for (key, value) in own.as_table().into_iter().flatten().filter(|(key, _)| *key != "workspace") {
            match (free.get_mut(key), value) {
                (Some(Value::Array(all)), Value::Array(more)) => all.extend(more.iter().cloned()),
                _ => drop(free.insert(key.clone(), value.clone())),
            }
        }
        if let Some(path) = free.get_mut("path") {
            *path = format!("../{}", path.as_str().unwrap_or_default()).into();
            // Frames of the wire protocol, and what generates them, are of no use to a policy.
            free.insert("default-features".to_owned(), false.into());
        }
        *own = free.into();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_says_itself_what_it_inherited() {
        let workspace = r#"
            [package]
            version = "1.2.3"
            [dependencies]
            serde = { version = "1", features = ["derive"] }
            postcard = "1"
            sluicegate-protocol = { path = "protocol" }
        "#;
        let manifest = r#"
            [package]
            name = "x"
            version.workspace = true
            [lints]
            workspace = true
            [dependencies]
            postcard = { workspace = true }
            serde = { workspace = true, features = ["rc"] }
            [target.'cfg(unix)'.dependencies]
            sluicegate-protocol = { workspace = true, optional = true }
            [[bench]]
            name = "hot"
        "#;
        insta::assert_snapshot!(freed(manifest, &workspace.parse().unwrap()).unwrap(), @r#"
        [dependencies.postcard]
        version = "1"

        [dependencies.serde]
        features = ["derive", "rc"]
        version = "1"

        [package]
        name = "x"
        version = "1.2.3"

        [target."cfg(unix)".dependencies.sluicegate-protocol]
        default-features = false
        optional = true
        path = "../protocol"
        "#);
    }

    #[test]
    fn what_is_for_tests_alone_is_left_out() {
        let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        assert!(names.contains(&"plugin-sdk/src/simulation/builder.rs") && names.contains(&"wit/policy.wit"));
        assert!(!names.iter().any(|name| name.contains("tests")), "{names:?}");
    }

    #[test]
    fn a_folder_that_is_something_else_is_left_alone() {
        let policy = tempfile::tempdir().unwrap();
        write_file(&policy.path().join(FOLDER).join("own.txt"), "mine").unwrap();
        assert!(write(policy.path()).unwrap_err().to_string().ends_with("is no SDK that `sluice policy new` wrote"));
        std::fs::remove_dir_all(policy.path().join(FOLDER)).unwrap();
        write(policy.path()).unwrap();
        write(policy.path()).unwrap();
        assert!(policy.path().join("sluicegate/scheduler/src/lib.rs").is_file());
    }
}
