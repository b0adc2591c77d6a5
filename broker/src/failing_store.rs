//! What users meet when the store fails: a whole broker with real clients, over a store that fails when it is told to.

use std::time::Duration;

use anyhow::{Context as _, Result};
use sluicegate_client::admin::{Admin, CreateGroup, CreateTopic, GroupSettings, HealthStatus, TopicSettings};
use sluicegate_client::{Client, Consumer, GroupName, Message, Pending, Producer, PublishError, TopicName, Trust};
use sluicegate_protocol::ErrorCode;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::policy::PolicyCompiler;
use crate::server::{Server, StartError};
use crate::store::{Disk, Family, Fault, Faults};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it watches that something does not happen.
const A_WHILE: Duration = Duration::from_millis(700);
/// A body that has rows of its own.
const LARGE: usize = 64 << 10;

/// A broker over a disk in memory, with a topic and a group.
struct Running {
    disk: Disk,
    faults: Faults,
    client: Client,
    admin: Admin,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), StartError>>,
    _directory: tempfile::TempDir,
}

impl Running {
    async fn start() -> Result<Self> {
        let (disk, faults, directory) = (Disk::default(), Faults::default(), tempfile::tempdir()?);
        let anywhere = ([127, 0, 0, 1], 0).into();
        let config = Config {
            data_dir: directory.path().into(),
            listen: anywhere,
            admin_listen: anywhere,
            http_listen: anywhere,
            dev: true,
            shards: 2,
            ..Config::default()
        };
        let (opened, opened_with) = (disk.clone(), faults.clone());
        let server = Server::bind_over(config, PolicyCompiler::Here, Box::new(move || opened.open_with(&opened_with)))?;
        let trust = Trust::Certificate(directory.path().join("dev-cert.pem"));
        let client = Client::builder(server.address().to_string(), trust.clone()).build();
        let admin = Admin::new(format!("https://{}", server.admin_address()), &trust, None)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(server.run(async { drop(stopped.await) }));
        let topic = CreateTopic { name: TopicName::parse("t")?, settings: TopicSettings::default() };
        admin.create_topic(&topic).await?;
        let group = CreateGroup::new(GroupName::parse("g")?, topic.name, GroupSettings::default());
        admin.create_group(&group).await?;
        Ok(Self { disk, faults, client, admin, stop, ended, _directory: directory })
    }

    async fn producer(&self) -> Result<Producer> {
        Ok(self.client.producer(TopicName::parse("t")?).connect().await?)
    }

    async fn consumer(&self) -> Result<Consumer> {
        Ok(self.client.consumer(GroupName::parse("g")?).connect().await?)
    }

