//! The model's side of asking a policy.

use std::collections::VecDeque;
use std::time::Duration;

use sluicegate_protocol::limits::{SUSPEND_MAX, SUSPEND_MIN, WEIGHT_MAX};
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::{
    Answer, Ask, Decision, Feedback, Frame, GroupView, HoldSource, LiteView, Plan, TenantView, Verdict,
};

use crate::lite::{Leave, NEVER, Place, Refusal};
use crate::model::Model;

const ANSWER_WITHIN: Duration = Duration::from_millis(5);
const BUILT_IN_FOR: Duration = Duration::from_millis(100);
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_mins(1);
const WAITING_AHEAD_MAX: usize = 1_024;
const LATE_MAX: usize = 4;

#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) is_bound: bool,
    cap: Option<(u32, Timestamp)>,
    again: VecDeque<LiteId>,
    told_load_ppm: u32,
    refreshed: LiteId,
    refresh_from: Timestamp,
    pub(crate) generation: u32,
    pub(crate) tenure: u32,
    pub(crate) feedback_dropped: u64,
    seed: u64,
    sequence: u64,
    open: Option<Open>,
    late: VecDeque<Open>,
    feedback: VecDeque<Feedback>,
    verdicts: VecDeque<Untold>,
}

/// An ask without an answer.
#[derive(Debug)]
struct Open {
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

impl Policy {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            is_bound: false,
            cap: None,
            again: VecDeque::new(),
            told_load_ppm: 0,
            refreshed: LiteId(0),
            refresh_from: Timestamp(0),
            generation: 0,
            tenure: 0,
            feedback_dropped: 0,
            seed,
            sequence: 0,
            open: None,
            late: VecDeque::new(),
            feedback: VecDeque::new(),
            verdicts: VecDeque::new(),
        }
    }
}

impl Model {
    pub(crate) fn record(&mut self, feedback: Feedback) {
        if !self.policy.is_bound {
            return;
        }
        self.policy.feedback.push_back(feedback);
        if self.policy.feedback.len() > Ask::FEEDBACK_MAX {
            self.policy.feedback.pop_front();
            self.policy.feedback_dropped += 1;
        }
    }

    pub(crate) fn ask_deadline(&self) -> Option<Timestamp> {
        self.policy.open.as_ref().map(|open| open.at.plus(ANSWER_WITHIN))
    }

    pub(crate) fn is_far_behind(&self) -> bool {
        self.policy.open.is_some() && self.waiting_to_be_asked().len() >= WAITING_AHEAD_MAX
    }

    pub(crate) fn next_ask(&mut self) -> Option<Ask> {
        let mut waiting = self.waiting_to_be_asked();
        let load_ppm = self.group_view().load_ppm;
        let is_due = !waiting.is_empty()
            || !self.policy.again.is_empty()
            || self.policy.feedback.len() >= Ask::FEEDBACK_MAX / 2
            || load_ppm.abs_diff(self.policy.told_load_ppm) >= 100_000;
        if self.is_paused || !self.policy.is_bound || self.policy.open.is_some() || !is_due {
            return None;
        }
        self.policy.told_load_ppm = load_ppm;
        waiting.truncate(Ask::LITES_MAX);
        while waiting.len() < Ask::LITES_MAX
            && let Some(id) = self.policy.again.pop_front()
        {
            if self.lites.get(&id).is_some_and(|lite| matches!(lite.place, Place::Ready(_))) {
                waiting.push(id);
            }
        }
        self.policy.sequence += 1;
        let sequence = self.policy.sequence;
        let mut tenants: Vec<TenantView> = Vec::new();
        let mut lites = Vec::new();
        for id in waiting {
            self.lite(id).asked = sequence;
            let tenant = self.lites[&id].tenant;
            let index = tenants.iter().position(|view| view.tenant == tenant).unwrap_or_else(|| {
                tenants.push(self.tenant_view(tenant));
                tenants.len() - 1
            });
            lites.push(self.lite_view(id, u32::try_from(index).expect("a frame has few rows")));
        }
        self.policy.open = Some(Open {
            sequence,
            at: self.now,
            rows: lites.iter().map(|row| (row.lite, row.head_offset)).collect(),
            tenants: tenants.iter().map(|view| view.tenant).collect(),
        });
        let feedback = self.policy.feedback.drain(..).collect();
        let seed = mixed(self.policy.seed ^ mixed(sequence));
        let frame = Frame { now: self.now, sequence, seed, group: self.group_view(), tenants, lites };
        Some(Ask { feedback, frame })
    }

