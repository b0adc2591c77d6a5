//! A shard: one task that owns the lite topics, cursors, leases and schedulers of its topics.
//!
//! Commands come by a bounded mailbox. The shard stages changes through [`lifecycle`], sends them
//! to the committer, and does what waits for them (replies, deliveries, telling the schedulers)
//! when the store got far enough. No lock guards any of it, and it never waits for a peer.

mod ahead;
mod books;
mod busy;
mod cancel;
mod command;
mod counts;
mod cursor;
mod dead_letter;
mod delete;
mod due;
mod explain;
mod fault;
mod follow;
mod group;
mod idempotency;
mod leases;
mod ledger;
mod levels;
mod lifecycle;
mod limits;
mod lite;
mod operator;
mod paging;
mod policy;
mod position;
mod publish;
mod readers;
mod reading;
mod receipts;
mod reclaim;
mod record;
mod recovery;
mod removal;
mod report;
mod retention;
#[cfg(test)]
mod rig;
mod sample;
mod session;
mod settle;
mod stage;
mod subscribe;
mod subscription;
mod upload;
mod visit;
mod wake;

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sluicegate_protocol::{ErrorCode, GroupId, LiteId, Timestamp};
use tokio::sync::{mpsc, watch};

use crate::clock::Clock;
use crate::id_hash::IdHash;
use crate::metrics::Published;
use crate::policy::Return;
use crate::refusal::Refusal;
use crate::store::{Committer, DueKind, StoreError, Watermark};

pub(crate) use cancel::CancelRequest;
pub(crate) use command::{
    Attach, Attached, Command, DeliveryOrder, ExtendRequest, GroupReport, NewBody, Outcome, PublishRequest,
    SettleRequest, ToConsumer, ToProducer,
};
pub(crate) use dead_letter::{RedriveStep, describe as describe_dead_letter};
pub(crate) use explain::{Explained, Wait, WaitersStep};
use fault::Answer;
use group::Group;
pub(crate) use idempotency::Idempotency;
use ledger::Ledger;
pub(crate) use operator::{OpenLeases, OperatorRequest, Verb};
pub(crate) use paging::Loading;
pub(crate) use policy::init_for;
pub(crate) use readers::{BeginRead, CheckRead, Mark, ReadFrom, reclaimed};
use receipts::Receipts;
pub(crate) use record::{RecordRequest, Recording};
pub(crate) use recovery::{GroupStart, begin_epoch};
use removal::Removals;
pub(crate) use removal::{RemoveRequest, TakenAway};

pub(crate) use subscribe::{SubscribeRequest, SubscriptionChange};
pub(crate) use subscription::Names;
pub(crate) use upload::{BeginUpload, Begun};
pub(crate) use visit::{OpenSession, Opened, Places, Visit, unknown as unknown_session};

pub(crate) use crate::store::ShardId;

/// Commands that wait for a shard.
const MAILBOX_MAX: usize = 1_024;
/// Commands handled between two looks at the schedulers.
const COMMANDS_PER_TURN: usize = 64;
/// Rows of the `due` table that are looked at for one batch: what is published meanwhile waits for no more than that.
const DUE_PER_BATCH: usize = 32;
/// The pause after a look at what is due, in percent of the look: nobody waits for what is due, and publishes do.
const DUE_PAUSE_PERCENT: u32 = 150;

/// Sends commands to a shard.
pub(crate) type ShardHandle = mpsc::Sender<Command>;

/// What waits for a batch.
enum Effect {
    /// Tell the producer; then the messages are visible.
    Published(publish::PublishDone),
    /// Deliver to a session.
    Deliver(mpsc::Sender<ToConsumer>, Vec<DeliveryOrder>),
    /// Tell a consumer.
    Reply(mpsc::Sender<ToConsumer>, ToConsumer),
    /// Tell the control task or an operator.
    Answer(Answer),
    /// Tell who reads a lite topic that its life is over.
    Ended(LiteId),
}

/// The owner of one shard's state.
pub(crate) struct Shard {
    clock: Clock,
    committer: Committer,
    marks: watch::Receiver<Watermark>,
    mailbox: mpsc::Receiver<Command>,
    /// Taken from the mailbox, and waiting for room in the open batch.
    pending: VecDeque<Command>,
    /// Where policy threads bring errands back to.
    policy_home: mpsc::Sender<Return>,
    policy_returns: mpsc::Receiver<Return>,
    ledger: Ledger,
    groups: HashMap<GroupId, Group, IdHash>,
    /// Those whose traffic is written down.
    recording: Vec<GroupId>,
    receipts: Receipts,
    removals: Removals,
    loading: Loading,
    /// What the shard said last that it has yet to load.
    said_loading: u64,
    published_so_far: Published,
    /// Lives that ended by themselves.
    reclaimed_so_far: u64,
    started_at: Timestamp,
    /// The batch that looked at what is due last.
    due_in: u64,
    /// The next look at what is due, at the earliest.
    due_from: Timestamp,
    /// Why the shard refuses everything, once the store has failed.
    failed: Option<StoreError>,
    /// No new leases.
    draining: bool,
}

