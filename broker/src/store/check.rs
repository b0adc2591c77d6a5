//! A check of everything that a store holds: each row is read and decoded. Finds damage before a user does.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::engine::{Direction, KeyRange, Scan};
use super::options::FAMILIES;
use super::{
    BucketKey, BusyKey, CountKey, CursorKey, DedupEndKey, DedupKey, DueKey, Family, Key, LeaseKey, LevelsKey, LiteKey,
    MessageKey, NameKey, OpenError, ReadyKey, ReceiptsKey, Row as _, ShardKey, Store, TailKey, TenantKey, WakeKey,
};

/// Problems that a report names one by one.
const PROBLEMS_MAX: usize = 20;

/// What a store holds.
#[derive(Debug, Default, Serialize)]
pub struct StoreReport {
    /// By table.
    pub tables: BTreeMap<&'static str, TableReport>,
    /// Rows and files that cannot be read; at most 20 of them are told.
    pub problems: Vec<String>,
    /// How many there are.
    pub problem_count: u64,
}

/// What a table holds.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct TableReport {
    /// Rows.
    pub rows: u64,
    /// Bytes of keys and rows, not compressed.
    pub bytes: u64,
}

/// Decodes a row of a table; none if the key is another table's.
type Decode = fn(&[u8], &[u8]) -> Option<(&'static str, Result<(), String>)>;

fn of<K: Key>(key: &[u8], row: &[u8]) -> Option<(&'static str, Result<(), String>)> {
    K::decode(key).map(|_| (K::TABLE, K::Row::decode(row).map(drop)))
}

fn control(key: &[u8], row: &[u8]) -> Result<(), String> {
    let json = [&b"topic/"[..], b"group/", b"policy/", b"deletion/", b"free-ids/"];
    match json.iter().any(|prefix| key.starts_with(prefix)) {
        true => serde_json::from_slice::<serde_json::Value>(row).map(drop).map_err(|error| error.to_string()),
        false => Ok(()),
    }
}

const fn tables(family: Family) -> &'static [Decode] {
    match family {
        Family::Control => &[|key, row| Some(("control", control(key, row)))],
        Family::Rows => &[
            of::<ShardKey>,
            of::<CountKey>,
            of::<TenantKey>,
            of::<LiteKey>,
            of::<NameKey>,
            of::<TailKey>,
            of::<CursorKey>,
            of::<BucketKey>,
            of::<ReceiptsKey>,
            of::<DedupKey>,
            of::<LevelsKey>,
            of::<BusyKey>,
        ],
        Family::Queues => &[of::<LeaseKey>, of::<ReadyKey>, of::<WakeKey>, of::<DedupEndKey>, of::<DueKey>],
        Family::Messages => &[of::<MessageKey>],
    }
}

/// The table that a row is of, by its key.
pub(super) fn table_of(family: Family, key: &[u8], row: &[u8]) -> &'static str {
    let found = tables(family).iter().find_map(|decode| decode(key, row));
    found.map_or("of no table", |(table, _)| table)
}

/// Reads every row of the store in this data directory, which no broker may have open.
///
/// # Errors
/// It cannot be opened.
pub fn check_store(data_dir: &Path) -> Result<StoreReport, OpenError> {
    let store = Store::open_existing(data_dir)?;
    let mut report = StoreReport::default();
    for family in FAMILIES {
        report.read(&store, family);
    }
    Ok(report)
}

impl StoreReport {
    fn read(&mut self, store: &Store, family: Family) {
        let all = KeyRange { from: &[], end: None, direction: Direction::Ascending };
        let read = store.engine.scan(family, &all, &mut |key, row| {
            self.row(family, key, row);
            Ok(Scan::More)
        });
        if let Err(error) = read {
            self.problem(format!("column family `{}`: {error}, what comes after it was not read", family.name()));
        }
    }

    fn row(&mut self, family: Family, key: &[u8], row: &[u8]) {
        let hex = || key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let Some((table, decoded)) = tables(family).iter().find_map(|decode| decode(key, row)) else {
            return self.problem(format!("row {} is of no table", hex()));
        };
        let found = self.tables.entry(table).or_default();
        found.rows += 1;
        found.bytes += (key.len() + row.len()) as u64;
        if let Err(problem) = decoded {
            self.problem(format!("{table} row {}: {problem}", hex()));
        }
    }

    fn problem(&mut self, problem: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}
