//! The lite topics that a shard has in memory: those with something open or just changed, and some others, waiting or idle. The rest
//! is in rows, and what waits is known to the schedulers.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use sluicegate_protocol::admin::{Follows, TenantRule, check_labels};
use sluicegate_protocol::limits::LABEL_PREFIX;
use sluicegate_protocol::{GroupId, LiteId, LiteName, Offset, TenantId, Timestamp, TopicId};

use super::counts::Owner;
use super::cursor::Cursor;
use super::limits::is_tenant_limited;
use super::reclaim;
use super::stage::Stage;
use crate::catalog::TopicSpec;
use crate::id_hash::IdHash;
use crate::store::{LiteKey, LiteRow, NameKey, NameRow, OwnReclaim};

/// Lite topics that a shard keeps in memory although nothing of them is open.
const KEPT_MAX: usize = if cfg!(test) { 32 } else { 16_384 };
/// Lite topics looked at for each one that is loaded, to find one to forget.
const EVICTION_TRIES: usize = 4;

/// One life of a lite topic.
#[derive(Debug)]
pub(crate) struct Lite {
    pub(crate) id: LiteId,
    pub(crate) topic: Arc<TopicSpec>,
    pub(crate) name: LiteName,
    pub(crate) tenant: TenantId,
    /// The tenant's name; none where the tenant is the lite topic.
    pub(crate) tenant_name: Option<Arc<str>>,
    /// Offset of the next message, staged ones included.
    pub(crate) next_offset: Offset,
    /// Messages below are as durable as the topic asks; schedulers see no others.
    pub(crate) visible: Offset,
    /// Rows below are deleted: every group has settled them.
    pub(crate) trimmed: Offset,
    /// Bytes of all messages before the first kept one, where that is known.
    pub(crate) kept_position: Option<u64>,
    /// Bytes of all messages that there ever were.
    pub(crate) end_position: u64,
    /// Positions of the messages from [`Lite::visible`] on, which may not be readable yet.
    pub(crate) unseen: VecDeque<u64>,
    /// From here on no message has a body with rows of its own.
    pub(crate) bodies_end: Offset,
    /// When the last message was published.
    pub(crate) written_at: Timestamp,
    /// One for each group that follows it.
    pub(crate) cursors: Vec<(GroupId, Cursor)>,
    /// Last batch that changed the lite topic.
    pub(crate) staged_in: u64,
    pub(crate) created_at: Timestamp,
    /// When its life ends, where it does not go by its topic.
    pub(crate) reclaim: Option<OwnReclaim>,
    /// Counts the changes of that.
    pub(crate) reclaim_changes: u32,
    pub(crate) labels: Option<Box<Labels>>,
}

/// What a lite topic's first message says of it, for policies.
pub(crate) type Labels = BTreeMap<String, String>;

/// Who a new lite topic is.
#[derive(Debug)]
pub(crate) struct NewLite<'a> {
    pub(crate) name: LiteName,
    /// The tenant's name; none where the tenant is the lite topic.
    pub(crate) tenant: Option<&'a str>,
    pub(crate) labels: Labels,
}

impl Lite {
    pub(crate) fn cursor(&mut self, group: GroupId) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|(id, _)| *id == group).map(|(_, cursor)| cursor)
    }

    /// Which lite topic this is, and whose.
    pub(crate) fn place(&self) -> LitePlace {
        LitePlace { lite: self.id, tenant: self.tenant_name.clone() }
    }

    /// Its row in table `name`.
    pub(crate) fn name_row(&self) -> NameRow {
        NameRow {
            topic: self.topic.id.0,
            name: self.name.as_str().to_owned(),
            tenant: self.tenant_name.as_ref().map(|tenant| tenant.as_ref().to_owned()),
            created_at_us: self.created_at.0,
            reclaim: self.reclaim,
            reclaim_changes: self.reclaim_changes,
            labels: self.labels.as_deref().cloned().unwrap_or_default(),
        }
    }

    /// A message more is as durable as the topic asks.
    pub(crate) fn saw(&mut self, offset: Offset) {
        self.visible = offset.next();
        self.unseen.pop_front();
        if self.unseen.is_empty() {
            // Few have one for long.
            self.unseen = VecDeque::new();
        }
    }

    /// Whose its messages are counted as.
    pub(super) fn owner(&self) -> Owner {
        let is_counted = self.tenant.0 & NAMED_TENANT != 0 && is_tenant_limited(&self.topic);
        Owner { topic: self.topic.id, tenant: is_counted.then_some(self.tenant) }
    }

    /// Whether everything of it is in rows that can be read, and nothing is open.
    fn may_leave(&self, written: u64) -> bool {
        let is_quiet = self.staged_in <= written && self.visible == self.next_offset;
        is_quiet && self.cursors.iter().all(|(_, cursor)| cursor.may_leave())
    }
}

