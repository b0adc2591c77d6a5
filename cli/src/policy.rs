//! `sluice policy`.

mod build;
mod check;
mod kit;
mod new;
mod replay;
mod sample;
mod sandbox;
mod shadow;
mod simulate;

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use sluicegate_broker::policy_lab::PolicyLab;
use sluicegate_client::GroupName;
use sluicegate_client::admin::{
    ActivatePolicy, Activation, Policy as PolicyView, PolicyAct, PolicyChange, PolicyDescription, PolicyDetails,
    PolicyEvent, PolicyRole, ValidatedPolicy,
};

use crate::connect::Broker;
use crate::exit::WrongInput;
use crate::output::{self, Format};
use check::Check;
use new::Template;
use sample::Fuel;
use simulate::Simulate;

/// Begin, build, try, check, upload, activate, configure and list Wasm policies.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Policy {
    /// Begin a policy: a crate with the SDK and a test, which stock Rust builds. Needs no broker.
    New {
        /// Name of the policy and of its crate: a-z 0-9 `-` `_`.
        name: String,
        /// What it starts from.
        #[arg(long, default_value = "token-bucket")]
        template: Template,
        /// Folder of the crate, which is made; default `NAME` here.
        #[arg(long, value_name = "DIR")]
        path: Option<PathBuf>,
    },
    /// Put the SDK of this `sluice` into the folder of a policy that `new` wrote, in place of the one there.
    Sdk {
        /// Folder of the policy's crate.
        dir: PathBuf,
    },
    /// Build a policy's crate into a component that a broker takes, and say what it takes. Needs no broker.
    Build {
        /// Folder of the crate; or a core module that another language's compiler made, which takes `--out`.
        dir: PathBuf,
        /// Where the component goes; default `DIR/NAME.wasm`.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Configuration for measuring its fuel, for a policy that needs one: JSON, or the name of a file.
        #[arg(long, value_name = "CONFIG", default_value = "")]
        config: String,
    },
    /// Try a component: hostile frames, determinism, snapshots, limits. Needs no broker.
    Check(Check),
    /// Replay recorded traffic in virtual time and compare who could decide. Needs no broker.
    Simulate(Box<Simulate>),
    /// Upload a component. Nothing runs yet.
    Push {
        /// The component, as `sluice policy build` wrote it.
        component: PathBuf,
    },
    /// Find out what `push` and `activate` would say: compile, check the configuration, start an instance. Stores nothing.
    Validate {
        /// The component, as `sluice policy build` wrote it.
        component: PathBuf,
        /// The policy's configuration, JSON.
        #[arg(long, default_value = "", conflicts_with = "config_file")]
        config: String,
        /// The same from a file.
        #[arg(long, value_name = "FILE")]
        config_file: Option<PathBuf>,
        /// The group that it is meant for; any, if not given.
        #[arg(long)]
        group: Option<GroupName>,
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
    /// Give the policy that decides for a group another configuration; its state stays.
    Configure {
        /// The group.
        group: GroupName,
        /// The policy's configuration, JSON.
        #[arg(long, required_unless_present = "config_file", conflicts_with = "config_file")]
        config: Option<String>,
        /// The same from a file.
        #[arg(long, value_name = "FILE")]
        config_file: Option<PathBuf>,
    },
    /// Go back to built-in fair scheduling for a group, whatever its policy or another does.
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
    /// What an uploaded policy says of itself, what it may use, what was done with it.
    Show {
        /// The policy's digest, or at least its first 8 digits.
        digest: String,
    },
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
    Replay(replay::Replay),
}

#[derive(Debug, Serialize)]
struct Built {
    component: PathBuf,
    name: String,
    version: String,
    digest: String,
    bytes: usize,
    /// Of `sluicegate:policy`.
    contract: String,
    imports: Vec<String>,
    /// Empty where the policy does not start with the configuration that was given.
    fuel: Vec<Fuel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fuel_not_measured: Option<String>,
}

impl Policy {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        match self {
            Self::New { name, template, path } => {
                output::print(format, &new::begin(&name, template, path)?, new::next_steps)
            }
            Self::Sdk { dir } => output::print(format, &new::renew(dir)?, |renewed| {
                format!("{} has the SDK {}", renewed.path.display(), renewed.sdk)
            }),
            Self::Build { dir, out, config } => {
                let built = tokio::task::spawn_blocking(move || build(&dir, out.as_deref(), &config)).await??;
                output::print(format, &built, built_text)
            }
            Self::Check(check) => tokio::task::spawn_blocking(move || check.run(format)).await?,
            Self::Simulate(simulate) => tokio::task::spawn_blocking(move || simulate.run(format)).await?,
            Self::Push { component } => {
                let wasm = read(&component)?;
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
                        let config = config_text(config, config_file)?;
                        Some(admin.shadow_policy(&group, &ActivatePolicy { digest, config }).await?)
                    }
                    (false, None) => admin.policy_shadow(&group).await?,
                };
                output::print(format, &last, |last| {
                    last.as_ref().map_or_else(|| format!("group {group} has no shadow"), shadow::describe)
                })
            }
            Self::Validate { component, config, config_file, group } => {
                let (wasm, config) = (read(&component)?, config_text(config, config_file)?);
                let validated = broker.admin()?.validate_policy(&wasm, &config, group.as_ref()).await;
                let validated = validated.with_context(|| component.display().to_string())?;
                output::print(format, &validated, valid)
            }
            Self::Configure { group, config, config_file } => {
                let config = config_text(config.unwrap_or_default(), config_file)?;
                output::print(format, &broker.admin()?.configure_policy(&group, &config).await?, describe)
            }
            Self::Activate { group, digest, config, config_file } => {
                let config = config_text(config, config_file)?;
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
            Self::Capsules { group } => replay::list(broker, group.as_ref(), format).await,
            Self::Capsule { id, out } => replay::fetch(broker, &id, &out, format).await,
            Self::Replay(replay) => replay.run(broker, format).await,
            Self::List => output::print(format, &broker.admin()?.policies().await?, |policies| table(policies)),
            Self::Show { digest } => output::print(format, &broker.admin()?.policy(&digest).await?, show),
        }
    }
}

