//! A capsule again, in the broker's own sandbox: the same questions, and what the policy says to them this time.
//!
//! ```no_run
//! use sluicegate_broker::policy_replay::{Capsule, Verdict};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let capsule = Capsule::parse(&std::fs::read("fault.jsonl")?)?;
//! let replayed = capsule.replay(&std::fs::read("policy.wasm")?)?;
//! assert_eq!(replayed.verdict, Verdict::Reproduced);
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

pub use super::capsule::{Capsule, InvalidCapsule};

use super::briefing::{LITE, News, Question};
use super::capsule::Call;
use super::compiled::{CompiledPolicy, Descriptor};
use super::fault::PolicyFault;
use super::guest::one_line;
use super::instance::{Init, PolicyInstance};
use super::lab::PolicyLab;
use super::limits::Budget;
use super::tape::Asked;
use super::types;

/// Differences that are told in full; the rest is counted.
const DIFFERENCES_TOLD_MAX: usize = 16;

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Replayed {
    /// Digest of the policy that was asked.
    pub digest: String,
    /// Questions that it answered.
    pub answered: usize,
    /// Those of the answers that are word for word as they were.
    pub same: usize,
    /// The first of the other ones, at most 16.
    pub differences: Vec<Difference>,
    /// How it failed at the end, or before, in words; none if it did not.
    pub fault: Option<String>,
    /// What that means for the capsule.
    pub verdict: Verdict,
}

/// An answer that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The frame's number.
    pub sequence: u64,
    /// The first thing that differs.
    pub what: String,
}

/// What a replay says of its capsule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All answers as they were, and the same fault in the same call.
    Reproduced,
    /// The fault was one of the clock, which a faster or less busy machine does not have; the answers before are as they were.
    NotInTime,
    /// Some answer was another one.
    AnswersDiffer,
    /// It failed otherwise, or elsewhere.
    OtherFault,
    /// It did not fail.
    NoFault,
    /// No single call failed; the answers are as they were.
    NoCall,
}

/// Why a capsule cannot be had again.
#[derive(Debug, thiserror::Error)]
pub enum NotReplayed {
    /// No policy can run here.
    #[error("{0}")]
    NoHost(String),
    /// The bytes are not a policy that a broker would take; the text says what would help.
    #[error("{0}")]
    Rejected(String),
}

impl Capsule {
    /// Asks this component what the policy was asked. Takes a tenth of a second for compiling it, and the time of the answers.
    ///
    /// # Errors
    /// The component is none that a broker would take, or the machine cannot run compiled Wasm.
    pub fn replay(&self, component: &[u8]) -> Result<Replayed, NotReplayed> {
        let lab = PolicyLab::open().map_err(|error| NotReplayed::NoHost(error.to_string()))?;
        let policy = lab.load(component).map_err(|error| NotReplayed::Rejected(error.to_string()))?;
        Ok(replay(&policy.0, self))
    }
}

/// Asks this policy what the capsule's was asked.
pub(super) fn replay(policy: &Arc<CompiledPolicy>, capsule: &Capsule) -> Replayed {
    let mut replayed = Replayed {
        digest: policy.digest().into(),
        answered: 0,
        same: 0,
        differences: Vec::new(),
        fault: None,
        verdict: Verdict::NoFault,
    };
    let ended = run(policy, capsule, &mut replayed);
    // It may be the guest's own words.
    replayed.fault = ended.as_ref().err().map(|(_, fault)| one_line(&fault.to_string()));
    replayed.verdict = verdict(capsule, &replayed, ended);
    replayed
}

/// Where a replay ended by a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Earlier,
    SameCall,
}

fn run(policy: &Arc<CompiledPolicy>, capsule: &Capsule, replayed: &mut Replayed) -> Result<(), (At, PolicyFault)> {
    let earlier = |fault| (At::Earlier, fault);
    let (descriptor, wants) = (policy.descriptor(), &capsule.header().policy.wants);
    let started = start(policy, capsule);
    let mut instance = match capsule.failed.call {
        Call::Start => return started.map(drop).map_err(|fault| (At::SameCall, fault)),
        Call::Ask(_) | Call::Snapshot | Call::None => started.map_err(earlier)?,
    };
    for Asked { question, plan } in &capsule.tape.asked {
        let question_for = question_for(descriptor, wants, question);
        // It had an answer in time, once.
        let (said, _) = instance.say_within(Budget::untimed(question.rows()), &question_for).map_err(earlier)?;
        replayed.answered += 1;
        match difference(plan, &said) {
            None => replayed.same += 1,
            Some(what) if replayed.differences.len() < DIFFERENCES_TOLD_MAX => {
                replayed.differences.push(Difference { sequence: question.frame.sequence, what });
            }
            Some(_) => {}
        }
    }
    let failed = match &capsule.failed.call {
        Call::Ask(question) => {
            let (question, rows) = (question_for(descriptor, wants, question), question.rows());
            let budget = if is_of_the_clock(capsule) { Budget::ask(rows) } else { Budget::untimed(rows) };
            instance.say_within(budget, &question).map(drop)
        }
        Call::Snapshot => instance.snapshot().map(drop),
        Call::Start | Call::None => Ok(()),
    };
    failed.map_err(|fault| (At::SameCall, fault))
}

