//! A consumer group in its shard: drives the scheduler and carries out what it decides.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::admin::{
    BackOff, ConcurrencySettings, Durability, ExpiredMessages, GroupStats, PolicyStrike, QuotaSettings,
};
use sluicegate_protocol::{GroupId, LiteId, Offset, SessionId, Timestamp};
use sluicegate_scheduler::{
    Charge, Concurrency, Decision, Ending, Event, HoldSource, QuotaState, Quotas, Scheduler, SessionKey, WorkResult,
};
use tokio::sync::mpsc;

use super::ahead::Ahead;
use super::command::{DeliveryOrder, ToConsumer};
use super::cursor::{Counted, Held};
use super::due::Due;
use super::leases::Lease;
use super::ledger::Ledger;
use super::paging::Paging;
use super::policy::Deciding;
use super::record::{self, Recorder};
use super::session::Sessions;
use super::subscribe::Rematches;
use super::subscription::Subscriptions;
use super::wake::AWAKE_MAX;
use super::{Effect, dead_letter, lifecycle};
use crate::catalog::GroupSpec;
use crate::metrics::{Buried, Ended, GroupMeters, Skipped};
use crate::policy::Return;
use crate::store::{BucketKey, BucketRow, ShardId, StoreError, WakeKey};

/// Decisions in one turn, so that one group cannot keep the shard from its mailbox.
const DECISIONS_PER_TURN: usize = 256;

/// A group and all that it has in flight.
pub(super) struct Group {
    pub(super) spec: Arc<GroupSpec>,
    pub(super) scheduler: Scheduler,
    pub(super) sessions: Sessions,
    pub(super) subscriptions: Subscriptions,
    pub(super) rematches: Rematches,
    pub(super) paging: Paging,
    pub(super) ahead: Ahead,
    pub(super) wakes: Due<WakeKey>,
    /// Open leases by deadline.
    pub(super) deadlines: BTreeSet<(Timestamp, LiteId, Offset)>,
    /// The last fault of a policy.
    pub(super) last_strike: Option<PolicyStrike>,
    /// Writes the group's traffic down, while somebody wants it.
    pub(super) recorder: Option<Box<Recorder>>,
    pub(super) deciding: Deciding,
    pub(super) stats: GroupStats,
    pub(super) meters: GroupMeters,
    saved_quota: QuotaState,
    /// More could be decided at once: the last turn stopped at its limit.
    unfinished: bool,
}

impl Group {
    pub(super) fn new(
        (shard, now): (ShardId, Timestamp),
        spec: Arc<GroupSpec>,
        saved: Option<QuotaState>,
        policy_home: mpsc::Sender<Return>,
    ) -> Self {
        let (quotas, concurrency) = (quotas(spec.settings.quotas), concurrency(spec.settings.concurrency));
        let mut scheduler = Scheduler::new(now, quotas, concurrency, saved, u64::from(spec.id.0));
        scheduler.handle(now, Event::Watchdog(spec.settings.watchdog()));
        if spec.paused {
            scheduler.handle(now, Event::Paused);
        }
        Self {
            saved_quota: scheduler.quota_state(),
            wakes: Due::new(WakeKey::of_group(shard, spec.id)),
            scheduler,
            spec,
            sessions: Sessions::default(),
            subscriptions: Subscriptions::default(),
            rematches: Rematches::default(),
            paging: Paging::default(),
            ahead: Ahead::default(),
            deadlines: BTreeSet::new(),
            last_strike: None,
            recorder: None,
            deciding: Deciding::new(policy_home),
            stats: GroupStats::default(),
            meters: GroupMeters::default(),
            unfinished: false,
        }
    }

    pub(super) fn id(&self) -> GroupId {
        self.spec.id
    }

    pub(super) fn lease_time(&self) -> Duration {
        Duration::from_millis(self.spec.settings.lease_ms)
    }

    pub(super) fn session_grace(&self) -> Duration {
        Duration::from_millis(self.spec.settings.session_grace_ms)
    }

    /// The delay after a failed attempt, by the group's back-off.
    pub(super) fn retry_delay(&self, attempt: u32) -> Duration {
        let settings = &self.spec.settings;
        let millis = match settings.retry_back_off {
            BackOff::Fixed => settings.retry_initial_ms,
            BackOff::Exponential => {
                let doubled = settings.retry_initial_ms.saturating_mul(1 << attempt.saturating_sub(1).min(40));
                doubled.min(settings.retry_max_ms)
            }
        };
        Duration::from_millis(millis)
    }

