//! The control task: owns topics, groups and policies. Every change is written, then told to the
//! shard, then visible in the catalog.

mod delete;
mod policy;
mod shadow;
mod workshop;

use std::sync::Arc;

use sluicegate_protocol::admin::{
    ActivatePolicy, Activation, CreateGroup, CreateTopic, DeletedGroup, DeletedTopic, Dependents, Follows,
    GroupSettings, LogRetention, ReclaimSettings, Retention, Shadow, TopicLimits, TopicSettings, WatchdogSettings,
    check_labels,
};
use sluicegate_protocol::limits::{LABELLED_TENANTS_MAX, SUSPEND_MAX};
use sluicegate_protocol::{ErrorCode, GroupName, Position, TopicName};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::workshop::{Ready, Workshop};
use crate::auth::Who;
use crate::broker::{send, stopping};
use crate::catalog::{Catalog, Deletion, FreeIds, GroupChange, GroupSpec, PolicySpec, TopicSpec};
use crate::clock::Clock;
use crate::policy::{Broken, CompiledPolicy, PolicyHost};
use crate::refusal::Refusal;
use crate::shard::{Command, ShardHandle, ShardId};
use crate::store::{Batch, ControlKind, Store, StoreError};

pub(crate) use shadow::history;

/// Changes that wait for the control task.
const CHANGES_MAX: usize = 64;
/// Topics that development mode makes on first use; beyond, an operator makes them.
const TOPICS_ON_FIRST_USE_MAX: usize = 1_000;
/// How long dead letters are kept: 14 days.
const DEAD_LETTER_AGE_MS: u64 = 14 * 24 * 3_600 * 1_000;

/// Bytes of the name of a tenant that is given labels.
const TENANT_BYTES_MAX: usize = 1_024;

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// A change that somebody wants.
enum Change {
    CreateTopic(CreateTopic, Reply<Arc<TopicSpec>>),
    TopicOnFirstUse(TopicName, Reply<Arc<TopicSpec>>),
    CreateGroup(Box<CreateGroup>, Reply<Arc<GroupSpec>>),
    Group(GroupName, GroupChange, Reply<Arc<GroupSpec>>),
    DeleteGroup(GroupName, Dependents, Reply<DeletedGroup>),
    DeleteTopic(TopicName, Dependents, Reply<DeletedTopic>),
    AddPolicy(Arc<CompiledPolicy>, Vec<u8>, Who, Reply<Arc<PolicySpec>>),
    Decide(GroupName, Decision, Who, Reply<Activation>),
    ReleasePolicy(String, Who, Reply<Arc<PolicySpec>>),
    Shadow(GroupName, Ready, Who, Reply<Shadow>),
    EndShadow(GroupName, Who, Reply<()>),
}

/// What is to decide for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The policy with this digest, or prefix of one.
    Policy { digest: String, config: String },
    /// What decides now, with another configuration.
    Config(String),
    /// Built-in fair scheduling.
    BuiltIn,
    /// What decided before what decides now.
    Before,
}

/// The same, with all made ready that takes time.
enum Decision {
    Policy(Ready),
    /// Only if this policy still decides.
    Configured(Ready),
    BuiltIn,
    /// Only if this is still what decided before.
    Before(Option<Ready>),
}

/// Asks the control task for changes.
#[derive(Clone)]
pub(crate) struct ControlHandle {
    changes: mpsc::Sender<Change>,
    workshop: Arc<Workshop>,
}

impl ControlHandle {
    pub(crate) async fn create_topic(&self, topic: CreateTopic) -> Result<Arc<TopicSpec>, Refusal> {
        self.ask(|reply| Change::CreateTopic(topic, reply)).await
    }

    pub(crate) async fn topic_on_first_use(&self, name: TopicName) -> Result<Arc<TopicSpec>, Refusal> {
        self.ask(|reply| Change::TopicOnFirstUse(name, reply)).await
    }

    pub(crate) async fn create_group(&self, group: CreateGroup) -> Result<Arc<GroupSpec>, Refusal> {
        self.ask(|reply| Change::CreateGroup(Box::new(group), reply)).await
    }

    /// Changes a group. The answer comes when the change is durable and its shard goes by it.
    pub(crate) async fn change_group(&self, group: GroupName, change: GroupChange) -> Result<Arc<GroupSpec>, Refusal> {
        self.ask(|reply| Change::Group(group, change, reply)).await
    }

