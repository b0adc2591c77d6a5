//! The closed loop: publishes, decides, works, settles.

use std::collections::BTreeMap;
use std::collections::btree_map::OccupiedEntry;
use std::time::Duration;

use sluicegate_protocol::limits::{CREDIT_MESSAGES_MAX, SUSPEND_MAX, SUSPEND_MIN, WEIGHT_MAX};
use sluicegate_protocol::{LiteId, TenantId, Timestamp};

use super::books::Books;
use super::facts::Facts;
use super::group::Group;
use super::job::{Job, Names};
use super::report::{Counts, Report};
use super::waiting::{Message, Waiting};
use crate::asks::{THROTTLE_MAX, THROTTLE_MIN};
use crate::{
    Ask, Charge, Decision, Ending, Event, HoldSource, Plan, Scheduler, Scope, SessionKey, Verdict, WorkResult,
};

/// When every run begins.
pub const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Load of a session without a free slot.
const LOAD_PPM_MAX: u64 = 1_000_000;

/// Who decides.
pub enum Decider<'a> {
    /// Built-in fair scheduling, all weights the default.
    Fair,
    /// A policy: it answers at once. An error is a fault, and built-in fair scheduling serves those rows for a while.
    Policy(&'a mut dyn FnMut(&Ask, &Facts<'_>) -> Result<Plan, String>),
}

/// A group in virtual time.
#[derive(Debug, Clone)]
pub struct Simulation {
    group: Group,
    suspensions: Vec<(Duration, Suspension)>,
}

#[derive(Debug, Clone, Copy)]
struct Suspension {
    tenant: TenantId,
    lite: LiteId,
    span: Duration,
}

impl Simulation {
    /// Nothing happens in it yet.
    ///
    /// # Panics
    /// If there is no session or no slot, or a session has more slots than a consumer may have credit.
    pub fn new(group: Group) -> Self {
        let slots = group.slots;
        assert!(group.sessions > 0 && slots > 0, "nobody would work: {} sessions of {slots} slots", group.sessions);
        assert!(slots <= CREDIT_MESSAGES_MAX, "a session has at most {CREDIT_MESSAGES_MAX} slots, not {slots}");
        Self { group, suspensions: Vec::new() }
    }

    /// An operator suspends a lite topic, so long after the start, for this long.
    #[must_use]
    pub fn suspend(mut self, after: Duration, tenant: TenantId, lite: LiteId, span: Duration) -> Self {
        self.suspensions.push((after, Suspension { tenant, lite, span }));
        self
    }

    /// Lets happen what happens in this span, or until there is nothing more to do. Jobs come in the order of their times; those after
    /// the span are not drawn, but for the first.
    ///
    /// # Panics
    /// If a job comes before the one before it, or a lite topic has jobs of two tenants.
    pub fn run(
        &self,
        names: &Names,
        jobs: impl IntoIterator<Item = Job>,
        decider: Decider<'_>,
        span: Duration,
    ) -> Report {
        let mut run = Run::new(&self.group, names, decider);
        for &(after, suspension) in &self.suspensions {
            run.plan(START.plus(after), Happening::Suspend(suspension));
        }
        run.until(START.plus(span), jobs.into_iter());
        run.books.close(&run.waiting)
    }
}

/// Something that is to happen.
#[derive(Debug)]
enum Happening {
    Suspend(Suspension),
    Finish(Lease),
    /// The holds of this lite topic may be over, or its head may be due.
    Release(usize),
}

/// A message in work.
#[derive(Debug)]
struct Lease {
    row: usize,
    message: Message,
    session: SessionKey,
    charge: Charge,
    /// Place of the delivery in the books.
    delivery: usize,
}

/// A run that goes on.
struct Run<'a, 'd> {
    group: &'a Group,
    names: &'a Names,
    decider: Decider<'d>,
    scheduler: Scheduler,
    now: Timestamp,
    /// By time, then in the order in which they were planned.
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    planned: u64,
    waiting: Waiting,
    /// Slots in work, by session.
    busy: BTreeMap<SessionKey, u32>,
    books: Books,
}

