//! `kill -9`, a start, and then a power cut: the next process reads the log of the one before again, and does not write it again.

use anyhow::{Context, Result};
use sluicegate_client::admin::{CreateTopic, Durability, TopicSettings};
use sluicegate_client::{LiteName, Message, TopicName};
use sluicegate_tests::Broker;
use sluicegate_tests::power_cut::{PowerCut, Syncs};

use super::TURN;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_after_kill_9_survives_a_power_cut() -> Result<()> {
    let _turn = TURN.lock().await;
    let folder = tempfile::tempdir()?;
    let disk = PowerCut::new(folder.path())?;
    let environment = disk.environment(Syncs::Honest);
    let mut broker = tokio::task::block_in_place(|| Broker::start_on(disk.data_dir(), environment))?;
    let (synced, written) = (TopicName::parse("synced")?, TopicName::parse("written")?);
    for (name, durability) in [(&synced, Durability::Fsync), (&written, Durability::Os)] {
        let settings = TopicSettings { durability, ..TopicSettings::default() };
        broker.admin(None)?.create_topic(&CreateTopic { name: name.clone(), settings }).await?;
    }
    // The system has them, and the disk does not, when the process dies.
    let producer = broker.client().producer(written).connect().await?;
    for number in 0..100 {
        producer.send(Message::to("x")?.body(vec![number; 1_000])).await?;
    }
    drop(producer);
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let producer = broker.client().producer(synced.clone()).connect().await?;
    producer.send(Message::to("x")?.body("acknowledged")).await?;
    drop(producer);
    tokio::task::block_in_place(|| broker.crash())?;
    // What was never synced is torn in the middle.
    disk.cut(u64::midpoint)?;
    tokio::task::block_in_place(|| broker.start_again())?;
    let reader = broker.client().reader(synced, LiteName::parse("x")?).connect().await;
    let message = reader?.next().await.context("it is lost")??;
    assert_eq!(&message.body()[..], b"acknowledged");
    Ok(())
}
