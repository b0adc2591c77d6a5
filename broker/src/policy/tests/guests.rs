//! Guests built from source, once per test run.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use wit_component::ComponentEncoder;

/// The bundled token bucket.
pub(super) fn token_bucket() -> &'static [u8] {
    static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
    COMPONENT.get_or_init(|| componentize(&build("plugins/token-bucket", "sluicegate_policy_token_bucket")))
}

/// The guest that misbehaves on demand.
pub(super) fn hostile() -> &'static [u8] {
    static COMPONENT: OnceLock<Vec<u8>> = OnceLock::new();
    COMPONENT.get_or_init(|| componentize(hostile_module()))
}

/// The same before it was componentised.
pub(super) fn hostile_module() -> &'static [u8] {
    static MODULE: OnceLock<Vec<u8>> = OnceLock::new();
    MODULE.get_or_init(|| build("tests/guests/hostile", "hostile"))
}

pub(super) fn componentize(module: &[u8]) -> Vec<u8> {
    ComponentEncoder::default().validate(true).module(module).unwrap().encode().unwrap()
}

/// The bytes with each occurrence of a text replaced by another of the same length.
pub(super) fn replaced(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    while let Some(at) = bytes.windows(from.len()).position(|window| window == from.as_bytes()) {
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    bytes
}

/// As `sluice policy build` does it, into a folder of its own: cargo may hold the lock of the usual one.
fn build(crate_dir: &str, library: &str) -> Vec<u8> {
    let repository = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let target = target.join("policies-test");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap());
    cargo.current_dir(repository.join(crate_dir)).env("CARGO_TARGET_DIR", &target);
    cargo.args(["rustc", "--quiet", "--lib", "--crate-type", "cdylib", "--release"]);
    cargo.args(["--target", "wasm32-unknown-unknown", "--config", "profile.release.panic=\"abort\""]);
    cargo.args(["--config", "profile.release.strip=\"debuginfo\"", "--config", "profile.release.opt-level=3"]);
    assert!(cargo.status().unwrap().success(), "{crate_dir} does not build");
    std::fs::read(target.join("wasm32-unknown-unknown/release").join(format!("{library}.wasm"))).unwrap()
}
