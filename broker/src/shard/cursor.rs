//! Where one group is in one lite topic: what is settled, leased, tried, held. Pure bookkeeping.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sluicegate_protocol::limits::{PRIORITY_DEFAULT, PRIORITY_MAX, SETTLE_WINDOW};
use sluicegate_protocol::{LeaseToken, Offset, SessionId, Timestamp};
use sluicegate_scheduler::{Head, HoldSource};

use super::leases::{Lease, LeasePlace, Leases};
use crate::kept::KeptRow;
use crate::store::{CursorRow, MessageHeader};

/// Rank of a ready row that was filed by a message of the default priority.
pub(crate) const RANK_DEFAULT: u8 = PRIORITY_MAX - PRIORITY_DEFAULT;

/// Messages after the head whose headers are kept at hand.
const UPCOMING_MAX: usize = 32;

/// A message that waits, as far as scheduling cares.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) offset: Offset,
    pub(crate) published_at: Timestamp,
    /// When it could be had: published, its `deliver_at`, or back from a lease, whichever is last.
    pub(crate) since: Timestamp,
    pub(crate) priority: u8,
    pub(crate) cost: u64,
    pub(crate) deliver_at: Option<Timestamp>,
    pub(crate) expires_at: Option<Timestamp>,
    /// Bytes of all messages before it in its lite topic.
    pub(crate) position: u64,
    /// The message's row, where memory allowed to keep it.
    pub(crate) row: Option<KeptRow>,
}

impl Waiting {
    pub(crate) fn new(offset: Offset, header: &MessageHeader, row: Option<KeptRow>) -> Self {
        Self {
            offset,
            published_at: header.published_at(),
            since: header.published_at().max(Timestamp(header.deliver_at_us.unwrap_or(0))),
            priority: header.priority(),
            cost: header.cost,
            deliver_at: header.deliver_at_us.map(Timestamp),
            expires_at: header.expires_at_us.map(Timestamp),
            position: header.position.unwrap_or(0),
            row,
        }
    }
}

/// What one source holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) source: HoldSource,
    /// From when on it held without a gap; unknown of one from before this was written down.
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Timestamp,
}

/// A group's position in a lite topic.
#[expect(clippy::struct_excessive_bools, reason = "marks that have nothing to do with each other")]
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    /// All offsets below are settled.
    settled_up_to: u64,
    /// Offsets above that are settled.
    settled: BTreeSet<u64>,
    /// Open leases by offset.
    leases: Leases,
    /// Counted deliveries of unsettled offsets.
    attempts: BTreeMap<u64, u32>,
    /// Who holds the lite topic: one entry for each source.
    holds: Vec<Held>,
    /// The cursor was read from its row, and its scheduler knows nothing of its holds yet.
    holds_untold: bool,
    /// Headers of unleased messages from the head on, without gaps but those that are settled or leased.
    upcoming: VecDeque<Waiting>,
    /// The group unsubscribed: it stops to follow when its last lease ends.
    pub(crate) leaving: bool,
    /// Rank of the ready row on disk, if there is one.
    pub(crate) filed: Option<u8>,
    /// The rank that the cursor's row says, as it was put or read last.
    row_rank: Option<u8>,
    /// Rank of a ready row that may be left over of an earlier process.
    pub(crate) left_over: Option<u8>,
    /// Time of the wake row on disk, which stands for the ready row while the lite topic sleeps.
    pub(crate) wakes_at: Option<Timestamp>,
    /// Its place among those that have open leases, while it has.
    pub(crate) busy_place: Option<u32>,
    /// The lite topic drained, and its ready row is removed soon unless it fills again.
    pub(crate) lingers: bool,
    /// It changed in the open batch, which gets its row when it is sent on its way.
    pub(crate) is_touched: bool,
    /// The head that the scheduler knows.
    pub(crate) announced: Option<Offset>,
    /// When it changed last.
    active_at: Timestamp,
}

impl Cursor {
    /// A cursor that starts at `offset`.
    pub(crate) fn starting_at(offset: Offset) -> Self {
        Self { settled_up_to: offset.0, ..Self::default() }
    }

