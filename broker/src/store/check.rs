//! A check of everything that a store holds: each row is read and decoded, and each body is held against the message that
//! names it. Finds damage before a user does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;

use super::engine::{Direction, KeyRange, Scan};
use super::options::FAMILIES;
use super::{
    BodyKey, BodyPlace, BodyRef, BucketKey, BusyKey, ChunkKey, CountKey, CursorKey, DedupEndKey, DedupKey, DueKey,
    Family, Key, LeaseKey, LevelsKey, LiteKey, MessageKey, NOBODY, NameKey, OpenError, ReadyKey, ReceiptsEndKey,
    ReceiptsKey, Row as _, ShardId, ShardKey, ShareKey, Store, SweepKey, TailKey, TenantKey, WakeKey, split_message,
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
            of::<NameKey>,
            of::<TailKey>,
            of::<CursorKey>,
            of::<BucketKey>,
            of::<ReceiptsKey>,
            of::<DedupKey>,
            of::<LevelsKey>,
            of::<BusyKey>,
            of::<BodyKey>,
            of::<ShareKey>,
        ],
        Family::Names => &[of::<LiteKey>],
        Family::Queues => &[
            of::<LeaseKey>,
            of::<ReadyKey>,
            of::<WakeKey>,
            of::<ReceiptsEndKey>,
            of::<DedupEndKey>,
            of::<DueKey>,
            of::<SweepKey>,
        ],
        Family::Messages => &[of::<MessageKey>],
        Family::Bodies => &[of::<ChunkKey>],
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
    let (mut report, mut bodies) = (StoreReport::default(), Bodies::default());
    for family in FAMILIES {
        report.read(&store, family, &mut bodies);
    }
    for problem in bodies.problems() {
        report.problem(problem);
    }
    Ok(report)
}

