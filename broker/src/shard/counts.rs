//! What topics and tenants have: exact at any moment, and in the store with the batch that changes it.
//!
//! The rows are written rather than found out at a start, which reads only what waits.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sluicegate_protocol::{TenantId, TopicId};

use crate::store::{Batch, CountKey, CountRow, ShardId, Store, StoreError, TenantKey, TenantRow};

/// Messages, and the bytes of their bodies and properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// What a topic has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TopicCount {
    pub(crate) lite_topics: u64,
    pub(crate) kept: Amount,
}

/// Whose messages are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) topic: TopicId,
    /// None where nobody limits what it has.
    pub(super) tenant: Option<TenantId>,
}

/// Counts of all topics of a shard, and of the tenants that came up and are limited.
#[derive(Debug, Default)]
pub(super) struct Counts {
    topics: HashMap<TopicId, TopicCount>,
    /// Topics whose count differs from its row.
    changed: Vec<TopicId>,
    tenants: HashMap<(TopicId, TenantId), Amount>,
    /// What came and went of tenants since their rows were put.
    came: BTreeMap<(TopicId, TenantId), Change>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Change {
    came: Amount,
    went: Amount,
}

impl Amount {
    fn plus(self, more: Self) -> Self {
        Self { messages: self.messages + more.messages, bytes: self.bytes + more.bytes }
    }

    /// Messages from before anything was counted may go, so that less than nothing is nothing.
    fn minus(self, less: Self) -> Self {
        Self { messages: self.messages.saturating_sub(less.messages), bytes: self.bytes.saturating_sub(less.bytes) }
    }
}

impl Counts {
    /// What a topic's row says.
    pub(super) fn load(&mut self, store: &Store, shard: ShardId, topic: TopicId) -> Result<(), StoreError> {
        let row = store.get(&CountKey { shard, topic })?.unwrap_or_default();
        let kept = Amount { messages: row.messages, bytes: row.bytes };
        self.topics.insert(topic, TopicCount { lite_topics: row.lite_topics, kept });
        Ok(())
    }

    pub(super) fn of_topic(&self, topic: TopicId) -> TopicCount {
        self.topics.get(&topic).copied().unwrap_or_default()
    }

    pub(super) fn lite_topics(&self) -> u64 {
        self.topics.values().map(|count| count.lite_topics).sum()
    }

    /// A topic is deleted. Answers what it had.
    pub(super) fn forget(&mut self, topic: TopicId) -> TopicCount {
        self.changed.retain(|changed| *changed != topic);
        self.tenants.retain(|(of, _), _| *of != topic);
        self.came.retain(|(of, _), _| *of != topic);
        self.topics.remove(&topic).unwrap_or_default()
    }

    pub(super) fn lite_made(&mut self, topic: TopicId) {
        self.change(topic).lite_topics += 1;
    }

    pub(super) fn lite_gone(&mut self, topic: TopicId) {
        let count = self.change(topic);
        count.lite_topics = count.lite_topics.saturating_sub(1);
    }

    pub(super) fn came(&mut self, owner: Owner, amount: Amount) {
        let count = self.change(owner.topic);
        count.kept = count.kept.plus(amount);
        if let Some(tenant) = owner.tenant {
            let change = self.came.entry((owner.topic, tenant)).or_default();
            change.came = change.came.plus(amount);
        }
    }

    pub(super) fn went(&mut self, owner: Owner, amount: Amount) {
        let count = self.change(owner.topic);
        count.kept = count.kept.minus(amount);
        if let Some(tenant) = owner.tenant {
            let change = self.came.entry((owner.topic, tenant)).or_default();
            change.went = change.went.plus(amount);
        }
    }