    /// Goes by this spec from now on. The scheduler knows the heads of lite topics with open leases too, so a higher
    /// concurrency needs no look at them.
    pub(super) fn change(&mut self, now: Timestamp, spec: Arc<GroupSpec>) {
        let before = std::mem::replace(&mut self.spec, spec);
        let (was, is) = (&before.settings, &self.spec.settings);
        if was.quotas != is.quotas {
            self.scheduler.handle(now, Event::Quotas(quotas(is.quotas)));
        }
        if was.concurrency != is.concurrency {
            self.scheduler.handle(now, Event::Concurrency(concurrency(is.concurrency)));
        }
        if was.watchdog_ms != is.watchdog_ms {
            self.scheduler.handle(now, Event::Watchdog(is.watchdog()));
        }
        if before.settings.tenant_labels != self.spec.settings.tenant_labels && self.tell_names_again() {
            // What it answered so far, it answered without knowing.
            self.scheduler.handle(now, Event::PolicyBound);
        }
        match (before.paused, self.spec.paused) {
            (false, true) => self.scheduler.handle(now, Event::Paused),
            (true, false) => self.scheduler.handle(now, Event::Unpaused),
            (false, false) | (true, true) => {}
        }
    }

    /// When the group needs a turn even if nothing happens.
    pub(super) fn next_timeout(&self, draining: bool) -> Option<Timestamp> {
        let deadline = self.deadlines.first().map(|(at, _, _)| *at);
        let scheduler = (!draining).then(|| self.scheduler.next_timeout()).flatten();
        let wakes = (!draining).then(|| self.wakes_at()).flatten();
        let now = (self.unfinished && !draining).then_some(Timestamp(0));
        let policy = (!draining).then(|| self.deciding.next_timeout()).flatten();
        [deadline, self.sessions.next_timeout(), scheduler, policy, wakes, now].into_iter().flatten().min()
    }

    /// Tells the scheduler the lite topic's head, as it is now. It does not learn of what sleeps, nor, where many wait, of what no
    /// session takes.
    pub(super) fn announce(&mut self, ledger: &mut Ledger, id: LiteId) -> Result<(), StoreError> {
        let (group, now) = (self.id(), ledger.stage.now());
        let Ledger { stage, lites, .. } = ledger;
        let lite = lites.get(id).expect("its owner just used it");
        let (visible, tenant) = (lite.visible, lite.tenant);
        let cursor = lite.cursor(group).expect("the group follows it");
        if cursor.is_left() {
            self.leave(ledger, id);
            return Ok(());
        }
        cursor.drop_ended_holds(now);
        let is_long = |until: Option<Timestamp>| until.is_some_and(|until| until > now.plus(AWAKE_MAX));
        let Some(offset) = cursor.head_offset(visible) else {
            cursor.announced = None;
            if is_long(cursor.held_until()) && !cursor.has_leases() {
                cursor.unlisted();
                self.unlist(now, id);
                return Ok(());
            }
            for Held { source, until, .. } in cursor.untold_holds() {
                self.scheduler.handle(now, Event::Held { lite: id, tenant, source, until });
            }
            self.scheduler.handle(now, Event::Emptied(id));
            return Ok(());
        };
        lifecycle::bring_head(stage, group, lite, offset)?;
        let cursor = lite.cursor(group).expect("it was here just now");
        let Some(head) = cursor.head(offset) else {
            let problem = format!("offset {offset} is neither settled nor there");
            return Err(StoreError::Corrupt { table: "message", key: format!("{id}"), problem });
        };
        let held_until = cursor.held_until().max(head.deliver_at);
        if is_long(held_until) && !cursor.has_leases() {
            cursor.unlisted();
            let wakes_at = held_until.unwrap_or_default();
            if lifecycle::asleep(stage, group, lite, wakes_at) {
                self.wakes.armed(stage.number(), wakes_at);
            }
            self.unlist(now, id);
            return Ok(());
        }
        lifecycle::awake(stage, group, lite);
        let members = self.subscriptions.members(&lite.name);
        let cursor = lite.cursor(group).expect("it was here just now");
        if !self.takes_in(&members) {
            cursor.unlisted();
            self.unlist(now, id);
            self.paging.pass_over();
            return Ok(());
        }
        for Held { source, until, .. } in cursor.untold_holds() {
            self.scheduler.handle(now, Event::Held { lite: id, tenant, source, until });
        }
        cursor.announced = Some(offset);
        let backlog = cursor.backlog(visible);
        self.scheduler.handle(now, Event::Head { lite: id, tenant, members, head, backlog });
        Ok(())
    }

