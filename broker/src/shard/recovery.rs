//! How a shard begins: what the store says of leases, quotas and waiting messages.

use std::collections::HashSet;
use std::sync::Arc;

use sluicegate_protocol::admin::{Durability, Follows};
use sluicegate_protocol::{GroupId, LiteId, Position, Timestamp, TopicId};
use sluicegate_scheduler::{Event, QuotaState};
use tokio::sync::{mpsc, oneshot, watch};

use super::command::Command;
use super::fault::Fault;
use super::group::Group;
use super::leases::{Lease, LeasePlace};
use super::ledger::Ledger;
use super::lite::Follower;
use super::position::position;
use super::receipts::Receipts;
use super::stage::Stage;
use super::{Loading, Shard, ShardId, busy};
use crate::catalog::{GroupSpec, PolicyBinding, TopicSpec};
use crate::clock::Clock;
use crate::kept::KeptRows;
use crate::policy::{CompiledPolicy, Shadow};
use crate::refusal::Refusal;
use crate::store::{
    Batch, BucketKey, BusyKey, BusyRow, Committer, LeaseKey, LeaseRow, LevelsKey, LevelsRow, LiteKey, LiteRow,
    ReadyKey, Scan, ShardKey, ShardRow, Store, StoreError, Watermark,
};

/// A group as a shard starts with it.
pub(crate) struct GroupStart {
    pub(crate) spec: Arc<GroupSpec>,
    /// The bound policy, compiled.
    pub(crate) policy: Option<(Arc<CompiledPolicy>, PolicyBinding)>,
    /// What is asked too, started.
    pub(crate) shadow: Option<Box<Shadow>>,
}

/// The shard row, with its epoch raised for good.
pub(crate) fn begin_epoch(store: &Arc<Store>, shard: ShardId) -> Result<ShardRow, StoreError> {
    let key = ShardKey { shard };
    let mut row = store.get(&key)?.unwrap_or(ShardRow { next_lite: 1, ..ShardRow::default() });
    row.epoch += 1;
    let mut batch = Batch::new(store);
    batch.put(&key, &row);
    store.write_control(batch)?;
    Ok(row)
}

impl Shard {
    /// A shard with all that its store says. `row` comes from [`begin_epoch`]. Where the store cannot be read the shard
    /// refuses everything, and others go on.
    pub(crate) fn recover(
        (store, kept, committer, clock, loading): (Arc<Store>, KeptRows, Committer, Clock, Loading),
        (shard, row): (ShardId, ShardRow),
        topics: Vec<Arc<TopicSpec>>,
        groups: Vec<GroupStart>,
        marks: watch::Receiver<Watermark>,
        mailbox: mpsc::Receiver<Command>,
    ) -> Self {
        let mut stage = Stage::new(shard, store, kept, row);
        stage.at(clock.now());
        let mut ledger = Ledger::new(stage);
        for topic in topics {
            ledger.topics.insert(topic.id, topic);
        }
        for group in &groups {
            let follower = Follower { group: group.spec.id, follows: group.spec.settings.follows };
            ledger.groups_of.entry(group.spec.topic).or_default().push(follower);
        }
        let (policy_home, policy_returns) = crate::policy::returns();
        let mut this = Self {
            clock,
            committer,
            marks,
            mailbox,
            pending: std::collections::VecDeque::new(),
            policy_home,
            policy_returns,
            ledger,
            groups: std::collections::HashMap::default(),
            recording: Vec::new(),
            receipts: Receipts::new(shard),
            removals: super::Removals::default(),
            loading,
            said_loading: 0,
            published_so_far: crate::metrics::Published::default(),
            reclaimed_so_far: 0,
            started_at: clock.now(),
            due_in: 0,
            due_from: Timestamp(0),
            failed: None,
            draining: false,
        };
        for group in groups {
            this.recover_group(group);
        }
        if let Err(error) = this.recover_rows() {
            this.fail(&error);
        }
        this.say_loading();
        this
    }

