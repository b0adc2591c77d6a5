//! What crossed into a guest since a state that is known: enough to have the same again, elsewhere.
//!
//! A tape begins where its guest began, or with the guest's last snapshot. It owns what it keeps and copies nothing: questions and
//! answers go onto it when they are done with.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluicegate_protocol::Timestamp;

use super::briefing::{News, Question};
use super::instance::StateBlob;
use super::types;

/// Bytes of questions and plans after which a snapshot is wanted, so that the tape can begin anew.
const LONG_BYTES: usize = 3 << 20;
/// Bytes of a state that costs little to take: only such a one is taken for the tape's sake.
const CHEAP_STATE_BYTES: usize = 16 << 10;
/// Bytes of questions and plans on a tape. Beyond, the oldest are cut off.
const ASKED_BYTES_MAX: usize = 4 << 20;
/// Bytes of names that the guest was told before the tape begins. Beyond, the oldest are missing.
const NAMES_BYTES_MAX: usize = 2 << 20;

/// A guest's questions and answers since [`Start`].
#[derive(Debug, Clone, Default)]
pub(super) struct Tape {
    pub(super) start: Start,
    /// What the guest was told of names before, oldest first.
    pub(super) told: VecDeque<News>,
    pub(super) asked: VecDeque<Asked>,
    /// Questions that are missing between the start and the first of `asked`.
    pub(super) asked_cut: u64,
    /// Names that are missing before the first of `told`.
    pub(super) told_cut: u64,
    asked_bytes: usize,
    told_bytes: usize,
    /// Bytes of `asked` at which the guest had no state to give.
    refused_at: usize,
}

/// Where a guest goes on from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// The time that it was given.
    pub(super) now: Timestamp,
    /// The state that it was given; none for a cold start.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "shared_state")]
    pub(super) state: Option<Arc<StateBlob>>,
}

/// A question, and what the guest said to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) question: Question,
    pub(super) plan: types::Plan,
}

impl Tape {
    /// Of a guest that has just been started.
    pub(super) fn begin(now: Timestamp, state: Option<Arc<StateBlob>>) -> Self {
        Self { start: Start { now, state }, ..Self::default() }
    }

    /// As it was written down: names and questions, each with the number of those before that are missing.
    pub(super) fn of(start: Start, (told, told_cut): (Vec<News>, u64), (asked, asked_cut): (Vec<Asked>, u64)) -> Self {
        let (told, asked) = (told.into(), asked.into());
        Self { start, told, asked, asked_cut, told_cut, ..Self::default() }
    }

    /// The guest answered.
    pub(super) fn answered(&mut self, question: Question, plan: types::Plan) {
        self.asked_bytes += question.bytes() + plan_bytes(&plan);
        self.asked.push_back(Asked { question, plan });
        while self.asked_bytes > ASKED_BYTES_MAX
            && let Some(oldest) = self.asked.pop_front()
        {
            self.asked_bytes -= oldest.question.bytes() + plan_bytes(&oldest.plan);
            self.asked_cut += 1;
            self.tell(oldest.question);
        }
    }

    /// A snapshot is worth its time for the tape alone.
    pub(super) fn wants_snapshot(&self) -> bool {
        let cheap = self.start.state.as_ref().is_none_or(|state| state.data.len() <= CHEAP_STATE_BYTES);
        cheap && self.asked_bytes >= self.refused_at + LONG_BYTES
    }

    /// The guest was asked for its state: with the one that it gave, the tape begins anew.
    pub(super) fn snapshot_taken(&mut self, state: Option<&Arc<StateBlob>>) {
        let Some(state) = state else {
            self.refused_at = self.asked_bytes;
            return;
        };
        self.start.state = Some(Arc::clone(state));
        for Asked { question, .. } in std::mem::take(&mut self.asked) {
            self.tell(question);
        }
        (self.asked_bytes, self.asked_cut, self.refused_at) = (0, 0, 0);
    }

    /// The guest knows the names in a question that is on the tape no more.
    fn tell(&mut self, question: Question) {
        let news = question.news;
        if news.is_empty() {
            return;
        }
        self.told_bytes += news.bytes();
        self.told.push_back(news);
        while self.told_bytes > NAMES_BYTES_MAX
            && let Some(oldest) = self.told.pop_front()
        {
            self.told_bytes -= oldest.bytes();
            self.told_cut += oldest.learnt.len() as u64;
        }
    }
}

