//! What a policy may use. Every limit of the sandbox is here.

use std::time::Duration;

use sluicegate_protocol::admin::{self, CapsuleLimits};
use sluicegate_protocol::limits::{POLICY_BYTES_MAX, POLICY_CONFIG_BYTES_MAX};

/// Linear memory of one instance.
pub(super) const MEMORY_BYTES_MAX: usize = 16 << 20;
/// Entries of all function tables of one instance.
pub(super) const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Core instances inside a component: its module and the shims that tooling adds.
pub(super) const INSTANCES_MAX: usize = 16;
/// Tables inside a component.
pub(super) const TABLES_MAX: usize = 16;
/// Memories inside a component: one, so that the limit of its bytes is the limit of the instance.
pub(super) const MEMORIES_MAX: usize = 1;
/// Wasm stack; must fit the calling thread's.
pub(super) const STACK_BYTES_MAX: usize = 256 << 10;
/// Bytes that one call may hand to the host, as wasmtime counts them: above the largest state.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Bytes of a snapshot.
pub(super) const STATE_BYTES_MAX: usize = 1 << 20;

/// Names that an instance is taken to remember; beyond it the oldest are forgotten, [`NAMES_FORGOTTEN`] at a time.
pub(super) const NAMES_MAX: usize = 100_000;
/// Names forgotten at once.
pub(super) const NAMES_FORGOTTEN: usize = 4_096;

/// Bytes of one line in the log; the rest is cut.
pub(super) const LOG_LINE_BYTES_MAX: usize = 1 << 10;
/// Lines in the log per instance and second; the rest is counted.
pub(super) const LOG_LINES_PER_SECOND: u32 = 10;

/// Lines of the log that are kept with an instance, for when it fails.
pub(super) const LAST_WORDS_MAX: usize = 32;

/// Bytes of a policy's name and of its version.
pub(super) const LABEL_BYTES_MAX: usize = 64;
/// Reasons that a policy may declare.
pub(super) const REASONS_MAX: usize = 64;
/// Bytes of one reason.
pub(super) const REASON_BYTES_MAX: usize = 128;
/// Bytes of the name of a message property that a policy may want.
pub(super) const PROPERTY_BYTES_MAX: usize = 128;
/// Columns that a policy may want.
pub(super) const WANTS_MAX: usize = 8;

/// Bytes of a configuration's schema.
pub(super) const CONFIG_SCHEMA_BYTES_MAX: usize = 64 << 10;

/// Bytes of the code that a policy is compiled to. Usual is three times the component.
pub(super) const CODE_BYTES_MAX: usize = 16 * POLICY_BYTES_MAX;

/// What a worker, the process that compiles or looks at a schema, may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkLimits {
    /// Processor time, in seconds.
    pub(super) cpu_seconds: u64,
    /// From start to end, however busy the machine is.
    pub(super) patience: Duration,
    /// Address space: the program itself, its heap, its stack.
    pub(super) memory_bytes: u64,
    /// What it hands back.
    pub(super) answer_bytes: usize,
}

impl WorkLimits {
    /// To compile a component. One of the largest size that is taken needs a second or two, and 200 MiB.
    pub(super) const COMPILE: Self = Self {
        cpu_seconds: 10,
        patience: Duration::from_secs(40),
        memory_bytes: 1 << 30,
        answer_bytes: CODE_BYTES_MAX,
    };
    /// To look at a schema, or hold a configuration against one. Usual is a millisecond.
    pub(super) const SCHEMA: Self =
        Self { cpu_seconds: 2, patience: Duration::from_secs(10), memory_bytes: 1 << 29, answer_bytes: 64 << 10 };
}

/// Shortest and longest throttle.
pub(super) const THROTTLE: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(1);
/// Longest validity of an answer.
pub(super) const VALID_MAX: Duration = Duration::from_mins(1);

/// Processor time that a call may use after its deadline passed: within it, the thread was not running, and the wait is the
/// machine's fault.
pub(super) const OVERTIME_CPU_MAX: Duration = Duration::from_millis(1);
/// Ticks of overtime after which a call ends whatever the reason.
pub(super) const OVERTIME_TICKS_MAX: u32 = 100;

/// Part of a core, in percent, that the guest of a group may use on its shard.
pub(super) const SHARD_PERCENT: u32 = 10;
/// What it may use at once: that part of 100 ms.
pub(super) const SHARD_BURST: Duration = Duration::from_millis(10);
/// A frame that takes longer is the last on the shard.
pub(super) const SHARD_FRAME_MAX: Duration = Duration::from_millis(1);
/// A guest comes back to the shard when it was calm for so long: below [`CALM_PERCENT`], with no frame above [`CALM_FRAME_MAX`].
pub(super) const CALM_FOR: Duration = Duration::from_secs(10);
/// See [`CALM_FOR`].
pub(super) const CALM_PERCENT: u32 = 5;
/// That part of 100 ms.
pub(super) const CALM_BURST: Duration = Duration::from_millis(5);
/// See [`CALM_FOR`].
pub(super) const CALM_FRAME_MAX: Duration = Duration::from_micros(500);
/// Part of a core, in percent, that the guest of a group may use on policy threads.
pub(super) const THREAD_PERCENT: u32 = 25;
/// What it may use at once: that part of 1 s.
pub(super) const THREAD_BURST: Duration = Duration::from_millis(250);
/// A guest that wants more for so long is struck, and again each time so much later.
pub(super) const OVERSPENT_FOR: Duration = Duration::from_secs(10);

/// What one entry into a guest may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    /// Wasm instructions, roughly. The real limit: the same calls use the same fuel on every machine.
    pub(super) fuel: u64,
    /// Ticks of 1 ms until [overtime](OVERTIME_CPU_MAX); k ticks are between k - 1 and k milliseconds.
    pub(super) ticks: u64,
}

impl Budget {
    /// To make an instance, or to take or restore its state.
    pub(super) const RARE: Self = Self { fuel: 50_000_000, ticks: 50 };

    /// To answer one ask where nobody waits: the same fuel, and time enough on a busy machine, so that the outcome is the same everywhere.
    pub(super) fn untimed(rows: usize) -> Self {
        Self { ticks: 10_000, ..Self::ask(rows) }
    }

    /// To answer one ask with this many rows, names and feedback included.
    pub(super) const fn ask(rows: usize) -> Self {
        Self { fuel: 1_000_000 + 4_000 * rows as u64, ticks: 3 }
    }

    /// What asks may use, for a capsule.
    pub(super) const fn limits() -> CapsuleLimits {
        let Self { fuel, .. } = Self::ask(0);
        let Self { fuel: with_row, ticks } = Self::ask(1);
        CapsuleLimits { memory_bytes: MEMORY_BYTES_MAX as u64, fuel, fuel_per_row: with_row - fuel, deadline_ms: ticks }
    }
}

/// What a policy may use, as operators are told.
pub(crate) const fn limits() -> admin::PolicyLimits {
    let Budget { fuel, .. } = Budget::ask(0);
    let Budget { fuel: with_row, ticks } = Budget::ask(1);
    admin::PolicyLimits {
        memory_bytes: MEMORY_BYTES_MAX as u64,
        stack_bytes: STACK_BYTES_MAX as u64,
        fuel_per_frame: fuel,
        fuel_per_row: with_row - fuel,
        deadline_ms: ticks,
        state_bytes: STATE_BYTES_MAX as u64,
        config_bytes: POLICY_CONFIG_BYTES_MAX as u64,
    }
}
