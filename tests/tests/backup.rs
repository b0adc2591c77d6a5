//! Backups that are made under load, restored, refused.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use sluicegate_client::admin::{GroupSettings, TopicSettings};
use sluicegate_client::{LiteName, Message};
use sluicegate_tests::{Broker, PATIENCE, sluice};

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are UTF-8")
}

/// Runs `sluice store` with these arguments; its exit code, and what it said.
fn store(arguments: &[&str]) -> Result<(Option<i32>, String)> {
    let output = std::process::Command::new(sluice()).arg("store").args(arguments).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_holds_what_was_acknowledged_before_and_a_prefix_of_the_rest() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let (acknowledged, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let producer = broker.client().producer(topic).connect().await?;
    let (counted, ended) = (Arc::clone(&acknowledged), Arc::clone(&over));
    let load = tokio::spawn(async move {
        for number in 0_u64.. {
            if ended.load(Ordering::Relaxed) {
                return anyhow::Ok(number);
            }
            producer.send(Message::to("x")?.body(number.to_be_bytes().to_vec())).await?;
            counted.store(number + 1, Ordering::Relaxed);
        }
        Ok(0)
    });
    let mut consumer = broker.client().consumer(group.clone()).connect().await?;
    for _ in 0..50 {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await?.context("a delivery")??;
        delivery.ack().await?;
    }
    drop(consumer);
    let directory = tempfile::tempdir()?;
    let (backup, data_dir) = (directory.path().join("backup"), directory.path().join("data"));
    let before = acknowledged.load(Ordering::Relaxed);
    let made = broker.admin(None)?.back_up(text(&backup)).await?;
    assert!(made.bytes > 0 && made.files > 3, "{made:?}");
    let again = broker.admin(None)?.back_up(text(&backup)).await;
    assert!(again.unwrap_err().to_string().contains("already_exists"));
    over.store(true, Ordering::Relaxed);
    let sent = load.await??;
    drop(broker);

    let (code, said) = store(&["restore", text(&backup), "--data-dir", text(&data_dir)])?;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = store(&["restore", text(&backup), "--data-dir", text(&data_dir)])?;
    assert!(code == Some(1) && said.contains("exists and is not empty"), "{said}");
    let (code, said) = store(&["check", "--data-dir", text(&data_dir)])?;
    assert!(code == Some(0) && said.contains("message"), "{said}");
    let restored = Broker::start_on_copy_of(&data_dir.join("store"))?;
    let lite = restored.admin(None)?.lite_topic(&group, &LiteName::parse("x")?).await?;
    assert!(lite.settled_up_to.0 >= 50, "{lite:?}");
    let end = lite.next_offset.0;
    assert!((before..=sent).contains(&end), "{before} were acknowledged before, {end} are there, {sent} were sent");
    let mut consumer = restored.client().consumer(group).connect().await?;
    for offset in lite.settled_up_to.0..end {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
        let delivery = delivery.context("the consumer ended")??;
        assert_eq!((delivery.offset().0, &delivery.body()[..]), (offset, &offset.to_be_bytes()[..]));
        delivery.ack().await?;
    }
    Ok(())
}

/// Breaks a backup.
type Damage = fn(&Path) -> std::io::Result<()>;

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_not_whole_is_refused_and_leaves_nothing() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, _) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    broker.client().producer(topic).connect().await?.send(Message::to("x")?.body(vec![7; 50_000])).await?;
    let admin = broker.admin(None)?;
    let relative = admin.back_up("backup").await;
    assert!(relative.unwrap_err().to_string().contains("`backup` is not absolute"));
    let directory = tempfile::tempdir()?;
    let damages: [(&str, Damage, &str); 4] = [
        ("no-list", |backup| std::fs::remove_file(backup.join("backup.json")), "backup.json: No such file"),
        (
            "bad-list",
            |backup| std::fs::write(backup.join("backup.json"), "{\"files\": {\"../x\": 1}}"),
            "is no file name",
        ),
        ("no-file", |backup| std::fs::remove_file(backup.join("store/CURRENT")), "CURRENT: No such file"),
        ("cut-file", |backup| cut(&backup.join("store")), "bytes, the list says"),
    ];
    for (name, damage, expected) in damages {
        let (backup, data_dir) = (directory.path().join(name), directory.path().join("data"));
        admin.back_up(text(&backup)).await?;
        damage(&backup)?;
        let (code, said) = store(&["restore", text(&backup), "--data-dir", text(&data_dir)])?;
        assert!(code == Some(1) && said.contains("is not complete: ") && said.contains(expected), "{name}: {said}");
        assert!(
            !data_dir.join("store").exists() && !data_dir.join("store.restoring").exists(),
            "{name} left something"
        );
    }
    let (code, said) = store(&["check", "--data-dir", text(directory.path())])?;
    assert!(code == Some(1) && said.contains("holds no store"), "{said}");
    let (code, said) = store(&["check", "--data-dir", text(broker.data_dir())])?;
    assert!(code == Some(1) && said.contains("is in use by another broker"), "{said}");
    Ok(())
}

/// Cuts a table file.
fn cut(store: &Path) -> std::io::Result<()> {
    let files = std::fs::read_dir(store)?.flatten().map(|entry| entry.path());
    let table = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).max();
    let table = table.ok_or_else(|| std::io::Error::other("no table file"))?;
    // It is linked to the broker's own file: another one takes its place.
    let bytes = std::fs::read(&table)?;
    std::fs::remove_file(&table)?;
    std::fs::write(&table, &bytes[..bytes.len() / 2])
}
