//! The one task that owns a consumer's stream, its leases and its requests.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::{ErrorCode, GroupName, LeaseToken, LiteId, LiteName, SessionId, wire};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use super::leases::Leases;
use super::requests::{Requests, Sent, SettleRequest, lease_token};
use super::subscriptions::{Change, Heard, Kind, Subscriptions};
use super::{Bodies, ConsumeError, ConsumerBuilder, ConsumerState, EndedLife};
use crate::backoff::Backoff;
use crate::body::{MessageBody, Origin};
use crate::client::{Client, Opened};
use crate::delivery::{Delivery, LeaseState, Outcome, SettleError};
use crate::refusal::Refusal;
use crate::reply::Replies;
use crate::stream::{FrameWriter, STABLE_AFTER, StreamError};

/// Commands taken over at once.
const INTAKE_MAX: usize = 512;
/// How long an orderly close waits for a broker that is away or does not reply.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Large bodies that a consumer brings here at once.
const FETCHES_MAX: usize = 16;
/// Deadlines farther away are cut to this.
const DEADLINE_MAX: Duration = Duration::from_hours(24 * 365);

/// What deliveries and the consumer ask for.
#[derive(Debug)]
pub(crate) enum Command {
    Settle(SettleRequest),
    /// A delivery is gone without a settle.
    Dropped(LeaseToken),
    Close(oneshot::Sender<()>),
}

/// Why serving one stream ended.
enum StreamEnd {
    /// In an orderly way, or because the time for that is over.
    Closed,
    Refused(Refusal),
    Lost(StreamError),
}

impl From<StreamError> for StreamEnd {
    fn from(error: StreamError) -> Self {
        Self::Lost(error)
    }
}

type Output = mpsc::Sender<Result<Delivery, ConsumeError>>;

pub(super) struct ConsumerTask {
    client: Client,
    group: GroupName,
    session: SessionId,
    workers: u32,
    /// Goes into each delivery.
    command_sender: mpsc::Sender<Command>,
    commands: mpsc::Receiver<Command>,
    intake: Vec<Command>,
    output: Output,
    bodies: Bodies,
    /// Goes into each delivery.
    replies: Replies,
    /// Turns to bring large bodies here.
    fetches: Arc<Semaphore>,
    state: watch::Sender<ConsumerState>,
    leases: Leases,
    requests: Requests,
    /// Deliveries that were handed out and are neither settled nor dropped.
    unfinished: u32,
    /// To be given back.
    credit: u32,
    /// None takes all lite topics.
    subscriptions: Option<Subscriptions>,
    changes: mpsc::Receiver<Change>,
    lost: broadcast::Sender<LiteName>,
    ended: broadcast::Sender<EndedLife>,
    load: watch::Receiver<u32>,
    /// The broker has not been told the load.
    is_load_news: bool,
    clock: BrokerClock,
    closers: Vec<oneshot::Sender<()>>,
    /// Set when it is closing: then it gives up.
    close_by: Option<Instant>,
}

impl ConsumerTask {
    pub(super) fn new(
        builder: &ConsumerBuilder,
        command_sender: mpsc::Sender<Command>,
        commands: mpsc::Receiver<Command>,
        output: Output,
        state: watch::Sender<ConsumerState>,
        load: watch::Receiver<u32>,
        (changes, lost, ended): (mpsc::Receiver<Change>, broadcast::Sender<LiteName>, broadcast::Sender<EndedLife>),
    ) -> Self {
        let subscriptions = builder.subscription.clone().map(|names| {
            let mut subscriptions = Subscriptions::default();
            subscriptions.change(Change { kind: Kind::Add, names, done: None });
            subscriptions
        });
        Self {
            subscriptions,
            changes,
            lost,
            ended,
            replies: Replies::new(builder.client.clone(), builder.group.clone()),
            client: builder.client.clone(),
            group: builder.group.clone(),
            session: builder.session,
            workers: builder.workers,
            command_sender,
            commands,
            intake: Vec::with_capacity(INTAKE_MAX),
            output,
            bodies: builder.bodies,
            fetches: Arc::new(Semaphore::new(FETCHES_MAX)),
            state,
            leases: Leases::default(),
            requests: Requests::default(),
            unfinished: 0,
            credit: 0,
            load,
            is_load_news: false,
            clock: BrokerClock { read_at: Instant::now(), now_us: 0 },
            closers: Vec::new(),
            close_by: None,
        }
    }

