//! Pages of long lists, read from the store beside the shards: what a shard has answered as done is there.

use std::sync::Arc;

use sluicegate_protocol::admin::{LiteEntry, LitePage};
use sluicegate_protocol::limits::{PAGE_ROWS_DEFAULT, PAGE_ROWS_MAX};
use sluicegate_protocol::{ErrorCode, LiteId, LiteName};

use super::invalid;
use crate::broker::{Broker, stopping};
use crate::catalog::TopicSpec;
use crate::refusal::Refusal;
use crate::store::{LiteKey, LiteRow, NameKey, Scan, Store, StoreError};

/// A stretch of a topic's names.
pub(super) struct Names {
    prefix: String,
    after: Option<LiteName>,
    rows: usize,
}

impl Names {
    pub(super) fn parse(prefix: Option<&str>, after: Option<&str>, limit: Option<u32>) -> Result<Self, Refusal> {
        let name = |text: &str| LiteName::parse(text).map_err(|error| invalid(&error));
        let prefix = match prefix {
            None | Some("") => String::new(),
            Some(prefix) => name(prefix)?.as_str().to_owned(),
        };
        Ok(Self { prefix, after: after.map(name).transpose()?, rows: rows(limit)? })
    }

    /// The rest of the stretch begins after this name.
    pub(super) fn go_on_after(&mut self, name: LiteName) {
        self.after = Some(name);
    }

    /// The names and lite ids of the stretch; whether there are more.
    pub(super) fn read(&self, store: &Store, topic: &TopicSpec) -> Result<(Vec<(LiteName, LiteId)>, bool), StoreError> {
        let prefix = LiteKey::of_prefix(topic.shard, topic.id, &self.prefix);
        let after = self.after.as_ref().map(|name| LiteKey::after(topic.shard, topic.id, name));
        let from = after.map_or_else(|| prefix.clone(), |after| after.max(prefix.clone()));
        let (mut names, mut more) = (Vec::new(), false);
        store.scan(&prefix, &from, |key: LiteKey, row: LiteRow| {
            if names.len() == self.rows {
                more = true;
                return Scan::Done;
            }
            names.push((key.name, LiteId(row.lite)));
            Scan::More
        })?;
        Ok((names, more))
    }
}

/// How many rows a page may have.
pub(super) fn rows(limit: Option<u32>) -> Result<usize, Refusal> {
    in_range("limit", limit.unwrap_or(PAGE_ROWS_DEFAULT), PAGE_ROWS_MAX)
}

/// A number of rows, at least 1.
pub(crate) fn in_range(what: &str, rows: u32, max: u32) -> Result<usize, Refusal> {
    if (1..=max).contains(&rows) {
        return Ok(rows as usize);
    }
    Err(Refusal::new(ErrorCode::InvalidArgument, format!("{what}: {rows}, allowed are 1 to {max}")))
}

/// The lite topics of a stretch of names.
pub(super) fn lite_topics(store: &Store, topic: &TopicSpec, names: &Names) -> Result<LitePage, StoreError> {
    let (found, more) = names.read(store, topic)?;
    let next = found.last().filter(|_| more).map(|(name, _)| name.as_str().to_owned());
    let mut lite_topics = Vec::with_capacity(found.len());
    for (name, lite_id) in found {
        // A lite topic that was deleted since the scan has none.
        let Some(row) = store.get(&NameKey { shard: topic.shard, lite: lite_id })? else { continue };
        let tenant = row.tenant.unwrap_or_else(|| name.as_str().to_owned());
        let created_at = sluicegate_protocol::Timestamp(row.created_at_us);
        lite_topics.push(LiteEntry { name, lite_id, tenant, created_at });
    }
    Ok(LitePage { lite_topics, next })
}

/// Reads from the store on a thread that may wait for the disk.
pub(super) async fn read<T: Send + 'static>(
    broker: &Broker,
    read: impl FnOnce(&Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Refusal> {
    let store = Arc::clone(&broker.store);
    let read = tokio::task::spawn_blocking(move || read(&store)).await.map_err(|_| stopping())?;
    read.map_err(|error| broker.read_failed(&error))
}
