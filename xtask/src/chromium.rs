//! A browser for the tests that need one, and what drives it: found, or installed where that is safe.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo::works;
use crate::setup;

/// What tests find in which variable.
const PROGRAMS: [(&str, &str); 2] = [("SLUICEGATE_CHROMIUM", "chromium"), ("SLUICEGATE_CHROMEDRIVER", "chromedriver")];

/// Tells the tests where the browser is; answers why they are skipped if there is none.
pub(crate) fn tell(tests: &mut Command) -> Option<String> {
    if found().is_none() {
        setup::ensure_chromium();
    }
    let Some(paths) = found() else {
        return Some(
            "skipped: the tests in a browser; chromium or chromedriver is missing and was not installed".into(),
        );
    };
    for ((variable, _), path) in PROGRAMS.into_iter().zip(paths) {
        tests.env(variable, path);
    }
    None
}

/// Both of them, as the user says or where programs are.
fn found() -> Option<[PathBuf; 2]> {
    let [chromium, driver] = PROGRAMS.map(|(variable, name)| match std::env::var_os(variable) {
        Some(path) if !path.is_empty() => Some(PathBuf::from(path)),
        _ => in_path(name),
    });
    let (chromium, driver) = (chromium?, driver?);
    works(&driver, &["--version"]).then_some([chromium, driver])
}

fn in_path(name: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories).map(|directory| directory.join(name)).find(|path| Path::is_file(path))
}
