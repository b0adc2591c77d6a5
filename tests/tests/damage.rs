//! Data directories that are damaged, foreign or not writable: what the broker says, and that it changes nothing.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rand::{RngExt as _, SeedableRng as _};
use sluicegate_client::admin::{GroupSettings, HealthStatus, TopicSettings};
use sluicegate_client::{Message, TopicName};
use sluicegate_tests::{Broker, PATIENCE, serve_to_end, sluice};

const MESSAGES: u64 = 1_500;
/// Of a table file.
const FOOTER_BYTES: usize = 53;

/// Where the store keeps messages of one size.
#[derive(Debug, Clone, Copy)]
enum Kept {
    /// Small ones lie with their keys.
    InTables,
    /// Large ones lie in blob files, still in rows of their messages.
    InBlobs,
}

impl Kept {
    /// A body that cannot be compressed, so that its place in the file is its own.
    fn body(self, number: u64) -> Vec<u8> {
        let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(number);
        let bytes = match self {
            Self::InTables => 400,
            Self::InBlobs => 4_000,
        };
        std::iter::repeat_with(|| rng.random()).take(bytes).collect()
    }

    fn extension(self) -> &'static str {
        match self {
            Self::InTables => "sst",
            Self::InBlobs => "blob",
        }
    }
}

/// A broker that has stopped, with its messages in files; and the largest of those.
async fn stopped_with_files(kept: Kept) -> Result<(Broker, PathBuf)> {
    let mut broker = Broker::start()?;
    // Short, because sessions that the damage cut off must not keep their messages for long.
    let settings = GroupSettings { lease_ms: 2_000, session_grace_ms: 500, ..GroupSettings::default() };
    let (topic, _) = broker.topic_and_group(TopicSettings::default(), settings).await?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut pending = Vec::new();
    for number in 0..MESSAGES {
        pending.push(producer.enqueue(Message::to("x")?.body(kept.body(number))).await?);
    }
    for receipt in pending {
        receipt.await?;
    }
    drop(producer);
    tokio::task::block_in_place(|| broker.stop())?;
    // To know its size it writes what is in the log to table files.
    let mut stats = Command::new(sluice());
    stats.args(["store", "stats", "--data-dir"]).arg(broker.data_dir());
    ensure!(stats.output()?.status.success(), "the store has no statistics");
    let files = std::fs::read_dir(broker.data_dir().join("store"))?.flatten().map(|entry| entry.path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == kept.extension()));
    let largest = tables.max_by_key(|path| path.metadata().map_or(0, |metadata| metadata.len()));
    let largest = largest.context("a file of that kind")?;
    let bytes = MESSAGES * kept.body(0).len() as u64;
    assert!(largest.metadata()?.len() > bytes / 2, "the messages are in {}", largest.display());
    Ok((broker, largest))
}

fn serve(data_dir: &Path) -> Result<(Option<i32>, String)> {
    let data_dir = data_dir.to_str().context("temporary paths are UTF-8")?;
    serve_to_end(&[
        "--dev",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--http-listen",
        "127.0.0.1:0",
        "--data-dir",
        data_dir,
    ])
}

