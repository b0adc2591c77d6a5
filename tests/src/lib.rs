//! What behaviour tests share: a real broker process on free ports with an empty data directory.
//!
//! The process is `sluice serve`, built by `cargo xtask test` beside the tests.

pub mod bombs;
pub mod caught;
pub mod component;
pub mod history;
pub mod noise;
pub mod openmetrics;
#[cfg(target_os = "linux")]
pub mod power_cut;
pub mod raw;
pub mod stock_rust;
pub mod traffic;

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use sluicegate_client::admin::{Admin, CreateGroup, CreateTopic, GroupSettings, Health, HealthStatus, TopicSettings};
use sluicegate_client::{Client, GroupName, TopicName, Trust};

/// A broker process. Dropping it kills it.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    data_dir: PathBuf,
    ready: Ready,
    options: Vec<String>,
    /// Of the next process.
    environment: Vec<(OsString, OsString)>,
    /// Removed when the last owner is gone.
    _directory: Option<tempfile::TempDir>,
}

#[derive(Debug, Deserialize)]
struct Ready {
    listen: String,
    admin: String,
    http: String,
    certificate: PathBuf,
}

/// The `sluice` binary of this build.
///
/// # Panics
/// It is not built: run `cargo xtask test`.
pub fn sluice() -> PathBuf {
    let here = std::env::current_exe().expect("a test knows its own path");
    let found = here.ancestors().map(|directory| directory.join("sluice")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("`sluice` is not built beside {}: run `cargo xtask test`", here.display()))
}

/// Where `cargo xtask policies` puts a bundled policy's component.
///
/// # Panics
/// As [`sluice`] does.
pub fn policy_file(name: &str) -> PathBuf {
    let binary = sluice();
    let target = binary.parent().and_then(Path::parent).expect("the binary is in target/release");
    target.join("policies").join(name).with_extension("wasm")
}