    pub(crate) fn next_verdict(&mut self) -> Option<Decision> {
        while let Some(untold) = self.policy.verdicts.pop_front() {
            match untold {
                Untold::Suspended { lite, until, reason } => {
                    let is_so = self.lites.get(&lite).is_some_and(|row| row.hold(HoldSource::Policy) == until);
                    if is_so && until > self.now {
                        return Some(Decision::Suspend { lite, until, reason });
                    }
                }
                Untold::Refused { lite, offset, reason } => {
                    let row = self.lites.get(&lite).filter(|row| row.head.is_some_and(|head| head.offset == offset));
                    let Some(refusal) = row.and_then(|row| row.refusal) else { continue };
                    self.lite(lite).take_head();
                    self.place(lite);
                    return Some(match refusal {
                        Refusal::DeadLetter => Decision::DeadLetter { lite, offset, reason },
                        Refusal::Drop => Decision::Drop { lite, offset, reason },
                    });
                }
            }
        }
        None
    }

    pub(crate) fn end_late_ask(&mut self) {
        if self.ask_deadline().is_some_and(|deadline| deadline <= self.now)
            && let Some(open) = self.policy.open.take()
        {
            self.serve_built_in(&open);
            self.policy.late.push_back(open);
            if self.policy.late.len() > LATE_MAX {
                self.policy.late.pop_front();
            }
        }
    }

    pub(crate) fn answered(&mut self, sequence: u64, plan: &Plan) {
        if let Some(open) = self.policy.open.take_if(|open| open.sequence == sequence) {
            if plan.lites.len() != open.rows.len() {
                self.serve_built_in(&open);
                return;
            }
            self.take_back(&open);
            self.set_weights(&open, plan);
            if let Some(cap) = plan.concurrency {
                let until = self.now.plus(cap.valid_for.clamp(SHORTEST, LONGEST));
                self.policy.cap = Some((cap.leases.max(1), until));
            }
            for (&(lite, offset), answer) in open.rows.iter().zip(&plan.lites) {
                if self.lites.contains_key(&lite) {
                    self.apply(lite, offset, answer);
                }
            }
            self.refresh(plan.refresh);
            return;
        }
        let Some(index) = self.policy.late.iter().position(|late| late.sequence == sequence) else { return };
        let late = self.policy.late.remove(index).expect("it was found there");
        if plan.lites.len() == late.rows.len() {
            self.set_weights(&late, plan);
            for (&(lite, _), answer) in late.rows.iter().zip(&plan.lites) {
                self.set_memo(lite, answer.memo);
            }
        }
    }

    pub(crate) fn ask_failed(&mut self, sequence: u64) {
        if let Some(open) = self.policy.open.take_if(|open| open.sequence == sequence) {
            self.serve_built_in(&open);
        }
        self.policy.late.retain(|late| late.sequence != sequence);
    }

    pub(crate) fn policy_bound(&mut self) {
        self.policy.is_bound = true;
        self.void_answers();
    }

