//! A policy bound to a group: it goes on after faults, until there were too many.
//!
//! Its guest is at its seat, where it answers, or away with an errand. The shard waits for neither: an ask that comes meanwhile
//! waits here, one at most, and the scheduler serves its rows by itself where that takes too long.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::Timestamp;
use sluicegate_protocol::admin::{PolicyRole, PolicyRuns};
use sluicegate_scheduler::{Ask, Plan};

use super::briefing::{Briefing, Directory};
use super::capsule::{Call, Capsule, Failed, Origin};
use super::compiled::CompiledPolicy;
use super::fault::PolicyFault;
use super::guest::LogLine;
use super::guest_time::{GuestTime, Turn};
use super::instance::{PolicyInstance, StateBlob};
use super::limits::{OVERSPENT_FOR, THREAD_PERCENT};
use super::recipe::Recipe;
use super::strikes::{Strike, Strikes};
use super::tape::Tape;
use super::threads::{Done, Errand, Heir, Return, Room, Snapshot, Ticket, Work, timed};
use super::untold::Untold;

/// Frames after which a snapshot is taken.
const SNAPSHOT_FRAMES: u32 = 1_000;
/// Time within which no second one is taken.
const SNAPSHOT_EARLIEST: Duration = Duration::from_secs(1);
/// Time after which a snapshot is taken.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(10);
/// How much later a new guest is made when the policy threads have no room.
const ROOM_AFTER: Duration = Duration::from_millis(100);

/// What a shard keeps for a group with a policy.
pub(crate) struct BoundPolicy {
    recipe: Recipe,
    ticket: Ticket,
    bound_at: Timestamp,
    seat: Seat,
    /// A question for the guest, which is away for it once the errand is sent.
    errand: Option<(Work, Room)>,
    /// Came while the guest was away.
    waiting: Option<Ask>,
    untold: Untold,
    /// What the guest knows by name.
    briefing: Briefing,
    /// What it was told and asked since its last snapshot.
    tape: Tape,
    snapshot: Option<Arc<StateBlob>>,
    snapshot_at: Timestamp,
    frames_since: u32,
    strikes: Strikes,
    time: GuestTime,
    spent: Spent,
}

/// Where the guest is.
enum Seat {
    Here(PolicyInstance),
    Away,
    /// It failed; from then on a new one is made.
    Vacant {
        from: Timestamp,
        failed: Option<PolicyInstance>,
    },
}

/// What came of asking. Nothing yet, if it is neither answered nor struck.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    /// The ask with this sequence has this plan. Without a plan built-in scheduling serves its rows.
    pub(crate) answer: Option<(u64, Option<Plan>)>,
    pub(crate) strike: Option<Strike>,
}

/// What guests used and lost since it was last taken.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spent {
    /// Processor time on the shard.
    pub(crate) on_shard: Duration,
    /// Processor time of policy threads.
    pub(crate) off_shard: Duration,
    /// Outcomes that no guest was told.
    pub(crate) feedback_dropped: u64,
}

/// A guest on its way out, for one that takes its place.
pub(super) struct Leaving {
    pub(super) instance: Option<PolicyInstance>,
    pub(super) state: Option<Arc<StateBlob>>,
}

impl BoundPolicy {
    /// Starts a policy for a group, here and now: for a broker that serves nobody yet.
    ///
    /// # Errors
    /// The policy refuses its configuration, or fails in its first call.
    pub(crate) fn begin(recipe: Recipe, ticket: Ticket) -> Result<Self, PolicyFault> {
        let made = recipe.make(None)?;
        let now = recipe.init.now;
        Ok(Self::new(recipe, ticket, Heir { made, state: None }, now))
    }

    fn new(recipe: Recipe, ticket: Ticket, heir: Heir, now: Timestamp) -> Self {
        let tape = Tape::begin(recipe.init.now, heir.state.clone());
        Self {
            recipe,
            ticket,
            bound_at: now,
            seat: Seat::Here(heir.made.instance),
            errand: None,
            waiting: None,
            untold: Untold::default(),
            briefing: Briefing::default(),
            tape,
            snapshot: heir.state,
            snapshot_at: now,
            frames_since: 0,
            strikes: Strikes::default(),
            time: GuestTime::default(),
            spent: Spent::default(),
        }
    }

