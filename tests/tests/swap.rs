//! Policies are swapped at full rate: no message is lost, comes twice or out of order, and a policy's state is taken along to the frame.
//!
//! `SLUICE_SWAPS` says how many swaps there are. How long nothing was dispatched is printed beside the same without swaps (`--nocapture`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluicegate_client::Timestamp;
use sluicegate_client::admin::{ActivatePolicy, Admin};
use sluicegate_tests::component::replaced;
use sluicegate_tests::traffic::{Rate, Traffic, percentile};
use sluicegate_tests::{Broker, policy};
use tokio::sync::Mutex;

const SWAPS: usize = 150;
/// How long nothing is swapped, before and after.
const QUIET: Duration = Duration::from_millis(700);
/// Asked about each message; each instance says from how many frames on it decides.
const COUNTS: &str = r#"{"announce":true,"messages":1}"#;
const SAYS: &str = "goes on after ";

/// One test at a time: two would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());

fn swaps() -> Result<usize> {
    Ok(std::env::var("SLUICE_SWAPS").ok().map(|swaps| swaps.parse()).transpose()?.unwrap_or(SWAPS))
}

async fn pushed(admin: &Admin, component: Vec<u8>, config: &str) -> Result<ActivatePolicy> {
    Ok(ActivatePolicy { digest: admin.push_policy(component).await?.digest, config: config.into() })
}

/// What instances said in the log of the frames before them.
fn announced(log: &Path) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(log)?;
    let said = text.lines().filter_map(|line| line.split_once(SAYS));
    said.map(|(_, rest)| Ok(rest.split(' ').next().context("a number")?.parse()?)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_at_full_rate_lose_nothing_and_take_the_state_along() -> Result<()> {
    let _alone = ALONE.lock().await;
    let directory = tempfile::tempdir()?;
    let log = directory.path().join("log");
    let broker = Broker::start_with_log(&log)?;
    let admin = broker.admin(None)?;
    let first = policy("hostile");
    let second = replaced(&first, "describe=as-usual...............", "describe=version-2..............")?;
    let versions = [pushed(&admin, first, COUNTS).await?, pushed(&admin, second, COUNTS).await?];
    ensure!(versions[0].digest != versions[1].digest, "two versions are one");
    let mut traffic = Traffic::new(&broker, "swapped", Rate::FULL).await?;
    let group = traffic.group().clone();
    admin.activate_policy(&group, &versions[0]).await?;
    traffic.go_on(QUIET, async { Ok(()) }).await?;
    let quiet = traffic.seen().len();
    let swaps = swaps()?;
    let swap = async {
        let mut at = Vec::new();
        for swap in 1..=swaps {
            let activation = admin.activate_policy(&group, &versions[swap % 2]).await?;
            ensure!(activation.state_carried, "swap {swap} began from nothing");
            at.push(activation.at);
        }
        Ok(at)
    };
    let at = traffic.go_on(Duration::ZERO, swap).await?;
    let swapped = traffic.seen().len();
    traffic.drain().await?;

    let stats = admin.group(&group).await?.stats;
    assert_eq!(stats.policy_strikes, 0, "{stats:?}");
    admin.activate_policy(&group, &versions[0]).await?;
    let frames = announced(&log)?;
    assert_eq!(frames.len(), swaps + 1);
    assert!(frames.is_sorted(), "a policy went back: {frames:?}");
    assert_eq!(frames.last(), Some(&stats.policy_frames), "frames were forgotten");

    let dispatched = |from: usize, to: usize| {
        let mut at: Vec<_> = traffic.seen()[from..to].iter().map(|seen| seen.dispatched_at).collect();
        at.sort_unstable();
        at
    };
    print_gaps(&dispatched(0, quiet), &dispatched(quiet, swapped), &at);
    Ok(())
}

/// How long nothing was dispatched: between any two dispatches, and around the instants that count.
fn print_gaps(without: &[Timestamp], with: &[Timestamp], swaps: &[Timestamp]) {
    let line = |name: &str, gaps: Vec<Duration>| {
        let of = |percent| percentile(gaps.iter().copied(), percent).as_secs_f64() * 1e3;
        println!("{name:32} p50 {:7.3}  p99 {:7.3}  max {:7.3} ms", of(50), of(99), of(100));
    };
    let all = |at: &[Timestamp]| at.windows(2).map(|pair| pair[1].since(pair[0])).collect();
    let around = |at: &[Timestamp], instant: &Timestamp| {
        let next = at.partition_point(|dispatched| dispatched <= instant);
        Some(at.get(next)?.since(*at.get(next.checked_sub(1)?)?))
    };
    let (first, last) = (without[0], without[without.len() - 1]);
    let step = last.since(first) / u32::try_from(swaps.len()).expect("swaps are counted in thousands");
    let any = (0..u32::try_from(swaps.len()).unwrap_or(0)).map(|n| first.plus(step * n));
    let rate = |at: &[Timestamp]| at.len() as f64 / at[at.len() - 1].since(at[0]).as_secs_f64();
    println!(
        "\nHow long nothing was dispatched, {} swaps at {:.0} messages a second; {:.0} without:",
        swaps.len(),
        rate(with),
        rate(without)
    );
    line("without swaps", all(without));
    line("with swaps", all(with));
    line("without swaps, at any instant", any.filter_map(|instant| around(without, &instant)).collect());
    line("at a swap (goal: p99 < 1 ms)", swaps.iter().filter_map(|instant| around(with, instant)).collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn swaps_between_different_policies_lose_nothing() -> Result<()> {
    let _alone = ALONE.lock().await;
    let broker = Broker::start()?;
    let admin = broker.admin(None)?;
    let mut policies = Vec::new();
    for (name, config) in [
        ("hostile", r#"{"messages":1}"#),
        ("token-bucket", r#"{"rate_per_second":1000000}"#),
        ("fair-share", ""),
        ("deadline", ""),
    ] {
        policies.push(pushed(&admin, policy(name), config).await?);
    }
    let mut traffic = Traffic::new(&broker, "swapped", Rate::FULL).await?;
    let group = traffic.group().clone();
    let swaps = swaps()?.div_ceil(2);
    let swap = async {
        for swap in 0..swaps {
            match policies.get(swap % (policies.len() + 1)) {
                Some(policy) => ensure!(!admin.activate_policy(&group, policy).await?.state_carried, "another's state"),
                None => drop(admin.deactivate_policy(&group).await?),
            }
        }
        Ok(())
    };
    traffic.go_on(Duration::ZERO, swap).await?;
    traffic.drain().await?;
    let stats = admin.group(&group).await?.stats;
    assert!(stats.policy_strikes == 0 && stats.policy_frames > 0, "{stats:?}");
    println!(
        "\n{swaps} swaps between {} policies and none: {} messages, each once and in order",
        policies.len(),
        traffic.sent()
    );
    Ok(())
}
