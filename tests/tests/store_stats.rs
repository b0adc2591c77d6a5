//! `sluice store stats` on the directory of a broker that has ended, and on others.

use std::path::Path;

use anyhow::{Context as _, Result};
use sluicegate_client::Message;
use sluicegate_client::admin::{GroupSettings, TopicSettings};
use sluicegate_tests::{Broker, PATIENCE, sluice};

/// Its exit code, and what it said.
fn stats(data_dir: &Path, arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let mut stats = std::process::Command::new(sluice());
    let output = stats.args(["store", "stats", "--data-dir"]).arg(data_dir).args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_holds_is_told_by_table_topic_and_file() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for lite in ["x", "y", "x", "x", "z"] {
        producer.send(Message::to(lite)?.body(vec![7; 1_000])).await?;
    }
    // Of three lite topics with messages one has none left.
    let mut consumer = broker.client().consumer(group).workers(8).connect().await?;
    for _ in 0..3 {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("a delivery")??;
        match delivery.lite() {
            "z" => delivery.ack().await?,
            _ => delivery.retry(Some(std::time::Duration::from_hours(1))).await?,
        }
    }
    consumer.close().await;
    let (code, said) = stats(broker.data_dir(), &[])?;
    assert!(code == Some(1) && said.contains("is in use by another broker"), "{said}");
    tokio::task::block_in_place(|| broker.stop())?;

    let (code, said) = stats(broker.data_dir(), &["-o", "json"])?;
    assert_eq!(code, Some(0), "{said}");
    let found: serde_json::Value = serde_json::from_str(&said)?;
    let topics = serde_json::json!({
        "t": {"lite_topics": 3, "messages": 4, "is_estimate": false},
        "t.dlq.g": {"lite_topics": 0, "messages": 0, "is_estimate": false},
    });
    assert_eq!(found["topics"], topics);
    let rows = |table: &str| (found["tables"][table]["rows"].as_u64(), found["tables"][table]["is_estimate"].as_bool());
    assert_eq!((rows("message"), rows("lite")), ((Some(4), Some(false)), (Some(3), Some(false))));
    let bytes = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    assert!((4_000..5_000).contains(&bytes(&found["tables"]["message"]["bytes"])), "{said}");
    assert!(bytes(&found["wal_bytes"]) > 5_000 && bytes(&found["families"]["rows"]["live_sst_bytes"]) > 500, "{said}");

    let (code, said) = stats(broker.data_dir(), &[])?;
    let line =
        |start: &str| said.lines().find(|line| line.trim_start().starts_with(start)).unwrap_or_default().to_owned();
    assert_eq!(code, Some(0));
    assert_eq!(line("t ").split_whitespace().collect::<Vec<_>>(), ["t", "3", "4"]);
    assert_eq!(line("message").split_whitespace().nth(1), Some("4"));
    Ok(())
}

#[test]
fn a_directory_without_a_store_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (code, said) = stats(directory.path(), &[])?;
    assert!(code == Some(1) && said.contains("holds no store"), "{said}");
    assert_eq!(std::fs::read_dir(directory.path())?.count(), 0, "something was made");
    Ok(())
}