impl Shard {
    /// A mailbox for a shard.
    pub(crate) fn mailbox() -> (ShardHandle, mpsc::Receiver<Command>) {
        mpsc::channel(MAILBOX_MAX)
    }

    /// Runs until all handles are dropped and everything staged is durable.
    pub(crate) async fn run(mut self) {
        let mut commands = Vec::with_capacity(COMMANDS_PER_TURN);
        let mut returned = None;
        let mut open = true;
        while open || !self.pending.is_empty() || !self.ledger.stage.is_settled() {
            let timeout = self.next_timeout();
            tokio::select! {
                biased;
                // After a failure nothing moves any more, and the senders are gone.
                changed = self.marks.changed(), if self.failed.is_none() => {
                    if changed.is_err() {
                        self.fail(&StoreError::Database("the committer has stopped".into()));
                    }
                }
                taken = self.mailbox.recv_many(&mut commands, COMMANDS_PER_TURN), if open && self.pending.is_empty() => {
                    open = taken > 0;
                    if !open {
                        self.removals.give_up();
                        self.ledger.keys.give_up();
                        self.receipts.give_up();
                        self.ledger.stage.dues.give_up();
                    }
                }
                done = self.policy_returns.recv() => returned = done,
                () = sleep(timeout), if timeout.is_some() => {}
            }
            // A store that is as fast as the shard is ready first each time: commands get their turn all the same.
            while open && self.pending.is_empty() && commands.len() < COMMANDS_PER_TURN {
                let Ok(command) = self.mailbox.try_recv() else { break };
                commands.push(command);
            }
            self.ledger.stage.at(self.clock.now());
            let mark = self.marks.borrow_and_update().clone();
            if let Some(error) = &mark.failed {
                self.fail(error);
            }
            self.ledger.stage.reached(mark);
            self.run_effects();
            self.pending.extend(commands.drain(..));
            while (self.failed.is_some() || self.ledger.stage.has_room())
                && let Some(command) = self.pending.pop_front()
            {
                self.handle(command);
            }
            self.hear_policies(returned.take());
            self.expire();
            self.unfile();
            self.look_at_due();
            self.dispatch();
            self.go_on_removing();
            self.delete_ended();
            self.save_quotas();
            self.say_loading();
            let written = self.ledger.stage.written();
            self.ledger.lites.evict(written);
            // After a failure memory may differ from the store: nothing more is written.
            if self.failed.is_none() {
                self.submit().await;
            }
            if self.failed.is_some() && !open {
                return;
            }
            // Whoever was told something goes on before the next turn, on this thread too.
            tokio::task::yield_now().await;
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Publish { topic, producer, requests, replies, room } => {
                self.publish(topic, producer, requests, &replies, room);
            }
            Command::Attach(attach) => self.attach(attach),
            Command::Credit { group, session, stream, messages, load_ppm } => {
                self.credit(group, session, stream, messages, load_ppm);
            }
            Command::Settle { group, session, sequence, settles, replies } => {
                self.settle(group, session, sequence, settles, replies);
            }
            Command::Extend { group, session, sequence, leases, replies } => {
                self.extend(group, session, sequence, &leases, replies);
            }
            Command::OpenSession(asked) => self.open_session(asked),
            Command::Visit(visit) => self.visit(visit),
            Command::TakeBack { group, session, leases } => self.take_back(group, session, &leases),
            Command::CloseSession { group, session, reply } => self.close_session(group, session, reply),
            Command::Subscribe(request) => self.subscribe(request),
            Command::Detach { group, session, stream, orderly } => self.detach(group, session, stream, orderly),
            Command::AddTopic(topic) => drop(self.ledger.topics.insert(topic.id, topic)),
            Command::AddGroup { spec, start, reply } => self.add_group(spec, start, reply),
            Command::ChangeGroup(spec, reply) => {
                let now = self.ledger.stage.now();
                if let Some(group) = self.groups.get_mut(&spec.id) {
                    group.change(now, spec);
                }
                // The control task may have gone with the process.
                let _ = reply.send(());
            }
            Command::Activate { group, policy, reply } => self.activate(&group, policy, reply),
            Command::Shadow { group, shadow, reply } => {
                let now = self.ledger.stage.now();
                if let Some(group) = self.groups.get_mut(&group) {
                    group.set_shadow(now, shadow);
                }
                // The control task may have gone with the process.
                let _ = reply.send(());
            }
            Command::GroupStats { group, reply } => {
                let mut report = self.groups.get(&group).map(|group| group.report(&self.ledger)).unwrap_or_default();
                report.owes_replies = self.ledger.stage.owes_replies();
                // Whoever asked may have given up.
                let _ = reply.send(report);
            }
            Command::Remove(request) => self.remove(request),
            Command::Operate(request) => self.operate(request),
            Command::Explain { group, lite, reply } => self.explain(group, &lite, reply),
            Command::Waiters { group, after, limit, reply } => self.waiters(group, after, limit, reply),
            Command::SetReclaim { topic, lite, reclaim, reply } => self.set_reclaim(topic, &lite, reclaim, reply),
            Command::DeleteLite { topic, lite, reply } => self.delete_lite(topic, &lite, reply),
            Command::Redrive { group, lite, limit, reply } => self.redrive(group, &lite, limit, reply),
            Command::Sample { groups, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.sample(&groups));
            }
            Command::CountTopic { topic, reply } => {
                // Whoever asked may have given up.
                let _ = reply.send(self.ledger.stage.counts.of_topic(topic));
            }
            Command::Record(request) => self.record(request),
            Command::EndRecording { group, reply } => {
                self.end_recording(group);
                // Whoever asked may have given up.
                let _ = reply.send(());
            }
            Command::BeginUpload(begin) => self.begin_upload(begin),
            Command::AbortUpload(body) => self.abort_upload(body),
            Command::CheckLease { group, session, lease, reply } => self.check_lease(group, session, &lease, reply),
            Command::BeginRead(begin) => self.begin_read(begin),
            Command::CheckRead(asked) => self.check_read(asked),
            Command::Cancel(asked) => self.cancel(asked),
            Command::EndRead { topic, lite, life } => self.end_read(topic, lite, life),
            Command::Drain => self.drain(),
        }
    }

    async fn submit(&mut self) {
        let Ledger { stage, lites, .. } = &mut self.ledger;
        if !stage.is_due() {
            return;
        }
        lifecycle::put_touched(stage, lites);
        if let Err(error) = stage.sweep_bodies() {
            return self.fail(&error);
        }
        let submitted = match stage.put_counts(|tenant| lites.tenant_named_by(tenant)) {
            Ok(()) => stage.submit(&self.committer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = submitted {
            // What the store met first is why nothing is committed any more.
            let error = stage.store().failure().unwrap_or(error);
            self.fail(&error);
        }
    }

    fn drain(&mut self) {
        self.draining = true;
        for outbox in self.groups.values().flat_map(Group::outboxes) {
            // A stream that does not read is ended by its own task.
            let _ = outbox.try_send(ToConsumer::Draining);
        }
    }

    fn next_timeout(&self) -> Option<Duration> {
        if self.failed.is_some() {
            // What waited for room when it failed is refused at once.
            return (!self.pending.is_empty()).then_some(Duration::ZERO);
        }
        let has_room = self.ledger.stage.has_room();
        if self.ledger.stage.has_due_effect() || (has_room && !self.pending.is_empty()) {
            return Some(Duration::ZERO);
        }
        if !has_room {
            return None; // The next turn comes when the store has taken a batch.
        }
        if self.ledger.stage.has_dropped_bodies() && self.ledger.stage.is_due() {
            return Some(Duration::ZERO);
        }
        if self.removals.is_due(&self.ledger.stage) {
            return Some(Duration::ZERO);
        }
        let groups = self.groups.values().filter_map(|group| group.next_timeout(self.draining));
        let rows = self.ledger.stage.lingers_until().into_iter().chain(self.ledger.keys.next_look());
        let rows = rows.chain(self.receipts.next_look());
        let may_look = !self.draining && self.due_in != self.ledger.stage.number();
        let due = self.ledger.stage.dues.next().filter(|_| may_look).map(|at| at.max(self.due_from));
        let at = groups.chain(rows).chain(due).min()?;
        Some(at.since(self.clock.now()))
    }

    fn run_effects(&mut self) {
        while let Some(effect) = self.ledger.stage.next_effect() {
            match effect {
                Effect::Published(done) => self.published(done),
                // A full outbox is a peer that asks without reading: what does not fit costs that peer alone.
                Effect::Deliver(outbox, orders) => drop(outbox.try_send(ToConsumer::Deliveries(orders))),
                Effect::Reply(outbox, reply) => drop(outbox.try_send(reply)),
                Effect::Answer(answer) => answer.tell(Ok(())),
                Effect::Ended(lite) => self.ledger.readers.ended(lite),
            }
        }
    }

    fn dispatch(&mut self) {
        if self.draining || self.failed.is_some() || !self.ledger.stage.has_room() {
            return;
        }
        let mut faults = Vec::new();
        for group in self.groups.values_mut() {
            if let Err(error) = group.dispatch(&mut self.ledger) {
                faults.push(error);
            }
        }
        for error in faults {
            self.fail(&error);
        }
    }

    fn expire(&mut self) {
        if self.failed.is_some() {
            return;
        }
        let mut faults = Vec::new();
        for group in self.groups.values_mut() {
            if let Err(error) = group.expire(&mut self.ledger) {
                faults.push(error);
            }
        }
        for error in faults {
            self.fail(&error);
        }
    }

    fn unfile(&mut self) {
        let Ledger { stage, lites, .. } = &mut self.ledger;
        while let Some((group, id)) = stage.lingered() {
            // It stays in memory while its row lingers; it may have been deleted.
            if let Some(lite) = lites.get(id) {
                lifecycle::unfile(stage, group, lite);
            }
        }
    }

    /// Idempotency keys whose windows ended, and producers that did not come back.
    fn delete_ended(&mut self) {
        let Ledger { stage, keys, .. } = &mut self.ledger;
        if self.failed.is_none()
            && stage.has_room()
            && let Err(error) = keys.delete_ended(stage).and_then(|()| self.receipts.delete_ended(stage))
        {
            self.fail(&error);
        }
    }

    /// A bounded number of what is due. What is left when the process ends is due in the next.
    fn look_at_due(&mut self) {
        if self.draining || self.failed.is_some() {
            return;
        }
        let batch = self.ledger.stage.number();
        let begun = self.clock.now();
        if self.due_in == batch || begun < self.due_from || !self.ledger.stage.has_room() {
            return; // This batch has its share, or what is published has its turn, or the store is to take a batch first.
        }
        match self.take_due() {
            Ok(0) => {}
            Ok(_) => {
                self.due_in = batch;
                let end = self.clock.now();
                self.due_from = end.plus(end.since(begun) * DUE_PAUSE_PERCENT / 100);
            }
            Err(error) => return self.fail(&error),
        }
        self.tell_ended();
    }

    /// Answers how many rows it took.
    fn take_due(&mut self) -> Result<usize, StoreError> {
        let mut taken = Vec::with_capacity(DUE_PER_BATCH);
        while taken.len() < DUE_PER_BATCH
            && let Some(due) = self.ledger.stage.take_due()?
        {
            taken.push(due);
        }
        self.ledger.load_together(taken.iter().map(|(key, _)| key.lite))?;
        let count = taken.len();
        for (key, row) in taken {
            match key.kind {
                DueKind::Reclaim => self.look_at(&key, row)?,
                DueKind::Trim => self.trim_old(&key)?,
            }
        }
        Ok(count)
    }

    fn save_quotas(&mut self) {
        for group in self.groups.values_mut() {
            group.save_quota(&mut self.ledger);
        }
    }

    /// The store failed: what is staged may or may not be there, so nothing is answered as done.
    fn fail(&mut self, error: &StoreError) {
        if self.failed.is_some() {
            return;
        }
        self.ledger.stage.store().failed(error);
        tracing::debug!(shard = self.ledger.stage.shard().0, %error, "the shard refuses all requests");
        self.failed = Some(error.clone());
        self.ledger.readers.end_all();
        let refusal = store_failed(error);
        for stream in self.groups.values_mut().flat_map(|group| group.sessions.end_streams()) {
            // A stream that does not read is ended by its own task.
            let _ = stream.outbox.try_send(ToConsumer::Failed(refusal.clone()));
        }
        for effect in self.ledger.stage.abandon() {
            match effect {
                Effect::Published(done) => done.refuse(&refusal),
                Effect::Deliver(..) | Effect::Ended(_) => {}
                Effect::Reply(outbox, _) => drop(outbox.try_send(ToConsumer::Failed(refusal.clone()))),
                Effect::Answer(answer) => answer.tell(Err(refusal.clone())),
            }
        }
    }
}

fn store_failed(error: &StoreError) -> Refusal {
    Refusal::new(ErrorCode::StoreFailed, format!("the store failed, the outcome is unknown: {error}"))
        .retry_after(Duration::from_secs(1))
}

async fn sleep(timeout: Option<Duration>) {
    match timeout {
        // A timer would come a millisecond later at the earliest.
        Some(Duration::ZERO) => tokio::task::yield_now().await,
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}
