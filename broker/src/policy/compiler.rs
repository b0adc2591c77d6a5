//! Has [work](super::worker) done, and tells how it went wrong.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use super::guest::one_line;
use super::limits::WorkLimits;
use super::worker::{DONE, Job, REFUSED};

/// Bytes of what a worker complains about that are read.
const COMPLAINT_BYTES_MAX: usize = 4 << 10;
/// What the standard library says when memory is refused, before it ends the process.
const OUT_OF_MEMORY: &str = "memory allocation of";

/// Exit code of a Rust program that panicked.
const PANICKED: i32 = 101;

/// What mimalloc, which `sluice` has, reserves at a time: 64 MiB, in KiB. Its own gibibyte is beyond a worker's limit, and a crash.
const ARENA_RESERVE: (&str, &str) = ("MIMALLOC_ARENA_RESERVE", "65536");

/// Name of the hidden subcommand, before the job's.
const SUBCOMMAND: &str = "policy-worker";

/// Where uploaded components are compiled, and schemas are looked at.
#[derive(Debug, Clone)]
pub enum PolicyCompiler {
    /// In processes of this program, each started with `policy-worker` and a job, which then calls [`policy_worker`](crate::policy_worker).
    /// Whatever a component does to the compiler, the broker does not notice.
    Program(PathBuf),
    /// In this process, without limits: where components are trusted and there is no such program, as in unit tests.
    Here,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WorkFailed {
    /// The worker's own words about its input.
    #[error("{0}")]
    Refused(String),
    #[error("it takes more than {cpu_seconds} s of processor time, or {patience_seconds} s in all")]
    TooLong { cpu_seconds: u64, patience_seconds: u64 },
    #[error("it takes more than {bytes} bytes of memory")]
    TooMuchMemory { bytes: u64 },
    #[error("it gives more than {max} bytes")]
    TooLargeAnswer { max: usize },
    /// Last words of a worker that crashed.
    #[error("it ends by a crash: {0}")]
    Crashed(String),
    /// Not the input's fault.
    #[error("the policy worker does not run: {0}")]
    NoWorker(String),
}

impl PolicyCompiler {
    /// Processes of the program that is running, also when its file was replaced since.
    ///
    /// # Errors
    /// The system does not say which program that is.
    pub fn this_program() -> io::Result<Self> {
        let own = PathBuf::from("/proc/self/exe");
        if own.exists() {
            return Ok(Self::Program(own));
        }
        std::env::current_exe().map(Self::Program)
    }

    /// Does a job. When this is dropped, the worker is killed.
    pub(super) async fn run(&self, job: Job, input: &[u8]) -> Result<Vec<u8>, WorkFailed> {
        match self {
            Self::Program(program) => {
                let mut command = Command::new(program);
                command.args([SUBCOMMAND, job.name()]);
                run(command, job.limits(), input).await
            }
            Self::Here => {
                let input = input.to_vec();
                let done = tokio::task::spawn_blocking(move || job.run(&input)).await;
                done.map_err(|error| WorkFailed::Crashed(error.to_string()))?.map_err(WorkFailed::Refused)
            }
        }
    }
}

async fn run(mut command: Command, limits: WorkLimits, input: &[u8]) -> Result<Vec<u8>, WorkFailed> {
    // It needs nothing of ours: no settings, no secrets.
    command.env_clear().current_dir("/").kill_on_drop(true);
    // But its allocator must not reserve as many addresses at once as it may have in all.
    command.env(ARENA_RESERVE.0, ARENA_RESERVE.1);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| no_worker(&error))?;
    let Ok(ended) = tokio::time::timeout(limits.patience, talk(&mut child, limits, input)).await else {
        // It may have ended just now.
        let _ = child.kill().await;
        return Err(too_long(limits));
    };
    let (answer, complaint, status) = ended?;
    match answer.split_first() {
        Some((_, answer)) if answer.len() > limits.answer_bytes => {
            Err(WorkFailed::TooLargeAnswer { max: limits.answer_bytes })
        }
        Some((&DONE, answer)) if status.success() => Ok(answer.to_vec()),
        Some((&REFUSED, text)) if status.success() => {
            Err(WorkFailed::Refused(one_line(&String::from_utf8_lossy(text))))
        }
        _ => Err(cause(status, &complaint, limits)),
    }
}

/// Gives a worker its input and hears it to its end.
async fn talk(
    child: &mut Child,
    limits: WorkLimits,
    input: &[u8],
) -> Result<(Vec<u8>, Vec<u8>, ExitStatus), WorkFailed> {
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (Some(mut stdin), Some(stdout), Some(stderr)) = pipes else { unreachable!("all three are piped") };
    let feed = async move {
        // One that ends before it has read everything says why on the others.
        let _ = stdin.write_all(input).await;
    };
    // Its verdict, and one byte more than it may say.
    let answer = read(stdout, limits.answer_bytes + 2);
    let ((), answer, complaint) = tokio::join!(feed, answer, read(stderr, COMPLAINT_BYTES_MAX));
    let status = child.wait().await.map_err(|error| no_worker(&error))?;
    Ok((answer.map_err(|error| no_worker(&error))?, complaint.map_err(|error| no_worker(&error))?, status))
}

