//! `sluice policy`.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;
use sluicegate_client::GroupName;
use sluicegate_client::admin::{ActivatePolicy, Activation, Policy as PolicyView, PolicyChange};

use crate::connect::Broker;
use crate::exit::WrongInput;
use crate::output::{self, Format};
use crate::policy_build;

/// Build, upload, activate and list Wasm policies.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Policy {
    /// Build a policy's crate into a component that a broker takes. Needs no broker.
    Build {
        /// Folder of the crate; or a core module that another language's compiler made, which takes `--out`.
        dir: PathBuf,
        /// Where the component goes; default `DIR/NAME.wasm`.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Upload a component. Nothing runs yet.
    Push {
        /// The component, as `sluice policy build` wrote it.
        component: PathBuf,
    },
    /// Let an uploaded policy decide for a group, while traffic flows.
    Activate {
        /// The group.
        group: GroupName,
        /// The policy's digest, or at least its first 8 digits.
        digest: String,
        /// The policy's configuration, JSON.
        #[arg(long, default_value = "", conflicts_with = "config_file")]
        config: String,
        /// The same from a file.
        #[arg(long, value_name = "FILE")]
        config_file: Option<PathBuf>,
    },
    /// Go back to built-in fair scheduling for a group.
    Deactivate {
        /// The group.
        group: GroupName,
    },
    /// Go back to what decided for a group before; once more, and what decides now is back.
    Rollback {
        /// The group.
        group: GroupName,
    },
    /// What decided for a group when, who changed it and why, newest first.
    History {
        /// The group.
        group: GroupName,
    },
    /// Take a policy out of quarantine, into which it came by failing.
    Release {
        /// The policy's digest, or at least its first 8 digits.
        digest: String,
    },
    /// List uploaded policies.
    List,
}

#[derive(Debug, Serialize)]
struct Built {
    component: PathBuf,
    bytes: u64,
    imports: Vec<String>,
}

impl Policy {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        match self {
            Self::Build { dir, out } => {
                let built = tokio::task::spawn_blocking(move || policy_build::build(&dir, out.as_deref())).await??;
                let built = Built { component: built.path, bytes: built.bytes, imports: built.imports };
                output::print(format, &built, |built| {
                    format!(
                        "{}: {} bytes, imports {}",
                        built.component.display(),
                        built.bytes,
                        built.imports.join(", ")
                    )
                })
            }
            Self::Push { component } => {
                let wasm = std::fs::read(&component)
                    .map_err(|error| WrongInput(format!("{}: {error}", component.display())))?;
                let policy =
                    broker.admin()?.push_policy(wasm).await.with_context(|| component.display().to_string())?;
                output::print(format, &policy, |policy| format!("{} {} {}", policy.digest, policy.name, policy.version))
            }
            Self::Activate { group, digest, config, config_file } => {
                let config = match config_file {
                    Some(path) => std::fs::read_to_string(&path)
                        .map_err(|error| WrongInput(format!("{}: {error}", path.display())))?,
                    None => config,
                };
                let activation = broker.admin()?.activate_policy(&group, &ActivatePolicy { digest, config }).await?;
                output::print(format, &activation, describe)
            }
            Self::Deactivate { group } => {
                output::print(format, &broker.admin()?.deactivate_policy(&group).await?, describe)
            }
            Self::Rollback { group } => {
                output::print(format, &broker.admin()?.roll_back_policy(&group).await?, describe)
            }
            Self::History { group } => {
                output::print(format, &broker.admin()?.policy_history(&group).await?, |changes| history(changes))
            }
            Self::Release { digest } => {
                let policy = broker.admin()?.release_policy(&digest).await?;
                output::print(format, &policy, |policy| format!("{} {} may be activated", policy.digest, policy.name))
            }
            Self::List => output::print(format, &broker.admin()?.policies().await?, |policies| table(policies)),
        }
    }
}

fn describe(activation: &Activation) -> String {
    let state = if activation.state_carried { ", with the state of the policy before" } else { "" };
    match &activation.policy {
        Some(policy) => format!("{} decides for {}{state}", policy.name, activation.group),
        None => format!("fair scheduling decides for {}", activation.group),
    }
}

fn history(changes: &[PolicyChange]) -> String {
    let mut table = output::table(&["AT", "BY", "POLICY", "CONFIG", "BECAUSE"]);
    for change in changes {
        let policy = change.digest.as_ref().map_or("built-in", |digest| digest.get(..16).unwrap_or(digest)).to_owned();
        table.add_row([
            output::time(change.at),
            change.by.clone(),
            policy,
            change.config.clone(),
            change.because.clone().unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn table(policies: &[PolicyView]) -> String {
    let mut table = output::table(&["DIGEST", "NAME", "VERSION", "BYTES", "ACTIVE IN", "QUARANTINE"]);
    for policy in policies {
        let groups: Vec<_> = policy.active_in.iter().map(GroupName::as_str).collect();
        let digest = policy.digest[..16].to_owned();
        table.add_row([
            digest,
            policy.name.clone(),
            policy.version.clone(),
            policy.bytes.to_string(),
            groups.join(", "),
            policy.quarantine.as_ref().map_or(String::new(), |quarantine| quarantine.cause.clone()),
        ]);
    }
    table.to_string()
}
