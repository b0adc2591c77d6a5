//! Start, serve, drain: the only place that wires the parts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::GroupId;
use sluicegate_protocol::limits::DATAGRAM_BYTES_MAX;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use crate::auth::Auth;
use crate::broker::Broker;
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::{Config, ConfigError};
use crate::connection;
use crate::control::Control;
use crate::kept::KeptRows;
use crate::metrics::Meters;
use crate::policy::PolicyHost;
use crate::shard::{Command, GroupReport, GroupStart, Shard, ShardId, begin_epoch};
use crate::store::{Committer, OpenError, Store, StoreError, Watermark};
use crate::tls::{Identity, TlsError, endpoint_config};

/// Connections at once.
const CONNECTIONS_MAX: usize = 10_000;
/// Streams that a connection may have open: producers and consumers of one client.
const STREAMS_MAX: u32 = 256;
/// How long a silent connection lives.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that a peer may send on one stream before the broker has read them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// How often a drain looks whether leases are open still.
const DRAIN_TICK: Duration = Duration::from_millis(50);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address is taken or not ours.
    #[error("{what} cannot listen on {address}: {problem}")]
    Listen {
        /// What was to listen.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// What the system said.
        problem: String,
    },
    /// The store cannot be read.
    #[error("{0}")]
    Store(String),
    /// The policy host does not start.
    #[error("policy host: {0}")]
    Policy(String),
}

impl From<StoreError> for StartError {
    fn from(error: StoreError) -> Self {
        Self::Store(error.to_string())
    }
}

/// A broker that is bound to its addresses.
pub struct Server {
    config: Config,
    broker: Arc<Broker>,
    endpoint: quinn::Endpoint,
    admin: std::net::TcpListener,
    identity: Identity,
    committer: Committer,
    owners: JoinSet<()>,
}

impl Server {
    /// Opens the store, recovers the shards and binds the addresses. To be called in a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`] says in one line what is in the way.
    ///
    /// # Panics
    /// Never: the datagram limit is one that QUIC allows.
    pub fn bind(config: Config) -> Result<Self, StartError> {
        config.check()?;
        // Addresses first: a port that is taken should not cost a recovery.
        let udp = std::net::UdpSocket::bind(config.listen).map_err(|error| listen("QUIC", config.listen, &error))?;
        let admin = std::net::TcpListener::bind(config.admin_listen)
            .map_err(|error| listen("admin HTTPS", config.admin_listen, &error))?;
        let store = Store::open(&config.data_dir)?;
        let identity = match &config.tls {
            Some(files) => Identity::load(files)?,
            None => Identity::development(&config.data_dir)?,
        };
        let mut endpoint = endpoint_config(&config.data_dir)?;
        endpoint.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("the limit is one that QUIC allows");
        let endpoint =
            quinn::Endpoint::new(endpoint, Some(quic_config(&identity)?), udp, Arc::new(quinn::TokioRuntime))
                .map_err(|error| listen("QUIC", config.listen, &error))?;
        let host = PolicyHost::new().map_err(|error| StartError::Policy(error.to_string()))?;
        let (broker, committer, owners) = start_owners(&config, store, host)?;
        Ok(Self { config, broker, endpoint, admin, identity, committer, owners })
    }

    /// Where producers and consumers connect.
    ///
    /// # Panics
    /// Never: the socket is bound.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("the socket is bound")
    }

    /// Where the admin API answers.
    ///
    /// # Panics
    /// Never: the socket is bound.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.local_addr().expect("the socket is bound")
    }

    /// Serves until `shutdown`, then drains: no new leases, open ones may be settled, sessions stay
    /// for the next process, everything is synced.
    ///
    /// # Errors
    /// [`StartError::Listen`] when the admin API cannot be served.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let Self { config, broker, endpoint, admin, identity, committer, mut owners } = self;
        let address = config.admin_listen;
        admin.set_nonblocking(true).map_err(|error| listen("admin HTTPS", address, &error))?;
        let tls = axum_server::tls_rustls::RustlsConfig::from_config(identity.https()?);
        let handle = axum_server::Handle::new();
        let https = axum_server::from_tcp_rustls(admin, tls).map_err(|error| listen("admin HTTPS", address, &error))?;
        let router = crate::admin::router(Arc::clone(&broker));
        let serving = tokio::spawn(
            https.handle(handle.clone()).serve(router.into_make_service_with_connect_info::<SocketAddr>()),
        );
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                Some(incoming) = endpoint.accept() => accept(&broker, &mut connections, incoming),
                Some(_) = connections.join_next() => {}
                // They end after everybody else, unless one of them fails.
                Some(ended) = owners.join_next() => {
                    let problem = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
                    broker.store.failed(&StoreError::Database(format!("a shard or the control task ended: {problem}")));
                }
            }
        }
        tracing::info!("draining");
        broker.begin_draining();
        drain(&broker, Duration::from_secs(config.drain_seconds)).await;
        handle.shutdown();
        // It ends by the handle; how does not matter any more.
        let _ = serving.await;
        endpoint.close(0_u8.into(), b"the broker is stopping");
        while connections.join_next().await.is_some() {}
        endpoint.wait_idle().await;
        drop(broker);
        while owners.join_next().await.is_some() {}
        committer.finish().await;
        tracing::info!("stopped");
        Ok(())
    }
}

