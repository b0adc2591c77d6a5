//! Panels one below the other: lines over time, with and without a policy.

use plotters::prelude::*;

use super::picture::{self, Area, GRID, Ink, MUTED, TEXT, chart_over_time, ink, legend, thousands, titled};
use super::series::Points;

const PANEL_HEIGHT: u32 = 320;
/// Seconds of a run from which its scale is in minutes.
const MINUTES_FROM: f64 = 280.0;

pub(crate) const WITHOUT: Ink = ink(4, "without", "#c2571a", "#f0904f");
pub(crate) const WITH: Ink = ink(5, "with", "#0d8a7b", "#3cc8b4");
/// A third that is neither.
pub(crate) const OTHER: Ink = ink(6, "other", "#6d5bd0", "#a99cf5");
/// What was promised or offered.
pub(crate) const BOUND: Ink = ink(7, "bound", "#5b6b7c", "#a3b1c0");

const INKS: [&Ink; 7] = [&TEXT, &MUTED, &GRID, &WITHOUT, &WITH, &OTHER, &BOUND];

/// A line over time.
pub(crate) struct Line {
    pub(crate) label: &'static str,
    pub(crate) ink: &'static Ink,
    pub(crate) points: Points,
}

/// A diagram over the seconds of a run.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// What its scale counts, with the unit.
    pub(crate) note: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// A line with its name in the legend.
pub(crate) fn line(label: &'static str, ink: &'static Ink, points: Points) -> Line {
    Line { label, ink, points }
}

/// The panels as one picture that stands alone.
pub(crate) fn draw(panels: &[Panel]) -> String {
    let count = panels.len();
    let height = PANEL_HEIGHT * u32::try_from(count).expect("few");
    let svg = picture::draw(height, &INKS, |area| {
        panels.iter().zip(area.split_evenly((count, 1))).try_for_each(|(panel, area)| draw_panel(panel, &area))
    });
    svg.and_then(|svg| picture::alone(&svg, &INKS)).expect("a string takes all")
}

fn draw_panel(panel: &Panel, area: &Area<'_>) -> anyhow::Result<()> {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let last = points().map(|(second, _)| *second).fold(1.0, f64::max);
    let highest = points().map(|(_, value)| *value).fold(1.0, f64::max) * 1.1;
    titled(area, panel.title, panel.note);
    let (unit, clock): (f64, fn(f64) -> String) = if last < MINUTES_FROM { (1.0, seconds) } else { (60.0, minutes) };
    let mut chart = chart_over_time(area, last / unit, clock, 0.0..highest, (6, rounded))?;
    for Line { ink, points, .. } in &panel.lines {
        let line = points.iter().map(|(second, value)| (second / unit, *value));
        chart.draw_series(LineSeries::new(line, ink.marker.stroke_width(2)))?;
    }
    let named: Vec<_> = panel.lines.iter().map(|line| (line.label, line.ink)).collect();
    legend(area, &named)
}

fn seconds(at: f64) -> String {
    format!("{} s", rounded(at))
}

fn minutes(at: f64) -> String {
    format!("{} min", rounded(at))
}

fn rounded(value: f64) -> String {
    if value < 10.0 { format!("{}", (value * 100.0).round() / 100.0) } else { thousands(value) }
}
