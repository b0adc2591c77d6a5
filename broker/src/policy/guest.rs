//! What the host keeps beside a guest: its memory limit, its overtime, its log.

use std::collections::VecDeque;
use std::time::Duration;

use cpu_time::ThreadTime;
use serde::{Deserialize, Serialize};
use sluicegate_protocol::Timestamp;
use wasmtime::{ResourceLimiter, UpdateDeadline};

use super::limits::{
    INSTANCES_MAX, LAST_WORDS_MAX, LOG_LINE_BYTES_MAX, LOG_LINES_PER_SECOND, MEMORIES_MAX, MEMORY_BYTES_MAX,
    OVERTIME_CPU_MAX, OVERTIME_TICKS_MAX, TABLE_ELEMENTS_MAX, TABLES_MAX,
};
use super::wit::host;

/// The store's own data.
#[derive(Default)]
pub(super) struct Guest {
    pub(super) memory: MemoryLimit,
    pub(super) overtime: Overtime,
    pub(super) log: GuestLog,
}

/// Grants memory up to the limit and remembers what was refused.
#[derive(Default)]
pub(super) struct MemoryLimit {
    /// Bytes that its memory has.
    pub(super) granted: usize,
    /// Bytes asked for beyond the limit.
    pub(super) refused: Option<usize>,
}

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        if desired > MEMORY_BYTES_MAX {
            self.refused = Some(desired);
            // A refusal would only make the guest abort without a word.
            wasmtime::bail!("memory limit");
        }
        self.granted = desired.max(self.granted);
        Ok(true)
    }

    fn table_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}

/// Tells a guest that computes too long from one whose thread the machine did not run.
#[derive(Default)]
pub(super) struct Overtime {
    ticks: u32,
    cpu_at_deadline: Duration,
}

impl Overtime {
    /// What to do at the deadline, and at each tick after it.
    pub(super) fn check(&mut self) -> UpdateDeadline {
        let cpu = ThreadTime::now().as_duration();
        self.ticks += 1;
        if self.ticks == 1 {
            self.cpu_at_deadline = cpu;
            return UpdateDeadline::Continue(1);
        }
        let used = cpu.saturating_sub(self.cpu_at_deadline);
        match used >= OVERTIME_CPU_MAX || self.ticks > OVERTIME_TICKS_MAX {
            true => UpdateDeadline::Interrupt,
            false => UpdateDeadline::Continue(1),
        }
    }
}

/// A line that a guest wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    /// 1 error, 2 warn, 3 info, 4 debug.
    pub(crate) level: u32,
    /// At most [`LOG_LINE_BYTES_MAX`].
    pub(crate) text: String,
}

/// Lines that a guest writes, on their way into the broker's log.
#[derive(Default)]
pub(super) struct GuestLog {
    group: String,
    policy: String,
    pub(super) now: Timestamp,
    /// The last line of level error: a panic's message, if a trap follows.
    pub(super) last_error: Option<String>,
    /// The last lines, oldest first; at most [`LAST_WORDS_MAX`].
    pub(super) last_words: VecDeque<LogLine>,
    window: u64,
    lines: u32,
}

impl GuestLog {
    pub(super) fn of(group: &str, policy: &str, now: Timestamp) -> Self {
        Self { group: group.into(), policy: policy.into(), now, ..Self::default() }
    }

    fn write(&mut self, level: u32, text: &str) {
        let line = one_line(text);
        let window = self.now.as_millis() / 1_000;
        if window != self.window {
            let dropped = self.lines.saturating_sub(LOG_LINES_PER_SECOND);
            if dropped > 0 {
                tracing::warn!(group = self.group, policy = self.policy, dropped, "a policy logs too much");
            }
            (self.window, self.lines) = (window, 0);
        }
        self.lines = self.lines.saturating_add(1);
        if self.lines <= LOG_LINES_PER_SECOND {
            let (group, policy) = (&self.group, &self.policy);
            match level {
                1 => tracing::error!(group, policy, "policy says: {line}"),
                2 => tracing::warn!(group, policy, "policy says: {line}"),
                3 => tracing::info!(group, policy, "policy says: {line}"),
                _ => tracing::debug!(group, policy, "policy says: {line}"),
            }
        }
        if level == 1 {
            self.last_error = Some(line.clone());
        }
        if self.last_words.len() >= LAST_WORDS_MAX {
            self.last_words.pop_front();
        }
        self.last_words.push_back(LogLine { level, text: line });
    }
}

/// At most [`LOG_LINE_BYTES_MAX`] bytes, without control characters.
pub(super) fn one_line(text: &str) -> String {
    let end = text.floor_char_boundary(LOG_LINE_BYTES_MAX);
    text[..end].replace(char::is_control, " ")
}

impl host::Host for Guest {
    fn log(&mut self, level: u32, text: String) {
        self.log.write(level, &text);
    }
}
