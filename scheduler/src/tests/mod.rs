//! Behaviour of the whole scheduler, in virtual time.

mod bands;
mod bench;
mod explain;
mod fairness;
mod histories;
mod holds;
mod lites;
mod policies;
mod quotas;
mod routes;
mod sessions;
mod watchdog;

use crate::band::{Bands, Reach};
use crate::lite::Place;
use crate::scheduler::Scheduler;

/// Every structure agrees with the entries, and every count with what it counts.
pub(crate) fn check_invariants(scheduler: &Scheduler) {
    let lites = &scheduler.lites;
    Bands::check_invariants(&scheduler.bands, &scheduler.sessions, &scheduler.tenants, lites);
    scheduler.sessions.check_invariants(lites);
    scheduler.asks.check_invariants(lites);
    let count = |is: &dyn Fn(Place) -> bool| lites.iter().filter(|(_, row)| is(row.place)).count();
    let stats = scheduler.stats();
    assert_eq!(stats.ready, count(&|place| matches!(place, Place::Ready(_))) as u64);
    assert_eq!(stats.held, count(&|place| matches!(place, Place::Held(_))) as u64);
    assert_eq!(stats.asking, count(&|place| place == Place::Asking) as u64);
    assert_eq!(scheduler.timers.len(), count(&|place| matches!(place, Place::Held(_))));
    assert_eq!(scheduler.full.len(), count(&|place| place == Place::InFlight));
    assert_eq!(scheduler.idle.len(), count(&|place| place == Place::Idle));
    assert_eq!(scheduler.sessions.parked_len(), count(&|place| matches!(place, Place::Parked(_))));
    assert_eq!(count(&|place| place == Place::New), 0);
    assert_eq!(stats.waiting, lites.iter().filter(|(_, row)| row.has_head()).count() as u64);
    assert_eq!(stats.backlog, lites.iter().map(|(_, row)| u64::from(row.backlog)).sum::<u64>());
    assert_eq!(stats.in_flight, lites.iter().map(|(_, row)| u64::from(row.open)).sum::<u64>());
    let waits = |place| matches!(place, Place::Ready(_) | Place::Asking | Place::Parked(_));
    assert_eq!(scheduler.waiters.len(), count(&|place| waits(place)));
    for (_, row) in lites.iter() {
        assert_eq!(row.is_listed, waits(row.place));
        assert!(!row.is_listed || scheduler.waiters.contains(&row.wait()));
        match row.place {
            Place::Held(until) => assert!(scheduler.timers.contains(until, row.id)),
            Place::InFlight => assert!(row.open > 0 && scheduler.full.contains(&row.id)),
            Place::Idle => assert!(row.open == 0 && !row.has_head()),
            Place::Ready(_) | Place::Asking | Place::Parked(_) | Place::Refused => assert!(row.has_head()),
            Place::New => unreachable!(),
        }
    }
    for (key, tenant) in scheduler.tenants.iter() {
        let own = || lites.iter().filter(|(_, row)| row.tenant == key);
        assert_eq!(tenant.lites as usize, own().count());
        assert_eq!(tenant.waiting as usize, own().filter(|(_, row)| row.has_head()).count());
        assert_eq!(tenant.in_flight, own().map(|(_, row)| row.open).sum::<u32>());
    }
}

/// After `poll` said that there is nothing to do, there is nothing that it could have done.
pub(crate) fn check_nothing_to_do(scheduler: &Scheduler) {
    check_invariants(scheduler);
    if let Some(timeout) = scheduler.next_timeout() {
        let many_due = scheduler.timers.len() >= 256;
        assert!(timeout > scheduler.now || many_due, "nothing to do, but a timer is due");
    }
    let capacity = scheduler.capacity();
    let may_deliver = !scheduler.paused && scheduler.in_flight < capacity && scheduler.sessions.any_credit();
    if may_deliver && scheduler.stats().gate.is_none() && !scheduler.asks.far_behind() {
        assert_eq!(
            scheduler.bands.choose(Reach::of(&scheduler.sessions)),
            None,
            "something is ready and could have been delivered"
        );
    }
    if !scheduler.paused && scheduler.asks.deadline().is_none() {
        assert_eq!(scheduler.stats().asking, 0, "rows wait for an ask and none is outstanding");
    }
}
