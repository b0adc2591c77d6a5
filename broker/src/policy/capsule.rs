//! What a fault leaves behind: all that is needed to have it again, elsewhere. JSON lines, in this order:
//!
//! | line | how often | what |
//! |---|---|---|
//! | [`CapsuleHeader`] | once, first | which policy failed for whom, and how |
//! | `{"start": …}` | once | the time and the state that the policy went on from |
//! | `{"told": …}` | any number | names that it was told before the first question that is here |
//! | `{"asked": …}` | any number | a question, and what the policy said |
//! | `{"failed": …}` | once | the call that failed, with its question |
//! | `{"log": …}` | any number | the last lines that it wrote |
//!
//! Questions and plans are the contract's records, with `_` for `-`.

use std::io;

use serde::{Deserialize, Serialize};
use sluicegate_protocol::Timestamp;
use sluicegate_protocol::admin::{CAPSULE_FORMAT, CAPSULE_VERSION, CapsuleHeader, CapsulePolicy, PolicyRole};

use super::briefing::{News, Question};
use super::compiled::CompiledPolicy;
use super::fault::PolicyFault;
use super::guest::{LogLine, one_line};
use super::instance::Init;
use super::limits::Budget;
use super::tape::{Asked, Start, Tape};
use super::world::VERSION as CONTRACT_VERSION;

/// A fault, and what led to it.
#[derive(Debug, Clone)]
pub struct Capsule {
    pub(super) header: CapsuleHeader,
    pub(super) tape: Tape,
    pub(super) failed: Failed,
    pub(super) log: Vec<LogLine>,
}

/// The call that failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) call: Call,
    pub(super) fault: PolicyFault,
}

/// A call into a policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Call {
    /// It was made, and given its state.
    Start,
    /// It learnt, observed and decided.
    Ask(Box<Question>),
    /// Its state was asked for.
    Snapshot,
    /// None: it failed by what it did in many, or did not do.
    None,
}

/// Whose fault it was.
pub(super) struct Origin<'a> {
    pub(super) compiled: &'a CompiledPolicy,
    pub(super) config: &'a str,
    pub(super) init: &'a Init,
    pub(super) role: PolicyRole,
    /// Its faults within a minute, this one included.
    pub(super) strikes: usize,
}

/// Each line after the first.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Start(Start),
    Told(News),
    Asked(Box<Asked>),
    Failed(Failed),
    Log(LogLine),
}

/// Bytes that are not a capsule, or not a whole one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidCapsule {
    /// It is some other file, or was changed.
    #[error("line {line}: {problem}")]
    Line {
        /// From 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// It is of another version.
    #[error("the capsule has version {found}, this build reads version {CAPSULE_VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// It ends too early.
    #[error("the capsule is cut off: it has no line `{missing}`")]
    CutOff {
        /// What is missing.
        missing: &'static str,
    },
}

impl Capsule {
    pub(super) fn of(origin: &Origin<'_>, at: Timestamp, tape: Tape, failed: Failed, log: Vec<LogLine>) -> Self {
        let Origin { compiled, config, init, role, strikes } = origin;
        let descriptor = compiled.descriptor();
        let sequence = match &failed.call {
            Call::Ask(question) => question.frame.sequence,
            Call::Start | Call::Snapshot | Call::None => {
                tape.asked.back().map_or(0, |asked| asked.question.frame.sequence)
            }
        };
        let role_in_id = match role {
            PolicyRole::Deciding => "",
            PolicyRole::Shadow => "-shadow",
        };
        let header = CapsuleHeader {
            format: CAPSULE_FORMAT.into(),
            version: CAPSULE_VERSION,
            id: format!("{:016}-{}-{sequence}{role_in_id}", at.as_micros(), init.group),
            at,
            broker: env!("CARGO_PKG_VERSION").into(),
            contract: CONTRACT_VERSION.into(),
            group: init.group.clone(),
            shard: init.shard,
            seed: init.seed,
            role: *role,
            policy: CapsulePolicy {
                digest: compiled.digest().into(),
                name: descriptor.name.clone(),
                version: descriptor.version.clone(),
                config: (*config).into(),
                wants: descriptor.wants.clone(),
            },
            // It may be the guest's own words.
            fault: one_line(&failed.fault.to_string()),
            strikes: u32::try_from(*strikes).unwrap_or(u32::MAX),
            questions: tape.asked.len() as u64,
            // Without state it was then as it was at first.
            questions_cut: if descriptor.state_schema == 0 { 0 } else { tape.asked_cut },
            names_cut: tape.told_cut,
            limits: Budget::limits(),
        };
        Self { header, tape, failed, log }
    }