    /// The cursor in a row.
    pub(crate) fn from_row(row: &CursorRow) -> Self {
        let hold = |hold: &crate::store::Hold| {
            let since = (hold.since_us > 0).then_some(Timestamp(hold.since_us));
            Some(Held { source: hold_source(hold.source)?, since, until: Timestamp(hold.until_us) })
        };
        Self {
            settled_up_to: row.settled_up_to,
            settled: row.settled.iter().copied().collect(),
            attempts: row.attempts.iter().map(|attempts| (attempts.offset, attempts.count)).collect(),
            holds: row.holds.iter().filter_map(hold).collect(),
            holds_untold: !row.holds.is_empty(),
            leaving: row.leaving,
            leases: Leases::from_rows(&row.leases),
            filed: (row.wakes_at_us == 0).then(|| row.filed_rank.map_or(RANK_DEFAULT, rank)),
            row_rank: row.filed_rank.map(rank),
            wakes_at: (row.wakes_at_us > 0).then_some(Timestamp(row.wakes_at_us)),
            active_at: Timestamp(row.active_at_us),
            ..Self::default()
        }
    }

    /// The row of this cursor, with those of its leases that have none of their own.
    pub(crate) fn to_row(&self) -> CursorRow {
        let attempts = |(&offset, &count): (&u64, &u32)| crate::store::Attempts { offset, count };
        let hold = |held: &Held| crate::store::Hold {
            source: hold_number(held.source),
            until_us: held.until.0,
            since_us: held.since.map_or(0, |since| since.0),
        };
        CursorRow {
            settled_up_to: self.settled_up_to,
            settled: self.settled.iter().copied().collect(),
            attempts: self.attempts.iter().map(attempts).collect(),
            holds: self.holds.iter().map(hold).collect(),
            leaving: self.leaving,
            leases: self.leases.rows_in_cursor(),
            filed_rank: self.rank_for_row().map(u32::from),
            wakes_at_us: self.wakes_at.map_or(0, |at| at.0),
            active_at_us: self.active_at.0,
        }
    }

    /// Something changes. Answers whether that is the first change since its row was put.
    pub(crate) fn touch(&mut self, now: Timestamp) -> bool {
        self.active_at = now;
        !std::mem::replace(&mut self.is_touched, true)
    }

    /// When something changed last: a message was leased or settled, or the lite topic held.
    pub(crate) const fn active_at(&self) -> Timestamp {
        self.active_at
    }

    /// All offsets below are settled.
    pub(crate) fn settled_up_to(&self) -> Offset {
        Offset(self.settled_up_to)
    }

    /// Settled offsets above [`Cursor::settled_up_to`], ascending.
    pub(crate) fn settled_ahead(&self) -> impl Iterator<Item = Offset> {
        self.settled.iter().copied().map(Offset)
    }

    /// Messages before `end` that are neither settled nor leased.
    pub(crate) fn backlog(&self, end: Offset) -> u64 {
        self.unsettled(end).saturating_sub(self.leases.len() as u64)
    }

    /// The rank of the ready row, where it is not that of the default priority.
    fn rank_for_row(&self) -> Option<u8> {
        self.filed.filter(|&rank| rank != RANK_DEFAULT)
    }

    /// Whether the cursor's row says the rank of the ready row, as far as it is put. A start finds the ready row of an undrained
    /// cursor by it, and takes another one for a left-over.
    pub(crate) fn says_rank(&self) -> bool {
        self.row_rank == self.rank_for_row()
    }

    /// Its row is put: that says the rank from now on.
    pub(crate) fn put(&mut self) -> CursorRow {
        self.is_touched = false;
        self.row_rank = self.rank_for_row();
        self.to_row()
    }

    /// Messages before `end` that are not settled.
    pub(crate) fn unsettled(&self, end: Offset) -> u64 {
        end.0.saturating_sub(self.settled_up_to).saturating_sub(self.settled.len() as u64)
    }

    /// Whether the group is done here: it unsubscribed, and has no open lease.
    pub(crate) fn is_left(&self) -> bool {
        self.leaving && self.leases.is_empty()
    }

    /// Whether everything before `end` is settled.
    pub(crate) fn is_drained(&self, end: Offset) -> bool {
        self.settled_up_to >= end.0
    }

    /// The cursor was just read: one that is drained has no ready row, but for one that a process left behind which ended before
    /// it was over with lingering.
    pub(crate) fn read_up_to(&mut self, end: Offset) {
        if self.is_drained(end) {
            self.left_over = self.filed.take();
        }
    }