/// Consumes from the first message on and checks every body; answers how many came.
async fn consume_all(broker: &Broker, kept: Kept, until_failed: bool) -> Result<u64> {
    let mut consumer = broker.client().consumer("g".parse()?).connect().await?;
    let mut next = 0;
    while next < MESSAGES {
        let delivery = tokio::select! {
            delivery = consumer.next() => delivery.context("the consumer ended")??,
            health = broker.health_becomes(HealthStatus::Failed), if until_failed => return health.map(|_| next),
            () = tokio::time::sleep(PATIENCE) => anyhow::bail!("no delivery after {next}"),
        };
        assert!(delivery.body()[..] == kept.body(delivery.offset().0), "offset {} has another body", delivery.offset());
        next = next.max(delivery.offset().0 + 1);
        // When the store fails the answer is lost, and the message comes again.
        let _ = tokio::time::timeout(Duration::from_secs(1), delivery.ack()).await;
    }
    Ok(next)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_file_that_was_cut_stops_the_start_and_nothing_is_changed() -> Result<()> {
    let (mut broker, file) = stopped_with_files(Kept::InTables).await?;
    let whole = std::fs::read(&file)?;
    std::fs::write(&file, &whole[..whole.len() / 2])?;
    let (code, text) = tokio::task::block_in_place(|| serve(broker.data_dir()))?;
    let name = file.file_name().and_then(std::ffi::OsStr::to_str).context("a name")?;
    assert!(code == Some(1) && text.contains("is damaged: ") && text.contains(name.trim_start_matches('0')), "{text}");
    assert!(text.contains("restore a backup"), "{text}");
    std::fs::write(&file, &whole)?;
    tokio::task::block_in_place(|| broker.start_again())?;
    assert_eq!(consume_all(&broker, Kept::InTables, false).await?, MESSAGES);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_file_with_a_damaged_index_stops_the_start_and_is_called_damaged() -> Result<()> {
    let (broker, file) = stopped_with_files(Kept::InTables).await?;
    let mut bytes = std::fs::read(&file)?;
    // What says where the file's index and properties are: the last block before the footer.
    let at = bytes.len() - FOOTER_BYTES - 20;
    bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&file, &bytes)?;
    let (code, text) = tokio::task::block_in_place(|| serve(broker.data_dir()))?;
    assert!(code == Some(1) && text.contains("is damaged: ") && text.contains("block checksum"), "{text}");
    assert_eq!(std::fs::read(&file)?, bytes);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_row_is_never_delivered_and_other_topics_go_on() -> Result<()> {
    one_is_damaged(Kept::InTables).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_blob_is_never_delivered_and_other_topics_go_on() -> Result<()> {
    one_is_damaged(Kept::InBlobs).await
}

async fn one_is_damaged(kept: Kept) -> Result<()> {
    let (mut broker, file) = stopped_with_files(kept).await?;
    let whole = std::fs::read(&file)?;
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&file, &damaged)?;
    tokio::task::block_in_place(|| broker.start_again())?;
    let came = consume_all(&broker, kept, true).await?;
    assert!(came < MESSAGES, "the damage was not met");
    // The broker tries to open the store once more; then it lives with it, and other shards serve.
    let other = TopicName::parse("other")?;
    let sent = async {
        loop {
            if let Ok(producer) = broker.client().producer(other.clone()).connect().await {
                return producer.send(Message::to("y")?.body("fine")).await.context("published elsewhere");
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, sent).await.context("no receipt")??.offset.0, 0);
    let health = broker.health_becomes(HealthStatus::Failed).await?;
    assert!(health.problem.as_deref().unwrap_or_default().contains("Corruption"), "{health:?}");
    tokio::task::block_in_place(|| broker.stop())?;

    // With the right bytes again nothing is lost.
    std::fs::write(&file, &whole)?;
    tokio::task::block_in_place(|| broker.start_again())?;
    let mut consumer = broker.client().consumer("g".parse()?).connect().await?;
    let mut last = None;
    while last < Some(MESSAGES - 1) {
        let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery")?;
        let delivery = delivery.context("the consumer ended")??;
        let offset = delivery.offset().0;
        assert!(delivery.body()[..] == kept.body(offset), "offset {offset} has another body");
        assert!(last.is_none_or(|last| offset == last + 1), "{offset} came after {last:?}");
        last = Some(offset);
        delivery.ack().await?;
    }
    Ok(())
}

/// All files below a directory with their bytes, except what a refused start may touch: locks and RocksDB's own log.
fn picture(directory: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default().to_owned();
        if path.is_dir() {
            files.extend(picture(&path)?);
        } else if name != "LOCK" && !name.starts_with("LOG") {
            files.push((path.clone(), std::fs::read(&path)?));
        }
    }
    files.sort();
    Ok(files)
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_store_is_refused_and_left_as_it_is() -> Result<()> {
    let (broker, _) = stopped_with_files(Kept::InTables).await?;
    std::fs::remove_file(broker.data_dir().join("store/CURRENT"))?;
    let before = picture(broker.data_dir())?;
    let (code, text) = tokio::task::block_in_place(|| serve(broker.data_dir()))?;
    assert!(code == Some(1) && text.contains("holds part of a store: "), "{text}");
    assert!(text.contains("CURRENT is not; put back the files that are missing"), "{text}");
    assert!(picture(broker.data_dir())? == before, "the refused start changed something");
    Ok(())
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().to_str().context("temporary paths are UTF-8")?;
    let script = "mount --bind \"$0\" \"$0\" && mount -o remount,ro,bind \"$0\" && exec \"$@\"";
    let mut read_only = Command::new("unshare");
    read_only.args(["-rm", "sh", "-c", script, path]).arg(sluice());
    let addresses = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
    let output = read_only.args(["serve", "--dev"]).args(addresses).args(["--data-dir", path]).output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("mount:") || text.contains("unshare:") {
        return Ok(()); // Nothing can be mounted here; `bad_input` has a path below a file.
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("is not writable: Read-only file system"), "{text}");
    Ok(())
}
