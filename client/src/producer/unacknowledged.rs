//! Messages without a receipt, in the order of their numbers. Pure: no I/O.

use std::collections::VecDeque;

use sluicegate_protocol::frame::Frame;
use tokio::sync::oneshot;

use super::task::Publish;
use super::{PublishError, Receipt};

/// What was taken over and has no receipt yet. A prefix of it was written to the present stream.
pub(super) struct Unacknowledged {
    entries: VecDeque<Entry>,
    first_sequence: u64,
    written: usize,
}

struct Entry {
    charge: u32,
    /// None once it has its reply; it stays until those before it have theirs.
    waiting: Option<Waiting>,
}

struct Waiting {
    frame: Frame,
    reply: oneshot::Sender<Result<Receipt, PublishError>>,
}

impl Unacknowledged {
    pub(super) fn starting_at(first_sequence: u64) -> Self {
        Self { entries: VecDeque::new(), first_sequence, written: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives the message its number.
    pub(super) fn push(&mut self, publish: Publish) {
        let mut header = publish.message.header;
        header.sequence = self.first_sequence + self.entries.len() as u64;
        let frame = Frame::Publish(header, publish.message.body);
        let waiting = Some(Waiting { frame, reply: publish.reply });
        self.entries.push_back(Entry { charge: publish.charge, waiting });
    }

    /// A new stream: everything goes out again, in order.
    pub(super) fn rewind(&mut self) {
        self.written = 0;
    }

    /// The next frame to write, unless `window` messages are out already.
    pub(super) fn next_unwritten(&mut self, window: usize) -> Option<&Frame> {
        let end = window.min(self.entries.len());
        // After a rewind some have their reply already.
        let ahead = self.entries.range(self.written..end).position(|entry| entry.waiting.is_some())?;
        self.written += ahead + 1;
        self.entries[self.written - 1].waiting.as_ref().map(|waiting| &waiting.frame)
    }

    /// Resolves one message and returns the room that became free. A number that is not out is ignored.
    pub(super) fn resolve(&mut self, sequence: u64, result: Result<Receipt, PublishError>) -> usize {
        let index = sequence.checked_sub(self.first_sequence).and_then(|index| usize::try_from(index).ok());
        let Some(index) = index.filter(|&index| index < self.written) else { return 0 };
        if let Some(waiting) = self.entries[index].waiting.take() {
            // Whoever dropped the future did not want to know.
            let _ = waiting.reply.send(result);
        }
        self.drop_resolved()
    }

    /// Fails everything; for a producer that has ended.
    pub(super) fn fail(&mut self, error: &PublishError) {
        for waiting in self.entries.drain(..).filter_map(|entry| entry.waiting) {
            let _ = waiting.reply.send(Err(error.clone()));
        }
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

    fn push(messages: &mut Unacknowledged) -> oneshot::Receiver<Result<Receipt, PublishError>> {
        let (reply, receiver) = oneshot::channel();
        messages.push(Publish { message: Message::to("a").unwrap(), charge: 10, reply });
        receiver
    }

    fn written(messages: &mut Unacknowledged, window: usize) -> Vec<u64> {
        let mut sequences = Vec::new();
        while let Some(Frame::Publish(header, _)) = messages.next_unwritten(window) {
            sequences.push(header.sequence);
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
}