    /// Whether everything here is in rows, and nothing is open.
    pub(crate) fn may_leave(&self) -> bool {
        self.leases.is_empty() && !self.lingers && !self.is_touched
    }

    pub(crate) fn has_leases(&self) -> bool {
        !self.leases.is_empty()
    }

    /// The lowest offset before `end` that is neither settled nor leased, inside the window.
    pub(crate) fn head_offset(&self, end: Offset) -> Option<Offset> {
        let end = end.0.min(self.settled_up_to + SETTLE_WINDOW);
        let taken = |offset: &u64| self.settled.contains(offset) || self.leases.contains(*offset);
        (self.settled_up_to..end).find(|offset| !taken(offset)).map(Offset)
    }

    /// The head with its header, if the header is at hand.
    pub(crate) fn head(&self, offset: Offset) -> Option<Head> {
        let waiting = self.upcoming.front().filter(|waiting| waiting.offset == offset)?;
        Some(Head {
            offset,
            published_at: waiting.published_at,
            priority: waiting.priority,
            cost: waiting.cost,
            deliver_at: waiting.deliver_at,
            expires_at: waiting.expires_at,
            attempts: self.attempts_of(offset),
        })
    }

    /// The head, if its header is at hand.
    pub(crate) fn at_hand(&self) -> Option<&Waiting> {
        self.upcoming.front()
    }

    /// Counted deliveries of an unsettled offset.
    pub(crate) fn attempts_of(&self, offset: Offset) -> u32 {
        self.attempts.get(&offset.0).copied().unwrap_or(0)
    }

    /// A new message became visible. It is kept at hand where it continues what is at hand.
    pub(crate) fn appended(&mut self, waiting: &Waiting) {
        let continues = match self.upcoming.back() {
            Some(last) => last.offset.next() == waiting.offset && self.upcoming.len() < UPCOMING_MAX,
            None => self.head_offset(waiting.offset.next()) == Some(waiting.offset),
        };
        if continues {
            self.upcoming.push_back(waiting.clone());
        }
    }

    /// Offsets to read when the head's header is not at hand.
    pub(crate) fn refill_range(&self, head: Offset, end: Offset) -> (Offset, usize) {
        debug_assert!(self.upcoming.front().is_none_or(|front| front.offset > head), "a stale front is dropped first");
        (head, UPCOMING_MAX.min(usize::try_from(end.0 - head.0).unwrap_or(UPCOMING_MAX)))
    }

    /// Headers that were read from the head on.
    pub(crate) fn refill(&mut self, messages: impl IntoIterator<Item = Waiting>) {
        self.upcoming.clear();
        for waiting in messages {
            if !self.settled.contains(&waiting.offset.0) && !self.leases.contains(waiting.offset.0) {
                self.upcoming.push_back(waiting);
            }
        }
    }

    /// Drops headers that are behind the head.
    pub(crate) fn drop_stale(&mut self, head: Offset) {
        while self.upcoming.front().is_some_and(|front| front.offset < head) {
            self.upcoming.pop_front();
        }
    }

    /// Takes the head's header to lease or settle it.
    pub(crate) fn take_head(&mut self, offset: Offset) -> Option<Waiting> {
        self.upcoming.pop_front_if(|front| front.offset == offset)
    }

    /// Where the next lease is written.
    pub(crate) fn next_lease_place(&self) -> LeasePlace {
        self.leases.next_place()
    }

    /// Waiting -> Leased
    pub(crate) fn lease(&mut self, offset: Offset, lease: Lease) {
        // A lease that is read from a row of its own was not known when the head was read.
        self.upcoming.pop_front_if(|front| front.offset == offset);
        self.leases.insert(offset.0, lease);
    }

    /// The open lease of an offset.
    pub(crate) fn lease_of(&self, offset: Offset) -> Option<&Lease> {
        self.leases.get(offset.0)
    }

    /// Open leases, by offset.
    pub(crate) fn leases(&self) -> impl Iterator<Item = (Offset, &Lease)> {
        self.leases.iter()
    }

    /// Moves the deadline of an open lease and answers the one before.
    pub(crate) fn extend(&mut self, offset: Offset, deadline: Timestamp) -> Option<Timestamp> {
        self.leases.get_mut(offset.0).map(|lease| std::mem::replace(&mut lease.deadline, deadline))
    }

