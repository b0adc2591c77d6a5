//! `sluice policy capsules`, `capsule`, `replay`: what policies' faults left, and the faults again.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use sluicegate_broker::policy_replay::{Capsule, NotReplayed, Replayed, Verdict};
use sluicegate_client::GroupName;
use sluicegate_client::admin::{Capsule as CapsuleEntry, CapsuleHeader};

use crate::connect::Broker;
use crate::exit::{Violation, WrongInput};
use crate::output::{self, Format};

/// Bytes of a capsule that is read: more than a broker writes.
const CAPSULE_BYTES_MAX: u64 = 128 << 20;

/// A capsule to have again.
#[derive(Debug, clap::Args)]
pub(crate) struct Replay {
    /// A capsule: a file that `sluice policy capsule` wrote, or an id that the broker knows.
    capsule: String,
    /// The component; without it, the one that failed is fetched from the broker.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Ask this component the same questions too, and say what it answers otherwise.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
}

/// What came of a replay.
#[derive(Debug, Serialize)]
struct Report {
    capsule: CapsuleHeader,
    replayed: Replayed,
    #[serde(skip_serializing_if = "Option::is_none")]
    against: Option<Replayed>,
}

pub(crate) async fn list(broker: &Broker, group: Option<&GroupName>, format: Format) -> anyhow::Result<()> {
    output::print(format, &broker.admin()?.capsules(group).await?, |capsules| table(capsules))
}

#[derive(Debug, Serialize)]
struct Fetched<'a> {
    capsule: &'a str,
    file: &'a Path,
    bytes: usize,
}

pub(crate) async fn fetch(broker: &Broker, id: &str, out: &Path, format: Format) -> anyhow::Result<()> {
    let text = broker.admin()?.capsule(id).await?;
    std::fs::write(out, &text).with_context(|| out.display().to_string())?;
    let fetched = Fetched { capsule: id, file: out, bytes: text.len() };
    output::print(format, &fetched, |fetched| format!("{}: {} bytes", fetched.file.display(), fetched.bytes))
}

impl Replay {
    pub(crate) async fn run(self, broker: &Broker, format: Format) -> anyhow::Result<()> {
        let Self { capsule, policy, against } = self;
        let text = match Path::new(&capsule).exists() {
            true => read(Path::new(&capsule), CAPSULE_BYTES_MAX)?,
            false => broker.admin()?.capsule(&capsule).await?.to_vec(),
        };
        let capsule = Capsule::parse(&text).map_err(|error| WrongInput(format!("{capsule}: {error}")))?;
        let component = match &policy {
            Some(path) => read(path, u64::MAX)?,
            None => broker.admin()?.policy_component(&capsule.header().policy.digest).await?.to_vec(),
        };
        let other = against.as_deref().map(|path| read(path, u64::MAX)).transpose()?;
        let report = tokio::task::spawn_blocking(move || replay(&capsule, &component, other.as_deref())).await??;
        output::print(format, &report, describe)?;
        claim(&report)
    }
}

fn read(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let wrong = |error: std::io::Error| WrongInput(format!("{}: {error}", path.display()));
    let bytes = std::fs::metadata(path).map_err(wrong)?.len();
    if bytes > bytes_max {
        return Err(WrongInput(format!("{}: {bytes} bytes, at most {bytes_max} are read", path.display())).into());
    }
    Ok(std::fs::read(path).map_err(wrong)?)
}

fn replay(capsule: &Capsule, component: &[u8], other: Option<&[u8]>) -> anyhow::Result<Report> {
    let again = |component: &[u8]| {
        capsule.replay(component).map_err(|error| match error {
            NotReplayed::NoHost(_) => anyhow::Error::from(error),
            NotReplayed::Rejected(text) => WrongInput(text).into(),
        })
    };
    let (replayed, against) = (again(component)?, other.map(again).transpose()?);
    Ok(Report { capsule: capsule.header().clone(), replayed, against })
}

/// The fault is there again, or it is one that comes and goes; the other policy has none.
fn claim(report: &Report) -> anyhow::Result<()> {
    if let Some(against) = &report.against {
        return match &against.fault {
            None => Ok(()),
            Some(fault) => Err(Violation(format!("the other policy fails too: {fault}")).into()),
        };
    }
    match report.replayed.verdict {
        Verdict::Reproduced | Verdict::NotInTime | Verdict::NoCall => Ok(()),
        Verdict::AnswersDiffer => Err(Violation("the answers before the fault differ".into()).into()),
        Verdict::OtherFault => Err(Violation("it failed otherwise".into()).into()),
        Verdict::NoFault => Err(Violation("it did not fail".into()).into()),
    }
}

fn describe(report: &Report) -> String {
    let Report { capsule, replayed, against } = report;
    let policy = &capsule.policy;
    let mut lines = vec![
        format!("capsule  {}", capsule.id),
        format!(
            "policy   {} {} ({}) for group {}, shard {}",
            policy.name,
            policy.version,
            short(&policy.digest),
            capsule.group,
            capsule.shard
        ),
        format!("fault    {}", capsule.fault),
    ];
    if capsule.questions_cut > 0 || capsule.names_cut > 0 {
        lines.push(format!(
            "missing  {} questions and {} names from before, so answers may differ",
            capsule.questions_cut, capsule.names_cut
        ));
    }
    if replayed.digest != policy.digest {
        lines.push(format!("replayed with another component, {}", short(&replayed.digest)));
    }
    lines.extend(told("again", replayed));
    lines.push(format!("verdict  {}", verdict(replayed.verdict)));
    if let Some(against) = against {
        lines.extend(told(&format!("against {}", short(&against.digest)), against));
    }
    lines.join("\n")
}

fn told(what: &str, replayed: &Replayed) -> Vec<String> {
    let Replayed { answered, same, differences, fault, .. } = replayed;
    let fault = fault.as_deref().unwrap_or("no fault");
    let mut lines = vec![format!("{what}: {same} of {answered} answers are the same, then {fault}")];
    lines.extend(differences.iter().map(|difference| format!("  frame {}: {}", difference.sequence, difference.what)));
    lines
}

const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Reproduced => "reproduced",
        Verdict::NotInTime => "the answers are the same; the time ran out then, and does not now",
        Verdict::AnswersDiffer => "not reproduced: answers differ",
        Verdict::OtherFault => "not reproduced: another fault",
        Verdict::NoFault => "not reproduced: no fault",
        Verdict::NoCall => "the answers are the same; it was no single call that failed",
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn table(capsules: &[CapsuleEntry]) -> String {
    let mut table = output::table(&["CAPSULE", "AT", "GROUP", "POLICY", "DIGEST", "FRAMES", "BYTES", "FAULT"]);
    for CapsuleEntry { header, bytes } in capsules {
        table.add_row([
            header.id.clone(),
            output::time(header.at),
            header.group.clone(),
            header.policy.name.clone(),
            short(&header.policy.digest).to_owned(),
            header.questions.to_string(),
            bytes.to_string(),
            header.fault.clone(),
        ]);
    }
    table.to_string()
}