fn accept(broker: &Arc<Broker>, connections: &mut JoinSet<()>, incoming: quinn::Incoming) {
    if connections.len() >= CONNECTIONS_MAX {
        tracing::warn!(max = CONNECTIONS_MAX, "connection refused, there are as many as are allowed");
        return incoming.refuse();
    }
    let broker = Arc::clone(broker);
    connections.spawn(async move {
        match incoming.await {
            Ok(connection) => connection::serve(broker, connection).await,
            Err(error) => tracing::debug!(%error, "handshake failed"),
        }
    });
}

async fn drain(broker: &Broker, patience: Duration) {
    for shard in broker.shards() {
        // A shard that is gone holds nothing.
        let _ = shard.send(Command::Drain).await;
    }
    let emptied = async {
        while is_busy(broker).await {
            tokio::time::sleep(DRAIN_TICK).await;
        }
        // The last answers are on their way.
        tokio::time::sleep(DRAIN_TICK).await;
    };
    if tokio::time::timeout(patience, emptied).await.is_err() {
        tracing::info!("leases are open still, their sessions may go on with the next process");
    }
}

/// Leases are open, or consumers wait for answers.
async fn is_busy(broker: &Broker) -> bool {
    for group in broker.catalog().groups.values() {
        let report = group_report(broker, group).await;
        if report.stats.in_flight > 0 || report.owes_replies {
            return true;
        }
    }
    false
}

/// What its shard knows of a group.
pub(crate) async fn group_report(broker: &Broker, group: &crate::catalog::GroupSpec) -> GroupReport {
    let Ok(shard) = broker.shard_of(group) else { return GroupReport::default() };
    let (reply, report) = oneshot::channel();
    if shard.send(Command::GroupStats { group: group.id, reply }).await.is_err() {
        return GroupReport::default();
    }
    report.await.unwrap_or_default()
}

type Owners = (Arc<Broker>, Committer, JoinSet<()>);

fn start_owners(config: &Config, store: Arc<Store>, host: Arc<PolicyHost>) -> Result<Owners, StartError> {
    let (catalog, free_ids) = Control::load(&store)?;
    let count = store.shards(config.shards)?;
    let mut rows = Vec::new();
    for shard in (0..count).map(ShardId) {
        rows.push((shard, begin_epoch(&store, shard)?));
    }
    let last_commit = rows.iter().map(|(_, row)| row.committed_at_us).max().unwrap_or(0);
    let clock = Clock::start(sluicegate_protocol::Timestamp(last_commit));
    let (marks, watches): (Vec<_>, Vec<_>) = rows.iter().map(|_| watch::channel(Watermark::default())).unzip();
    let meters = Meters::default();
    let committer = Committer::start((Arc::clone(&store), clock, meters.clone()), marks);
    let kept = KeptRows::default();
    let (handles, mailboxes): (Vec<_>, Vec<_>) = rows.iter().map(|_| Shard::mailbox()).unzip();
    let mut owners = JoinSet::new();
    for (((shard, row), marks), mailbox) in rows.into_iter().zip(watches).zip(mailboxes) {
        let topics = catalog.topics.values().filter(|topic| topic.shard == shard).cloned().collect();
        let groups = groups_of_shard(&catalog, shard, &store, &host);
        let shared = (Arc::clone(&store), kept.clone(), committer.clone(), clock);
        owners.spawn(Shard::recover(shared, (shard, row), topics, groups, marks, mailbox)?.run());
    }
    let made = (catalog, free_ids);
    let (control, control_handle, visible) = Control::new(made, (Arc::clone(&store), clock), handles.clone(), host);
    owners.spawn(control.run());
    let parts = (Auth::new(config), clock, control_handle, store, meters);
    Ok((Arc::new(Broker::new(parts, config.dev, handles, visible)), committer, owners))
}

/// A shard's groups, their policies compiled. A policy that does not compile any more leaves its
/// group to fair scheduling.
fn groups_of_shard(catalog: &Catalog, shard: ShardId, store: &Store, host: &PolicyHost) -> Vec<GroupStart> {
    let ours =
        catalog.groups.values().filter(|group| catalog.topic(group.topic).is_some_and(|topic| topic.shard == shard));
    let start = |spec: &Arc<crate::catalog::GroupSpec>| {
        let policy = spec.policy.clone().and_then(|binding| {
            let bytes = store.policy_bytes(&binding.digest).ok().flatten()?;
            match host.compile(&bytes) {
                Ok(compiled) => Some((compiled, binding)),
                Err(error) => {
                    tracing::error!(group = %spec.name, %error, "the bound policy does not compile, fair scheduling decides");
                    None
                }
            }
        });
        GroupStart { spec: Arc::clone(spec), policy }
    };
    let mut groups: Vec<_> = ours.map(start).collect();
    groups.sort_by_key(|group| GroupId(group.spec.id.0));
    groups
}

fn quic_config(identity: &Identity) -> Result<quinn::ServerConfig, StartError> {
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(identity.quic()?)
        .map_err(|error| StartError::Policy(error.to_string()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    let mut discovery = quinn::MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    transport
        .mtu_discovery_config(Some(discovery))
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(0_u8.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("30 s fit")));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

fn listen(what: &'static str, address: SocketAddr, error: &std::io::Error) -> StartError {
    StartError::Listen { what, address, problem: error.to_string() }
}