/// Which lite topic, and its tenant's name if that has one of its own.
#[derive(Debug, Clone)]
pub(crate) struct LitePlace {
    pub(crate) lite: LiteId,
    pub(crate) tenant: Option<Arc<str>>,
}

/// Lite topics by id and by name.
#[derive(Debug, Default)]
pub(crate) struct Lites {
    by_id: HashMap<LiteId, Lite, IdHash>,
    by_name: HashMap<(TopicId, LiteName), LiteId>,
    /// In the order of loading, for eviction.
    loaded: VecDeque<LiteId>,
    /// Loaded since the last eviction.
    fresh: usize,
    tenants: Tenants,
    /// Deleted in batches that are not written: until then their rows can still be read.
    deleted: HashSet<LiteId, IdHash>,
    /// The same with their batches, in order.
    deletions: VecDeque<(u64, LiteId)>,
}

/// Names of tenants that are not lite topics.
#[derive(Debug, Default)]
struct Tenants {
    by_name: HashMap<Arc<str>, TenantId>,
    names: Vec<Arc<str>>,
}

/// Set in the ids of tenants that have a name of their own; without it the id is a lite id.
const NAMED_TENANT: u64 = 1 << 63;

impl Tenants {
    fn intern(&mut self, name: &str) -> TenantId {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = TenantId(NAMED_TENANT | self.names.len() as u64);
        let name: Arc<str> = name.into();
        self.names.push(Arc::clone(&name));
        self.by_name.insert(name, id);
        id
    }

    fn name(&self, id: TenantId) -> Option<&Arc<str>> {
        let index = id.0 & !NAMED_TENANT;
        (id.0 & NAMED_TENANT != 0).then(|| self.names.get(usize::try_from(index).ok()?)).flatten()
    }
}

/// A group, and which lite topics of its topic it follows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Follower {
    pub(crate) group: GroupId,
    pub(crate) follows: Follows,
}

/// The groups of each topic, as loading needs them.
pub(crate) type GroupsOf<'a> = &'a HashMap<TopicId, Vec<Follower>>;

