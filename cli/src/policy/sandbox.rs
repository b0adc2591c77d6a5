//! A policy in the broker's sandbox, here: it goes on after faults as in a broker, and what it said is counted.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context as _;
use sluicegate_broker::policy_lab::{LoadedPolicy, PolicyFault, PolicyLab, StateBlob, Telling, Trial};
use sluicegate_protocol::Timestamp;
use sluicegate_scheduler::simulation::START;
use sluicegate_scheduler::{Ask, Plan, Verdict};

use crate::exit::WrongInput;

/// Frames after which a snapshot is taken, to go on from after a fault: as in a broker.
const SNAPSHOT_FRAMES: u32 = 1_000;
/// Faults within [`STRIKES_WITHIN`] after which a broker asks a policy no more.
const STRIKES_MAX: usize = 3;
/// See [`STRIKES_MAX`].
const STRIKES_WITHIN: Duration = Duration::from_mins(1);

/// A component and its configuration, as one names them: `FILE.wasm`, or `FILE.wasm=CONFIG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// The component.
    pub(super) component: PathBuf,
    /// JSON text, or the name of a file with it.
    config: Option<String>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (component, config) = match text.split_once(".wasm=") {
            Some((stem, config)) => (format!("{stem}.wasm"), Some(config.to_owned())),
            None => (text.to_owned(), None),
        };
        let component = PathBuf::from(component);
        match component.extension().is_some_and(|extension| extension == "wasm") {
            true => Ok(Self { component, config }),
            false => Err("expected FILE.wasm or FILE.wasm=CONFIG".into()),
        }
    }
}

impl Named {
    /// The configuration as text; empty for the defaults.
    pub(super) fn config(&self) -> anyhow::Result<String> {
        self.config.as_deref().map_or(Ok(String::new()), config)
    }

    /// Reads and compiles the component.
    pub(super) fn load(&self, lab: &PolicyLab) -> anyhow::Result<LoadedPolicy> {
        load(lab, &self.component)
    }
}

/// A configuration that is given as JSON text, or as the name of a file.
///
/// # Errors
/// It is neither, with place and what was expected.
pub(super) fn config(given: &str) -> anyhow::Result<String> {
    let is_text = given.trim_start().starts_with(['{', '[', '"']) || given.trim().is_empty();
    let (text, place) = if is_text {
        (given.to_owned(), String::new())
    } else {
        let read = std::fs::read_to_string(given);
        let wrong = |error| WrongInput(format!("{given}: {error}: a configuration is JSON, or a file with it"));
        (read.map_err(wrong)?, format!("{given}:"))
    };
    let parsed = serde_json::from_str::<serde::de::IgnoredAny>(&text);
    match parsed {
        Err(error) if !text.trim().is_empty() => Err(WrongInput(format!(
            "{place}{}:{}: the configuration is no JSON: {error}",
            error.line(),
            error.column()
        ))
        .into()),
        _ => Ok(text),
    }
}

/// Reads and compiles a component, as a broker would.
///
/// # Errors
/// The file cannot be read, or a broker would refuse it.
pub(super) fn load(lab: &PolicyLab, component: &Path) -> anyhow::Result<LoadedPolicy> {
    let file = component.display();
    let wasm = std::fs::read(component).map_err(|error| WrongInput(format!("{file}: {error}")))?;
    lab.load(&wasm).map_err(|refusal| WrongInput(format!("{file}: {refusal}")).into())
}

/// Starts a policy that one group's shard would start.
///
/// # Errors
/// It refuses its configuration, or fails.
pub(super) fn start(policy: &LoadedPolicy, group: &str, seed: u64, config: &str) -> anyhow::Result<Trial> {
    let name = &policy.descriptor().name;
    let started = policy.start(group, seed, START, config);
    started.map_err(|fault| WrongInput(format!("policy {name} does not start: {fault}")).into())
}

/// What a policy said, and what it took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// Rows that it answered.
    pub(super) rows: u64,
    /// Fuel for all of them, names and feedback included.
    pub(super) fuel: u64,
    /// By the second: rows that it held by a throttle and by a suspension.
    pub(super) held: BTreeMap<u64, Held>,
    /// Faults, in words: the first of each kind.
    pub(super) faults: Vec<String>,
    /// When it was asked no more, since the start.
    pub(super) quarantined_at: Option<Duration>,
}

/// Rows that were held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) throttled: u64,
    pub(super) suspended: u64,
}

/// A policy at work, which gets a new instance after a fault.
pub(super) struct Sandbox {
    policy: LoadedPolicy,
    group: String,
    seed: u64,
    config: String,
    trial: Option<Trial>,
    snapshot: Option<StateBlob>,
    frames_since: u32,
    strikes: VecDeque<Timestamp>,
    pub(super) said: Said,
}

