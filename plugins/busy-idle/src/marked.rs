//! Ids that a label marks, in bounded memory.

use std::collections::BTreeSet;

/// Ids remembered: less than 3 MiB of the 16 that a policy may have.
const MARKED_MAX: usize = 131_072;

/// The ids. Newer ones are higher, since ids are never reused.
#[derive(Debug, Default)]
pub(crate) struct Marked(BTreeSet<u64>);

impl Marked {
    /// The id is marked from now on, or it is not.
    pub(crate) fn set(&mut self, id: u64, is_marked: bool) {
        match is_marked {
            true => self.0.insert(id),
            false => self.0.remove(&id),
        };
        if self.0.len() > MARKED_MAX {
            self.0.pop_first();
        }
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        !self.0.is_empty() && self.0.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_bound_the_oldest_mark_is_forgotten() {
        let mut marked = Marked::default();
        (0..=MARKED_MAX as u64).for_each(|id| marked.set(id, true));
        assert!(!marked.has(0) && marked.has(1) && marked.has(MARKED_MAX as u64));
        marked.set(1, false);
        assert!(!marked.has(1));
    }
}
