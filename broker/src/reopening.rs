//! When a failed store is opened again, and after how long.

use std::time::Duration;

use sluicegate_protocol::Timestamp;

use crate::store::StoreError;

/// The first wait; it doubles while failures follow each other.
const DELAY_FIRST: Duration = Duration::from_millis(100);
const DELAY_MAX: Duration = Duration::from_secs(5);
/// A store that held for so long had recovered.
const HELD: Duration = Duration::from_secs(30);
/// Rows that could not be read, remembered. With more the store is opened no more.
const UNREADABLE_MAX: usize = 16;

/// What failed before. Pure: time is an argument.
#[derive(Debug)]
pub(crate) struct Reopening {
    unreadable: Vec<StoreError>,
    delay: Duration,
    opened_at: Timestamp,
}

impl Reopening {
    pub(crate) fn new() -> Self {
        Self { unreadable: Vec::new(), delay: DELAY_FIRST, opened_at: Timestamp(0) }
    }

    /// Whether opening the store again can help. A row that is still unreadable then would be so for ever: rather only
    /// what concerns it is refused. And a store that another broker has opened is that broker's.
    pub(crate) fn helps(&mut self, error: &StoreError) -> bool {
        match error {
            StoreError::Database(_) => true,
            StoreError::Fenced { .. } => false,
            StoreError::Read(_) | StoreError::Corrupt { .. } => {
                let is_new = !self.unreadable.contains(error) && self.unreadable.len() < UNREADABLE_MAX;
                if is_new {
                    self.unreadable.push(error.clone());
                }
                is_new
            }
        }
    }

    /// The store was opened.
    pub(crate) fn opened(&mut self, now: Timestamp) {
        self.opened_at = now;
    }

    /// The store failed.
    pub(crate) fn failed(&mut self, now: Timestamp) {
        if now.since(self.opened_at) >= HELD {
            self.delay = DELAY_FIRST;
        }
    }

    /// How long to wait before the next attempt.
    pub(crate) fn delay(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(DELAY_MAX);
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_is_always_worth_another_opening_and_a_row_that_stays_unreadable_is_not() {
        let mut reopening = Reopening::new();
        let write = StoreError::Database("no space".into());
        assert!(reopening.helps(&write) && reopening.helps(&write));
        let row = |number: usize| StoreError::Read(format!("block {number}"));
        assert!(reopening.helps(&row(0)) && !reopening.helps(&row(0)));
        for number in 1..UNREADABLE_MAX {
            assert!(reopening.helps(&row(number)));
        }
        assert!(!reopening.helps(&row(UNREADABLE_MAX)));
        assert!(!reopening.helps(&StoreError::Fenced { epoch: 2 }));
    }

    #[test]
    fn delays_double_until_the_store_holds() {
        let mut reopening = Reopening::new();
        let start = Timestamp(1_000_000);
        reopening.opened(start);
        reopening.failed(start.plus(HELD / 2));
        let delays: Vec<_> = (0..8).map(|_| reopening.delay().as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        reopening.opened(start);
        reopening.failed(start.plus(HELD / 2));
        assert_eq!(reopening.delay(), DELAY_MAX);
        reopening.failed(start.plus(HELD));
        assert_eq!(reopening.delay(), DELAY_FIRST);
    }
}