    /// Nobody wants the outcome of an open lease any more: answers whose it is.
    pub(crate) fn cancel(&mut self, offset: Offset) -> Option<(SessionId, LeaseToken)> {
        let lease = self.leases.get_mut(offset.0)?;
        lease.cancelled = true;
        Some((lease.session, lease.token))
    }

    /// Leased -> Settled
    pub(crate) fn settle_lease(&mut self, offset: Offset) -> Option<Lease> {
        let lease = self.leases.remove(offset.0)?;
        self.settle(offset);
        Some(lease)
    }

    /// Waiting -> Settled, without delivery.
    pub(crate) fn settle(&mut self, offset: Offset) {
        self.attempts.remove(&offset.0);
        if offset.0 == self.settled_up_to {
            self.settled_up_to += 1;
        } else {
            self.settled.insert(offset.0);
        }
        while self.settled.remove(&self.settled_up_to) {
            self.settled_up_to += 1;
        }
    }

    /// Moves to another position: all below is settled, all from there on waits, no attempt counts, no retry is delayed.
    /// Answers how many waiting messages were passed over. There must be no open lease.
    pub(crate) fn seek(&mut self, to: Offset) -> u64 {
        assert!(self.leases.is_empty(), "nothing moves under an open lease");
        let below = to.0.saturating_sub(self.settled_up_to);
        let passed = below.saturating_sub(self.settled.range(..to.0).count() as u64);
        self.settled_up_to = to.0;
        self.settled.clear();
        self.attempts.clear();
        self.upcoming.clear();
        self.resume(Some(HoldSource::Retry));
        passed
    }

    /// Where a message is, if it is at hand.
    pub(crate) fn position_of(&self, offset: Offset) -> Option<u64> {
        let upcoming = self.upcoming.front().filter(|waiting| waiting.offset == offset);
        let leased = || self.leases.get(offset.0).and_then(|lease| lease.message.as_ref());
        upcoming.or_else(leased).map(|waiting| waiting.position)
    }

    /// Settles all offsets before `end`, of which none is leased. Answers how many were not settled.
    pub(crate) fn settle_below(&mut self, end: Offset) -> u64 {
        if end.0 <= self.settled_up_to {
            return 0;
        }
        let unsettled = end.0 - self.settled_up_to - self.settled.range(..end.0).count() as u64;
        assert!(self.leases.iter().all(|(offset, _)| offset >= end), "nothing is settled under an open lease");
        self.settled_up_to = end.0;
        self.settled = self.settled.split_off(&end.0);
        self.attempts = self.attempts.split_off(&end.0);
        while self.settled.remove(&self.settled_up_to) {
            self.settled_up_to += 1;
        }
        unsettled
    }

    /// Whether an offset is settled.
    pub(crate) fn is_settled(&self, offset: Offset) -> bool {
        offset.0 < self.settled_up_to || self.settled.contains(&offset.0)
    }

    /// Leased -> Waiting. With `counted`, the delivery counts as an attempt.
    pub(crate) fn give_back(&mut self, now: Timestamp, offset: Offset, counted: Counted) -> Option<Lease> {
        let mut lease = self.leases.remove(offset.0)?;
        if let Some(message) = &mut lease.message {
            message.since = now;
        }
        if counted == Counted::Yes {
            self.attempts.insert(offset.0, lease.attempt);
        }
        match lease.message.take() {
            // What is at hand stays gapless: the returned message is lower than all of it, unless
            // another lease between returned first.
            Some(message) if self.upcoming.front().is_none_or(|front| message.offset < front.offset) => {
                self.upcoming.push_front(message);
            }
            Some(message) => {
                let at = self.upcoming.partition_point(|waiting| waiting.offset < message.offset);
                self.upcoming.insert(at, message);
            }
            None => self.upcoming.clear(),
        }
        Some(lease)
    }

    /// Until when a source holds the lite topic.
    pub(crate) fn hold_by(&self, source: HoldSource) -> Option<Timestamp> {
        self.holds.iter().find(|held| held.source == source).map(|held| held.until)
    }