    fn recover_group(&mut self, start: GroupStart) {
        let (shard, now, id) = (self.ledger.stage.shard(), self.ledger.stage.now(), start.spec.id);
        let saved = self.ledger.stage.store().get(&BucketKey { shard, group: id }).unwrap_or_else(|error| {
            self.fail(&error);
            None
        });
        let saved = saved
            .map(|row| QuotaState { messages_tat_nanos: row.messages_tat_nanos, cost_tat_nanos: row.cost_tat_nanos });
        let mut group = Group::new((shard, now), start.spec, saved, self.policy_home.clone());
        if let Some((policy, binding)) = start.policy {
            group.begin_policy(shard, now, policy, &binding);
        }
        if start.shadow.is_some() {
            group.set_shadow(now, start.shadow);
        }
        self.groups.insert(id, group);
    }

    fn recover_rows(&mut self) -> Result<(), StoreError> {
        self.ledger.stage.recover_bodies()?;
        let shard = self.ledger.stage.shard();
        let store = Arc::clone(self.ledger.stage.store());
        let topics: Vec<_> = self.ledger.topics.keys().copied().collect();
        for topic in topics {
            self.ledger.stage.counts.load(&store, shard, topic)?;
        }
        self.recover_lease_rows()?;
        let groups: Vec<_> = self.groups.keys().copied().collect();
        for group in groups {
            self.recover_group_rows(group)?;
        }
        Ok(())
    }

    /// What a group must know before it serves: its open leases. What is ready, and what wakes, comes in behind.
    fn recover_group_rows(&mut self, id: GroupId) -> Result<(), StoreError> {
        let shard = self.ledger.stage.shard();
        let Some(levels) = self.ledger.stage.store().get(&LevelsKey { shard, group: id })? else {
            return self.recover_uncounted(id);
        };
        self.ledger.stage.levels.begin(id, levels);
        let (prefix, mut busy) = (BusyKey::of_group(shard, id), Vec::new());
        self.ledger.stage.store().scan(&prefix, &prefix, |_: BusyKey, row: BusyRow| {
            busy.extend(busy::lites(&row));
            Scan::More
        })?;
        for lite in busy {
            self.recover_leases(id, lite)?;
        }
        let group = self.groups.get_mut(&id).expect("it was just listed");
        group.paging.start(ReadyKey::of_group(shard, id));
        Ok(())
    }

    /// A group that is new, or from before its levels and leases had rows of their own: its ready rows are read at once, and counted.
    fn recover_uncounted(&mut self, id: GroupId) -> Result<(), StoreError> {
        self.ledger.stage.levels.begin(id, LevelsRow::default());
        let (prefix, mut ready) = (ReadyKey::of_group(self.ledger.stage.shard(), id), Vec::new());
        self.ledger.stage.store().scan(&prefix, &prefix, |key: ReadyKey, _| {
            ready.push((key.rank, key.lite));
            Scan::More
        })?;
        for &(_, lite) in &ready {
            self.recover_leases(id, lite)?;
        }
        let mut seen = HashSet::new();
        for (rank, lite) in ready {
            if self.ledger.lite(lite)?.is_none() {
                continue;
            }
            let Ledger { stage, lites, .. } = &mut self.ledger;
            if !seen.insert(lite) {
                // It had two for a while.
                stage.delete(&ReadyKey { shard: stage.shard(), group: id, rank, lite });
                continue;
            }
            let open = lites.get(lite).expect("it was just loaded");
            super::lifecycle::adopted(stage, id, open, rank);
            let end = open.next_offset;
            let unsettled = open.cursor(id).map_or(0, |cursor| cursor.unsettled(end));
            stage.levels.unsettled(id, unsettled.cast_signed());
            let group = self.groups.get_mut(&id).expect("it was just listed");
            group.load_ready(&mut self.ledger, lite, Some(rank))?;
        }
        Ok(())
    }

    /// Gives the leases that have rows of their own back to their cursors.
    fn recover_lease_rows(&mut self) -> Result<(), StoreError> {
        let (prefix, mut rows) = (LeaseKey::of_shard(self.ledger.stage.shard()), Vec::new());
        self.ledger.stage.store().scan(&prefix, &prefix, |key: LeaseKey, row: LeaseRow| {
            rows.push((key, row));
            Scan::More
        })?;
        for (key, row) in rows {
            let Some(lite) = self.ledger.lite(key.lite)? else { continue };
            let Some(cursor) = lite.cursor(key.group) else { continue };
            cursor.lease(key.offset, Lease::from_row(&row, LeasePlace::OwnRow));
        }
        Ok(())
    }

