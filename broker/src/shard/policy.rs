//! The policy of a group: asked, swapped, taken out. Nothing here waits for a guest that is not on the shard.

use std::sync::Arc;
use std::time::Duration;

use sluicegate_protocol::admin::{Activation, PolicyRole, PolicyStrike, Shadow as ShadowReport};
use sluicegate_protocol::{ErrorCode, Timestamp};
use sluicegate_scheduler::{Ask, Event};
use tokio::sync::{mpsc, oneshot};

use super::books::Books;
use super::group::Group;
use super::ledger::Ledger;
use super::{Shard, ShardId};
use crate::catalog::{GroupSpec, PolicyBinding};
use crate::clock::micros;
use crate::policy::{
    BoundPolicy, CompiledPolicy, Counted, Heard, Init, Progress, Recipe, Return, Shadow, Strike, Succession, Successor,
    Ticket,
};
use crate::refusal::Refusal;

/// Who decides for a group, and who is to decide next.
pub(super) struct Deciding {
    /// None for built-in fair scheduling.
    pub(super) policy: Option<BoundPolicy>,
    /// Why the bound policy does not decide at present.
    pub(super) suspended_because: Option<String>,
    /// Asked too; its answers are compared.
    shadow: Option<Box<Shadow>>,
    /// Guest time of what decided before there was this shadow, in microseconds.
    guest_us_before: u64,
    next: Option<Activating>,
    /// Where policy threads bring errands back to.
    home: mpsc::Sender<Return>,
    /// Policies that were bound, or tried.
    bindings: u64,
}

/// Answered when the successor decides, or is refused.
struct Activating {
    successor: Successor,
    binding: PolicyBinding,
    reply: oneshot::Sender<Result<Activation, Refusal>>,
}

impl Deciding {
    pub(super) fn new(home: mpsc::Sender<Return>) -> Self {
        let (policy, suspended_because, shadow, next) = (None, None, None, None);
        Self { policy, suspended_because, shadow, guest_us_before: 0, next, home, bindings: 0 }
    }

    /// When it needs a turn by itself.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.policy.as_ref().and_then(BoundPolicy::next_timeout)
    }

    /// Sends what policy threads have to do.
    pub(super) fn send_errands(&mut self, now: Timestamp) {
        if let Some(next) = &mut self.next
            && let Some(errand) = next.successor.next_errand(self.policy.as_mut())
        {
            errand.send(&self.home);
        }
        if let Some(policy) = &mut self.policy
            && let Some(errand) = policy.next_errand(now)
        {
            errand.send(&self.home);
        }
    }
}

impl Group {
    /// The scheduler wants to know.
    pub(super) fn ask(&mut self, ledger: &Ledger, ask: Ask) {
        if let Some(shadow) = &mut self.deciding.shadow {
            shadow.asked(&ask, &mut Books { ledger, tenant_labels: &self.spec.settings.tenant_labels });
        }
        self.decide(ledger, ask);
    }

    fn decide(&mut self, ledger: &Ledger, ask: Ask) {
        let now = ledger.stage.now();
        let mut books = Books { ledger, tenant_labels: &self.spec.settings.tenant_labels };
        match &mut self.deciding.policy {
            Some(policy) => {
                let heard = policy.ask(now, ask, &mut books);
                self.hear(now, heard);
            }
            None => self.built_in_answers(now, ask.frame.sequence),
        }
        self.deciding.send_errands(now);
    }

    /// A policy thread did something for the policy that decides, or for the next one. What was done for one that decides no more is
    /// void.
    pub(super) fn policy_returned(&mut self, ledger: &Ledger, returned: Return) {
        let (now, ticket) = (ledger.stage.now(), returned.ticket);
        if let Some(next) = self.deciding.next.as_mut().filter(|next| next.successor.ticket() == ticket) {
            self.stats.policy_off_shard_us += micros(returned.spent);
            let progress = next.successor.returned(now, returned, self.deciding.policy.as_mut());
            self.progress(now, progress);
        } else if let Some(policy) = self.deciding.policy.as_mut().filter(|policy| policy.ticket() == ticket) {
            let heard = policy.returned(now, returned);
            self.hear(now, heard);
        }
        // Between two frames: a successor that is ready goes first.
        self.deciding.send_errands(now);
        if let Some(ask) = self.deciding.policy.as_mut().and_then(BoundPolicy::take_waiting) {
            self.decide(ledger, ask);
        }
    }