    /// Takes the place of another. What that one used counts for the group; of what it was to be told a policy of the same name is
    /// told the rest.
    pub(super) fn succeed(
        recipe: Recipe,
        ticket: Ticket,
        heir: Heir,
        now: Timestamp,
        before: Option<&mut Self>,
    ) -> Self {
        let mut this = Self::new(recipe, ticket, heir, now);
        if let Some(before) = before {
            this.time = std::mem::take(&mut before.time);
            this.spent = std::mem::take(&mut before.spent);
            if before.compiled().descriptor().name == this.compiled().descriptor().name {
                before.forget_waiting();
                this.untold = std::mem::take(&mut before.untold);
            }
        }
        this
    }

    /// The policy.
    pub(crate) fn compiled(&self) -> &Arc<CompiledPolicy> {
        &self.recipe.compiled
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Since when it decides; what was said before was said by another.
    pub(crate) const fn bound_at(&self) -> Timestamp {
        self.bound_at
    }

    /// Where its frames are answered at present.
    pub(crate) fn runs(&self) -> PolicyRuns {
        match self.seat {
            Seat::Vacant { .. } => PolicyRuns::Restarting,
            Seat::Here(_) | Seat::Away if self.time.is_resting() => PolicyRuns::Resting,
            Seat::Here(_) | Seat::Away if self.time.is_off_shard() => PolicyRuns::OffShard,
            Seat::Here(_) | Seat::Away => PolicyRuns::OnShard,
        }
    }

    /// What was used since the last time that somebody asked.
    pub(crate) fn take_spent(&mut self) -> Spent {
        self.spent.feedback_dropped += self.untold.take_dropped();
        std::mem::take(&mut self.spent)
    }

    /// Has the policy decide: at once, or later, as [`Self::returned`] tells.
    pub(crate) fn ask(&mut self, now: Timestamp, ask: Ask, directory: &mut dyn Directory) -> Heard {
        match self.seat {
            Seat::Here(_) => {}
            Seat::Away => {
                self.forget_waiting();
                self.waiting = Some(ask);
                return Heard::default();
            }
            Seat::Vacant { .. } => return self.miss(ask),
        }
        match self.time.turn(now) {
            Turn::OnShard => self.answer(now, ask, directory),
            Turn::OffShard => self.send_away(now, ask, directory),
            Turn::Rest => self.miss(ask),
            Turn::Overspent => {
                let seconds = OVERSPENT_FOR.as_secs();
                let fault = PolicyFault::Overspent { percent: THREAD_PERCENT, seconds };
                let strike = self.count_strike(now, Call::None, Vec::new(), fault);
                Heard { strike: Some(strike), ..self.miss(ask) }
            }
        }
    }

    /// What a policy thread did for this binding.
    pub(crate) fn returned(&mut self, now: Timestamp, Return { spent, done, .. }: Return) -> Heard {
        self.spent.off_shard += spent;
        self.time.spent_off_shard(now, spent);
        match done {
            Done::Made(Ok(made)) => {
                self.snapshot.take_if(|_| !made.carried);
                self.tape.start.state.clone_from(&self.snapshot);
                self.seat = Seat::Here(made.instance);
                Heard::default()
            }
            Done::Made(Err(fault)) => {
                let mut strike = self.count_strike(now, Call::Start, Vec::new(), fault);
                if !strike.open {
                    self.open(&mut strike);
                }
                Heard::struck(strike)
            }
            Done::Answered { instance, question, answer, snapshot } => {
                let sequence = question.frame.sequence;
                match answer {
                    Ok((said, plan)) => {
                        self.frames_since += 1;
                        self.tape.answered(*question, said);
                        let strike = self.seated(now, instance, snapshot);
                        Heard { answer: Some((sequence, Some(plan))), strike }
                    }
                    Err(fault) => {
                        let strike = self.failed(now, instance, Call::Ask(question), fault);
                        Heard { answer: Some((sequence, None)), strike: Some(strike) }
                    }
                }
            }
            Done::Snapshot { instance, snapshot } => {
                Heard { answer: None, strike: self.seated(now, instance, Some(snapshot)) }
            }
            Done::HandedOver(_) => unreachable!("a successor has a ticket of its own"),
        }
    }

    /// Something for a policy thread: a question, a snapshot that is due, a new guest.
    pub(crate) fn next_errand(&mut self, now: Timestamp) -> Option<Errand> {
        if let Some((work, room)) = self.errand.take() {
            return Some(self.errand(work, room));
        }
        match self.seat {
            Seat::Here(_) if self.is_snapshot_due(now) => {}
            Seat::Vacant { from, .. } if from <= now => {}
            Seat::Here(_) | Seat::Away | Seat::Vacant { .. } => return None,
        }
        let Some(room) = self.compiled().threads().room() else {
            if let Seat::Vacant { from, .. } = &mut self.seat {
                *from = now.plus(ROOM_AFTER);
            }
            return None;
        };
        let work = match std::mem::replace(&mut self.seat, Seat::Away) {
            Seat::Here(instance) => Work::Snapshot(instance),
            Seat::Vacant { failed, .. } => {
                self.tape = Tape::begin(now, self.snapshot.clone());
                Work::Make { recipe: self.recipe.at(now), state: self.snapshot.clone(), failed }
            }
            Seat::Away => return None,
        };
        Some(self.errand(work, room))
    }

    /// When the next errand comes by itself.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        match self.seat {
            Seat::Vacant { from, .. } => Some(from),
            Seat::Here(_) | Seat::Away => None,
        }
    }

    /// The ask that waits for the guest, which is here again.
    pub(crate) fn take_waiting(&mut self) -> Option<Ask> {
        self.waiting.take_if(|_| matches!(self.seat, Seat::Here(_)))
    }

    /// Names or labels changed: what the policy was told is told again.
    pub(crate) fn tell_names_again(&mut self) {
        self.briefing.tell_names_again();
    }

    /// The guest leaves its seat for good, unless it is away: then it has to be asked again when it is back.
    pub(super) fn leave(&mut self) -> Option<Leaving> {
        let state = self.snapshot.clone();
        let instance = match std::mem::replace(&mut self.seat, Seat::Away) {
            Seat::Here(instance) => Some(instance),
            Seat::Vacant { .. } => None,
            Seat::Away => return None,
        };
        Some(Leaving { instance, state })
    }

    /// Who was to take its place does not: its guest is back at its seat, or a new one is made.
    pub(super) fn stay(&mut self, now: Timestamp, instance: Option<PolicyInstance>) {
        self.seat = match instance {
            Some(instance) => Seat::Here(instance),
            None => Seat::Vacant { from: now, failed: None },
        };
    }

    fn answer(&mut self, now: Timestamp, mut ask: Ask, directory: &mut dyn Directory) -> Heard {
        self.untold.add_to(&mut ask);
        let question = self.briefing.question(self.recipe.compiled.descriptor(), &ask, directory);
        let Seat::Here(instance) = &mut self.seat else { return self.miss(ask) };
        let (answer, spent) = timed(|| instance.say(&question));
        self.spent.on_shard += spent;
        self.time.spent_on_shard(now, spent);
        let sequence = ask.frame.sequence;
        match answer {
            Ok((said, plan)) => {
                self.frames_since += 1;
                self.tape.answered(question, said);
                Heard { answer: Some((sequence, Some(plan))), strike: None }
            }
            Err(fault) => {
                let strike = match std::mem::replace(&mut self.seat, Seat::Away) {
                    Seat::Here(instance) => Some(self.failed(now, instance, Call::Ask(Box::new(question)), fault)),
                    Seat::Away | Seat::Vacant { .. } => None,
                };
                Heard { answer: Some((sequence, None)), strike }
            }
        }
    }

    /// A policy thread is to answer.
    fn send_away(&mut self, now: Timestamp, mut ask: Ask, directory: &mut dyn Directory) -> Heard {
        let Some(room) = self.compiled().threads().room() else { return self.miss(ask) };
        self.untold.add_to(&mut ask);
        let question = self.briefing.question(self.recipe.compiled.descriptor(), &ask, directory);
        let is_snapshot_due = self.is_snapshot_due(now);
        match std::mem::replace(&mut self.seat, Seat::Away) {
            Seat::Here(instance) => {
                self.errand = Some((Work::Answer { instance, question: Box::new(question), is_snapshot_due }, room));
            }
            seat @ (Seat::Away | Seat::Vacant { .. }) => self.seat = seat,
        }
        Heard::default()
    }

    /// Nobody answers this ask; what it tells is told with the next one.
    fn miss(&mut self, ask: Ask) -> Heard {
        let sequence = ask.frame.sequence;
        self.untold.keep(ask.feedback);
        Heard { answer: Some((sequence, None)), strike: None }
    }

    /// The scheduler gave up on the ask that waits.
    fn forget_waiting(&mut self) {
        if let Some(ask) = self.waiting.take() {
            self.untold.keep(ask.feedback);
        }
    }

    /// Away -> Here, with what came of a snapshot.
    fn seated(&mut self, now: Timestamp, instance: PolicyInstance, snapshot: Option<Snapshot>) -> Option<Strike> {
        match snapshot {
            None => {}
            Some(Ok(state)) => {
                (self.frames_since, self.snapshot_at) = (0, now);
                let state = state.map(Arc::new);
                self.tape.snapshot_taken(state.as_ref());
                self.snapshot = state.or(self.snapshot.take());
            }
            Some(Err(fault)) => return Some(self.failed(now, instance, Call::Snapshot, fault)),
        }
        self.seat = Seat::Here(instance);
        None
    }

    /// -> Vacant
    fn failed(&mut self, now: Timestamp, mut instance: PolicyInstance, call: Call, fault: PolicyFault) -> Strike {
        let strike = self.count_strike(now, call, instance.last_words(), fault);
        let from = self.strikes.restart_from(now);
        self.seat = Seat::Vacant { from, failed: Some(instance) };
        self.briefing = Briefing::default();
        self.time.leave_shard(now);
        if from > now {
            self.forget_waiting();
        }
        strike
    }

    /// Counts a fault, which leaves a capsule. A guest that goes on has its tape go on too.
    fn count_strike(&mut self, now: Timestamp, call: Call, log: Vec<LogLine>, fault: PolicyFault) -> Strike {
        let strikes = self.strikes.count(now);
        let tape = match call {
            Call::None => self.tape.clone(),
            Call::Start | Call::Ask(_) | Call::Snapshot => std::mem::take(&mut self.tape),
        };
        let Recipe { compiled, config, init } = &self.recipe;
        let origin = Origin { compiled, config, init, role: PolicyRole::Deciding, strikes };
        let capsule = Capsule::of(&origin, now, tape, Failed { call, fault: fault.clone() }, log);
        let mut strike = Strike { fault, strikes, open: false, capsule: compiled.leave(capsule) };
        if self.strikes.are_too_many() {
            self.open(&mut strike);
        }
        strike
    }

    /// It may decide no more.
    fn open(&self, strike: &mut Strike) {
        strike.open = true;
        let (group, capsule) = (&self.recipe.init.group, Some(strike.capsule.clone()));
        self.compiled().broke(PolicyRole::Deciding, group, &self.recipe.config, &strike.fault, capsule);
    }

    fn is_snapshot_due(&self, now: Timestamp) -> bool {
        let since = now.since(self.snapshot_at);
        self.frames_since > 0
            && self.compiled().descriptor().state_schema != 0
            && (since >= SNAPSHOT_EVERY
                || (since >= SNAPSHOT_EARLIEST && self.frames_since >= SNAPSHOT_FRAMES)
                || self.tape.wants_snapshot())
    }

    fn errand(&self, work: Work, room: Room) -> Errand {
        Errand { ticket: self.ticket, work, threads: self.compiled().threads().clone(), room }
    }
}

impl Heard {
    fn struck(strike: Strike) -> Self {
        Self { answer: None, strike: Some(strike) }
    }
}
