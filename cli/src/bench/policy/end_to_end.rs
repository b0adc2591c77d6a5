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
#[derive(Debug, Clone, Serialize)]
pub(super) struct Ratio {
    pub(super) name: String,
    /// Median over the turns of what was reached with the policy by what was reached without right before and after.
    pub(super) ratio: f64,
    /// Median.
    pub(super) with_per_s: f64,
    /// Median.
    pub(super) without_per_s: f64,
}

/// What a policy is to a group.
#[derive(Debug, Clone, Copy)]
enum Role {
    Decides,
    /// Asked beside built-in fair scheduling.
    Shadows,
}

/// Each of the bundled ones decides, and one is a shadow.
fn arms_of_bundled() -> impl Iterator<Item = (cases::Policy, Role)> {
    let decide = BUNDLED.into_iter().map(|policy| (policy, Role::Decides));
    decide.chain([(BUNDLED[0], Role::Shadows)])
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
    let mut arms: Vec<Arm> = Vec::new();
    for (policy, role) in arms_of_bundled() {
        let digest = load.push_policy(cases::read(directory, policy)?).await?;
        arms.push(Arm { policy, role, digest, taken: Taken::default() });
    }
    for turn in 1..=turns {
        eprintln!("sluice bench: end to end, turn {turn} of {turns}");
        let mut before = load.throughput(WARM_UP, length).await?;
        for arm in &mut arms {
            let with = with(&load, arm.role, (&arm.digest, arm.policy.lenient_config), length).await?;
            let after = load.throughput(WARM_UP, length).await?;
            let without = f64::midpoint(before, after);
            arm.taken.with.push(with);
            arm.taken.without.push(without);
            arm.taken.ratios.push(with / without);
            before = after;
        }
        // Whatever the store does at regular intervals is not to meet the same one each time.
        arms.rotate_left(1);
    }
    load.close().await?;
    broker.stop()?;
    let ratio = |Arm { policy, role, taken, .. }| Ratio {
        name: match role {
            Role::Decides => policy.name.to_owned(),
            Role::Shadows => format!("{} (shadow)", policy.name),
        },
        ratio: median(taken.ratios),
        with_per_s: median(taken.with),
        without_per_s: median(taken.without),
    };
    Ok(arms.into_iter().map(ratio).collect())
}

/// Throughput with a policy, which is taken away again.
async fn with(load: &Load, role: Role, policy: (&str, &str), length: Duration) -> anyhow::Result<f64> {
    match role {
        Role::Decides => load.activate_policy(Some(policy)).await?,
        Role::Shadows => load.shadow_policy(Some(policy)).await?,
    }
    let throughput = load.throughput(WARM_UP, length).await?;
    match role {
        Role::Decides => {
            load.check_policy().await?;
            load.activate_policy(None).await?;
        }
        Role::Shadows => {
            load.check_shadow().await?;
            load.shadow_policy(None).await?;
        }
    }
    Ok(throughput)
}

/// A policy, and what came of it.
struct Arm {
    policy: cases::Policy,
    role: Role,
    digest: String,
    taken: Taken,
}

#[derive(Debug, Default)]
struct Taken {
    with: Vec<f64>,
    without: Vec<f64>,
    ratios: Vec<f64>,
}
