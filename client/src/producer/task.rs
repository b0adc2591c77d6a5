//! The one task that owns a producer's stream and its unacknowledged messages.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::unacknowledged::{Next, Unacknowledged};
pub(super) use super::upload::Source;
use super::upload::upload;
use super::{PublishError, Receipt};
use crate::backoff::Backoff;
use crate::client::{Client, Opened};
use crate::refusal::Refusal;
use crate::stream::{FrameWriter, STABLE_AFTER, StreamError};

/// Commands taken over at once.
const INTAKE_MAX: usize = 512;

/// What the handles ask for.
#[derive(Debug)]
pub(super) enum Command {
    Publish(Publish),
    Close(oneshot::Sender<()>),
}

/// How a message's body travels.
#[derive(Debug)]
pub(super) enum Content {
    /// With the message.
    Framed(Bytes),
    /// On a stream of its own.
    Streamed(Source),
}

/// A message that has its part of the room, but no number yet.
#[derive(Debug)]
pub(super) struct Publish {
    pub(super) header: wire::Publish,
    pub(super) content: Content,
    pub(super) charge: u32,
    /// Of the room for uploads.
    pub(super) room: Option<OwnedSemaphorePermit>,
    pub(super) reply: oneshot::Sender<Result<Receipt, PublishError>>,
}

/// Why serving one stream ended.
enum StreamEnd {
    /// In an orderly way; nothing is left.
    Closed,
    Refused(Refusal),
    Lost(StreamError),
}

pub(super) struct ProducerTask {
    client: Client,
    role: wire::ProducerRole,
    commands: mpsc::UnboundedReceiver<Command>,
    intake: Vec<Command>,
    messages: Unacknowledged,
    uploads: JoinSet<Result<Receipt, PublishError>>,
    /// The number that each of them answers for.
    uploading: HashMap<Id, u64>,
    room: Arc<Semaphore>,
    ended: Arc<OnceLock<Refusal>>,
    closers: Vec<oneshot::Sender<()>>,
    /// No further command can come.
    is_drained: bool,
}

impl ProducerTask {
    pub(super) fn new(
        client: Client,
        role: wire::ProducerRole,
        commands: mpsc::UnboundedReceiver<Command>,
        room: Arc<Semaphore>,
        ended: Arc<OnceLock<Refusal>>,
        first_sequence: u64,
    ) -> Self {
        let messages = Unacknowledged::starting_at(first_sequence);
        let (intake, closers) = (Vec::with_capacity(INTAKE_MAX), Vec::new());
        let (uploads, uploading) = (JoinSet::new(), HashMap::new());
        Self { client, role, commands, intake, messages, uploads, uploading, room, ended, closers, is_drained: false }
    }

    pub(super) async fn run(mut self, mut opened: Opened) {
        let mut backoff = Backoff::new();
        loop {
            let opened_at = Instant::now();
            let end = self.serve(opened).await;
            if opened_at.elapsed() >= STABLE_AFTER {
                backoff.reset();
            }
            let retry_after = match end {
                StreamEnd::Closed => break,
                StreamEnd::Refused(refusal) if !refusal.asks_for_reconnect() => {
                    self.end(refusal);
                    break;
                }
                StreamEnd::Refused(refusal) => {
                    tracing::warn!(%refusal, "producer stream ended, reconnecting");
                    refusal.retry_after
                }
                StreamEnd::Lost(error) => {
                    tracing::warn!(%error, "producer stream lost, reconnecting");
                    None
                }
            };
            opened = match self.reopen(&mut backoff, retry_after).await {
                Some(opened) => opened,
                None => break,
            };
        }
        self.finish();
    }

    async fn serve(&mut self, opened: Opened) -> StreamEnd {
        let Opened { mut reader, mut writer, welcome } = opened;
        let window = welcome.unacknowledged_publishes_max.max(1) as usize;
        self.messages.rewind();
        loop {
            self.fill(&mut writer, window);
            tokio::select! {
                biased;
                frame = reader.next() => match frame {
                    Ok(Frame::Published(published, ())) => self.acknowledge(published),
                    Ok(Frame::Error(error, ())) => if let Some(refusal) = self.refuse(error) {
                        return StreamEnd::Refused(refusal);
                    },
                    Ok(Frame::Draining(..)) => {}
                    Ok(other) => return StreamEnd::Lost(StreamError::unexpected(&other)),
                    Err(_) if writer.is_closed() => return StreamEnd::Closed,
                    Err(error) => return StreamEnd::Lost(error),
                },
                written = writer.write() => match written {
                    Ok(()) => {}
                    Err(_) if writer.is_closed() => return StreamEnd::Closed,
                    Err(error) => return StreamEnd::Lost(error),
                },
                Some(uploaded) = self.uploads.join_next_with_id() => self.uploaded(uploaded),
                _ = self.commands.recv_many(&mut self.intake, INTAKE_MAX), if !self.is_drained => self.take_in(),
            }
        }
    }