impl Sandbox {
    /// # Errors
    /// The policy refuses its configuration, or fails.
    pub(super) fn start(policy: LoadedPolicy, group: &str, seed: u64, config: &str) -> anyhow::Result<Self> {
        let trial = start(&policy, group, seed, config)?;
        Ok(Self {
            policy,
            group: group.into(),
            seed,
            config: config.into(),
            trial: Some(trial),
            snapshot: None,
            frames_since: 0,
            strikes: VecDeque::new(),
            said: Said::default(),
        })
    }

    /// Has the policy decide.
    ///
    /// # Errors
    /// It failed, or failed too often before.
    pub(super) fn ask(&mut self, ask: &Ask, telling: &mut dyn Telling) -> Result<Plan, String> {
        let Some(trial) = &mut self.trial else { return Err("it is in quarantine".into()) };
        match trial.ask(ask, telling) {
            Ok(plan) => {
                self.said.fuel += trial.fuel_used();
                self.note(ask, &plan);
                self.keep_state(ask.frame.now);
                Ok(plan)
            }
            Err(fault) => Err(self.strike(ask.frame.now, &fault)),
        }
    }

    fn note(&mut self, ask: &Ask, plan: &Plan) {
        self.said.rows += plan.lites.len() as u64;
        let second = ask.frame.now.since(START).as_secs();
        for answer in &plan.lites {
            match answer.verdict {
                Verdict::Throttle(_) => self.said.held.entry(second).or_default().throttled += 1,
                Verdict::Suspend(_) => self.said.held.entry(second).or_default().suspended += 1,
                Verdict::Serve { .. } | Verdict::DeadLetter | Verdict::Drop => {}
            }
        }
    }

    fn keep_state(&mut self, now: Timestamp) {
        self.frames_since += 1;
        if self.frames_since < SNAPSHOT_FRAMES {
            return;
        }
        self.frames_since = 0;
        match self.trial.as_mut().map(Trial::snapshot) {
            Some(Ok(state)) => self.snapshot = state.or(self.snapshot.take()),
            Some(Err(fault)) => drop(self.strike(now, &fault)),
            None => {}
        }
    }

    /// Counts a fault and puts a new instance in the place of the one that failed.
    fn strike(&mut self, now: Timestamp, fault: &PolicyFault) -> String {
        let text = fault.to_string();
        if self.said.faults.len() < STRIKES_MAX && !self.said.faults.contains(&text) {
            self.said.faults.push(text.clone());
        }
        self.strikes.retain(|at| now.since(*at) < STRIKES_WITHIN);
        self.strikes.push_back(now);
        self.trial = match self.strikes.len() < STRIKES_MAX {
            true => self.restarted(now).ok(),
            false => None,
        };
        if self.trial.is_none() {
            self.said.quarantined_at = Some(now.since(START));
        }
        text
    }

    fn restarted(&self, now: Timestamp) -> anyhow::Result<Trial> {
        let start = || self.policy.start(&self.group, self.seed, now, &self.config).context("it does not start again");
        let mut trial = start()?;
        match self.snapshot.as_ref().map(|state| trial.restore(state)) {
            // It would be no good after a fault.
            Some(Err(_)) => start(),
            None | Some(Ok(_)) => Ok(trial),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_named_with_its_configuration() {
        let named = |text: &str| text.parse::<Named>();
        let (component, none) = (PathBuf::from("a/b.wasm"), None);
        assert_eq!(named("a/b.wasm"), Ok(Named { component: component.clone(), config: none }));
        let config = Some(r#"{"a": ".wasm=1"}"#.to_owned());
        assert_eq!(named(r#"a/b.wasm={"a": ".wasm=1"}"#), Ok(Named { component, config }));
        assert_eq!(named("b.csv"), Err("expected FILE.wasm or FILE.wasm=CONFIG".into()));
    }

    #[test]
    fn a_configuration_that_is_no_json_says_where() {
        assert_eq!(config(r#"{"a": 1}"#).unwrap(), r#"{"a": 1}"#);
        assert_eq!(config(" ").unwrap(), " ");
        let error = |given: &str| config(given).unwrap_err().to_string();
        assert_eq!(error("{\"a\":\n}"), "2:1: the configuration is no JSON: expected value at line 2 column 1");
        assert!(error("not-there.json").contains("a configuration is JSON, or a file with it"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("c.json");
        std::fs::write(&file, "[1").unwrap();
        let file = file.display().to_string();
        assert!(error(&file).starts_with(&format!("{file}:1:2: the configuration is no JSON")), "{}", error(&file));
    }
}
