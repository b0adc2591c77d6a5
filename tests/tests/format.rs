//! A store of each released format is read by today's broker.
//!
//! `fixtures/format-N` was written by the broker that first had the format. A format that is released is never made anew;
//! while the last one is not, `cargo test --release --test format -- --ignored` writes it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sluicegate_client::admin::{BodyPreview, GroupSettings, Page, QuotaSettings, TopicSettings};
use sluicegate_client::{GroupName, LiteName, Message, TopicName};
use sluicegate_tests::{Broker, PATIENCE};

/// The last one.
const FORMAT: u32 = 2;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/format-{format}"))
}

fn settings() -> GroupSettings {
    let quotas = QuotaSettings { messages: Some("600/min".parse().expect("a rate")), cost: None };
    GroupSettings { quotas, lease_ms: 1_000, max_attempts: 3, ..GroupSettings::default() }
}

/// What each lite topic in the fixture went through.
const LITES: [&str; 4] = ["settled", "tried", "buried", "held"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it writes the fixture"]
async fn make_the_fixture() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), settings()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    for lite in LITES.into_iter().chain(["settled", "settled"]) {
        producer.send(Message::to(lite)?.body(format!("of {lite}")).property("colour", "green").priority(7)).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).workers(8).connect().await?;
    let mut held = Vec::new();
    for _ in 0..LITES.len() + 2 {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("a delivery")??;
        match delivery.lite() {
            "settled" if delivery.offset().0 < 2 => delivery.ack().await?,
            "tried" => delivery.retry(Some(std::time::Duration::from_hours(1))).await?,
            "buried" => delivery.dead_letter("no use").await?,
            _ => held.push(delivery),
        }
    }
    broker.admin(None)?.pause_group(&group).await?;
    tokio::task::block_in_place(|| {
        broker.crash_and_restart()?;
        broker.stop()
    })?;
    std::fs::remove_dir_all(fixture(FORMAT)).ok();
    std::fs::create_dir_all(fixture(FORMAT))?;
    for file in std::fs::read_dir(broker.data_dir().join("store"))? {
        let file = file?;
        let name = file.file_name().to_string_lossy().into_owned();
        // Locks, options and RocksDB's own log are made anew.
        let has = |extension: &str| Path::new(&name).extension().is_some_and(|own| own == extension);
        if name == "CURRENT" || name.starts_with("MANIFEST") || has("sst") || has("log") {
            std::fs::copy(file.path(), fixture(FORMAT).join(name))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_each_format_is_read() -> Result<()> {
    for format in 1..=FORMAT {
        is_read(format).await.with_context(|| format!("format {format}"))?;
    }
    Ok(())
}

async fn is_read(format: u32) -> Result<()> {
    let broker = Broker::start_on_copy_of(&fixture(format))?;
    let (admin, group) = (broker.admin(None)?, GroupName::parse("g")?);
    let topics: Vec<_> = admin.topics().await?.into_iter().map(|topic| topic.name.as_str().to_owned()).collect();
    assert_eq!(topics, ["t", "t.dlq.g"]);
    let found = admin.group(&group).await?;
    assert!(found.paused && found.topic == TopicName::parse("t")?, "{found:?}");
    assert_eq!(found.settings, settings());
    let names: Vec<_> = admin
        .lite_topics(&found.topic, &Page::default())
        .await?
        .lite_topics
        .into_iter()
        .map(|lite| lite.name.as_str().to_owned())
        .collect();
    assert_eq!(names, ["buried", "held", "settled", "tried"]);
    let settled = admin.lite_topic(&group, &LiteName::parse("settled")?).await?;
    assert_eq!((settled.settled_up_to.0, settled.next_offset.0, settled.backlog), (2, 3, 1));
    let dead = admin.dead_letters(&group, &Page::default()).await?.dead_letters;
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].lite.as_str(), dead[0].attempts, dead[0].origin.0), ("buried", 1, 0));
    assert!(dead[0].cause.contains("no use"), "{dead:?}");
    let held = admin.peek(&group, &LiteName::parse("held")?, None, None).await?.messages;
    assert_eq!((held.len(), held[0].priority, &held[0].properties["colour"]), (1, 7, &"green".to_owned()));
    assert_eq!(held[0].body, BodyPreview::Text("of held".into()));

    // The leases of that time are over, and count; so is the delay of the retry.
    admin.resume_lite(&group, &LiteName::parse("tried")?, None).await?;
    admin.resume_group(&group).await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(8).connect().await?;
    let mut came = BTreeMap::new();
    for _ in 0..3 {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
        let delivery = delivery.context("the consumer ended")??;
        came.insert(delivery.lite().to_owned(), (delivery.offset().0, delivery.attempt()));
        delivery.ack().await?;
    }
    let expected = [("held", (0, 2)), ("settled", (2, 2)), ("tried", (0, 2))];
    assert_eq!(came, expected.map(|(lite, what)| (lite.to_owned(), what)).into());
    Ok(())
}
