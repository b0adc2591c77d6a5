//! What policies are asked: the same questions for all, but for the memo words, which each has back as it left them.
//!
//! 1,024 tenants have 32 lite topics each. A frame has as many rows of feedback as it has lite topics, and a tenant for each eight of them.
//! One message in ten is urgent and one low; half have a deadline; a quarter of the lite topics are labelled as batch work, an eighth of the
//! tenants are on trial, a sixteenth gold. Of the deliveries nine in ten are done, some fail, few say for how long to be left alone.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_pcg::Pcg64Mcg;
use sluicegate_broker::policy_lab::Telling;
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::simulation::Named;
use sluicegate_scheduler::{Ask, Feedback, Frame, GroupView, LiteView, Plan, TenantView, Verdict, WorkResult};

/// When it starts.
pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);

const TENANTS: usize = 1_024;
const LITES_EACH: usize = 32;
/// Rows of one tenant in a frame, at most.
const ROWS_EACH: usize = 8;
/// Of a row: a hundred thousand decisions in a second.
const STEP: Duration = Duration::from_micros(10);
/// How long the consumers are busy, and then idle, and so on.
const SHIFT_US: u64 = 1_000_000;

/// The questions, one after the other.
pub(super) struct Traffic {
    rng: Pcg64Mcg,
    now: Timestamp,
    sequence: u64,
    /// Heads by lite topic.
    heads: Vec<Head>,
    introduced: usize,
    pub(super) names: Names,
}

/// Who is called what.
pub(super) struct Names;

#[derive(Debug, Clone, Copy, Default)]
struct Head {
    offset: u64,
    memo: u64,
}

impl Traffic {
    pub(super) fn new() -> Self {
        let heads = vec![Head::default(); TENANTS * LITES_EACH];
        Self { rng: Pcg64Mcg::seed_from_u64(1), now: START, sequence: 0, heads, introduced: 0, names: Names }
    }

    /// The next frame that introduces lite topics which were in none, if there are some left.
    pub(super) fn introduction(&mut self) -> Option<Ask> {
        let next = self.introduced..(self.introduced + Ask::LITES_MAX).min(self.heads.len());
        self.introduced = next.end;
        let lites: Vec<usize> = next.collect();
        (!lites.is_empty()).then(|| self.ask(&lites))
    }

    /// A frame with so many rows.
    pub(super) fn next(&mut self, rows: usize) -> Ask {
        let first = self.rng.random_range(0..TENANTS);
        let mut lites = Vec::with_capacity(rows);
        for row in 0..rows {
            let tenant = (first + row / ROWS_EACH) % TENANTS;
            // Each of a tenant's rows is of another part of its lite topics, so that none comes twice.
            let part = LITES_EACH / ROWS_EACH;
            let lite = row % ROWS_EACH * part + self.rng.random_range(0..part);
            lites.push(tenant * LITES_EACH + lite);
        }
        self.ask(&lites)
    }

    /// What was served has another head; what was held comes again.
    pub(super) fn answered(&mut self, ask: &Ask, plan: &Plan) {
        for (row, answer) in ask.frame.lites.iter().zip(&plan.lites) {
            let head = &mut self.heads[index(row.lite)];
            head.memo = answer.memo;
            if let Verdict::Serve { .. } = answer.verdict {
                head.offset += u64::from(self.rng.random_ratio(3, 4));
            }
        }
    }

    fn ask(&mut self, lites: &[usize]) -> Ask {
        self.now = self.now.plus(STEP * u32::try_from(lites.len()).expect("a frame has few rows"));
        self.sequence += 1;
        let mut tenants: Vec<TenantView> = Vec::new();
        let mut rows = Vec::with_capacity(lites.len());
        for &lite in lites {
            let tenant = tenant_of(lite);
            if tenants.last().is_none_or(|last| last.tenant != tenant) {
                let in_flight = self.rng.random_range(0..8);
                tenants.push(TenantView { tenant, weight: 100, in_flight, waiting: 20 });
            }
            rows.push(self.row(lite, tenants.len() - 1));
        }
        let feedback = lites.iter().map(|&lite| self.feedback(lite)).collect();
        let is_busy = (self.now.as_micros() / SHIFT_US).is_multiple_of(2);
        let load_ppm = if is_busy { 900_000 } else { 300_000 };
        let group = GroupView {
            backlog: 100_000,
            in_flight: 64,
            capacity: 64,
            load_ppm,
            messages_left: u64::MAX,
            cost_left: u64::MAX,
        };
        let frame = Frame { now: self.now, sequence: self.sequence, seed: 1, group, tenants, lites: rows };
        Ask { feedback, frame }
    }

