//! `sluice policy`.

use std::path::PathBuf;

use anyhow::Context;
use serde::Serialize;
use sluicegate_client::GroupName;
use sluicegate_client::admin::{ActivatePolicy, Activation, Policy as PolicyView, PolicyChange, PolicyRole};

use crate::connect::Broker;
use crate::exit::WrongInput;
use crate::output::{self, Format};
use crate::{policy_build, policy_replay, policy_shadow};

/// Build, upload, activate and list Wasm policies.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Policy {
    /// Build a policy's crate into a component that a broker takes. Needs no broker.
    Build {
        /// Folder of the crate.
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
    /// Ask an uploaded policy beside the one that decides, compare its answers, and use none of them. Without a digest: what came of
    /// it so far.
    Shadow {
        /// The group.
        group: GroupName,
        /// The policy's digest, or at least its first 8 digits.
        digest: Option<String>,
        /// The policy's configuration, JSON.
        #[arg(long, default_value = "", conflicts_with = "config_file")]
        config: String,
        /// The same from a file.
        #[arg(long, value_name = "FILE", requires = "digest")]
        config_file: Option<PathBuf>,
        /// End it.
        #[arg(long, conflicts_with = "digest")]
        stop: bool,
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
    /// List capsules: what policies' faults left, newest first.
    Capsules {
        /// Of this group alone.
        #[arg(long)]
        group: Option<GroupName>,
    },
    /// Fetch a capsule. It has names and labels of tenants in it.
    Capsule {
        /// Its id.
        id: String,
        /// Where it goes.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Have a fault again: ask the policy here what it was asked there. Exits with 5 if it fails otherwise, or not at all.
    Replay(policy_replay::Replay),
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
            Self::Shadow { group, digest, config, config_file, stop } => {
                let admin = broker.admin()?;
                let last = match (stop, digest) {
                    (true, _) => {
                        let last = admin.policy_shadow(&group).await?;
                        admin.end_shadow(&group).await?;
                        last
                    }
                    (false, Some(digest)) => {
                        let config = read_config(config, config_file)?;
                        Some(admin.shadow_policy(&group, &ActivatePolicy { digest, config }).await?)
                    }
                    (false, None) => admin.policy_shadow(&group).await?,
                };
                output::print(format, &last, |last| {
                    last.as_ref().map_or_else(|| format!("group {group} has no shadow"), policy_shadow::describe)
                })
            }
            Self::Activate { group, digest, config, config_file } => {
                let config = read_config(config, config_file)?;
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
            Self::Capsules { group } => policy_replay::list(broker, group.as_ref(), format).await,
            Self::Capsule { id, out } => policy_replay::fetch(broker, &id, &out, format).await,
            Self::Replay(replay) => replay.run(broker, format).await,
            Self::List => output::print(format, &broker.admin()?.policies().await?, |policies| table(policies)),
        }
    }
}

fn read_config(config: String, file: Option<PathBuf>) -> Result<String, WrongInput> {
    let Some(path) = file else { return Ok(config) };
    std::fs::read_to_string(&path).map_err(|error| WrongInput(format!("{}: {error}", path.display())))
}

fn describe(activation: &Activation) -> String {
    let state = if activation.state_carried { ", with the state of the policy before" } else { "" };
    match &activation.policy {
        Some(policy) => format!("{} decides for {}{state}", policy.name, activation.group),
        None => format!("fair scheduling decides for {}", activation.group),
    }
}

fn history(changes: &[PolicyChange]) -> String {
    let mut table = output::table(&["AT", "BY", "ROLE", "POLICY", "CONFIG", "BECAUSE", "CAPSULE"]);
    for change in changes {
        let (role, none) = match change.role {
            PolicyRole::Deciding => ("decides", "built-in"),
            PolicyRole::Shadow => ("shadow", "none"),
        };
        let policy = change.digest.as_ref().map_or(none, |digest| digest.get(..16).unwrap_or(digest)).to_owned();
        table.add_row([
            output::time(change.at),
            change.by.clone(),
            role.to_owned(),
            policy,
            change.config.clone(),
            change.because.clone().unwrap_or_default(),
            change.capsule.clone().unwrap_or_default(),
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
