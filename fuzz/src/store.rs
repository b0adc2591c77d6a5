//! The tables of the broker's store, its own files: RocksDB and all else of the broker is not compiled for them.
#![expect(dead_code, reason = "the broker uses what is not used here")]

#[path = "../../broker/src/store/body.rs"]
mod body;
#[path = "../../broker/src/store/cursor.rs"]
mod cursor;
#[path = "../../broker/src/store/due.rs"]
mod due;
#[path = "../../broker/src/store/engine.rs"]
mod engine;
#[path = "../../broker/src/store/group.rs"]
mod group;
#[path = "../../broker/src/store/idempotency.rs"]
mod idempotency;
#[path = "../../broker/src/store/key.rs"]
mod key;
#[path = "../../broker/src/store/lease.rs"]
mod lease;
#[path = "../../broker/src/store/lite.rs"]
mod lite;
#[path = "../../broker/src/store/message.rs"]
mod message;
#[path = "../../broker/src/store/ready.rs"]
mod ready;
#[path = "../../broker/src/store/receipts.rs"]
mod receipts;
#[path = "../../broker/src/store/shard_row.rs"]
mod shard_row;
#[path = "../../broker/src/store/table.rs"]
mod table;
#[path = "../../broker/src/store/wake.rs"]
mod wake;

use body::BodyRef;
pub(crate) use body::{BodyKey, ChunkKey, ShareKey, SweepKey};
pub(crate) use cursor::CursorKey;
pub(crate) use due::DueKey;
use engine::Family;
pub(crate) use group::{BusyKey, LevelsKey};
pub(crate) use idempotency::{DedupEndKey, DedupKey};
pub(crate) use lease::{LeaseKey, LeaseRow};
pub(crate) use lite::{LiteKey, NameKey, TailKey};
pub(crate) use message::MessageKey;
pub(crate) use ready::ReadyKey;
pub(crate) use receipts::{ReceiptsEndKey, ReceiptsKey};
pub(crate) use shard_row::{BucketKey, CountKey, ShardKey, TenantKey};
use table::Nothing;
use table::TimedKey;
pub(crate) use table::{Key, Row, ShardId};
pub(crate) use wake::WakeKey;

/// What the tables say of rows that cannot be.
pub(crate) enum StoreError {
    /// As the broker's.
    Corrupt { table: &'static str, key: String, problem: String },
}
