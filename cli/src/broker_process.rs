//! A broker of our own for a demo or a benchmark: a real process on free ports with an empty data directory.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;
use sluicegate_client::admin::Admin;
use sluicegate_client::{Client, Trust};

/// A running `sluice serve --dev`. Dropping it kills it; [`BrokerProcess::stop`] ends it in order.
pub(crate) struct BrokerProcess {
    child: Child,
    ready: Ready,
    /// Of its environment.
    variables: Vec<(String, String)>,
    /// Removed when the broker is gone.
    directory: Option<tempfile::TempDir>,
}

/// Bytes that a broker's store has taken: as many as it may, sooner or later.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub(crate) struct StoreMemory {
    /// Blocks of files, for reads.
    pub(crate) block_cache: u64,
    /// Rows that are not in files yet.
    pub(crate) memtables: u64,
}

#[derive(Deserialize)]
struct Ready {
    listen: String,
    admin: String,
    http: String,
    certificate: PathBuf,
}

impl BrokerProcess {
    /// Starts a broker with its data under `parent`, or in the system's temporary directory.
    pub(crate) fn start(parent: Option<&Path>) -> anyhow::Result<Self> {
        Self::start_with(parent, &[])
    }

    /// The same with these variables in its environment, which are settings.
    pub(crate) fn start_with(parent: Option<&Path>, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let directory = match parent {
            Some(parent) => tempfile::tempdir_in(parent),
            None => tempfile::tempdir(),
        };
        let directory = directory.context("cannot make a data directory")?;
        let variables: Vec<_> = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let (child, ready) = spawn(&directory.path().join("data"), ["127.0.0.1:0"; 3], &variables)?;
        Ok(Self { child, ready, variables, directory: Some(directory) })
    }

    /// Ends it by SIGKILL.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop).context("the broker cannot be waited for")
    }

    /// Starts it again after [`BrokerProcess::kill`], with the same data at the same addresses.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        let [admin, http] = [&self.ready.admin, &self.ready.http].map(|url| url.trim_start_matches("https://"));
        (self.child, self.ready) = spawn(&self.data_dir(), [&self.ready.listen, admin, http], &self.variables)?;
        Ok(())
    }

    /// Memory of the process that is resident.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(&format!("/proc/{}/status", self.child.id())).context("only Linux says how much is resident")
    }

    /// The most that was resident since [`BrokerProcess::forget_peak`].
    pub(crate) fn peak_resident_bytes(&self) -> anyhow::Result<u64> {
        status_bytes(&format!("/proc/{}/status", self.child.id()), "VmHWM:")
            .context("only Linux says how much was resident")
    }

    /// Lets [`BrokerProcess::peak_resident_bytes`] begin with what is resident now, and answers that.
    pub(crate) fn forget_peak(&self) -> anyhow::Result<u64> {
        // See proc_pid_clear_refs(5).
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").context("only Linux forgets a peak")?;
        self.resident_bytes()
    }

    /// Of that, what its store has taken.
    pub(crate) async fn store_memory(&self) -> anyhow::Result<StoreMemory> {
        let metrics = self.admin()?.metrics().await?;
        let of = |part: &str| {
            let name = format!("sluicegate_store_memory_bytes{{part=\"{part}\"}} ");
            let value = metrics.lines().find_map(|line| line.strip_prefix(&name));
            value.and_then(|value| value.parse().ok()).with_context(|| format!("the broker says nothing of its {part}"))
        };
        Ok(StoreMemory { block_cache: of("block_cache")?, memtables: of("memtables")? })
    }

    /// What its files take.
    pub(crate) fn disk_bytes(&self) -> anyhow::Result<u64> {
        fn of(directory: &Path) -> std::io::Result<u64> {
            let mut bytes = 0;
            for entry in std::fs::read_dir(directory)? {
                let entry = entry?;
                // One that is deleted meanwhile takes no room.
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                bytes +=
                    if is_directory { of(&entry.path())? } else { entry.metadata().map_or(0, |entry| entry.len()) };
            }
            Ok(bytes)
        }
        of(&self.data_dir()).context("cannot read the data directory")
    }

    fn trust(&self) -> Trust {
        Trust::Certificate(self.ready.certificate.clone())
    }

    /// A client with a connection of its own.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::builder(&self.ready.listen, self.trust()).name(name).build()
    }

    /// The admin API.
    pub(crate) fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Admin::new(&self.ready.admin, &self.trust(), None)?)
    }

    /// Its data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.as_ref().expect("it is there until the broker is gone").path().join("data")
    }

    /// Ends it by SIGTERM and says if that went wrong.
    pub(crate) fn stop(self) -> anyhow::Result<()> {
        self.stop_and_keep().map(drop)
    }

    /// The same; what it stored is removed with what is answered, in its folder `data`.
    pub(crate) fn stop_and_keep(mut self) -> anyhow::Result<tempfile::TempDir> {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        if !asked.is_ok_and(|status| status.success()) {
            self.child.kill()?;
        }
        let status = self.child.wait()?;
        anyhow::ensure!(status.success(), "the broker ended with {status}");
        Ok(self.directory.take().expect("it is taken here only"))
    }
}

impl Drop for BrokerProcess {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that serves what is in this data directory at these addresses.
fn spawn(
    data_dir: &Path,
    [listen, admin, http]: [&str; 3],
    variables: &[(String, String)],
) -> anyhow::Result<(Child, Ready)> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(program)
        .args(["serve", "--dev", "--listen", listen, "--admin-listen", admin, "--http-listen", http, "-o", "json"])
        .arg("--data-dir")
        .arg(data_dir)
        .env("SLUICE_LOG", std::env::var("SLUICE_LOG").unwrap_or_else(|_| "warn".into()))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start a broker")?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        bail!("the broker ended before it was ready: {}", child.wait()?);
    }
    Ok((child, serde_json::from_str(&line)?))
}

/// `VmRSS` of a process, by its status file.
pub(crate) fn resident_bytes(status: &str) -> Option<u64> {
    status_bytes(status, "VmRSS:")
}

fn status_bytes(status: &str, figure: &str) -> Option<u64> {
    let status = std::fs::read_to_string(status).ok()?;
    let found = status.lines().find_map(|line| line.strip_prefix(figure))?;
    let kib: u64 = found.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
