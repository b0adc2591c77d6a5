//! Gathers what `sluice policy new` writes beside a policy: the sources of the SDK, and of the crates that its simulation needs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// Files and folders of the repository. Those that are for tests alone are left out.
const SOURCES: [&str; 11] = [
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "wit",
    "protocol/Cargo.toml",
    "protocol/build.rs",
    "protocol/src",
    "scheduler/Cargo.toml",
    "scheduler/src",
    "plugin-sdk/Cargo.toml",
    "plugin-sdk/src",
];

fn main() -> io::Result<()> {
    let repository =
        PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo says it")).join("..").canonicalize()?;
    let mut files = Vec::new();
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", repository.join(source).display());
        gather(&repository.join(source), &mut files)?;
    }
    files.sort();
    let mut list = String::from("[\n");
    for file in &files {
        let name =
            file.strip_prefix(&repository).expect("it was gathered there").to_str().expect("our names are ASCII");
        writeln!(list, "({name:?}, include_str!({:?})),", file.display().to_string()).expect("a string takes it");
    }
    list.push(']');
    fs::write(Path::new(&env::var_os("OUT_DIR").expect("cargo says it")).join("kit.rs"), list)
}

fn gather(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.file_stem().is_some_and(|stem| stem == "tests") {
        return Ok(());
    }
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    fs::read_dir(path)?.try_for_each(|entry| gather(&entry?.path(), files))
}
