//! Reading ahead: what is about to be served, and is not in memory, is read together, since rows of many lite topics at once cost a
//! fraction of what they cost one by one.
//!
//! The scheduler says what is likely to come next. It may come otherwise: a policy, a quota, a session that leaves. So as many are
//! read as the last guess was good for.

use std::collections::HashSet;

use sluicegate_protocol::LiteId;

use super::group::Group;
use super::ledger::Ledger;
use crate::id_hash::IdHash;
use crate::store::StoreError;

/// Lite topics that are read together at most.
const TOGETHER_MAX: usize = if cfg!(test) { 8 } else { 128 };

/// What was read ahead last, and how far.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    count: usize,
    /// Of those, the ones that were not served yet.
    unserved: HashSet<LiteId, IdHash>,
}

impl Ahead {
    /// How many to read, now that one was missing.
    fn next_count(&mut self) -> usize {
        let was_good = self.unserved.len() * 2 <= self.count;
        self.unserved.clear();
        self.count = if was_good { self.count * 2 } else { self.count / 2 }.clamp(1, TOGETHER_MAX);
        self.count
    }
}

impl Group {
    /// Before the head of a lite topic is served in this band: sees to it that the lite topic is in memory, if it exists, and with it
    /// some that are likely to come next.
    pub(super) fn read_ahead(&mut self, ledger: &mut Ledger, lite: LiteId, band: u8) -> Result<(), StoreError> {
        if ledger.lites.get(lite).is_some() {
            self.ahead.unserved.remove(&lite);
            return Ok(());
        }
        let count = self.ahead.next_count();
        let mut likely = self.scheduler.likely_next(lite, band, count);
        likely.retain(|&next| next != lite && ledger.lites.get(next).is_none());
        self.ahead.unserved.extend(&likely);
        ledger.load_together(likely.into_iter().chain([lite]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_read_as_the_last_guess_was_good_for() {
        let mut ahead = Ahead::default();
        let good: Vec<_> = std::iter::repeat_with(|| ahead.next_count()).take(5).collect();
        assert_eq!(good, [1, 2, 4, 8, 8]);
        let bad = std::iter::repeat_with(|| {
            ahead.unserved.extend((0..ahead.count as u64).map(LiteId));
            ahead.next_count()
        });
        assert_eq!(bad.take(5).collect::<Vec<_>>(), [4, 2, 1, 1, 1]);
        ahead.unserved.insert(LiteId(1));
        assert_eq!(ahead.next_count(), 1);
        assert_eq!(ahead.next_count(), 2);
    }
}