async fn read(pipe: impl AsyncRead + Unpin, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(bytes_max as u64).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn cause(status: ExitStatus, complaint: &[u8], limits: WorkLimits) -> WorkFailed {
    let complaint = String::from_utf8_lossy(complaint);
    if complaint.contains(OUT_OF_MEMORY) {
        return WorkFailed::TooMuchMemory { bytes: limits.memory_bytes };
    }
    match signal(status) {
        Some(Ended::TimeUsedUp) => return too_long(limits),
        // Nobody but the system kills it so, and for this reason.
        Some(Ended::Killed) => return WorkFailed::TooMuchMemory { bytes: limits.memory_bytes },
        None if status.code() != Some(PANICKED) => {
            return WorkFailed::NoWorker(one_line(&format!("{status}: {}", complaint.trim())));
        }
        Some(Ended::Otherwise) | None => {}
    }
    let telling = |line: &&str| !line.is_empty() && !line.starts_with("note: ");
    let last = complaint.lines().map(str::trim).rfind(telling);
    WorkFailed::Crashed(one_line(last.unwrap_or(&status.to_string())))
}

/// The signal that ended it.
enum Ended {
    TimeUsedUp,
    Killed,
    Otherwise,
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<Ended> {
    use rustix::process::Signal;
    let signal = std::os::unix::process::ExitStatusExt::signal(&status)?;
    Some(match Signal::from_named_raw(signal) {
        Some(Signal::XCPU) => Ended::TimeUsedUp,
        Some(Signal::KILL) => Ended::Killed,
        _ => Ended::Otherwise,
    })
}

#[cfg(not(unix))]
fn signal(_: ExitStatus) -> Option<Ended> {
    None
}

fn too_long(limits: WorkLimits) -> WorkFailed {
    WorkFailed::TooLong { cpu_seconds: limits.cpu_seconds, patience_seconds: limits.patience.as_secs() }
}

fn no_worker(error: &io::Error) -> WorkFailed {
    WorkFailed::NoWorker(error.to_string())
}

#[cfg(all(test, unix))]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: WorkLimits =
        WorkLimits { cpu_seconds: 7, patience: Duration::from_secs(30), memory_bytes: 1 << 20, answer_bytes: 5 };

    /// What becomes of a worker that does this.
    async fn fate_within(limits: WorkLimits, script: &str, input: &[u8]) -> Result<Vec<u8>, WorkFailed> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]);
        run(shell, limits, input).await
    }

    async fn fate(script: &str) -> Result<Vec<u8>, WorkFailed> {
        fate_within(LIMITS, script, b"").await
    }

    #[tokio::test]
    async fn what_a_worker_says_is_its_answer_or_its_refusal() {
        assert_eq!(fate_within(LIMITS, "printf +; cat", b"12345").await, Ok(b"12345".to_vec()));
        assert_eq!(fate("printf -- '-a\\nb'").await, Err(WorkFailed::Refused("a b".into())));
        // One that does not want to hear more.
        let large = vec![0; 1 << 20];
        assert_eq!(fate_within(LIMITS, "printf +a", &large).await, Ok(b"a".to_vec()));
        assert_eq!(fate("printf +123456").await, Err(WorkFailed::TooLargeAnswer { max: 5 }));
        assert_eq!(fate("printf +; exec cat /dev/zero").await, Err(WorkFailed::TooLargeAnswer { max: 5 }));
    }

    #[tokio::test]
    async fn how_a_worker_ends_says_which_limit_it_met() {
        let memory = WorkFailed::TooMuchMemory { bytes: 1 << 20 };
        assert_eq!(fate("kill -XCPU $$").await, Err(WorkFailed::TooLong { cpu_seconds: 7, patience_seconds: 30 }));
        assert_eq!(fate("echo memory allocation of 5 bytes failed >&2; kill -ABRT $$").await, Err(memory.clone()));
        assert_eq!(fate("kill -KILL $$").await, Err(memory));
        assert_eq!(fate("echo overflowed >&2; kill -ABRT $$").await, Err(WorkFailed::Crashed("overflowed".into())));
        let panic = fate("printf 'panicked at x:\\nwhy\\nnote: run with\\n' >&2; exit 101").await;
        assert_eq!(panic, Err(WorkFailed::Crashed("why".into())));
        // Half an answer is none.
        assert!(matches!(fate("printf +1; kill -SEGV $$").await, Err(WorkFailed::Crashed(_))));
        assert!(matches!(fate("echo no >&2; exit 3").await, Err(WorkFailed::NoWorker(text)) if text.ends_with("no")));
        let nobody = run(Command::new("/nonexistent"), LIMITS, b"").await;
        assert!(matches!(nobody, Err(WorkFailed::NoWorker(_))), "{nobody:?}");
    }

    #[tokio::test]
    async fn a_worker_that_does_not_end_is_killed() {
        let impatient = WorkLimits { patience: Duration::from_millis(50), ..LIMITS };
        let failed = fate_within(impatient, "exec sleep 1000", b"").await;
        assert_eq!(failed, Err(WorkFailed::TooLong { cpu_seconds: 7, patience_seconds: 0 }));
    }
}