    /// Brings the open leases of a lite topic before the group's scheduler, and back to their sessions, which are away.
    fn recover_leases(&mut self, id: GroupId, lite: LiteId) -> Result<(), StoreError> {
        let now = self.ledger.stage.now();
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        if self.ledger.lite(lite)?.is_none() {
            return Ok(());
        }
        let Ledger { stage, lites, .. } = &mut self.ledger;
        let open = lites.get(lite).expect("it was just loaded");
        let tenant = open.tenant;
        let Some(cursor) = open.cursor(id).filter(|cursor| cursor.has_leases()) else { return Ok(()) };
        cursor.busy_place.get_or_insert_with(|| stage.enter_busy(id, lite));
        for (offset, lease) in cursor.leases() {
            if !group.deadlines.insert((lease.deadline, lite, offset)) {
                continue; // It was named twice.
            }
            group.scheduler.handle(now, Event::Leased { lite, tenant, charge: lease.charge });
            group.sessions.open(lease.session).leases.insert((lite, offset));
            if group.sessions.get(lease.session).is_some_and(|session| session.grace_until.is_none()) {
                group.sessions.away(lease.session, now.plus(group.session_grace()));
            }
        }
        Ok(())
    }

    /// A new group: it starts at this position of every lite topic of its topic.
    pub(super) fn add_group(
        &mut self,
        spec: Arc<GroupSpec>,
        start: Position,
        reply: oneshot::Sender<Result<(), Refusal>>,
    ) {
        if let Some(error) = &self.failed {
            // The control task may have gone with the process.
            let _ = reply.send(Err(super::store_failed(error)));
            return;
        }
        let (id, topic, now) = (spec.id, spec.topic, self.ledger.stage.now());
        let shard = self.ledger.stage.shard();
        let follows = spec.settings.follows;
        self.ledger.groups_of.entry(topic).or_default().push(Follower { group: id, follows });
        let group = Group::new((shard, now), spec, None, self.policy_home.clone());
        self.groups.insert(id, group);
        self.ledger.stage.levels.begin(id, LevelsRow::default());
        let done = match follows {
            Follows::All => self.follow(id, topic, start),
            Follows::Subscribed => Ok(()),
        };
        self.answer(reply, done, Durability::Fsync);
    }

    fn follow(&mut self, id: GroupId, topic: TopicId, start: Position) -> Result<(), Fault> {
        // Those in memory first: they may have rows that are not written yet.
        let in_memory: Vec<_> =
            self.ledger.lites.iter_mut().filter(|lite| lite.topic.id == topic).map(|lite| lite.id).collect();
        for lite in in_memory {
            let Ledger { stage, lites, .. } = &mut self.ledger;
            super::lifecycle::followed(stage, id, lites.get(lite).expect("it is in memory"));
            self.start_at(id, lite, start)?;
        }
        let (shard, mut rows) = (self.ledger.stage.shard(), Vec::new());
        let prefix = LiteKey::of_topic(shard, topic);
        self.ledger.stage.store().scan(&prefix, &prefix, |_: LiteKey, row: LiteRow| {
            rows.push(LiteId(row.lite));
            Scan::More
        })?;
        for lite in rows {
            if self.ledger.lites.get(lite).is_none() && self.ledger.lite(lite)?.is_some() {
                self.start_at(id, lite, start)?;
            }
        }
        Ok(())
    }

    /// The group begins in a lite topic, which is in memory.
    fn start_at(&mut self, id: GroupId, lite: LiteId, start: Position) -> Result<(), Fault> {
        if start != Position::Earliest {
            let to = position(&mut self.ledger, lite, start)?;
            let Ledger { stage, lites, .. } = &mut self.ledger;
            super::lifecycle::sought(stage, id, lites.get(lite).expect("it is in memory"), to);
        }
        let Some(group) = self.groups.get_mut(&id) else { return Ok(()) };
        Ok(group.load_ready(&mut self.ledger, lite, None)?)
    }
}
