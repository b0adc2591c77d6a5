//! A request that nobody wants any more: where it waits it is settled without delivery, and who has it in work is told.

use sluicegate_protocol::admin::Durability;
use sluicegate_protocol::{LiteId, LiteName, Offset, TopicId, wire};

use super::command::ToConsumer;
use super::fault::{Fault, Reply};
use super::operator::Place;
use super::readers::beyond_end;
use super::{Effect, Shard};
use crate::metrics::Skipped;

/// A request to cancel, which was found to be who asks' own.
#[derive(Debug)]
pub(crate) struct CancelRequest {
    pub(crate) topic: TopicId,
    pub(crate) lite: LiteName,
    pub(crate) at: (LiteId, Offset),
    pub(crate) reply: Reply<wire::Cancelled>,
}

impl Shard {
    pub(super) fn cancel(&mut self, asked: CancelRequest) {
        let done = self.cancelled(&asked);
        self.answer(asked.reply, done, Durability::Fsync);
    }

    fn cancelled(&mut self, asked: &CancelRequest) -> Result<wire::Cancelled, Fault> {
        let ((asked_life, offset), mut cancelled) = (asked.at, wire::Cancelled::default());
        // In a life that is over nothing is left to cancel.
        let Some(id) = self.find_read(asked.topic, &asked.lite)?.filter(|&id| id == asked_life) else {
            return Ok(cancelled);
        };
        let lite = self.ledger.open_lite(id);
        if offset >= lite.visible {
            return Err(beyond_end(&asked.lite, offset, lite.visible).into());
        }
        let followers: Vec<_> = lite.cursors.iter().map(|(group, _)| *group).collect();
        for group in followers {
            // One that is being removed delivers nothing any more.
            if self.groups.contains_key(&group) {
                self.place(group, &asked.lite)?.cancel(offset, &mut cancelled)?;
            }
        }
        Ok(cancelled)
    }
}

impl Place<'_> {
    /// Waiting -> Settled; who has a lease is told, now or when it extends it, and it stays.
    fn cancel(&mut self, offset: Offset, cancelled: &mut wire::Cancelled) -> Result<(), Fault> {
        let cursor = self.cursor();
        if cursor.is_settled(offset) {
            return Ok(());
        }
        let Some((session, token)) = cursor.cancel(offset) else {
            self.skip(offset, Skipped::Cancelled)?;
            cancelled.dropped += 1;
            return Ok(());
        };
        cancelled.running += 1;
        if let Some(stream) = self.group.sessions.get(session).and_then(|session| session.stream.as_ref()) {
            let token = wire::Token { epoch: token.epoch, counter: token.counter };
            let cancel = ToConsumer::Cancel(wire::Cancel { token: Some(token) });
            // Behind the delivery, which may be on its way to the stream.
            self.ledger.stage.then(Durability::Os, Effect::Reply(stream.outbox.clone(), cancel));
        }
        Ok(())
    }
}
