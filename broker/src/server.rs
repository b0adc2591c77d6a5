//! Start, serve, drain: binds the addresses, and has one life of the broker after the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use sluicegate_protocol::limits::{DATAGRAM_BYTES_MAX, SOCKET_BUFFER_BYTES, UPLOADS_PER_CONNECTION_MAX};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admin;
use crate::broker::Broker;
use crate::config::{Config, ConfigError};
use crate::connection::STREAMS_MAX;
use crate::first_word::Spoken;
use crate::http::{self, Door, Doorway};
use crate::life::{Ground, Life, OpenStore};
use crate::policy::{Cabinet, PolicyCompiler, PolicyHost};
use crate::reopening::Reopening;
use crate::shard::{Command, GroupReport};
use crate::store::{OpenError, Store, StoreError};
use crate::tls::{Identity, TlsError, endpoint_config, http_producer};

/// How long a silent connection lives.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that a peer may send on one stream before the broker has read them.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The same for all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 24 << 20;
// Uploads that wait for the store leave room for the other streams of their connection.
const _: () = assert!(UPLOADS_PER_CONNECTION_MAX * STREAM_WINDOW_BYTES < CONNECTION_WINDOW_BYTES);
/// Bytes to a peer that it has not acknowledged.
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// How long the streams of a failed store have to tell their peers.
const LAST_WORDS: Duration = Duration::from_millis(100);
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
    ground: Arc<Ground>,
    drain_patience: Duration,
    endpoint: quinn::Endpoint,
    https: Https,
    doorway: Doorway,
    life: Life,
}

impl Server {
    /// Opens the store, recovers the shards and binds the addresses. To be called in a tokio runtime. Policies are compiled where
    /// `compiler` says.
    ///
    /// # Errors
    /// [`StartError`] says in one line what is in the way.
    ///
    /// # Panics
    /// Never: the datagram limit is one that QUIC allows.
    pub fn bind(config: Config, compiler: PolicyCompiler) -> Result<Self, StartError> {
        let (data_dir, reserve_bytes) = (config.data_dir.clone(), config.disk_reserve_bytes);
        Self::bind_over(config, compiler, Box::new(move || Store::open(&data_dir, reserve_bytes)))
    }

    pub(crate) fn bind_over(
        config: Config,
        compiler: PolicyCompiler,
        open_store: OpenStore,
    ) -> Result<Self, StartError> {
        config.check()?;
        // Addresses first: a port that is taken should not cost a recovery.
        let udp = std::net::UdpSocket::bind(config.listen).map_err(|error| listen("QUIC", config.listen, &error))?;
        enlarge_buffers(&udp);
        let admin = std::net::TcpListener::bind(config.admin_listen)
            .map_err(|error| listen("admin HTTPS", config.admin_listen, &error))?;
        let door = std::net::TcpListener::bind(config.http_listen)
            .map_err(|error| listen("data HTTPS", config.http_listen, &error))?;
        let origins = http::origins(&config.http_origins);
        let write_patience = Duration::from_secs(config.http_write_seconds);
        let host = PolicyHost::new(compiler, Some(&config.data_dir));
        let host = host.map_err(|error| StartError::Policy(error.to_string()))?;
        if let Some(capsules) = host.alarms().capsules() {
            tokio::spawn(Cabinet::in_dir(&config.data_dir).fill(capsules));
        }
        let (drain_patience, data_dir) = (Duration::from_secs(config.drain_seconds), config.data_dir.clone());
        let (quic_listen, tls) = (config.listen, config.tls.clone());
        let ground = Arc::new(Ground::new(config, open_store, host));
        let life = Life::begin(&ground)?;
        let identity = match &tls {
            Some(files) => Identity::load(files)?,
            None => Identity::development(&data_dir)?,
        };
        let mut endpoint = endpoint_config(&data_dir)?;
        endpoint.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("the limit is one that QUIC allows");
        let endpoint =
            quinn::Endpoint::new(endpoint, Some(quic_config(&identity)?), udp, Arc::new(quinn::TokioRuntime))
                .map_err(|error| listen("QUIC", quic_listen, &error))?;
        let https = Https::new(admin, identity.https()?)?;
        let doorway = Doorway::new(door, identity.https()?, (origins, write_patience), http_producer(&data_dir)?)?;
        Ok(Self { ground, drain_patience, endpoint, https, doorway, life })
    }

