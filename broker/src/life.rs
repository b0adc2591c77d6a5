//! One life of the broker: from opening its store to the store's failure, or to the end of the process.
//!
//! After a failed write nobody knows what the store holds, so nothing in memory is worth keeping: the life ends, with
//! its shards and connections, and the next one opens the store anew and reads it, exactly as a new process does.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use sluicegate_protocol::{GroupId, Timestamp};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::auth::Auth;
use crate::broker::Broker;
use crate::catalog::{Catalog, GroupSpec};
use crate::clock::Clock;
use crate::config::Config;
use crate::connection;
use crate::control::Control;
use crate::kept::KeptRows;
use crate::metrics::Meters;
use crate::policy::{Cabinet, CompiledPolicy, PolicyHost, Recipe, Shadow, ShadowBinding, wait};
use crate::server::StartError;
use crate::shard::{GroupStart, Loading, Shard, ShardId, begin_epoch, init_for};
use crate::store::{Committer, OpenError, Shrinking, Store, StoreError, Watermark};
use crate::uploads::Uploads;

/// Connections at once.
const CONNECTIONS_MAX: usize = 10_000;
/// How often the end of a life looks whether the last reader of the store is done.
const CLOSE_TICK: Duration = Duration::from_millis(5);

/// How often the room of the disk is measured: a second of writes may take a small disk's reserve.
const SPACE_TICK: Duration = Duration::from_millis(100);
/// How often a store is looked at for what is deleted and still takes room.
const GIVE_BACK_TICK: Duration = Duration::from_secs(5);

/// Opens the store, again after each failure.
pub(crate) type OpenStore = Box<dyn Fn() -> Result<Arc<Store>, OpenError> + Send + Sync>;

/// What all lives share.
pub(crate) struct Ground {
    config: Config,
    open_store: OpenStore,
    host: Arc<PolicyHost>,
    meters: Meters,
    /// Started by the first life: broker time goes on over all of them.
    clock: OnceLock<Clock>,
}

/// Everything that lives and dies with an open store.
pub(crate) struct Life {
    pub(crate) broker: Arc<Broker>,
    committer: Committer,
    owners: JoinSet<()>,
    connections: JoinSet<()>,
    over: watch::Sender<bool>,
}

impl Ground {
    pub(crate) fn new(config: Config, open_store: OpenStore, host: Arc<PolicyHost>) -> Self {
        Self { config, open_store, host, meters: Meters::default(), clock: OnceLock::new() }
    }
}

impl Life {
    /// Opens the store, recovers the shards. To be called in a tokio runtime, on a thread that may wait for the disk.
    ///
    /// # Errors
    /// The store cannot be opened or read.
    pub(crate) fn begin(ground: &Ground) -> Result<Self, StartError> {
        let Ground { config, open_store, host, meters, clock } = ground;
        let store = open_store()?;
        if clock.get().is_some() {
            // A sync failed, perhaps, and what it was for is in the log that was read again. The system takes it for written since then,
            // and a sync of that log would do nothing.
            store.write_out()?;
        }
        let (catalog, free_ids) = Control::load(&store)?;
        let count = store.shards(config.shards)?;
        let mut rows = Vec::new();
        for shard in (0..count).map(ShardId) {
            rows.push((shard, begin_epoch(&store, shard)?));
        }
        let last_commit = rows.iter().map(|(_, row)| row.committed_at_us).max().unwrap_or(0);
        let clock = *clock.get_or_init(|| Clock::start(Timestamp(last_commit)));
        let (marks, watches): (Vec<_>, Vec<_>) = rows.iter().map(|_| watch::channel(Watermark::default())).unzip();
        let committer = Committer::start((Arc::clone(&store), clock, meters.clone()), marks);
        let (kept, loading) = (KeptRows::default(), Loading::default());
        let (handles, mailboxes): (Vec<_>, Vec<_>) = rows.iter().map(|_| Shard::mailbox()).unzip();
        let mut owners = JoinSet::new();
        for (((shard, row), marks), mailbox) in rows.into_iter().zip(watches).zip(mailboxes) {
            let topics = catalog.topics.values().filter(|topic| topic.shard == shard).cloned().collect();
            let groups = groups_of_shard(&catalog, (shard, clock.now()), &store, host);
            let shared = (Arc::clone(&store), kept.clone(), committer.clone(), clock, loading.clone());
            owners.spawn(Shard::recover(shared, (shard, row), topics, groups, marks, mailbox).run());
        }
        let (control, control_handle, visible) =
            Control::new((catalog, free_ids), (Arc::clone(&store), clock), handles.clone(), Arc::clone(host));
        owners.spawn(control.run());
        tokio::spawn(watch_space(Arc::downgrade(&store)));
        tokio::spawn(give_back(Arc::downgrade(&store)));
        let uploads = Uploads::new(Arc::clone(&store), committer.clone(), config.max_body_bytes);
        let parts = (Auth::new(config), clock, control_handle, store, meters.clone());
        let kept = (uploads, Cabinet::in_dir(&config.data_dir));
        let broker = Arc::new(Broker::new(parts, kept, config.dev, (handles, loading), visible));
        Ok(Self { broker, committer, owners, connections: JoinSet::new(), over: watch::Sender::new(false) })
    }

