//! The pages of the bundled policies in `docs/policies`: what each crate says of itself, and plots of a simulation of it.
//!
//! The simulations are deterministic, so what is committed is held against what comes out now. `cargo xtask policy-pages` writes them anew.

#[path = "../../../cli/src/picture.rs"]
#[expect(dead_code, reason = "the reports of `sluice` use what is not used here")]
mod picture;
mod plot;
mod scenes;
mod series;

use std::path::{Path, PathBuf};

use self::scenes::{SCENES, Scene};

/// When this is set, the pages are written and not compared.
const SAVE: &str = "SLUICE_SAVE_POLICY_PAGES";

#[test]
fn what_is_committed_is_what_the_crates_and_their_simulations_say() {
    let directory = repository().join("docs/policies");
    let pages = SCENES.map(|scene| {
        [(format!("{}.md", scene.policy), page(&scene)), (format!("{}.svg", scene.policy), (scene.draw)())]
    });
    if std::env::var_os(SAVE).is_some() {
        std::fs::create_dir_all(&directory).unwrap();
        for (name, text) in pages.as_flattened() {
            std::fs::write(directory.join(name), text).unwrap();
        }
        return;
    }
    let is_other =
        |(name, text): &&(String, String)| std::fs::read_to_string(directory.join(name)).ok().as_ref() != Some(text);
    let others: Vec<_> = pages.as_flattened().iter().filter(is_other).map(|(name, _)| name).collect();
    assert!(others.is_empty(), "{others:?} are other than they would be made; `cargo xtask policy-pages` makes them");
}

/// The crate's documentation, and the picture with what it shows.
fn page(scene: &Scene) -> String {
    let Scene { policy, title, caption, .. } = scene;
    let path = repository().join(format!("plugins/{policy}/src/lib.rs"));
    let source = std::fs::read_to_string(path).expect("the policy has sources");
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let text = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect::<Vec<_>>().join("\n");
    format!(
        "<!-- Made by `cargo xtask policy-pages` from plugins/{policy}/src/lib.rs and a simulation. -->\n\n# {policy}\n\n{text}\n\n\
         ## Simulated\n\n{caption}\n\n![{title}]({policy}.svg)\n"
    )
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
