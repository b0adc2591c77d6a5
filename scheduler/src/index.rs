//! Finds a row's key by its id. Only keys are stored, five bytes each; the id is read from the row.

use hashbrown::HashTable;
use hashbrown::hash_table::OccupiedEntry;

use crate::slab::Key;

/// Number of tables: each grows by itself, so that none ever moves millions of entries at once.
const TABLES: usize = 256;

/// Keys by id, for rows that know their own id.
#[derive(Debug)]
pub(crate) struct KeyIndex<T> {
    tables: Vec<HashTable<Key<T>>>,
}

impl<T> KeyIndex<T> {
    pub(crate) fn find(&self, id: u64, id_of: impl Fn(Key<T>) -> u64) -> Option<Key<T>> {
        let hash = mix(id);
        self.tables[table(hash)].find(hash, |&key| id_of(key) == id).copied()
    }

    /// The id must not be there yet.
    pub(crate) fn insert(&mut self, id: u64, key: Key<T>, id_of: impl Fn(Key<T>) -> u64) {
        let hash = mix(id);
        self.tables[table(hash)].insert_unique(hash, key, |&key| mix(id_of(key)));
    }

    /// Takes the key out, while its row is still there.
    pub(crate) fn remove(&mut self, id: u64, key: Key<T>, id_of: impl Fn(Key<T>) -> u64) {
        let hash = mix(id);
        let table = &mut self.tables[table(hash)];
        let entry = table.find_entry(hash, |&other| other == key);
        assert!(entry.map(OccupiedEntry::remove).is_ok(), "a row is in its index");
        if table.len() < table.capacity() / 8 {
            table.shrink_to(2 * table.len(), |&key| mix(id_of(key)));
        }
    }
}

impl<T> Default for KeyIndex<T> {
    fn default() -> Self {
        Self { tables: (0..TABLES).map(|_| HashTable::new()).collect() }
    }
}

/// The table's number: bits that the table itself does not look at first.
fn table(hash: u64) -> usize {
    (hash >> 40) as usize % TABLES
}

/// One step of Steele, Lea and Flood's generator: a well-mixed function of its argument.
pub(crate) fn mix(state: u64) -> u64 {
    let mut mixed = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
