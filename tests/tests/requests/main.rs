//! Request and reply, against a real broker process: what is asked is answered once, whoever dies in between.

mod address;
mod cancel;
mod lost;
mod rights;
mod setting;
mod streams;
mod together;
mod verbs;

use std::time::Duration;

use anyhow::{Context, Result};
use sluicegate_client::admin::{
    Admin, CreateGroup, CreateTopic, GroupSettings, LogRetention, ReclaimSettings, Retention, TopicSettings,
};
use sluicegate_client::{
    Client, Consumer, Delivery, GroupName, LiteName, Message, ReadMessage, Request, RequestId, Requester, RequesterId,
    TopicName,
};
use sluicegate_tests::{Broker, PATIENCE};

/// A broker with a topic `agents` whose replies go to `agents.replies`, and a group `workers` of `agents`.
struct World {
    broker: Broker,
    admin: Admin,
}

fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("a good name")
}

fn group() -> GroupName {
    GroupName::parse("workers").expect("a good name")
}

fn id(name: &str) -> RequestId {
    RequestId::parse(name).expect("a good name")
}

fn replies() -> TopicSettings {
    let retention = Retention::Log(LogRetention { age_ms: None, bytes: Some(1 << 30) });
    TopicSettings { retention, reclaim: ReclaimSettings::NEVER, ..TopicSettings::default() }
}

fn asks() -> TopicSettings {
    TopicSettings { replies: Some(topic("agents.replies")), ..TopicSettings::default() }
}

/// Who vanishes is not waited for.
fn impatient() -> GroupSettings {
    GroupSettings { session_grace_ms: 0, ..GroupSettings::default() }
}

async fn make(admin: &Admin) -> Result<()> {
    admin.create_topic(&CreateTopic { name: topic("agents.replies"), settings: replies() }).await?;
    admin.create_topic(&CreateTopic { name: topic("agents"), settings: asks() }).await?;
    admin.create_group(&CreateGroup::new(group(), topic("agents"), impatient())).await?;
    Ok(())
}

impl World {
    async fn start() -> Result<Self> {
        let broker = Broker::start()?;
        let admin = broker.admin(None)?;
        make(&admin).await?;
        Ok(Self { broker, admin })
    }

    async fn requester(&self) -> Result<Requester> {
        requester(&self.broker.client()).await
    }

    async fn worker(&self) -> Result<Consumer> {
        Ok(self.broker.client().consumer(group()).connect().await?)
    }

    /// The messages that the reply to a request is made of.
    async fn replied(&self, request: &Request) -> Result<Vec<ReadMessage>> {
        self.read("agents.replies", request.reply_lite()).await
    }

    async fn read(&self, name: &str, lite: &LiteName) -> Result<Vec<ReadMessage>> {
        let (mut reader, mut read) =
            (self.broker.client().reader(topic(name), lite.clone()).connect().await?, Vec::new());
        while let Some(message) = reader.next().await {
            read.push(message?);
        }
        Ok(read)
    }
}

async fn requester(client: &Client) -> Result<Requester> {
    Ok(client.requester(topic("agents"), RequesterId::parse("planner")?).await?)
}

fn ask(body: &'static str) -> Result<Message> {
    Ok(Message::to("work/1")?.body(body))
}

async fn next(worker: &mut Consumer) -> Result<Delivery> {
    let next = tokio::time::timeout(PATIENCE, worker.next()).await.context("nothing was delivered")?;
    Ok(next.context("the consumer ended")??)
}

fn bodies(messages: &[ReadMessage]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned()).collect()
}

/// Runs a program of its own and kills it when it is through: its streams are not closed, they are gone.
fn killed_after<T: Send + 'static>(program: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    let ran = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let done = runtime.block_on(program);
        runtime.shutdown_timeout(Duration::ZERO);
        done
    });
    ran.join().map_err(|_| anyhow::anyhow!("the program panicked"))?
}
