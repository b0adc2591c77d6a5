//! Checks what a build needs beside Rust itself; installs it where that is safe, else says how.
//!
//! Needed: the wasm target for policies, libclang for RocksDB's bindings, a C++ compiler for RocksDB.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::cargo::{output, root, succeed, works};
use crate::libclang;

const WASM_TARGET: &str = "wasm32-unknown-unknown";

/// Makes sure that everything a build needs is there.
///
/// # Errors
/// What is missing and could not be installed, with the commands that install it.
pub(crate) fn ensure() -> anyhow::Result<()> {
    ensure_wasm_target()?;
    let missing = missing_for_rocksdb();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing: {}", missing.join("; "));
    if let Some(root_shell) = debian_root_shell() {
        install_on_debian(root_shell, &["libclang-dev", "g++"])?;
        let still_missing = missing_for_rocksdb();
        if still_missing.is_empty() {
            return Ok(());
        }
        bail!("still missing after the installation: {}", still_missing.join("; "));
    }
    bail!("install what is missing ({}) and run this again:\n{INSTALL}", missing.join("; "));
}

/// Makes sure of a C compiler for Wasm, which the test of `examples/policy-c` needs and skips itself without.
pub(crate) fn ensure_clang() {
    let works = || works("clang", &["--version"]) && works("wasm-ld", &["--version"]);
    if works() {
        return;
    }
    if let Some(root_shell) = debian_root_shell()
        && let Err(error) = install_on_debian(root_shell, &["clang", "lld"])
    {
        eprintln!("{error:#}");
    }
    if !works() {
        eprintln!("clang or wasm-ld is missing: the tests of the policy in C are skipped");
    }
}

/// Installs a browser and its driver, on systems where that may be done without asking; the caller sees whether that helped.
pub(crate) fn ensure_chromium() {
    if let Some(root_shell) = debian_root_shell()
        && let Err(error) = install_on_debian(root_shell, &["chromium", "chromium-driver"])
    {
        eprintln!("{error:#}");
    }
}

/// Makes sure of a Python that can make environments, on systems where it may be installed without asking; the caller sees
/// whether that helped.
pub(crate) fn ensure_python() {
    // Debian's `python3` has no `ensurepip` of its own.
    if works("python3", &["-c", "import venv, ensurepip"]) {
        return;
    }
    if let Some(root_shell) = debian_root_shell()
        && let Err(error) = install_on_debian(root_shell, &["python3", "python3-venv"])
    {
        eprintln!("{error:#}");
    }
}

const INSTALL: &str = "\
  Debian, Ubuntu:  apt-get update && apt-get install -y --no-install-recommends libclang-dev g++   (as root)
  Fedora:          dnf install -y clang-devel gcc-c++   (as root)
  macOS:           xcode-select --install && brew install llvm && export LIBCLANG_PATH=\"$(brew --prefix llvm)/lib\"";

fn ensure_wasm_target() -> anyhow::Result<()> {
    let sysroot = output(Command::new("rustc").current_dir(root()).args(["--print", "sysroot"]))?;
    let installed = || Path::new(sysroot.trim()).join("lib/rustlib").join(WASM_TARGET).join("lib").is_dir();
    if installed() {
        return Ok(());
    }
    if !works("rustup", &["--version"]) {
        bail!(
            "the Rust target {WASM_TARGET} is missing in {}, and there is no rustup to add it: \
             install rustup from https://rustup.rs, or your distribution's package of that target \
             (Debian: libstd-rust-dev-wasm32, Fedora: rust-std-static-wasm32-unknown-unknown)",
            sysroot.trim()
        );
    }
    succeed(Command::new("rustup").current_dir(root()).args(["target", "add", WASM_TARGET]))?;
    if !installed() {
        bail!("rustup added the target {WASM_TARGET} to another toolchain than {}", sysroot.trim());
    }
    Ok(())
}

fn missing_for_rocksdb() -> Vec<&'static str> {
    let compiler = std::env::var_os("CXX").filter(|cxx| !cxx.is_empty()).unwrap_or_else(|| "c++".into());
    let checks = [
        (libclang::library().is_some(), "libclang (RocksDB's bindings are generated with it)"),
        (libclang::headers().is_some(), "clang's own headers, such as stddef.h"),
        (works(&compiler, &["--version"]), "a C++ compiler (`c++`, or what CXX names)"),
    ];
    checks.into_iter().filter(|(there, _)| !there).map(|(_, what)| what).collect()
}

/// How this program may become root on a Debian-like system: nothing in front, or `sudo -n`.
fn debian_root_shell() -> Option<&'static [&'static str]> {
    if !Path::new("/etc/debian_version").exists() {
        return None;
    }
    let user = output(Command::new("id").arg("-u")).unwrap_or_default();
    if user.trim() == "0" {
        return Some(&[]);
    }
    works("sudo", &["-n", "true"]).then_some(&["sudo", "-n"])
}

fn install_on_debian(root_shell: &[&str], packages: &[&str]) -> anyhow::Result<()> {
    let install = [&["apt-get", "install", "-y", "--no-install-recommends"], packages].concat();
    for command in [&["apt-get", "update"][..], &install] {
        let words = [root_shell, &["env", "DEBIAN_FRONTEND=noninteractive"], command].concat();
        succeed(Command::new(words[0]).args(&words[1..]))?;
    }
    Ok(())
}

/// Entries of a directory, sorted; none if it cannot be read.
pub(crate) fn entries(dir: impl AsRef<Path>) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path()).collect();
    paths.sort();
    paths
}
