//! What is known of a run when it is over.

use std::time::Duration;

use crate::compute::{Job, SLOTS};

/// Jobs, as they ended.
pub(crate) struct Record(pub(crate) Vec<Job>);

impl Record {
    /// Slots that interactive and batch work had at this moment.
    pub(crate) fn slots_at(&self, moment: Duration) -> (u32, u32) {
        let had = |is_batch| {
            let running = |job: &&Job| job.is_batch == is_batch && (job.began..job.ended).contains(&moment);
            u32::try_from(self.0.iter().filter(running).count()).expect("there are few slots")
        };
        (had(false), had(true))
    }

    pub(crate) fn batch(&self) -> impl Iterator<Item = &Job> {
        self.0.iter().filter(|job| job.is_batch)
    }

    pub(crate) fn interactive(&self) -> impl Iterator<Item = &Job> {
        self.0.iter().filter(|job| !job.is_batch)
    }

    pub(crate) fn end(&self) -> Duration {
        self.0.iter().map(|job| job.ended).max().unwrap_or_default()
    }

    /// When the compute was busy, as the policy sees it: from above one share of the slots until below another.
    pub(crate) fn busy(&self, above: f64, below: f64) -> Vec<(Duration, Duration)> {
        let mut changes: Vec<_> = self.0.iter().flat_map(|job| [(job.began, 1), (job.ended, -1)]).collect();
        changes.sort_unstable();
        let (mut taken, mut since, mut spans) = (0, None, Vec::new());
        for (at, change) in changes {
            taken += change;
            let load = f64::from(taken) / f64::from(SLOTS);
            if load > above {
                since.get_or_insert(at);
            } else if load < below
                && let Some(since) = since.take()
            {
                spans.push((since, at));
            }
        }
        spans
    }
}