    pub(crate) fn policy_unbound(&mut self) {
        self.policy.is_bound = false;
        self.policy.tenure += 1;
        self.weights.clear();
        self.policy.feedback.clear();
        self.void_answers();
        for id in self.waiting_to_be_asked() {
            self.place(id);
        }
        let banded = self.lites.iter().filter(|(_, lite)| lite.is_banded);
        for id in banded.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.lite(id).is_banded = false;
            self.place(id);
        }
    }

    fn void_answers(&mut self) {
        self.policy.generation += 1;
        self.policy.cap = None;
        self.policy.again.clear();
        self.policy.late.clear();
        if let Some(open) = self.policy.open.take() {
            self.take_back(&open);
        }
        let throttled = self.lites.iter().filter(|(_, lite)| lite.throttle != NEVER);
        for id in throttled.map(|(&id, _)| id).collect::<Vec<_>>() {
            self.lite(id).throttle = NEVER;
            self.place(id);
        }
        for untold in std::mem::take(&mut self.policy.verdicts) {
            match untold {
                Untold::Suspended { .. } => self.policy.verdicts.push_back(untold),
                Untold::Refused { lite, .. } => {
                    if let Some(row) = self.lites.get_mut(&lite) {
                        row.refusal = None;
                        self.place(lite);
                    }
                }
            }
        }
    }

    /// Lite topics that the next ask is about, first come first; those that the open ask has are not among them.
    fn waiting_to_be_asked(&self) -> Vec<LiteId> {
        let open = self.policy.open.as_ref().map(|open| open.sequence);
        let mut waiting: Vec<(u64, LiteId)> = (self.lites.iter())
            .filter(|(_, lite)| lite.place == Place::Asking && Some(lite.asked) != open)
            .map(|(&id, lite)| (lite.came, id))
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, id)| id).collect()
    }

    /// The rows of an ask that is over line up again.
    fn take_back(&mut self, open: &Open) {
        for (id, _) in &open.rows {
            let came = self.count();
            let Some(lite) = self.lites.get_mut(id).filter(|lite| lite.asked == open.sequence) else { continue };
            lite.asked = 0;
            if lite.place == Place::Asking {
                lite.came = came;
            }
        }
    }

    fn serve_built_in(&mut self, open: &Open) {
        self.take_back(open);
        let until = self.now.plus(BUILT_IN_FOR);
        let leave = Leave { generation: self.policy.generation, band: None, left: u32::MAX, until };
        for &(id, _) in &open.rows {
            if self.lites.contains_key(&id) && self.valid_leave(id).is_none() {
                self.lite(id).leave = Some(leave);
                self.place(id);
            }
        }
    }

    fn apply(&mut self, id: LiteId, offset: Offset, answer: &Answer) {
        self.set_memo(id, answer.memo);
        let (now, generation, is_starved) = (self.now, self.policy.generation, self.is_starved(id));
        let lite = self.lite(id);
        lite.leave = None;
        match answer.verdict {
            Verdict::Serve { band, max_messages } => {
                let until = now.plus(answer.valid_for.clamp(SHORTEST, LONGEST));
                lite.leave = Some(Leave { generation, band, left: max_messages.max(1), until });
            }
            Verdict::Throttle(_) if is_starved => {
                lite.leave = Some(Leave { generation, band: None, left: 1, until: now.plus(LONGEST) });
                let tenant = lite.tenant;
                self.served_at.insert(tenant, now);
                self.starved += 1;
            }
            Verdict::Throttle(wait) => {
                lite.kept_since.get_or_insert(now);
                let until = now.plus(wait.clamp(SHORTEST, LONGEST));
                let latest = self.starves_at(id).filter(|&at| at > now);
                let latest = latest.or(self.watchdog.map(|limit| now.plus(limit)));
                self.lite(id).throttle = latest.map_or(until, |latest| latest.min(until));
                self.throttled += 1;
            }
            Verdict::Suspend(wait) => {
                let until = now.plus(wait.clamp(SUSPEND_MIN, SUSPEND_MAX));
                lite.set_hold(HoldSource::Policy, until);
                self.policy.verdicts.push_back(Untold::Suspended { lite: id, until, reason: answer.reason });
            }
            Verdict::DeadLetter | Verdict::Drop if lite.head.is_some_and(|head| head.offset == offset) => {
                let is_drop = answer.verdict == Verdict::Drop;
                lite.refusal = Some(if is_drop { Refusal::Drop } else { Refusal::DeadLetter });
                self.policy.verdicts.push_back(Untold::Refused { lite: id, offset, reason: answer.reason });
            }
            Verdict::DeadLetter | Verdict::Drop => {}
        }
        self.place(id);
    }

    /// The policy kept the lite topic back for the watchdog's time, in which nothing of its tenant was in work, and there is room.
    fn is_starved(&self, id: LiteId) -> bool {
        let in_flight: u32 = self.lites.values().map(|lite| lite.open).sum();
        let has_room = in_flight < self.concurrency.group && self.is_open(&self.lites[&id].route);
        let is_stopped = self.is_paused || self.gate_closed_until().is_some();
        has_room && !is_stopped && self.starves_at(id).is_some_and(|at| at <= self.now)
    }

    fn starves_at(&self, id: LiteId) -> Option<Timestamp> {
        let lite = &self.lites[&id];
        let (since, limit) = lite.kept_since.zip(self.watchdog)?;
        let served_at = self.served_at.get(&lite.tenant).copied().unwrap_or(NEVER);
        (self.in_flight_of(lite.tenant) == 0).then(|| since.max(served_at).plus(limit))
    }

    fn refresh(&mut self, count: u32) {
        if count == 0 || self.now < self.policy.refresh_from {
            return;
        }
        self.policy.refresh_from = self.now.plus(Duration::from_millis(10));
        let banded = self.lites.iter().filter(|(_, lite)| lite.is_banded).map(|(&id, _)| id);
        let (mut first, mut then): (Vec<_>, Vec<_>) = banded.partition(|&id| id > self.policy.refreshed);
        first.sort_unstable();
        then.sort_unstable();
        self.policy.again.clear();
        for id in first.into_iter().chain(then).take(count.min(1_024) as usize) {
            self.policy.refreshed = id;
            self.policy.again.push_back(id);
        }
    }

    pub(crate) fn policy_cap(&self) -> u32 {
        self.policy.cap.filter(|&(_, until)| until > self.now).map_or(u32::MAX, |(leases, _)| leases)
    }

    pub(crate) fn policy_cap_ends(&self) -> Option<Timestamp> {
        self.policy.cap.map(|(_, until)| until).filter(|&until| until > self.now)
    }

    fn set_memo(&mut self, id: LiteId, memo: u64) {
        let tenure = self.policy.tenure;
        if let Some(lite) = self.lites.get_mut(&id) {
            (lite.memo, lite.memo_tenure) = (memo, tenure);
        }
    }

    fn set_weights(&mut self, open: &Open, plan: &Plan) {
        for (&tenant, &weight) in open.tenants.iter().zip(&plan.weights) {
            if weight > 0 {
                self.weights.insert(tenant, weight.min(WEIGHT_MAX));
            }
        }
    }

    fn tenant_view(&self, tenant: TenantId) -> TenantView {
        let own = self.lites.values().filter(|lite| lite.tenant == tenant && lite.head.is_some());
        TenantView {
            tenant,
            weight: self.weight(tenant),
            in_flight: self.in_flight_of(tenant),
            waiting: u32::try_from(own.count()).expect("few lite topics"),
        }
    }

    fn lite_view(&self, id: LiteId, tenant: u32) -> LiteView {
        let lite = &self.lites[&id];
        let head = lite.head.expect("only what waits is asked about");
        LiteView {
            lite: id,
            tenant,
            head_offset: head.offset,
            head_age: self.now.since(head.published_at),
            head_cost: head.cost,
            priority: head.priority,
            expires_in: head.expires_at.map(|at| at.since(self.now)),
            backlog: lite.backlog,
            in_flight: lite.open,
            attempts: head.attempts,
            last_service: lite.last_service,
            memo: if lite.memo_tenure == self.policy.tenure { lite.memo } else { 0 },
        }
    }

    fn group_view(&self) -> GroupView {
        let in_flight: u32 = self.lites.values().map(|lite| lite.open).sum();
        let credit: u32 = self.sessions.iter().map(|session| session.credit).sum();
        let (messages_left, cost_left) = self.quotas.left(self.now);
        GroupView {
            backlog: self.lites.values().map(|lite| lite.backlog).sum(),
            in_flight,
            capacity: self.concurrency.group.min(in_flight + credit),
            load_ppm: self.sessions.iter().map(|session| session.load_ppm).max().unwrap_or(0),
            messages_left,
            cost_left,
        }
    }
}

/// One step of splitmix64, after Steele, Lea and Flood.
fn mixed(state: u64) -> u64 {
    let first = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let second = (first ^ (first >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let third = (second ^ (second >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    third ^ (third >> 31)
}