    fn hear(&mut self, now: Timestamp, Heard { answer, strike }: Heard) {
        self.count_spent();
        match answer {
            Some((sequence, Some(plan))) => {
                self.stats.policy_frames += 1;
                self.tell_shadow(sequence, Counted::Policy(&plan));
                self.scheduler.handle(now, Event::Answered { sequence, plan });
            }
            Some((sequence, None)) => {
                self.tell_shadow(sequence, Counted::Nothing);
                self.stats.policy_missed += u64::from(strike.is_none());
                self.scheduler.handle(now, Event::AskFailed { sequence });
            }
            None => {}
        }
        if let Some(strike) = strike {
            self.struck(now, strike);
        }
    }

    fn struck(&mut self, now: Timestamp, Strike { fault, open, capsule, .. }: Strike) {
        self.stats.policy_strikes += 1;
        let fault = fault.to_string();
        tracing::warn!(group = %self.spec.name, fault, capsule, "the policy failed, fair scheduling answers");
        let digest = self.deciding.policy.as_ref().map(|policy| policy.compiled().digest().to_owned());
        if open {
            self.deciding.suspended_because = Some(format!("three faults within a minute, last: {fault}"));
            self.deciding.policy = None;
            self.unbound(now);
        }
        self.last_strike = Some(PolicyStrike { at: now, digest: digest.unwrap_or_default(), fault, capsule });
    }

    /// Built-in fair scheduling decides; for a shadow the scheduler goes on asking, and is told so each time.
    fn unbound(&mut self, now: Timestamp) {
        self.scheduler.handle(now, Event::PolicyUnbound);
        if self.deciding.shadow.as_ref().is_some_and(|shadow| !shadow.is_over()) {
            self.scheduler.handle(now, Event::PolicyBound);
        }
    }

    fn built_in_answers(&mut self, now: Timestamp, sequence: u64) {
        self.tell_shadow(sequence, Counted::BuiltIn);
        self.scheduler.handle(now, Event::AskFailed { sequence });
        if self.deciding.shadow.as_ref().is_none_or(|shadow| shadow.is_over()) {
            // It was asked for a shadow that ended itself.
            self.scheduler.handle(now, Event::PolicyUnbound);
        }
    }

    fn tell_shadow(&mut self, sequence: u64, counted: Counted<'_>) {
        if let Some(shadow) = &mut self.deciding.shadow {
            shadow.answered(sequence, counted);
        }
    }

    /// Names or labels changed: what policies were told is told again. Answers whether one decides.
    pub(super) fn tell_names_again(&mut self) -> bool {
        if let Some(shadow) = &mut self.deciding.shadow {
            shadow.tell_names_again();
        }
        self.deciding.policy.as_mut().map(BoundPolicy::tell_names_again).is_some()
    }

    /// From now on this is asked too, or nothing.
    pub(super) fn set_shadow(&mut self, now: Timestamp, shadow: Option<Box<Shadow>>) {
        self.deciding.shadow = shadow;
        self.deciding.guest_us_before = self.guest_us();
        if self.deciding.policy.is_none() {
            self.unbound(now);
        }
    }

    /// What came of the shadow.
    pub(super) fn shadow(&self) -> Option<ShadowReport> {
        let mut report = self.deciding.shadow.as_ref()?.report();
        report.figures.deciding_guest_us = self.guest_us().saturating_sub(self.deciding.guest_us_before);
        Some(report)
    }

    fn guest_us(&self) -> u64 {
        self.stats.policy_on_shard_us + self.stats.policy_off_shard_us
    }

    fn count_spent(&mut self) {
        let Some(policy) = &mut self.deciding.policy else { return };
        let spent = policy.take_spent();
        self.stats.policy_on_shard_us += micros(spent.on_shard);
        self.stats.policy_off_shard_us += micros(spent.off_shard);
        self.stats.policy_feedback_dropped += spent.feedback_dropped;
    }

    fn progress(&mut self, now: Timestamp, progress: Progress) {
        match progress {
            Progress::Ready => {}
            Progress::Decides(succession) => {
                let Some(Activating { binding, reply, .. }) = self.deciding.next.take() else { return };
                let activation = self.succeed(now, *succession, binding);
                // The control task may have gone with the process.
                let _ = reply.send(Ok(activation));
            }
            Progress::Refused(fault) => {
                let Some(Activating { reply, .. }) = self.deciding.next.take() else { return };
                let _ = reply.send(Err(Refusal::new(ErrorCode::PolicyRejected, fault.to_string())));
            }
        }
    }

