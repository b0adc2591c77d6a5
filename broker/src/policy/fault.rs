//! Why a policy is not taken, and how one that was taken fails.

use super::compiler::WorkFailed;
use super::schema::ConfigProblem;

/// Why uploaded bytes are not a policy of this broker. Each text says what would help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyRejected {
    #[error("the policy has {bytes} bytes, at most {max} are taken: build it with `sluice policy build`")]
    TooLarge { bytes: usize, max: usize },
    #[error("this is not Wasm: upload the .wasm file that `sluice policy build` writes")]
    NotWasm,
    #[error("this is a core module, not a component: build it with `sluice policy build`")]
    CoreModule,
    #[error("this is precompiled native code, which is never run: upload the portable .wasm file")]
    Precompiled,
    #[error("the policy was built for {theirs}, this broker offers {ours}: rebuild it with this broker's SDK")]
    OtherVersion { theirs: String, ours: String },
    #[error("the component exports {exports}, not {wanted}: does the crate say `export_policy!`?")]
    OtherWorld { exports: String, wanted: &'static str },
    #[error("the policy imports `{name}`, a broker offers `{offered}` only: {help}")]
    ForeignImport { name: String, offered: &'static str, help: &'static str },
    /// What it does to the compiler, or what the compiler says of it.
    #[error("the component does not compile: {0}")]
    DoesNotCompile(WorkFailed),
    #[error("the component's types are not those of {ours}: {text}; rebuild it with this broker's SDK")]
    OtherTypes { ours: String, text: String },
    #[error("the component has {what}, at most {max} are allowed")]
    TooManyParts { what: String, max: usize },
    #[error("the policy does not describe itself: {0}")]
    Faulted(#[from] PolicyFault),
    #[error("the policy's description is refused: {0}")]
    BadDescriptor(String),
    #[error("the policy's config-schema is refused: {0}")]
    BadSchema(WorkFailed),
}

impl PolicyRejected {
    /// Nothing is known of it, since nothing could look.
    pub(super) fn no_worker(error: &dyn std::fmt::Display) -> Self {
        Self::DoesNotCompile(WorkFailed::NoWorker(error.to_string()))
    }

    /// It is the broker's fault, and may go better another time.
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self, Self::DoesNotCompile(WorkFailed::NoWorker(_)) | Self::BadSchema(WorkFailed::NoWorker(_)))
    }
}

/// Why a configuration does not fit a policy's schema.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigRefused {
    /// The first problem, and the others that were found.
    #[error("config{}: {}{}", place(.0), .0.problem, others(.1))]
    Problems(ConfigProblem, Vec<ConfigProblem>),
    /// To hold this configuration against this schema takes too much.
    #[error("config: it cannot be held against the policy's config-schema: {0}")]
    Unchecked(WorkFailed),
}

fn place(problem: &ConfigProblem) -> String {
    if problem.path.is_empty() { String::new() } else { format!(" at {}", problem.path) }
}

fn others(others: &[ConfigProblem]) -> String {
    if others.is_empty() { String::new() } else { format!(" (and {} more)", others.len()) }
}

/// How a policy failed. After each of these but [`PolicyFault::Config`] and [`PolicyFault::Overspent`] the instance is never entered
/// again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyFault {
    /// The guest's panic message where it could say one, else the trap's own text.
    #[error("the policy trapped: {0}")]
    Trap(String),
    /// Deterministic: the same call runs out on every machine.
    #[error("the policy used up its fuel of {fuel} for this call")]
    OutOfFuel {
        /// What it had.
        fuel: u64,
    },
    /// The limit of wall-clock time.
    #[error("the policy was still computing {ticks} ms after it was asked")]
    Deadline {
        /// Milliseconds that it had.
        ticks: u64,
    },
    /// The limit of linear memory.
    #[error("the policy asked for {asked} bytes of memory, at most {max} are given")]
    Memory {
        /// Bytes that it would have had.
        asked: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// It has the wrong shape, or the host could not read it.
    #[error("the policy's answer is refused: {0}")]
    BadAnswer(String),
    /// The policy's own words about its configuration.
    #[error("{0}")]
    Config(String),
    /// Its guest goes on.
    #[error("the policy wanted more than {percent} % of a core for {seconds} s")]
    Overspent {
        /// Part of a core, in percent, that it may use.
        percent: u32,
        /// Seconds for which it wanted more.
        seconds: u64,
    },
    /// It failed in an earlier call.
    #[error("the policy failed earlier and was not restarted")]
    Poisoned,
}
