//! Readers of lite topics, against a real broker process: from where they begin, what they see, and what they are told when what they
//! want is gone.

mod bad;
mod follow;
mod gone;
mod large;
mod many;
mod start;
mod verbs;

use anyhow::{Context, Result};
use sluicegate_client::admin::{Admin, CreateTopic, LogRetention, ReclaimSettings, Retention, TopicSettings};
use sluicegate_client::{
    Client, LiteName, Message, Offset, Producer, ReadError, ReadMessage, Reader, ReaderBuilder, Receipt, TopicName,
};
use sluicegate_tests::openmetrics::Page;
use sluicegate_tests::{Broker, PATIENCE};

/// A broker with a topic `t` that has no group.
struct World {
    broker: Broker,
    client: Client,
    admin: Admin,
    topic: TopicName,
}

/// So many bytes of each lite topic are kept, or more than any test has, until somebody says otherwise.
fn log(bytes: Option<u64>) -> TopicSettings {
    let retention = Retention::Log(LogRetention { age_ms: None, bytes: bytes.or(Some(1 << 30)) });
    TopicSettings { retention, reclaim: ReclaimSettings::NEVER, ..TopicSettings::default() }
}

fn lite(name: &str) -> LiteName {
    LiteName::parse(name).expect("a good name")
}

impl World {
    async fn start(settings: TopicSettings) -> Result<Self> {
        let broker = Broker::start()?;
        let topic = TopicName::parse("t")?;
        let (client, admin) = (broker.client(), broker.admin(None)?);
        admin.create_topic(&CreateTopic { name: topic.clone(), settings }).await?;
        Ok(Self { broker, client, admin, topic })
    }

    async fn producer(&self) -> Result<Producer> {
        Ok(self.client.producer(self.topic.clone()).connect().await?)
    }

    /// Publishes these, one after the other.
    async fn publish(&self, name: &str, bodies: impl IntoIterator<Item = String>) -> Result<Vec<Receipt>> {
        let (producer, mut receipts) = (self.producer().await?, Vec::new());
        for body in bodies {
            receipts.push(producer.send(Message::to(name)?.body(body)).await?);
        }
        producer.close().await;
        Ok(receipts)
    }

    fn reader(&self, name: &str) -> ReaderBuilder {
        self.client.reader(self.topic.clone(), lite(name))
    }

    async fn metric(&self, name: &str) -> Result<u64> {
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(self.broker.trust().tls_config()?)
            .no_proxy()
            .build()?;
        let page = http.get(format!("{}/metrics", self.broker.admin_url())).send().await?.text().await?;
        Page::parse(&page)?.count(name, &[])
    }

    /// Waits until a metric is this.
    async fn metric_becomes(&self, name: &str, value: u64) -> Result<()> {
        let asked = async {
            while self.metric(name).await? != value {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, asked).await.with_context(|| format!("{name} does not become {value}"))?
    }
}

/// Bodies that count from one number to below another.
fn counted(range: std::ops::Range<u64>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

async fn step(reader: &mut Reader) -> Result<Option<Result<ReadMessage, ReadError>>> {
    tokio::time::timeout(PATIENCE, reader.next()).await.context("nothing came")
}

async fn next(reader: &mut Reader) -> Result<ReadMessage> {
    Ok(step(reader).await?.context("the reader ended")??)
}

async fn fault(reader: &mut Reader) -> Result<ReadError> {
    match step(reader).await?.context("the reader ended")? {
        Err(error) => {
            assert!(step(reader).await?.is_none(), "an error comes once");
            Ok(error)
        }
        Ok(message) => anyhow::bail!("no error but message {}", message.id()),
    }
}

/// The offsets and bodies that it reads up to its end.
async fn rest(reader: &mut Reader) -> Result<Vec<(u64, String)>> {
    let mut read = Vec::new();
    while let Some(message) = step(reader).await? {
        let message = message?;
        read.push((message.offset().0, String::from_utf8(message.body().to_vec())?));
    }
    Ok(read)
}

/// What [`rest`] answers of bodies that are their own offsets.
fn own(range: std::ops::Range<u64>) -> Vec<(u64, String)> {
    range.map(|offset| (offset, offset.to_string())).collect()
}

const fn trimmed(first: u64) -> ReadError {
    ReadError::Trimmed { first: Offset(first) }
}