    /// What the tenant with this name has. One without a number did not come up in this process.
    pub(super) fn of_tenant(
        &mut self,
        (store, shard): (&Store, ShardId),
        (topic, tenant): (TopicId, Option<TenantId>),
        name: &str,
    ) -> Result<Amount, StoreError> {
        let known = tenant.and_then(|tenant| self.tenants.get(&(topic, tenant)).copied());
        let written = if let Some(amount) = known {
            amount
        } else {
            let row = store.get(&TenantKey { shard, topic, tenant: name.to_owned() })?.unwrap_or_default();
            Amount { messages: row.messages, bytes: row.bytes }
        };
        let Some(tenant) = tenant else { return Ok(written) };
        self.tenants.entry((topic, tenant)).or_insert(written);
        let change = self.came.get(&(topic, tenant)).copied().unwrap_or_default();
        Ok(written.plus(change.came).minus(change.went))
    }

    /// Puts the rows of all that changed into the open batch.
    pub(super) fn put(
        &mut self,
        batch: &mut Batch,
        (store, shard): (&Store, ShardId),
        name: impl Fn(TenantId) -> Option<Arc<str>>,
    ) -> Result<(), StoreError> {
        for topic in std::mem::take(&mut self.changed) {
            let TopicCount { lite_topics, kept } = self.of_topic(topic);
            let row = CountRow { lite_topics, messages: kept.messages, bytes: kept.bytes };
            batch.put(&CountKey { shard, topic }, &row);
        }
        for (topic, tenant) in self.came.keys().copied().collect::<Vec<_>>() {
            let Some(name) = name(tenant) else { continue };
            let amount = self.of_tenant((store, shard), (topic, Some(tenant)), &name)?;
            // It stays here although it may have nothing: its row can be read for a while as it was.
            self.tenants.insert((topic, tenant), amount);
            let key = TenantKey { shard, topic, tenant: name.as_ref().to_owned() };
            match amount {
                Amount { messages: 0, bytes: 0 } => batch.delete(&key),
                Amount { messages, bytes } => batch.put(&key, &TenantRow { messages, bytes }),
            }
        }
        self.came.clear();
        Ok(())
    }

    fn change(&mut self, topic: TopicId) -> &mut TopicCount {
        if !self.changed.contains(&topic) {
            self.changed.push(topic);
        }
        self.topics.entry(topic).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: ShardId = ShardId(1);
    const TOPIC: TopicId = TopicId(4);
    const TENANT: TenantId = TenantId(1 << 63);

    fn amount(messages: u64, bytes: u64) -> Amount {
        Amount { messages, bytes }
    }

    #[test]
    fn counts_are_the_same_before_and_after_they_are_written_and_in_the_next_process() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), None).unwrap();
        let owner = Owner { topic: TOPIC, tenant: Some(TENANT) };
        let mut counts = Counts::default();
        let tenant = |counts: &mut Counts| counts.of_tenant((&store, SHARD), (TOPIC, Some(TENANT)), "acme").unwrap();
        let write = |counts: &mut Counts| {
            let mut batch = Batch::new(&store);
            counts.put(&mut batch, (&store, SHARD), |_| Some("acme".into())).unwrap();
            store.write_control(batch).unwrap();
        };
        counts.lite_made(TOPIC);
        counts.came(owner, amount(3, 300));
        assert_eq!(tenant(&mut counts), amount(3, 300));
        write(&mut counts);
        counts.went(owner, amount(1, 100));
        assert_eq!((tenant(&mut counts), counts.of_topic(TOPIC).kept), (amount(2, 200), amount(2, 200)));
        write(&mut counts);

        let mut counts = Counts::default();
        counts.load(&store, SHARD, TOPIC).unwrap();
        assert_eq!(counts.of_topic(TOPIC), TopicCount { lite_topics: 1, kept: amount(2, 200) });
        counts.went(owner, amount(2, 200));
        assert_eq!(tenant(&mut counts), amount(0, 0));
        write(&mut counts);
        let gone = TenantKey { shard: SHARD, topic: TOPIC, tenant: "acme".into() };
        assert_eq!(store.get(&gone).unwrap(), None);
    }
}
