//! The pages of the bundled policies in `docs/policies`: what each crate says of itself, and a picture of what a simulation says of it.
//!
//! The simulations are deterministic, so what is committed is held against what comes out now. `cargo xtask policy-pages` writes them anew.

mod picture;
mod scenes;

use std::path::{Path, PathBuf};

use self::scenes::{SCENES, Scene};

/// When this is set, the pages are written and not compared.
const SAVE: &str = "SLUICE_SAVE_POLICY_PAGES";

#[test]
fn what_is_committed_is_what_the_crates_and_their_simulations_say() {
    let directory = repository().join("docs/policies");
    let mut differing = Vec::new();
    for scene in SCENES {
        for (name, text) in
            [(format!("{}.md", scene.policy), page(&scene)), (format!("{}.svg", scene.policy), (scene.draw)())]
        {
            let path = directory.join(name);
            if std::env::var_os(SAVE).is_some() {
                std::fs::create_dir_all(&directory).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
                differing.push(path);
            }
        }
    }
    assert!(differing.is_empty(), "not as they were made: {differing:?}; `cargo xtask policy-pages` makes them anew");
}

/// The crate's documentation, with the picture and what it shows before its table.
fn page(scene: &Scene) -> String {
    let path = repository().join("plugins").join(scene.policy).join("src/lib.rs");
    let source = std::fs::read_to_string(path).unwrap();
    let lines =
        source.lines().map_while(|line| line.strip_prefix("//!")).map(|line| line.strip_prefix(' ').unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join("\n");
    let policy = scene.policy;
    let picture = format!("![{}]({policy}.svg)\n\n{}", scene.title, scene.caption);
    format!(
        "<!-- Made by `cargo xtask policy-pages` from plugins/{policy}/src/lib.rs and a simulation. -->\n\n# {policy}\n\n{text}\n\n## Simulated\n\n{picture}\n"
    )
}

fn repository() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("..")
}