    /// Serves connections until the store fails in a way that `may_end_by` lets it end by.
    pub(crate) async fn serve(
        &mut self,
        endpoint: &quinn::Endpoint,
        mut may_end_by: impl FnMut(&StoreError) -> bool,
    ) -> StoreError {
        let mut failures = self.broker.store.failures();
        let mut lives_on = false;
        loop {
            tokio::select! {
                Some(incoming) = endpoint.accept() => self.accept(incoming),
                Some(_) = self.connections.join_next() => {}
                // They end after everybody else, unless one of them fails.
                Some(ended) = self.owners.join_next() => {
                    let problem = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
                    let problem = format!("a shard or the control task ended: {problem}");
                    self.broker.store.failed(&StoreError::Database(problem));
                }
                error = failure(&mut failures), if !lives_on => {
                    if may_end_by(&error) {
                        return error;
                    }
                    lives_on = true;
                }
            }
        }
    }

    fn accept(&mut self, incoming: quinn::Incoming) {
        if self.connections.len() >= CONNECTIONS_MAX {
            tracing::warn!(max = CONNECTIONS_MAX, "connection refused, there are as many as are allowed");
            return incoming.refuse();
        }
        let (broker, mut over) = (Arc::clone(&self.broker), self.over.subscribe());
        self.connections.spawn(async move {
            let connection = match incoming.await {
                Ok(connection) => connection,
                Err(error) => return tracing::debug!(%error, "handshake failed"),
            };
            tokio::select! {
                () = connection::serve(broker, connection.clone()) => {}
                // An error means that the life is gone, which is over enough.
                _ = over.wait_for(|over| *over) => connection.close(1_u8.into(), b"the store failed, come again"),
            }
        });
    }

    /// Ends all connections, then all owners, and returns when the store is closed.
    pub(crate) async fn end(self) {
        let Self { broker, committer, mut owners, mut connections, over } = self;
        over.send_replace(true);
        while connections.join_next().await.is_some() {}
        let open = Arc::clone(&broker.store);
        drop(broker);
        while owners.join_next().await.is_some() {}
        committer.finish().await;
        // One of its compactions may have hours to go.
        open.stop_tidying();
        let store = Arc::downgrade(&open);
        drop(open);
        // Streams whose connection has just gone, and reads on other threads.
        while store.strong_count() > 0 {
            tokio::time::sleep(CLOSE_TICK).await;
        }
    }
}