impl<'a, 'd> Run<'a, 'd> {
    fn new(group: &'a Group, names: &'a Names, decider: Decider<'d>) -> Self {
        let (quotas, concurrency) = (group.quotas(), group.concurrency());
        let mut scheduler = Scheduler::new(START, quotas, concurrency, None, group.seed);
        scheduler.handle(START, Event::Watchdog(group.settings.watchdog()));
        let sessions = (1..=group.sessions).map(|nth| SessionKey(nth.into()));
        for session in sessions.clone() {
            scheduler.handle(START, Event::Attached(session, Scope::All));
            scheduler.handle(START, Event::Credit(session, group.slots));
        }
        if let Decider::Policy(_) = decider {
            scheduler.handle(START, Event::PolicyBound);
        }
        Self {
            group,
            names,
            decider,
            scheduler,
            now: START,
            agenda: BTreeMap::new(),
            planned: 0,
            waiting: Waiting::default(),
            busy: sessions.map(|session| (session, 0)).collect(),
            books: Books::new(concurrency, quotas, group.capacity()),
        }
    }

    fn until(&mut self, end: Timestamp, jobs: impl Iterator<Item = Job>) {
        let mut jobs = jobs.peekable();
        loop {
            self.decide();
            let published = jobs.peek().map(|job| START.plus(job.at));
            let planned = self.agenda.first_key_value().map(|(&(at, _), _)| at);
            let next = [published, planned, self.scheduler.next_timeout()].into_iter().flatten().min();
            let Some(next) = next else { return };
            self.now = self.now.max(next.min(end));
            self.books.advance(self.now);
            if next > end {
                return;
            }
            while let Some(happening) = self.next_due() {
                self.happen(happening);
            }
            while let Some(job) = jobs.next_if(|job| START.plus(job.at) <= self.now) {
                assert!(
                    START.plus(job.at) == self.now,
                    "a job of {:?} comes after {:?}",
                    job.at,
                    self.now.since(START)
                );
                self.publish(job);
            }
        }
    }

