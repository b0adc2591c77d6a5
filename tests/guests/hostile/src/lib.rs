//! A policy that misbehaves as its configuration says, in frames whose seed is [`SIGNAL`]; otherwise it serves.
//!
//! What it remembers shows in its answers: `memo` is the number of frames decided plus 1,000 per feedback and 1,000,000 per
//! lite topic with the label `class=batch`, a tenant's weight is the length of its name, or 1 if that was never learnt; the
//! group's concurrency is the sum of what heads have in their property `slots`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, Descriptor, Entity, Feedback, Frame, Init, Level, Plan, Policy, export_policy, log,
};

/// The seed of a frame to misbehave in.
const SIGNAL: u64 = 13;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    misbehave: Misbehaviour,
    /// In each frame.
    always: bool,
    /// In each frame after so many.
    after: Option<u64>,
    /// Turns of a loop in each frame, of what is slow.
    turns: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Misbehaviour {
    #[default]
    None,
    Spin,
    Panic,
    AllocateAll,
    Recurse,
    TooFewAnswers,
    UnknownVerdict,
    FloodLog,
    Slow,
    ThrottleForever,
    HugePlan,
    HugeState,
    SpinInInit,
    RefuseToStart,
    RefuseToRestore,
}

struct Hostile {
    misbehave: Misbehaviour,
    always: bool,
    after: Option<u64>,
    turns: u32,
    names: BTreeMap<u64, String>,
    batch: BTreeSet<u64>,
    state: State,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    frames: u64,
    feedback: u64,
    ballast: String,
}

impl Policy for Hostile {
    type Config = Config;
    type State = State;

    fn describe() -> Descriptor {
        Descriptor::new("hostile", env!("CARGO_PKG_VERSION"))
            .reasons(["because"])
            .wants(["slots"])
            .learns_lites()
            .state_schema(3)
    }

    fn new(_: &Init, config: Config) -> Result<Self, String> {
        match config.misbehave {
            Misbehaviour::RefuseToStart => Err("config: misbehave is `refuse-to-start`".into()),
            Misbehaviour::SpinInInit => spin(),
            misbehave => Ok(Self {
                misbehave,
                always: config.always,
                after: config.after,
                turns: config.turns,
                names: BTreeMap::new(),
                batch: BTreeSet::new(),
                state: State::default(),
            }),
        }
    }

    fn learn(&mut self, tenant: &Entity) {
        assert!(self.names.insert(tenant.id, tenant.name.clone()).is_none(), "{} was learnt twice", tenant.name);
    }

    fn forget(&mut self, tenant: u64) {
        self.names.remove(&tenant);
    }

    fn learn_lite(&mut self, lite: &Entity) {
        if lite.label("class") == Some("batch") {
            self.batch.insert(lite.id);
        }
    }

    fn forget_lite(&mut self, lite: u64) {
        self.batch.remove(&lite);
    }

    fn observe(&mut self, _: &Feedback) {
        self.state.feedback += 1;
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.state.frames += 1;
        let is_after = self.after.is_some_and(|frames| self.state.frames > frames);
        if self.always || is_after || frame.seed == SIGNAL {
            return self.misbehave(frame);
        }
        let weight = |tenant: &u64| self.names.get(tenant).map_or(1, |name| u32::try_from(name.len()).unwrap());
        let weights = frame.tenants.iter().map(|view| weight(&view.tenant)).collect();
        let slots: u64 = (0..frame.lites.len()).filter_map(|row| frame.number(0, row)).sum();
        let plan = Plan { weights, ..self.serve_all(frame) };
        match u32::try_from(slots).unwrap() {
            0 => plan,
            slots => plan.concurrency(slots, Duration::from_secs(1)),
        }
    }

    fn snapshot(&self) -> Option<State> {
        let ballast = match self.misbehave {
            Misbehaviour::HugeState => "x".repeat(2 << 20),
            _ => String::new(),
        };
        Some(State { frames: self.state.frames, feedback: self.state.feedback, ballast })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        if self.misbehave == Misbehaviour::RefuseToRestore {
            return Err("not in the mood".into());
        }
        self.state = state;
        Ok(())
    }
}

impl Hostile {
    fn serve_all(&self, frame: &Frame) -> Plan {
        let memo = self.state.frames + 1_000 * self.state.feedback + 1_000_000 * self.batch.len() as u64;
        frame.lites.iter().map(|_| Answer::serve().remember(memo)).collect()
    }

    fn misbehave(&mut self, frame: &Frame) -> Plan {
        match self.misbehave {
            Misbehaviour::Spin => spin(),
            Misbehaviour::Panic => panic!("deliberate"),
            Misbehaviour::AllocateAll => allocate_all(),
            Misbehaviour::Recurse => Plan { concurrency: recurse(u64::from(u32::MAX)) as u32, ..Plan::default() },
            Misbehaviour::TooFewAnswers => Plan::default(),
            Misbehaviour::UnknownVerdict => {
                frame.lites.iter().map(|_| Answer { verdict: 99, ..Answer::serve() }).collect()
            }
            Misbehaviour::FloodLog => {
                (0..50).for_each(|line| log(Level::Info, &format!("{line} {}", "é\n".repeat(1_000))));
                self.serve_all(frame)
            }
            Misbehaviour::Slow => {
                std::hint::black_box((0..self.turns).fold(0_u32, |sum, turn| std::hint::black_box(sum ^ turn)));
                self.serve_all(frame)
            }
            Misbehaviour::ThrottleForever => {
                frame.lites.iter().map(|_| Answer::throttle(Duration::from_mins(1))).collect()
            }
            Misbehaviour::HugePlan => Plan { weights: vec![1; 2 << 20], ..self.serve_all(frame) },
            _ => self.serve_all(frame),
        }
    }
}

fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = std::hint::black_box(turns.wrapping_add(1));
    }
}

fn allocate_all() -> ! {
    loop {
        std::mem::forget(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
    }
}

fn recurse(depth: u64) -> u64 {
    if depth == 0 { 0 } else { recurse(depth - 1).wrapping_add(std::hint::black_box(depth)) }
}

export_policy!(Hostile);
