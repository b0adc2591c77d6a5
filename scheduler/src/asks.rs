//! Asking the policy: which rows wait, what is outstanding, and what an answer does.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use sluicegate_protocol::limits::{PRIORITY_MAX, SUSPEND_MAX, SUSPEND_MIN, WEIGHT_MAX};
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};

use crate::index::mix;
use crate::lite::{Chain, LiteKey, Lites, Place, Refusal, Service};
use crate::scheduler::Scheduler;
use crate::tenant::{Tenant, TenantKey};
use crate::{Answer, Ask, Decision, Feedback, Frame, GroupView, HoldSource, LiteView, Plan, Said, TenantView, Verdict};

/// How long an answer is waited for; then built-in fair scheduling serves the rows.
const ANSWER_WITHIN: Duration = Duration::from_millis(5);
/// How long built-in fair scheduling serves a row for which the policy did not answer, until it is asked again.
const BUILT_IN_FOR: Duration = Duration::from_millis(100);
/// Shortest validity of an answer: one that was over before it could be used would be asked for without end.
const VALID_FOR_MIN: Duration = Duration::from_millis(1);
/// Longest validity of an answer.
const VALID_FOR_MAX: Duration = Duration::from_mins(1);
/// Shortest throttle.
pub(crate) const THROTTLE_MIN: Duration = Duration::from_millis(1);
/// Longest throttle.
pub(crate) const THROTTLE_MAX: Duration = Duration::from_mins(1);
/// Change of the load since the last ask, in millionths, that is worth another one.
const LOAD_CHANGE_PPM: u32 = 100_000;
/// Rows that wait for the next ask while one is outstanding, before the pick waits for the policy too.
const WAITING_AHEAD_MAX: usize = 4 * Ask::LITES_MAX;
/// Asks that timed out whose late answers still bring memos and weights.
const LATE_MAX: usize = 4;

/// What is between the scheduler and its policy.
#[derive(Debug)]
pub(crate) struct Asks {
    pub(crate) bound: bool,
    /// Leases that may be open in the group, as the policy last said, and until when that holds.
    cap: Option<(u32, Timestamp)>,
    /// Lite topics under a throttle.
    pub(crate) throttled: BTreeSet<LiteId>,
    /// Ready lite topics in a band that the policy chose.
    pub(crate) banded: BTreeSet<LiteId>,
    /// Counts bindings: answers of an earlier one are void.
    generation: u32,
    seed: u64,
    sequence: u64,
    waiting: Chain,
    /// Ready lite topics that are to be asked about again. They keep their turns meanwhile, and may be served.
    again: VecDeque<LiteId>,
    outstanding: Option<Outstanding>,
    /// The load that the last ask told.
    told_load_ppm: u32,
    /// Of those that were asked about again, the last one; the next ones have higher ids.
    refreshed: LiteId,
    /// When lite topics may be asked about again.
    refresh_from: Timestamp,
    late: VecDeque<Outstanding>,
    feedback: VecDeque<Feedback>,
    feedback_dropped: u64,
    /// Verdicts that the owner is to be told, by lite topic.
    verdicts: VecDeque<Untold>,
}

#[derive(Debug)]
struct Outstanding {
    sequence: u64,
    at: Timestamp,
    rows: Vec<(LiteId, Offset)>,
    tenants: Vec<TenantId>,
}

#[derive(Debug, Clone, Copy)]
enum Untold {
    Suspended { lite: LiteId, until: Timestamp, reason: u32 },
    Refused { lite: LiteId, offset: Offset, reason: u32 },
}

