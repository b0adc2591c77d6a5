//! Bodies that more than one message has, and bodies that go with many others.

use anyhow::{Context as _, Result};
use sluicegate_client::admin::{CreateGroup, Dependents, GroupSettings, Page, TopicSettings};
use sluicegate_client::{GroupName, LiteName, Message};
use sluicegate_tests::{Broker, PATIENCE, openmetrics};

use crate::{CHUNK, Noise, PART, body_rows, next, stopped};

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_keeps_its_body_while_another_group_needs_it_and_brings_it_back() -> Result<()> {
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let other = GroupName::parse("other")?;
    let admin = broker.admin(None)?;
    admin.create_group(&CreateGroup::new(other.clone(), topic.clone(), GroupSettings::default())).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let bodies = [Noise::body(1, 5_000), Noise::body(2, 3 * CHUNK)];
    for body in &bodies {
        producer.send(Message::to("x")?.body(body.clone())).await?;
    }
    let mut consumer = broker.client().consumer(group.clone()).workers(2).connect().await?;
    for _ in &bodies {
        next(&mut consumer).await?.dead_letter("no use").await?;
    }
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    // The other group's ack takes the message, not the body.
    let mut others = broker.client().consumer(other).connect().await?;
    for body in &bodies {
        let delivery = next(&mut others).await?;
        assert!(delivery.body() == body);
        delivery.ack().await?;
    }
    others.close().await;
    let moved = broker.admin(None)?.redrive(&group, Some(&LiteName::parse("x")?), None).await?;
    assert_eq!(moved.moved, 2);
    for body in &bodies {
        let delivery = next(&mut consumer).await?;
        assert!(delivery.body() == body);
        delivery.ack().await?;
    }
    consumer.close().await;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_a_consumer_takes_goes_to_the_dead_letters_and_says_why() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic).connect().await?;
    producer.send(Message::to("x")?.body(Noise::body(1, 2 * CHUNK))).await?;
    producer.send(Message::to("x")?.body("small")).await?;
    let mut consumer = broker.client().consumer(group.clone()).body_bytes_max(CHUNK as u64).connect().await?;
    assert_eq!(&next(&mut consumer).await?.body()[..], b"small");
    let dead = broker.admin(None)?.dead_letters(&group, &Page::default()).await?.dead_letters;
    let causes: Vec<_> = dead.iter().map(|dead| dead.cause.as_str()).collect();
    assert_eq!(causes, ["a body of 524288 bytes, this consumer takes at most 262144"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_takes_all_bodies_along() -> Result<()> {
    const MESSAGES: usize = 1_200;
    let mut broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let producer = broker.client().producer(topic.clone()).connect().await?;
    let mut pending = Vec::new();
    for lite in ["purged", "deleted", "left"] {
        for number in 0..MESSAGES {
            // Most are small, some have chunks.
            let bytes = if number % 100 == 0 { 2 * CHUNK } else { 4_200 };
            pending.push(producer.enqueue(Message::to(lite)?.body(Noise::body(number as u64, bytes))).await?);
        }
    }
    for pending in pending {
        pending.await?;
    }
    producer.close().await;
    let admin = broker.admin(None)?;
    admin.purge_lite(&group, &LiteName::parse("purged")?).await?;
    admin.delete_lite(&topic, &LiteName::parse("deleted")?).await?;
    // What was too much for one batch goes with the next process, and the rows of the topic in the background.
    tokio::task::block_in_place(|| broker.crash_and_restart())?;
    let [chunks, ..] = tokio::task::block_in_place(|| {
        broker.stop()?;
        let rows = body_rows(broker.data_dir());
        broker.start_again()?;
        rows
    })?;
    let of_large = (2 * CHUNK).div_ceil(PART);
    assert_eq!(chunks, (MESSAGES + MESSAGES / 100 * (of_large - 1)) as u64, "those of the third lite topic are left");
    broker.admin(None)?.delete_topic(&topic, Dependents::Delete).await?;
    removed(&broker).await?;
    assert_eq!(stopped(broker)?, [0; 4]);
    Ok(())
}

/// Waits until no row is left of what was deleted.
async fn removed(broker: &Broker) -> Result<()> {
    let http = reqwest::Client::builder().tls_backend_preconfigured(broker.trust().tls_config()?).no_proxy().build()?;
    let url = format!("{}/metrics", broker.admin_url());
    let removed = async {
        while openmetrics::Page::parse(&http.get(&url).send().await?.text().await?)?
            .count("sluicegate_deletions", &[])?
            > 0
        {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, removed).await.context("rows are left")?
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_come_out_by_the_command_line() -> Result<()> {
    let broker = Broker::start()?;
    broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let directory = tempfile::tempdir()?;
    let (file, out) = (directory.path().join("in"), directory.path().join("out"));
    let body = Noise::body(4, 7 * CHUNK + 1);
    std::fs::write(&file, &body)?;
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("temporary paths are UTF-8");
    let run = |arguments: &[&str]| tokio::task::block_in_place(|| broker.sluice(arguments));
    let sent = run(&["produce", "t", "x", "--body-file", &path(&file)?])?;
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let got = run(&["consume", "g", "-n", "1", "--body-dir", &path(&out)?])?;
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    let files: Vec<_> = std::fs::read_dir(&out)?.collect::<Result<_, _>>()?;
    assert_eq!(files.len(), 1);
    assert!(std::fs::read(files[0].path())? == body);
    assert!(String::from_utf8_lossy(&got.stdout).contains(&path(&files[0].path())?));
    Ok(())
}
