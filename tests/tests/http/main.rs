//! The HTTPS door for messages, against a real broker process: publish, pages, bodies, streams of events, and what it does with
//! those who do not behave.

mod bad;
mod batch;
mod browser;
mod consume;
mod events;
mod large;
mod openapi;
mod publish;
mod read;
mod requests;
mod schemathesis;
mod slow;
mod stream;
mod tools;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use sluicegate_client::admin::{Admin, CreateTopic, LogRetention, ReclaimSettings, Retention, TopicSettings};
use sluicegate_client::{LiteName, TopicName};
use sluicegate_tests::{Broker, PATIENCE};

/// A broker with a topic `t` that is a log and has no group.
struct World {
    broker: Broker,
    admin: Admin,
    topic: TopicName,
    http: reqwest::Client,
}

/// So many bytes of each lite topic are kept, or more than any test has.
fn log(bytes: Option<u64>) -> TopicSettings {
    let retention = Retention::Log(LogRetention { age_ms: None, bytes: bytes.or(Some(1 << 30)) });
    TopicSettings { retention, reclaim: ReclaimSettings::NEVER, ..TopicSettings::default() }
}

fn lite(name: &str) -> LiteName {
    LiteName::parse(name).expect("a good name")
}

fn client(broker: &Broker) -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder().tls_backend_preconfigured(broker.trust().tls_config()?).no_proxy().build()?)
}

impl World {
    async fn start(settings: TopicSettings) -> Result<Self> {
        Self::start_with(&["--dev"], settings).await
    }

    async fn start_with(options: &[&str], settings: TopicSettings) -> Result<Self> {
        let broker = Broker::start_with(options)?;
        let (topic, admin, http) = (TopicName::parse("t")?, broker.admin(None)?, client(&broker)?);
        if let Some(replies) = settings.replies.clone() {
            admin.create_topic(&CreateTopic { name: replies, settings: log(None) }).await?;
        }
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        Ok(Self { broker, admin, topic, http })
    }

    /// A path below the topic.
    fn url(&self, path: &str) -> String {
        format!("{}/v1/topics/t/{path}", self.broker.http_url())
    }

    fn post(&self, path: &str) -> RequestBuilder {
        self.http.post(self.url(path))
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(self.url(path))
    }

    /// Publishes this text and answers the receipt.
    async fn publish(&self, query: &str, body: &str) -> Result<Value> {
        let answer = self.post(&format!("messages?{query}")).body(body.to_owned()).send().await?;
        let (status, receipt) = (answer.status(), answer.json().await?);
        ensure!(status == 201, "{status}: {receipt}");
        Ok(receipt)
    }

    /// What a page has.
    async fn page(&self, query: &str) -> Result<Value> {
        let answer = self.get(&format!("messages?{query}")).send().await?;
        let (status, page) = (answer.status(), answer.json().await?);
        ensure!(status == 200, "{status}: {page}");
        Ok(page)
    }

    /// A connection that says what it wants byte by byte.
    fn raw(&self) -> Result<Raw> {
        let mut tls = self.broker.trust().tls_config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let address = self.broker.http_url().trim_start_matches("https://");
        let socket = TcpStream::connect(address)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let session = rustls::ClientConnection::new(Arc::new(tls), "localhost".try_into()?)?;
        Ok(Raw(rustls::StreamOwned::new(session, socket)))
    }
}

/// A connection on which a test says exactly what it wants.
struct Raw(rustls::StreamOwned<rustls::ClientConnection, TcpStream>);

impl Raw {
    fn say(&mut self, text: &str) -> Result<()> {
        self.say_bytes(text.as_bytes())
    }

    fn say_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(bytes)?;
        Ok(self.0.flush()?)
    }

    /// Nothing more is said; the other side may still answer.
    fn say_no_more(&mut self) -> Result<()> {
        self.0.conn.send_close_notify();
        self.0.flush()?;
        Ok(self.0.sock.shutdown(std::net::Shutdown::Write)?)
    }

    /// All that is answered until the other side ends the connection, however it does.
    fn all(&mut self) -> Result<String> {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        loop {
            match self.0.read(&mut some) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&some[..count]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    anyhow::bail!("the connection is not ended");
                }
                Err(_) => break,
            }
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }
}

/// The code of a refusal, after its status.
async fn refused(answer: Response) -> Result<String> {
    let status = answer.status().as_u16();
    let body: Value = answer.json().await?;
    Ok(format!("{status} {}", body["code"].as_str().context("a refusal has a code")?))
}