impl Asks {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            bound: false,
            cap: None,
            throttled: BTreeSet::new(),
            banded: BTreeSet::new(),
            generation: 0,
            seed,
            sequence: 0,
            waiting: Chain::default(),
            again: VecDeque::new(),
            outstanding: None,
            told_load_ppm: 0,
            refreshed: LiteId(0),
            refresh_from: Timestamp::default(),
            late: VecDeque::new(),
            feedback: VecDeque::new(),
            feedback_dropped: 0,
            verdicts: VecDeque::new(),
        }
    }

    /// The answer, if it may still be used.
    pub(crate) fn valid(&self, answer: Option<Service>, now: Timestamp) -> Option<Service> {
        answer.filter(|answer| answer.generation == self.generation && answer.left > 0 && answer.valid_until > now)
    }

    /// So many rows wait already that picking from further back would only add to them.
    pub(crate) fn far_behind(&self) -> bool {
        self.outstanding.is_some() && self.waiting.len() >= WAITING_AHEAD_MAX
    }

    /// The policy's bound on open leases.
    pub(crate) fn concurrency_at(&self, now: Timestamp) -> u32 {
        self.cap.filter(|&(_, until)| until > now).map_or(u32::MAX, |(leases, _)| leases)
    }

    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        self.outstanding.as_ref().map(|ask| ask.at.plus(ANSWER_WITHIN))
    }

    /// Since when the policy has been asked about the lite topic; none while it waits for its turn to be asked about.
    pub(crate) fn asked_at(&self, lites: &Lites, lite: LiteKey) -> Option<Timestamp> {
        self.outstanding.as_ref().filter(|_| self.has_row(lites, lite)).map(|ask| ask.at)
    }

    pub(crate) fn feedback_dropped(&self) -> u64 {
        self.feedback_dropped
    }

    /// Keeps what became of a delivery for the next ask.
    pub(crate) fn record(&mut self, feedback: Feedback) {
        if !self.bound {
            return;
        }
        if self.feedback.len() == Ask::FEEDBACK_MAX {
            self.feedback.pop_front();
            self.feedback_dropped += 1;
        }
        self.feedback.push_back(feedback);
    }

    /// The lite topic waits for the next ask, unless the outstanding one has it.
    pub(crate) fn enter(&mut self, lites: &mut Lites, lite: LiteKey) {
        if !self.has_row(lites, lite) {
            self.waiting.push(lites, lite);
        }
    }

    pub(crate) fn leave(&mut self, lites: &mut Lites, lite: LiteKey) {
        if !self.has_row(lites, lite) {
            self.waiting.remove(lites, lite);
        }
    }

    /// Whether the outstanding ask has a row for the lite topic.
    fn has_row(&self, lites: &Lites, lite: LiteKey) -> bool {
        self.outstanding.as_ref().is_some_and(|ask| ask.sequence == lites.extra(lite).asked)
    }

    fn is_due(&self, load_ppm: u32) -> bool {
        let worth_asking = !self.waiting.is_empty()
            || !self.again.is_empty()
            || self.feedback.len() >= Ask::FEEDBACK_MAX / 2
            || load_ppm.abs_diff(self.told_load_ppm) >= LOAD_CHANGE_PPM;
        self.bound && self.outstanding.is_none() && worth_asking
    }
}

impl Scheduler {
    /// The question to ask now, if rows wait, feedback has gathered or the load has changed, and no other question is open.
    pub(crate) fn next_ask(&mut self) -> Option<Ask> {
        if self.paused || !self.asks.is_due(self.sessions.load_ppm_max()) {
            return None;
        }
        self.asks.told_load_ppm = self.sessions.load_ppm_max();
        self.asks.sequence += 1;
        let sequence = self.asks.sequence;
        let mut tenants = Vec::new();
        let mut rows = HashMap::new();
        let mut lites = Vec::with_capacity(self.asks.waiting.len().min(Ask::LITES_MAX));
        while lites.len() < Ask::LITES_MAX
            && let Some(lite) = self.asks.waiting.first()
        {
            self.asks.waiting.remove(&mut self.lites, lite);
            self.lites.extra_mut(lite).asked = sequence;
            lites.push(self.row(lite, &mut tenants, &mut rows));
        }
        while lites.len() < Ask::LITES_MAX
            && let Some(id) = self.asks.again.pop_front()
        {
            // It may have been served, held, or asked about since.
            let still = |&lite: &LiteKey| matches!(self.lites[lite].place, Place::Ready(_));
            if let Some(lite) = self.lites.find(id).filter(still) {
                self.lites.extra_mut(lite).asked = sequence;
                lites.push(self.row(lite, &mut tenants, &mut rows));
            }
        }
        self.asks.outstanding = Some(Outstanding {
            sequence,
            at: self.now,
            rows: lites.iter().map(|row| (row.lite, row.head_offset)).collect(),
            tenants: tenants.iter().map(|tenant: &TenantView| tenant.tenant).collect(),
        });
        let seed = mix(self.asks.seed ^ mix(sequence));
        let frame = Frame { now: self.now, sequence, seed, group: self.group_view(), tenants, lites };
        Some(Ask { feedback: self.asks.feedback.drain(..).collect(), frame })
    }

