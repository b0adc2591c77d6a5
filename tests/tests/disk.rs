//! A broker on a small disk that fills up and gets room again.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sluicegate_client::admin::{GroupSettings, HealthStatus, TopicSettings};
use sluicegate_client::{ErrorCode, Message, PublishError};
use sluicegate_tests::{Broker, PATIENCE};

const DISK_MEBIBYTES: u32 = 192;
const MESSAGES: u64 = 200;

/// Fills a file system until so much is left; false when it was full before.
fn fill(path: &Path, leave_mebibytes: u32) -> bool {
    let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path) else { return false };
    let wanted = DISK_MEBIBYTES - leave_mebibytes;
    let chunk = vec![0; 1 << 20];
    let has = file.metadata().map_or(0, |metadata| metadata.len() >> 20);
    (has..wanted.into()).all(|_| file.write_all(&chunk).is_ok())
}

/// The open files that a store was told to keep to.
#[cfg(target_os = "linux")]
fn files_of_the_store(broker: &Broker) -> Result<String> {
    let files = std::fs::read_dir(broker.data_dir().join("store"))?.flatten().map(|entry| entry.path());
    let is_options =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("OPTIONS-"));
    let options = std::fs::read_to_string(files.filter(is_options).max().context("no options")?)?;
    let line = options.lines().find_map(|line| line.trim().strip_prefix("max_open_files="));
    Ok(line.context("no such option")?.to_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn a_broker_raises_its_open_files_and_its_store_keeps_to_half_of_them() -> Result<()> {
    let raised = Broker::start_limited("-Sn 300")?;
    assert!(raised.open_files_max()? > 300, "{} files", raised.open_files_max()?);
    let held = Broker::start_limited("-n 300")?;
    assert_eq!((held.open_files_max()?, files_of_the_store(&held)?.as_str()), (300, "150"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_publishes_and_loses_nothing_and_room_heals_it() -> Result<()> {
    // Not by `println`, which only a failed test shows.
    let mut say = std::io::stderr();
    let Some(broker) = Broker::start_on_small_disk(DISK_MEBIBYTES)? else {
        writeln!(say, "full disk: nothing can be mounted here; the broker's tests with a told disk stand alone")?;
        return Ok(());
    };
    writeln!(say, "full disk: on a mounted file system of {DISK_MEBIBYTES} MiB")?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let message = |number: u64| Ok::<_, anyhow::Error>(Message::to("x")?.body(number.to_be_bytes().to_vec()));
    for number in 0..MESSAGES {
        producer.send(message(number)?).await?;
    }

    // Nearly full: publishes are refused, the rest goes on.
    let filler = broker.in_store("filler");
    fill(&filler, 40);
    let health = broker.health_becomes(HealthStatus::DiskFull).await?;
    assert!(health.problem.context("a problem")?.contains("64 MiB are held in reserve"));
    assert_eq!(tokio::task::block_in_place(|| broker.sluice(&["health"]))?.status.code(), Some(1));
    let refused = producer.send(message(0)?).await;
    let Err(PublishError::Refused(refusal)) = refused else { bail!("published on a full disk: {refused:?}") };
    assert_eq!(refusal.code, ErrorCode::DiskFull);
    assert!(refusal.retry_after.is_some() && refusal.detail.contains_key("free_bytes"), "{refusal:?}");
    let mut consumer = broker.client().consumer(group).connect().await?;
    let mut expected = 0;
    for _ in 0..MESSAGES / 2 {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
        let delivery = delivery.context("the consumer ended")??;
        assert_eq!(delivery.body()[..8], u64::to_be_bytes(expected));
        delivery.ack().await?;
        expected += 1;
    }

    // Full to the last byte, whatever that breaks.
    while fill(&filler, 0) {}
    let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
    let delivery = delivery.context("the consumer ended")??;
    let offset = delivery.offset().0;
    let acking = tokio::spawn(delivery.ack());
    std::fs::remove_file(&filler)?;
    broker.health_becomes(HealthStatus::Ok).await?;
    // It may have been answered that the lease is lost, if the store was closed for long enough.
    let _ = tokio::time::timeout(PATIENCE, acking).await.context("the ack is not answered")?;
    assert_eq!(producer.send(message(MESSAGES)?).await?.offset.0, MESSAGES);
    expected = offset;
    while expected <= MESSAGES {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
        let delivery = delivery.context("the consumer ended")??;
        assert!(delivery.offset().0 <= expected + 1, "{} was left out", expected + 1);
        expected = expected.max(delivery.offset().0 + 1);
        delivery.ack().await?;
    }
    Ok(())
}