    /// What the next Hello says. Its credit covers all that is to be given back until now.
    pub(super) fn role(&mut self) -> wire::hello::Role {
        self.credit = 0;
        self.requests.forget_credit();
        wire::hello::Role::Consumer(wire::ConsumerRole {
            group: self.group.as_str().into(),
            session_id: self.session.to_bytes().to_vec(),
            credit_messages: match self.close_by {
                None => self.workers.saturating_sub(self.unfinished),
                Some(_) => 0,
            },
            named: self.subscriptions.is_some(),
        })
    }

    pub(super) async fn run(mut self, mut opened: Opened) {
        let mut backoff = Backoff::new();
        let ended = loop {
            let opened_at = Instant::now();
            let end = self.serve(opened).await;
            if opened_at.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            let retry_after = match end {
                StreamEnd::Closed => break None,
                StreamEnd::Refused(refusal) if !refusal.asks_for_reconnect() => break Some(refusal),
                StreamEnd::Refused(refusal) => {
                    tracing::warn!(%refusal, "consumer stream ended, reconnecting");
                    refusal.retry_after
                }
                StreamEnd::Lost(error) => {
                    tracing::warn!(%error, "consumer stream lost, reconnecting");
                    None
                }
            };
            opened = match self.reopen(&mut backoff, retry_after).await {
                Ok(Some(opened)) => opened,
                Ok(None) => break None,
                Err(refusal) => break Some(refusal),
            };
        };
        self.finish(ended).await;
    }

    async fn serve(&mut self, opened: Opened) -> StreamEnd {
        let Opened { mut reader, mut writer, welcome } = opened;
        if let Err(error) = self.reattach(welcome) {
            return StreamEnd::Lost(error);
        }
        self.state.send_replace(ConsumerState::Connected);
        // On a new stream a consumer counts as idle.
        self.is_load_news = *self.load.borrow() > 0;
        loop {
            self.fill(&mut writer);
            let (timer, close_by) = (self.leases.next_timer(), self.close_by);
            tokio::select! {
                biased;
                frame = reader.next() => match frame {
                    Ok(frame) => if let Err(end) = self.receive(frame) {
                        return end;
                    },
                    Err(_) if writer.is_closed() => return StreamEnd::Closed,
                    Err(error) => return StreamEnd::Lost(error),
                },
                written = writer.write() => match written {
                    Ok(()) => {}
                    Err(_) if writer.is_closed() => return StreamEnd::Closed,
                    Err(error) => return StreamEnd::Lost(error),
                },
                _ = self.commands.recv_many(&mut self.intake, INTAKE_MAX) => {
                    self.gather().await;
                    self.take_in();
                }
                Some(change) = self.changes.recv(), if self.subscriptions.is_some() => self.change(change),
                Ok(()) = self.load.changed() => self.is_load_news = true,
                () = reached(timer) => {
                    let extensions = self.leases.due(Instant::now());
                    self.requests.extend(extensions);
                }
                () = self.output.closed(), if close_by.is_none() => self.start_closing(),
                () = reached(close_by) => return StreamEnd::Closed,
            }
        }
    }

    /// A new stream, or none when the time to close is over.
    async fn reopen(
        &mut self,
        backoff: &mut Backoff,
        retry_after: Option<Duration>,
    ) -> Result<Option<Opened>, Refusal> {
        self.state.send_replace(ConsumerState::Reconnecting);
        let (client, role) = (self.client.clone(), self.role());
        let mut reopening = pin!(client.reopen(role, backoff, retry_after));
        loop {
            let (timer, close_by) = (self.leases.next_timer(), self.close_by);
            tokio::select! {
                biased;
                reopened = &mut reopening => return reopened.map(Some),
                _ = self.commands.recv_many(&mut self.intake, INTAKE_MAX) => self.take_in(),
                // Nothing can be extended now; what runs out is lost.
                () = reached(timer) => drop(self.leases.due(Instant::now())),
                () = self.output.closed(), if close_by.is_none() => self.start_closing(),
                () = reached(close_by) => return Ok(None),
            }
        }
    }

