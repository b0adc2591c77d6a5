//! Throughput from publish to ack with each policy against none, in one broker.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use sluicegate_client::admin::Durability;

use super::super::load::{Bench, Load};
use super::super::{WARM_UP, median};
use super::cases::{self, BUNDLED};
use crate::broker_process::BrokerProcess;

/// Bytes of a body.
const SIZE: u32 = 1_024;
/// Lite topics, each its own tenant.
const LITE_TOPICS: u32 = 1_000;

/// What is left of the throughput.
#[expect(clippy::struct_field_names, reason = "the names of the printed JSON")]
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Ratio {
    pub(super) name: &'static str,
    /// Median over the turns of what was reached with the policy by what was reached without right before and after.
    pub(super) ratio: f64,
    /// Median.
    pub(super) with_per_s: f64,
    /// Median.
    pub(super) without_per_s: f64,
}

/// Each turn of a policy is between two without.
pub(super) async fn measure(
    directory: &Path,
    dir: Option<&Path>,
    turns: u32,
    length: Duration,
) -> anyhow::Result<Vec<Ratio>> {
    let broker = BrokerProcess::start(dir)?;
    let load = Load::new(&broker, Bench::EndToEnd, SIZE, LITE_TOPICS, Durability::Fsync).await?;
    load.throughput(WARM_UP, length).await?;
    let mut digests = Vec::new();
    for policy in BUNDLED {
        digests.push(load.push_policy(cases::read(directory, policy)?).await?);
    }
    let mut taken = vec![Taken::default(); BUNDLED.len()];
    for turn in 1..=turns {
        eprintln!("sluice bench: end to end, turn {turn} of {turns}");
        let mut before = load.throughput(WARM_UP, length).await?;
        for ((policy, digest), taken) in BUNDLED.iter().zip(&digests).zip(&mut taken) {
            load.activate_policy(Some((digest, policy.lenient_config))).await?;
            let with = load.throughput(WARM_UP, length).await?;
            load.check_policy().await?;
            load.activate_policy(None).await?;
            let after = load.throughput(WARM_UP, length).await?;
            let without = f64::midpoint(before, after);
            taken.with.push(with);
            taken.without.push(without);
            taken.ratios.push(with / without);
            before = after;
        }
    }
    load.close().await?;
    broker.stop()?;
    let ratio = |(policy, taken): (&cases::Policy, Taken)| Ratio {
        name: policy.name,
        ratio: median(taken.ratios),
        with_per_s: median(taken.with),
        without_per_s: median(taken.without),
    };
    Ok(BUNDLED.iter().zip(taken).map(ratio).collect())
}

#[derive(Debug, Clone, Default)]
struct Taken {
    with: Vec<f64>,
    without: Vec<f64>,
    ratios: Vec<f64>,
}
