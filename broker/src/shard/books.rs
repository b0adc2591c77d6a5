//! What a policy is told that the scheduler does not know: names, labels, and what producers wrote into properties.

use std::collections::BTreeMap;

use sluicegate_protocol::{LiteId, TenantId};
use sluicegate_scheduler::LiteView;

use super::ledger::Ledger;
use crate::policy::{Directory, Known};
use crate::store::{MessageHeader, MessageKey, NameKey, NameRow, StoreError, split_message};

/// The rows behind a frame. A row that cannot be read is as one that is not there: whoever needs more of it than this notices.
pub(super) struct Books<'a> {
    pub(super) ledger: &'a Ledger,
    /// By the tenant's name.
    pub(super) tenant_labels: &'a BTreeMap<String, BTreeMap<String, String>>,
}

impl Directory for Books<'_> {
    fn tenant(&mut self, tenant: TenantId) -> Known {
        let name = self.ledger.tenant_name(tenant).as_ref().to_owned();
        let labels = self.tenant_labels.get(&name).into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.clone(), value.clone())).collect();
        Known { name, labels }
    }

    fn labelled(&mut self, lites: &[LiteId]) -> Vec<(LiteId, Known)> {
        let names = self.names(lites).unwrap_or_default();
        let labelled = names.into_iter().filter(|(_, row)| !row.labels.is_empty());
        labelled.map(|(lite, row)| (lite, Known { name: row.name, labels: row.labels.into_iter().collect() })).collect()
    }

    fn columns(&mut self, properties: &[String], rows: &[LiteView]) -> Vec<Vec<u64>> {
        let heads = self.heads(rows).unwrap_or_else(|_| vec![None; rows.len()]);
        let number = |head: &Option<MessageHeader>, property: &String| {
            head.as_ref().and_then(|head| head.properties.get(property)?.parse().ok()).unwrap_or(u64::MAX)
        };
        properties.iter().map(|property| heads.iter().map(|head| number(head, property)).collect()).collect()
    }
}

impl Books<'_> {
    fn names(&self, lites: &[LiteId]) -> Result<Vec<(LiteId, NameRow)>, StoreError> {
        let (shard, mut look) = (self.ledger.stage.shard(), self.ledger.stage.store().look());
        let key = |lite| NameKey { shard, lite };
        look.fetch(lites.iter().map(|&lite| key(lite)))?;
        let named = lites.iter().map(|&lite| Ok(look.get(&key(lite))?.map(|row| (lite, row))));
        named.filter_map(Result::transpose).collect()
    }

    fn heads(&self, rows: &[LiteView]) -> Result<Vec<Option<MessageHeader>>, StoreError> {
        let (shard, mut look) = (self.ledger.stage.shard(), self.ledger.stage.store().look());
        let key = |row: &LiteView| MessageKey { shard, lite: row.lite, offset: row.head_offset };
        look.fetch(rows.iter().map(key))?;
        let header = |row: &[u8]| split_message(row).ok().map(|(header, _)| header);
        rows.iter().map(|row| Ok(look.with_bytes(&key(row), header)?.flatten())).collect()
    }
}
