//! Why a policy is not taken, and how one that was taken fails.

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
    #[error("the component does not compile: {0}")]
    DoesNotCompile(String),
    #[error("the component's types are not those of {ours}: {text}; rebuild it with this broker's SDK")]
    OtherTypes { ours: String, text: String },
    #[error("the policy does not describe itself: {0}")]
    Faulted(#[from] PolicyFault),
    #[error("the policy's description is refused: {0}")]
    BadDescriptor(String),
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
