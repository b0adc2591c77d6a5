//! A peer that speaks bytes: what no well-behaved client would send.

use anyhow::{Context, Result};
use bytes::BytesMut;
use sluicegate_protocol::frame::{self, Frame};
use sluicegate_protocol::wire::{self, hello::Role};

use crate::Broker;

/// One bidirectional stream on a connection of its own.
#[derive(Debug)]
pub struct RawStream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    buffer: BytesMut,
    connection: quinn::Connection,
    endpoint: quinn::Endpoint,
}

impl RawStream {
    /// Connects and opens a stream. Nothing is sent yet.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn open(broker: &Broker) -> Result<Self> {
        let mut tls = broker.trust().tls_config()?;
        tls.alpn_protocols = vec![sluicegate_protocol::ALPN.to_vec()];
        let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
        let config = quinn::ClientConfig::new(std::sync::Arc::new(crypto));
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse()?)?;
        endpoint.set_default_client_config(config);
        let connection = endpoint.connect(broker.address().parse()?, "localhost")?.await?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self { send, receive, buffer: BytesMut::new(), connection, endpoint })
    }

    /// Another stream on the same connection. Nothing is sent yet.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn beside(&self) -> Result<Self> {
        let (send, receive) = self.connection.open_bi().await?;
        let (connection, endpoint) = (self.connection.clone(), self.endpoint.clone());
        Ok(Self { send, receive, buffer: BytesMut::new(), connection, endpoint })
    }

    /// Says Hello and does not wait for the answer.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn say_hello(&mut self, role: Role) -> Result<()> {
        let hello = wire::Hello { version_min: 1, version_max: 1, role: Some(role), ..Default::default() };
        self.send_frame(&Frame::Hello(hello, ())).await
    }

    /// Opens a stream and says Hello as a producer of topic `t`.
    ///
    /// # Errors
    /// The broker does not welcome it.
    pub async fn producer(broker: &Broker) -> Result<Self> {
        let role = wire::ProducerRole { topic: "t".into(), producer_id: vec![7; 16], ..Default::default() };
        Ok(Self::hello(broker, Role::Producer(role)).await?.0)
    }

    /// Opens a stream and says Hello; the answer lists all leases that the session holds.
    ///
    /// # Errors
    /// The broker does not welcome it.
    pub async fn hello(broker: &Broker, role: Role) -> Result<(Self, wire::Welcome)> {
        let mut stream = Self::open(broker).await?;
        stream.say_hello(role).await?;
        let mut welcome = match stream.next().await? {
            Some(Frame::Welcome(welcome, ())) => welcome,
            other => anyhow::bail!("not welcomed but answered with {other:?}"),
        };
        while welcome.held.len() < welcome.held_total as usize {
            match stream.next().await? {
                Some(Frame::Held(more, ())) => welcome.held.extend(more.held),
                other => anyhow::bail!("not told the held leases but answered with {other:?}"),
            }
        }
        Ok((stream, welcome))
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.send.write_all(bytes).await?)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// The stream is gone.
    pub async fn send_frame(&mut self, frame: &Frame) -> Result<()> {
        let mut bytes = BytesMut::new();
        frame.encode(&mut bytes);
        self.send_bytes(&bytes).await
    }

    /// Ends the sending side, mid-frame or not.
    ///
    /// # Errors
    /// It is ended already.
    pub fn finish(&mut self) -> Result<()> {
        Ok(self.send.finish()?)
    }

    /// The next frame from the broker; none when it ended the stream.
    ///
    /// # Errors
    /// The stream broke, or nothing came.
    pub async fn next(&mut self) -> Result<Option<Frame>> {
        let read = async {
            loop {
                if let Some(frame) = frame::decode(&mut self.buffer)? {
                    return Ok(Some(frame));
                }
                match self.receive.read_chunk(64 << 10, true).await? {
                    Some(chunk) => self.buffer.extend_from_slice(&chunk.bytes),
                    None => return Ok(None),
                }
            }
        };
        tokio::time::timeout(crate::PATIENCE, read).await.context("the broker says nothing")?
    }

    /// The refusal that ends the stream: its code's text and its message.
    ///
    /// # Errors
    /// Something else comes.
    pub async fn refusal(&mut self) -> Result<(String, String)> {
        match self.next().await? {
            Some(Frame::Error(error, ())) => {
                Ok((sluicegate_protocol::ErrorCode::from_number(error.code).to_string(), error.message))
            }
            other => anyhow::bail!("no refusal but {other:?}"),
        }
    }
}
