//! The broker as connections and the admin API see it: look-ups, and commands to shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sluicegate_protocol::admin::HealthStatus;
use sluicegate_protocol::limits::{FRAME_BYTES_MAX, READERS_MAX};
use sluicegate_protocol::{ErrorCode, GroupName, TopicName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::auth::Auth;
use crate::catalog::{Catalog, GroupSpec, TopicSpec};
use crate::clock::Clock;
use crate::control::ControlHandle;
use crate::metrics::Meters;
use crate::policy::Cabinet;
use crate::refusal::Refusal;
use crate::shard::{Command, Loading, ShardHandle, ShardId};
use crate::store::{Store, StoreError};
use crate::uploads::Uploads;

/// Bytes of publishes that are not answered yet, of all producers together.
const PUBLISH_BYTES_MAX: usize = 64 << 20;

/// A handle to all parts that answer requests. Cheap to share.
pub(crate) struct Broker {
    pub(crate) auth: Auth,
    pub(crate) clock: Clock,
    pub(crate) control: ControlHandle,
    pub(crate) store: Arc<Store>,
    pub(crate) meters: Meters,
    pub(crate) uploads: Uploads,
    pub(crate) capsules: Cabinet,
    draining: AtomicBool,
    /// Development mode: topics are made on first use.
    pub(crate) dev: bool,
    shards: Vec<ShardHandle>,
    loading: Loading,
    catalog: watch::Receiver<Arc<Catalog>>,
    publish_bytes: Arc<Semaphore>,
    streams: AtomicU64,
    /// Places of readers, of all connections together.
    pub(crate) readers: Arc<Semaphore>,
}

impl Broker {
    pub(crate) fn new(
        (auth, clock, control, store, meters): (Auth, Clock, ControlHandle, Arc<Store>, Meters),
        (uploads, capsules): (Uploads, Cabinet),
        dev: bool,
        (shards, loading): (Vec<ShardHandle>, Loading),
        catalog: watch::Receiver<Arc<Catalog>>,
    ) -> Self {
        let publish_bytes = Arc::new(Semaphore::new(PUBLISH_BYTES_MAX));
        let (draining, streams) = (AtomicBool::new(false), AtomicU64::new(1));
        Self {
            auth,
            clock,
            control,
            store,
            meters,
            uploads,
            capsules,
            draining,
            dev,
            shards,
            loading,
            catalog,
            publish_bytes,
            streams,
            readers: Arc::new(Semaphore::new(READERS_MAX as usize)),
        }
    }

    /// From now on there are no new leases.
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the broker serves fully, and why not.
    pub(crate) fn health(&self) -> (HealthStatus, Option<String>) {
        match self.store.failure() {
            Some(error) => (HealthStatus::Failed, Some(error.to_string())),
            None if self.draining.load(Ordering::Relaxed) => (HealthStatus::Draining, None),
            None if self.store.space().is_short() => {
                (HealthStatus::DiskFull, Some(self.store.space().room().to_string()))
            }
            None => (HealthStatus::Ok, None),
        }
    }

    /// Lite topics that wait, and that the shards have not read yet since the start.
    pub(crate) fn loading(&self) -> u64 {
        self.loading.count()
    }

    /// What operators made, as it is now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.borrow())
    }

    /// The topic with this name; made now where development mode allows.
    pub(crate) async fn topic(&self, name: &TopicName) -> Result<Arc<TopicSpec>, Refusal> {
        if let Some(topic) = self.catalog().topics.get(name.as_str()) {
            return Ok(Arc::clone(topic));
        }
        if self.dev && TopicName::parse(name.as_str()).is_ok() {
            return self.control.topic_on_first_use(name.clone()).await;
        }
        Err(Refusal::new(ErrorCode::UnknownTopic, format!("topic `{name}` does not exist")))
    }

    /// The group with this name.
    pub(crate) fn group(&self, name: &GroupName) -> Result<Arc<GroupSpec>, Refusal> {
        let unknown = || Refusal::new(ErrorCode::UnknownGroup, format!("group `{name}` does not exist"));
        self.catalog().groups.get(name).cloned().ok_or_else(unknown)
    }

    /// What whoever asked is told when the store cannot be read. The store's life ends with it.
    pub(crate) fn read_failed(&self, error: &StoreError) -> Refusal {
        self.store.failed(error);
        Refusal::new(ErrorCode::StoreFailed, error.to_string()).retry_after(Duration::from_secs(1))
    }

    /// The shard that holds a topic.
    pub(crate) fn shard(&self, id: ShardId) -> &ShardHandle {
        &self.shards[usize::from(id.0)]
    }

    /// The shard that holds a group.
    pub(crate) fn shard_of(&self, group: &GroupSpec) -> Result<&ShardHandle, Refusal> {
        let catalog = self.catalog();
        let topic = catalog.topic(group.topic);
        let topic = topic.ok_or_else(|| Refusal::new(ErrorCode::UnknownTopic, "the group's topic was deleted"))?;
        Ok(self.shard(topic.shard))
    }

    pub(crate) fn shards(&self) -> &[ShardHandle] {
        &self.shards
    }

    /// Room for publishes of this many bytes; waits while too many are under way.
    pub(crate) async fn publish_room(&self, bytes: usize) -> OwnedSemaphorePermit {
        let bytes = u32::try_from(bytes.min(2 * FRAME_BYTES_MAX)).expect("two frames fit");
        let permit = Arc::clone(&self.publish_bytes).acquire_many_owned(bytes).await;
        permit.expect("the semaphore is never closed")
    }

    /// A number for a consumer stream, unlike any other.
    pub(crate) fn stream_number(&self) -> u64 {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sends a command; a shard that is gone means that the process is ending.
pub(crate) async fn send(shard: &ShardHandle, command: Command) -> Result<(), Refusal> {
    shard.send(command).await.map_err(|_| stopping())
}

/// The broker is ending.
pub(crate) fn stopping() -> Refusal {
    Refusal::new(ErrorCode::Unavailable, "the broker is stopping").retry_after(Duration::from_secs(1))
}