/// A bundled policy's component, as `cargo xtask policies` builds it.
///
/// # Panics
/// It is not built: run `cargo xtask test`.
pub fn policy(name: &str) -> Vec<u8> {
    let path = policy_file(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; run `cargo xtask test`", path.display()))
}

/// The Python that has the packages of `tests/python/requirements.txt`, if `cargo xtask test` could make it; else it says that
/// the test is skipped.
pub fn python() -> Option<PathBuf> {
    let python = std::env::var_os("SLUICEGATE_PYTHON").map(PathBuf::from);
    if python.is_none() {
        eprintln!("skipped: `cargo xtask test` sets SLUICEGATE_PYTHON, where there is a Python with the packages");
    }
    python
}

impl Broker {
    /// Starts a development broker.
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start() -> Result<Self> {
        Self::start_with(&["--dev"])
    }

    /// Starts a broker with these options beside its addresses and data directory.
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start_with(options: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data_dir = directory.path().join("data");
        let options: Vec<_> = options.iter().map(|&option| option.to_owned()).collect();
        let (child, ready) = start(sluice_command(&[]), &data_dir, &options, ANY)?;
        Ok(Self { child, data_dir, ready, options, environment: Vec::new(), _directory: Some(directory) })
    }

    /// Starts a development broker on this data directory, which is the caller's, with this environment, which each of its
    /// processes gets until [`Broker::set_environment`].
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start_on(data_dir: &Path, environment: Vec<(OsString, OsString)>) -> Result<Self> {
        let options = vec!["--dev".to_owned()];
        let (child, ready) = start(sluice_command(&environment), data_dir, &options, ANY)?;
        Ok(Self { child, data_dir: data_dir.into(), ready, options, environment, _directory: None })
    }

    /// Starts a development broker that writes its log to this file, from warnings up.
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start_with_log(log: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data_dir = directory.path().join("data");
        let options = vec!["--dev".to_owned()];
        let mut sluice = sluice_command(&[]);
        sluice.stderr(std::fs::File::create(log)?);
        let (child, ready) = start(sluice, &data_dir, &options, ANY)?;
        Ok(Self { child, data_dir, ready, options, environment: Vec::new(), _directory: Some(directory) })
    }

    /// The environment of the processes that are started from now on.
    pub fn set_environment(&mut self, environment: Vec<(OsString, OsString)>) {
        self.environment = environment;
    }

    /// Starts a broker that cannot write files beyond a few megabytes: its store fails as on a full disk. The next start is
    /// without the limit.
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start_with_small_files() -> Result<Self> {
        Self::start_limited("-f 8192")
    }

    /// Starts a broker with this limit of the shell's `ulimit`. The next start is without it.
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start_limited(limit: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data_dir = directory.path().join("data");
        let options = vec!["--dev".to_owned()];
        let mut shell = Command::new("sh");
        // Without the trap a file that is too large ends the process by a signal; with it, the write fails.
        shell.arg("-c").arg(format!("trap '' XFSZ; ulimit {limit}; exec \"$@\"")).arg("sh").arg(sluice());
        let (child, ready) = start(shell, &data_dir, &options, ANY)?;
        Ok(Self { child, data_dir, ready, options, environment: Vec::new(), _directory: Some(directory) })
    }

    /// Starts a broker whose store is on a file system of this size, in a mount namespace of its own. None where nothing
    /// can be mounted.
    ///
    /// # Errors
    /// It does not say that it is ready.
    pub fn start_on_small_disk(mebibytes: u32) -> Result<Option<Self>> {
        let directory = tempfile::tempdir()?;
        let data_dir = directory.path().join("data");
        let store = data_dir.join("store");
        std::fs::create_dir_all(&store)?;
        let small = |program: &Path| {
            let mut unshare = Command::new("unshare");
            unshare.args(["-rm", "sh", "-c", "mount -t tmpfs -o size=$0 tmpfs \"$1\" && shift && exec \"$@\""]);
            unshare.arg(format!("{mebibytes}m")).arg(&store).arg(program);
            unshare
        };
        let can_mount = small(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
        if !can_mount {
            return Ok(None);
        }
        let options = vec!["--dev".to_owned()];
        let (child, ready) = start(small(&sluice()), &data_dir, &options, ANY)?;
        Ok(Some(Self { child, data_dir, ready, options, environment: Vec::new(), _directory: Some(directory) }))
    }

    /// Starts a broker on a copy of these store files.
    ///
    /// # Errors
    /// They cannot be copied, or it does not say that it is ready.
    pub fn start_on_copy_of(store: &Path) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let data_dir = directory.path().join("data");
        std::fs::create_dir_all(data_dir.join("store"))?;
        for file in std::fs::read_dir(store)? {
            let file = file?;
            std::fs::copy(file.path(), data_dir.join("store").join(file.file_name()))?;
        }
        let options = vec!["--dev".to_owned()];
        let (child, ready) = start(sluice_command(&[]), &data_dir, &options, ANY)?;
        Ok(Self { child, data_dir, ready, options, environment: Vec::new(), _directory: Some(directory) })
    }

    /// A path in the store's directory as the broker sees it.
    ///
    /// # Panics
    /// Never: the data directory is absolute.
    pub fn in_store(&self, name: &str) -> PathBuf {
        let store = self.data_dir.join("store").join(name);
        let inside = store.strip_prefix("/").expect("temporary directories are absolute");
        Path::new("/proc").join(self.child.id().to_string()).join("root").join(inside)
    }

    /// Asks until the health is this.
    ///
    /// # Errors
    /// It does not change in time.
    pub async fn health_becomes(&self, status: HealthStatus) -> Result<Health> {
        let admin = self.admin(None)?;
        let asked = async {
            loop {
                // While the broker opens its store again a request may be cut off.
                if let Ok(health) = admin.health().await
                    && health.status == status
                {
                    return health;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.context("the health did not change")
    }

    /// A figure of the process's memory, `VmRSS` or `VmHWM`, in bytes.
    ///
    /// # Errors
    /// The system does not say.
    pub fn memory_bytes(&self, figure: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(figure)).context("no such figure")?;
        let kib: u64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
        Ok(kib << 10)
    }

    /// Files that the process may have open at once.
    ///
    /// # Errors
    /// The system does not say.
    pub fn open_files_max(&self) -> Result<u64> {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id()))?;
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no such limit")?;
        Ok(files.split_whitespace().next().context("a number")?.parse()?)
    }

    /// From now on, `VmHWM` is the highest since now.
    ///
    /// # Errors
    /// The system does not let it.
    pub fn forget_memory_peak(&self) -> Result<()> {
        Ok(std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?)
    }

    /// The processes that it started and that run: a policy's compiler, say.
    ///
    /// # Errors
    /// The system does not say.
    pub fn children(&self) -> Result<Vec<u32>> {
        let mut children = Vec::new();
        for process in std::fs::read_dir("/proc")? {
            let process = process?;
            let Ok(id) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
            // It may be gone by now.
            let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { continue };
            // After the name, which may hold anything: the state, then the parent.
            let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
            let (state, parent) = (fields.next(), fields.next());
            if parent == Some(&self.child.id().to_string()) && state != Some("Z") {
                children.push(id);
            }
        }
        Ok(children)
    }

    /// Kills the process as `kill -9` does and starts it again on the same data and addresses.
    ///
    /// # Errors
    /// It does not come back.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.crash()?;
        self.start_again()
    }

    /// Kills the process as `kill -9` does.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn crash(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends the process by SIGTERM, in order, and starts it again on the same data and addresses.
    ///
    /// # Errors
    /// It does not end well, or does not come back.
    pub fn stop_and_restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start_again()
    }

    /// Asks the process by SIGTERM to end.
    ///
    /// # Errors
    /// It is gone already.
    pub fn ask_to_stop(&self) -> Result<()> {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        ensure!(killed.success(), "kill failed");
        Ok(())
    }

    /// Ends the process by SIGTERM and waits for its end.
    ///
    /// # Errors
    /// It does not end well.
    pub fn stop(&mut self) -> Result<()> {
        self.ask_to_stop()?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the broker ended with {status}");
        Ok(())
    }

    /// Starts a process that ended again, on the same data and addresses.
    ///
    /// # Errors
    /// It does not come back.
    pub fn start_again(&mut self) -> Result<()> {
        let [listen, admin, http] = self.addresses();
        let sluice = sluice_command(&self.environment);
        (self.child, self.ready) = start(sluice, &self.data_dir, &self.options, [&listen, &admin, &http])?;
        Ok(())
    }

    /// Starts a process that ended again, and kills it as `kill -9` does after this time, ready or not.
    ///
    /// # Errors
    /// It cannot be started or killed.
    pub async fn start_and_crash(&mut self, after: Duration) -> Result<()> {
        let [listen, admin, http] = self.addresses();
        let mut sluice =
            serve_command(sluice_command(&self.environment), &self.data_dir, &self.options, [&listen, &admin, &http]);
        let mut child = sluice.spawn()?;
        tokio::time::sleep(after).await;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    fn addresses(&self) -> [String; 3] {
        let Ready { listen, admin, http, .. } = &self.ready;
        [listen, admin, http].map(|address| address.trim_start_matches("https://").to_owned())
    }

    /// Address of the QUIC listener.
    pub fn address(&self) -> &str {
        &self.ready.listen
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// How to trust it.
    pub fn trust(&self) -> Trust {
        Trust::Certificate(self.ready.certificate.clone())
    }

    /// A client without a token.
    pub fn client(&self) -> Client {
        Client::builder(self.address(), self.trust()).build()
    }

    /// A client with a token.
    pub fn client_with(&self, token: &str) -> Client {
        Client::builder(self.address(), self.trust()).token(token).build()
    }

    /// The admin API, with or without a token.
    ///
    /// # Errors
    /// The certificate cannot be read.
    pub fn admin(&self, token: Option<&str>) -> Result<Admin> {
        Ok(Admin::new(&self.ready.admin, &self.trust(), token.map(str::to_owned))?)
    }

    /// Base URL of the admin API.
    pub fn admin_url(&self) -> &str {
        &self.ready.admin
    }

    /// Base URL of the HTTPS door for messages.
    pub fn http_url(&self) -> &str {
        &self.ready.http
    }

    /// Makes a topic `t` and a group `g` on it.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn topic_and_group(&self, topic: TopicSettings, group: GroupSettings) -> Result<(TopicName, GroupName)> {
        let (topic_name, group_name) = (TopicName::parse("t")?, GroupName::parse("g")?);
        let admin = self.admin(None)?;
        admin.create_topic(&CreateTopic { name: topic_name.clone(), settings: topic }).await?;
        let group = CreateGroup::new(group_name.clone(), topic_name.clone(), group);
        admin.create_group(&group).await?;
        Ok((topic_name, group_name))
    }

    /// Runs `sluice` with these arguments against this broker.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn sluice(&self, arguments: &[&str]) -> Result<Output> {
        let certificate = self.ready.certificate.to_str().context("temporary paths are UTF-8")?;
        let place = ["--broker", &self.ready.listen, "--admin", &self.ready.admin, "--certificate", certificate];
        Ok(Command::new(sluice()).args(arguments).args(place).stdin(Stdio::null()).output()?)
    }

    /// Runs one of `examples/` against this broker to its end, and answers what it printed.
    ///
    /// # Errors
    /// It is not built, or it fails: with all that it said.
    pub fn example(&self, name: &str, arguments: &[&str]) -> Result<String> {
        let program = sluice().with_file_name(format!("sluicegate-example-{name}"));
        let mut command = Command::new(&program);
        command.args(arguments).env("SLUICE_BROKER", &self.ready.listen).env("SLUICE_ADMIN", &self.ready.admin);
        command.env("SLUICE_CERTIFICATE", &self.ready.certificate).stdin(Stdio::null());
        let ran = command.output().with_context(|| format!("{}: run `cargo xtask test`", program.display()))?;
        let [printed, said] = [ran.stdout, ran.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        ensure!(ran.status.success(), "example `{name}` failed, {}:\n{printed}{said}", ran.status);
        Ok(printed)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The system chooses the ports.
const ANY: [&str; 3] = ["127.0.0.1:0"; 3];

fn sluice_command(environment: &[(OsString, OsString)]) -> Command {
    let mut command = Command::new(sluice());
    command.envs(environment.iter().cloned());
    command
}

fn serve_command(
    mut sluice: Command,
    data_dir: &Path,
    options: &[String],
    [listen, admin, http]: [&str; 3],
) -> Command {
    sluice
        .args(["serve", "--listen", listen, "--admin-listen", admin, "--http-listen", http, "--data-dir"])
        .arg(data_dir)
        .args(options)
        .args(["-o", "json"])
        .env("SLUICE_LOG", std::env::var("SLUICE_LOG").unwrap_or_else(|_| "warn".into()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    sluice
}

fn start(sluice: Command, data_dir: &Path, options: &[String], addresses: [&str; 3]) -> Result<(Child, Ready)> {
    let mut child = serve_command(sluice, data_dir, options, addresses).spawn()?;
    let stdout = child.stdout.take().context("stdout is piped")?;
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line)?;
    if line.is_empty() {
        bail!("the broker ended before it was ready: {}", child.wait()?);
    }
    Ok((child, serde_json::from_str(&line)?))
}

/// Runs `sluice serve` to its end and answers its exit code and what it said on stderr.
///
/// # Errors
/// It cannot be started.
pub fn serve_to_end(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut child = Command::new(sluice())
        .arg("serve")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut text = String::new();
    child.stderr.take().context("stderr is piped")?.read_to_string(&mut text)?;
    Ok((child.wait()?.code(), text))
}

/// How long a test waits for what must happen; far above what it takes.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until no row is left of groups and topics that were deleted.
///
/// # Errors
/// Some are left.
pub async fn removed(broker: &Broker) -> Result<()> {
    let http = reqwest::Client::builder().tls_backend_preconfigured(broker.trust().tls_config()?).no_proxy().build()?;
    let url = format!("{}/metrics", broker.admin_url());
    let removed = async {
        loop {
            let page = openmetrics::Page::parse(&http.get(&url).send().await?.text().await?)?;
            if page.count("sluicegate_deletions", &[])? == 0 {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.context("rows are left")?
}
