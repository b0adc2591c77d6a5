//! Traffic that was recorded, as the simulation takes it: which file is what, and what all of them come to.
//!
//! Whatever a file is, it becomes [`Job`]s with names, and the group that they came to. A file of the public Azure format names neither
//! tenants nor service times, so they are given by rule ([`azure`]); a recording has both ([`recorded`]).

mod azure;
mod recorded;

use std::path::Path;
use std::time::Duration;

use sluicegate_scheduler::simulation::{Group, Job, Names};

use crate::demo::trace::Trace;
use crate::exit::WrongInput;

/// Messages read of one file; the rest is left, and that is said.
pub(super) const MESSAGES_MAX: usize = 2_000_000;

/// What came when, and who works on it.
#[derive(Debug, Clone)]
pub(super) struct Traffic {
    /// What it is, in words.
    pub(super) source: String,
    pub(super) names: Names,
    /// In the order of their times; at least one.
    pub(super) jobs: Vec<Job>,
    /// The group, as far as the file knows it.
    pub(super) group: Group,
    /// How what the file does not say was chosen, for the report.
    pub(super) notes: Vec<String>,
}

/// What a reader has to be told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choices {
    /// Of everything that is drawn.
    pub(super) seed: u64,
    /// Tenants that messages without one are given to.
    pub(super) tenants: u32,
}

impl Traffic {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// It cannot be read, or is neither: with file, line and what was expected.
    pub(super) fn read(path: &Path, choices: Choices) -> anyhow::Result<Self> {
        let wrong = |error: anyhow::Error| anyhow::Error::from(WrongInput(format!("{error:#}")));
        match recorded::is_recording(path).map_err(wrong)? {
            true => recorded::read(path, choices).map_err(wrong),
            false => Ok(azure::assign(&Trace::read(path).map_err(wrong)?, choices)),
        }
    }

    /// Has the same come so many times as fast. The work takes as long as before.
    pub(super) fn speed_up(&mut self, factor: f64) {
        for job in &mut self.jobs {
            job.at = micros(job.at.div_f64(factor));
        }
    }

    /// From the first message until the last has had time to be worked on, in whole seconds.
    pub(super) fn span(&self) -> Duration {
        let last = self.jobs.last().map_or(Duration::ZERO, |job| job.at);
        let work = self.jobs.iter().map(|job| job.service).max().unwrap_or_default();
        Duration::from_secs((last + work).as_secs() + 1)
    }
}

/// Slots that are busy on average when so much work comes in this time, rounded up: what the traffic needs at the least.
fn slots_for(jobs: &[Job]) -> u32 {
    let span = jobs.last().map_or(Duration::ZERO, |job| job.at).max(Duration::from_secs(1));
    let attempts = jobs.iter().map(|job| job.service.as_micros() * u128::from(job.failures + 1));
    let slots = attempts.sum::<u128>().div_ceil(span.as_micros());
    u32::try_from(slots).unwrap_or(u32::MAX).clamp(1, sluicegate_protocol::limits::CREDIT_MESSAGES_MAX)
}

/// Virtual time has whole microseconds.
fn micros(duration: Duration) -> Duration {
    Duration::from_micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::{LiteId, TenantId};

    use super::*;

    #[test]
    fn as_many_slots_as_the_work_needs() {
        let job = |at, service, failures| Job {
            service: Duration::from_millis(service),
            failures,
            ..Job::new(Duration::from_secs(at), TenantId(1), LiteId(1))
        };
        assert_eq!(slots_for(&[job(0, 4_000, 0), job(10, 6_001, 0)]), 2);
        assert_eq!(slots_for(&[job(0, 1_000, 9), job(10, 0, 0)]), 1);
        assert_eq!(slots_for(&[job(0, 0, 0)]), 1);
    }
}