/// An instance that is where the capsule's was.
fn start(policy: &Arc<CompiledPolicy>, capsule: &Capsule) -> Result<PolicyInstance, PolicyFault> {
    let (header, tape) = (capsule.header(), &capsule.tape);
    let init = Init { group: header.group.clone(), shard: header.shard, seed: header.seed, now: tape.start.now };
    let mut instance = policy.instantiate(&init, &header.policy.config)?;
    if let Some(state) = &tape.start.state {
        // Another policy may not read it: it starts cold.
        if let Err(text) = instance.restore(state)? {
            tracing::warn!("the policy refuses the state that the capsule begins with: {text}");
        }
    }
    for news in &tape.told {
        instance.tell(&names_for(policy.descriptor(), news))?;
    }
    Ok(instance)
}

/// The question as a policy with this description is asked it: with the columns that it wants, and the names that it learns.
fn question_for<'a>(descriptor: &Descriptor, wants: &[String], question: &'a Question) -> Cow<'a, Question> {
    if descriptor.wants == wants && descriptor.learns_lites {
        return Cow::Borrowed(question);
    }
    let Question { news, feedback, frame } = question;
    let column = |(key, want): (u32, &String)| {
        let values = wants.iter().position(|name| name == want).and_then(|index| frame.columns.get(index));
        let values = values.map_or_else(|| vec![u64::MAX; frame.lites.len()], |column| column.values.clone());
        types::Column { key, values }
    };
    let columns = (0..).zip(&descriptor.wants).map(column).collect();
    let news = names_for(descriptor, news).into_owned();
    let frame = types::Frame { columns, ..frame.clone() };
    Cow::Owned(Question { news, feedback: feedback.clone(), frame })
}

fn names_for<'a>(descriptor: &Descriptor, news: &'a News) -> Cow<'a, News> {
    if descriptor.learns_lites {
        return Cow::Borrowed(news);
    }
    let learnt = news.learnt.iter().filter(|entity| entity.kind != LITE).cloned().collect();
    Cow::Owned(News { forgotten_lites: Vec::new(), learnt, ..news.clone() })
}

fn verdict(capsule: &Capsule, replayed: &Replayed, ended: Result<(), (At, PolicyFault)>) -> Verdict {
    match ended {
        Err((At::SameCall, _)) | Ok(()) if replayed.same < replayed.answered => Verdict::AnswersDiffer,
        Err((At::SameCall, fault)) if fault == capsule.failed.fault => Verdict::Reproduced,
        Ok(()) if capsule.failed.call == Call::None => Verdict::NoCall,
        Ok(()) if is_of_the_clock(capsule) => Verdict::NotInTime,
        Ok(()) => Verdict::NoFault,
        Err(_) => Verdict::OtherFault,
    }
}

/// It took too long, on that machine and at that moment.
fn is_of_the_clock(capsule: &Capsule) -> bool {
    matches!(capsule.failed.fault, PolicyFault::Deadline { .. })
}

/// The first thing in which two answers differ.
fn difference(was: &types::Plan, is: &types::Plan) -> Option<String> {
    if was == is {
        return None;
    }
    if was.answers.len() != is.answers.len() {
        return Some(format!("{} answers, not {}", is.answers.len(), was.answers.len()));
    }
    let rows = was.answers.iter().zip(&is.answers).enumerate();
    if let Some((row, (was, is))) = rows.into_iter().find(|(_, (was, is))| was != is) {
        return Some(format!("row {row}: {}, not {}", answer(is), answer(was)));
    }
    if was.weights != is.weights {
        return Some(format!("weights {:?}, not {:?}", is.weights, was.weights));
    }
    Some(format!(
        "concurrency {} for {} us, refresh {}; not {} for {} us, {}",
        is.concurrency, is.concurrency_valid_us, is.refresh, was.concurrency, was.concurrency_valid_us, was.refresh
    ))
}

fn answer(answer: &types::Answer) -> String {
    let types::Answer { verdict, band, max_messages, reason, duration_us, valid_us, memo } = answer;
    format!(
        "verdict {verdict} band {band} max_messages {max_messages} reason {reason} duration_us {duration_us} valid_us {valid_us} memo {memo}"
    )
}
