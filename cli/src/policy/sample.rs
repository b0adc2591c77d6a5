//! Frames as a busy group asks them: to see what a policy takes.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use sluicegate_broker::policy_lab::{PolicyFault, Telling, Trial};
use sluicegate_protocol::{LiteId, Offset, TenantId};
use sluicegate_scheduler::simulation::{Named, START};
use sluicegate_scheduler::{Ask, Feedback, Frame, GroupView, LiteView, Plan, TenantView, WorkResult};

/// Rows of the frames.
const ROWS: [usize; 3] = [1, 16, Ask::LITES_MAX];
/// Frames of each size; the first ones, in which names are told, do not count.
const FRAMES: u64 = 20;
const WARM_UP_FRAMES: u64 = 4;
/// Lite topics of one tenant.
const LITES_PER_TENANT: u64 = 4;

/// What a policy takes for one row of frames of this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Fuel {
    /// Rows in a frame, with feedback for as many deliveries.
    pub(super) frame: usize,
    /// Mean over frames, rounded up.
    pub(super) per_lite_topic: u64,
}

/// Asks a policy with frames of each size.
///
/// # Errors
/// It fails.
pub(super) fn fuel(mut start: impl FnMut() -> anyhow::Result<Trial>) -> anyhow::Result<Vec<Fuel>> {
    let mut measured = Vec::new();
    for frame in ROWS {
        let mut trial = start()?;
        let (mut group, mut fuel) = (Group::default(), 0);
        for nth in 0..FRAMES {
            group.ask(&mut trial, frame)?;
            fuel += if nth < WARM_UP_FRAMES { 0 } else { trial.fuel_used() };
        }
        let rows = (FRAMES - WARM_UP_FRAMES) * frame as u64;
        measured.push(Fuel { frame, per_lite_topic: fuel.div_ceil(rows) });
    }
    Ok(measured)
}

/// Lite topics whose heads are delivered one after the other, ten milliseconds between two frames.
#[derive(Debug, Default)]
struct Group {
    frames: u64,
    memos: BTreeMap<u64, u64>,
}

impl Group {
    fn ask(&mut self, trial: &mut Trial, rows: usize) -> Result<(), PolicyFault> {
        let ask = self.next(rows as u64);
        let plan: Plan = trial.ask(&ask, &mut Numbered)?;
        self.memos = ask.frame.lites.iter().zip(&plan.lites).map(|(row, answer)| (row.lite.0, answer.memo)).collect();
        Ok(())
    }

    fn next(&mut self, rows: u64) -> Ask {
        let nth = self.frames;
        self.frames += 1;
        let now = START.plus(Duration::from_millis(10) * u32::try_from(nth).unwrap_or(u32::MAX));
        let lite = |row: u64| LiteView {
            lite: LiteId(row + 1),
            tenant: u32::try_from(row / LITES_PER_TENANT).expect("a frame is small"),
            head_offset: Offset(nth),
            head_age: Duration::from_millis(10 * row),
            head_cost: 100 + row,
            priority: 4,
            expires_in: row.is_multiple_of(2).then(|| Duration::from_secs(1 + row)),
            backlog: 1 + row,
            in_flight: 0,
            attempts: 0,
            last_service: (nth > 0).then(|| Duration::from_millis(200)),
            memo: self.memos.get(&(row + 1)).copied().unwrap_or(0),
        };
        let tenant = |nth: u64| TenantView { tenant: TenantId(nth + 1), weight: 100, in_flight: 1, waiting: 4 };
        let feedback = |row: u64| Feedback {
            at: now,
            tenant: TenantId(row / LITES_PER_TENANT + 1),
            lite: LiteId(row + 1),
            wait: Some(Duration::from_millis(10 * row)),
            service: Duration::from_millis(200),
            cost_estimate: 100 + row,
            cost_measured: 90 + row,
            result: Some(WorkResult::Done),
            retry_after: None,
        };
        let frame = Frame {
            now,
            sequence: nth,
            seed: nth,
            group: GroupView {
                backlog: 1_000,
                in_flight: 10,
                capacity: 64,
                load_ppm: 500_000,
                messages_left: u64::MAX,
                cost_left: 1_000_000,
            },
            tenants: (0..rows.div_ceil(LITES_PER_TENANT)).map(tenant).collect(),
            lites: (0..rows).map(lite).collect(),
        };
        let settled = if nth == 0 { 0 } else { rows };
        Ask { feedback: (0..settled).map(feedback).collect(), frame }
    }
}

/// Tenants and lite topics that are called by their numbers; each head has each number.
pub(super) struct Numbered;

impl Telling for Numbered {
    fn tenant(&mut self, tenant: TenantId) -> Named {
        Named { name: format!("org/tenant-{tenant}"), labels: vec![("tier".into(), "gold".into())] }
    }

    fn lite(&mut self, lite: LiteId) -> Option<Named> {
        let class = if lite.0.is_multiple_of(2) { "batch" } else { "interactive" };
        Some(Named { name: format!("lite-{lite}"), labels: vec![("class".into(), class.into())] })
    }

    fn number(&mut self, lite: LiteId, _: &str) -> Option<u64> {
        Some(lite.0)
    }
}
