//! The one task that owns a client's QUIC connection: it connects on demand and again after a loss.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    ClientConfig, ConnectionError, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TokioRuntime,
    TransportConfig, TransportErrorCode, VarInt,
};
use sluicegate_protocol::ALPN;
use sluicegate_protocol::limits::{DATAGRAM_BYTES_MAX, FETCHES_PER_CONNECTION_MAX, SOCKET_BUFFER_BYTES};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use crate::backoff::Backoff;
use crate::refusal::Refusal;
use crate::trust::{Trust, TrustError};

/// Longer silence means that the connection is gone; below the default session grace, so that a consumer reattaches
/// in time.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Who only reads has nothing else to send, and nothing else by which a broker that was started anew could tell it so.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Assumed until measured; a lost first packet is repeated after three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Bodies that are read slowly do not keep the other streams from their share.
const CONNECTION_WINDOW_BYTES: u32 = (FETCHES_PER_CONNECTION_MAX + 2) * STREAM_WINDOW_BYTES;
const SEND_WINDOW_BYTES: u64 = 16 << 20;
/// Callers that wait for a connection.
const CALLERS_MAX: usize = 64;

/// Why a client has no stream to its broker.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The trusted certificates cannot be used. Correct the path or the file.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// Nobody answers, or the name has no address. Another try may succeed.
    #[error("no broker at {address}: {problem}")]
    Unreachable {
        /// The address as given.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// The peer is not the trusted broker, or speaks another protocol.
    #[error("handshake with {address} failed: {problem}")]
    Handshake {
        /// The address as given.
        address: String,
        /// What went wrong.
        problem: String,
    },
    /// The broker refused the stream.
    #[error("broker refused: {0}")]
    Refused(#[from] Refusal),
    /// The peer does not keep to the protocol.
    #[error("broker broke the protocol: {0}")]
    Protocol(String),
}

impl ConnectError {
    /// Another try may succeed without anybody correcting anything.
    pub(crate) fn is_worth_another_try(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused(refusal) => refusal.asks_for_reconnect(),
            Self::Trust(_) | Self::Handshake { .. } | Self::Protocol(_) => false,
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

/// A caller that wants the connection.
pub(crate) type Caller = oneshot::Sender<Result<quinn::Connection, ConnectError>>;

/// Where the broker is and how it proves who it is.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) address: String,
    pub(crate) server_name: String,
    pub(crate) trust: Trust,
}

/// Starts the owner of the connection. It ends when all senders are gone.
pub(crate) fn spawn(peer: Peer) -> mpsc::Sender<Caller> {
    let (sender, callers) = mpsc::channel(CALLERS_MAX);
    let owner =
        ConnectionOwner { peer, callers, connection: None, backoff: Backoff::new(), not_before: Instant::now() };
    tokio::spawn(owner.run());
    sender
}

struct ConnectionOwner {
    peer: Peer,
    callers: mpsc::Receiver<Caller>,
    connection: Option<quinn::Connection>,
    backoff: Backoff,
    not_before: Instant,
}

impl ConnectionOwner {
    async fn run(mut self) {
        let mut waiting = Vec::new();
        while self.callers.recv_many(&mut waiting, CALLERS_MAX).await > 0 {
            let answer = self.connection().await;
            // Those who came meanwhile wanted the same attempt.
            while let Ok(caller) = self.callers.try_recv() {
                waiting.push(caller);
            }
            for caller in waiting.drain(..) {
                // A caller that went away needs no answer.
                let _ = caller.send(answer.clone());
            }
        }
    }

    async fn connection(&mut self) -> Result<quinn::Connection, ConnectError> {
        if let Some(connection) = self.connection.as_ref().filter(|connection| connection.close_reason().is_none()) {
            return Ok(connection.clone());
        }
        sleep_until(self.not_before).await;
        let connected = connect(&self.peer).await;
        match &connected {
            Ok(connection) => {
                tracing::debug!(address = %self.peer.address, "connected");
                self.connection = Some(connection.clone());
                self.backoff.reset();
            }
            Err(_) => self.not_before = Instant::now() + self.backoff.delay(None),
        }
        connected
    }
}

async fn connect(peer: &Peer) -> Result<quinn::Connection, ConnectError> {
    let unreachable = |problem: String| ConnectError::Unreachable { address: peer.address.clone(), problem };
    let attempt = async {
        let config = quic_config(&peer.trust)?;
        let mut last = unreachable("the name has no address".into());
        let addresses = tokio::net::lookup_host(&peer.address).await.map_err(|error| unreachable(error.to_string()))?;
        for address in addresses {
            match handshake(peer, address, config.clone()).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    };
    timeout(ATTEMPT_TIMEOUT, attempt).await.unwrap_or_else(|_| Err(unreachable("no answer".into())))
}

async fn handshake(peer: &Peer, address: SocketAddr, config: ClientConfig) -> Result<quinn::Connection, ConnectError> {
    let unreachable = |problem: String| ConnectError::Unreachable { address: peer.address.clone(), problem };
    let local = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let endpoint = endpoint(local).map_err(|error| unreachable(error.to_string()))?;
    let failed = |problem: String| ConnectError::Handshake { address: peer.address.clone(), problem };
    let connecting =
        endpoint.connect_with(config, address, &peer.server_name).map_err(|error| failed(error.to_string()))?;
    // A name with several addresses: one that is silent must leave time for the next.
    match timeout(ATTEMPT_TIMEOUT / 2, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) if is_disagreement(&error) => Err(failed(error.to_string())),
        Ok(Err(error)) => Err(unreachable(error.to_string())),
        Err(_) => Err(unreachable("no answer".into())),
    }
}

/// One socket per connection: a new one also finds its way through a NAT that forgot the old one.
fn endpoint(local: IpAddr) -> std::io::Result<Endpoint> {
    let socket = std::net::UdpSocket::bind(SocketAddr::new(local, 0))?;
    let buffers = socket2::SockRef::from(&socket);
    let enlarged = buffers.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    if let Err(error) = enlarged.and_then(|()| buffers.set_send_buffer_size(SOCKET_BUFFER_BYTES)) {
        tracing::debug!(%error, "the socket's buffers stay as they are");
    }
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(DATAGRAM_BYTES_MAX).expect("the limit is one that QUIC allows");
    Endpoint::new(config, None, socket, Arc::new(TokioRuntime))
}

/// The peers cannot agree, now or later: certificate, TLS version, ALPN, QUIC version.
fn is_disagreement(error: &ConnectionError) -> bool {
    // RFC 9001, 4.8: 0x0100 to 0x01ff are TLS alerts.
    let is_alert = |code: TransportErrorCode| (0x100..0x200).contains(&u64::from(code));
    match error {
        ConnectionError::VersionMismatch => true,
        ConnectionError::TransportError(error) => is_alert(error.code),
        ConnectionError::ConnectionClosed(close) => is_alert(close.error_code),
        _ => false,
    }
}

fn quic_config(trust: &Trust) -> Result<ClientConfig, TrustError> {
    let mut tls = trust.tls_config()?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let crypto = QuicClientConfig::try_from(tls).expect("ring has the cipher suite of QUIC's first packets");
    let mut transport = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    transport
        .mtu_discovery_config(Some(discovery))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("ten seconds fit")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0));
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