    /// Next verdict that the owner must act on; those that something overtook are left out.
    pub(crate) fn next_verdict(&mut self) -> Option<Decision> {
        while let Some(untold) = self.asks.verdicts.pop_front() {
            match untold {
                Untold::Suspended { lite, until, reason } => {
                    let held = self.lites.find(lite).map(|key| self.lites.hold_of(key, HoldSource::Policy));
                    if held == Some(until) && until > self.now {
                        return Some(Decision::Suspend { lite, until, reason });
                    }
                }
                Untold::Refused { lite, offset, reason } => {
                    let Some(key) = self.lites.find(lite) else { continue };
                    let is_head = self.lites[key].offset() == Some(offset);
                    let Some(refusal) = self.lites.extra(key).refusal.filter(|_| is_head) else { continue };
                    self.take_head(key);
                    self.place(key);
                    return Some(match refusal {
                        Refusal::DeadLetter => Decision::DeadLetter { lite, offset, reason },
                        Refusal::Drop => Decision::Drop { lite, offset, reason },
                    });
                }
            }
        }
        None
    }

    /// Gives up on an answer that takes too long; what it says of memos and weights may still come.
    pub(crate) fn end_late_ask(&mut self) {
        if self.asks.deadline().is_none_or(|deadline| deadline > self.now) {
            return;
        }
        let ask = self.asks.outstanding.take().expect("it has a deadline");
        self.serve_built_in(&ask);
        self.asks.late.push_back(ask);
        if self.asks.late.len() > LATE_MAX {
            self.asks.late.pop_front();
        }
    }

    pub(crate) fn answered(&mut self, sequence: u64, plan: &Plan) {
        if let Some(ask) = self.asks.outstanding.take_if(|ask| ask.sequence == sequence) {
            if plan.lites.len() != ask.rows.len() {
                self.serve_built_in(&ask);
                return;
            }
            self.take_back(&ask);
            self.set_weights(&ask, plan);
            if let Some(cap) = plan.concurrency {
                let until = self.now.plus(cap.valid_for.clamp(VALID_FOR_MIN, VALID_FOR_MAX));
                // With 0 nothing would ever change, so the policy would not be asked again.
                self.asks.cap = Some((cap.leases.max(1), until));
            }
            for (&(lite, offset), answer) in ask.rows.iter().zip(&plan.lites) {
                self.apply(lite, offset, answer);
            }
            self.refresh(plan.refresh);
        } else if let Some(index) = self.asks.late.iter().position(|ask| ask.sequence == sequence) {
            let ask = self.asks.late.remove(index).expect("the index is of that queue");
            if plan.lites.len() != ask.rows.len() {
                return;
            }
            self.set_weights(&ask, plan);
            for (&(lite, _), answer) in ask.rows.iter().zip(&plan.lites) {
                if let Some(key) = self.lites.find(lite) {
                    self.set_memo(key, answer.memo);
                }
            }
        }
    }

    pub(crate) fn ask_failed(&mut self, sequence: u64) {
        if let Some(ask) = self.asks.outstanding.take_if(|ask| ask.sequence == sequence) {
            self.serve_built_in(&ask);
        }
        self.asks.late.retain(|ask| ask.sequence != sequence);
    }

    /// A policy decides from now on. Memos, weights and suspensions stay; answers, throttles and concurrency do not.
    pub(crate) fn policy_bound(&mut self) {
        self.asks.bound = true;
        self.end_answers();
    }

    /// Built-in fair scheduling decides from now on, with default weights.
    pub(crate) fn policy_unbound(&mut self) {
        self.asks.bound = false;
        self.tenants.end_tenure();
        self.asks.feedback.clear();
        self.end_answers();
        while let Some(lite) = self.asks.waiting.first() {
            self.place(lite);
        }
        for id in std::mem::take(&mut self.asks.banded) {
            let lite = self.lites.find(id).expect("a ready lite topic has an entry");
            self.place(lite);
        }
    }