/// Builds a policy, and looks at what a broker would see of it.
fn build(dir: &Path, out: Option<&Path>, config: &str) -> anyhow::Result<Built> {
    let config = sandbox::config(config)?;
    let build::Built { path, component, imports, contract } = build::build(dir, out)?;
    let policy = PolicyLab::open()?.load(&component).with_context(|| path.display().to_string())?;
    let measured = sample::fuel(|| sandbox::start(&policy, "sample", 1, &config));
    let (fuel, fuel_not_measured) = match measured {
        Ok(fuel) => (fuel, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let descriptor = policy.descriptor();
    Ok(Built {
        name: descriptor.name.clone(),
        version: descriptor.version.clone(),
        digest: policy.digest().to_owned(),
        bytes: component.len(),
        component: path,
        contract,
        imports,
        fuel,
        fuel_not_measured,
    })
}

fn built_text(built: &Built) -> String {
    let Built { component, name, version, digest, bytes, contract, imports, fuel, fuel_not_measured } = built;
    let sizes = fuel.iter().map(|Fuel { frame, per_lite_topic }| format!("{per_lite_topic} ({frame})"));
    let measured = || format!("{} per lite topic, in frames of so many", sizes.collect::<Vec<_>>().join(", "));
    let fuel = fuel_not_measured.as_ref().map_or_else(measured, |why| format!("not measured: {why}"));
    format!(
        "{}\n  policy    {name} {version}\n  digest    {digest}\n  size      {bytes} bytes\n  contract  sluicegate:policy@{contract}\n  imports   {}\n  fuel      {fuel}",
        component.display(),
        imports.join(", ")
    )
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    Ok(std::fs::read(path).map_err(|error| WrongInput(format!("{}: {error}", path.display())))?)
}

fn config_text(given: String, file: Option<PathBuf>) -> anyhow::Result<String> {
    let Some(path) = file else { return Ok(given) };
    Ok(std::fs::read_to_string(&path).map_err(|error| WrongInput(format!("{}: {error}", path.display())))?)
}

fn valid(validated: &ValidatedPolicy) -> String {
    let ValidatedPolicy { digest, name, version, .. } = validated;
    format!("{digest} {name} {version} can be activated with this configuration")
}

fn show(details: &PolicyDetails) -> String {
    let PolicyDetails { policy, description, history } = details;
    let PolicyDescription { contract, config_schema, reasons, wants, learns_lite_topics, state_schema, .. } =
        description;
    let groups: Vec<_> = policy.active_in.iter().map(GroupName::as_str).collect();
    let list = |words: &[String]| if words.is_empty() { "none".to_owned() } else { words.join(", ") };
    let limits = &description.limits;
    let mut lines = vec![
        format!("{} {} {}", policy.digest, policy.name, policy.version),
        format!("contract       {contract}"),
        format!("size           {} bytes, {} bytes of code", policy.bytes, description.code_bytes),
        format!("active in      {}", if groups.is_empty() { "none".to_owned() } else { groups.join(", ") }),
        format!("reasons        {}", list(reasons)),
        format!("wants          {}", list(wants)),
        format!("learns         {}", if *learns_lite_topics { "tenants, lite topics" } else { "tenants" }),
        format!(
            "state          {}",
            if *state_schema == 0 { "none".to_owned() } else { format!("format {state_schema}") }
        ),
        format!("memory         at most {} bytes", limits.memory_bytes),
        format!("fuel           at most {} a frame and {} a row", limits.fuel_per_frame, limits.fuel_per_row),
        format!("deadline       {} ms a frame", limits.deadline_ms),
    ];
    if let Some(quarantine) = &policy.quarantine {
        let (since, cause) = (output::time(quarantine.since), &quarantine.cause);
        lines.push(format!("quarantine     since {since}, for group {}: {cause}", quarantine.group));
    }
    lines.extend(history.iter().map(|event| format!("               {}", told(event))));
    let schema = if config_schema.is_empty() { "none" } else { config_schema };
    lines.push(format!("config schema  {schema}"));
    lines.join("\n")
}

fn told(PolicyEvent { at, by, act, group, because }: &PolicyEvent) -> String {
    let act = match act {
        PolicyAct::Upload => "uploaded",
        PolicyAct::Quarantine => "put into quarantine",
        PolicyAct::Release => "released",
    };
    let group = group.as_ref().map_or(String::new(), |group| format!(", for group {group}"));
    let because = because.as_ref().map_or(String::new(), |because| format!(": {because}"));
    format!("{act} {} by {by}{group}{because}", output::time(*at))
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
