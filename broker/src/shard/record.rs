//! A group's traffic, written down as it passes: what came and what became of it, no bodies. Whoever reads too slowly loses lines,
//! which are counted; the shard never waits.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluicegate_protocol::recording::{Arrival, Line, Lite as LiteLine, Outcome, WorkResult as Recorded};
use sluicegate_protocol::{ErrorCode, GroupId, LiteId, Offset, Timestamp};
use sluicegate_scheduler::{Ending, WorkResult};
use tokio::sync::{mpsc, oneshot};

use super::cursor::Waiting;
use super::leases::Lease;
use super::lite::Lite;
use super::{Ledger, Shard};
use crate::clock::micros;
use crate::id_hash::IdHash;
use crate::refusal::Refusal;
use crate::store::{MessageKey, split_message};

/// Lines that wait to be sent.
const LINES_MAX: usize = 16_384;
/// Lite topics of one recording; those that come later are not in it, and count as lost.
const LITES_MAX: usize = 1 << 20;
/// Messages of a recording that were published before it, and may be delivered again.
const OLD_MAX: usize = 1 << 20;
/// Numbers of one message.
const NUMBERS_MAX: usize = 16;

/// Asks for a recording.
#[derive(Debug)]
pub(crate) struct RecordRequest {
    pub(crate) group: GroupId,
    /// One in so many lite topics; 1 for all.
    pub(crate) one_in: u32,
    pub(crate) reply: oneshot::Sender<Result<Recording, Refusal>>,
}

/// A recording that goes on until this is dropped.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) started_at: Timestamp,
    /// Consumer sessions.
    pub(crate) sessions: u32,
    /// Messages that they have room for, those that they work on included.
    pub(crate) room: u64,
    pub(crate) lines: mpsc::Receiver<Line>,
    /// Lines that did not fit so far.
    pub(crate) lost: Arc<AtomicU64>,
}

/// The shard's side of a recording.
#[derive(Debug)]
pub(super) struct Recorder {
    started_at: Timestamp,
    one_in: u32,
    lines: mpsc::Sender<Line>,
    lost: Arc<AtomicU64>,
    /// Lite topics that were told.
    told: HashSet<LiteId, IdHash>,
    /// Messages from before, which were told when they were delivered.
    old: HashSet<(LiteId, Offset), IdHash>,
    /// Open leases that began since, with the time of publish.
    leased: HashMap<(LiteId, Offset), Timestamp, IdHash>,
}

impl Recorder {
    fn start(now: Timestamp, one_in: u32) -> (Self, mpsc::Receiver<Line>) {
        let (lines, read) = mpsc::channel(LINES_MAX);
        let (told, old, leased) = (HashSet::default(), HashSet::default(), HashMap::default());
        (Self { started_at: now, one_in, lines, lost: Arc::default(), told, old, leased }, read)
    }

    /// Nobody reads it any more.
    fn is_over(&self) -> bool {
        self.lines.is_closed()
    }

    /// A message is visible.
    fn arrived(&mut self, lite: &Lite, waiting: &Waiting, numbers: BTreeMap<String, u64>) {
        if !self.takes(lite.id) || !self.tell_lite(lite) {
            return;
        }
        let (from, published_at) = (self.started_at, waiting.published_at.max(self.started_at));
        let arrival = Arrival {
            at_us: micros(published_at.since(from)),
            lite: lite.id,
            offset: waiting.offset,
            cost: waiting.cost,
            priority: waiting.priority,
            expires_in_us: waiting.expires_at.map(|at| micros(at.since(published_at))),
            deliver_in_us: waiting.deliver_at.filter(|at| *at > published_at).map(|at| micros(at.since(published_at))),
            numbers,
        };
        self.write(Line::Arrival(arrival));
    }

    /// Whether a message of before is delivered for the first time here: then it is told now, as one that waited at the start.
    /// Told at the start, all that waits would have to be read.
    fn is_news(&mut self, lite: LiteId, waiting: &Waiting) -> bool {
        self.takes(lite)
            && waiting.published_at < self.started_at
            && self.old.len() < OLD_MAX
            && self.old.insert((lite, waiting.offset))
    }

    /// A lease ended; nothing is written of one that began before the recording.
    pub(super) fn ended(&mut self, now: Timestamp, id: LiteId, offset: Offset, lease: &Lease, ending: Ending) {
        let Some(published_at) = self.leased.remove(&(id, offset)) else { return };
        let (cost, result, retry_after) = match ending {
            Ending::Used { cost, result, retry_after, .. } => (cost, recorded(result), retry_after),
            Ending::Returned => (Some(0), Recorded::Returned, None),
        };
        let outcome = Outcome {
            at_us: micros(now.since(self.started_at)),
            lite: id,
            offset,
            attempt: lease.attempt,
            wait_us: Some(micros(lease.dispatched_at.since(published_at))),
            service_us: micros(now.since(lease.dispatched_at)),
            cost: cost.unwrap_or(lease.charge.cost),
            result,
            retry_after_us: retry_after.map(micros),
        };
        self.write(Line::Outcome(outcome));
        if matches!(result, Recorded::Done | Recorded::DeadLettered) {
            self.old.remove(&(id, offset));
        }
    }

