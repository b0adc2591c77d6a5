//! Rows of waiting messages that stay in memory until they are delivered: most are delivered soon, and then nothing
//! is read from the store. One budget for all shards; what does not fit is read when it is delivered.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Bytes of rows that are kept, of all shards together.
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Bytes of one row up to which it is kept: a large body would take the room of many.
const KEPT_ROW_BYTES_MAX: usize = 16 << 10;

/// The budget. Cheap to share.
#[derive(Debug, Clone, Default)]
pub(crate) struct KeptRows(Arc<AtomicUsize>);

/// A row that is kept; its bytes count until the last handle is dropped.
#[derive(Debug, Clone)]
pub(crate) struct KeptRow(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    row: Bytes,
    used: Arc<AtomicUsize>,
}

impl KeptRows {
    /// Keeps a row, if there is room for it.
    pub(crate) fn keep(&self, row: Bytes) -> Option<KeptRow> {
        if row.len() > KEPT_ROW_BYTES_MAX {
            return None;
        }
        let before = self.0.fetch_add(row.len(), Ordering::Relaxed);
        // What was counted is given back when `counted` is dropped, here or later.
        let counted = Counted { row, used: Arc::clone(&self.0) };
        (before + counted.row.len() <= KEPT_BYTES_MAX).then(|| KeptRow(Arc::new(counted)))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.used.fetch_sub(self.row.len(), Ordering::Relaxed);
    }
}

impl Deref for KeptRow {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_kept_while_there_is_room_and_room_comes_back() {
        let rows = KeptRows::default();
        let row = || Bytes::from(vec![7; KEPT_ROW_BYTES_MAX]);
        let kept: Vec<_> = std::iter::from_fn(|| rows.keep(row())).collect();
        assert_eq!(kept.len() * KEPT_ROW_BYTES_MAX, KEPT_BYTES_MAX);
        let again = kept[0].clone();
        drop(kept);
        assert_eq!(rows.0.load(Ordering::Relaxed), again.len());
        assert_eq!(again[..], row()[..]);
        drop(again);
        assert!(rows.keep(row()).is_some());
    }

    #[test]
    fn a_large_row_is_not_kept() {
        assert!(KeptRows::default().keep(vec![0; KEPT_ROW_BYTES_MAX + 1].into()).is_none());
    }
}
