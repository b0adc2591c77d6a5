//! What lite topics cost in memory, by what the operating system says of this process.
//!
//! Everything counts: rows, indexes, what vectors and maps reserve and touch, what the allocator keeps.

use std::time::Duration;

use rand::RngExt as _;
use serde::{Deserialize, Serialize};
use sluicegate_protocol::TenantId;
use sluicegate_scheduler::{Decision, Ending, Event, HoldSource, Scope, SessionKey};

use super::population::{self, Population, START, lite_id};

/// Set for the measuring process: the allocator returns what is freed at once, not some time later.
pub(super) const RETURN_FREED_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "0");
/// Suspensions end this long after the start, at different times.
const HELD_FOR: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(1);

/// Bytes by lite topic; `None` where the system does not say how much memory a process uses.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Bytes {
    /// With every lite topic in the state that was asked for.
    pub(super) full: Option<f64>,
    /// After every message was delivered and settled.
    pub(super) idle: Option<f64>,
}

/// All lite topics have a message that may start; then all are served.
pub(super) fn of_ready(population: &Population) -> Bytes {
    let (order, mut rng) = (population.shuffled(), population.rng());
    let since = Since::now(population);
    let mut scheduler = population::scheduler();
    for lite in order {
        scheduler.handle(START, population.head(lite, population::cost(&mut rng)));
    }
    let full = since.bytes_by_lite_topic();
    let session = SessionKey(1);
    scheduler.handle(START, Event::Attached(session, Scope::All));
    scheduler.handle(START, Event::Credit(session, 1));
    while let Some(Decision::Deliver { lite, charge, .. }) = scheduler.poll(START) {
        let ending = Ending::done(None, Duration::from_millis(1));
        scheduler.handle(START, Event::Settled { lite, charge, ending });
        scheduler.handle(START, Event::Credit(session, 1));
    }
    assert_eq!(scheduler.stats().waiting, 0, "all are settled");
    Bytes { full, idle: since.bytes_by_lite_topic() }
}

/// All lite topics have a message and are suspended, until different times.
pub(super) fn of_held(population: &Population) -> Bytes {
    let (order, mut rng) = (population.shuffled(), population.rng());
    let since = Since::now(population);
    let mut scheduler = population::scheduler();
    for lite in order {
        let tenant = TenantId(u64::from(population.tenant(lite)));
        let until = START.plus(rng.random_range(HELD_FOR));
        scheduler.handle(START, Event::Held { lite: lite_id(lite), tenant, source: HoldSource::Settle, until });
        scheduler.handle(START, population.head(lite, population::cost(&mut rng)));
    }
    assert_eq!(scheduler.stats().held, u64::from(population.lite_topics()), "all are held");
    Bytes { full: since.bytes_by_lite_topic(), idle: None }
}

/// Memory of this process before there was a scheduler.
struct Since {
    resident_bytes: Option<u64>,
    lite_topics: u32,
}

impl Since {
    fn now(population: &Population) -> Self {
        Self { resident_bytes: resident_bytes(), lite_topics: population.lite_topics() }
    }

    fn bytes_by_lite_topic(&self) -> Option<f64> {
        let more = resident_bytes()?.saturating_sub(self.resident_bytes?);
        Some(more as f64 / f64::from(self.lite_topics))
    }
}

fn resident_bytes() -> Option<u64> {
    crate::broker_process::resident_bytes("/proc/self/status")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn touched_memory_is_resident() {
        // Other tests of this process give memory back meanwhile, and leave some that is taken again: so no difference is taken.
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        let resident = resident_bytes().unwrap();
        drop(touched);
        assert!((64 << 20..64 << 30).contains(&resident), "{resident} bytes");
    }
}
