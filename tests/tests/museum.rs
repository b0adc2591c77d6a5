//! Policies that were built for each released version of the contract go on working. `tests/museum/README.md` says how one is added.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use sluicegate_client::Message;
use sluicegate_client::admin::{ActivatePolicy, GroupSettings, TopicSettings};
use sluicegate_tests::component::replaced;
use sluicegate_tests::{Broker, PATIENCE};

/// Bytes of one piece: the repository keeps each for ever.
const BYTES_MAX: u64 = 100_000;
const MESSAGES: usize = 20;

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut entries: Vec<_> =
        std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    entries.sort();
    Ok(entries)
}

/// The versions, each with its pieces.
fn museum() -> Result<Vec<(String, Vec<PathBuf>)>> {
    let museum = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").context("cargo runs this")?).join("museum");
    let versions = entries(&museum)?.into_iter().filter(|path| path.is_dir());
    versions.map(|dir| Ok((name(&dir)?, entries(&dir)?))).collect()
}

fn name(path: &Path) -> Result<String> {
    Ok(path.file_name().context("it has a name")?.to_str().context("it is UTF-8")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_of_each_released_version_loads_and_decides() -> Result<()> {
    let broker = Broker::start()?;
    let (topic, group) = broker.topic_and_group(TopicSettings::default(), GroupSettings::default()).await?;
    let admin = broker.admin(None)?;
    let producer = broker.client().producer(topic).connect().await?;
    let mut consumer = broker.client().consumer(group.clone()).workers(4).connect().await?;
    let museum = museum()?;
    ensure!(museum.iter().any(|(version, _)| version == "0.1.0"), "the first version is missing");
    for (version, pieces) in museum {
        ensure!(!pieces.is_empty(), "nothing is kept of {version}");
        for piece in pieces {
            let name = name(&piece)?;
            ensure!(std::fs::metadata(&piece)?.len() <= BYTES_MAX, "{version}/{name} is too large to be kept");
            let pushed =
                admin.push_policy(std::fs::read(&piece)?).await.with_context(|| format!("{version}/{name}"))?;
            let contract = admin.policy(&pushed.digest).await?.description.contract;
            assert_eq!(contract, version, "{name} lies in the wrong place");
            let frames = admin.group(&group).await?.stats.policy_frames;
            admin.activate_policy(&group, &ActivatePolicy { digest: pushed.digest, config: String::new() }).await?;
            for n in 0..MESSAGES {
                producer.send(Message::to(&format!("{name}/{n}"))?).await?;
            }
            for _ in 0..MESSAGES {
                let delivery = tokio::time::timeout(PATIENCE, consumer.next()).await.context("no delivery came")?;
                delivery.context("the consumer ended")??.ack().await?;
            }
            let stats = admin.group(&group).await?.stats;
            ensure!(stats.policy_frames > frames, "{version}/{name} was never asked");
            assert_eq!(stats.policy_strikes, 0, "{version}/{name}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_for_another_version_is_refused_with_both() -> Result<()> {
    let broker = Broker::start()?;
    let (_, pieces) = museum()?.into_iter().next().context("the museum is empty")?;
    let piece = std::fs::read(pieces.first().context("nothing is kept")?)?;
    let other = replaced(&piece, "@0.1.0", "@0.9.0")?;
    let refused = broker.admin(None)?.push_policy(other).await.err().context("it is taken")?.to_string();
    ensure!(
        refused.contains("built for sluicegate:policy/*@0.9.0, this broker offers sluicegate:policy/*@0.1.0"),
        "{refused}"
    );
    Ok(())
}