    /// Deletes a group. The answer comes when its sessions have ended and nothing brings it back.
    pub(crate) async fn delete_group(
        &self,
        group: GroupName,
        dead_letters: Dependents,
    ) -> Result<DeletedGroup, Refusal> {
        self.ask(|reply| Change::DeleteGroup(group, dead_letters, reply)).await
    }

    /// Deletes a topic. The answer comes when nothing is published to it any more and nothing brings it back.
    pub(crate) async fn delete_topic(&self, topic: TopicName, groups: Dependents) -> Result<DeletedTopic, Refusal> {
        self.ask(|reply| Change::DeleteTopic(topic, groups, reply)).await
    }

    /// Takes a policy out of quarantine.
    pub(crate) async fn release_policy(&self, digest: String, who: Who) -> Result<Arc<PolicySpec>, Refusal> {
        self.ask(|reply| Change::ReleasePolicy(digest, who, reply)).await
    }

    /// Has a policy be asked beside the one that decides.
    pub(crate) async fn shadow(&self, group: GroupName, policy: ActivatePolicy, who: Who) -> Result<Shadow, Refusal> {
        let ready = self.workshop.ready(&policy.digest, policy.config).await?;
        self.ask(|reply| Change::Shadow(group, ready, who, reply)).await
    }

    /// Ends a group's shadow, if it has one.
    pub(crate) async fn end_shadow(&self, group: GroupName, who: Who) -> Result<(), Refusal> {
        self.ask(|reply| Change::EndShadow(group, who, reply)).await
    }

    async fn ask<T>(&self, change: impl FnOnce(Reply<T>) -> Change) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.changes.send(change(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }
}

/// The owner of the catalog.
pub(crate) struct Control {
    catalog: Catalog,
    visible: watch::Sender<Arc<Catalog>>,
    changes: mpsc::Receiver<Change>,
    store: Arc<Store>,
    clock: Clock,
    shards: Vec<ShardHandle>,
    host: Arc<PolicyHost>,
    workshop: Arc<Workshop>,
    free_ids: FreeIds,
    /// What the shards are removing; none where a shard has failed.
    removing: JoinSet<Option<Deletion>>,
    /// Policies that are made ready to take the place of those that failed; none where there is none, or it cannot be had.
    taking_over: JoinSet<(GroupName, Broken, Option<Ready>)>,
}

impl Control {
    /// The catalog that the store holds.
    pub(crate) fn load(store: &Arc<Store>) -> Result<(Catalog, FreeIds), StoreError> {
        let topics: Vec<TopicSpec> = store.control(ControlKind::Topic)?;
        let groups: Vec<GroupSpec> = store.control(ControlKind::Group)?;
        let policies: Vec<PolicySpec> = store.control(ControlKind::Policy)?;
        let deletions: Vec<Deletion> = store.control(ControlKind::Deletion)?;
        let catalog = Catalog {
            deletions: deletions.into_iter().collect(),
            topics: topics.into_iter().map(|topic| (topic.name.clone(), Arc::new(topic))).collect(),
            groups: groups.into_iter().map(|group| (group.name.clone(), Arc::new(group))).collect(),
            policies: policies.into_iter().map(|policy| (policy.digest.clone(), Arc::new(policy))).collect(),
        };
        let free_ids = store.control(ControlKind::FreeIds)?.pop().unwrap_or_else(|| catalog.free_ids());
        Ok((catalog, free_ids))
    }

    /// A control task and what others need of it.
    pub(crate) fn new(
        (catalog, free_ids): (Catalog, FreeIds),
        (store, clock): (Arc<Store>, Clock),
        shards: Vec<ShardHandle>,
        host: Arc<PolicyHost>,
    ) -> (Self, ControlHandle, watch::Receiver<Arc<Catalog>>) {
        let (changes_tx, changes) = mpsc::channel(CHANGES_MAX);
        let (visible, catalog_rx) = watch::channel(Arc::new(catalog.clone()));
        let workshop = Workshop::new(Arc::clone(&host), (Arc::clone(&store), clock), catalog_rx.clone());
        let workshop = Arc::new(workshop);
        let handle = ControlHandle { changes: changes_tx, workshop: Arc::clone(&workshop) };
        let (removing, taking_over) = (JoinSet::new(), JoinSet::new());
        let control =
            Self { catalog, visible, changes, store, clock, shards, host, workshop, free_ids, removing, taking_over };
        (control, handle, catalog_rx)
    }