    /// Goes on with the leases that the broker still holds for this session.
    fn reattach(&mut self, welcome: wire::Welcome) -> Result<(), StreamError> {
        let now = Instant::now();
        self.clock = BrokerClock { read_at: now, now_us: welcome.now_us };
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.reattach(welcome.subscriptions_kept);
        }
        let mut held = HashMap::with_capacity(welcome.held.len());
        for lease in &welcome.held {
            held.insert(required_token(lease.token.as_ref())?, self.clock.instant(lease.deadline_us));
        }
        self.leases.reattach(&held, now);
        let (settling, credit) = self.requests.reattach(&held);
        self.credit += credit;
        if self.close_by.is_some() {
            // The close that follows returns everything.
            return Ok(());
        }
        for lease in welcome.held {
            let token = required_token(lease.token.as_ref())?;
            if !self.leases.contains(token) && !settling.contains(&token) {
                self.give_back(token, &lease);
            }
        }
        Ok(())
    }

    /// Returns, uncounted, a lease whose delivery never arrived here or belongs to a process before this one.
    fn give_back(&mut self, token: LeaseToken, lease: &wire::HeldLease) {
        let settle = Outcome::Suspend(Duration::from_millis(1)).into_settle(token, lease.lite_id, lease.offset);
        self.requests.settle(SettleRequest { token, settle, reply: None, credit: 0 });
    }

    /// Adds what there is to the batch: settles with their credit, then extensions.
    fn fill(&mut self, writer: &mut FrameWriter) {
        while writer.has_room() {
            let Some((frame, credit)) = self.requests.next_settle() else { break };
            writer.push(&frame);
            self.credit += credit;
        }
        if let Some(subscriptions) = &mut self.subscriptions
            && writer.has_room()
            && let Some(frame) = subscriptions.next_frame(|| self.requests.next_sequence())
        {
            writer.push(&frame);
        }
        if (self.credit > 0 || self.is_load_news) && self.close_by.is_none() && writer.has_room() {
            let load_ppm = std::mem::take(&mut self.is_load_news).then(|| *self.load.borrow_and_update());
            writer.push(&Frame::Credit(wire::Credit { messages: std::mem::take(&mut self.credit), load_ppm }, ()));
        }
        while writer.has_room() {
            let Some(frame) = self.requests.next_extend() else { break };
            writer.push(&frame);
        }
        if self.close_by.is_some() && self.requests.is_settled() {
            writer.close();
        }
    }

    fn receive(&mut self, frame: Frame) -> Result<(), StreamEnd> {
        match frame {
            Frame::Deliveries(header, bodies) => Ok(self.deliver(header, bodies)?),
            Frame::Settled(settled, ()) => self.settled(settled),
            Frame::Extended(extended, ()) => {
                self.extended(extended);
                Ok(())
            }
            Frame::Subscribed(subscribed, ()) => {
                let sequence = subscribed.sequence;
                let heard = self.subscriptions.as_mut().map(|own| own.answered(sequence, Ok(subscribed)));
                if heard.is_none_or(|heard| heard == Heard::NotOurs) {
                    let problem = format!("reply to unknown subscribe {sequence}");
                    return Err(StreamError::Protocol(problem).into());
                }
                Ok(())
            }
            Frame::Lost(lost, ()) => Ok(self.lost(&lost)?),
            Frame::Cancel(cancel, ()) => {
                self.leases.cancel(required_token(cancel.token.as_ref())?);
                Ok(())
            }
            Frame::Error(error, ()) => self.refused(error),
            Frame::Draining(..) => {
                self.state.send_replace(ConsumerState::Draining);
                Ok(())
            }
            other => Err(StreamError::unexpected(&other).into()),
        }
    }

    fn deliver(&mut self, header: wire::Deliveries, mut bodies: Bytes) -> Result<(), StreamError> {
        if self.close_by.is_some() {
            // The close that follows returns them.
            return Ok(());
        }
        let now = Instant::now();
        for delivery in header.deliveries {
            let token = required_token(delivery.token.as_ref())?;
            let body_bytes = delivery.body_bytes as usize;
            if body_bytes > bodies.len() {
                return Err(StreamError::Protocol(format!("body of {body_bytes} bytes, {} are there", bodies.len())));
            }
            let here = bodies.split_to(body_bytes);
            let lease = Arc::new(LeaseState::default());
            self.leases.insert(token, &delivery, self.clock.instant(delivery.deadline_us), Arc::clone(&lease), now);
            self.unfinished += 1;
            let bytes = delivery.large_body_bytes;
            let body = if bytes > 0 {
                let origin = Origin::Lease(self.body_role(&delivery), Arc::clone(&lease));
                MessageBody::away(self.client.clone(), bytes, origin)
            } else {
                MessageBody::Here(here)
            };
            let delivery =
                Delivery::new(delivery, body, (token, lease), self.replies.clone(), self.command_sender.clone());
            if delivery.is_body_streamed() && bytes <= self.bodies.streamed_above {
                self.fetch(delivery);
                continue;
            }
            match self.output.try_send(Ok(delivery)) {
                // A consumer that is gone closes the stream, which returns the message.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(_)) => return Err(StreamError::Protocol("more deliveries than credit".into())),
            }
        }
        Ok(())
    }

    fn body_role(&self, delivery: &wire::Delivery) -> wire::BodyRole {
        wire::BodyRole {
            group: self.group.as_str().into(),
            session_id: self.session.to_bytes().to_vec(),
            token: delivery.token,
            lite_id: delivery.lite_id,
            offset: delivery.offset,
            from: 0,
        }
    }

    /// Hands a delivery out when its body is here.
    fn fetch(&self, mut delivery: Delivery) {
        let (bytes, max) = (delivery.body_bytes(), self.bodies.bytes_max);
        if bytes > max {
            let reason = format!("a body of {bytes} bytes, this consumer takes at most {max}");
            return delivery.settle_unattended(Outcome::DeadLetter(reason));
        }
        let (fetches, output) = (Arc::clone(&self.fetches), self.output.clone());
        tokio::spawn(async move {
            let _turn = fetches.acquire().await.expect("the semaphore is never closed");
            match delivery.fetch_body().await {
                // A consumer that is gone closes the stream, which returns the message.
                Ok(()) => drop(output.try_send(Ok(delivery))),
                // Dropped: the lease is over, or runs out.
                Err(error) => tracing::warn!(%error, lite = delivery.lite(), "a delivery's body is not to be had"),
            }
        });
    }

    fn settled(&mut self, settled: wire::Settled) -> Result<(), StreamEnd> {
        let Some(Sent::Settles(requests)) = self.requests.take(settled.sequence) else {
            return Err(StreamError::Protocol(format!("reply to unknown settle {}", settled.sequence)).into());
        };
        if requests.len() != settled.results.len() {
            let (results, settles) = (settled.results.len(), requests.len());
            self.requests.put_back(requests);
            return Err(StreamError::Protocol(format!("{results} results for {settles} settles")).into());
        }
        let (mut again, mut cause) = (Vec::new(), None);
        for (request, result) in requests.into_iter().zip(settled.results) {
            if result.code == 0 {
                request.answer(Ok(()));
                continue;
            }
            let refusal = Refusal::new(ErrorCode::from_number(result.code), "settle failed".into());
            if refusal.asks_for_resend() {
                again.push(request);
                cause = Some(refusal);
            } else {
                request.answer(Err(settle_error(refusal)));
            }
        }
        let Some(cause) = cause else { return Ok(()) };
        self.requests.put_back(again);
        Err(StreamEnd::Refused(cause))
    }

    fn extended(&mut self, extended: wire::Extended) {
        // A reply to nothing changes nothing.
        let Some(Sent::Extensions(tokens)) = self.requests.take(extended.sequence) else { return };
        let now = Instant::now();
        for (token, result) in tokens.into_iter().zip(extended.results) {
            match result.code {
                0 => {
                    self.leases.extended(token, self.clock.instant(result.deadline_us), now);
                    if result.cancelled {
                        self.leases.cancel(token);
                    }
                }
                code if code == ErrorCode::LeaseLost.number() => self.leases.lose(token),
                _ => self.leases.not_extended(token, now),
            }
        }
    }

    fn change(&mut self, change: Change) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.change(change);
        }
    }

    /// Lite topics that a newer subscriber has, or whose life ended. Leases of them are found lost when they are extended or settled.
    fn lost(&mut self, lost: &wire::Lost) -> Result<(), StreamError> {
        for name in &lost.lites {
            let name = LiteName::parse(name).map_err(|error| StreamError::Protocol(error.to_string()))?;
            if let Some(subscriptions) = &mut self.subscriptions {
                subscriptions.lost(&name);
            }
            // Nobody need listen.
            let _ = self.lost.send(name);
        }
        for ended in &lost.ended {
            let lite = LiteName::parse(&ended.lite).map_err(|error| StreamError::Protocol(error.to_string()))?;
            // See above.
            let _ = self.ended.send(EndedLife { lite, lite_id: LiteId(ended.lite_id) });
        }
        Ok(())
    }

    /// A refusal of one request goes to who asked. What concerns the stream, or asks for a resend, is returned.
    fn refused(&mut self, error: wire::Error) -> Result<(), StreamEnd> {
        let sequence = error.sequence;
        let sent = sequence.and_then(|sequence| self.requests.take(sequence));
        let refusal = Refusal::from_wire(error);
        if let (Some(sequence), Some(subscriptions)) = (sequence, &mut self.subscriptions) {
            match subscriptions.answered(sequence, Err(refusal.clone())) {
                Heard::Told => return Ok(()),
                Heard::Unheard(refusal) => return Err(StreamEnd::Refused(refusal)),
                Heard::NotOurs => {}
            }
        }
        match sent {
            None => Err(StreamEnd::Refused(refusal)),
            Some(Sent::Settles(requests)) if refusal.asks_for_resend() => {
                self.requests.put_back(requests);
                Err(StreamEnd::Refused(refusal))
            }
            Some(Sent::Settles(requests)) => {
                for request in requests {
                    request.answer(Err(settle_error(refusal.clone())));
                }
                Ok(())
            }
            Some(Sent::Extensions(tokens)) => {
                let now = Instant::now();
                for token in tokens {
                    self.leases.not_extended(token, now);
                }
                Ok(())
            }
        }
    }

    /// Lets tasks that are ready now finish what they do, so that their settles share one frame and one packet.
    async fn gather(&mut self) {
        yield_now().await;
        while self.intake.len() < INTAKE_MAX {
            let Ok(command) = self.commands.try_recv() else { return };
            self.intake.push(command);
        }
    }

    fn take_in(&mut self) {
        let mut intake = std::mem::take(&mut self.intake);
        for command in intake.drain(..) {
            match command {
                Command::Settle(request) => self.settle(request),
                Command::Dropped(token) => {
                    self.unfinished -= 1;
                    self.credit += 1;
                    self.leases.abandon(token);
                }
                Command::Close(done) => {
                    self.closers.push(done);
                    self.start_closing();
                }
            }
        }
        self.intake = intake;
    }

    fn settle(&mut self, request: SettleRequest) {
        self.unfinished -= 1;
        if self.leases.settle(request.token) {
            return self.requests.settle(request);
        }
        self.credit += request.credit;
        request.answer(Err(match self.close_by {
            None => SettleError::LeaseLost,
            Some(_) => SettleError::Closed,
        }));
    }

    /// No further delivery is handed out, and those that are out are returned by the close.
    fn start_closing(&mut self) {
        if self.close_by.is_none() {
            self.close_by = Some(Instant::now() + CLOSE_TIMEOUT);
            self.leases.lose_all();
        }
    }

    async fn finish(mut self, ended: Option<Refusal>) {
        self.state.send_replace(ConsumerState::Closed);
        self.commands.close();
        self.leases.lose_all();
        self.requests.fail();
        if let Some(mut subscriptions) = self.subscriptions {
            subscriptions.fail();
        }
        for done in self.closers {
            // A caller that stopped waiting needs no answer.
            let _ = done.send(());
        }
        if let Some(refusal) = ended {
            tracing::warn!(%refusal, "consumer ended by the broker");
            // A consumer that is gone does not want to know.
            let _ = self.output.send(Err(ConsumeError::Ended(refusal))).await;
        }
    }
}

/// The broker's clock, read at a moment of ours.
#[derive(Debug, Clone, Copy)]
struct BrokerClock {
    read_at: Instant,
    now_us: u64,
}

impl BrokerClock {
    /// Late by the time that the reading travelled, at most.
    fn instant(&self, at_us: u64) -> Instant {
        match at_us.checked_sub(self.now_us) {
            Some(ahead_us) => self.read_at + Duration::from_micros(ahead_us).min(DEADLINE_MAX),
            None => self.read_at,
        }
    }
}

async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn required_token(token: Option<&wire::Token>) -> Result<LeaseToken, StreamError> {
    token.map(lease_token).ok_or_else(|| StreamError::Protocol("a lease without token".into()))
}

fn settle_error(refusal: Refusal) -> SettleError {
    match refusal.code {
        ErrorCode::LeaseLost => SettleError::LeaseLost,
        _ => SettleError::Refused(refusal),
    }
}
