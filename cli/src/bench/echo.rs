//! A bare QUIC round trip: what the path and the stack take of a message's way, without a broker.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, MtuDiscoveryConfig, RecvStream, SendStream, TransportConfig};
use rustls::pki_types::PrivatePkcs8KeyDer;
use sluicegate_client::Trust;
use sluicegate_protocol::limits::DATAGRAM_BYTES_MAX;

use super::measure;

/// A stream to somebody who sends back what comes, on threads of its own.
pub(super) struct Echo {
    send: SendStream,
    receive: RecvStream,
    answer: Vec<u8>,
    _connection: Connection,
    _endpoint: Endpoint,
}

impl Echo {
    /// Starts the other end, which lives as long as this program, and opens a stream for messages of so many bytes.
    pub(super) async fn start(bytes: usize) -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let trust = Trust::Pinned(made.cert.pem().into_bytes());
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport()));
        let address = serve(config, bytes)?;

        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(trust.tls_config()?)?));
        config.transport_config(Arc::new(transport()));
        endpoint.set_default_client_config(config);
        let connection = endpoint.connect(address, "localhost")?.await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self { send, receive, answer: vec![0; bytes], _connection: connection, _endpoint: endpoint })
    }

    /// How long a message takes there and back.
    pub(super) async fn round_trip(&mut self, message: &[u8]) -> anyhow::Result<Duration> {
        let start = measure::now();
        self.send.write_all(message).await?;
        self.receive.read_exact(&mut self.answer).await?;
        let took = start.elapsed();
        anyhow::ensure!(self.answer == message, "the echo is another message");
        Ok(took)
    }
}

/// As the broker and its clients have it.
fn transport() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(DATAGRAM_BYTES_MAX);
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(Some(discovery));
    transport
}

fn serve(config: quinn::ServerConfig, bytes: usize) -> anyhow::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let endpoint = {
        let _inside = runtime.enter();
        Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?
    };
    let address = endpoint.local_addr()?;
    let answering = move || {
        // It ends with its peer.
        let _ = runtime.block_on(answer(&endpoint, bytes));
    };
    std::thread::Builder::new().name("echo".into()).spawn(answering)?;
    Ok(address)
}

async fn answer(endpoint: &Endpoint, bytes: usize) -> anyhow::Result<()> {
    let connection = endpoint.accept().await.context("the endpoint is open")?.await?;
    let (mut send, mut receive) = connection.accept_bi().await?;
    let mut message = vec![0; bytes];
    loop {
        receive.read_exact(&mut message).await?;
        send.write_all(&message).await?;
    }
}
