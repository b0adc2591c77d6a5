//! Batch work that waits while people need the compute.

use anyhow::{Context, Result};
use sluicegate_client::GroupName;
use sluicegate_tests::{Broker, policy_file};

use super::{line, number};

#[tokio::test(flavor = "multi_thread")]
async fn batch_work_is_held_in_the_rush_and_done_after_it() -> Result<()> {
    let (broker, folder) = (Broker::start()?, tempfile::tempdir()?);
    let (policy, picture) = (policy_file("busy-idle"), folder.path().join("picture.svg"));
    let paths = [&policy, &picture].map(|path| path.to_str().context("temporary paths are UTF-8"));
    let [policy, shown] = paths;
    let arguments = ["--policy", policy?, "--picture", shown?];
    let printed = tokio::task::block_in_place(|| broker.example("busy-idle", &arguments))?;
    assert_eq!(line(&printed, "why batch/0 waited: ")?, "batch: waits until the consumers are less busy");
    assert!(number(line(&printed, "batch: ")?)? > 0, "{printed}");
    // A dot for each person, in a picture that is whole.
    let svg = std::fs::read_to_string(&picture)?;
    assert!(svg.trim_start().starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    let stats = broker.admin(None)?.group(&GroupName::parse("gpu-workers")?).await?.stats;
    assert_eq!(svg.matches("<circle").count() as u64, stats.acked - 150, "{stats:?}");
    assert!(stats.throttled > 0 && stats.policy_frames > 0 && stats.policy_strikes == 0, "{stats:?}");
    assert_eq!((stats.backlog, stats.delivered, stats.dead_lettered), (0, stats.acked, 0));
    Ok(())
}