    /// Sets the end of a source's hold, which begins now unless there is one.
    pub(crate) fn hold(&mut self, now: Timestamp, source: HoldSource, until: Timestamp) {
        match self.holds.iter_mut().find(|held| held.source == source) {
            Some(held) => held.until = until,
            None => self.holds.push(Held { source, since: Some(now), until }),
        }
    }

    /// Ends the hold of a source, or of all.
    pub(crate) fn resume(&mut self, source: Option<HoldSource>) {
        self.holds.retain(|held| source.is_some_and(|source| source != held.source));
    }

    /// The scheduler forgot the lite topic: it must be told of the holds again.
    pub(crate) fn unlisted(&mut self) {
        self.announced = None;
        self.holds_untold = !self.holds.is_empty();
    }

    /// Holds that the scheduler must be told of, once: those that came with the row.
    pub(crate) fn untold_holds(&mut self) -> Vec<Held> {
        if std::mem::take(&mut self.holds_untold) { self.holds.clone() } else { Vec::new() }
    }

    /// Forgets holds that are over. Answers whether there were any.
    pub(crate) fn drop_ended_holds(&mut self, now: Timestamp) -> bool {
        let before = self.holds.len();
        self.holds.retain(|held| held.until > now);
        self.holds.len() < before
    }

    /// When the last hold ends or ended; one that is over may be forgotten.
    pub(crate) fn held_until(&self) -> Option<Timestamp> {
        self.holds.iter().map(|held| held.until).max()
    }

    /// Who holds the lite topic; some may be over.
    pub(crate) fn holds(&self) -> &[Held] {
        &self.holds
    }
}

/// A rank as it was written.
fn rank(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(RANK_DEFAULT)
}

/// Whether a delivery that came back counts as an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It was tried and failed.
    Yes,
    /// It was not tried.
    No,
}

// Numbers are stored: they stay what they are.
const fn hold_number(source: HoldSource) -> u32 {
    match source {
        HoldSource::Settle => 1,
        HoldSource::Policy => 2,
        HoldSource::Operator => 3,
        HoldSource::Retry => 4,
    }
}

