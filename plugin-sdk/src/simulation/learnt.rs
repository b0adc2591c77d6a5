//! What a policy has learnt by name. A name crosses once, until it is forgotten.

use std::collections::{BTreeSet, VecDeque};

/// Names that a policy is taken to remember, as in the broker; beyond it the oldest are forgotten, [`FORGOTTEN`] at a time.
const LEARNT_MAX: usize = 100_000;
/// Names forgotten at once.
const FORGOTTEN: usize = 4_096;

/// The tenants, or the lite topics, that a policy knows.
#[derive(Debug, Default)]
pub(super) struct Learnt {
    known: BTreeSet<u64>,
    oldest_first: VecDeque<u64>,
}

/// What a policy is told before it is asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) forgotten: Vec<u64>,
    pub(super) unknown: Vec<u64>,
}

impl Learnt {
    /// What the policy must forget and learn before these are mentioned, taken as done.
    pub(super) fn before(&mut self, mentioned: impl Iterator<Item = u64> + Clone) -> News {
        let unknown = mentioned.clone().filter(|id| !self.known.contains(id)).count();
        let mut forgotten = Vec::new();
        if self.known.len() + unknown > LEARNT_MAX {
            forgotten.extend(self.oldest_first.drain(..FORGOTTEN.min(self.oldest_first.len())));
        }
        for id in &forgotten {
            self.known.remove(id);
        }
        let unknown: Vec<u64> = mentioned.filter(|&id| self.known.insert(id)).collect();
        self.oldest_first.extend(&unknown);
        News { forgotten, unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_crosses_once_until_it_is_forgotten() {
        let mut learnt = Learnt::default();
        let most = LEARNT_MAX as u64;
        assert_eq!(learnt.before(0..most).unknown.len(), LEARNT_MAX);
        assert_eq!(learnt.before(0..most), News { forgotten: vec![], unknown: vec![] });
        let news = learnt.before(most - 1..=most);
        assert_eq!((news.forgotten.len(), news.unknown), (FORGOTTEN, vec![most]));
        assert_eq!(learnt.before(0..1).unknown, [0]);
    }
}