    /// Where producers and consumers connect.
    ///
    /// # Panics
    /// Never: the socket is bound.
    pub fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().expect("the socket is bound")
    }

    /// Where the admin API answers.
    pub fn admin_address(&self) -> SocketAddr {
        self.https.address
    }

    /// Where HTTP clients publish and read.
    pub fn http_address(&self) -> SocketAddr {
        self.doorway.address()
    }

    /// Serves until `shutdown`, then drains: no new leases, open ones may be settled, sessions stay
    /// for the next process, everything is synced. When the store fails it is opened again.
    ///
    /// # Errors
    /// [`StartError::Listen`] when HTTP cannot be served.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), StartError> {
        let Self { ground, drain_patience, endpoint, https, doorway, mut life } = self;
        let mut reopening = Reopening::new();
        tokio::pin!(shutdown);
        loop {
            reopening.opened(life.broker.clock.now());
            let serving = [
                https.serve(admin::router(Arc::clone(&life.broker)))?,
                doorway.serve(doorway.router(Door::new(&life.broker, doorway.producer)))?,
            ];
            let error = tokio::select! {
                () = &mut shutdown => {
                    stop(life, serving, &endpoint, drain_patience).await;
                    return Ok(());
                }
                error = life.serve(&endpoint, |error| reopening.helps(error)) => error,
            };
            // What the shards have to say to their streams is on its way.
            tokio::time::sleep(LAST_WORDS).await;
            end_all(serving).await;
            reopening.failed(life.broker.clock.now());
            let problem = watch::Sender::new(error.to_string());
            let serving =
                [https.serve(admin::failed(problem.subscribe()))?, doorway.serve(doorway.failed(problem.subscribe()))?];
            life = tokio::select! {
                () = &mut shutdown => return Ok(()),
                next = reopen(life, &ground, &mut reopening, &problem) => next,
                never = refuse_all(&endpoint) => match never {},
            };
            end_all(serving).await;
            tracing::info!("the store is open again");
        }
    }
}

/// The admin API's address, and who answers there at present.
struct Https {
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: RustlsConfig,
}

/// A router that answers until it is ended.
pub(crate) struct Serving {
    handle: axum_server::Handle<SocketAddr>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Https {
    fn new(listener: std::net::TcpListener, tls: Arc<rustls::ServerConfig>) -> Result<Self, StartError> {
        let address = listener.local_addr().expect("the socket is bound");
        listener.set_nonblocking(true).map_err(|error| listen("admin HTTPS", address, &error))?;
        Ok(Self { listener, address, tls: RustlsConfig::from_config(tls) })
    }

    fn serve(&self, router: axum::Router) -> Result<Serving, StartError> {
        let failed = |error: std::io::Error| listen("admin HTTPS", self.address, &error);
        let handle = axum_server::Handle::new();
        let listener = self.listener.try_clone().map_err(failed)?;
        let tls = Spoken(RustlsAcceptor::new(self.tls.clone()));
        let server = axum_server::from_tcp(listener).map_err(failed)?.handle(handle.clone()).acceptor(tls);
        let task = tokio::spawn(server.serve(router.into_make_service_with_connect_info::<SocketAddr>()));
        Ok(Serving::new(handle, task))
    }
}

impl Serving {
    pub(crate) fn new(handle: axum_server::Handle<SocketAddr>, task: JoinHandle<std::io::Result<()>>) -> Self {
        Self { handle, task }
    }

    /// Ends all connections.
    async fn end(self) {
        self.handle.shutdown();
        // It ends by the handle; how does not matter any more.
        let _ = self.task.await;
    }
}

async fn end_all(serving: [Serving; 2]) {
    for serving in serving {
        serving.end().await;
    }
}

async fn stop(life: Life, serving: [Serving; 2], endpoint: &quinn::Endpoint, patience: Duration) {
    tracing::info!("draining");
    life.broker.begin_draining();
    drain(&life.broker, patience).await;
    end_all(serving).await;
    endpoint.close(0_u8.into(), b"the broker is stopping");
    life.end().await;
    endpoint.wait_idle().await;
    tracing::info!("stopped");
}

/// Ends a life and begins the next one as soon as the store can be opened.
async fn reopen(
    failed: Life,
    ground: &Arc<Ground>,
    reopening: &mut Reopening,
    problem: &watch::Sender<String>,
) -> Life {
    failed.end().await;
    loop {
        tokio::time::sleep(reopening.delay()).await;
        let ground = Arc::clone(ground);
        let begun = tokio::task::spawn_blocking(move || Life::begin(&ground)).await;
        let still = match begun {
            Ok(Ok(life)) => return life,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::error!(problem = still, "the store cannot be opened again");
        problem.send_replace(still);
    }
}

/// Without a store nobody is let in.
async fn refuse_all(endpoint: &quinn::Endpoint) -> std::convert::Infallible {
    loop {
        match endpoint.accept().await {
            Some(incoming) => incoming.refuse(),
            None => std::future::pending().await,
        }
    }
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
        .send_window(SEND_WINDOW_BYTES)
        .max_idle_timeout(Some(IDLE_TIMEOUT.try_into().expect("30 s fit")));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// A system that does not allow as much gives less, or leaves it as it is.
fn enlarge_buffers(socket: &std::net::UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let enlarged = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    if let Err(error) = enlarged.and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)) {
        tracing::debug!(%error, "the socket's buffers stay as they are");
    }
}

pub(crate) fn listen(what: &'static str, address: SocketAddr, error: &std::io::Error) -> StartError {
    StartError::Listen { what, address, problem: error.to_string() }
}