    fn fill(&mut self, writer: &mut FrameWriter, window: usize) {
        while writer.has_room() {
            match self.messages.next_unwritten(window) {
                Some(Next::Write(frame)) => writer.push(frame),
                Some(Next::Upload(header, source)) => {
                    let (client, role, sequence) = (self.client.clone(), self.role.clone(), header.sequence);
                    let task = self.uploads.spawn(upload(client, role, header, source));
                    self.uploading.insert(task.id(), sequence);
                }
                None => break,
            }
        }
        if self.is_over() && writer.has_room() {
            writer.close();
        }
    }

    /// Everything that was handed over has its reply, and nothing more can come.
    fn is_over(&self) -> bool {
        self.is_drained && self.messages.is_empty()
    }

    fn take_in(&mut self) {
        self.is_drained = self.intake.is_empty();
        for command in self.intake.drain(..) {
            match command {
                Command::Publish(publish) => self.messages.push(publish),
                Command::Close(done) => {
                    self.closers.push(done);
                    self.room.close();
                    self.commands.close();
                }
            }
        }
    }

    fn acknowledge(&mut self, published: wire::Published) {
        let mut freed = 0;
        for receipt in published.receipts {
            freed += self.messages.resolve(receipt.sequence, Ok(receipt.into()));
        }
        self.room.add_permits(freed);
    }

    fn uploaded(&mut self, uploaded: Result<(Id, Result<Receipt, PublishError>), JoinError>) {
        let (id, result) = match uploaded {
            Ok(uploaded) => uploaded,
            // Only its source can panic.
            Err(error) => (error.id(), Err(PublishError::Interrupted(error.to_string()))),
        };
        if let Some(sequence) = self.uploading.remove(&id) {
            let freed = self.messages.resolve(sequence, result);
            self.room.add_permits(freed);
        }
    }

    /// A refusal of one message goes to who sent it. What concerns the stream, or asks for a resend, is returned.
    fn refuse(&mut self, error: wire::Error) -> Option<Refusal> {
        let sequence = error.sequence;
        let refusal = Refusal::from_wire(error);
        let Some(sequence) = sequence.filter(|_| !refusal.asks_for_resend()) else { return Some(refusal) };
        let freed = self.messages.resolve(sequence, Err(PublishError::Refused(refusal)));
        self.room.add_permits(freed);
        None
    }

    /// A new stream, or none when the producer has ended meanwhile.
    async fn reopen(&mut self, backoff: &mut Backoff, retry_after: Option<Duration>) -> Option<Opened> {
        let (client, role) = (self.client.clone(), wire::hello::Role::Producer(self.role.clone()));
        let reopened = tokio::select! {
            biased;
            () = self.over() => return None,
            reopened = client.reopen(role, backoff, retry_after) => reopened,
        };
        reopened.map_err(|refusal| self.end(refusal)).ok()
    }

    /// Takes commands in until nothing is left to do.
    async fn over(&mut self) {
        while !self.is_over() {
            tokio::select! {
                Some(uploaded) = self.uploads.join_next_with_id() => self.uploaded(uploaded),
                _ = self.commands.recv_many(&mut self.intake, INTAKE_MAX), if !self.is_drained => self.take_in(),
                else => pending().await,
            }
        }
    }

    /// The producer ends for good; what comes later meets the same refusal.
    fn end(&mut self, refusal: Refusal) {
        tracing::warn!(%refusal, "producer ended by the broker");
        // Only this task sets it, once.
        let _ = self.ended.set(refusal);
    }

    fn finish(mut self) {
        self.room.close();
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.intake.push(command);
        }
        self.take_in();
        let error = self.ended.get().map_or(PublishError::Closed, |refusal| PublishError::Ended(refusal.clone()));
        self.messages.fail(&error);
        for done in self.closers {
            // A caller that stopped waiting needs no answer.
            let _ = done.send(());
        }
    }
}
