//! Control rows: topics, groups, policies and deletions as JSON, the bytes of policies, and the ids that are free.
//!
//! Written by the control task alone, each change with a sync of its own.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Batch, Family, Key, Row, Scan, Store, StoreError};

/// What a control row describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ControlKind {
    Topic,
    Group,
    Policy,
    PolicyBytes,
    /// What was deleted, and whose rows are still being removed.
    Deletion,
    /// One row: the ids that nothing ever had.
    FreeIds,
}

impl ControlKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Topic => "topic/",
            Self::Group => "group/",
            Self::Policy => "policy/",
            Self::PolicyBytes => "policy-bytes/",
            Self::Deletion => "deletion/",
            Self::FreeIds => "free-ids/",
        }
    }
}

/// Key of the row that says how many shards there are.
const SHARDS: &[u8] = b"shards";

struct ControlKey(Vec<u8>);

struct Bytes(Vec<u8>);

impl Key for ControlKey {
    const TABLE: &'static str = "control";
    const FAMILY: Family = Family::Control;
    type Row = Bytes;

    fn encode(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self(bytes.to_vec()))
    }
}

impl Row for Bytes {
    fn encode(&self) -> Vec<u8> {
        self.0.clone()
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        Ok(Self(bytes.to_vec()))
    }
}

fn key(kind: ControlKind, id: &str) -> ControlKey {
    ControlKey([kind.prefix(), id].concat().into_bytes())
}

impl Batch {
    /// Sets a control row.
    pub(crate) fn put_control(&mut self, kind: ControlKind, id: &str, value: &impl Serialize) {
        let json = serde_json::to_vec(value).expect("control rows have string keys only");
        self.put(&key(kind, id), &Bytes(json));
    }

    /// Removes a control row.
    pub(crate) fn delete_control(&mut self, kind: ControlKind, id: &str) {
        self.delete(&key(kind, id));
    }

    /// Sets the bytes of a policy.
    pub(crate) fn put_policy_bytes(&mut self, digest: &str, wasm: &[u8]) {
        self.put_encoded(&key(ControlKind::PolicyBytes, digest), wasm);
    }
}

impl Store {
    /// All control rows of one kind.
    pub(crate) fn control<T: DeserializeOwned>(self: &Arc<Self>, kind: ControlKind) -> Result<Vec<T>, StoreError> {
        let (prefix, mut rows, mut problem) = (kind.prefix().as_bytes(), Vec::new(), None);
        self.scan(prefix, prefix, |key: ControlKey, Bytes(json)| match serde_json::from_slice(&json) {
            Ok(row) => {
                rows.push(row);
                Scan::More
            }
            Err(error) => {
                problem = Some(super::corrupt::<ControlKey>(&key.0, error.to_string()));
                Scan::Done
            }
        })?;
        problem.map_or(Ok(rows), Err)
    }

    /// The store's number of shards: `wanted` when it is new, then always the same.
    pub(crate) fn shards(&self, wanted: u16) -> Result<u16, StoreError> {
        if let Some(shards) = self.shards_there()? {
            return Ok(shards);
        }
        let mut batch = Batch::new(self);
        batch.put(&ControlKey(SHARDS.to_vec()), &Bytes(wanted.to_be_bytes().to_vec()));
        self.write_control(batch)?;
        Ok(wanted)
    }

    /// The store's number of shards; a new one has none.
    pub(super) fn shards_there(&self) -> Result<Option<u16>, StoreError> {
        let Some(Bytes(bytes)) = self.get(&ControlKey(SHARDS.to_vec()))? else { return Ok(None) };
        let number = bytes.as_slice().try_into().map(u16::from_be_bytes);
        number.map(Some).map_err(|_| super::corrupt::<ControlKey>(SHARDS, "not two bytes".into()))
    }

    /// The bytes of a policy.
    pub(crate) fn policy_bytes(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.get(&key(ControlKind::PolicyBytes, digest))?.map(|Bytes(wasm)| wasm))
    }
}
