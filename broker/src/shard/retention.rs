//! Topics whose messages are a log: the first ones go when they are too old, or too many bytes, settled or not.
//!
//! A message that somebody holds a lease of stays until the lease ends, and what comes after it.

use sluicegate_protocol::admin::{LogRetention, Retention};
use sluicegate_protocol::{LiteId, Offset, Timestamp};

use super::lite::Lite;
use super::position::{first_since, published_at};
use super::{Shard, lifecycle};
use crate::metrics::Skipped;
use crate::store::{DueKey, DueKind, DueRow, StoreError};

impl Lite {
    /// How much of it is kept, where what is settled is kept.
    pub(super) fn log(&self) -> Option<LogRetention> {
        match self.topic.settings.retention {
            Retention::Log(log) => Some(log),
            Retention::WorkQueue => None,
        }
    }

    /// The lowest offset that is leased in any group.
    fn first_lease(&self) -> Option<(Offset, Timestamp)> {
        let first =
            |cursor: &super::cursor::Cursor| cursor.leases().next().map(|(offset, lease)| (offset, lease.deadline));
        self.cursors.iter().filter_map(|(_, cursor)| first(cursor)).min()
    }
}

impl Shard {
    /// Deletes the messages of a lite topic that are too old, and sees to it that this is done again when the next one is.
    pub(super) fn trim_old(&mut self, key: &DueKey) -> Result<(), StoreError> {
        let (id, now) = (key.lite, self.ledger.stage.now());
        let Some(lite) = self.ledger.lite(id)? else { return Ok(()) };
        let Some(age) = lite.log().and_then(|log| log.age()) else { return Ok(()) };
        let (first, visible) = (lite.trimmed, lite.visible);
        let lease = lite.first_lease();
        let young_since = Timestamp(now.0.saturating_sub(u64::try_from(age.as_micros()).unwrap_or(u64::MAX)) + 1);
        let end = first_since(&self.ledger, id, young_since, (first, visible))?;
        let end_free = lease.map_or(end, |(leased, _)| leased.min(end));
        self.forget_before(id, end_free)?;
        let lite = self.ledger.open_lite(id);
        if lite.trimmed == lite.next_offset {
            return Ok(()); // The next message arms anew.
        }
        let again = match lease {
            Some((_, deadline)) if end_free < end => deadline,
            // What is not visible yet is younger than anything that is.
            Some(_) | None if end_free == visible => now.plus(age),
            Some(_) | None => published_at(&self.ledger, id, end_free)?.plus(age),
        };
        self.ledger.stage.arm((DueKind::Trim, id), again, DueRow::default());
        Ok(())
    }

    /// Deletes the first messages of a lite topic while all together have more bytes than are kept. The last one stays.
    pub(super) fn trim_bytes(&mut self, id: LiteId) -> Result<(), StoreError> {
        let lite = self.ledger.open_lite(id);
        let Some(bytes_max) = lite.log().and_then(|log| log.bytes) else { return Ok(()) };
        let Self { ledger, .. } = &mut *self;
        let lite = ledger.lites.get(id).expect("it was just looked at");
        let amount = lifecycle::kept(&ledger.stage, lite)?;
        if amount.bytes <= bytes_max || lite.visible.0 - lite.trimmed.0 <= 1 {
            return Ok(());
        }
        let last = lite.visible.0 - 1;
        let last = lite.first_lease().map_or(last, |(leased, _)| leased.0.min(last));
        // Most often the first message is enough; else half of what is left is looked at by turns.
        let enough_below = lite.end_position.saturating_sub(bytes_max);
        let (mut from, mut to) = (lite.trimmed.0 + 1, last);
        let mut middle = from;
        while from < to {
            match lifecycle::position(&ledger.stage, lite, Offset(middle))? >= enough_below {
                true => to = middle,
                false => from = middle + 1,
            }
            middle = from + (to - from) / 2;
        }
        self.forget_before(id, Offset(to))
    }

    /// Waiting or Settled -> (nothing), for all groups, which go on behind it.
    fn forget_before(&mut self, id: LiteId, end: Offset) -> Result<(), StoreError> {
        let Self { ledger, groups, .. } = &mut *self;
        let lite = ledger.lites.get(id).expect("it was just looked at");
        if end <= lite.trimmed {
            return Ok(());
        }
        let passed = lifecycle::removed(&mut ledger.stage, lite, end);
        for (group, unsettled) in passed {
            let Some(group) = groups.get_mut(&group) else { continue };
            group.meters.skipped(Skipped::Trimmed, unsettled);
            group.announce(ledger, id)?;
        }
        Ok(())
    }
}
