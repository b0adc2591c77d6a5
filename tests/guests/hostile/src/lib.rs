//! A policy that misbehaves as its configuration says, in frames whose seed is [`SIGNAL`]; otherwise it serves.
//!
//! What it remembers shows in its answers: `memo` is the number of frames decided plus 1,000 per feedback and 1,000,000 per
//! lite topic with the label `class=batch`, a tenant's weight is the length of its name, or 1 if that was never learnt; the
//! group's concurrency is the sum of what heads have in their property `slots`. With `announce`, an instance that goes on from a
//! state says in the log how many frames were decided before it.

mod draw;
mod harm;
mod patch;
mod plans;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluicegate_plugin_sdk::{
    Answer, Descriptor, Entity, Feedback, Frame, Init, Level, Plan, Policy, export_policy, log,
};

use crate::harm::{Harm, spin};
use crate::plans::BadPlan;

/// The seed of a frame to misbehave in.
const SIGNAL: u64 = 13;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    misbehave: Misbehaviour,
    /// In which call, of those misbehaviours that any call can have.
    during: Call,
    /// In each frame.
    always: bool,
    /// In each frame after so many.
    after: Option<u64>,
    /// Turns of a loop in each frame, of what is slow.
    turns: u32,
    /// Messages after which it is asked again; 0 for any number.
    messages: u32,
    /// An instance that starts later, in microseconds since the Unix epoch, spins; 0 for none.
    starts_until_us: u64,
    announce: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Misbehaviour {
    #[default]
    None,
    Spin,
    Panic,
    Trap,
    AllocateAll,
    Recurse,
    FloodLog,
    Churn,
    Leak,
    Slow,
    SlowMemory,
    TooFewAnswers,
    TooManyAnswers,
    TooManyWeights,
    UnknownVerdict,
    Extremes,
    ThrottleForever,
    HugePlan,
    HugeState,
    Draw,
    SpinInInit,
    RefuseToStart,
    RefuseToRestore,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Call {
    Init,
    Learn,
    Forget,
    Observe,
    #[default]
    Decide,
    Snapshot,
    Restore,
    /// All of them.
    Any,
}

struct Hostile {
    misbehave: Misbehaviour,
    during: Call,
    always: bool,
    after: Option<u64>,
    messages: u32,
    announce: bool,
    harm: Harm,
    drawn: u64,
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
        let version = patch::describe();
        Descriptor::new("hostile", version).reasons(draw::REASONS).wants(["slots"]).learns_lites().state_schema(3)
    }

    fn new(init: &Init, config: Config) -> Result<Self, String> {
        let mut this = Self {
            misbehave: config.misbehave,
            during: config.during,
            always: config.always,
            after: config.after,
            messages: if config.messages == 0 { u32::MAX } else { config.messages },
            announce: config.announce,
            harm: Harm::new(config.misbehave, config.turns),
            drawn: draw::all_that_differs(),
            names: BTreeMap::new(),
            batch: BTreeSet::new(),
            state: State::default(),
        };
        match this.misbehave {
            Misbehaviour::RefuseToStart => return Err("config: misbehave is `refuse-to-start`".into()),
            Misbehaviour::SpinInInit => spin(),
            _ if config.starts_until_us > 0 && init.now_us > config.starts_until_us => spin(),
            _ => this.harm_during(Call::Init),
        }
        Ok(this)
    }

    fn learn(&mut self, tenant: &Entity) {
        self.harm_during(Call::Learn);
        assert!(self.names.insert(tenant.id, tenant.name.clone()).is_none(), "{} was learnt twice", tenant.name);
    }

    fn forget(&mut self, tenant: u64) {
        self.harm_during(Call::Forget);
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
        self.harm_during(Call::Observe);
        self.state.feedback += 1;
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        self.state.frames += 1;
        let is_after = self.after.is_some_and(|frames| self.state.frames > frames);
        if self.always || is_after || frame.seed == SIGNAL {
            self.harm_during(Call::Decide);
            if let Some(plan) = self.bad_plan(frame) {
                return plan;
            }
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
        // The policy is not to be changed by it, so it has its own harm.
        Harm::new(self.misbehave, 0).during(self.misbehave, self.during, Call::Snapshot);
        let ballast = match self.misbehave {
            Misbehaviour::HugeState => "x".repeat(2 << 20),
            _ => String::new(),
        };
        Some(State { frames: self.state.frames, feedback: self.state.feedback, ballast })
    }

    fn restore(&mut self, state: State) -> Result<(), String> {
        self.harm_during(Call::Restore);
        if self.misbehave == Misbehaviour::RefuseToRestore {
            return Err("not in the mood".into());
        }
        if self.announce {
            log(Level::Warn, &format!("goes on after {} frames", state.frames));
        }
        self.state = state;
        Ok(())
    }
}

impl Hostile {
    fn harm_during(&mut self, call: Call) {
        self.harm.during(self.misbehave, self.during, call);
    }

    fn serve_all(&self, frame: &Frame) -> Plan {
        let memo = self.state.frames + 1_000 * self.state.feedback + 1_000_000 * self.batch.len() as u64;
        frame.lites.iter().map(|_| Answer::serve().messages(self.messages).remember(memo)).collect()
    }

    fn bad_plan(&self, frame: &Frame) -> Option<Plan> {
        let bad = BadPlan { frame, round: self.state.frames };
        Some(match self.misbehave {
            Misbehaviour::TooFewAnswers => Plan::default(),
            Misbehaviour::TooManyAnswers => bad.too_many_answers(),
            Misbehaviour::TooManyWeights => Plan { weights: vec![1; frame.tenants.len() + 1], ..self.serve_all(frame) },
            Misbehaviour::UnknownVerdict => bad.unknown_verdicts(),
            Misbehaviour::Extremes => bad.extremes(),
            Misbehaviour::ThrottleForever => bad.throttled_forever(),
            Misbehaviour::HugePlan => Plan { weights: vec![1; 2 << 20], ..self.serve_all(frame) },
            Misbehaviour::Draw => draw::shown(self.drawn, frame),
            _ => return None,
        })
    }
}

export_policy!(Hostile);