    /// Carries out what the scheduler decides, until it has nothing more.
    pub(super) fn dispatch(&mut self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let now = ledger.stage.now();
        let mut orders: Vec<(SessionKey, Vec<DeliveryOrder>)> = Vec::new();
        let (mut delivered, mut decided) = (0, 0);
        let (more_to_match, more_to_page) = (self.rematch_prefixes(ledger)?, self.page(ledger)?);
        self.unfinished = more_to_match || more_to_page;
        self.wake(ledger)?;
        self.deciding.send_errands(now);
        while let Some(decision) = self.scheduler.poll(now) {
            match decision {
                Decision::Deliver { lite, offset, session, charge, .. } => {
                    self.read_ahead(ledger, lite, charge.band)?;
                    if self.is_head(ledger, lite, offset)? {
                        let order = self.deliver(ledger, lite, offset, session, charge)?;
                        match orders.iter_mut().find(|(key, _)| *key == session) {
                            Some((_, list)) => list.push(order),
                            None => orders.push((session, vec![order])),
                        }
                        delivered += 1;
                    } else {
                        self.not_delivered(ledger, lite, session, charge)?;
                    }
                }
                Decision::Ask(ask) => self.ask(ledger, ask),
                Decision::Suspend { lite, until, .. } => self.suspended(ledger, lite, until)?,
                Decision::Expired { lite, offset }
                | Decision::DeadLetter { lite, offset, .. }
                | Decision::Drop { lite, offset, .. }
                    if !self.is_head(ledger, lite, offset)? =>
                {
                    self.look_again(ledger, lite)?;
                }
                Decision::Expired { lite, offset } => self.expired(ledger, lite, offset)?,
                Decision::DeadLetter { lite, offset, reason } => {
                    self.meters.buried(Buried::Policy);
                    self.bury(ledger, lite, offset, &format!("policy: {}", self.reason(reason)))?;
                }
                Decision::Drop { lite, offset, .. } => {
                    self.meters.skipped(Skipped::Policy, 1);
                    self.skip(ledger, lite, offset)?;
                }
            }
            decided += 1;
            // A dead letter copies its body into the batch: room counts as well as turns.
            if decided >= DECISIONS_PER_TURN || !ledger.stage.has_room() {
                self.unfinished = true;
                break;
            }
        }
        self.stats.delivered += delivered;
        self.meters.gate(now, self.scheduler.stats().gate);
        for (key, orders) in orders {
            let (_, stream) = self.sessions.attached(key);
            ledger.stage.then(Durability::Os, Effect::Deliver(stream.outbox.clone(), orders));
        }
        Ok(())
    }

    fn deliver(
        &mut self,
        ledger: &mut Ledger,
        id: LiteId,
        offset: Offset,
        key: SessionKey,
        charge: Charge,
    ) -> Result<DeliveryOrder, StoreError> {
        let (group, duration) = (self.id(), self.lease_time());
        let (session, _) = self.sessions.attached(key);
        let Ledger { stage, lites, .. } = ledger;
        let lite = lites.get(id).expect("its head was looked at");
        let (name, tenant) = (lite.name.clone(), lite.tenant_name.clone().unwrap_or_else(|| lite.name.shared()));
        let held_until = lite.cursor(group).and_then(|cursor| cursor.held_until());
        let lease = lifecycle::lease(stage, group, lite, offset, session, charge, duration);
        if let Some(message) = &lease.message {
            let since = message.since.max(held_until.unwrap_or_default());
            self.meters.wait.record(lease.dispatched_at.since(since));
        }
        let order = DeliveryOrder {
            token: lease.token,
            lite: id,
            name,
            tenant,
            offset,
            attempt: lease.attempt,
            deadline: lease.deadline,
            dispatched_at: lease.dispatched_at,
            row: lease.message.as_ref().and_then(|message| message.row.clone()),
        };
        self.deadlines.insert((order.deadline, id, offset));
        self.sessions.get(session).expect("it is attached").leases.insert((id, offset));
        if let Some(recorder) = &mut self.recorder {
            record::delivered(recorder, ledger, id, offset, group);
        }
        self.announce(ledger, id)?;
        Ok(order)
    }

