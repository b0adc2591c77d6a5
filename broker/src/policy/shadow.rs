//! A policy that is asked too, on a thread of its own. Its answers are compared with those that count, and thrown away.
//!
//! A shard hands over each question with the answer that counted and never waits: a shadow that is still busy with earlier ones is not
//! asked. Its faults are its own: the third ends it.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;
use std::time::Duration;

use sluicegate_protocol::Timestamp;
use sluicegate_protocol::admin::{PolicyRole, Shadow as ShadowReport, ShadowFigures};
use sluicegate_scheduler::{Ask, Plan};
use tokio::sync::{mpsc, watch};

use super::briefing::{Briefing, Directory, Question};
use super::capsule::{Call, Capsule, Failed, Origin};
use super::comparison::{Comparison, built_in};
use super::fault::PolicyFault;
use super::instance::{PolicyInstance, StateBlob};
use super::recipe::{Made, Recipe};
use super::tape::Tape;
use super::threads::timed;
use crate::clock::micros;

/// Questions that a shadow has not answered, or whose counting answer is awaited.
const QUESTIONS_MAX: usize = 16;
/// Questions whose counting answer is awaited; the oldest beyond it is not compared.
const AWAITED_MAX: usize = 4;
/// Faults that end a shadow.
const FAULTS_MAX: u64 = 3;
/// Frames after which it gives a snapshot.
const SNAPSHOT_FRAMES: u32 = 1_000;
/// Time after which it does.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(10);

/// Who wanted which shadow.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct ShadowBinding {
    pub(crate) digest: String,
    pub(crate) config: String,
    pub(crate) since: Timestamp,
    pub(crate) by: String,
}

/// A shard's end of a shadow. Its thread ends when this is dropped.
pub(crate) struct Shadow {
    recipe: Recipe,
    binding: ShadowBinding,
    /// What its guest knows by name.
    briefing: Briefing,
    /// Counts its guests: a new one knows nothing.
    guest: u64,
    questions: mpsc::Sender<Compared>,
    awaited: VecDeque<Awaited>,
    told: watch::Receiver<Told>,
    skipped: u64,
}

/// What its thread tells.
#[derive(Debug, Clone, Default)]
struct Told {
    figures: ShadowFigures,
    guest: u64,
    ended_because: Option<String>,
}

/// A question whose counting answer is awaited.
struct Awaited {
    question: Question,
    guest: u64,
    room: mpsc::OwnedPermit<Compared>,
}

/// A question, and the answer that counted, if there is one to compare with.
struct Compared {
    question: Question,
    guest: u64,
    counted: Option<Plan>,
}

/// Which answer counts for a frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Counted<'a> {
    /// The deciding policy's.
    Policy(&'a Plan),
    /// No policy decides: fair scheduling does.
    BuiltIn,
    /// The deciding policy's, but it has none.
    Nothing,
}

impl Shadow {
    /// Starts a shadow, and waits until its guest can be asked: not for a shard.
    ///
    /// # Errors
    /// The policy refuses its configuration, or fails in its first call.
    pub(crate) fn start(recipe: Recipe, binding: ShadowBinding) -> Result<Self, PolicyFault> {
        let (questions, asked) = mpsc::channel(QUESTIONS_MAX);
        let (told_tx, told) = watch::channel(Told::default());
        let (started_tx, started) = std_mpsc::sync_channel(1);
        let worker = recipe.clone();
        let spawned = thread::Builder::new().name("policy-shadow".into()).spawn(move || {
            let begun = Worker::begin(worker, told_tx);
            match begun {
                Ok(mut worker) => {
                    // Whoever started it waits for this.
                    let _ = started_tx.send(Ok(()));
                    worker.run(asked);
                }
                Err(fault) => drop(started_tx.send(Err(fault))),
            }
        });
        spawned.map_err(|error| PolicyFault::Trap(format!("there is no thread for it: {error}")))?;
        started.recv().unwrap_or(Err(PolicyFault::Poisoned))?;
        let (briefing, awaited) = (Briefing::default(), VecDeque::new());
        Ok(Self { recipe, binding, briefing, guest: 0, questions, awaited, told, skipped: 0 })
    }

    /// It is not asked any more.
    pub(crate) fn is_over(&self) -> bool {
        self.questions.is_closed()
    }

    /// Names or labels changed: what it was told is told again.
    pub(crate) fn tell_names_again(&mut self) {
        self.briefing.tell_names_again();
    }

    /// The deciding policy is asked this: the shadow is too, when it is [answered](Self::answered).
    pub(crate) fn asked(&mut self, ask: &Ask, directory: &mut dyn Directory) {
        if self.is_over() {
            return;
        }
        let Ok(room) = self.questions.clone().try_reserve_owned() else {
            self.skipped += 1;
            return;
        };
        let guest = self.told.borrow().guest;
        if guest != self.guest {
            (self.guest, self.briefing) = (guest, Briefing::default());
        }
        let question = self.briefing.question(self.recipe.compiled.descriptor(), ask, directory);
        self.awaited.push_back(Awaited { question, guest, room });
        if self.awaited.len() > AWAITED_MAX
            && let Some(oldest) = self.awaited.pop_front()
        {
            oldest.send(None);
        }
    }

    /// The frame with this sequence has an answer that counts, or none.
    pub(crate) fn answered(&mut self, sequence: u64, counted: Counted<'_>) {
        let Some(index) = self.awaited.iter().position(|one| one.question.frame.sequence == sequence) else { return };
        let Some(awaited) = self.awaited.remove(index) else { return };
        let counted = match counted {
            Counted::Policy(plan) => Some(plan.clone()),
            Counted::BuiltIn => Some(built_in(&awaited.question.frame)),
            Counted::Nothing => None,
        };
        awaited.send(counted);
    }

