//! The arrows between crates, held by `cargo tree`: who may reach which crate of the workspace, and what
//! nobody on that side may pull in.

use std::collections::BTreeSet;

use anyhow::bail;

use crate::cargo::{cargo, output};
use crate::example::PACKAGE_PREFIX;
use crate::run;

const PROTOCOL: &str = "sluicegate-protocol";
const SCHEDULER: &str = "sluicegate-scheduler";
const BROKER: &str = "sluicegate-broker";
const CLIENT: &str = "sluicegate-client";
const PLUGIN_SDK: &str = "sluicegate-plugin-sdk";
const EXAMPLE_BROKER: &str = "sluicegate-example-broker";
const POLICY_PREFIX: &str = "sluicegate-policy-";

/// A package, all workspace crates that it may reach, and the outside crates that it must not reach.
struct Rule<'a> {
    package: &'a str,
    may_reach: &'a [&'a str],
    never: &'a [&'a str],
}

const RULES: [Rule<'_>; 10] = [
    Rule { package: PROTOCOL, may_reach: &[], never: &["tokio", "rocksdb", "wasmtime", "quinn"] },
    Rule { package: SCHEDULER, may_reach: &[PROTOCOL], never: &["tokio", "rocksdb", "wasmtime", "quinn", "axum"] },
    Rule { package: BROKER, may_reach: &[PROTOCOL, SCHEDULER], never: &[] },
    Rule { package: CLIENT, may_reach: &[PROTOCOL], never: &["rocksdb", "wasmtime"] },
    Rule { package: "sluicegate-cli", may_reach: &[PROTOCOL, SCHEDULER, BROKER, CLIENT], never: &[] },
    Rule { package: PLUGIN_SDK, may_reach: &[], never: &["tokio", "rocksdb", "wasmtime"] },
    Rule { package: "sluicegate-tests", may_reach: &[PROTOCOL, CLIENT], never: &["rocksdb", "wasmtime"] },
    Rule { package: "sluicegate-fuzz", may_reach: &[PROTOCOL], never: &["tokio", "rocksdb", "wasmtime"] },
    Rule { package: "sluicegate-shim", may_reach: &[], never: &["tokio", "rocksdb", "wasmtime"] },
    Rule { package: "xtask", may_reach: &[], never: &["tokio", "rocksdb", "wasmtime"] },
];

/// Holds every rule against `cargo tree`, normal dependencies only.
///
/// # Errors
/// All edges that no rule allows.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut broken = Vec::new();
    for rule in &RULES {
        broken.extend(broken_edges(rule, &reached(rule.package)?));
    }
    for package in packages("plugins", POLICY_PREFIX) {
        let rule = Rule { package: &package, may_reach: &[PLUGIN_SDK], never: &["tokio", "rocksdb", "wasmtime"] };
        broken.extend(broken_edges(&rule, &reached(&package)?));
    }
    for package in packages("examples", PACKAGE_PREFIX) {
        let may_reach = &[PROTOCOL, CLIENT, EXAMPLE_BROKER];
        let rule = Rule { package: &package, may_reach, never: &["rocksdb", "wasmtime"] };
        broken.extend(broken_edges(&rule, &reached(&package)?));
    }
    if !broken.is_empty() {
        bail!("forbidden dependencies:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

/// The packages of this directory, each named by its folder.
fn packages(directory: &str, prefix: &str) -> Vec<String> {
    let folders = run::sources(directory).into_iter();
    folders.filter_map(|folder| Some(format!("{prefix}{}", folder.file_name()?.to_string_lossy()))).collect()
}

/// Names of all crates that `package` reaches, on any platform.
fn reached(package: &str) -> anyhow::Result<BTreeSet<String>> {
    let tree = output(&mut cargo(&[
        "tree",
        "--locked",
        "--package",
        package,
        "--edges",
        "normal",
        "--target",
        "all",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ]))?;
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    Ok(names.filter(|name| *name != package).map(str::to_owned).collect())
}

fn broken_edges(rule: &Rule<'_>, reached: &BTreeSet<String>) -> Vec<String> {
    let ours = |name: &str| name.starts_with("sluicegate-") || name == "xtask";
    let is_broken = |name: &str| rule.never.contains(&name) || ours(name) && !rule.may_reach.contains(&name);
    let broken = reached.iter().filter(|name| is_broken(name));
    broken
        .map(|name| format!("{} must not reach {name} (see: cargo tree -p {} -i {name})", rule.package, rule.package))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_no_rule_allows_is_named() {
        let rule = Rule { package: "sluicegate-client", may_reach: &["sluicegate-protocol"], never: &["rocksdb"] };
        let reached = ["serde", "rocksdb", "sluicegate-protocol", "sluicegate-broker"].map(String::from).into();
        assert_eq!(
            broken_edges(&rule, &reached),
            [
                "sluicegate-client must not reach rocksdb (see: cargo tree -p sluicegate-client -i rocksdb)",
                "sluicegate-client must not reach sluicegate-broker (see: cargo tree -p sluicegate-client -i sluicegate-broker)",
            ]
        );
    }
}
