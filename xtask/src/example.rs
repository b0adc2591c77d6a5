//! Runs one of `examples/` against a broker of its own: a real process on free ports, its data in a temporary directory.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail, ensure};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cargo::{root, shown, sluice, target_dir};
use crate::setup::entries;
use crate::{python, run};

/// What every example's package is named before its own name.
pub(crate) const PACKAGE_PREFIX: &str = "sluicegate-example-";

/// A broker that ends with this.
struct Broker {
    child: Child,
    /// What an example is told of it, by name.
    variables: [(&'static str, String); 3],
}

/// Sets up, builds everything and the policies, and runs the example with `args`.
///
/// # Errors
/// There is no such example, it fails, or somebody stopped it. The broker is stopped in each case.
pub(crate) fn run(name: &str, args: &[String]) -> anyhow::Result<()> {
    ensure!(names().iter().any(|known| known == name), "no example `{name}`; there are {}", names().join(", "));
    run::policies()?;
    // From here on the end is in order: the terminal tells the broker and the example too, anybody else only this.
    let signals = Signals::new([SIGCHLD, SIGHUP, SIGINT, SIGTERM]).context("cannot listen for signals")?;
    let directory = tempfile::tempdir().context("cannot make a data directory")?;
    let broker = Broker::start(directory.path())?;
    let mut example = Command::new(target_dir().join("release").join(format!("{PACKAGE_PREFIX}{name}")));
    example.args(args).envs(broker.variables.iter().map(|(name, value)| (name, value)));
    if name == "embeddings" {
        python::tell(&mut example, python::EMBEDDER, python::EMBEDDINGS, "the embedding by a model");
    }
    eprintln!("+ {}", shown(&example));
    let status = finished(example.spawn().context("cannot start the example")?, signals)?;
    ensure!(status.success(), "example `{name}` failed: {status}");
    Ok(())
}

/// Folders of `examples/` with a program that is one.
fn names() -> Vec<String> {
    let examples = entries(root().join("examples")).into_iter().filter(|example| example.join("src/main.rs").exists());
    examples.filter_map(|example| Some(example.file_name()?.to_string_lossy().into_owned())).collect()
}

/// Waits for the end of the example, and brings it about when somebody wants it.
fn finished(mut example: Child, mut signals: Signals) -> anyhow::Result<ExitStatus> {
    for signal in &mut signals {
        if let Some(status) = example.try_wait().context("the example cannot be waited for")? {
            return Ok(status);
        }
        // Another child may have ended.
        if signal != SIGCHLD {
            // The example may have ended by itself.
            let _ = example.kill();
            example.wait().context("the example cannot be waited for")?;
            bail!("stopped");
        }
    }
    bail!("no signals come any more")
}

impl Broker {
    fn start(directory: &Path) -> anyhow::Result<Self> {
        const ANY: &str = "127.0.0.1:0";
        let mut command = Command::new(sluice());
        command
            .args(["serve", "--dev", "--listen", ANY, "--admin-listen", ANY, "--http-listen", ANY, "-o", "json"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .env("SLUICE_LOG", std::env::var("SLUICE_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start a broker")?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout is piped")?).read_line(&mut line)?;
        let broker = |variables| Self { child, variables };
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let word = |key: &str| ready[key].as_str().map(str::to_owned);
        let (Some(listen), Some(admin), Some(certificate)) = (word("listen"), word("admin"), word("certificate"))
        else {
            drop(broker(Default::default()));
            bail!("the broker did not say that it is ready, but `{}`", line.trim_end());
        };
        Ok(broker([("SLUICE_BROKER", listen), ("SLUICE_ADMIN", admin), ("SLUICE_CERTIFICATE", certificate)]))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
