//! The stream of a reader, from one connection to the next: it knows which message comes next, and how much credit is out.

use std::collections::VecDeque;
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire::{self, hello::Role};
use sluicegate_protocol::{LiteId, Offset, Position};
use tokio::time::Instant;

use super::{ReadError, ReadMessage, ReaderBuilder};
use crate::backoff::Backoff;
use crate::body::{MessageBody, Origin};
use crate::client::Opened;
use crate::refusal::Refusal;
use crate::stream::{STABLE_AFTER, StreamError};

/// Where the next stream begins.
#[derive(Debug, Clone, Copy)]
pub(super) enum Start {
    Position(Position),
    Next {
        lite_id: LiteId,
        offset: Offset,
        /// What comes before was read.
        goes_on: bool,
    },
}

/// What a stream brought.
pub(super) enum Heard {
    /// Messages, or a new stream.
    More,
    /// There is no more.
    End,
}

pub(super) struct ReadStream {
    start: Start,
    state: State,
    backoff: Backoff,
    opened_at: Instant,
    /// Credit of messages that are here and were not handed out.
    held_bytes: u64,
    /// Credit of those that were, to be given back.
    spent_bytes: u64,
}

enum State {
    Open(Box<Opened>),
    /// A reader that is not polled for a while does not begin anew.
    Opening(Pin<Box<dyn Future<Output = Reopened> + Send>>),
    Ended,
}

type Reopened = (Result<Opened, Refusal>, Backoff);

impl ReadStream {
    pub(super) async fn connect(settings: &ReaderBuilder) -> Result<Self, ReadError> {
        let opened = settings.client.open_first(role(settings, settings.start, settings.window_bytes)).await?;
        let start = begins_at(&opened.welcome);
        Ok(Self {
            start,
            state: State::Open(Box::new(opened)),
            backoff: Backoff::new(),
            opened_at: Instant::now(),
            held_bytes: 0,
            spent_bytes: 0,
        })
    }

    /// Lets go of the lite topic.
    pub(super) fn end(&mut self) {
        self.state = State::Ended;
    }