    /// Brings the lite topic into memory, if it exists, and answers whether this is its head: of what was brought in by its rows
    /// alone, or of what retention took, the scheduler may be wrong.
    fn is_head(&self, ledger: &mut Ledger, id: LiteId, offset: Offset) -> Result<bool, StoreError> {
        let Some(lite) = ledger.lite(id)? else { return Ok(false) };
        let visible = lite.visible;
        Ok(lite.cursor(self.id()).and_then(|cursor| cursor.head_offset(visible)) == Some(offset))
    }

    /// The scheduler learns what the lite topic's head is after all.
    fn look_again(&mut self, ledger: &mut Ledger, id: LiteId) -> Result<(), StoreError> {
        let group = self.id();
        if ledger.lites.get(id).and_then(|lite| lite.cursor(group)).is_some() {
            return self.announce(ledger, id);
        }
        self.unlist(ledger.stage.now(), id);
        Ok(())
    }

    /// What the scheduler gave away was not there to be given.
    fn not_delivered(
        &mut self,
        ledger: &mut Ledger,
        id: LiteId,
        session: SessionKey,
        charge: Charge,
    ) -> Result<(), StoreError> {
        let now = ledger.stage.now();
        self.scheduler.handle(now, Event::Settled { lite: id, charge, ending: Ending::Returned });
        self.scheduler.handle(now, Event::Credit(session, 1));
        self.look_again(ledger, id)
    }

    /// The policy suspended a lite topic.
    fn suspended(&mut self, ledger: &mut Ledger, id: LiteId, until: Timestamp) -> Result<(), StoreError> {
        let group = self.id();
        if ledger.lite(id)?.is_some() {
            let Ledger { stage, lites, .. } = &mut *ledger;
            lifecycle::held(stage, group, lites.get(id).expect("it was just found"), HoldSource::Policy, until);
        }
        self.look_again(ledger, id)
    }

    fn reason(&self, reason: u32) -> String {
        let policy = self.deciding.policy.as_ref();
        policy.map_or_else(|| format!("reason {reason}"), |policy| policy.compiled().reason(reason).to_owned())
    }

    /// Waiting -> Settled, with a copy in the dead-letter topic.
    pub(super) fn bury(
        &mut self,
        ledger: &mut Ledger,
        id: LiteId,
        offset: Offset,
        cause: &str,
    ) -> Result<(), StoreError> {
        dead_letter::copy(ledger, &self.spec, id, offset, cause)?;
        self.stats.dead_lettered += 1;
        self.skip(ledger, id, offset)
    }

    /// A message's time is over before it was delivered.
    fn expired(&mut self, ledger: &mut Ledger, id: LiteId, offset: Offset) -> Result<(), StoreError> {
        match ledger.open_lite(id).topic.settings.expired {
            ExpiredMessages::Drop => {
                self.meters.skipped(Skipped::Expired, 1);
                self.skip(ledger, id, offset)
            }
            ExpiredMessages::DeadLetter => {
                self.meters.buried(Buried::Expired);
                self.bury(ledger, id, offset, "expired before it was delivered")
            }
        }
    }

    /// Waiting -> Settled, without delivery.
    pub(super) fn skip(&mut self, ledger: &mut Ledger, id: LiteId, offset: Offset) -> Result<(), StoreError> {
        let Ledger { stage, lites, .. } = &mut *ledger;
        let lite = lites.get(id).expect("its head was looked at");
        lifecycle::skipped(stage, self.spec.id, lite, offset);
        self.announce(ledger, id)
    }

    /// Leases whose deadline passed, and sessions whose grace is over.
    pub(super) fn expire(&mut self, ledger: &mut Ledger) -> Result<(), StoreError> {
        let now = ledger.stage.now();
        while ledger.stage.has_room()
            && let Some((_, lite, offset)) = self.deadlines.first().filter(|(at, _, _)| *at <= now).copied()
        {
            self.meters.ended(Ended::Expired);
            self.give_back(ledger, lite, offset, Back::TIMED_OUT)?;
            self.stats.retried += 1;
        }
        while ledger.stage.has_room()
            && let Some(id) = self.sessions.overdue(now)
        {
            self.end_session(ledger, id, Counted::Yes)?;
        }
        Ok(())
    }

