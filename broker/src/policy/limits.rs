//! What a policy may use. Every limit of the sandbox is here.

use std::time::Duration;

use sluicegate_protocol::admin::CapsuleLimits;

/// Linear memory of one instance.
pub(super) const MEMORY_BYTES_MAX: usize = 16 << 20;
/// Entries of all function tables of one instance.
pub(super) const TABLE_ELEMENTS_MAX: usize = 10_000;
/// Core instances inside a component: its module and the shims that tooling adds.
pub(super) const INSTANCES_MAX: usize = 16;
/// Tables inside a component.
pub(super) const TABLES_MAX: usize = 16;
/// Memories inside a component.
pub(super) const MEMORIES_MAX: usize = 4;
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
/// [`Budget::fuel`] of an ask without rows.
const ASK_FUEL: u64 = 1_000_000;
/// [`Budget::fuel`] for each row of an ask, names and feedback included.
const ASK_FUEL_PER_ROW: u64 = 4_000;
/// [`Budget::ticks`] of an ask.
const ASK_TICKS: u64 = 3;

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

    /// To answer one ask with this many rows, names and feedback included.
    pub(super) fn ask(rows: usize) -> Self {
        Self { fuel: ASK_FUEL + ASK_FUEL_PER_ROW * rows as u64, ticks: ASK_TICKS }
    }

    /// What asks may use, for a capsule.
    pub(super) const fn limits() -> CapsuleLimits {
        CapsuleLimits {
            memory_bytes: MEMORY_BYTES_MAX as u64,
            fuel: ASK_FUEL,
            fuel_per_row: ASK_FUEL_PER_ROW,
            deadline_ms: ASK_TICKS,
        }
    }
}