    /// Nothing that a policy answered so far counts any more.
    fn end_answers(&mut self) {
        self.asks.generation += 1;
        self.asks.cap = None;
        self.asks.again.clear();
        self.asks.late.clear();
        if let Some(ask) = self.asks.outstanding.take() {
            self.take_back(&ask);
        }
        for id in std::mem::take(&mut self.asks.throttled) {
            let lite = self.lites.find(id).expect("a throttled lite topic has an entry");
            self.lites.extra_mut(lite).throttle = Timestamp::default();
            self.place(lite);
        }
        let verdicts = std::mem::take(&mut self.asks.verdicts);
        for untold in verdicts {
            match untold {
                Untold::Suspended { .. } => self.asks.verdicts.push_back(untold),
                Untold::Refused { lite, .. } => {
                    if let Some(key) = self.lites.find(lite) {
                        self.lites.extra_mut(key).refusal = None;
                        self.place(key);
                    }
                }
            }
        }
    }

    /// The rows of an ask that is over wait for the next one, until they are placed.
    fn take_back(&mut self, ask: &Outstanding) {
        for &(id, _) in &ask.rows {
            let Some(lite) = self.lites.find(id).filter(|&lite| self.lites.extra(lite).asked == ask.sequence) else {
                continue;
            };
            self.lites.extra_mut(lite).asked = 0;
            if self.lites[lite].place == Place::Asking {
                self.asks.waiting.push(&mut self.lites, lite);
            }
        }
    }

    /// Built-in fair scheduling serves the rows of a failed ask for a while.
    fn serve_built_in(&mut self, ask: &Outstanding) {
        self.take_back(ask);
        let answer = Service {
            generation: self.asks.generation,
            band: None,
            left: u32::MAX,
            valid_until: self.now.plus(BUILT_IN_FOR),
        };
        for &(id, _) in &ask.rows {
            let Some(lite) = self.lites.find(id) else { continue };
            // One that was asked about again goes by what was said before.
            if self.asks.valid(self.lites.extra(lite).answer, self.now).is_none() {
                self.lites.extra_mut(lite).answer = Some(answer);
                self.place(lite);
            }
        }
    }

    fn apply(&mut self, id: LiteId, offset: Offset, answer: &Answer) {
        let Some(lite) = self.lites.find(id) else { return };
        self.set_memo(lite, answer.memo);
        let overruled = matches!(answer.verdict, Verdict::Throttle(_)) && self.is_starved(lite);
        let extra = self.lites.extra_mut(lite);
        extra.answer = None;
        extra.said = Some(Said { at: self.now, verdict: answer.verdict, reason: answer.reason, overruled });
        match answer.verdict {
            Verdict::Serve { band, max_messages } => {
                extra.answer = Some(Service {
                    generation: self.asks.generation,
                    band: band.map(|band| band.min(PRIORITY_MAX)),
                    left: max_messages.max(1),
                    valid_until: self.now.plus(answer.valid_for.clamp(VALID_FOR_MIN, VALID_FOR_MAX)),
                });
            }
            Verdict::Throttle(_) if overruled => {
                let valid_until = self.now.plus(VALID_FOR_MAX);
                extra.answer = Some(Service { generation: self.asks.generation, band: None, left: 1, valid_until });
                self.let_through(lite);
            }
            Verdict::Throttle(wait) => {
                self.keep_back(lite);
                self.lites.extra_mut(lite).throttle = self.throttle_ends(lite, wait);
                self.asks.throttled.insert(id);
                self.counts.throttled += 1;
            }
            Verdict::Suspend(wait) => {
                let until = self.now.plus(wait.clamp(SUSPEND_MIN, SUSPEND_MAX));
                self.lites.hold(lite, HoldSource::Policy, until, self.now);
                self.asks.verdicts.push_back(Untold::Suspended { lite: id, until, reason: answer.reason });
            }
            Verdict::DeadLetter | Verdict::Drop => {
                if self.lites[lite].offset() == Some(offset) {
                    let is_drop = answer.verdict == Verdict::Drop;
                    self.lites.extra_mut(lite).refusal =
                        Some(if is_drop { Refusal::Drop } else { Refusal::DeadLetter });
                    self.asks.verdicts.push_back(Untold::Refused { lite: id, offset, reason: answer.reason });
                }
            }
        }
        self.place(lite);
    }

