//! Messages without a receipt, in the order of their numbers. Pure: no I/O.
//!
//! A message with a large body travels on a stream of its own. So that the messages of a lite topic keep their order, it
//! starts when those before it have their replies, and those after it wait for its own. Other lite topics do not wait.

use std::collections::{HashMap, VecDeque};

use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::wire;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::task::{Content, Publish, Source};
use super::{PublishError, Receipt};

/// What was taken over and has no receipt yet. A prefix of it was written to the present stream, or waits for an upload.
pub(super) struct Unacknowledged {
    entries: VecDeque<Entry>,
    first_sequence: u64,
    written: usize,
    /// Lite topics with an upload that was met on the present stream.
    lanes: HashMap<String, Lane>,
    /// Numbers that were passed over and need not wait any more.
    ready: VecDeque<u64>,
}

struct Entry {
    charge: u32,
    /// None once it has its reply; it stays until those before it have theirs.
    waiting: Option<Waiting>,
}

struct Waiting {
    what: What,
    reply: oneshot::Sender<Result<Receipt, PublishError>>,
    /// Its part of the room for uploads.
    _room: Option<OwnedSemaphorePermit>,
}

enum What {
    Frame(Frame),
    /// The source is there until the upload is started, which then takes care of itself, over all streams.
    Upload(Box<wire::Publish>, Option<Source>),
}

/// A lite topic with an upload.
struct Lane {
    upload: u64,
    /// Messages before it without a reply.
    ahead: usize,
    /// Those after it.
    behind: VecDeque<u64>,
}

/// What is to be done next.
pub(super) enum Next<'a> {
    Write(&'a Frame),
    Upload(wire::Publish, Source),
}

impl Waiting {
    fn lite(&self) -> &str {
        match &self.what {
            What::Frame(Frame::Publish(header, _)) => &header.lite,
            What::Frame(_) => "",
            What::Upload(header, _) => &header.lite,
        }
    }
}

impl Unacknowledged {
    pub(super) fn starting_at(first_sequence: u64) -> Self {
        let (lanes, ready) = (HashMap::new(), VecDeque::new());
        Self { entries: VecDeque::new(), first_sequence, written: 0, lanes, ready }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives the message its number.
    pub(super) fn push(&mut self, publish: Publish) {
        let Publish { mut header, content, charge, room, reply } = publish;
        header.sequence = self.first_sequence + self.entries.len() as u64;
        let what = match content {
            Content::Framed(body) => What::Frame(Frame::Publish(header, body)),
            Content::Streamed(source) => What::Upload(Box::new(header), Some(source)),
        };
        let waiting = Some(Waiting { what, reply, _room: room });
        self.entries.push_back(Entry { charge, waiting });
    }

    /// A new stream: everything goes out again, in order, but the uploads that were started.
    pub(super) fn rewind(&mut self) {
        self.written = 0;
        self.lanes.clear();
        self.ready.clear();
    }

    /// The next thing to do, unless `window` messages are out already.
    pub(super) fn next_unwritten(&mut self, window: usize) -> Option<Next<'_>> {
        let index = self.next_index(window)?;
        let sequence = self.first_sequence + index as u64;
        let waiting = self.entries[index].waiting.as_mut().expect("it was just looked at");
        match &mut waiting.what {
            What::Frame(frame) => Some(Next::Write(frame)),
            What::Upload(header, source) => {
                let source = source.take().expect("a started upload is passed over");
                Some(Next::Upload(wire::Publish { sequence, ..(**header).clone() }, source))
            }
        }
    }

    fn next_index(&mut self, window: usize) -> Option<usize> {
        while let Some(sequence) = self.ready.pop_front() {
            if let Some(index) = self.index(sequence)
                && self.may_go(index)
            {
                return Some(index);
            }
        }
        let end = window.min(self.entries.len());
        while self.written < end {
            self.written += 1;
            if self.may_go(self.written - 1) {
                return Some(self.written - 1);
            }
        }
        None
    }

