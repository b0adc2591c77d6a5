//! Rows that are read together, for less than one by one.

use std::collections::HashMap;

use super::engine::Value;
use super::{Family, Key, Row as _, Store, StoreError, corrupt};

/// A look at the store. Rows that were fetched are as they were then: to be used at once.
pub(crate) struct Look<'a> {
    store: &'a Store,
    fetched: HashMap<(Family, Vec<u8>), Option<Value<'a>>>,
}

impl<'a> Look<'a> {
    pub(super) fn new(store: &'a Store) -> Self {
        Self { store, fetched: HashMap::new() }
    }

    /// For what cannot be fetched.
    pub(crate) fn store(&self) -> &'a Store {
        self.store
    }

    /// Reads the rows with these keys.
    pub(crate) fn fetch<K: Key>(&mut self, keys: impl IntoIterator<Item = K>) -> Result<(), StoreError> {
        let mut keys: Vec<_> = keys.into_iter().map(|key| key.encode()).collect();
        keys.sort_unstable();
        keys.dedup();
        let rows = self.store.engine.get_many(K::FAMILY, &keys)?;
        self.fetched.extend(keys.into_iter().map(|key| (K::FAMILY, key)).zip(rows));
        Ok(())
    }

    /// The row with this key.
    pub(crate) fn get<K: Key>(&self, key: &K) -> Result<Option<K::Row>, StoreError> {
        let decode = |row: &[u8]| K::Row::decode(row).map_err(|problem| corrupt::<K>(&key.encode(), problem));
        self.with_bytes(key, decode).and_then(Option::transpose)
    }

    /// The bytes of the row with this key, for `use_row`.
    pub(crate) fn with_bytes<K: Key, T>(
        &self,
        key: &K,
        use_row: impl FnOnce(&[u8]) -> T,
    ) -> Result<Option<T>, StoreError> {
        let place = (K::FAMILY, key.encode());
        Ok(match self.fetched.get(&place) {
            Some(row) => row.as_deref().map(use_row),
            None => self.store.engine.get(K::FAMILY, &place.1)?.map(|row| use_row(&row)),
        })
    }
}

impl std::fmt::Debug for Look<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Look").field("fetched", &self.fetched.len()).finish_non_exhaustive()
    }
}