    /// Has so many lite topics in bands that the policy chose asked about again, in turn.
    fn refresh(&mut self, count: u32) {
        if count == 0 || self.now < self.asks.refresh_from {
            return;
        }
        self.asks.refresh_from = self.now.plus(Plan::REFRESH_EVERY);
        let (from, banded) = (self.asks.refreshed, &self.asks.banded);
        let after = banded.range((Bound::Excluded(from), Bound::Unbounded));
        let rows: Vec<_> =
            after.chain(banded.range(..=from)).take(count.min(Plan::REFRESH_MAX) as usize).copied().collect();
        self.asks.refreshed = rows.last().copied().unwrap_or(from);
        self.asks.again = rows.into();
    }

    /// When the policy's bound on open leases is over.
    pub(crate) fn cap_ends(&self) -> Option<Timestamp> {
        self.asks.cap.map(|(_, until)| until).filter(|&until| until > self.now)
    }

    fn set_memo(&mut self, lite: LiteKey, memo: u64) {
        let extra = self.lites.extra_mut(lite);
        (extra.memo, extra.memo_tenure) = (memo, self.tenants.tenure);
    }

    fn set_weights(&mut self, ask: &Outstanding, plan: &Plan) {
        for (&tenant, &weight) in ask.tenants.iter().zip(&plan.weights) {
            if weight > 0 {
                self.tenants.set_weight(tenant, weight.min(WEIGHT_MAX));
            }
        }
    }

    /// The lite topic's row; `rows` says which row each tenant of the frame has.
    fn row(&self, lite: LiteKey, tenants: &mut Vec<TenantView>, rows: &mut HashMap<TenantKey, u32>) -> LiteView {
        let (row, extra) = (&self.lites[lite], self.lites.extra(lite));
        let head = self.lites.head(lite).expect("a lite topic without a head is not asked about");
        let tenant_row = *rows.entry(row.tenant).or_insert_with(|| {
            let (tenant, weight) = (&self.tenants[row.tenant], self.tenants.weight(row.tenant));
            let Tenant { id, in_flight, waiting, .. } = *tenant;
            tenants.push(TenantView { tenant: id, weight, in_flight, waiting });
            u32::try_from(tenants.len() - 1).expect("a frame has few rows")
        });
        LiteView {
            lite: row.id,
            tenant: tenant_row,
            head_offset: head.offset,
            head_age: self.now.since(head.published_at),
            head_cost: head.cost,
            priority: head.priority,
            expires_in: head.expires_at.map(|at| at.since(self.now)),
            backlog: u64::from(row.backlog),
            in_flight: row.open,
            attempts: head.attempts,
            last_service: extra.last_service,
            memo: if extra.memo_tenure == self.tenants.tenure { extra.memo } else { 0 },
        }
    }

    fn group_view(&self) -> GroupView {
        let (messages_left, cost_left) = self.buckets.left(self.now);
        let room = self.room();
        GroupView {
            backlog: self.counts.backlog,
            in_flight: self.in_flight,
            capacity: self.concurrency.group.min(u32::try_from(room).unwrap_or(u32::MAX)),
            load_ppm: self.sessions.load_ppm_max(),
            messages_left,
            cost_left,
        }
    }
}

#[cfg(test)]
impl Asks {
    pub(crate) fn check_invariants(&self, lites: &Lites) {
        for lite in self.waiting.iter(lites) {
            assert_eq!(lites[lite].place, Place::Asking);
        }
        let outstanding = lites.iter().filter(|&(key, row)| row.place == Place::Asking && self.has_row(lites, key));
        let asking = lites.iter().filter(|(_, row)| row.place == Place::Asking).count();
        assert_eq!(asking, self.waiting.len() + outstanding.count());
        for &id in &self.banded {
            assert!(matches!(lites[lites.find(id).unwrap()].place, Place::Ready(_)));
        }
        for (key, row) in lites.iter() {
            assert_eq!(lites.extra(key).throttle != Timestamp::default(), self.throttled.contains(&row.id));
        }
    }
}
