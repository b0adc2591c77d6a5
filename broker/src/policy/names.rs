//! What a guest has learnt by name. A name crosses once, until it is forgotten.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;

use super::limits::{NAMES_FORGOTTEN, NAMES_MAX};

/// The tenants, or lite topics, that a guest knows.
pub(super) struct Names<Id> {
    known: HashSet<Id>,
    oldest_first: VecDeque<Id>,
}

/// What to tell a guest before it is asked.
pub(super) struct News<Id> {
    pub(super) forgotten: Vec<Id>,
    pub(super) unknown: Vec<Id>,
}

impl<Id> Default for Names<Id> {
    fn default() -> Self {
        Self { known: HashSet::new(), oldest_first: VecDeque::new() }
    }
}

impl<Id: Copy + Eq + Hash> Names<Id> {
    /// What the guest must forget and learn before these are mentioned, taken as done.
    pub(super) fn before(&mut self, mentioned: impl Iterator<Item = Id> + Clone) -> News<Id> {
        let unknown = mentioned.clone().filter(|id| !self.known.contains(id)).count();
        let mut forgotten = Vec::new();
        if self.known.len() + unknown > NAMES_MAX {
            forgotten.extend(self.oldest_first.drain(..NAMES_FORGOTTEN.min(self.oldest_first.len())));
        }
        for id in &forgotten {
            self.known.remove(id);
        }
        let unknown: Vec<_> = mentioned.filter(|id| self.known.insert(*id)).collect();
        self.oldest_first.extend(&unknown);
        News { forgotten, unknown }
    }

    /// Everything is to be learnt again.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_crosses_once() {
        let mut names = Names::default();
        assert_eq!(names.before(0..3).unknown.len(), 3);
        assert_eq!(names.before(1..4).unknown, [3]);
        names.clear();
        assert_eq!(names.before(1..4).unknown.len(), 3);
    }

    #[test]
    fn the_oldest_are_forgotten_and_learnt_again_when_they_come_back() {
        let mut names = Names::default();
        names.before(0..NAMES_MAX);
        let news = names.before(0..1);
        assert!(news.forgotten.is_empty() && news.unknown.is_empty());
        let news = names.before(NAMES_MAX - 1..=NAMES_MAX);
        assert_eq!((news.forgotten.len(), news.unknown.len()), (NAMES_FORGOTTEN, 1));
        assert_eq!(names.before(0..1).unknown, [0]);
        assert_eq!(names.known.len(), names.oldest_first.len());
    }
}
