//! A resume storm: many suspensions end within one second. How long is the scheduler busy at each wake, and how late
//! are lite topics back?

use std::time::Duration;

use hdrhistogram::Histogram;
use rand::RngExt as _;
use serde::Serialize;
use sluicegate_protocol::{TenantId, Timestamp};
use sluicegate_scheduler::{Decision, Ending, Event, HoldSource, Scheduler, Scope, SessionKey};

use super::super::measure;
use super::population::{self, Population, START, lite_id};
use crate::output;

/// Suspensions end within this time, evenly spread.
const STORM: Duration = Duration::from_secs(1);
/// Before the first of them ends.
const CALM: Duration = Duration::from_secs(1);
/// Time between two ticks.
const TICK: Duration = Duration::from_millis(1);
/// Decisions of one turn: an owner looks at its mailbox then.
const DECISIONS_PER_TURN: usize = 256;
/// Turns in one wake after which a scheduler that still names no later time has no end.
const TURNS_MAX: u32 = 100_000;
/// The session that takes what is ready.
const SESSION: SessionKey = SessionKey(1);

/// When the owner wakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Wakes {
    /// Every millisecond.
    Ticks,
    /// When the scheduler says.
    Timeouts,
}

/// What becomes of those that are back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Then {
    /// Nobody has room: they wait.
    Wait,
    /// Delivered and settled at once.
    Served,
}

/// One storm.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Row {
    suspended: u32,
    then: Then,
    wake_by: Wakes,
    wakes: u64,
    /// Longest turn: from a poll until there was nothing more to do, or enough was done.
    turn_ms_max: f64,
    /// Work at one moment of the scheduler's time, all turns together.
    wake_ms_p50: f64,
    wake_ms_p99: f64,
    wake_ms_max: f64,
    /// From the end of a suspension to the wake that ended it, in the scheduler's time.
    late_ms_p99: f64,
    late_ms_max: f64,
}

pub(super) fn measure(population: &Population) -> Vec<Row> {
    let cases = [
        (Then::Wait, Wakes::Ticks),
        (Then::Wait, Wakes::Timeouts),
        (Then::Served, Wakes::Ticks),
        (Then::Served, Wakes::Timeouts),
    ];
    cases.map(|(then, wakes)| Storm::new(population, then).run(wakes)).into()
}

struct Storm {
    scheduler: Scheduler,
    then: Then,
    /// When suspensions end, in order.
    ends: Vec<Timestamp>,
    ended: usize,
    late: Histogram<u64>,
}

impl Storm {
    fn new(population: &Population, then: Then) -> Self {
        let mut rng = population.rng();
        let mut scheduler = population::scheduler();
        let first = START.plus(CALM);
        let mut ends = Vec::with_capacity(population.lite_topics() as usize);
        for lite in population.shuffled() {
            let tenant = TenantId(u64::from(population.tenant(lite)));
            let until = first.plus(rng.random_range(Duration::ZERO..STORM));
            ends.push(until);
            scheduler.handle(START, Event::Held { lite: lite_id(lite), tenant, source: HoldSource::Settle, until });
            scheduler.handle(START, population.head(lite, population::cost(&mut rng)));
        }
        ends.sort_unstable();
        if then == Then::Served {
            scheduler.handle(START, Event::Attached(SESSION, Scope::All));
            scheduler.handle(START, Event::Credit(SESSION, 1));
        }
        Self { scheduler, then, ends, ended: 0, late: histogram() }
    }

    fn run(mut self, wakes: Wakes) -> Row {
        let mut work = histogram();
        let mut turn_max = Duration::ZERO;
        let mut now = START.plus(CALM);
        loop {
            let mut wake = Duration::ZERO;
            for turns in 0.. {
                assert!(turns < TURNS_MAX, "the scheduler names no time later than {now}");
                let start = measure::now();
                let is_done = self.turn(now);
                let turn = start.elapsed();
                wake += turn;
                turn_max = turn_max.max(turn);
                if is_done && self.scheduler.next_timeout().is_none_or(|at| at > now) {
                    break;
                }
            }
            work.saturating_record(nanos(wake));
            self.note_ended(now);
            if self.ended == self.ends.len() {
                break;
            }
            now = match wakes {
                Wakes::Ticks => now.plus(TICK),
                Wakes::Timeouts => self.scheduler.next_timeout().expect("suspensions are left to end"),
            };
        }
        Row {
            suspended: u32::try_from(self.ends.len()).expect("lite topics are numbered by u32"),
            then: self.then,
            wake_by: wakes,
            wakes: work.len(),
            turn_ms_max: millis(nanos(turn_max)),
            wake_ms_p50: millis(work.value_at_quantile(0.5)),
            wake_ms_p99: millis(work.value_at_quantile(0.99)),
            wake_ms_max: millis(work.max()),
            late_ms_p99: millis(self.late.value_at_quantile(0.99)),
            late_ms_max: millis(self.late.max()),
        }
    }

    /// What an owner does in a turn: polls until there is nothing more (true), or it has done enough to look at its mailbox.
    fn turn(&mut self, now: Timestamp) -> bool {
        for _ in 0..DECISIONS_PER_TURN {
            let Some(decision) = self.scheduler.poll(now) else { return true };
            let Decision::Deliver { lite, charge, .. } = decision else { unreachable!("there is no policy") };
            let ending = Ending::done(None, Duration::from_millis(1));
            self.scheduler.handle(now, Event::Settled { lite, charge, ending });
            self.scheduler.handle(now, Event::Credit(SESSION, 1));
        }
        false
    }

    /// Suspensions end in the order of their times, so the count says which.
    fn note_ended(&mut self, now: Timestamp) {
        let held = usize::try_from(self.scheduler.stats().held).expect("as many as there are lite topics");
        let ended = self.ends.len() - held;
        for &end in &self.ends[self.ended..ended] {
            assert!(end <= now, "a suspension ended before its time");
            self.late.saturating_record(nanos(now.since(end)));
        }
        self.ended = ended;
    }
}

pub(super) fn text(rows: &[Row]) -> String {
    let mut table = output::table(&[
        "SUSPENDED",
        "THEN",
        "WAKES BY",
        "WAKES",
        "TURN ms MAX",
        "WAKE ms P50",
        "P99",
        "MAX",
        "LATE ms P99",
        "MAX",
    ]);
    for row in rows {
        let ms = |value: f64| format!("{value:.3}");
        table.add_row([
            row.suspended.to_string(),
            format!("{:?}", row.then).to_lowercase(),
            format!("{:?}", row.wake_by).to_lowercase(),
            row.wakes.to_string(),
            ms(row.turn_ms_max),
            ms(row.wake_ms_p50),
            ms(row.wake_ms_p99),
            ms(row.wake_ms_max),
            ms(row.late_ms_p99),
            ms(row.late_ms_max),
        ]);
    }
    format!("{table}\ngoals for 1M: a turn of at most 5 ms, late by at most 2 ms at p99")
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are in order")
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn millis(nanos: u64) -> f64 {
    nanos as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::super::population::{Shape, Tenants};
    use super::*;

    #[test]
    fn every_suspension_ends_in_time_however_the_owner_wakes() {
        let rows = measure(&Population::new(2_000, Tenants::Each, Shape::Uniform, 1));
        assert_eq!(rows.len(), 4);
        for row in rows {
            let late_max = if row.wake_by == Wakes::Ticks { 1.01 } else { 0.01 };
            assert!(row.late_ms_max <= late_max, "{row:?}");
        }
    }
}
