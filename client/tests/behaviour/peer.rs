//! A broker for tests: a QUIC server in this process that answers as the test tells it to.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use rustls::pki_types::PrivateKeyDer;
use sluicegate_client::{Client, Trust};
use sluicegate_protocol::frame::{self, Frame};
use sluicegate_protocol::wire;
use tokio::time::timeout;

/// Nothing here takes this long unless something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Peer {
    endpoint: Endpoint,
    pem: String,
}

/// One stream of a client, after its Hello.
pub(crate) struct Stream {
    pub(crate) connection: Connection,
    pub(crate) hello: wire::Hello,
    send: SendStream,
    recv: RecvStream,
    buffer: BytesMut,
}

impl Peer {
    pub(crate) fn start() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let mut tls = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![sluicegate_protocol::ALPN.to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(std::sync::Arc::new(crypto));
        let endpoint = Endpoint::server(config, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self { endpoint, pem: made.cert.pem() }
    }

    pub(crate) fn address(&self) -> String {
        self.endpoint.local_addr().unwrap().to_string()
    }

    pub(crate) fn pem(&self) -> &[u8] {
        self.pem.as_bytes()
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder(self.address(), Trust::Roots(vec![self.pem().to_vec()])).token("secret").build()
    }

    /// Lets a client try, and fail.
    pub(crate) async fn turn_away(&self) {
        let incoming = timeout(PATIENCE, self.endpoint.accept()).await.expect("a client tries").unwrap();
        assert!(incoming.await.is_err());
    }

    /// The next connection's first stream, with its Hello read.
    pub(crate) async fn accept(&self) -> Stream {
        let accepted = async {
            let connection = self.endpoint.accept().await.unwrap().await.unwrap();
            Stream::accept(connection).await
        };
        timeout(PATIENCE, accepted).await.expect("a client connects")
    }
}

impl Stream {
    /// The connection's next stream, with its Hello read.
    pub(crate) async fn accept(connection: Connection) -> Self {
        let (send, recv) = connection.accept_bi().await.unwrap();
        let hello = wire::Hello::default();
        let mut stream = Self { connection, hello, send, recv, buffer: BytesMut::new() };
        match stream.next().await {
            Frame::Hello(hello, ()) => stream.hello = hello,
            other => panic!("first frame is {other:?}"),
        }
        stream
    }

    pub(crate) async fn next(&mut self) -> Frame {
        self.next_or_end().await.expect("a frame comes before the stream ends")
    }

    pub(crate) async fn next_or_end(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = frame::decode(&mut self.buffer).unwrap() {
                return Some(frame);
            }
            let chunk = self.recv.read_chunk(usize::MAX, true);
            match timeout(PATIENCE, chunk).await.expect("the client sends something").unwrap() {
                Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                None => return None,
            }
        }
    }

    pub(crate) async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.send.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn welcome(&mut self, welcome: wire::Welcome) {
        self.send(Frame::Welcome(wire::Welcome { version: 1, ..welcome }, ())).await;
    }

    pub(crate) async fn welcome_producer(&mut self) {
        let welcome =
            wire::Welcome { unacknowledged_publishes_max: 8_192, body_bytes_max: 1 << 18, ..Default::default() };
        self.welcome(welcome).await;
    }

    pub(crate) async fn publish(&mut self) -> (wire::Publish, Bytes) {
        match self.next().await {
            Frame::Publish(publish, body) => (publish, body),
            other => panic!("{other:?} is no publish"),
        }
    }

    pub(crate) async fn published(&mut self, sequences: impl IntoIterator<Item = u64>) {
        let receipt =
            |sequence| wire::PublishReceipt { sequence, lite_id: 7, offset: sequence - 1, ..Default::default() };
        let receipts = sequences.into_iter().map(receipt).collect();
        self.send(Frame::Published(wire::Published { receipts }, ())).await;
    }

    /// Waits for the client's orderly end and ends the stream too.
    pub(crate) async fn end(mut self) {
        assert_eq!(self.next_or_end().await, Some(Frame::Close(wire::Close {}, ())));
        assert_eq!(self.next_or_end().await, None);
        self.send.finish().unwrap();
        // Until the client has it.
        let _ = self.send.stopped().await;
    }

    /// Cuts the connection without a word.
    pub(crate) fn cut(self) {
        self.connection.close(1_u32.into(), b"cut");
    }
}
