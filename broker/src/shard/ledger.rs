//! What a shard knows of messages: its lite topics and the changes under way. The groups, with
//! their schedulers and sessions, stand beside it.

use std::collections::HashMap;
use std::sync::Arc;

use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{LiteId, LiteName, Offset, TenantId, TopicId};

use super::Effect;
use super::cursor::Cursor;
use super::idempotency::Keys;
use super::lifecycle;
use super::lite::{Follower, Lite, Lites, NewLite};
use super::readers::Readers;
use super::stage::Stage;
use crate::catalog::TopicSpec;
use crate::id_hash::IdHash;
use crate::store::{CursorKey, LiteKey, Look, MessageKey, NameKey, StoreError};

/// Lite topics, topics, and the open batch.
pub(super) struct Ledger {
    pub(super) stage: Stage,
    pub(super) lites: Lites,
    pub(super) topics: HashMap<TopicId, Arc<TopicSpec>, IdHash>,
    pub(super) groups_of: HashMap<TopicId, Vec<Follower>>,
    pub(super) keys: Keys,
    pub(super) readers: Readers,
}

impl Ledger {
    pub(super) fn new(stage: Stage) -> Self {
        let keys = Keys::new(stage.shard());
        Self {
            stage,
            keys,
            lites: Lites::default(),
            topics: HashMap::default(),
            groups_of: HashMap::new(),
            readers: Readers::default(),
        }
    }

    /// A lite topic that must be in memory: it has something open.
    pub(super) fn open_lite(&mut self, id: LiteId) -> &mut Lite {
        self.lites.get(id).expect("a lite topic with something open stays in memory")
    }

    /// The lite topic with this id, if it exists.
    pub(super) fn lite(&mut self, id: LiteId) -> Result<Option<&mut Lite>, StoreError> {
        if self.lites.get(id).is_none() {
            let store = Arc::clone(self.stage.store());
            self.load(&store.look(), id)?;
        }
        Ok(self.lites.get(id))
    }

    /// Brings lite topics into memory that are not there, as far as they exist. What most of them need is read together.
    pub(super) fn load_together(&mut self, lites: impl Iterator<Item = LiteId>) -> Result<(), StoreError> {
        let (shard, store) = (self.stage.shard(), Arc::clone(self.stage.store()));
        let mut missing: Vec<_> = lites.filter(|&lite| self.lites.get(lite).is_none()).collect();
        // One that is due for two reasons is named twice.
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        let mut look = store.look();
        look.fetch(missing.iter().map(|&lite| NameKey { shard, lite }))?;
        let mut cursors = Vec::with_capacity(missing.len());
        for &lite in &missing {
            let name = look.get(&NameKey { shard, lite })?;
            let groups = name.and_then(|name| self.groups_of.get(&TopicId(name.topic)));
            cursors.extend(groups.into_iter().flatten().map(|follower| (follower.group, lite)));
        }
        let cursor = |&(group, lite): &_| CursorKey { shard, group, lite };
        look.fetch(cursors.iter().map(cursor))?;
        let mut heads: HashMap<_, _, IdHash> = missing.iter().map(|&lite| (lite, None)).collect();
        for place in &cursors {
            let Some(row) = look.get(&cursor(place))? else { continue };
            let head = Cursor::from_row(&row).head_offset(Offset(u64::MAX));
            let first = heads.entry(place.1).or_default();
            *first = (*first).into_iter().chain(head).min();
        }
        let of_lite = |(lite, head): (LiteId, Option<Offset>)| {
            let head = head.unwrap_or_default();
            [head, head.next()].map(|offset| MessageKey { shard, lite, offset })
        };
        look.fetch(heads.into_iter().flat_map(of_lite))?;
        missing.into_iter().try_for_each(|lite| self.load(&look, lite))
    }

    fn load(&mut self, look: &Look<'_>, id: LiteId) -> Result<(), StoreError> {
        if self.lites.is_deleted(id) {
            return Ok(());
        }
        let Some(row) = look.get(&NameKey { shard: self.stage.shard(), lite: id })? else { return Ok(()) };
        let Some(topic) = self.topics.get(&TopicId(row.topic)) else { return Ok(()) };
        self.lites.load(&mut self.stage, look, (id, &row), topic, &self.groups_of)
    }

    /// A tenant's name, for policies and consumers; empty of a lite topic that is gone.
    pub(super) fn tenant_name(&self, tenant: TenantId) -> Arc<str> {
        if let Some(name) = self.lites.tenant_name(tenant) {
            return name;
        }
        let key = NameKey { shard: self.stage.shard(), lite: LiteId(tenant.0) };
        // A store that fails is noticed by whoever needs more of it than a name.
        self.stage.store().get(&key).ok().flatten().map_or_else(|| "".into(), |row| row.name.into())
    }

    /// The id of the lite topic with this name, if it exists. Brings nothing into memory.
    pub(super) fn id_of(&self, topic: TopicId, name: &LiteName) -> Result<Option<LiteId>, StoreError> {
        if let Some(id) = self.lites.named(topic, name) {
            return Ok(Some(id));
        }
        let key = LiteKey { shard: self.stage.shard(), topic, name: name.clone() };
        let id = self.stage.store().get(&key)?.map(|row| LiteId(row.lite));
        Ok(id.filter(|id| !self.lites.is_deleted(*id)))
    }

    /// The lite topic with this name, if it exists; it is in memory then.
    pub(super) fn find(&mut self, topic: &Arc<TopicSpec>, name: &LiteName) -> Result<Option<LiteId>, StoreError> {
        let Some(id) = self.id_of(topic.id, name)? else { return Ok(None) };
        if self.lite(id)?.is_none() {
            let problem = "row is missing".to_owned();
            return Err(StoreError::Corrupt { table: "name", key: format!("{id}"), problem });
        }
        Ok(Some(id))
    }

    /// Ends the life of a lite topic that is in memory and has no open lease. Answers what it was.
    pub(super) fn delete(&mut self, id: LiteId) -> Lite {
        let mut lite = self.lites.remove(&self.stage, id).expect("it was just found");
        // Of groups that are being removed the rows go anyway, those of open leases too.
        let groups = self.groups_of.get(&lite.topic.id).map_or(&[][..], Vec::as_slice);
        lite.cursors.retain(|(id, _)| groups.iter().any(|follower| follower.group == *id));
        lifecycle::deleted(&mut self.stage, &mut lite);
        if self.readers.are_at(id) {
            self.stage.then(Durability::Os, Effect::Ended(id));
        }
        lite
    }

    /// Makes a lite topic.
    pub(super) fn create(&mut self, topic: &Arc<TopicSpec>, new: NewLite<'_>) -> LiteId {
        let name = new.name.clone();
        let id = self.lites.create(&mut self.stage, topic, new, &self.groups_of);
        self.readers.born(topic.id, &name, id);
        self.stage.counts.lite_made(topic.id);
        id
    }
}
