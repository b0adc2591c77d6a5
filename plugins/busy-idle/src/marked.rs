//! Ids that a label marks, in bounded memory.

use sluicegate_plugin_sdk::ById;

/// Ids remembered: more than a broker teaches, and the most for which a table of 131,072 slots has room. Less than 3 MiB of the 16 that a
/// policy may have.
const MARKED_MAX: usize = 114_688;

/// The ids.
#[derive(Debug, Default)]
pub(crate) struct Marked(ById<()>);

impl Marked {
    /// The id is marked from now on, or it is not.
    pub(crate) fn set(&mut self, id: u64, is_marked: bool) {
        if is_marked && self.0.len() >= MARKED_MAX && !self.0.has(id) {
            self.0.forget_one(1, |()| ());
        }
        match is_marked {
            true => self.0.set(id, ()),
            false => self.0.forget(id),
        };
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.0.has(id)
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