    fn succeed(&mut self, now: Timestamp, succession: Succession, binding: PolicyBinding) -> Activation {
        let Succession { bound, carried } = succession;
        let own_name = bound.compiled().descriptor().name.clone();
        let before = self.deciding.policy.replace(bound);
        if before.is_some_and(|before| before.compiled().descriptor().name != own_name) {
            // Weights and memos mean something to their own policy only.
            self.scheduler.handle(now, Event::PolicyUnbound);
        }
        self.deciding.suspended_because = None;
        self.scheduler.handle(now, Event::PolicyBound);
        let policy = sluicegate_protocol::admin::BoundPolicy {
            digest: binding.digest,
            name: own_name,
            config: binding.config,
            activated_at: now,
            suspended_because: None,
            runs: self.deciding.policy.as_ref().map(BoundPolicy::runs),
        };
        Activation { group: self.spec.name.clone(), policy: Some(policy), at: now, state_carried: carried }
    }

    /// Binds a policy before anybody is served.
    pub(super) fn begin_policy(
        &mut self,
        shard: ShardId,
        now: Timestamp,
        policy: Arc<CompiledPolicy>,
        binding: &PolicyBinding,
    ) {
        let (recipe, ticket) = self.recipe(shard, now, policy, binding);
        match BoundPolicy::begin(recipe.clone(), ticket) {
            Ok(bound) => {
                self.deciding.policy = Some(bound);
                self.scheduler.handle(now, Event::PolicyBound);
            }
            Err(fault) => {
                tracing::error!(group = %self.spec.name, %fault, "the bound policy does not start, fair scheduling decides");
                self.deciding.suspended_because = Some(fault.to_string());
                recipe.compiled.broke(PolicyRole::Deciding, self.spec.name.as_str(), &binding.config, &fault, None);
            }
        }
    }

    fn recipe(
        &mut self,
        shard: ShardId,
        now: Timestamp,
        compiled: Arc<CompiledPolicy>,
        binding: &PolicyBinding,
    ) -> (Recipe, Ticket) {
        self.deciding.bindings += 1;
        let init = init_for(&self.spec, shard, now);
        let ticket = Ticket { group: self.spec.id, binding: self.deciding.bindings };
        (Recipe { compiled, config: binding.config.as_str().into(), init }, ticket)
    }

    fn unbind(&mut self, now: Timestamp) -> Activation {
        self.deciding.policy = None;
        self.deciding.suspended_because = None;
        self.unbound(now);
        Activation { group: self.spec.name.clone(), policy: None, at: now, state_carried: false }
    }
}

/// For whom an instance decides that starts now.
pub(crate) fn init_for(spec: &GroupSpec, shard: ShardId, now: Timestamp) -> Init {
    let seed = u64::from(spec.id.0) << 16 | u64::from(shard.0);
    Init { group: spec.name.as_str().to_owned(), shard: shard.0, seed, now }
}

impl Shard {
    /// Changes what decides for a group, between two frames. A policy is started aside; what decides goes on until it is ready.
    pub(super) fn activate(
        &mut self,
        spec: &Arc<GroupSpec>,
        policy: Option<(Arc<CompiledPolicy>, PolicyBinding)>,
        reply: oneshot::Sender<Result<Activation, Refusal>>,
    ) {
        let (shard, now) = (self.ledger.stage.shard(), self.ledger.stage.now());
        let Some(group) = self.groups.get_mut(&spec.id) else {
            let refusal = Refusal::new(ErrorCode::UnknownGroup, format!("group `{}` was deleted", spec.name));
            // The control task may have gone with the process.
            let _ = reply.send(Err(refusal));
            return;
        };
        let Some((compiled, binding)) = policy else {
            let _ = reply.send(Ok(group.unbind(now)));
            return;
        };
        let (recipe, ticket) = group.recipe(shard, now, compiled, &binding);
        let Some((successor, errand)) = Successor::begin(recipe, ticket) else {
            let refusal = Refusal::new(ErrorCode::Unavailable, "too many policies are being started");
            let _ = reply.send(Err(refusal.retry_after(Duration::from_secs(1))));
            return;
        };
        errand.send(&group.deciding.home);
        // There is no other: changes come one at a time, each when the one before was answered.
        group.deciding.next = Some(Activating { successor, binding, reply });
    }

    /// Takes what policy threads did, for groups that may have been deleted since.
    pub(super) fn hear_policies(&mut self, first: Option<Return>) {
        let mut next = first;
        while let Some(returned) = next.or_else(|| self.policy_returns.try_recv().ok()) {
            if let Some(group) = self.groups.get_mut(&returned.ticket.group) {
                group.policy_returned(&self.ledger, returned);
            }
            next = None;
        }
    }
}