    /// What came of it so far.
    pub(crate) fn report(&self) -> ShadowReport {
        let ShadowBinding { digest, config, since, by } = self.binding.clone();
        let Told { figures, ended_because, .. } = self.told.borrow().clone();
        ShadowReport {
            digest,
            name: self.recipe.compiled.descriptor().name.clone(),
            config,
            since,
            by,
            ended_because,
            figures: ShadowFigures { frames_skipped: figures.frames_skipped + self.skipped, ..figures },
        }
    }
}

impl Awaited {
    fn send(self, counted: Option<Plan>) {
        let Self { question, guest, room } = self;
        // The thread may just have ended: nobody asks it any more then.
        drop(room.send(Compared { question, guest, counted }));
    }
}

/// A shadow's guest, on its thread.
struct Worker {
    recipe: Recipe,
    instance: PolicyInstance,
    tape: Tape,
    snapshot: Option<Arc<StateBlob>>,
    snapshot_at: Timestamp,
    frames_since: u32,
    comparison: Comparison,
    told: watch::Sender<Told>,
}

impl Worker {
    fn begin(recipe: Recipe, told: watch::Sender<Told>) -> Result<Self, PolicyFault> {
        let Made { instance, .. } = recipe.make(None)?;
        let now = recipe.init.now;
        let (tape, comparison) = (Tape::begin(now, None), Comparison::default());
        Ok(Self { recipe, instance, tape, snapshot: None, snapshot_at: now, frames_since: 0, comparison, told })
    }

    /// Until there are no more questions, or it failed too often.
    fn run(&mut self, mut asked: mpsc::Receiver<Compared>) {
        while let Some(Compared { question, guest, counted }) = asked.blocking_recv() {
            let now = Timestamp(question.frame.now_us);
            if guest != self.told.borrow().guest {
                // The one that knew its names is gone.
                self.comparison.figures.frames_skipped += 1;
            } else if let Err((call, fault)) = self.ask(question, counted.as_ref())
                && let Err(cause) = self.failed(now, call, &fault)
            {
                self.tell(|told| told.ended_because = Some(cause));
                return;
            }
            self.tell(|_| {});
        }
    }

    fn ask(&mut self, question: Question, counted: Option<&Plan>) -> Result<(), (Call, PolicyFault)> {
        let (answer, spent) = timed(|| self.instance.say(&question));
        let figures = &mut self.comparison.figures;
        figures.guest_us = figures.guest_us.saturating_add(micros(spent));
        let (said, plan) = match answer {
            Ok(answer) => answer,
            Err(fault) => return Err((Call::Ask(Box::new(question)), fault)),
        };
        match counted {
            Some(counted) => self.comparison.add(&question.frame, counted, &plan),
            None => figures.frames_alone += 1,
        }
        let now = Timestamp(question.frame.now_us);
        self.tape.answered(question, said);
        self.take_snapshot(now).map_err(|fault| (Call::Snapshot, fault))
    }

    fn take_snapshot(&mut self, now: Timestamp) -> Result<(), PolicyFault> {
        self.frames_since += 1;
        let is_time = self.frames_since >= SNAPSHOT_FRAMES || now.since(self.snapshot_at) >= SNAPSHOT_EVERY;
        if !is_time && !self.tape.wants_snapshot() {
            return Ok(());
        }
        (self.frames_since, self.snapshot_at) = (0, now);
        let state = self.instance.snapshot()?.map(Arc::new);
        self.tape.snapshot_taken(state.as_ref());
        self.snapshot = state.or(self.snapshot.take());
        Ok(())
    }

    /// A new guest takes the place of the one that failed, unless there were too many.
    ///
    /// # Errors
    /// It is over: why.
    fn failed(&mut self, now: Timestamp, call: Call, fault: &PolicyFault) -> Result<(), String> {
        self.comparison.figures.faults += 1;
        let faults = self.comparison.figures.faults;
        let Recipe { compiled, config, init } = &self.recipe;
        let strikes = usize::try_from(faults).unwrap_or(usize::MAX);
        let origin = Origin { compiled, config, init, role: PolicyRole::Shadow, strikes };
        let failed = Failed { call, fault: fault.clone() };
        let tape = std::mem::take(&mut self.tape);
        let capsule = compiled.leave(Capsule::of(&origin, now, tape, failed, self.instance.last_words()));
        let group = &init.group;
        tracing::warn!(group, %fault, capsule, faults, "the shadow failed");
        let restarted = match faults {
            FAULTS_MAX.. => Err(fault.clone()),
            _ => self.recipe.at(now).make(self.snapshot.as_deref()),
        };
        match restarted {
            Ok(Made { instance, carried }) => {
                self.instance = instance;
                self.snapshot.take_if(|_| !carried);
                self.tape = Tape::begin(now, self.snapshot.clone());
                self.frames_since = 0;
                self.tell(|told| told.guest += 1);
                Ok(())
            }
            Err(fault) => {
                compiled.broke(PolicyRole::Shadow, group, config, &fault, Some(capsule));
                Err(fault.to_string())
            }
        }
    }

    fn tell(&self, change: impl FnOnce(&mut Told)) {
        let figures = self.comparison.figures;
        self.told.send_modify(|told| {
            told.figures = figures;
            change(told);
        });
    }
}
