//! What was measured, and how it reads.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::cases::{Case, Turn};
use super::end_to_end::Ratio;
use crate::output;

/// Figures of one run.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) policies: Vec<Cost>,
    pub(super) swap_us: Swap,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end_to_end: Option<Vec<Ratio>>,
}

/// What a policy takes with frames of one size, its feedback included.
#[derive(Debug, Serialize)]
pub(super) struct Cost {
    name: &'static str,
    /// Rows of a frame.
    frame: usize,
    /// Median over the turns.
    ns_per_lite_topic: f64,
    /// Of the fastest turn.
    ns_min: f64,
    /// Median over the rounds of how often it took as long as the Wasm no-op in the same round.
    times_no_op: f64,
    /// Wasm instructions, roughly: the same on every machine. 0 for the native no-op.
    fuel_per_lite_topic: f64,
}

impl Cost {
    pub(super) fn of(case: &Case, frame: usize, no_op: &[Turn]) -> Self {
        let ns = || case.turns.iter().map(|turn| turn.ns);
        let times = case.turns.iter().zip(no_op).map(|(turn, no_op)| turn.ns / no_op.ns);
        let fuel = case.turns.iter().map(|turn| turn.fuel);
        Self {
            name: case.name,
            frame,
            ns_per_lite_topic: to(10.0, median(ns())),
            ns_min: to(10.0, ns().fold(f64::INFINITY, f64::min)),
            times_no_op: to(100.0, median(times)),
            fuel_per_lite_topic: to(10.0, median(fuel)),
        }
    }
}

/// What it takes to make an instance that goes on from a state, in microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Swap {
    p50: f64,
    p99: f64,
    swaps: usize,
}

impl Swap {
    pub(super) fn of(mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        let at = |hundredth: usize| {
            to(10.0, taken[(taken.len() * hundredth / 100).min(taken.len() - 1)].as_secs_f64() * 1e6)
        };
        Self { p50: at(50), p99: at(99), swaps: taken.len() }
    }
}

pub(super) fn text(figures: &Figures) -> String {
    let mut table = output::table(&["POLICY", "FRAME", "ns/LITE TOPIC", "ns MIN", "x NO-OP", "FUEL"]);
    for cost in &figures.policies {
        table.add_row([
            cost.name.to_owned(),
            cost.frame.to_string(),
            format!("{:.1}", cost.ns_per_lite_topic),
            format!("{:.1}", cost.ns_min),
            format!("{:.2}", cost.times_no_op),
            format!("{:.0}", cost.fuel_per_lite_topic),
        ]);
    }
    let Swap { p50, p99, swaps } = figures.swap_us;
    let mut text = format!("{table}\na swap: p50 {p50:.0} µs, p99 {p99:.0} µs, of {swaps}");
    for Ratio { name, ratio, with_per_s, without_per_s } in figures.end_to_end.iter().flatten() {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\nend to end with {name}: {:.1} %, {with_per_s:.0} messages/s against {without_per_s:.0}",
            ratio * 100.0
        );
    }
    text
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    super::super::median(values.collect())
}

/// Rounded to a part of this.
fn to(parts: f64, value: f64) -> f64 {
    (value * parts).round() / parts
}
