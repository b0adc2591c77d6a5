//! Whether a component is a policy: what it imports, what it exports, in which version.

use wasmtime::Engine;
use wasmtime::component::types;
use wasmtime::component::types::ComponentItem;

use super::fault::PolicyRejected;
use super::guest;

/// The contract: package, then interface, `@`, version.
const PACKAGE: &str = "sluicegate:policy/";
pub(super) const VERSION: &str = "0.1.0";
const HOST: &str = "sluicegate:policy/host";
const EXPORTS: [&str; 2] = ["lifecycle", "scheduler"];

/// The version of the contract that a component is built for, if it is one that this broker offers.
///
/// # Errors
/// What it imports or exports instead, and what would help.
pub(super) fn check(world: &types::Component, engine: &Engine) -> Result<String, PolicyRejected> {
    for (name, import) in world.imports(engine) {
        check_import(name, &import.ty, engine)?;
    }
    let exports: Vec<_> = world.exports(engine).map(|(name, _)| name).collect();
    for name in &exports {
        check_version(name)?;
    }
    let version = |part: &str| exports.iter().filter_map(|name| interface(name)).find(|(own, _)| *own == part);
    let [Some(_), Some((_, version))] = EXPORTS.map(version) else {
        let exports = if exports.is_empty() { "nothing".into() } else { guest::one_line(&exports.join(", ")) };
        return Err(PolicyRejected::OtherWorld { exports, wanted: "sluicegate:policy/{lifecycle,scheduler}" });
    };
    Ok(version.to_owned())
}

/// It names what the contract has, and means something else.
pub(super) fn other_types(error: &wasmtime::Error) -> PolicyRejected {
    PolicyRejected::OtherTypes { ours: ours(), text: one_line(error) }
}

fn check_import(name: &str, import: &ComponentItem, engine: &Engine) -> Result<(), PolicyRejected> {
    check_version(name)?;
    let foreign = |name: String| {
        let name = guest::one_line(&name);
        let help = match name.starts_with("wasi:") {
            true => "build it for wasm32-unknown-unknown, as `sluice policy build` does",
            false => "time and seed come with each frame, nothing else can be reached",
        };
        Err(PolicyRejected::ForeignImport { name, offered: "sluicegate:policy/host#log", help })
    };
    match (interface(name), import) {
        (Some(("types", _)), _) => Ok(()),
        (Some(("host", _)), ComponentItem::ComponentInstance(host)) => {
            let other = host.exports(engine).find(|(function, _)| *function != "log");
            other.map_or(Ok(()), |(function, _)| foreign(format!("{HOST}#{function}")))
        }
        _ => foreign(name.into()),
    }
}

/// Versions below 1.0 fit if major and minor are the same.
fn check_version(name: &str) -> Result<(), PolicyRejected> {
    let line = |version: &str| version.rsplit_once('.').map(|(line, _patch)| line.to_owned());
    match interface(name) {
        Some((_, version)) if line(version) != line(VERSION) => Err(PolicyRejected::OtherVersion {
            theirs: guest::one_line(&format!("{PACKAGE}*@{version}")),
            ours: ours(),
        }),
        _ => Ok(()),
    }
}

/// Interface and version, if it is one of the contract's.
fn interface(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(PACKAGE)?.split_once('@')
}

fn ours() -> String {
    format!("{PACKAGE}*@{VERSION}")
}

pub(super) fn one_line(error: &wasmtime::Error) -> String {
    format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" ")
}
