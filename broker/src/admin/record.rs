//! A group's traffic as a stream of lines, for as long as somebody reads it.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use http_body::Frame;
use serde::Serialize;
use sluicegate_protocol::ErrorCode;
use sluicegate_protocol::admin::RecordGroup;
use sluicegate_protocol::recording::{End, FORMAT, Header, Line, RecordedPolicy, VERSION};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::groups::parse;
use super::{App, Body};
use crate::broker::{Broker, send, stopping};
use crate::catalog::GroupSpec;
use crate::clock::{Clock, micros};
use crate::refusal::Refusal;
use crate::shard::{Command, RecordRequest, Recording};

/// Lines that are sent together.
const LINES_PER_CHUNK: usize = 256;

pub(super) async fn begin(
    State(broker): App,
    Path(group): Path<String>,
    Body(wanted): Body<RecordGroup>,
) -> Result<Response, Refusal> {
    wanted.check().map_err(|problem| Refusal::new(ErrorCode::InvalidArgument, problem))?;
    let spec = broker.group(&parse(&group)?)?;
    let (reply, answer) = oneshot::channel();
    let request = RecordRequest { group: spec.id, one_in: wanted.one_in, reply };
    send(broker.shard_of(&spec)?, Command::Record(request)).await?;
    let recording = answer.await.map_err(|_| stopping())??;
    let mut chunk = Vec::new();
    write_line(&mut chunk, &header(&broker, &spec, &recording, wanted.one_in)?);
    let stream = Stream {
        bytes_left: wanted.bytes_max,
        until: Box::pin(tokio::time::sleep(Duration::from_secs(wanted.seconds.into()))),
        clock: broker.clock,
        recording: Some(recording),
        chunk,
        lines: Vec::new(),
    };
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], HttpBody::new(stream)).into_response())
}

pub(super) async fn end(State(broker): App, Path(group): Path<String>) -> Result<(), Refusal> {
    let spec = broker.group(&parse(&group)?)?;
    let (reply, answer) = oneshot::channel();
    send(broker.shard_of(&spec)?, Command::EndRecording { group: spec.id, reply }).await?;
    answer.await.map_err(|_| stopping())
}

fn header(broker: &Broker, spec: &GroupSpec, recording: &Recording, one_in: u32) -> Result<Header, Refusal> {
    let catalog = broker.catalog();
    let deleted = || Refusal::new(ErrorCode::UnknownTopic, "the group's topic was deleted");
    let topic = catalog.topic(spec.topic).ok_or_else(deleted)?;
    let policy = spec.policy.as_ref().map(|binding| RecordedPolicy {
        digest: binding.digest.clone(),
        name: catalog.policies.get(&binding.digest).map(|policy| policy.name.clone()).unwrap_or_default(),
        config: binding.config.clone(),
    });
    let slots = recording.room / u64::from(recording.sessions.max(1));
    Ok(Header {
        format: FORMAT.into(),
        version: VERSION,
        broker: env!("CARGO_PKG_VERSION").into(),
        topic: topic.topic_name(),
        group: spec.name.clone(),
        settings: spec.settings.clone(),
        started_at: recording.started_at,
        sessions: recording.sessions,
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
        one_in,
        policy,
    })
}

/// The body of the answer.
struct Stream {
    /// None when the last line is in `chunk` or sent.
    recording: Option<Recording>,
    bytes_left: u64,
    until: Pin<Box<Sleep>>,
    clock: Clock,
    /// What is sent next.
    chunk: Vec<u8>,
    lines: Vec<Line>,
}

impl Stream {
    /// Brings lines into the chunk, and the last one when it is time.
    fn poll_lines(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(recording) = &mut self.recording else { return Poll::Ready(()) };
        if self.until.as_mut().poll(context).is_ready() {
            recording.lines.close();
        }
        let read = ready!(recording.lines.poll_recv_many(context, &mut self.lines, LINES_PER_CHUNK));
        for line in self.lines.drain(..) {
            write_line(&mut self.chunk, &line);
        }
        if read == 0 || self.chunk.len() as u64 >= self.bytes_left {
            let at_us = micros(self.clock.now().since(recording.started_at));
            let lost = recording.lost.load(Ordering::Relaxed);
            write_line(&mut self.chunk, &Line::End(End { at_us, lost }));
            self.recording = None;
        }
        Poll::Ready(())
    }
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.chunk.is_empty() {
            ready!(self.poll_lines(context));
        }
        let chunk = Bytes::from(std::mem::take(&mut self.chunk));
        self.bytes_left = self.bytes_left.saturating_sub(chunk.len() as u64);
        Poll::Ready((!chunk.is_empty()).then(|| Ok(Frame::data(chunk))))
    }
}

fn write_line(chunk: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *chunk, line).expect("recordings have string keys only");
    chunk.push(b'\n');
}