    /// A lite topic is in with all that comes to it, or not at all.
    fn takes(&self, lite: LiteId) -> bool {
        mixed(lite.0).is_multiple_of(u64::from(self.one_in))
    }

    /// Whether the lite topic is told, before or now.
    fn tell_lite(&mut self, lite: &Lite) -> bool {
        if self.told.contains(&lite.id) {
            return true;
        }
        if self.told.len() >= LITES_MAX {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        let name = lite.name.as_str().to_owned();
        let tenant = lite.tenant_name.as_ref().map_or_else(|| name.clone(), |tenant| tenant.as_ref().to_owned());
        let labels = lite.labels.as_deref().cloned().unwrap_or_default();
        let is_told = self.write(Line::Lite(LiteLine { id: lite.id, name, tenant, labels }));
        if is_told {
            self.told.insert(lite.id);
        }
        is_told
    }

    /// Whether there was room.
    fn write(&self, line: Line) -> bool {
        let is_written = self.lines.try_send(line).is_ok();
        if !is_written {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        is_written
    }
}

impl Shard {
    pub(super) fn record(&mut self, RecordRequest { group, one_in, reply }: RecordRequest) {
        // Whoever asked may have given up: then the recording is over.
        let _ = reply.send(self.start_recording(group, one_in));
    }

    fn start_recording(&mut self, id: GroupId, one_in: u32) -> Result<Recording, Refusal> {
        let now = self.ledger.stage.now();
        let deleted = || Refusal::new(ErrorCode::UnknownGroup, "the group was deleted");
        let group = self.groups.get_mut(&id).ok_or_else(deleted)?;
        if group.recorder.as_ref().is_some_and(|recorder| !recorder.is_over()) {
            let message = format!("group `{}` is being recorded: one recording at a time", group.spec.name);
            return Err(Refusal::new(ErrorCode::InUse, message));
        }
        let (recorder, lines) = Recorder::start(now, one_in);
        let lost = Arc::clone(&recorder.lost);
        group.recorder = Some(Box::new(recorder));
        self.recording.retain(|recorded| *recorded != id);
        self.recording.push(id);
        let sessions = u32::try_from(group.sessions.attached_count()).unwrap_or(u32::MAX);
        tracing::info!(group = %group.spec.name, one_in, "recording begins");
        Ok(Recording { started_at: now, sessions, room: group.scheduler.room(), lines, lost })
    }

    pub(super) fn end_recording(&mut self, id: GroupId) {
        if let Some(group) = self.groups.get_mut(&id) {
            group.recorder = None;
        }
    }

    /// A message is visible: the groups that are recorded and follow its lite topic write it down.
    pub(super) fn record_arrival(&mut self, id: LiteId, waiting: &Waiting) {
        if self.recording.is_empty() {
            return;
        }
        let Self { groups, ledger, recording, .. } = self;
        recording.retain(|group| {
            let Some(group) = groups.get_mut(group) else { return false };
            if group.recorder.as_ref().is_none_or(|recorder| recorder.is_over()) {
                tracing::info!(group = %group.spec.name, "recording ends");
                group.recorder = None;
                return false;
            }
            let follows = ledger.lites.get(id).is_some_and(|lite| lite.cursor(group.spec.id).is_some());
            if let Some(recorder) = group.recorder.as_mut().filter(|recorder| follows && recorder.takes(id)) {
                let numbers = numbers(ledger, id, waiting);
                recorder.arrived(ledger.open_lite(id), waiting, numbers);
            }
            true
        });
    }
}

/// A message goes to a consumer; it may be from before the recording.
pub(super) fn delivered(recorder: &mut Recorder, ledger: &mut Ledger, id: LiteId, offset: Offset, group: GroupId) {
    let lease = ledger.open_lite(id).cursor(group).and_then(|cursor| cursor.lease_of(offset));
    let Some(message) = lease.and_then(|lease| lease.message.clone()) else { return };
    if recorder.is_news(id, &message) {
        let numbers = numbers(ledger, id, &message);
        recorder.arrived(ledger.open_lite(id), &message, numbers);
    }
    if recorder.told.contains(&id) {
        recorder.leased.insert((id, offset), message.published_at);
    }
}

/// A message's properties that are decimal numbers; none if its row cannot be read.
fn numbers(ledger: &Ledger, lite: LiteId, waiting: &Waiting) -> BTreeMap<String, u64> {
    let of_row = |row: &[u8]| {
        let (header, _) = split_message(row).ok()?;
        let numbers = header.properties.into_iter().filter_map(|(key, value)| Some((key, value.parse().ok()?)));
        Some(numbers.take(NUMBERS_MAX).collect())
    };
    if let Some(row) = &waiting.row {
        return of_row(row).unwrap_or_default();
    }
    let key = MessageKey { shard: ledger.stage.shard(), lite, offset: waiting.offset };
    let read = ledger.stage.store().look().with_bytes(&key, of_row);
    read.ok().flatten().flatten().unwrap_or_default()
}

const fn recorded(result: WorkResult) -> Recorded {
    match result {
        WorkResult::Done => Recorded::Done,
        WorkResult::Retried => Recorded::Retried,
        WorkResult::DeadLettered => Recorded::DeadLettered,
        WorkResult::TimedOut => Recorded::TimedOut,
    }
}

/// Ids that follow each other are spread.
const fn mixed(id: u64) -> u64 {
    let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}
