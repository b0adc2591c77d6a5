//! Threads for what guests do that no shard waits for: starts, snapshots, and the frames of those that compute much.
//!
//! An [`Errand`] takes along what it needs and is done with as a [`Return`], which the shard gets as it gets commands. A binding has
//! one errand under way at most. Nothing here decides anything.

use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cpu_time::ThreadTime;
use sluicegate_protocol::GroupId;
use sluicegate_scheduler::Plan;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::briefing::Question;
use super::fault::PolicyFault;
use super::instance::{PolicyInstance, StateBlob};
use super::recipe::{Made, Recipe};
use super::types;

/// Errands that wait for a policy thread. Who finds no room goes on without.
const ERRANDS_MAX: usize = 1_024;
/// Policy threads at most; a quarter of the cores below that, at least one.
const THREADS_MAX: usize = 4;
/// Returned errands that wait for their shard; beyond it policy threads wait.
const RETURNS_MAX: usize = 1_024;

/// Hands errands to the policy threads, which end with the last of these. Cheap to share.
#[derive(Clone)]
pub(crate) struct PolicyThreads {
    queue: SyncSender<Sent>,
    room: Arc<Semaphore>,
}

/// One place in the queue.
pub(super) struct Room(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit);

/// For which binding of which group an errand is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) group: GroupId,
    /// Counts the bindings of the group.
    pub(crate) binding: u64,
}

/// Something to be done by a policy thread.
pub(crate) struct Errand {
    pub(super) ticket: Ticket,
    pub(super) work: Work,
    pub(super) threads: PolicyThreads,
    pub(super) room: Room,
}

/// What is to be done.
pub(super) enum Work {
    /// A guest is made, in the place of one that failed.
    Make { recipe: Recipe, state: Option<Arc<StateBlob>>, failed: Option<PolicyInstance> },
    /// A question is answered, and then a snapshot taken where one is due.
    Answer { instance: PolicyInstance, question: Box<Question>, is_snapshot_due: bool },
    /// A snapshot is taken.
    Snapshot(PolicyInstance),
    /// A guest that was just made goes on from the state of the one before, or from an earlier one.
    HandOver(Box<HandOver>),
}

/// What it takes for one guest to take over from another.
pub(super) struct HandOver {
    pub(super) recipe: Recipe,
    pub(super) made: PolicyInstance,
    pub(super) before: Option<PolicyInstance>,
    /// The last snapshot, for when there is no newer one.
    pub(super) state: Option<Arc<StateBlob>>,
}

/// An errand that is done.
pub(crate) struct Return {
    pub(crate) ticket: Ticket,
    /// Processor time that it took.
    pub(crate) spent: Duration,
    pub(super) done: Done,
}

/// A snapshot; none from a policy that gives none.
pub(super) type Snapshot = Result<Option<StateBlob>, PolicyFault>;

/// What was done.
pub(super) enum Done {
    Made(Result<Made, PolicyFault>),
    /// The question comes back, and so does a guest that failed.
    Answered {
        instance: PolicyInstance,
        question: Box<Question>,
        answer: Result<(types::Plan, Plan), PolicyFault>,
        snapshot: Option<Snapshot>,
    },
    Snapshot {
        instance: PolicyInstance,
        snapshot: Snapshot,
    },
    HandedOver(Result<Heir, Kept>),
}

/// A guest that takes over.
pub(super) struct Heir {
    pub(super) made: Made,
    /// What it goes on from.
    pub(super) state: Option<Arc<StateBlob>>,
}

/// No guest took over: the one before goes on.
pub(super) struct Kept {
    pub(super) before: Option<PolicyInstance>,
    pub(super) fault: PolicyFault,
}

struct Sent {
    errand: Errand,
    home: mpsc::Sender<Return>,
}

/// Where a shard gets its errands back.
pub(crate) fn returns() -> (mpsc::Sender<Return>, mpsc::Receiver<Return>) {
    mpsc::channel(RETURNS_MAX)
}

impl PolicyThreads {
    pub(super) fn start() -> std::io::Result<Self> {
        let (queue, errands) = sync_channel(ERRANDS_MAX);
        let errands = Arc::new(Mutex::new(errands));
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        for number in 0..(cores / 4).clamp(1, THREADS_MAX) {
            let errands = Arc::clone(&errands);
            thread::Builder::new().name(format!("policy-{number}")).spawn(move || work(&errands))?;
        }
        Ok(Self { queue, room: Arc::new(Semaphore::new(ERRANDS_MAX)) })
    }

    /// Room for one errand, if there is.
    pub(super) fn room(&self) -> Option<Room> {
        Arc::clone(&self.room).try_acquire_owned().ok().map(Room)
    }
}

impl Errand {
    /// Has a policy thread do it and tell this shard.
    pub(crate) fn send(self, home: &mpsc::Sender<Return>) {
        let queue = self.threads.queue.clone();
        let sent = queue.try_send(Sent { errand: self, home: home.clone() });
        sent.expect("it has room, and the threads end with their last handle");
    }

    /// Does it here.
    pub(super) fn run(self) -> Return {
        let Self { ticket, work, room, .. } = self;
        let (done, spent) = timed(|| work.run());
        drop(room);
        Return { ticket, spent, done }
    }
}

impl Work {
    fn run(self) -> Done {
        match self {
            Self::Make { recipe, state, failed } => {
                drop(failed);
                Done::Made(recipe.make(state.as_deref()))
            }
            Self::Answer { mut instance, question, is_snapshot_due } => {
                let answer = instance.say(&question);
                let snapshot = (is_snapshot_due && answer.is_ok()).then(|| instance.snapshot());
                Done::Answered { instance, question, answer, snapshot }
            }
            Self::Snapshot(mut instance) => {
                let snapshot = instance.snapshot();
                Done::Snapshot { instance, snapshot }
            }
            Self::HandOver(over) => {
                let HandOver { recipe, made, mut before, state } = *over;
                // If it fails now, it fails for who decides no more, or it is noticed at its next frame.
                let fresh = before.as_mut().and_then(|before| before.snapshot().ok().flatten());
                let state = fresh.map(Arc::new).or(state);
                let heir = match recipe.go_on(made, state.as_deref()) {
                    Ok(made) => Ok(Heir { state: state.filter(|_| made.carried), made }),
                    Err(fault) => Err(Kept { before, fault }),
                };
                Done::HandedOver(heir)
            }
        }
    }
}

/// What the closure answers, and the processor time that it took.
pub(super) fn timed<R>(call: impl FnOnce() -> R) -> (R, Duration) {
    let begun = ThreadTime::now();
    let answer = call();
    (answer, begun.elapsed())
}

fn work(errands: &Mutex<Receiver<Sent>>) {
    loop {
        let next = errands.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Sent { errand, home }) = next else { return };
        // Of a shard that is gone nobody misses it.
        let _ = home.blocking_send(errand.run());
    }
}