const fn hold_source(number: u32) -> Option<HoldSource> {
    match number {
        1 => Some(HoldSource::Settle),
        2 => Some(HoldSource::Policy),
        3 => Some(HoldSource::Operator),
        4 => Some(HoldSource::Retry),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluicegate_scheduler::Charge;

    fn waiting(offset: u64) -> Waiting {
        Waiting::new(Offset(offset), &MessageHeader::default(), None)
    }

    fn lease(attempt: u32, offset: u64) -> Lease {
        Lease {
            session: SessionId(1),
            attempt,
            deadline: Timestamp(9),
            token: LeaseToken { epoch: 1, counter: offset },
            dispatched_at: Timestamp(1),
            charge: Charge { cost: 1, band: 4, weight: 1 },
            message: Some(waiting(offset)),
            place: LeasePlace::Cursor,
            cancelled: false,
        }
    }

    fn take(cursor: &mut Cursor, end: u64) -> u64 {
        let offset = cursor.head_offset(Offset(end)).unwrap();
        cursor.take_head(offset).unwrap();
        cursor.lease(offset, lease(cursor.attempts_of(offset) + 1, offset.0));
        offset.0
    }

    fn with_messages(count: u64) -> Cursor {
        let mut cursor = Cursor::default();
        (0..count).for_each(|offset| cursor.appended(&waiting(offset)));
        cursor
    }

    #[test]
    fn settling_out_of_order_advances_over_what_is_settled() {
        let mut cursor = with_messages(4);
        assert_eq!((take(&mut cursor, 4), take(&mut cursor, 4), take(&mut cursor, 4)), (0, 1, 2));
        cursor.settle_lease(Offset(2)).unwrap();
        cursor.settle_lease(Offset(0)).unwrap();
        assert_eq!((cursor.settled_up_to(), cursor.backlog(Offset(4))), (Offset(1), 1));
        cursor.settle_lease(Offset(1)).unwrap();
        assert_eq!((cursor.settled_up_to(), cursor.head_offset(Offset(4))), (Offset(3), Some(Offset(3))));
    }

    #[test]
    fn a_returned_message_is_the_head_again_before_all_later_ones() {
        let mut cursor = with_messages(4);
        assert_eq!((take(&mut cursor, 4), take(&mut cursor, 4), take(&mut cursor, 4)), (0, 1, 2));
        cursor.give_back(Timestamp(5), Offset(2), Counted::No).unwrap();
        cursor.give_back(Timestamp(5), Offset(1), Counted::Yes).unwrap();
        assert_eq!(cursor.head_offset(Offset(4)), Some(Offset(1)));
        assert_eq!(cursor.head(Offset(1)).unwrap().attempts, 1);
        assert_eq!((take(&mut cursor, 4), take(&mut cursor, 4), take(&mut cursor, 4)), (1, 2, 3));
        assert_eq!((cursor.lease_of(Offset(1)).unwrap().attempt, cursor.lease_of(Offset(2)).unwrap().attempt), (2, 1));
    }

    #[test]
    fn leases_stay_inside_the_window() {
        let mut cursor = Cursor::default();
        for offset in 1..SETTLE_WINDOW {
            cursor.settle(Offset(offset));
        }
        cursor.lease(Offset(0), lease(1, 0));
        assert_eq!(cursor.head_offset(Offset(5_000)), None);
        cursor.settle_lease(Offset(0)).unwrap();
        assert_eq!(cursor.head_offset(Offset(5_000)), Some(Offset(SETTLE_WINDOW)));
    }

    #[test]
    fn a_cursor_survives_its_row() {
        let mut cursor = with_messages(3);
        take(&mut cursor, 3);
        cursor.give_back(Timestamp(5), Offset(0), Counted::Yes);
        cursor.settle(Offset(2));
        cursor.leaving = true;
        cursor.hold(Timestamp(5), HoldSource::Policy, Timestamp(60));
        cursor.hold(Timestamp(6), HoldSource::Policy, Timestamp(77));
        let read = Cursor::from_row(&cursor.to_row());
        assert_eq!(read.to_row(), cursor.to_row());
        assert!(read.is_left());
        let held = Held { source: HoldSource::Policy, since: Some(Timestamp(5)), until: Timestamp(77) };
        assert_eq!((read.attempts_of(Offset(0)), read.holds()), (1, &[held][..]));
    }

    #[test]
    fn seeking_settles_what_is_before_and_nothing_after() {
        let mut cursor = with_messages(6);
        cursor.settle(Offset(1));
        cursor.settle(Offset(4));
        assert_eq!(cursor.seek(Offset(3)), 2, "0 and 2 waited, 1 was settled before");
        assert_eq!((cursor.settled_up_to(), cursor.backlog(Offset(6))), (Offset(3), 3));
        assert_eq!(cursor.seek(Offset(1)), 0);
        assert_eq!((cursor.head_offset(Offset(6)), cursor.backlog(Offset(6))), (Some(Offset(1)), 5));
    }

    #[test]
    fn settling_all_below_an_offset_goes_on_over_what_is_settled_there() {
        let mut cursor = with_messages(6);
        cursor.settle(Offset(3));
        assert_eq!(cursor.settle_below(Offset(3)), 3);
        assert_eq!((cursor.settled_up_to(), cursor.backlog(Offset(6))), (Offset(4), 2));
        assert_eq!(cursor.settle_below(Offset(2)), 0);
        assert_eq!(cursor.settled_up_to(), Offset(4));
    }

    #[test]
    fn a_lease_that_is_known_later_than_its_message_takes_it_from_what_is_at_hand() {
        let mut cursor = with_messages(2);
        cursor.lease(Offset(0), Lease { message: None, ..lease(1, 0) });
        assert_eq!(cursor.at_hand().map(|waiting| waiting.offset), Some(Offset(1)));
        cursor.give_back(Timestamp(9), Offset(0), Counted::No);
        assert_eq!((cursor.head_offset(Offset(2)), cursor.upcoming.len()), (Some(Offset(0)), 0), "0 is to be read");
    }

    #[test]
    fn only_what_continues_is_kept_at_hand() {
        let mut cursor = with_messages(100);
        assert_eq!(cursor.upcoming.len(), UPCOMING_MAX);
        let mut behind = Cursor::default();
        behind.appended(&waiting(5));
        assert!(behind.upcoming.is_empty(), "the head, 0, is not this one");
        cursor.drop_stale(Offset(40));
        assert_eq!(cursor.refill_range(Offset(32), Offset(100)), (Offset(32), UPCOMING_MAX));
    }
}
