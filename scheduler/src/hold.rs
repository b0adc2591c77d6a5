//! What holds a lite topic back until a time, and the timers that end it.

use std::collections::BTreeSet;

use sluicegate_protocol::{LiteId, Timestamp};

use crate::HoldSource;

/// The holds of one lite topic, one deadline for each source; a deadline that passed holds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Holds {
    by_source: [Timestamp; 4],
}

impl Holds {
    pub(crate) const NONE: Self = Self { by_source: [Timestamp(0); 4] };

    pub(crate) fn set(&mut self, source: HoldSource, until: Timestamp) {
        self.by_source[index(source)] = until;
    }

    pub(crate) fn of(&self, source: HoldSource) -> Timestamp {
        self.by_source[index(source)]
    }

    pub(crate) fn end(&mut self, source: HoldSource) {
        self.set(source, Timestamp(0));
    }

    /// When the last of them ends.
    pub(crate) fn until(&self) -> Timestamp {
        self.by_source.iter().copied().max().unwrap_or_default()
    }
}

const fn index(source: HoldSource) -> usize {
    match source {
        HoldSource::Settle => 0,
        HoldSource::Policy => 1,
        HoldSource::Operator => 2,
        HoldSource::Retry => 3,
    }
}

/// When held lite topics are looked at again: one timer for each of them, taken back when the hold changes. Those of the
/// same instant end in the order of their ids.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_time: BTreeSet<(Timestamp, LiteId)>,
}

impl Timers {
    pub(crate) fn start(&mut self, at: Timestamp, lite: LiteId) {
        self.by_time.insert((at, lite));
    }

    pub(crate) fn stop(&mut self, at: Timestamp, lite: LiteId) {
        let was_there = self.by_time.remove(&(at, lite));
        assert!(was_there, "a held lite topic has its timer");
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.by_time.first().map(|&(at, _)| at)
    }

    pub(crate) fn due(&self, now: Timestamp) -> Option<LiteId> {
        self.by_time.first().filter(|&&(at, _)| at <= now).map(|&(_, lite)| lite)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }

    #[cfg(test)]
    pub(crate) fn contains(&self, at: Timestamp, lite: LiteId) -> bool {
        self.by_time.contains(&(at, lite))
    }
}