    fn row(&mut self, lite: usize, tenant: usize) -> LiteView {
        let head = self.heads[lite];
        let deadline = Duration::from_micros(self.rng.random_range(100_000..60_000_000));
        LiteView {
            lite: id_of(lite),
            tenant: u32::try_from(tenant).expect("a frame has few tenants"),
            head_offset: Offset(head.offset),
            head_age: Duration::from_micros(self.rng.random_range(0..2_000_000)),
            head_cost: self.rng.random_range(1..=20),
            priority: [4, 4, 4, 4, 4, 4, 4, 4, 2, 8][self.rng.random_range(0..10)],
            expires_in: self.rng.random_bool(0.5).then_some(deadline),
            backlog: self.rng.random_range(1..10),
            in_flight: 0,
            attempts: 0,
            last_service: Some(Duration::from_micros(self.rng.random_range(10_000..200_000))),
            memo: head.memo,
        }
    }

    fn feedback(&mut self, lite: usize) -> Feedback {
        let cost_estimate = self.rng.random_range(1..=20);
        let result = match self.rng.random_range(0..100) {
            0..90 => Some(WorkResult::Done),
            90..94 => Some(WorkResult::Retried),
            94..96 => Some(WorkResult::TimedOut),
            _ => None,
        };
        let measured = cost_estimate * self.rng.random_range(80..=120) / 100;
        let is_asked = self.rng.random_ratio(1, 200);
        Feedback {
            at: self.now,
            tenant: tenant_of(lite),
            lite: id_of(lite),
            wait: Some(Duration::from_micros(self.rng.random_range(0..2_000_000))),
            service: Duration::from_micros(self.rng.random_range(10_000..200_000)),
            cost_estimate,
            cost_measured: if result.is_some() { measured } else { 0 },
            result,
            retry_after: is_asked.then_some(Duration::from_millis(500)),
        }
    }
}

impl Telling for Names {
    fn tenant(&mut self, tenant: TenantId) -> Named {
        let kind = if tenant.0.is_multiple_of(8) { "trial" } else { "org" };
        let labels = match tenant.0 % 16 {
            1 => vec![("tier".into(), "gold".into())],
            _ => Vec::new(),
        };
        Named { name: format!("{kind}/{}", tenant.0), labels }
    }

    fn lite(&mut self, lite: LiteId) -> Option<Named> {
        let labels = vec![("class".into(), "batch".into())];
        lite.0.is_multiple_of(4).then(|| Named { name: format!("session/{}", lite.0), labels })
    }

    fn number(&mut self, lite: LiteId, _: &str) -> Option<u64> {
        lite.0.is_multiple_of(8).then_some(lite.0 % 3)
    }
}

/// Ids as a broker gives them: rising, with gaps.
fn id_of(lite: usize) -> LiteId {
    LiteId(1_000 + 3 * lite as u64)
}

fn index(lite: LiteId) -> usize {
    usize::try_from((lite.0 - 1_000) / 3).expect("it came from an index")
}

fn tenant_of(lite: usize) -> TenantId {
    TenantId(500 + 5 * (lite / LITES_EACH) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_a_tenant_for_eight_rows_and_as_much_feedback_as_rows() {
        let mut traffic = Traffic::new();
        for (rows, tenants) in [(1, 1), (16, 2), (256, 32)] {
            let ask = traffic.next(rows);
            assert_eq!((ask.frame.lites.len(), ask.frame.tenants.len(), ask.feedback.len()), (rows, tenants, rows));
            let mut ids: Vec<_> = ask.frame.lites.iter().map(|row| row.lite).collect();
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), rows);
        }
    }

    #[test]
    fn every_lite_topic_is_introduced_once() {
        let mut traffic = Traffic::new();
        let asks = std::iter::from_fn(|| traffic.introduction());
        let lites: Vec<_> = asks.flat_map(|ask| ask.frame.lites).map(|row| index(row.lite)).collect();
        assert!(lites.iter().copied().eq(0..TENANTS * LITES_EACH));
    }
}
