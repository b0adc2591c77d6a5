//! Rules about files that no compiler checks.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cargo::root;
use crate::setup::entries;

const RUST_LINES_MAX: usize = 800;
const ARCHITECTURE_LINES_MAX: usize = 150;

/// What may not stand in a source file, split so that this file may say it.
const BANNED: [([&str; 2], &str); 3] = [
    (["#[", "allow("], "say `#[expect(…, reason = \"…\")]` instead"),
    (["#![", "allow("], "say `#[expect(…, reason = \"…\")]` instead"),
    (["to", "do!("], "finish it, or leave it out"),
];

/// Checks all files of the repository.
///
/// # Errors
/// Every rule that a file breaks, with the file and line.
pub(crate) fn run() -> anyhow::Result<()> {
    let mut problems = Vec::new();
    if !root().join("LICENSE").exists() {
        problems.push("LICENSE is missing".to_owned());
    }
    match std::fs::read_to_string(root().join("ARCHITECTURE.md")) {
        Ok(text) => problems.extend(too_long("ARCHITECTURE.md", &text, ARCHITECTURE_LINES_MAX)),
        Err(_) => problems.push("ARCHITECTURE.md is missing".to_owned()),
    }
    visit(root(), &mut problems)?;
    if !problems.is_empty() {
        bail!("not tidy:\n  {}", problems.join("\n  "));
    }
    Ok(())
}

fn visit(dir: &Path, problems: &mut Vec<String>) -> anyhow::Result<()> {
    for path in entries(dir) {
        let name = path.file_name().expect("an entry of a directory has a name").to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            visit(&path, problems)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let shown = path.strip_prefix(root()).unwrap_or(&path).display().to_string();
            problems.extend(problems_of(&shown, &text));
        }
    }
    Ok(())
}

fn problems_of(file: &str, text: &str) -> Vec<String> {
    let mut problems: Vec<_> = too_long(file, text, RUST_LINES_MAX).into_iter().collect();
    for (number, line) in text.lines().enumerate() {
        let banned = BANNED.iter().find(|(parts, _)| line.contains(&parts.concat()));
        problems.extend(banned.map(|(parts, advice)| format!("{file}:{}: `{}`: {advice}", number + 1, parts.concat())));
    }
    problems
}

fn too_long(file: &str, text: &str, lines_max: usize) -> Option<String> {
    let lines = text.lines().count();
    (lines > lines_max).then(|| format!("{file} has {lines} lines, at most {lines_max} are allowed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_rule_is_named_with_its_place() {
        let text = format!("fn a() {{}}\n{}\n{}", BANNED[0].0.concat(), BANNED[2].0.concat());
        assert_eq!(
            problems_of("x.rs", &text),
            [
                format!("x.rs:2: `{}`: {}", BANNED[0].0.concat(), BANNED[0].1),
                format!("x.rs:3: `{}`: {}", BANNED[2].0.concat(), BANNED[2].1),
            ]
        );
        assert_eq!(problems_of("y.rs", &"\n".repeat(801)), ["y.rs has 801 lines, at most 800 are allowed"]);
    }
}
