//! `sluice health`.

use sluicegate_client::admin::HealthStatus;

use crate::connect::Broker;
use crate::exit::Unhealthy;
use crate::output::{self, Format};

/// Says whether the broker serves fully, for people and for probes: the exit code is 0 only then. Needs no token.
#[derive(Debug, clap::Args)]
pub(crate) struct Health {}

impl Health {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let health = broker.admin()?.health().await?;
        let text = match health.status {
            HealthStatus::Ok => "ok",
            HealthStatus::Draining => "draining: no new leases, open ones may be settled",
            HealthStatus::DiskFull => "disk nearly full: publishes are refused until there is room, all else goes on",
            HealthStatus::Failed => "failed: what the store's failure concerns is refused until it is open again",
        };
        let loading = match health.loading_lite_topics {
            0 => String::new(),
            count => format!(", {count} lite topics are still to be loaded"),
        };
        output::print(format, &health, |health| format!("{text}{loading} (broker {})", health.version))?;
        match health.status {
            HealthStatus::Ok => Ok(()),
            HealthStatus::Draining | HealthStatus::DiskFull | HealthStatus::Failed => {
                Err(Unhealthy(health.problem.unwrap_or_else(|| text.into())).into())
            }
        }
    }
}
