//! Which lite topics could run, and how long the group had room for them and did not serve them.

use std::time::Duration;

use sluicegate_protocol::{LiteId, TenantId, Timestamp};

/// A lite topic that waited although nothing stood in its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Starvation {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which lite topic.
    pub lite: LiteId,
    /// For how long it had a head, no lease and no hold, while the group and its tenant had room and the quotas could pay.
    pub lasted: Duration,
}

/// Measures it. The clock of a tenant runs while the group has room and the tenant is below its concurrency, so a lite topic needs
/// to be looked at only when it changes itself.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    /// How long the group had room, and since when it has some.
    room: Duration,
    room_since: Option<Timestamp>,
    tenants: Vec<Closure>,
    lites: Vec<Waiter>,
    longest: Option<Starvation>,
}

/// When a tenant was at its concurrency, by the clock of the group's room.
#[derive(Debug, Clone, Copy, Default)]
struct Closure {
    total: Duration,
    since: Option<Duration>,
}

/// One lite topic.
#[derive(Debug, Clone, Copy, Default)]
struct Waiter {
    is_ready: bool,
    /// By the clock of its tenant.
    since: Option<Duration>,
}

/// What a lite topic is at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) lite: LiteId,
    pub(super) row: usize,
    pub(super) tenant: TenantId,
    pub(super) tenant_row: usize,
    /// It has a head, is not held, and is below its concurrency.
    pub(super) is_ready: bool,
    /// It has open leases, so one session alone may serve it.
    pub(super) has_leases: bool,
}

impl Readiness {
    /// The group has room from now on, or has none.
    pub(super) fn set_room(&mut self, has_room: bool, now: Timestamp) {
        self.room = self.room_at(now);
        self.room_since = has_room.then_some(now);
    }

    /// The tenant is at its concurrency from now on, or is not.
    pub(super) fn set_closed(&mut self, tenant_row: usize, is_closed: bool, now: Timestamp) {
        let room = self.room_at(now);
        let closure = row_mut(&mut self.tenants, tenant_row);
        if let Some(since) = closure.since.take() {
            closure.total += room.saturating_sub(since);
        }
        closure.since = is_closed.then_some(room);
    }

    /// A lite topic changed. Answers whether it became ready, or is no longer, if either.
    pub(super) fn look(&mut self, look: Look, now: Timestamp) -> Option<bool> {
        let clock = self.clock_at(look.tenant_row, now);
        let waiter = row_mut(&mut self.lites, look.row);
        let has_turned = waiter.is_ready != look.is_ready;
        waiter.is_ready = look.is_ready;
        if look.is_ready && !look.has_leases {
            waiter.since.get_or_insert(clock);
        } else if let Some(since) = waiter.since.take() {
            let lasted = clock.saturating_sub(since);
            if self.longest.is_none_or(|longest| longest.lasted < lasted) {
                self.longest = Some(Starvation { tenant: look.tenant, lite: look.lite, lasted });
            }
        }
        has_turned.then_some(look.is_ready)
    }

    /// The longest of those that ended.
    pub(super) fn longest(&self) -> Option<Starvation> {
        self.longest.filter(|longest| !longest.lasted.is_zero())
    }

    fn room_at(&self, now: Timestamp) -> Duration {
        self.room + self.room_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    fn clock_at(&mut self, tenant_row: usize, now: Timestamp) -> Duration {
        let room = self.room_at(now);
        let Closure { total, since } = *row_mut(&mut self.tenants, tenant_row);
        since.unwrap_or(room).saturating_sub(total)
    }
}

/// The row, made with those before it if there is none.
fn row_mut<T: Default + Clone>(rows: &mut Vec<T>, row: usize) -> &mut T {
    if rows.len() <= row {
        rows.resize(row + 1, T::default());
    }
    &mut rows[row]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(is_ready: bool) -> Look {
        Look { lite: LiteId(1), row: 0, tenant: TenantId(1), tenant_row: 0, is_ready, has_leases: false }
    }

    #[test]
    fn only_time_with_room_counts() {
        let at = Timestamp::from_millis;
        let mut readiness = Readiness::default();
        assert_eq!(readiness.look(look(true), at(0)), Some(true));
        readiness.set_room(true, at(100));
        readiness.set_room(false, at(110));
        readiness.set_room(true, at(200));
        readiness.set_closed(0, true, at(205));
        readiness.set_closed(0, false, at(300));
        assert_eq!(readiness.look(look(true), at(301)), None);
        assert_eq!(readiness.look(look(false), at(302)), Some(false));
        let lasted = Duration::from_millis(10 + 5 + 2);
        assert_eq!(readiness.longest(), Some(Starvation { tenant: TenantId(1), lite: LiteId(1), lasted }));
    }
}
