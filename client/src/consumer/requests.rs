//! Settles and extensions that wait, and those that are out. Pure: no I/O.

use std::collections::{HashMap, HashSet, VecDeque};

use sluicegate_protocol::frame::Frame;
use sluicegate_protocol::{LeaseToken, wire};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::delivery::SettleError;

/// Settles or extensions in one frame.
const PER_FRAME_MAX: usize = 256;
/// Settle frames without a reply; more wait.
const SETTLE_FRAMES_SENT_MAX: usize = 256;

/// One lease to end, and who wants to know.
#[derive(Debug)]
pub(crate) struct SettleRequest {
    pub(crate) token: LeaseToken,
    pub(crate) settle: wire::SettleOne,
    /// None when nobody waits for it.
    pub(crate) reply: Option<oneshot::Sender<Result<(), SettleError>>>,
    /// Credit that goes back to the broker with it.
    pub(crate) credit: u32,
}

impl SettleRequest {
    pub(super) fn answer(self, result: Result<(), SettleError>) {
        match (self.reply, result) {
            // Whoever dropped the future did not want to know.
            (Some(reply), result) => drop(reply.send(result)),
            (None, Ok(())) => {}
            (None, Err(error)) => {
                tracing::warn!(lite_id = self.settle.lite_id, offset = self.settle.offset, %error, "message not settled");
            }
        }
    }
}

/// What a reply answers.
#[derive(Debug)]
pub(super) enum Sent {
    Settles(Vec<SettleRequest>),
    Extensions(Vec<LeaseToken>),
}

/// Requests of one session, in order.
#[derive(Debug, Default)]
pub(super) struct Requests {
    settles: VecDeque<SettleRequest>,
    extensions: VecDeque<wire::ExtendOne>,
    sent: VecDeque<(u64, Sent)>,
    settle_frames_sent: usize,
    last_sequence: u64,
}

impl Requests {
    pub(super) fn settle(&mut self, request: SettleRequest) {
        self.settles.push_back(request);
    }

    pub(super) fn extend(&mut self, extensions: Vec<wire::ExtendOne>) {
        self.extensions.extend(extensions);
    }

    /// No settle waits or is out.
    pub(super) fn is_settled(&self) -> bool {
        self.settles.is_empty() && self.settle_frames_sent == 0
    }

    /// The next Settle frame, and the credit that goes with it.
    pub(super) fn next_settle(&mut self) -> Option<(Frame, u32)> {
        if self.settles.is_empty() || self.settle_frames_sent == SETTLE_FRAMES_SENT_MAX {
            return None;
        }
        let requests: Vec<_> = self.settles.drain(..self.settles.len().min(PER_FRAME_MAX)).collect();
        let credit = requests.iter().map(|request| request.credit).sum();
        let settles = requests.iter().map(|request| request.settle.clone()).collect();
        self.settle_frames_sent += 1;
        let sequence = self.out(Sent::Settles(requests));
        Some((Frame::Settle(wire::Settle { sequence, settles }, ()), credit))
    }

    /// The next Extend frame.
    pub(super) fn next_extend(&mut self) -> Option<Frame> {
        if self.extensions.is_empty() {
            return None;
        }
        let leases: Vec<_> = self.extensions.drain(..self.extensions.len().min(PER_FRAME_MAX)).collect();
        let tokens = leases.iter().filter_map(|lease| lease.token.as_ref().map(lease_token)).collect();
        let sequence = self.out(Sent::Extensions(tokens));
        Some(Frame::Extend(wire::Extend { sequence, leases }, ()))
    }

    /// What the reply with this sequence answers.
    pub(super) fn take(&mut self, sequence: u64) -> Option<Sent> {
        let index = self.sent.iter().position(|&(sent, _)| sent == sequence)?;
        let (_, sent) = self.sent.remove(index)?;
        if let Sent::Settles(_) = sent {
            self.settle_frames_sent -= 1;
        }
        Some(sent)
    }

    /// A reply said that these should be sent again.
    pub(super) fn put_back(&mut self, requests: Vec<SettleRequest>) {
        self.settle_frames_sent += 1;
        self.sent.push_front((0, Sent::Settles(requests)));
    }

    /// The first credit of the next stream covers what waits here.
    pub(super) fn forget_credit(&mut self) {
        let sent = self.sent.iter_mut().filter_map(|(_, sent)| match sent {
            Sent::Settles(requests) => Some(requests.iter_mut()),
            Sent::Extensions(_) => None,
        });
        self.settles.iter_mut().chain(sent.flatten()).for_each(|request| request.credit = 0);
    }

