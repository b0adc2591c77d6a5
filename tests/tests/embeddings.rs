//! The pipeline of `examples/embeddings`: what it embeds, that it goes on where it was, and what it finds. By the real model where
//! there is a Python with it, else by hashed words.

use std::fs::write;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use sluicegate_tests::Broker;

const READER: &str =
    "fn load(path: &str) -> String {\n    std::fs::read_to_string(path).expect(\"the file is there\")\n}\n";
const SUM: &str = "def total(prices):\n    # all prices together\n    return sum(prices)\n";
const PAINT: &str = "function paint(canvas) {\n  canvas.fillStyle = 'red';\n  canvas.fillRect(0, 0, 9, 9);\n}\n";

/// What the example prints of this folder.
fn run(broker: &Broker, folder: &Path, query: &str) -> Result<String> {
    broker.example("embeddings", &["--folder", folder.to_str().context("temporary paths are UTF-8")?, "--query", query])
}

/// How many chunks it embedded, and how many were there.
fn counts(told: &str) -> Result<(u32, u32)> {
    let line = told.lines().find_map(|line| line.strip_prefix("embedded: ")).context("it says what it embedded")?;
    let (embedded, before) = line.split_once(", there before: ").context("and what was there")?;
    Ok((embedded.parse()?, before.parse()?))
}

/// The file that it says is nearest.
fn nearest(told: &str) -> Result<&str> {
    let mut lines = told.lines().skip_while(|line| !line.starts_with("nearest to"));
    lines.nth(1).and_then(|line| line.split_whitespace().nth(1)).context("it says what is nearest")
}

#[test]
fn only_what_changed_is_embedded_again_also_over_the_death_of_the_broker() -> Result<()> {
    let mut broker = Broker::start()?;
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    std::fs::create_dir(file("target"))?;
    write(file("target/made.rs"), "made, not written")?;
    write(file("load.rs"), READER)?;
    write(file("sum.py"), SUM)?;
    write(file("paint.js"), PAINT)?;
    write(file("picture.rs"), b"\xff\xd8\xff")?;

    let told = run(&broker, folder.path(), "all prices together")?;
    ensure!((counts(&told)?, nearest(&told)?) == ((3, 0), "sum.py:1"), "{told}");
    let told = run(&broker, folder.path(), "the file is there")?;
    ensure!((counts(&told)?, nearest(&told)?) == ((0, 3), "load.rs:1"), "{told}");

    write(file("sum.py"), SUM.replace("prices", "weights"))?;
    broker.crash_and_restart()?;
    let told = run(&broker, folder.path(), "all weights together")?;
    ensure!((counts(&told)?, nearest(&told)?) == ((1, 2), "sum.py:1"), "{told}");

    // What is gone is found no more.
    std::fs::remove_file(file("sum.py"))?;
    let told = run(&broker, folder.path(), "all weights together")?;
    ensure!(counts(&told)? == (0, 2) && !told.contains("sum.py"), "{told}");
    Ok(())
}

#[test]
fn the_model_finds_what_is_meant_without_a_word_of_it() -> Result<()> {
    if std::env::var_os("SLUICEGATE_EMBEDDINGS_PYTHON").is_none() {
        eprintln!(
            "skipped: `cargo xtask test` sets SLUICEGATE_EMBEDDINGS_PYTHON, where there is a Python with the model"
        );
        return Ok(());
    }
    let broker = Broker::start()?;
    let folder = tempfile::tempdir()?;
    for (name, text) in [("load.rs", READER), ("sum.py", SUM), ("paint.js", PAINT)] {
        write(folder.path().join(name), text)?;
    }
    for (query, name) in [
        ("open a document on disk", "load.rs:1"),
        ("how much does everything cost", "sum.py:1"),
        ("draw a colored rectangle on the screen", "paint.js:1"),
    ] {
        let told = run(&broker, folder.path(), query)?;
        ensure!(told.contains("vectors by all-MiniLM-L6-v2"), "{told}");
        ensure!(nearest(&told)? == name, "{query}: {told}");
    }
    Ok(())
}
