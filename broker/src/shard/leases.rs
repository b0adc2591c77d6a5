//! The open leases of one cursor, and where each is written.

use std::collections::VecDeque;

use sluicegate_protocol::{LeaseToken, Offset, SessionId, Timestamp};
use sluicegate_scheduler::Charge;

use super::cursor::Waiting;
use crate::store::{LeaseRow, OpenLease};

/// Leases that are written in the row of their cursor: it is written anyway when they begin and end. More have rows of
/// their own, so that a cursor's row stays small.
const IN_CURSOR_MAX: usize = 2;

/// A delivery in flight.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) session: SessionId,
    pub(crate) attempt: u32,
    pub(crate) deadline: Timestamp,
    pub(crate) token: LeaseToken,
    pub(crate) dispatched_at: Timestamp,
    pub(crate) charge: Charge,
    /// The message, to wait again if it comes back. Absent after a restart.
    pub(crate) message: Option<Waiting>,
    /// Where it is written, for as long as it is open.
    pub(crate) place: LeasePlace,
    /// Nobody wants its outcome any more. Not written.
    pub(crate) cancelled: bool,
}

/// Which row holds a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeasePlace {
    /// That of its cursor.
    Cursor,
    /// One of its own.
    OwnRow,
}

/// Open leases by offset. Few are open at once, and most that begin are the highest: a sorted queue does.
#[derive(Debug, Default)]
pub(super) struct Leases {
    open: VecDeque<(u64, Lease)>,
    in_cursor: usize,
}

impl Leases {
    pub(super) fn from_rows(rows: &[OpenLease]) -> Self {
        let mut leases = Self::default();
        for row in rows {
            leases.insert(row.offset, Lease::from_row(&row.lease, LeasePlace::Cursor));
        }
        leases
    }

    pub(super) fn rows_in_cursor(&self) -> Vec<OpenLease> {
        let in_cursor = self.open.iter().filter(|(_, lease)| lease.place == LeasePlace::Cursor);
        in_cursor.map(|(offset, lease)| OpenLease { offset: *offset, lease: lease.to_row() }).collect()
    }

    pub(super) fn next_place(&self) -> LeasePlace {
        if self.in_cursor < IN_CURSOR_MAX { LeasePlace::Cursor } else { LeasePlace::OwnRow }
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Offset, &Lease)> {
        self.open.iter().map(|(offset, lease)| (Offset(*offset), lease))
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.find(offset).is_ok()
    }

    pub(super) fn get(&self, offset: u64) -> Option<&Lease> {
        self.find(offset).ok().map(|at| &self.open[at].1)
    }

    pub(super) fn get_mut(&mut self, offset: u64) -> Option<&mut Lease> {
        self.find(offset).ok().map(|at| &mut self.open[at].1)
    }

    pub(super) fn insert(&mut self, offset: u64, lease: Lease) {
        let Err(at) = self.find(offset) else { panic!("offset {offset} was leased twice") };
        if lease.place == LeasePlace::Cursor {
            self.in_cursor += 1;
        }
        if self.open.is_empty() {
            // With the default concurrency there is never a second one.
            self.open.reserve_exact(1);
        }
        self.open.insert(at, (offset, lease));
    }

    pub(super) fn remove(&mut self, offset: u64) -> Option<Lease> {
        let (_, lease) = self.open.remove(self.find(offset).ok()?)?;
        if lease.place == LeasePlace::Cursor {
            self.in_cursor -= 1;
        }
        if self.open.is_empty() {
            self.open.shrink_to(1);
        }
        Some(lease)
    }

    /// Where the offset is, or where it would go.
    fn find(&self, offset: u64) -> Result<usize, usize> {
        match self.open.back() {
            Some((last, _)) if *last >= offset => self.open.binary_search_by_key(&offset, |(offset, _)| *offset),
            Some(_) | None => Err(self.open.len()),
        }
    }
}

impl Lease {
    /// The lease in a row, without its message.
    pub(super) fn from_row(row: &LeaseRow, place: LeasePlace) -> Self {
        Self {
            session: SessionId(u128::from(row.session_high) << 64 | u128::from(row.session_low)),
            attempt: row.attempt,
            deadline: Timestamp(row.deadline_us),
            token: LeaseToken { epoch: row.token_epoch, counter: row.token_counter },
            dispatched_at: Timestamp(row.dispatched_at_us),
            charge: Charge {
                cost: row.charge_cost,
                band: u8::try_from(row.charge_band).unwrap_or_default(),
                weight: row.charge_weight.max(1),
            },
            message: None,
            place,
            cancelled: false,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the second half of the id")]
    pub(super) fn to_row(&self) -> LeaseRow {
        LeaseRow {
            session_high: (self.session.0 >> 64) as u64,
            session_low: self.session.0 as u64,
            attempt: self.attempt,
            deadline_us: self.deadline.0,
            token_epoch: self.token.epoch,
            token_counter: self.token.counter,
            dispatched_at_us: self.dispatched_at.0,
            charge_cost: self.charge.cost,
            charge_band: self.charge.band.into(),
            charge_weight: self.charge.weight,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(number: u64, place: LeasePlace) -> Lease {
        Lease {
            session: SessionId(u128::from(number) << 60 | 7),
            attempt: 3,
            deadline: Timestamp(number),
            token: LeaseToken { epoch: 2, counter: number },
            dispatched_at: Timestamp(number / 2),
            charge: Charge { cost: number, band: 4, weight: 9 },
            message: None,
            place,
            cancelled: false,
        }
    }

    proptest! {
        #[test]
        fn leases_are_found_by_offset_in_order_and_survive_the_cursors_row(
            changes in proptest::collection::vec((0_u64..12, any::<bool>()), 0..80)
        ) {
            let (mut leases, mut model) = (Leases::default(), std::collections::BTreeMap::new());
            for (number, (offset, begins)) in changes.into_iter().enumerate() {
                if begins && !leases.contains(offset) {
                    let lease = lease(number as u64, leases.next_place());
                    model.insert(offset, lease.token);
                    leases.insert(offset, lease);
                } else if !begins {
                    prop_assert_eq!(leases.remove(offset).map(|lease| lease.token), model.remove(&offset));
                }
                let open: Vec<_> = leases.iter().map(|(offset, lease)| (offset.0, lease.token)).collect();
                prop_assert_eq!(open, model.iter().map(|(&offset, &token)| (offset, token)).collect::<Vec<_>>());
                let rows = leases.rows_in_cursor();
                let alone = leases.iter().filter(|(_, lease)| lease.place == LeasePlace::OwnRow).count();
                prop_assert_eq!((rows.len() + alone, rows.len() <= IN_CURSOR_MAX), (leases.len(), true));
                prop_assert_eq!(Leases::from_rows(&rows).rows_in_cursor(), rows);
            }
        }
    }
}
