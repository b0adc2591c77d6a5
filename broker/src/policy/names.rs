//! What a guest has learnt by name. A name crosses once, until it is forgotten or changes.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use super::limits::{NAMES_FORGOTTEN, NAMES_MAX};
use crate::id_hash::IdHash;

/// The tenants, or lite topics, that a guest knows.
pub(super) struct Names<Id> {
    /// With the round in which they were told.
    known: HashMap<Id, u64, IdHash>,
    oldest_first: VecDeque<Id>,
    /// What was told in an earlier one may have changed.
    round: u64,
}

/// What to tell a guest before it is asked.
pub(super) struct News<Id> {
    pub(super) forgotten: Vec<Id>,
    pub(super) unknown: Vec<Id>,
}

impl<Id> Default for Names<Id> {
    fn default() -> Self {
        Self { known: HashMap::default(), oldest_first: VecDeque::new(), round: 0 }
    }
}

impl<Id: Copy + Eq + Hash> Names<Id> {
    /// What the guest must forget and learn before these are mentioned, taken as done.
    pub(super) fn before(&mut self, mentioned: impl Iterator<Item = Id> + Clone) -> News<Id> {
        let mut news = self.not_told(mentioned.clone());
        let new = news.iter().filter(|id| !self.known.contains_key(id)).count();
        let mut forgotten = Vec::new();
        if self.known.len() + new > NAMES_MAX {
            forgotten.extend(self.oldest_first.drain(..NAMES_FORGOTTEN.min(self.oldest_first.len())));
            for id in &forgotten {
                self.known.remove(id);
            }
            news = self.not_told(mentioned);
        }
        let mut unknown = Vec::new();
        for id in news {
            let told = self.known.insert(id, self.round);
            if told != Some(self.round) {
                unknown.push(id);
            }
            if told.is_none() {
                self.oldest_first.push_back(id);
            }
        }
        News { forgotten, unknown }
    }

    /// Those that were not told in this round, as often as they are mentioned: hardly ever any.
    fn not_told(&self, mentioned: impl Iterator<Item = Id>) -> Vec<Id> {
        mentioned.filter(|id| self.known.get(id) != Some(&self.round)).collect()
    }

    /// Everything is to be told again when it is mentioned.
    pub(super) fn tell_again(&mut self) {
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_crosses_once_until_it_is_to_be_told_again() {
        let mut names = Names::default();
        assert_eq!(names.before(0..3).unknown.len(), 3);
        assert_eq!(names.before(1..4).unknown, [3]);
        names.tell_again();
        assert_eq!(names.before(2..4).unknown, [2, 3]);
        assert_eq!(names.before(1..4).unknown, [1]);
        // The guest still has those that were not mentioned since: they are forgotten in their turn.
        assert_eq!((names.known.len(), names.oldest_first.len()), (4, 4));
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