    /// A session is gone for good: what it holds waits again.
    pub(super) fn end_session(
        &mut self,
        ledger: &mut Ledger,
        id: SessionId,
        counted: Counted,
    ) -> Result<(), StoreError> {
        let now = ledger.stage.now();
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let (key, leases) = (session.key, session.leases_in_order());
        self.scheduler.handle(now, Event::Detached(key));
        // Highest offset first: each becomes the head only for as long as a lower one is not back.
        let (ended, back) = match counted {
            Counted::Yes => (Ended::Expired, Back::TIMED_OUT),
            Counted::No => (Ended::Returned, Back::Unused),
        };
        for (lite, offset) in leases.into_iter().rev() {
            self.meters.ended(ended);
            self.give_back(ledger, lite, offset, back)?;
        }
        self.subscriptions.forget(key);
        self.sessions.remove(id);
        self.session_gone();
        Ok(())
    }

    /// Leased -> Waiting, or dead-lettered after its last attempt. A hold, if any, is set before.
    pub(super) fn give_back(
        &mut self,
        ledger: &mut Ledger,
        id: LiteId,
        offset: Offset,
        back: Back,
    ) -> Result<(), StoreError> {
        let (group, counted) = (self.id(), back.counted());
        let Ledger { stage, lites, .. } = &mut *ledger;
        let lite = lites.get(id).expect("it has an open lease");
        let Some(lease) = lifecycle::returned(stage, group, lite, offset, counted) else { return Ok(()) };
        let service = stage.now().since(lease.dispatched_at);
        let ending = match back {
            Back::Tried { cost, result, retry_after } => Ending::Used { cost, service, result, retry_after },
            Back::Unused => Ending::Returned,
        };
        self.lease_ended(stage.now(), id, offset, &lease, ending);
        if counted == Counted::Yes && lease.attempt >= self.spec.settings.max_attempts {
            self.meters.buried(Buried::Attempts);
            let cause = format!("not settled by ack in {} attempts", lease.attempt);
            return self.bury(ledger, id, offset, &cause);
        }
        self.announce(ledger, id)
    }

    /// After a lease left the cursor: deadlines, the session, quotas and fairness.
    pub(super) fn lease_ended(&mut self, now: Timestamp, id: LiteId, offset: Offset, lease: &Lease, ending: Ending) {
        self.deadlines.remove(&(lease.deadline, id, offset));
        self.meters.service.record(now.since(lease.dispatched_at));
        if let Some(recorder) = &mut self.recorder {
            recorder.ended(now, id, offset, lease, ending);
        }
        if let Some(session) = self.sessions.get(lease.session) {
            session.leases.remove(&(id, offset));
        }
        self.scheduler.handle(now, Event::Settled { lite: id, charge: lease.charge, ending });
    }

    /// Stages the quota state, if it changed.
    pub(super) fn save_quota(&mut self, ledger: &mut Ledger) {
        let state = self.scheduler.quota_state();
        if state == self.saved_quota {
            return;
        }
        self.saved_quota = state;
        let key = BucketKey { shard: ledger.stage.shard(), group: self.id() };
        ledger.stage.put(
            &key,
            &BucketRow { messages_tat_nanos: state.messages_tat_nanos, cost_tat_nanos: state.cost_tat_nanos },
        );
    }

    /// The outboxes of all attached sessions.
    pub(super) fn outboxes(&self) -> impl Iterator<Item = &mpsc::Sender<ToConsumer>> {
        self.sessions.streams().map(|stream| &stream.outbox)
    }
}

/// How a message came back that was not settled.
#[derive(Debug, Clone, Copy)]
pub(super) enum Back {
    /// It was not worked on.
    Unused,
    /// It was, in vain.
    Tried {
        /// Measured cost; the estimate stands when absent.
        cost: Option<u64>,
        result: WorkResult,
        /// How long what does the work asked to be left alone.
        retry_after: Option<Duration>,
    },
}

impl Back {
    /// The lease ran out, or its session was lost.
    const TIMED_OUT: Self = Self::Tried { cost: None, result: WorkResult::TimedOut, retry_after: None };

    const fn counted(self) -> Counted {
        match self {
            Self::Unused => Counted::No,
            Self::Tried { .. } => Counted::Yes,
        }
    }
}

fn concurrency(settings: ConcurrencySettings) -> Concurrency {
    Concurrency {
        group: settings.group.unwrap_or(u32::MAX),
        tenant: settings.tenant.unwrap_or(u32::MAX),
        lite: settings.lite_topic,
    }
}

const fn quotas(settings: QuotaSettings) -> Quotas {
    Quotas { messages: settings.messages, cost: settings.cost }
}