    /// Runs until all handles are dropped.
    pub(crate) async fn run(mut self) {
        self.resume_deletions().await;
        let alarms = self.host.alarms().clone();
        loop {
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some(change) => self.change(change).await,
                    None => return,
                },
                broken = alarms.next() => for broken in broken {
                    self.policy_broke(broken).await;
                },
                Some(ready) = self.taking_over.join_next() => if let Ok((name, broken, last_good)) = ready {
                    self.take_over(&name, &broken, last_good).await;
                },
                // One that was given up has no deletion: the next start goes on with it.
                Some(done) = self.removing.join_next() => if let Ok(Some(deletion)) = done {
                    self.removed(deletion).await;
                },
            }
            self.show();
        }
    }

    /// From now on everybody sees the catalog as it is.
    fn show(&self) {
        self.visible.send_replace(Arc::new(self.catalog.clone()));
    }

    /// What is asked for next may go by the catalog: it is shown first.
    fn answer<T>(&self, reply: Reply<T>, answer: Result<T, Refusal>) {
        self.show();
        // Whoever asked may have given up.
        let _ = reply.send(answer);
    }

    async fn change(&mut self, change: Change) {
        // Whoever asked may have given up: an unread reply is no fault.
        match change {
            Change::CreateTopic(topic, reply) => drop(reply.send(self.create_topic(topic).await)),
            Change::TopicOnFirstUse(name, reply) => drop(reply.send(self.topic_on_first_use(name).await)),
            Change::CreateGroup(group, reply) => drop(reply.send(self.create_group(*group).await)),
            Change::Group(group, change, reply) => drop(reply.send(self.change_group(&group, change).await)),
            Change::DeleteGroup(group, dead_letters, reply) => {
                drop(reply.send(self.delete_group(&group, dead_letters).await));
            }
            Change::DeleteTopic(topic, groups, reply) => drop(reply.send(self.delete_topic(&topic, groups).await)),
            Change::AddPolicy(compiled, wasm, who, reply) => {
                let added = self.add_policy(&compiled, &wasm, &who).await;
                self.answer(reply, added);
            }
            Change::Decide(group, decision, who, reply) => {
                let decided = self.decide(&group, decision, &who.0, None).await;
                self.answer(reply, decided);
            }
            Change::ReleasePolicy(digest, who, reply) => {
                let released = self.release_policy(&digest, &who).await;
                self.answer(reply, released);
            }
            Change::Shadow(group, ready, who, reply) => {
                let started = self.shadow(&group, ready, &who.0).await;
                self.answer(reply, started);
            }
            Change::EndShadow(group, who, reply) => {
                let ended = self.end_shadow(&group, &who.0).await;
                self.answer(reply, ended);
            }
        }
    }

    async fn create_topic(&mut self, topic: CreateTopic) -> Result<Arc<TopicSpec>, Refusal> {
        topic.settings.check().map_err(|problem| Refusal::new(ErrorCode::InvalidArgument, problem))?;
        if let Some(existing) = self.catalog.topics.get(topic.name.as_str()) {
            if existing.settings == topic.settings {
                return Ok(Arc::clone(existing));
            }
            return Err(exists("topic", topic.name.as_str()));
        }
        self.check_replies(&topic)?;
        let id = self.free_ids.take_topic();
        let shard = u16::try_from(id.0 as usize % self.shards.len()).expect("shards are at most 1024");
        let spec = TopicSpec {
            id,
            name: topic.name.as_str().to_owned(),
            settings: topic.settings,
            created_at: self.clock.now(),
            shard: ShardId(shard),
        };
        self.add_topic(spec).await
    }

    /// Replies go to a log that is there: they are read by those who asked, and settled by nobody.
    fn check_replies(&self, topic: &CreateTopic) -> Result<(), Refusal> {
        let Some(replies) = &topic.settings.replies else { return Ok(()) };
        let invalid = |message| Err(Refusal::new(ErrorCode::InvalidArgument, message));
        if let Err(error) = TopicName::parse(replies.as_str()) {
            // A dead-letter topic goes with its group.
            return invalid(format!("replies: {error}"));
        }
        if *replies == topic.name {
            return invalid(format!("replies: topic `{replies}` cannot take the replies to its own requests"));
        }
        let Some(found) = self.catalog.topics.get(replies.as_str()) else {
            let message = format!("replies: topic `{replies}` does not exist: create it first, `--for replies`");
            return Err(Refusal::new(ErrorCode::UnknownTopic, message));
        };
        match found.settings.retention {
            Retention::Log(_) => Ok(()),
            Retention::WorkQueue => invalid(format!(
                "replies: topic `{replies}` is a work queue, replies need a log: create one `--for replies`"
            )),
        }
    }

    async fn topic_on_first_use(&mut self, name: TopicName) -> Result<Arc<TopicSpec>, Refusal> {
        if let Some(existing) = self.catalog.topics.get(name.as_str()) {
            return Ok(Arc::clone(existing));
        }
        let topics = self.catalog.topics.len();
        if topics >= TOPICS_ON_FIRST_USE_MAX {
            let max = TOPICS_ON_FIRST_USE_MAX as u64;
            return Err(Refusal::limit(ErrorCode::LimitReached, "topics made on first use", max, topics as u64));
        }
        self.create_topic(CreateTopic { name, settings: TopicSettings::default() }).await
    }

    async fn add_topic(&mut self, spec: TopicSpec) -> Result<Arc<TopicSpec>, Refusal> {
        let mut batch = self.ids_batch();
        batch.put_control(ControlKind::Topic, &spec.name, &spec);
        self.write(batch).await?;
        let spec = Arc::new(spec);
        send(&self.shards[usize::from(spec.shard.0)], Command::AddTopic(Arc::clone(&spec))).await?;
        self.catalog.topics.insert(spec.name.clone(), Arc::clone(&spec));
        tracing::info!(topic = spec.name, shard = spec.shard.0, "topic created");
        Ok(spec)
    }

    async fn create_group(&mut self, group: CreateGroup) -> Result<Arc<GroupSpec>, Refusal> {
        check_group(&group.settings)?;
        if let Position::Offset(_) = group.start {
            let message = "an offset means something in one lite topic only: create the group, then seek there";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        if group.settings.follows == Follows::Subscribed && group.start != Position::Earliest {
            let message =
                "start: a group that follows what its consumers subscribe to starts at the first kept message of each";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let unknown = || Refusal::new(ErrorCode::UnknownTopic, format!("topic `{}` does not exist", group.topic));
        let topic = self.catalog.topics.get(group.topic.as_str()).cloned().ok_or_else(unknown)?;
        if let Some(existing) = self.catalog.groups.get(&group.name) {
            if existing.settings == group.settings && existing.topic == topic.id {
                return Ok(Arc::clone(existing));
            }
            return Err(exists("group", group.name.as_str()));
        }
        let dead_letter = self.dead_letter_topic(&topic, &group.name).await?;
        let spec = GroupSpec {
            id: self.free_ids.take_group(),
            name: group.name,
            topic: topic.id,
            dead_letter: dead_letter.id,
            settings: group.settings,
            created_at: self.clock.now(),
            paused: false,
            policy: None,
            policy_history: Vec::new(),
            shadow: None,
            shadow_history: Vec::new(),
        };
        // The id is used up whatever comes. A group that is written down has its place in every lite topic already, so the
        // shard comes first; of a group that a crash left half made, the next start removes what is there.
        let half_made = Deletion::Group { id: spec.id, topic: topic.id, shard: topic.shard };
        let mut batch = self.ids_batch();
        batch.put_control(ControlKind::Deletion, &half_made.key(), &half_made);
        self.write(batch).await?;
        let (reply, answer) = oneshot::channel();
        let shard = &self.shards[usize::from(topic.shard.0)];
        send(shard, Command::AddGroup { spec: Arc::new(spec.clone()), start: group.start, reply }).await?;
        if let Err(refusal) = answer.await.map_err(|_| stopping())? {
            // It is refused for its own reason, whatever becomes of the rest.
            let _ = self.remove(half_made).await;
            return Err(refusal);
        }
        let mut batch = Batch::new(&self.store);
        batch.delete_control(ControlKind::Deletion, &half_made.key());
        let spec = self.put_group(batch, spec).await?;
        tracing::info!(group = %spec.name, topic = topic.name, "group created");
        Ok(spec)
    }

    /// The topic of what a group cannot process; it may be there from an attempt that a crash cut short.
    async fn dead_letter_topic(&mut self, topic: &TopicSpec, group: &GroupName) -> Result<Arc<TopicSpec>, Refusal> {
        let name = topic.topic_name().dead_letter(group).as_str().to_owned();
        if let Some(existing) = self.catalog.topics.get(&name) {
            return Ok(Arc::clone(existing));
        }
        let spec = TopicSpec {
            id: self.free_ids.take_topic(),
            name,
            settings: TopicSettings {
                retention: Retention::Log(LogRetention { age_ms: Some(DEAD_LETTER_AGE_MS), bytes: None }),
                reclaim: ReclaimSettings::default(),
                limits: TopicLimits::NONE,
                ..topic.settings.clone()
            },
            created_at: self.clock.now(),
            // In the source's shard, so that a move is one batch.
            shard: topic.shard,
        };
        self.add_topic(spec).await
    }

    async fn change_group(&mut self, name: &GroupName, change: GroupChange) -> Result<Arc<GroupSpec>, Refusal> {
        let mut spec = GroupSpec::clone(self.group(name)?);
        spec.apply(change.clone());
        check_group(&spec.settings)?;
        let shard = self.shard_of(&spec);
        let spec = self.replace_group(spec).await?;
        let (reply, answer) = oneshot::channel();
        send(&self.shards[shard], Command::ChangeGroup(Arc::clone(&spec), reply)).await?;
        answer.await.map_err(|_| stopping())?;
        tracing::info!(group = %name, ?change, "group changed");
        Ok(spec)
    }

    fn group(&self, name: &GroupName) -> Result<&Arc<GroupSpec>, Refusal> {
        self.catalog.groups.get(name).ok_or_else(|| unknown_group(name))
    }

    fn shard_of(&self, group: &GroupSpec) -> usize {
        let topic = self.catalog.topic(group.topic).expect("a group's topic is not deleted before it");
        usize::from(topic.shard.0)
    }

    async fn replace_group(&mut self, spec: GroupSpec) -> Result<Arc<GroupSpec>, Refusal> {
        self.put_group(Batch::new(&self.store), spec).await
    }

    async fn put_group(&mut self, mut batch: Batch, spec: GroupSpec) -> Result<Arc<GroupSpec>, Refusal> {
        batch.put_control(ControlKind::Group, spec.name.as_str(), &spec);
        self.write(batch).await?;
        let spec = Arc::new(spec);
        self.catalog.groups.insert(spec.name.clone(), Arc::clone(&spec));
        Ok(spec)
    }

    /// A batch that says which ids are free from now on.
    fn ids_batch(&self) -> Batch {
        let mut batch = Batch::new(&self.store);
        batch.put_control(ControlKind::FreeIds, "", &self.free_ids);
        batch
    }

    async fn write(&self, batch: Batch) -> Result<(), Refusal> {
        let store = Arc::clone(&self.store);
        let written = tokio::task::spawn_blocking(move || store.write_control(batch)).await;
        written.map_err(|_| stopping())?.map_err(|error| failed(&error))
    }
}

fn check_group(settings: &GroupSettings) -> Result<(), Refusal> {
    let refuse = |message: &str| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    let day = 24 * 3_600 * 1_000;
    if !(100..=day).contains(&settings.lease_ms) {
        return refuse("lease_ms: allowed are 100 (0.1 s) to 86400000 (1 day)");
    }
    if settings.session_grace_ms > day {
        return refuse("session_grace_ms: at most 86400000 (1 day) is allowed");
    }
    if settings.max_attempts == 0 {
        return refuse("max_attempts: at least 1 is needed");
    }
    if let Err(problem) = (WatchdogSettings { after_ms: settings.watchdog_ms }).check() {
        return refuse(&problem);
    }
    if u128::from(settings.retry_initial_ms.max(settings.retry_max_ms)) > SUSPEND_MAX.as_millis() {
        return refuse("retry_initial_ms, retry_max_ms: at most 2592000000 (30 days) is allowed");
    }
    let concurrency = settings.concurrency;
    if concurrency.group == Some(0) || concurrency.tenant == Some(0) || concurrency.lite_topic == 0 {
        return refuse("concurrency: at least 1 is needed");
    }
    let labelled = settings.tenant_labels.len();
    if labelled > LABELLED_TENANTS_MAX {
        let max = LABELLED_TENANTS_MAX as u64;
        return Err(Refusal::limit(ErrorCode::TooLarge, "tenants with labels", max, labelled as u64));
    }
    for (tenant, labels) in &settings.tenant_labels {
        if tenant.is_empty() || tenant.len() > TENANT_BYTES_MAX {
            let message = format!("tenant_labels: a tenant's name has 1 to {TENANT_BYTES_MAX} bytes");
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let wrong = |problem| format!("tenant_labels: tenant `{tenant}`: {problem}");
        check_labels(labels).map_err(|problem| Refusal::new(ErrorCode::InvalidArgument, wrong(problem)))?;
    }
    Ok(())
}

fn exists(what: &str, name: &str) -> Refusal {
    Refusal::new(ErrorCode::AlreadyExists, format!("{what} `{name}` exists with other settings"))
}

fn unknown_group(name: &GroupName) -> Refusal {
    Refusal::new(ErrorCode::UnknownGroup, format!("group `{name}` does not exist"))
}

fn failed(error: &StoreError) -> Refusal {
    Refusal::new(ErrorCode::StoreFailed, error.to_string())
}
