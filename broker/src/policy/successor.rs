//! A policy that is to decide next. Its guest is made aside while the one before goes on, and takes over between two frames.

use sluicegate_protocol::Timestamp;

use super::bound::BoundPolicy;
use super::fault::PolicyFault;
use super::instance::PolicyInstance;
use super::recipe::{Made, Recipe};
use super::threads::{Done, Errand, HandOver, Heir, Return, Room, Ticket, Work};

/// Not bound yet.
pub(crate) struct Successor {
    recipe: Recipe,
    ticket: Ticket,
    /// Made, and waiting for the one before to hand over.
    made: Option<PolicyInstance>,
    /// For that: kept from the beginning, so that it waits for nobody but the one before.
    hand_over: Option<Room>,
}

/// What came of an errand for a successor.
pub(crate) enum Progress {
    /// It may take over as soon as the one before can hand over.
    Ready,
    /// It decides from now on.
    Decides(Box<Succession>),
    /// It does not start; the one before goes on.
    Refused(PolicyFault),
}

/// A successor that decides.
pub(crate) struct Succession {
    pub(crate) bound: BoundPolicy,
    /// It goes on from the state of the one before.
    pub(crate) carried: bool,
}

impl Successor {
    /// Answers what a policy thread has to do first; nothing if those have no room.
    pub(crate) fn begin(recipe: Recipe, ticket: Ticket) -> Option<(Self, Errand)> {
        let (room, hand_over) = (recipe.compiled.threads().room()?, recipe.compiled.threads().room()?);
        let this = Self { recipe, ticket, made: None, hand_over: Some(hand_over) };
        let work = Work::Make { recipe: this.recipe.clone(), state: None, failed: None };
        let errand = this.errand(work, room);
        Some((this, errand))
    }

    pub(crate) fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// What a policy thread did for it.
    pub(crate) fn returned(
        &mut self,
        now: Timestamp,
        Return { done, .. }: Return,
        before: Option<&mut BoundPolicy>,
    ) -> Progress {
        match done {
            Done::Made(Ok(Made { instance, .. })) if self.goes_on_from(before.as_deref()) => {
                self.made = Some(instance);
                Progress::Ready
            }
            Done::Made(Ok(made)) => Progress::Decides(Box::new(self.succeed(now, Heir { made, state: None }, before))),
            Done::HandedOver(Ok(heir)) => Progress::Decides(Box::new(self.succeed(now, heir, before))),
            Done::HandedOver(Err(kept)) => {
                if let Some(before) = before {
                    before.stay(now, kept.before);
                }
                Progress::Refused(kept.fault)
            }
            Done::Made(Err(fault)) => Progress::Refused(fault),
            Done::Answered { .. } | Done::Snapshot { .. } => unreachable!("it has no frames before it decides"),
        }
    }

    /// Has the one before hand over, if both can. One that is gone meanwhile leaves nothing.
    pub(crate) fn next_errand(&mut self, before: Option<&mut BoundPolicy>) -> Option<Errand> {
        self.made.as_ref()?;
        let (before, state) = match before {
            Some(before) => before.leave().map(|leaving| (leaving.instance, leaving.state))?,
            None => (None, None),
        };
        let (made, room) = self.made.take().zip(self.hand_over.take())?;
        let work = Work::HandOver(Box::new(HandOver { recipe: self.recipe.clone(), made, before, state }));
        Some(self.errand(work, room))
    }

    /// A state means something to its own policy only.
    fn goes_on_from(&self, before: Option<&BoundPolicy>) -> bool {
        let own = self.recipe.compiled.descriptor();
        own.state_schema != 0 && before.is_some_and(|before| before.compiled().descriptor().name == own.name)
    }

    fn succeed(&self, now: Timestamp, heir: Heir, before: Option<&mut BoundPolicy>) -> Succession {
        let carried = heir.made.carried;
        let bound = BoundPolicy::succeed(self.recipe.clone(), self.ticket, heir, now, before);
        Succession { bound, carried }
    }

    fn errand(&self, work: Work, room: Room) -> Errand {
        Errand { ticket: self.ticket, work, threads: self.recipe.compiled.threads().clone(), room }
    }
}
