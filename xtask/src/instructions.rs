//! Counts instructions and bytes of the scheduler's hot paths under valgrind, beside those that are committed.
//!
//! Time varies with the machine's mood, counts do not: a change of a percent is a change of the code.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail};

use crate::cargo::{cargo, output, root, succeed, target_dir, works};

/// Counts of the last commit that changed them, relative to the repository.
const BASELINE: &str = "scheduler/benches/instructions.txt";
/// The function whose instructions count, as `scheduler/benches/instructions.rs` has it.
const MEASURED: &str = "*measured*";

const INSTALL: &str = "\
  Debian, Ubuntu:  apt-get update && apt-get install -y --no-install-recommends valgrind libc6-dbg   (as root)
  Fedora:          dnf install -y valgrind   (as root)
  macOS:           valgrind does not support it; `cargo bench --bench hot_paths` measures time";

/// What becomes of the counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Compare,
    /// They are the baseline from now on.
    Save,
}

/// Prints what was counted beside the baseline. Nothing fails because a count rose.
///
/// # Errors
/// Valgrind is missing, with how to install it; the bench does not build or run.
pub(crate) fn run(then: Then) -> anyhow::Result<()> {
    if !works("valgrind", &["--version"]) {
        bail!("valgrind is missing: install it and run this again\n{INSTALL}");
    }
    let path = root().join(BASELINE);
    let baseline = std::fs::read_to_string(&path).map(|text| parse(&text)).unwrap_or_default();
    let counts = count()?;
    println!("{}", report(&counts, &baseline));
    if then == Then::Save {
        let lines: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count:.1}\n")).collect();
        std::fs::write(&path, lines.concat()).with_context(|| format!("cannot write {}", path.display()))?;
        println!("saved to {BASELINE}");
    }
    Ok(())
}

type Counts = BTreeMap<String, f64>;

fn count() -> anyhow::Result<Counts> {
    let mut counts = Counts::new();
    for line in plain("cases")?.lines() {
        let (case, operations) = line.split_once(' ').context("a case has a name and a number of operations")?;
        let options = ["--tool=callgrind", "--collect-atstart=no", "--callgrind-out-file=/dev/null"];
        let toggle = format!("--toggle-collect={MEASURED}");
        let log = valgrind(&[&options[..], &[&toggle]].concat(), case)?;
        let instructions = number_after(&log, "Collected :").context("callgrind says what it collected")?;
        counts.insert(format!("{case}/instructions"), instructions / operations.parse::<f64>()?);
    }
    let lite_topics: f64 = plain("lite-topics")?.trim().parse()?;
    for case in ["heap-ready", "heap-held"] {
        let log = valgrind(&["--tool=dhat", "--dhat-out-file=/dev/null"], case)?;
        let bytes = number_after(&log, "At t-end:").context("dhat says what is alive at the end")?;
        counts.insert(format!("{case}/bytes"), bytes / lite_topics);
    }
    Ok(counts)
}

/// What the bench prints without valgrind.
fn plain(argument: &str) -> anyhow::Result<String> {
    output(&mut cargo(&[
        "bench",
        "--quiet",
        "--locked",
        "-p",
        "sluicegate-scheduler",
        "--bench",
        "instructions",
        argument,
    ]))
}

/// What valgrind says of one case.
fn valgrind(options: &[&str], case: &str) -> anyhow::Result<String> {
    let log = target_dir().join("valgrind.log");
    let shown = log.to_str().context("the target directory's path is UTF-8")?;
    let log_file = format!("--log-file={shown}");
    let words = [&["valgrind", &log_file][..], options].concat();
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    // Cargo starts the bench by this runner, so nobody needs to know where it lies.
    let runner = format!("target.'cfg(all())'.runner = [{}]", words.join(", "));
    let bench = ["bench", "--quiet", "--locked", "-p", "sluicegate-scheduler", "--bench", "instructions", case];
    succeed(&mut cargo(&[&["--config", &runner][..], &bench].concat()))?;
    read(&log)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The number behind `label`, with or without commas.
fn number_after(log: &str, label: &str) -> Option<f64> {
    let (_, rest) = log.split_once(label)?;
    rest.split_whitespace().next()?.replace(',', "").parse().ok()
}

fn parse(baseline: &str) -> Counts {
    let pairs = baseline.lines().filter_map(|line| line.split_once(' '));
    pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

fn report(counts: &Counts, baseline: &Counts) -> String {
    let mut lines = vec![format!("{:<40} {:>10} {:>10} {:>8}", "EACH", "NOW", "BASELINE", "CHANGE")];
    for (name, now) in counts {
        lines.push(match baseline.get(name) {
            Some(before) => format!("{name:<40} {now:>10.1} {before:>10.1} {:>+7.1}%", (now / before - 1.0) * 100.0),
            None => format!("{name:<40} {now:>10.1} {:>10} {:>8}", "-", "-"),
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_in_what_valgrind_says() {
        let callgrind = "==1== Events    : Ir\n==1== Collected : 2481920\n";
        let dhat = "==1== At t-gmax: 2,000,000 bytes in 9 blocks\n==1== At t-end:  1,234,567 bytes in 8 blocks\n";
        assert_eq!(number_after(callgrind, "Collected :"), Some(2_481_920.0));
        assert_eq!(number_after(dhat, "At t-end:"), Some(1_234_567.0));
        assert_eq!(number_after(callgrind, "At t-end:"), None);
    }

    #[test]
    fn a_count_stands_beside_its_baseline() {
        let counts = parse("hold/instructions 110.0\nnew/instructions 5.0\n");
        let baseline = parse("hold/instructions 100.0\ngone/instructions 1.0\nbroken\n");
        let text = report(&counts, &baseline);
        let lines: Vec<_> = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
        assert_eq!(
            lines,
            [vec!["hold/instructions", "110.0", "100.0", "+10.0%"], vec!["new/instructions", "5.0", "-", "-"]]
        );
    }
}