    /// Whether it is to be written or started now. If not, it has its reply, is started, or waits in a lane.
    fn may_go(&mut self, index: usize) -> bool {
        let Some(waiting) = &self.entries[index].waiting else { return false };
        let is_frame = matches!(waiting.what, What::Frame(_));
        if is_frame && self.lanes.is_empty() {
            return true;
        }
        let sequence = self.first_sequence + index as u64;
        match self.lanes.get_mut(waiting.lite()) {
            Some(lane) if lane.upload != sequence => {
                lane.behind.push_back(sequence);
                return false;
            }
            Some(_) => {}
            None if is_frame => return true,
            None => self.open_lane(index, sequence),
        }
        let waiting = self.entries[index].waiting.as_ref().expect("it was just looked at");
        let is_first = self.lanes.get(waiting.lite()).is_none_or(|lane| lane.ahead == 0);
        is_first && matches!(waiting.what, What::Upload(_, Some(_)))
    }

    fn open_lane(&mut self, index: usize, sequence: u64) {
        let lite = self.entries[index].waiting.as_ref().map_or("", Waiting::lite).to_owned();
        let before = self.entries.range(..index).filter_map(|entry| entry.waiting.as_ref());
        let ahead = before.filter(|waiting| waiting.lite() == lite).count();
        self.lanes.insert(lite, Lane { upload: sequence, ahead, behind: VecDeque::new() });
    }

    /// Resolves one message and returns the room that became free. A number that is not out is ignored.
    pub(super) fn resolve(&mut self, sequence: u64, result: Result<Receipt, PublishError>) -> usize {
        let Some(index) = self.index(sequence) else { return 0 };
        // An upload goes on while its message waits for the next stream.
        let is_started = matches!(&self.entries[index].waiting, Some(Waiting { what: What::Upload(_, None), .. }));
        if index >= self.written && !is_started {
            return 0;
        }
        if let Some(waiting) = self.entries[index].waiting.take() {
            self.leave_lane(waiting.lite(), sequence);
            // Whoever dropped the future did not want to know.
            let _ = waiting.reply.send(result);
        }
        self.drop_resolved()
    }

    fn leave_lane(&mut self, lite: &str, sequence: u64) {
        let Some(lane) = self.lanes.get_mut(lite) else { return };
        if lane.upload == sequence {
            let lane = self.lanes.remove(lite).expect("it was just found");
            self.ready.extend(lane.behind);
        } else if sequence < lane.upload {
            lane.ahead -= 1;
            if lane.ahead == 0 {
                self.ready.push_back(lane.upload);
            }
        }
    }