    /// A message was handed out, which took so much credit.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.spent_bytes += bytes;
    }

    /// Waits for messages, or for a new stream. Cancel-safe.
    pub(super) async fn next(
        &mut self,
        settings: &ReaderBuilder,
        messages: &mut VecDeque<ReadMessage>,
    ) -> Result<Heard, ReadError> {
        let opened = match &mut self.state {
            State::Open(opened) => opened,
            State::Ended => return Ok(Heard::End),
            State::Opening(opening) => {
                let (opened, backoff) = opening.await;
                self.backoff = backoff;
                let opened = opened?;
                self.start = begins_at(&opened.welcome);
                self.opened_at = Instant::now();
                self.state = State::Open(Box::new(opened));
                return Ok(Heard::More);
            }
        };
        // Half of the window at once: a frame for each message would cost more than the message.
        if self.spent_bytes >= settings.window_bytes / 2 && opened.writer.has_room() {
            let bytes = std::mem::take(&mut self.spent_bytes);
            opened.writer.push(&Frame::ReadCredit(wire::ReadCredit { bytes }, ()));
        }
        // What can be written now is, although messages may be here already.
        let written = tokio::select! {
            biased;
            written = opened.writer.write() => written,
            () = ready(()) => Ok(()),
        };
        let frame = if let Err(error) = written {
            Err(error)
        } else {
            tokio::select! {
                biased;
                frame = opened.reader.next() => frame,
                written = opened.writer.write() => match written {
                    Ok(()) => return Ok(Heard::More),
                    Err(error) => Err(error),
                },
            }
        };
        match frame.and_then(|frame| self.hear(settings, messages, frame)) {
            Ok(Said::Heard(heard)) => Ok(heard),
            Ok(Said::Refused(refusal)) if !refusal.asks_for_reconnect() => Err(refusal.into()),
            Ok(Said::Refused(refusal)) => {
                tracing::debug!(%refusal, "reader stream ended, reconnecting");
                self.reopen(settings, refusal.retry_after);
                Ok(Heard::More)
            }
            Err(error) => {
                tracing::debug!(%error, "reader stream lost, reconnecting");
                self.reopen(settings, None);
                Ok(Heard::More)
            }
        }
    }

    fn hear(
        &mut self,
        settings: &ReaderBuilder,
        messages: &mut VecDeque<ReadMessage>,
        frame: Frame,
    ) -> Result<Said, StreamError> {
        match frame {
            Frame::Messages(header, bodies) => {
                self.take(settings, messages, header, bodies)?;
                Ok(Said::Heard(Heard::More))
            }
            Frame::ReadEnd(..) => Ok(Said::Heard(Heard::End)),
            Frame::Error(error, ()) => Ok(Said::Refused(Refusal::from_wire(error))),
            other => Err(StreamError::unexpected(&other)),
        }
    }

    fn take(
        &mut self,
        settings: &ReaderBuilder,
        messages: &mut VecDeque<ReadMessage>,
        header: wire::Messages,
        mut bodies: Bytes,
    ) -> Result<(), StreamError> {
        let lite_id = LiteId(header.lite_id);
        for header in header.messages {
            let (offset, body_bytes) = (Offset(header.offset), header.body_bytes as usize);
            let is_next = match self.start {
                Start::Next { lite_id: own, offset: next, .. } => own == lite_id && offset >= next,
                Start::Position(_) => true,
            };
            if !is_next {
                let problem = format!("message {lite_id}-{offset} came out of order");
                return Err(StreamError::Protocol(problem));
            }
            if body_bytes > bodies.len() {
                return Err(StreamError::Protocol("a message's body is not in its frame".into()));
            }
            let here = bodies.split_to(body_bytes);
            let body = if header.large_body_bytes > 0 {
                let role = wire::ReadBodyRole {
                    topic: settings.topic.as_str().into(),
                    lite: settings.lite.as_str().into(),
                    lite_id: lite_id.0,
                    offset: offset.0,
                    from: 0,
                };
                MessageBody::away(settings.client.clone(), header.large_body_bytes, Origin::Message(role))
            } else {
                MessageBody::Here(here)
            };
            let message = ReadMessage::new(header, lite_id, body);
            self.held_bytes += message.credit();
            self.start = Start::Next { lite_id, offset: offset.next(), goes_on: true };
            messages.push_back(message);
        }
        Ok(())
    }

    /// Begins to open the next stream, which goes on where this one was.
    fn reopen(&mut self, settings: &ReaderBuilder, retry_after: Option<Duration>) {
        if self.opened_at.elapsed() >= STABLE_AFTER {
            self.backoff.reset();
        }
        let role = role(settings, self.start, settings.window_bytes.saturating_sub(self.held_bytes));
        self.spent_bytes = 0;
        let (client, mut backoff) = (settings.client.clone(), std::mem::replace(&mut self.backoff, Backoff::new()));
        self.state = State::Opening(Box::pin(async move {
            let opened = client.reopen(role, &mut backoff, retry_after).await;
            (opened, backoff)
        }));
    }
}

/// What a frame says.
enum Said {
    Heard(Heard),
    Refused(Refusal),
}

fn role(settings: &ReaderBuilder, start: Start, credit_bytes: u64) -> Role {
    let (position, lite_id, goes_on) = match start {
        Start::Position(position) => (position, None, false),
        Start::Next { lite_id, offset, goes_on } => (Position::Offset(offset), Some(lite_id.0), goes_on),
    };
    Role::Reader(wire::ReaderRole {
        topic: settings.topic.as_str().into(),
        lite: settings.lite.as_str().into(),
        start: position.to_wire(),
        lite_id,
        goes_on,
        follow: settings.follows,
        credit_bytes,
    })
}

/// Where a stream begins, for the one after it. Before the lite topic exists, that is its first message.
fn begins_at(welcome: &wire::Welcome) -> Start {
    match &welcome.reading {
        Some(at) => Start::Next { lite_id: LiteId(at.lite_id), offset: Offset(at.offset), goes_on: true },
        None => Start::Position(Position::Earliest),
    }
}

impl fmt::Debug for ReadStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_open = matches!(self.state, State::Open(_));
        f.debug_struct("ReadStream").field("start", &self.start).field("is_open", &is_open).finish_non_exhaustive()
    }
}