    /// Its first line.
    #[must_use]
    pub fn header(&self) -> &CapsuleHeader {
        &self.header
    }

    /// Reads what a broker wrote.
    ///
    /// # Errors
    /// It is no capsule, or not all of one, or of another version.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidCapsule> {
        let mut lines = (1..).zip(text.split(|byte| *byte == b'\n')).filter(|(_, line)| !line.is_empty());
        let (number, first) = lines.next().ok_or(InvalidCapsule::CutOff { missing: "format" })?;
        let header = header(number, first)?;
        let (mut start, mut failed) = (None, None);
        let (mut told, mut asked, mut log) = (Vec::new(), Vec::new(), Vec::new());
        for (number, line) in lines {
            match serde_json::from_slice(line).map_err(|error| invalid(number, &error))? {
                Line::Start(line) => start = Some(line),
                Line::Told(line) => told.push(line),
                Line::Asked(line) => asked.push(*line),
                Line::Failed(line) => failed = Some(line),
                Line::Log(line) => log.push(line),
            }
        }
        let start = start.ok_or(InvalidCapsule::CutOff { missing: "start" })?;
        let failed = failed.ok_or(InvalidCapsule::CutOff { missing: "failed" })?;
        let tape = Tape::of(start, (told, header.names_cut), (asked, header.questions_cut));
        Ok(Self { header, tape, failed, log })
    }

    /// Writes it as [`Capsule::parse`] reads it.
    ///
    /// # Errors
    /// What the writer says.
    pub(super) fn write(&self, out: &mut dyn io::Write) -> io::Result<()> {
        let Self { header, tape, failed, log } = self;
        write_line(out, header)?;
        write_line(out, &Written::Start(&tape.start))?;
        tape.told.iter().try_for_each(|news| write_line(out, &Written::Told(news)))?;
        tape.asked.iter().try_for_each(|asked| write_line(out, &Written::Asked(asked)))?;
        write_line(out, &Written::Failed(failed))?;
        log.iter().try_for_each(|line| write_line(out, &Written::Log(line)))
    }
}

/// A [`Line`] that is borrowed.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Written<'a> {
    Start(&'a Start),
    Told(&'a News),
    Asked(&'a Asked),
    Failed(&'a Failed),
    Log(&'a LogLine),
}

/// A capsule's first line, if that is what it is.
pub(super) fn header(number: usize, line: &[u8]) -> Result<CapsuleHeader, InvalidCapsule> {
    /// What is looked at before anything else: a later version may have other fields.
    #[derive(Deserialize)]
    struct Format {
        format: String,
        version: u32,
    }
    let Format { format, version } = serde_json::from_slice(line).map_err(|error| invalid(number, &error))?;
    if format != CAPSULE_FORMAT {
        let problem = format!("expected `format` to be \"{CAPSULE_FORMAT}\", found {format:?}");
        return Err(InvalidCapsule::Line { line: number, problem });
    }
    if version != CAPSULE_VERSION {
        return Err(InvalidCapsule::Version { found: version });
    }
    serde_json::from_slice(line).map_err(|error| invalid(number, &error))
}

fn write_line(out: &mut dyn io::Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

fn invalid(line: usize, error: &serde_json::Error) -> InvalidCapsule {
    InvalidCapsule::Line { line, problem: error.to_string() }
}
