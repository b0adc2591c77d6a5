//! Work on bytes that nobody has checked yet, in a process of its own that can hurt nobody but itself.
//!
//! A component can make a compiler use any amount of time and memory, or crash it; so can a schema. The worker is this same program, started
//! by the [compiler](super::compiler) for one job: it limits itself before it reads a byte, and what it has to say is its standard output.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use sluicegate_protocol::limits::{POLICY_BYTES_MAX, POLICY_CONFIG_BYTES_MAX};

use super::engine::engine;
use super::limits::{CONFIG_SCHEMA_BYTES_MAX, WorkLimits};
use super::schema;

/// First byte of the answer of a worker that did its job.
pub(super) const DONE: u8 = b'+';
/// First byte of the answer of a worker that says why it cannot.
pub(super) const REFUSED: u8 = b'-';

/// Bytes that a job is given: a component, or a schema and a configuration as JSON, where each byte may be six.
const INPUT_BYTES_MAX: usize = 6 * (POLICY_CONFIG_BYTES_MAX + CONFIG_SCHEMA_BYTES_MAX) + POLICY_BYTES_MAX;

/// How far a worker gives way to all others.
#[cfg(unix)]
const NICENESS: i32 = 10;

/// Exit code of a worker that could not limit itself, or was started by somebody else.
const NOT_DONE: u8 = 3;

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Job {
    /// Component to code.
    Compile,
    /// Schema to nothing, if it is one.
    CheckSchema,
    /// [Schema and configuration](schema::Pair) to what is wrong with it.
    CheckConfig,
}

impl Job {
    const ALL: [Self; 3] = [Self::Compile, Self::CheckSchema, Self::CheckConfig];

    /// On the worker's command line.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Compile => "compile",
            Self::CheckSchema => "check-schema",
            Self::CheckConfig => "check-config",
        }
    }

    pub(super) const fn limits(self) -> WorkLimits {
        match self {
            Self::Compile => WorkLimits::COMPILE,
            Self::CheckSchema | Self::CheckConfig => WorkLimits::SCHEMA,
        }
    }

    /// The job itself. The error is for whoever sent the input.
    pub(super) fn run(self, input: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Compile => {
                let compiled = engine().and_then(|engine| engine.precompile_component(input));
                compiled.map_err(|error| format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "))
            }
            Self::CheckSchema => {
                let schema = str::from_utf8(input).map_err(|error| error.to_string())?;
                schema::check(schema).map(|()| Vec::new())
            }
            Self::CheckConfig => {
                let pair = serde_json::from_slice(input).map_err(|error| error.to_string())?;
                let problems = schema::problems(&pair)?;
                Ok(serde_json::to_vec(&problems).expect("it is plain text"))
            }
        }
    }
}

/// Does one job on standard input and ends. For the hidden subcommand by which a broker starts this program again.
#[must_use]
pub fn policy_worker(job: &str) -> ExitCode {
    let Some(job) = Job::ALL.into_iter().find(|known| known.name() == job) else {
        eprintln!("no job `{job}`");
        return ExitCode::from(NOT_DONE);
    };
    match limit_itself(job.limits()).and_then(|()| work(job)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(NOT_DONE)
        }
    }
}

#[cfg(unix)]
fn limit_itself(limits: WorkLimits) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, nice, setrlimit};
    // That a system forbids it does no harm.
    let _ = nice(NICENESS);
    // Where a machine has no memory left, this process goes before the broker. Not every system has the file.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    // Nothing of it is written to the disk, a picture of its memory least of all. At the first limit of processor time a signal says what
    // happened; the second cannot be missed.
    let limits = [
        (Resource::Core, 0, 0),
        (Resource::Fsize, 0, 0),
        (Resource::Cpu, limits.cpu_seconds, limits.cpu_seconds + 1),
        (Resource::As, limits.memory_bytes, limits.memory_bytes),
    ];
    for (resource, current, maximum) in limits {
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?;
    }
    Ok(())
}

#[cfg(not(unix))]
fn limit_itself(_: WorkLimits) -> io::Result<()> {
    Err(io::Error::other("this system has no limits for a process"))
}

fn work(job: Job) -> io::Result<()> {
    let mut input = Vec::new();
    io::stdin().lock().take(INPUT_BYTES_MAX as u64).read_to_end(&mut input)?;
    let (first, answer) = match job.run(&input) {
        Ok(answer) => (DONE, answer),
        Err(text) => (REFUSED, text.into_bytes()),
    };
    let mut stdout = io::stdout().lock();
    stdout.write_all(&[first])?;
    stdout.write_all(&answer)?;
    stdout.flush()
}