    /// Fails everything; for a producer that has ended.
    pub(super) fn fail(&mut self, error: &PublishError) {
        for waiting in self.entries.drain(..).filter_map(|entry| entry.waiting) {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }

    fn index(&self, sequence: u64) -> Option<usize> {
        let index = usize::try_from(sequence.checked_sub(self.first_sequence)?).ok()?;
        (index < self.entries.len()).then_some(index)
    }

    fn drop_resolved(&mut self) -> usize {
        let mut freed = 0;
        while let Some(entry) = self.entries.pop_front_if(|entry| entry.waiting.is_none()) {
            freed += entry.charge as usize;
            self.first_sequence += 1;
            self.written = self.written.saturating_sub(1);
        }
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::refusal::Refusal;
    use sluicegate_protocol::{ErrorCode, LiteId, Offset};

    fn receipt(sequence: u64) -> Receipt {
        Receipt { sequence, lite_id: LiteId(1), offset: Offset(sequence), created: false, duplicate: false }
    }

    type Waits = oneshot::Receiver<Result<Receipt, PublishError>>;

    fn push_to(messages: &mut Unacknowledged, lite: &str, content: Content) -> Waits {
        let (reply, receiver) = oneshot::channel();
        let header = Message::to(lite).unwrap().header;
        messages.push(Publish { header, content, charge: 10, room: None, reply });
        receiver
    }

    fn push(messages: &mut Unacknowledged) -> Waits {
        push_to(messages, "a", Content::Framed(bytes::Bytes::new()))
    }

    fn push_large(messages: &mut Unacknowledged, lite: &str) -> Waits {
        push_to(messages, lite, Content::Streamed(Source::Whole(bytes::Bytes::new())))
    }

    /// Numbers in the order in which they go, those of uploads negative.
    fn written(messages: &mut Unacknowledged, window: usize) -> Vec<i64> {
        let mut sequences = Vec::new();
        while let Some(next) = messages.next_unwritten(window) {
            sequences.push(match next {
                Next::Write(Frame::Publish(header, _)) => header.sequence.cast_signed(),
                Next::Write(other) => panic!("{other:?}"),
                Next::Upload(header, _) => -header.sequence.cast_signed(),
            });
        }
        sequences
    }

    #[test]
    fn messages_are_numbered_in_order_and_written_up_to_the_window() {
        let mut messages = Unacknowledged::starting_at(5);
        let _receivers: Vec<_> = (0..4).map(|_| push(&mut messages)).collect();
        assert_eq!(written(&mut messages, 3), [5, 6, 7]);
        messages.resolve(5, Ok(receipt(5)));
        assert_eq!(written(&mut messages, 3), [8]);
    }

    #[test]
    fn replies_in_any_order_free_room_in_the_order_of_the_numbers() {
        let mut messages = Unacknowledged::starting_at(1);
        let mut receivers: Vec<_> = (0..3).map(|_| push(&mut messages)).collect();
        assert_eq!(written(&mut messages, 10), [1, 2, 3]);
        let refused = PublishError::Refused(Refusal::new(ErrorCode::LimitReached, "full".into()));
        assert_eq!(messages.resolve(2, Err(refused.clone())), 0);
        assert_eq!(messages.resolve(9, Ok(receipt(9))), 0);
        assert_eq!(messages.resolve(1, Ok(receipt(1))), 20);
        assert_eq!(messages.resolve(3, Ok(receipt(3))), 10);
        assert!(messages.is_empty());
        let results: Vec<_> = receivers.iter_mut().map(|receiver| receiver.try_recv().unwrap()).collect();
        assert_eq!(results, [Ok(receipt(1)), Err(refused), Ok(receipt(3))]);
    }

    #[test]
    fn a_rewind_writes_again_what_has_no_reply_with_the_same_numbers() {
        let mut messages = Unacknowledged::starting_at(1);
        let _receivers: Vec<_> = (0..4).map(|_| push(&mut messages)).collect();
        assert_eq!(written(&mut messages, 3), [1, 2, 3]);
        messages.resolve(2, Ok(receipt(2)));
        messages.rewind();
        assert_eq!(written(&mut messages, 10), [1, 3, 4]);
        assert_eq!(messages.resolve(1, Ok(receipt(1))), 20);
    }

    #[test]
    fn an_upload_keeps_its_place_in_its_lite_topic_and_lets_others_pass() {
        let mut messages = Unacknowledged::starting_at(1);
        let mut waits = vec![push(&mut messages), push_large(&mut messages, "a"), push(&mut messages)];
        waits.push(push_large(&mut messages, "b"));
        waits.push(push_large(&mut messages, "a"));
        waits.push(push(&mut messages));
        assert_eq!(written(&mut messages, 10), [1, -4]);
        messages.resolve(1, Ok(receipt(1)));
        assert_eq!(written(&mut messages, 10), [-2]);
        messages.resolve(2, Ok(receipt(2)));
        assert_eq!(written(&mut messages, 10), [3], "the second upload waits for the message before it");
        messages.resolve(4, Ok(receipt(4)));
        messages.resolve(3, Ok(receipt(3)));
        assert_eq!(written(&mut messages, 10), [-5]);
        messages.resolve(5, Ok(receipt(5)));
        assert_eq!(written(&mut messages, 10), [6]);
        messages.resolve(6, Ok(receipt(6)));
        assert!(messages.is_empty());
    }

    #[test]
    fn an_upload_that_is_started_is_not_started_again_on_a_new_stream_and_holds_back_as_before() {
        let mut messages = Unacknowledged::starting_at(1);
        let waits = [push_large(&mut messages, "a"), push(&mut messages)];
        assert_eq!(written(&mut messages, 10), [-1]);
        messages.rewind();
        assert_eq!(messages.resolve(1, Ok(receipt(1))), 10);
        assert_eq!(written(&mut messages, 10), [2]);
        messages.rewind();
        assert_eq!(written(&mut messages, 10), [2]);
        drop(waits);
    }
}