    /// A new stream: settles of leases that the broker still holds are sent again, the others are answered.
    ///
    /// Returns the tokens of those that are sent again, and the credit of those that are not.
    pub(super) fn reattach(&mut self, held: &HashMap<LeaseToken, Instant>) -> (HashSet<LeaseToken>, u32) {
        let (mut again, mut credit) = (VecDeque::with_capacity(self.settles.len()), 0);
        let sent = self.sent.drain(..).filter_map(|(_, sent)| match sent {
            Sent::Settles(requests) => Some(requests),
            Sent::Extensions(_) => None,
        });
        let sent = sent.flatten().map(|request| (request, SettleError::Unknown));
        let unsent = self.settles.drain(..).map(|request| (request, SettleError::LeaseLost));
        for (request, otherwise) in sent.chain(unsent) {
            if held.contains_key(&request.token) {
                again.push_back(request);
            } else {
                credit += request.credit;
                request.answer(Err(otherwise));
            }
        }
        *self = Self { settles: again, ..Self::default() };
        (self.settles.iter().map(|request| request.token).collect(), credit)
    }

    /// The session is over.
    pub(super) fn fail(&mut self) {
        for (_, sent) in self.sent.drain(..) {
            if let Sent::Settles(requests) = sent {
                for request in requests {
                    request.answer(Err(SettleError::Unknown));
                }
            }
        }
        self.settles.drain(..).for_each(|request| request.answer(Err(SettleError::Closed)));
    }

    /// A number that no request of this stream has.
    pub(super) fn next_sequence(&mut self) -> u64 {
        self.last_sequence += 1;
        self.last_sequence
    }

    fn out(&mut self, sent: Sent) -> u64 {
        let sequence = self.next_sequence();
        self.sent.push_back((sequence, sent));
        sequence
    }
}

pub(super) fn lease_token(token: &wire::Token) -> LeaseToken {
    LeaseToken { epoch: token.epoch, counter: token.counter }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::Outcome;

    type Reply = oneshot::Receiver<Result<(), SettleError>>;

    fn settle(requests: &mut Requests, counter: u64) -> Reply {
        let token = LeaseToken { epoch: 1, counter };
        let (reply, receiver) = oneshot::channel();
        let settle = Outcome::Ack.into_settle(token, 7, counter);
        requests.settle(SettleRequest { token, settle, reply: Some(reply), credit: 1 });
        receiver
    }

    #[test]
    fn settles_are_batched_and_their_credit_goes_with_them() {
        let mut requests = Requests::default();
        let _replies: Vec<_> = (0..300).map(|counter| settle(&mut requests, counter)).collect();
        let mut frames = Vec::new();
        while let Some((Frame::Settle(header, ()), credit)) = requests.next_settle() {
            frames.push((header.sequence, header.settles.len(), credit));
        }
        assert_eq!(frames, [(1, 256, 256), (2, 44, 44)]);
        assert!(matches!(requests.take(2), Some(Sent::Settles(settles)) if settles.len() == 44));
        assert!(requests.take(2).is_none());
    }

    #[test]
    fn a_reattach_sends_settles_of_held_leases_again_and_answers_the_others() {
        let mut requests = Requests::default();
        let mut replies: Vec<_> = (0..2).map(|counter| settle(&mut requests, counter)).collect();
        requests.next_settle().unwrap();
        replies.extend((2..4).map(|counter| settle(&mut requests, counter)));
        requests.forget_credit();
        // While the stream is being opened again: the credit of this one is in no Hello.
        replies.push(settle(&mut requests, 4));
        let held = [0, 2].map(|counter| (LeaseToken { epoch: 1, counter }, Instant::now()));
        let again = requests.reattach(&HashMap::from(held));
        assert_eq!(again, (HashSet::from(held.map(|(token, _)| token)), 1));
        let Some((Frame::Settle(header, ()), 0)) = requests.next_settle() else { panic!("no frame without credit") };
        assert_eq!(header.sequence, 1);
        assert_eq!(header.settles.iter().map(|settle| settle.offset).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(replies[1].try_recv(), Ok(Err(SettleError::Unknown)));
        assert_eq!(replies[3].try_recv(), Ok(Err(SettleError::LeaseLost)));
        assert_eq!(replies[4].try_recv(), Ok(Err(SettleError::LeaseLost)));
        assert!(replies[0].try_recv().is_err() && replies[2].try_recv().is_err());
    }
}
