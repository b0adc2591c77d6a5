//! Brings a store of an older format to today's.
//!
//! A step may be cut short at any moment and is then done again from its beginning: what it moved stays where it was until all of it is
//! moved, and goes together with the old format.

use super::engine::{Direction, Engine, Family, KeyRange, Scan};
use super::key::prefix_end;
use super::{FORMAT, Store, StoreError, put_format};

/// Rows that are moved together.
const ROWS_AT_ONCE: usize = 10_000;
/// First byte of the keys of table `lite`, which format 1 kept among the other rows.
const LITE_TAG: &[u8] = b"t";

impl Store {
    /// Brings the store from this older format to [`FORMAT`].
    ///
    /// # Errors
    /// It cannot be read or written; the next opening begins again.
    pub(super) fn upgrade(&self, found: u32) -> Result<(), StoreError> {
        tracing::info!(found, FORMAT, "the store is brought to today's format");
        let engine = &*self.engine;
        let end = prefix_end(LITE_TAG);
        let mut from = LITE_TAG.to_vec();
        while let Some(last) = copy_rows(engine, &from, end.as_deref())? {
            from = last;
            from.push(0);
        }
        let mut changes = engine.batch();
        if let Some(end) = end {
            changes.delete_range(Family::Rows, LITE_TAG, &end);
        }
        put_format(&mut *changes);
        changes.write()?;
        self.sync()
    }
}

/// Copies some rows to the family of names; answers the last one's key.
fn copy_rows(engine: &dyn Engine, from: &[u8], end: Option<&[u8]>) -> Result<Option<Vec<u8>>, StoreError> {
    let (mut changes, mut last) = (engine.batch(), None);
    let range = KeyRange { from, end, direction: Direction::Ascending };
    engine.scan(Family::Rows, &range, &mut |key, row| {
        changes.put(Family::Names, key, row);
        if changes.count() < ROWS_AT_ONCE {
            return Ok(Scan::More);
        }
        last = Some(key.to_vec());
        Ok(Scan::Done)
    })?;
    changes.write()?;
    Ok(last)
}