impl StoreReport {
    fn read(&mut self, store: &Store, family: Family, bodies: &mut Bodies) {
        let all = KeyRange { from: &[], end: None, direction: Direction::Ascending };
        let read = store.engine.scan(family, &all, &mut |key, row| {
            self.row(family, key, row);
            bodies.row(family, key, row);
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

/// A body of a shard.
type BodyId = (ShardId, u64);

/// What the store says of bodies that have rows of their own.
#[derive(Debug, Default)]
struct Bodies {
    /// What messages say.
    named: BTreeMap<(ShardId, BodyPlace), BodyRef>,
    /// What table `body` says.
    owned: BTreeMap<(ShardId, BodyPlace), BodyRef>,
    /// Bytes of the chunks that are there.
    stored: BTreeMap<BodyId, u64>,
    sweeps: Vec<SweepKey>,
}

impl Bodies {
    /// What cannot be read is told by the report.
    fn row(&mut self, family: Family, key: &[u8], row: &[u8]) {
        match family {
            Family::Messages => {
                if let (Some(key), Ok((header, _))) = (MessageKey::decode(key), split_message(row))
                    && let Some(body) = header.body
                {
                    self.named.insert((key.shard, (key.lite, key.offset)), body);
                }
            }
            Family::Rows => {
                if let (Some(key), Ok(body)) = (BodyKey::decode(key), BodyRef::decode(row)) {
                    self.owned.insert((key.shard, key.place()), body);
                }
            }
            Family::Queues => self.sweeps.extend(SweepKey::decode(key)),
            Family::Bodies => {
                if let Some(key) = ChunkKey::decode(key) {
                    *self.stored.entry((key.shard, key.body)).or_default() += row.len() as u64;
                }
            }
            Family::Control | Family::Names => {}
        }
    }

    /// Bodies without a message, and messages without their body. Uploads under way and what is being deleted have none.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        for (at, body) in &self.named {
            let (ShardId(shard), (lite, offset)) = at;
            let stored = self.stored.get(&(at.0, body.id)).copied().unwrap_or(0);
            let message = format!("message {offset} of lite topic {lite} in shard {shard}");
            if stored != body.bytes {
                problems.push(format!("{message} has a body of {} bytes, {stored} are there", body.bytes));
            }
            if self.owned.get(at) != Some(body) {
                problems.push(format!("{message} has body {}, which table body does not say", body.id));
            }
        }
        for (at, body) in &self.owned {
            let (ShardId(shard), place @ (lite, offset)) = at;
            if *lite != NOBODY && !self.named.contains_key(at) && !self.is_being_swept(at.0, *place) {
                let body = body.id;
                problems.push(format!("body {body} in shard {shard}: no message {offset} of lite topic {lite} has it"));
            }
        }
        let owned: BTreeSet<BodyId> = self.owned.iter().map(|((shard, _), body)| (*shard, body.id)).collect();
        let lost = self.stored.keys().filter(|body| !owned.contains(body));
        problems
            .extend(lost.map(|(ShardId(shard), body)| format!("body {body} in shard {shard}: nobody has its chunks")));
        problems
    }

    fn is_being_swept(&self, shard: ShardId, place: BodyPlace) -> bool {
        self.sweeps.iter().any(|sweep| sweep.shard == shard && (sweep.from..sweep.end).contains(&place))
    }
}

#[cfg(test)]
mod tests {
    use sluicegate_protocol::{LiteId, Offset};

    use super::*;
    use crate::store::body::Chunk;
    use crate::store::{Batch, MessageHeader, StoredMessage};

    const SHARD: ShardId = ShardId(2);

    fn at(lite: u64, offset: u64) -> BodyKey {
        BodyKey { shard: SHARD, lite: LiteId(lite), offset: Offset(offset) }
    }

    /// A message with a body of 5 bytes in table `body`.
    fn put(batch: &mut Batch, BodyKey { shard, lite, offset }: BodyKey, id: u64) {
        let body = BodyRef { id, bytes: 5, chunk_bytes: 0 };
        let header = MessageHeader { body: Some(body), ..MessageHeader::default() };
        batch.put(&MessageKey { shard, lite, offset }, &StoredMessage { header, body: bytes::Bytes::new() });
        batch.put(&BodyKey { shard, lite, offset }, &body);
    }

    fn put_chunk(batch: &mut Batch, body: u64) {
        batch.put(&ChunkKey { shard: SHARD, body, number: 0 }, &Chunk(bytes::Bytes::from_static(b"hello")));
    }

    #[test]
    fn bodies_without_a_message_and_messages_without_a_body_are_told_and_what_is_under_way_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        let mut batch = Batch::new(&store);
        put(&mut batch, at(7, 0), 1); // Shared with the next.
        put(&mut batch, at(8, 4), 1);
        put(&mut batch, at(7, 1), 2); // Without chunks.
        batch.put(&at(7, 2), &BodyRef { id: 3, bytes: 5, chunk_bytes: 0 }); // Without a message.
        batch.put(&at(0, 4), &BodyRef { id: 4, bytes: 5, chunk_bytes: 0 }); // An upload.
        batch.put(&at(9, 5), &BodyRef { id: 5, bytes: 5, chunk_bytes: 0 }); // Being deleted.
        let sweep = SweepKey { shard: SHARD, from: (LiteId(9), Offset(0)), end: (LiteId(9), Offset(6)) };
        batch.put(&sweep, &crate::store::Nothing);
        for body in [1, 3, 4, 5, 6] {
            put_chunk(&mut batch, body); // Nobody has the last.
        }
        store.write_control(batch).unwrap();
        drop(store);
        let problems = check_store(directory.path()).unwrap().problems;
        assert_eq!(
            problems,
            [
                "message 1 of lite topic 7 in shard 2 has a body of 5 bytes, 0 are there",
                "body 3 in shard 2: no message 2 of lite topic 7 has it",
                "body 6 in shard 2: nobody has its chunks",
            ]
        );
    }
}
