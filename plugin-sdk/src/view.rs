//! Named access to what a frame carries as plain numbers.

use std::time::Duration;

use crate::{Entity, Feedback, Frame, GroupView, LiteView, TenantView};

impl Frame {
    /// The tenant of a row of this frame.
    ///
    /// # Panics
    /// If the row is of another frame.
    #[must_use]
    pub fn tenant_of(&self, lite: &LiteView) -> &TenantView {
        &self.tenants[lite.tenant as usize]
    }

    /// The number that the head of row `row` has in its message property [`Descriptor::wants`](crate::Descriptor::wants)`[column]`, if it has one.
    #[must_use]
    pub fn number(&self, column: usize, row: usize) -> Option<u64> {
        let column = self.columns.iter().find(|known| known.key as usize == column)?;
        column.values.get(row).copied().filter(|value| *value != u64::MAX)
    }
}

impl GroupView {
    /// Deliveries that the group's quota in messages would allow at once, if it has one.
    #[must_use]
    pub fn messages_allowed(&self) -> Option<u64> {
        (self.messages_left != u64::MAX).then_some(self.messages_left)
    }

    /// Cost that the group's quota in cost would allow at once, if it has one.
    #[must_use]
    pub fn cost_allowed(&self) -> Option<u64> {
        (self.cost_left != u64::MAX).then_some(self.cost_left)
    }

    /// Leases that could be opened at once.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.capacity.saturating_sub(self.in_flight)
    }
}

impl LiteView {
    /// Since the head was published.
    #[must_use]
    pub fn head_age(&self) -> Duration {
        Duration::from_micros(self.head_age_us)
    }

    /// Until the head expires, if it does.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        known(self.expires_in_us)
    }

    /// Service time of the last settled message, after the first.
    #[must_use]
    pub fn last_service(&self) -> Option<Duration> {
        known(self.last_service_us)
    }
}

impl Entity {
    /// [`Entity::kind`]: a tenant.
    pub const TENANT: u32 = 1;
    /// [`Entity::kind`]: a lite topic that has labels.
    pub const LITE: u32 = 2;
    /// Most of a kind that an instance is taken to remember at once: what was told before is forgotten first.
    pub const TOLD_MAX: usize = 100_000;

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|label| label.key == key).map(|label| label.value.as_str())
    }
}

impl Feedback {
    /// [`Feedback::outcome`]: done.
    pub const DONE: u32 = 0;
    /// [`Feedback::outcome`]: it failed and is tried again.
    pub const RETRIED: u32 = 1;
    /// [`Feedback::outcome`]: dead-lettered.
    pub const DEAD_LETTERED: u32 = 2;
    /// [`Feedback::outcome`]: the lease ran out, or its session was lost.
    pub const TIMED_OUT: u32 = 3;
    /// [`Feedback::outcome`]: the message came back unused.
    pub const RETURNED: u32 = 4;

    /// The work was done.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.outcome == Self::DONE
    }

    /// The work was tried and did not succeed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        [Self::RETRIED, Self::DEAD_LETTERED, Self::TIMED_OUT].contains(&self.outcome)
    }

    /// The message came back unused: suspended, its consumer closed in order, or its lite topic went to another session.
    #[must_use]
    pub fn returned(&self) -> bool {
        self.outcome >= Self::RETURNED
    }

    /// From publish to delivery, if it is known.
    #[must_use]
    pub fn wait(&self) -> Option<Duration> {
        known(self.wait_us)
    }

    /// From delivery to settle.
    #[must_use]
    pub fn service(&self) -> Duration {
        Duration::from_micros(self.service_us)
    }

    /// How long what does the work asked to be left alone.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        known(self.retry_after_us)
    }
}

/// The maximum stands for none.
fn known(micros: u64) -> Option<Duration> {
    (micros != u64::MAX).then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_stands_for_none() {
        let group =
            GroupView { messages_left: u64::MAX, cost_left: 7, capacity: 3, in_flight: 5, ..GroupView::default() };
        assert_eq!((group.messages_allowed(), group.cost_allowed(), group.room()), (None, Some(7), 0));
        let lite = LiteView { expires_in_us: u64::MAX, last_service_us: 9, ..LiteView::default() };
        assert_eq!((lite.expires_in(), lite.last_service()), (None, Some(Duration::from_micros(9))));
        let frame = Frame { columns: vec![crate::Column { key: 1, values: vec![4, u64::MAX] }], ..Frame::default() };
        assert_eq!(
            [(1, 0), (1, 1), (1, 2), (0, 0)].map(|(column, row)| frame.number(column, row)),
            [Some(4), None, None, None]
        );
    }
}