fn plan_bytes(plan: &types::Plan) -> usize {
    let columns = plan.columns.iter().map(|column| 8 * column.values.len());
    size_of_val(plan) + size_of_val(&*plan.answers) + size_of_val(&*plan.weights) + columns.sum::<usize>()
}

/// serde knows shared values only with a feature that all of its users would be compiled anew for.
mod shared_state {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::StateBlob;

    #[expect(clippy::ref_option, reason = "serde hands it over so")]
    pub(super) fn serialize<S: Serializer>(state: &Option<Arc<StateBlob>>, serializer: S) -> Result<S::Ok, S::Error> {
        state.as_deref().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<StateBlob>>, D::Error> {
        Ok(Option::<StateBlob>::deserialize(from)?.map(Arc::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::types::Entity;

    fn question(sequence: u64, name: &str, outcomes: usize) -> Question {
        let group =
            types::GroupView { backlog: 0, messages_left: 0, cost_left: 0, in_flight: 0, capacity: 0, load_ppm: 0 };
        let (tenants, lites, columns) = (Vec::new(), Vec::new(), Vec::new());
        let frame = types::Frame { now_us: 0, sequence, seed: 0, group, tenants, lites, columns };
        let feedback = types::Feedback {
            at_us: 0,
            tenant: 0,
            lite: 0,
            wait_us: 0,
            service_us: 0,
            retry_after_us: 0,
            cost_estimate: 0,
            cost_measured: 0,
            outcome: 0,
        };
        let learnt = vec![Entity { kind: 1, id: sequence, name: name.into(), labels: Vec::new() }];
        Question { news: News { learnt, ..News::default() }, feedback: vec![feedback; outcomes], frame }
    }

    fn plan() -> types::Plan {
        let (answers, weights, columns) = (Vec::new(), Vec::new(), Vec::new());
        types::Plan { answers, weights, concurrency: 0, concurrency_valid_us: 0, refresh: 0, columns }
    }

    fn tape(questions: u64, outcomes: usize, name: &str) -> Tape {
        let mut tape = Tape::begin(Timestamp(0), None);
        for sequence in 0..questions {
            tape.answered(question(sequence, name, outcomes), plan());
        }
        tape
    }

    #[test]
    fn the_oldest_questions_are_cut_off_and_counted_and_their_names_stay() {
        let tape = tape(100, 1_024, "acme");
        let kept = tape.asked.len() as u64;
        assert!(tape.asked_bytes <= ASKED_BYTES_MAX && (40..100).contains(&kept), "{kept}");
        assert_eq!((tape.asked_cut, tape.told.len() as u64), (100 - kept, 100 - kept));
        assert_eq!(tape.asked.front().unwrap().question.frame.sequence, 100 - kept);
    }

    #[test]
    fn names_beyond_the_limit_are_missing_and_counted() {
        let mut tape = tape(10, 0, &"x".repeat(300 << 10));
        tape.snapshot_taken(Some(&Arc::new(StateBlob { schema: 1, data: Vec::new() })));
        assert!(tape.told_bytes <= NAMES_BYTES_MAX && tape.told.len() == 6, "{}", tape.told.len());
        assert_eq!((tape.told_cut, tape.asked.len()), (4, 0));
    }

    #[test]
    fn a_snapshot_is_wanted_for_a_long_tape_and_a_small_state_and_not_asked_for_again_and_again() {
        assert!(!tape(40, 1_024, "acme").wants_snapshot());
        let mut tape = tape(50, 1_024, "acme");
        assert!(tape.wants_snapshot());
        tape.snapshot_taken(None);
        assert!(!tape.wants_snapshot());
        tape.snapshot_taken(Some(&Arc::new(StateBlob { schema: 1, data: vec![0; CHEAP_STATE_BYTES + 1] })));
        for sequence in 0..50 {
            tape.answered(question(sequence, "acme", 1_024), plan());
        }
        assert!(!tape.wants_snapshot());
    }
}
