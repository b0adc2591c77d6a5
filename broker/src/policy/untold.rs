//! What became of deliveries and no guest was told yet, because none was there when the scheduler told it.

use std::collections::VecDeque;

use sluicegate_scheduler::{Ask, Feedback};

/// At most [`Ask::FEEDBACK_MAX`] outcomes, oldest first; older ones are counted, not kept.
#[derive(Debug, Default)]
pub(super) struct Untold {
    feedback: VecDeque<Feedback>,
    dropped: u64,
}

impl Untold {
    pub(super) fn keep(&mut self, feedback: Vec<Feedback>) {
        self.feedback.extend(feedback);
        let surplus = self.feedback.len().saturating_sub(Ask::FEEDBACK_MAX);
        self.feedback.drain(..surplus);
        self.dropped += surplus as u64;
    }

    /// The ask tells it before its own.
    pub(super) fn add_to(&mut self, ask: &mut Ask) {
        if !self.feedback.is_empty() {
            self.keep(std::mem::take(&mut ask.feedback));
            ask.feedback = std::mem::take(&mut self.feedback).into();
        }
    }

    /// Counts what was dropped since the last time.
    pub(super) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sluicegate_protocol::{LiteId, TenantId, Timestamp};
    use sluicegate_scheduler::{Frame, GroupView};

    use super::*;

    fn feedback(ids: std::ops::Range<u64>) -> Vec<Feedback> {
        let row = |id| Feedback {
            at: Timestamp(id),
            tenant: TenantId(1),
            lite: LiteId(id),
            wait: None,
            service: Duration::ZERO,
            cost_estimate: 1,
            cost_measured: 1,
            result: None,
            retry_after: None,
        };
        ids.map(row).collect()
    }

    fn ask(ids: std::ops::Range<u64>) -> Ask {
        let (group, tenants, lites) = (GroupView::default(), Vec::new(), Vec::new());
        let frame = Frame { now: Timestamp(0), sequence: 1, seed: 0, group, tenants, lites };
        Ask { feedback: feedback(ids), frame }
    }

    #[test]
    fn what_was_not_told_is_told_first_the_next_time_and_the_oldest_beyond_the_limit_is_counted() {
        let mut untold = Untold::default();
        untold.keep(feedback(0..3));
        untold.keep(feedback(3..5));
        let mut next = ask(5..7);
        untold.add_to(&mut next);
        assert_eq!((next.feedback, untold.take_dropped()), (feedback(0..7), 0));

        untold.keep(feedback(0..1_000));
        let mut next = ask(1_000..1_100);
        untold.add_to(&mut next);
        assert_eq!((next.feedback, untold.take_dropped()), (feedback(76..1_100), 76));
        assert_eq!(untold.take_dropped(), 0);
    }
}
