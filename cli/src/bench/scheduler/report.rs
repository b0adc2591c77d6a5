//! One row for each number of lite topics.

use serde::Serialize;

use super::decisions;
use super::memory::Bytes;
use super::population::Shape;
use crate::output::{self, or_dash};

/// What the child processes of one row measured.
pub(super) struct Row {
    pub(super) lite_topics: u32,
    pub(super) shape: Shape,
    pub(super) seed: u64,
    pub(super) decisions: decisions::Figures,
    pub(super) ready: Bytes,
    pub(super) held: Bytes,
}

/// What is printed. Bytes are `null` where the system does not say how much memory a process uses.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    lite_topics: u32,
    decisions_per_s: f64,
    ns_p50: f64,
    ns_p99: f64,
    bytes_per_ready: Option<f64>,
    bytes_per_held: Option<f64>,
    bytes_per_idle: Option<f64>,
    max_service_gap: Option<u64>,
    jain: f64,
    max_service_gap_bound: u64,
    tenants: u32,
    always_eligible_tenants: u32,
    shape: Shape,
    seed: u64,
    decisions: u64,
}

impl Row {
    pub(super) fn figures(&self) -> Figures {
        let Self { lite_topics, shape, seed, decisions, ready, held } = self;
        Figures {
            lite_topics: *lite_topics,
            decisions_per_s: decisions.decisions_per_s.round(),
            ns_p50: to_tenth(decisions.ns_p50),
            ns_p99: to_tenth(decisions.ns_p99),
            bytes_per_ready: ready.full.map(to_tenth),
            bytes_per_held: held.full.map(to_tenth),
            bytes_per_idle: ready.idle.map(to_tenth),
            max_service_gap: decisions.fairness.max_service_gap,
            jain: decisions.fairness.jain,
            max_service_gap_bound: decisions.fairness.max_service_gap_bound,
            tenants: decisions.fairness.tenants,
            always_eligible_tenants: decisions.fairness.always_eligible,
            shape: *shape,
            seed: *seed,
            decisions: decisions.decisions,
        }
    }
}

pub(super) fn text(rows: &[Figures]) -> String {
    let mut table = output::table(&[
        "LITE TOPICS",
        "TENANTS",
        "DECISIONS/s",
        "ns P50",
        "ns P99",
        "BYTES/READY",
        "BYTES/HELD",
        "BYTES/IDLE",
        "GAP",
        "BOUND",
        "JAIN",
    ]);
    for row in rows {
        let bytes = |value: Option<f64>| value.map_or_else(|| "unsupported".to_owned(), |value| format!("{value:.0}"));
        table.add_row([
            row.lite_topics.to_string(),
            row.tenants.to_string(),
            format!("{:.0}", row.decisions_per_s),
            format!("{:.0}", row.ns_p50),
            format!("{:.0}", row.ns_p99),
            bytes(row.bytes_per_ready),
            bytes(row.bytes_per_held),
            bytes(row.bytes_per_idle),
            or_dash(row.max_service_gap),
            row.max_service_gap_bound.to_string(),
            format!("{:.4}", row.jain),
        ]);
    }
    table.to_string()
}

fn to_tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
