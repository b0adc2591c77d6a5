//! The seam: all that a broker needs of what keeps its rows, and nothing more.
//!
//! An engine is opened by its own function, which raises the fencing epoch: whoever has it open from before can write
//! no more, or the second opener is refused. It is closed when its last handle is dropped. After a failed write or sync
//! nothing can be said about what it holds until it is opened anew. RocksDB is one engine, memory another (for tests);
//! `conformance.rs` is what each must pass.

use std::ops::Deref;

use super::StoreError;

/// Rows that live and die alike. Each has its own order of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    /// Topics, groups, policies, format.
    Control,
    /// Small rows that stay, most of them in the order of lite ids: tails, cursors.
    Rows,
    /// Lite topics by their names, which come in no order: among others each new file would touch all of theirs.
    Names,
    /// Rows that come and go in order: leases, ready hints.
    Queues,
    /// Messages.
    Messages,
    /// Parts of bodies that are too large for the row of their message.
    Bodies,
}

/// Keeps rows in the order of their keys.
pub(crate) trait Engine: std::fmt::Debug + Send + Sync {
    /// A batch for this engine, empty.
    fn batch(&self) -> Box<dyn Changes>;

    /// Waits until all that is written survives a power cut.
    ///
    /// # Errors
    /// What was written since the last sync may be lost.
    fn sync(&self) -> Result<(), StoreError>;

    /// The row with this key.
    ///
    /// # Errors
    /// It cannot be read.
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Value<'_>>, StoreError>;

    /// The rows with these keys, which are in order, each in its key's place.
    ///
    /// # Errors
    /// One cannot be read.
    fn get_many(&self, family: Family, keys: &[Vec<u8>]) -> Result<Vec<Option<Value<'_>>>, StoreError> {
        keys.iter().map(|key| self.get(family, key)).collect()
    }

    /// Calls `visit` with key and row of each row in the range, until it answers [`Scan::Done`].
    ///
    /// # Errors
    /// A row cannot be read, or `visit` fails.
    fn scan(&self, family: Family, range: &KeyRange<'_>, visit: &mut Visit<'_>) -> Result<(), StoreError>;
}

/// What a scan calls with each key and row.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<Scan, StoreError> + 'a;

/// Changes that are applied together, in order. They are encoded as the engine writes them: no row is copied twice.
pub(crate) trait Changes: Send {
    /// Sets a row.
    fn put(&mut self, family: Family, key: &[u8], row: &[u8]);
    /// Removes a row, if it is there.
    fn delete(&mut self, family: Family, key: &[u8]);
    /// Removes the rows from key `from` up to, not including, `end`.
    fn delete_range(&mut self, family: Family, from: &[u8], end: &[u8]);
    /// Bytes that will be written.
    fn bytes(&self) -> usize;
    /// How many there are.
    fn count(&self) -> usize;
    /// Applies all of them or none, after all that were written before. They then survive the process.
    ///
    /// # Errors
    /// Whether they were applied is unknown, unless the error is [`StoreError::Fenced`].
    fn write(self: Box<Self>) -> Result<(), StoreError>;
}

/// A stretch of keys, and the way through it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRange<'a> {
    /// The lowest key.
    pub(crate) from: &'a [u8],
    /// The first key above all; none for no end.
    pub(crate) end: Option<&'a [u8]>,
    pub(crate) direction: Direction,
}

/// The way through a stretch of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Ascending,
    Descending,
}

/// Whether a scan goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    /// The next row, please.
    More,
    /// Enough.
    Done,
}

/// A row's bytes, where the engine has them.
pub(crate) struct Value<'a>(Box<dyn Deref<Target = [u8]> + 'a>);

impl<'a> Value<'a> {
    pub(super) fn new(bytes: impl Deref<Target = [u8]> + 'a) -> Self {
        Self(Box::new(bytes))
    }
}

impl Deref for Value<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