/// Looks at the disk for as long as there is a store.
async fn watch_space(store: Weak<Store>) {
    loop {
        tokio::time::sleep(SPACE_TICK).await;
        let Some(store) = store.upgrade() else { return };
        // It ends by a panic only, and then with the process.
        let Ok(()) = tokio::task::spawn_blocking(move || store.space().measure()).await else { return };
    }
}

/// Gives the disk back what was deleted, for as long as there is a store.
async fn give_back(store: Weak<Store>) {
    let mut shrinking = Shrinking::default();
    loop {
        tokio::time::sleep(GIVE_BACK_TICK).await;
        let Some(store) = store.upgrade() else { return };
        if store.failure().is_some() {
            continue;
        }
        let given = tokio::task::spawn_blocking(move || {
            let given = store.give_back(&mut shrinking);
            (shrinking, given)
        });
        // See above.
        let Ok((before, given)) = given.await else { return };
        shrinking = before;
        if let Err(error) = given {
            tracing::warn!(%error, "the disk does not get back what was deleted");
        }
    }
}

async fn failure(failures: &mut watch::Receiver<Option<StoreError>>) -> StoreError {
    let failure = failures.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
    match failure {
        Some(failure) => failure,
        // The store is gone without one.
        None => std::future::pending().await,
    }
}

/// A shard's groups, their policies compiled. A policy that does not compile any more leaves its
/// group to fair scheduling.
fn groups_of_shard(
    catalog: &Catalog,
    (shard, now): (ShardId, Timestamp),
    store: &Store,
    host: &Arc<PolicyHost>,
) -> Vec<GroupStart> {
    let ours =
        catalog.groups.values().filter(|group| catalog.topic(group.topic).is_some_and(|topic| topic.shard == shard));
    let start = |spec: &Arc<GroupSpec>| {
        let policy = spec.policy.clone().and_then(|binding| {
            match bound_policy(&binding.digest, store, host) {
                Ok(compiled) => Some((compiled, binding)),
                Err(error) => {
                    tracing::error!(group = %spec.name, error, "the bound policy does not compile, fair scheduling decides");
                    None
                }
            }
        });
        let shadow = spec.shadow.clone().and_then(|binding| start_shadow(spec, (shard, now), store, host, binding));
        GroupStart { spec: Arc::clone(spec), policy, shadow }
    };
    let mut groups: Vec<_> = ours.map(start).collect();
    groups.sort_by_key(|group| GroupId(group.spec.id.0));
    groups
}

/// One that does not start any more is not asked until somebody wants it again.
fn start_shadow(
    spec: &GroupSpec,
    (shard, now): (ShardId, Timestamp),
    store: &Store,
    host: &Arc<PolicyHost>,
    binding: ShadowBinding,
) -> Option<Box<Shadow>> {
    let refused = |error: &dyn std::fmt::Display| {
        tracing::error!(group = %spec.name, %error, "the shadow does not start");
    };
    let compiled = bound_policy(&binding.digest, store, host).inspect_err(|error| refused(error)).ok()?;
    let recipe = Recipe { compiled, config: binding.config.as_str().into(), init: init_for(spec, shard, now) };
    Shadow::start(recipe, binding).inspect_err(|fault| refused(fault)).ok().map(Box::new)
}

/// A policy that decided before the start: from the cache, else compiled now, since a group that starts without its policy would be
/// served against its rules.
fn bound_policy(digest: &str, store: &Store, host: &Arc<PolicyHost>) -> Result<Arc<CompiledPolicy>, String> {
    wait(ready(digest, store, host)).map_err(|error| error.to_string())?
}

async fn ready(digest: &str, store: &Store, host: &Arc<PolicyHost>) -> Result<Arc<CompiledPolicy>, String> {
    if let Some(known) = host.known(digest).await {
        return Ok(known);
    }
    let bytes = store.policy_bytes(digest).map_err(|error| error.to_string())?;
    let bytes = bytes.ok_or("its bytes are not in the store")?;
    host.compile(&bytes).await.map_err(|error| error.to_string())
}