impl Lites {
    pub(crate) fn get(&mut self, id: LiteId) -> Option<&mut Lite> {
        self.by_id.get_mut(&id)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lite> {
        self.by_id.values_mut()
    }

    /// The ids of all that are in memory, and of some that were.
    pub(crate) fn ids(&self) -> Vec<LiteId> {
        self.loaded.iter().copied().collect()
    }

    /// Takes a lite topic out whose topic is deleted.
    pub(crate) fn forget(&mut self, id: LiteId) {
        if let Some(lite) = self.by_id.remove(&id) {
            self.by_name.remove(&(lite.topic.id, lite.name));
        }
    }

    /// A tenant's own name; none where the tenant is a lite topic.
    pub(crate) fn tenant_named_by(&self, tenant: TenantId) -> Option<Arc<str>> {
        self.tenants.name(tenant).cloned()
    }

    /// A tenant's name; none if the tenant is a lite topic that is not in memory.
    pub(crate) fn tenant_name(&self, tenant: TenantId) -> Option<Arc<str>> {
        let of_lite = || self.by_id.get(&LiteId(tenant.0)).map(|lite| lite.name.shared());
        self.tenant_named_by(tenant).or_else(of_lite)
    }

    /// The tenant with this name, if a lite topic in memory ever had it. Names that only a refused message says are not kept.
    pub(crate) fn tenant_named(&self, name: &str) -> Option<TenantId> {
        self.tenants.by_name.get(name).copied()
    }

    /// The lite topic with this name, if it is in memory.
    pub(crate) fn named(&self, topic: TopicId, name: &LiteName) -> Option<LiteId> {
        self.by_name.get(&(topic, name.clone())).copied()
    }

    /// A new lite topic, with its rows staged.
    pub(crate) fn create(
        &mut self,
        stage: &mut Stage,
        topic: &Arc<TopicSpec>,
        NewLite { name, tenant, labels }: NewLite<'_>,
        groups: GroupsOf<'_>,
    ) -> LiteId {
        let id = stage.next_lite_id();
        let shard = stage.shard();
        stage.put(&LiteKey { shard, topic: topic.id, name: name.clone() }, &LiteRow { lite: id.0 });
        reclaim::arm_new(stage, topic.settings.reclaim, id);
        let mut cursors = Vec::new();
        // Those that follow what is subscribed to look at it when its first message is visible.
        let followers = groups.get(&topic.id).into_iter().flatten().filter(|follower| follower.follows == Follows::All);
        for &Follower { group, .. } in followers {
            // A missing row means that the group never saw the lite topic: so there is one from the start.
            stage.touch(group, id);
            let mut cursor = Cursor::default();
            cursor.touch(stage.now());
            cursors.push((group, cursor));
        }
        let (tenant, tenant_name) = self.tenant_of(id, tenant);
        let lite = Lite {
            id,
            topic: Arc::clone(topic),
            name,
            tenant,
            tenant_name,
            next_offset: Offset(0),
            visible: Offset(0),
            trimmed: Offset(0),
            kept_position: Some(0),
            end_position: 0,
            unseen: VecDeque::new(),
            bodies_end: Offset(0),
            written_at: stage.now(),
            cursors,
            staged_in: stage.number(),
            created_at: stage.now(),
            reclaim: None,
            reclaim_changes: 0,
            labels: (!labels.is_empty()).then(|| Box::new(labels)),
        };
        stage.put(&NameKey { shard, lite: id }, &lite.name_row());
        self.insert(lite);
        id
    }

    /// The tenant of a lite topic, by the name that its rows say.
    pub(crate) fn tenant_of(&mut self, id: LiteId, tenant: Option<&str>) -> (TenantId, Option<Arc<str>>) {
        let Some(name) = tenant else { return (TenantId(id.0), None) };
        let tenant = self.tenants.intern(name);
        (tenant, self.tenants.name(tenant).cloned())
    }

    /// Whether the lite topic's life is over, although its rows may still be read.
    pub(crate) fn is_deleted(&self, id: LiteId) -> bool {
        self.deleted.contains(&id)
    }

    /// Takes a lite topic out whose rows are deleted in the open batch.
    pub(crate) fn remove(&mut self, stage: &Stage, id: LiteId) -> Option<Lite> {
        let lite = self.by_id.remove(&id)?;
        self.by_name.remove(&(lite.topic.id, lite.name.clone()));
        while let Some((_, written)) = self.deletions.pop_front_if(|(number, _)| *number <= stage.written()) {
            self.deleted.remove(&written);
        }
        self.deleted.insert(id);
        self.deletions.push_back((stage.number(), id));
        Some(lite)
    }

    pub(super) fn insert(&mut self, lite: Lite) {
        self.fresh += 1;
        self.loaded.push_back(lite.id);
        self.by_name.insert((lite.topic.id, lite.name.clone()), lite.id);
        self.by_id.insert(lite.id, lite);
    }

    /// Forgets lite topics of which nothing is open, where there are many. To be called between turns: in a turn all that was
    /// loaded stays.
    pub(crate) fn evict(&mut self, written: u64) {
        if self.by_id.len() <= KEPT_MAX && self.by_id.capacity() > 2 * KEPT_MAX {
            // Of a time when many were open at once.
            let room = KEPT_MAX + KEPT_MAX / 4;
            self.by_id.shrink_to(room);
            self.by_name.shrink_to(room);
            self.loaded.shrink_to(room);
        }
        for _ in 0..EVICTION_TRIES * std::mem::take(&mut self.fresh) {
            if self.loaded.len() < KEPT_MAX {
                return;
            }
            let Some(id) = self.loaded.pop_front() else { return };
            if self.by_id.get(&id).is_some_and(|lite| !lite.may_leave(written)) {
                self.loaded.push_back(id);
            } else if let Some(lite) = self.by_id.remove(&id) {
                self.by_name.remove(&(lite.topic.id, lite.name));
            }
        }
    }
}

/// The labels that a new lite topic gets from its first message's properties, or what is wrong with them.
pub(crate) fn labels_of(properties: &BTreeMap<String, String>) -> Result<Labels, String> {
    let labelled = properties.range(LABEL_PREFIX.to_owned()..);
    let named = labelled.map_while(|(key, value)| key.strip_prefix(LABEL_PREFIX).map(|key| (key.to_owned(), value)));
    let labels: Labels = named.map(|(key, value)| (key, value.clone())).collect();
    check_labels(&labels)?;
    Ok(labels)
}

/// The tenant that the topic's rule gives a new lite topic, or the rule that the message breaks.
pub(crate) fn tenant_by_rule<'a>(
    rule: &TenantRule,
    name: &'a LiteName,
    property: impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<&'a str>, String> {
    match rule {
        TenantRule::LiteTopic => Ok(None),
        TenantRule::Prefix => Ok(Some(name.prefix())),
        TenantRule::Property(key) => property(key).map(Some).ok_or_else(|| {
            format!("the first message of a lite topic needs the property `{key}`, which names its tenant")
        }),
    }
}