    async fn health_becomes(&self, wanted: HealthStatus) -> Result<Option<String>> {
        let asked = async {
            loop {
                // Between two lives a request may be cut off.
                if let Ok(health) = self.admin.health().await
                    && health.status == wanted
                {
                    return health.problem;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asked).await.context("the health did not change")
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        Ok(tokio::time::timeout(PATIENCE, self.ended).await.context("it does not stop")???)
    }
}

async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(PATIENCE, future).await.with_context(|| format!("no {what}"))
}

/// Delivers and acks this many and answers their offsets and bodies' first bytes.
async fn drain(running: &Running, count: usize) -> Result<Vec<(u64, u8)>> {
    let mut consumer = running.consumer().await?;
    let mut found = Vec::new();
    for _ in 0..count {
        let delivery = in_time("delivery", consumer.next()).await?.context("the consumer ended")??;
        found.push((delivery.offset().0, delivery.body()[0]));
        delivery.ack().await?;
    }
    // Nothing is there twice.
    anyhow::ensure!(tokio::time::timeout(A_WHILE / 4, consumer.next()).await.is_err(), "more than {found:?}");
    Ok(found)
}

async fn enqueue(producer: &Producer, body: u8) -> Result<Pending> {
    Ok(producer.enqueue(Message::to("x")?.body(vec![body; 9])).await?)
}

/// While it lasts nothing is acknowledged and the health says so; then what was sent is there, once, in order.
async fn outlives(fault: Fault, cut_power: bool) -> Result<()> {
    let running = Running::start().await?;
    let producer = running.producer().await?;
    assert_eq!(in_time("receipt", enqueue(&producer, 0).await?).await??.offset.0, 0);
    running.faults.now_on(fault);
    let mut unanswered = Box::pin(enqueue(&producer, 1).await?);
    let problem = running.health_becomes(HealthStatus::Failed).await?;
    assert!(problem.as_deref().unwrap_or_default().contains("injected"), "{problem:?}");
    assert!(tokio::time::timeout(A_WHILE, &mut unanswered).await.is_err(), "acknowledged although the store fails");
    let refused = running.admin.groups().await;
    assert!(refused.unwrap_err().to_string().contains("store_failed"));
    if cut_power {
        running.disk.cut_power();
    }
    running.faults.heal();
    let receipt = in_time("receipt", unanswered).await??;
    assert_eq!(receipt.offset.0, 1);
    running.health_becomes(HealthStatus::Ok).await?;
    assert_eq!(drain(&running, 2).await?, [(0, 0), (1, 1)]);
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_acknowledges_nothing_and_is_opened_again() -> Result<()> {
    outlives(Fault::WriteFails, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_synced_acknowledges_nothing_and_is_opened_again() -> Result<()> {
    outlives(Fault::SyncFails, false).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_lost_is_sent_again_by_its_producer() -> Result<()> {
    outlives(Fault::SyncFails, true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publish_that_was_written_although_the_write_failed_is_there_once() -> Result<()> {
    let running = Running::start().await?;
    let producer = running.producer().await?;
    running.faults.once(Fault::WriteIsDoneAndFails);
    let receipt = in_time("receipt", enqueue(&producer, 7).await?).await??;
    assert_eq!((receipt.offset.0, receipt.duplicate), (0, true));
    assert_eq!(drain(&running, 1).await?, [(0, 7)]);
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_sync_is_slow_nothing_is_acknowledged_and_deliveries_go_on() -> Result<()> {
    let running = Running::start().await?;
    let producer = running.producer().await?;
    in_time("receipt", enqueue(&producer, 0).await?).await??;
    running.faults.now_on(Fault::SyncTakes(Duration::from_secs(2)));
    let mut unanswered = Box::pin(enqueue(&producer, 1).await?);
    // Its lease is newer than the slow sync, and needs to be written only.
    let mut consumer = running.consumer().await?;
    let delivery = in_time("delivery", consumer.next()).await?.context("the consumer ended")??;
    assert_eq!(delivery.offset().0, 0);
    assert!(tokio::time::timeout(Duration::from_millis(1_200), &mut unanswered).await.is_err(), "acknowledged early");
    assert_eq!(in_time("receipt", unanswered).await??.offset.0, 1);
    running.faults.heal();
    delivery.ack().await?;
    running.health_becomes(HealthStatus::Ok).await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_is_delivered_when_it_can() -> Result<()> {
    // Properties that make the message's row too large to be kept in memory; a body that has rows of its own.
    let (in_row, in_chunks) = ((15 << 10, 4 << 10), (0, LARGE));
    let faults = [
        (Fault::ReadFails(Family::Messages), in_row),
        (Fault::RowsAreGarbage(Family::Messages), in_row),
        (Fault::ReadFails(Family::Bodies), in_chunks),
    ];
    for (fault, (property_bytes, body_bytes)) in faults {
        let running = Running::start().await?;
        let message = Message::to("x")?.body(vec![5; body_bytes]).property("p", "p".repeat(property_bytes));
        in_time("receipt", running.producer().await?.enqueue(message).await?).await??;
        running.faults.once(fault);
        let mut consumer = running.consumer().await?;
        running.health_becomes(HealthStatus::Failed).await?;
        let delivery = in_time("delivery", consumer.next()).await?.context("the consumer ended")??;
        assert_eq!(delivery.body().len(), body_bytes);
        delivery.ack().await?;
        running.health_becomes(HealthStatus::Ok).await?;
        running.stop().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_store_another_one_opened_serves_nothing_more() -> Result<()> {
    let running = Running::start().await?;
    let producer = running.producer().await?;
    let _other = running.disk.open()?;
    let mut unanswered = Box::pin(enqueue(&producer, 0).await?);
    let problem = running.health_becomes(HealthStatus::Failed).await?;
    assert!(problem.as_deref().unwrap_or_default().contains("another broker"), "{problem:?}");
    assert!(tokio::time::timeout(A_WHILE, &mut unanswered).await.is_err(), "acknowledged without the store");
    running.health_becomes(HealthStatus::Failed).await?;
    drop(producer);
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_control_change_is_refused_and_can_be_made_again() -> Result<()> {
    let running = Running::start().await?;
    running.faults.once(Fault::WriteFails);
    let topic = CreateTopic { name: TopicName::parse("later")?, settings: TopicSettings::default() };
    let refused = running.admin.create_topic(&topic).await;
    assert!(refused.unwrap_err().to_string().contains("store_failed"));
    running.health_becomes(HealthStatus::Ok).await?;
    in_time("topic", async {
        while running.admin.create_topic(&topic).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await?;
    running.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_refuses_publishes_and_all_else_goes_on_until_there_is_room() -> Result<()> {
    let running = Running::start().await?;
    let producer = running.producer().await?;
    in_time("receipt", enqueue(&producer, 0).await?).await??;
    running.faults.leave_free(200 << 20);
    let problem = running.health_becomes(HealthStatus::DiskFull).await?;
    let expected = "the disk is nearly full: 200 MiB are free, 1024 MiB are held in reserve";
    assert_eq!(problem.as_deref(), Some(expected));
    let Err(PublishError::Refused(refusal)) = in_time("answer", enqueue(&producer, 1).await?).await? else {
        anyhow::bail!("published without room");
    };
    assert_eq!((refusal.code, refusal.retry_after), (ErrorCode::DiskFull, Some(Duration::from_secs(2))));
    assert_eq!(refusal.message, format!("{expected}, publishes are refused until there is room"));
    assert_eq!(drain(&running, 1).await?, [(0, 0)]);
    running.faults.heal();
    running.health_becomes(HealthStatus::Ok).await?;
    assert_eq!(in_time("receipt", enqueue(&producer, 2).await?).await??.offset.0, 1);
    assert_eq!(drain(&running, 1).await?, [(1, 2)]);
    running.stop().await
}