    fn plan(&mut self, at: Timestamp, happening: Happening) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), happening);
    }

    fn next_due(&mut self) -> Option<Happening> {
        let first = self.agenda.first_entry().filter(|first| first.key().0 <= self.now);
        first.map(OccupiedEntry::remove)
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Suspend(Suspension { tenant, lite, span }) => {
                let tenant_row = self.books.tenant(tenant);
                let row = self.waiting.row_of(lite, tenant_row);
                let until = self.now.plus(span);
                self.scheduler.handle(self.now, Event::Held { lite, tenant, source: HoldSource::Operator, until });
                self.hold(row, until);
            }
            Happening::Finish(lease) => self.finish(lease),
            Happening::Release(row) => self.books.look(row, self.waiting.get(row)),
        }
    }

    fn publish(&mut self, job: Job) {
        let tenant = self.books.tenant(job.tenant);
        let row = self.waiting.row_of(job.lite, tenant);
        self.waiting.get_mut(row).publish(job, self.now);
        self.books.published(tenant);
        self.tell(row);
    }

    /// The scheduler learns what the lite topic has.
    fn tell(&mut self, row: usize) {
        let lite = self.waiting.get(row);
        self.scheduler.handle(self.now, lite.news());
        self.books.look(row, lite);
        if let Some(due) = lite.due().filter(|&due| due > self.now) {
            self.plan(due, Happening::Release(row));
        }
    }

    /// No deliveries of the lite topic before this time.
    fn hold(&mut self, row: usize, until: Timestamp) {
        let lite = self.waiting.get_mut(row);
        lite.held_until = lite.held_until.max(until);
        self.books.look(row, lite);
        self.plan(until, Happening::Release(row));
    }

    fn decide(&mut self) {
        while let Some(decision) = self.scheduler.poll(self.now) {
            self.books.decided(&decision);
            match decision {
                Decision::Deliver { lite, session, charge, .. } => self.deliver(lite, session, charge),
                Decision::Ask(ask) => self.ask(&ask),
                // The plan said so: nothing is to be stored here.
                Decision::Suspend { .. } => {}
                Decision::Expired { lite, .. } => self.skip(lite).expired += 1,
                Decision::DeadLetter { lite, .. } => self.skip(lite).dead_lettered += 1,
                Decision::Drop { lite, .. } => self.skip(lite).dropped += 1,
            }
        }
        self.books.rested(self.scheduler.stats().gate, self.scheduler.service_gap());
    }

    /// Waiting -> Leased
    fn deliver(&mut self, lite: LiteId, session: SessionKey, charge: Charge) {
        let row = self.waiting.find(lite);
        let lite = self.waiting.get_mut(row);
        let message = lite.waiting.pop_front().expect("only what waits is delivered");
        lite.open += 1;
        let delivery = self.books.delivered(lite, &message, charge);
        self.set_busy(session, self.busy[&session] + 1);
        let at = self.now.plus(message.job.service);
        self.plan(at, Happening::Finish(Lease { row, message, session, charge, delivery }));
        self.tell(row);
    }

    /// Leased -> Settled, or Waiting again.
    fn finish(&mut self, lease: Lease) {
        let Lease { row, mut message, session, charge, delivery } = lease;
        let has_failed = message.attempts < message.job.failures;
        message.attempts += 1;
        let result = match has_failed {
            true if message.attempts >= self.group.settings.max_attempts => WorkResult::DeadLettered,
            true => WorkResult::Retried,
            false => WorkResult::Done,
        };
        let (lite, tenant) = (message.job.lite, message.job.tenant);
        let retry_after = message.job.retry_after.filter(|_| has_failed);
        let ending =
            Ending::Used { cost: Some(message.job.measured), service: message.job.service, result, retry_after };
        self.waiting.get_mut(row).open -= 1;
        self.books.ended(self.waiting.get(row).tenant, delivery, charge, result);
        if result == WorkResult::Retried {
            let delay = retry_after.unwrap_or_else(|| self.group.back_off(message.attempts));
            let until = self.now.plus(delay);
            self.waiting.get_mut(row).put_back(message);
            self.scheduler.handle(self.now, Event::Held { lite, tenant, source: HoldSource::Retry, until });
            self.hold(row, until);
        }
        self.scheduler.handle(self.now, Event::Settled { lite, charge, ending });
        self.scheduler.handle(self.now, Event::Credit(session, 1));
        self.set_busy(session, self.busy[&session] - 1);
        self.tell(row);
    }

    /// The session reports how many of its slots are in work.
    fn set_busy(&mut self, session: SessionKey, busy: u32) {
        self.busy.insert(session, busy);
        let load_ppm = u64::from(busy) * LOAD_PPM_MAX / u64::from(self.group.slots);
        let load_ppm = u32::try_from(load_ppm).expect("at most a million");
        self.scheduler.handle(self.now, Event::Load(session, load_ppm));
    }

    /// Waiting -> Settled, without a delivery. The counts are to say why.
    fn skip(&mut self, lite: LiteId) -> &mut Counts {
        let row = self.waiting.find(lite);
        let message = self.waiting.get_mut(row).waiting.pop_front().expect("only what waits is skipped");
        self.tell(row);
        self.books.skipped(self.waiting.get(row).tenant, &message)
    }

    fn ask(&mut self, ask: &Ask) {
        let sequence = ask.frame.sequence;
        let Decider::Policy(decide) = &mut self.decider else {
            unreachable!("nobody is asked where no policy is bound");
        };
        match decide(ask, &Facts { names: self.names, waiting: &self.waiting }) {
            Ok(plan) if plan.lites.len() == ask.frame.lites.len() => {
                self.note(ask, &plan);
                self.scheduler.handle(self.now, Event::Answered { sequence, plan });
            }
            Ok(plan) => {
                let (answers, rows) = (plan.lites.len(), ask.frame.lites.len());
                self.books.failed(format!("{answers} answers for {rows} lite topics"));
                self.scheduler.handle(self.now, Event::AskFailed { sequence });
            }
            Err(fault) => {
                self.books.failed(fault);
                self.scheduler.handle(self.now, Event::AskFailed { sequence });
            }
        }
    }

    /// Keeps the books on what the policy said.
    fn note(&mut self, ask: &Ask, plan: &Plan) {
        for (tenant, &weight) in ask.frame.tenants.iter().zip(&plan.weights).filter(|(_, weight)| **weight > 0) {
            self.books.weighed(tenant.tenant, weight.min(WEIGHT_MAX));
        }
        for (view, answer) in ask.frame.lites.iter().zip(&plan.lites) {
            let row = self.waiting.find(view.lite);
            self.books.judged(self.waiting.get(row).tenant, answer.verdict);
            match answer.verdict {
                Verdict::Throttle(span) => self.hold(row, self.now.plus(span.clamp(THROTTLE_MIN, THROTTLE_MAX))),
                Verdict::Suspend(span) => self.hold(row, self.now.plus(span.clamp(SUSPEND_MIN, SUSPEND_MAX))),
                Verdict::Serve { .. } | Verdict::DeadLetter | Verdict::Drop => {}
            }
        }
    }
}
