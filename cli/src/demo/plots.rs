//! The report's pictures.

use anyhow::Context as _;
use plotters::prelude::*;
use sluicegate_protocol::Timestamp;

use super::ledger::{Ledger, Wait};
use super::summary::Percentiles;
use super::workload::{Class, Plan};
use crate::picture::{
    Area, GRID, Ink, MUTED, TEXT, alone, chart_over_time, decade, ink, label, legend, thousands, titled,
};

const WAITS_HEIGHT: u32 = 380;
const RATE_HEIGHT: u32 = 320;
/// The shortest wait that the logarithmic scale shows, in milliseconds.
const WAIT_MIN_MS: f64 = 0.1;

const GREEDY: Ink = ink(4, "greedy", "#c2571a", "#f0904f");
const REGULAR: Ink = ink(5, "regular", "#6d5bd0", "#a99cf5");
const LIGHT: Ink = ink(6, "light", "#0d8a7b", "#3cc8b4");
const SWAP: Ink = ink(7, "swap", "#b3124f", "#ff6b9d");
const INKS: [&Ink; 7] = [&TEXT, &MUTED, &GRID, &GREEDY, &REGULAR, &LIGHT, &SWAP];

const fn class_ink(class: Class) -> &'static Ink {
    match class {
        Class::Greedy => &GREEDY,
        Class::Regular => &REGULAR,
        Class::Light => &LIGHT,
    }
}

/// What the pictures show.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    /// What was to be done.
    pub(crate) plan: &'a Plan,
    /// What was done.
    pub(crate) ledger: &'a Ledger,
    /// When the policy took over.
    pub(crate) swap_at: Timestamp,
}

/// Definitions of the colours, for the page or a picture that stands alone.
pub(crate) fn colours() -> String {
    crate::picture::colours(&INKS)
}

/// Waits over time by tenant class.
///
/// # Errors
/// The picture cannot be drawn.
pub(crate) fn waits_svg(run: Run<'_>) -> anyhow::Result<String> {
    draw(WAITS_HEIGHT, |area| draw_waits(area, run))
}

/// Dispatch rate by tenant class against the quota.
///
/// # Errors
/// The picture cannot be drawn.
pub(crate) fn rate_svg(run: Run<'_>) -> anyhow::Result<String> {
    draw(RATE_HEIGHT, |area| draw_rate(area, run))
}

/// Both pictures in one that stands alone, for a page that shows it as an image.
///
/// # Errors
/// The picture cannot be drawn.
pub(crate) fn overview_svg(run: Run<'_>) -> anyhow::Result<String> {
    let svg = draw(WAITS_HEIGHT + RATE_HEIGHT, |area| {
        let (above, below) = area.split_vertically(WAITS_HEIGHT);
        draw_waits(&above, run)?;
        draw_rate(&below, run)
    })?;
    alone(&svg, &INKS)
}

fn draw(height: u32, panel: impl FnOnce(&Area<'_>) -> anyhow::Result<()>) -> anyhow::Result<String> {
    crate::picture::draw(height, &INKS, panel)
}

/// What is marked by a vertical line: its second, colour and name.
fn moments(run: Run<'_>) -> [(f64, &'static Ink, &'static str); 2] {
    let second = |at: Timestamp| at.since(run.ledger.started_at()).as_secs_f64();
    let last_arrival = run.ledger.published.iter().map(|published| published.arrived_at).max().unwrap_or_default();
    [(second(last_arrival), &MUTED, "last arrival"), (second(run.swap_at), &SWAP, "policy activated")]
}

/// Waits of messages by the second of their arrival.
fn draw_waits(area: &Area<'_>, run: Run<'_>) -> anyhow::Result<()> {
    let waits = run.ledger.waits();
    let by_class = Class::ALL.map(|class| (class, percentiles_over_time(run, &waits, class)));
    let points = || by_class.iter().flat_map(|(_, points)| points);
    let last = run_seconds(run) as f64;
    let highest = points().map(|(_, wait)| wait.p99).fold(100.0, f64::max) * 1.6;

    titled(area, "Wait from arrival to dispatch", "by second of arrival: p99 bold, p50 thin, logarithmic");
    let mut chart = chart_over_time(area, last, second, (WAIT_MIN_MS..highest).log_scale(), (6, decade))?;
    for (class, points) in &by_class {
        let line = |value: fn(&Percentiles) -> f64| {
            points.iter().map(move |(second, wait)| (*second, value(wait).max(WAIT_MIN_MS))).collect::<Vec<_>>()
        };
        let color = class_ink(*class).marker;
        chart.draw_series(LineSeries::new(line(|wait| wait.p50), color.stroke_width(1))).context("cannot draw p50")?;
        chart.draw_series(LineSeries::new(line(|wait| wait.p99), color.stroke_width(3))).context("cannot draw p99")?;
    }
    for (second, ink, text) in moments(run) {
        let line = LineSeries::new([(second, WAIT_MIN_MS), (second, highest)], ink.marker.stroke_width(2));
        chart.draw_series(line).context("cannot draw a moment")?;
        annotate(area, chart.backend_coord(&(second, highest)), text, ink)?;
    }
    legend(area, &Class::ALL.map(|class| (class.name(), class_ink(class))))
}

fn percentiles_over_time(run: Run<'_>, waits: &[Wait], class: Class) -> Vec<(f64, Percentiles)> {
    let mut seconds: Vec<Vec<std::time::Duration>> = Vec::new();
    for wait in waits.iter().filter(|wait| run.plan.users[wait.user as usize].class == class) {
        let second = second_of(run, wait.arrived_at);
        if seconds.len() <= second {
            seconds.resize(second + 1, Vec::new());
        }
        seconds[second].push(wait.length());
    }
    let points = seconds.into_iter().enumerate();
    points.filter_map(|(second, waits)| Some((second as f64 + 0.5, Percentiles::of(waits)?))).collect()
}

/// Reserved cost per second, stacked by class.
fn draw_rate(area: &Area<'_>, run: Run<'_>) -> anyhow::Result<()> {
    let stacked = stacked_rates(run);
    let quota = f64::from(run.plan.cost_quota.units());
    let highest = stacked[0].iter().copied().fold(quota, f64::max) * 1.15;
    let last = run_seconds(run) as f64;

    titled(area, "Dispatched cost per second", "stacked by class, against the group's quota (dashed)");
    let mut chart = chart_over_time(area, last, second, 0.0..highest, (5, thousands))?;
    // From the tallest sum to the smallest, so that each class shows only its own part.
    for (class, rates) in Class::ALL.iter().zip(&stacked) {
        let color = class_ink(*class).marker;
        let bar = |(second, rate): (usize, &f64)| {
            let start = second as f64;
            Rectangle::new([(start + 0.08, 0.0), (start + 0.92, *rate)], color.filled())
        };
        chart.draw_series(rates.iter().enumerate().map(bar)).context("cannot draw the rates")?;
    }
    let dashes = DashedLineSeries::new([(0.0, quota), (last, quota)], 7, 5, TEXT.marker.stroke_width(2));
    chart.draw_series(dashes).context("cannot draw the quota")?;
    for (second, ink, text) in moments(run) {
        let line = LineSeries::new([(second, 0.0), (second, highest)], ink.marker.stroke_width(2));
        chart.draw_series(line).context("cannot draw a moment")?;
        annotate(area, chart.backend_coord(&(second, highest)), text, ink)?;
    }
    legend(area, &Class::ALL.map(|class| (class.name(), class_ink(class))))
}

/// Per class in the order of [`Class::ALL`], the sum of its rates and of those that are drawn over it.
fn stacked_rates(run: Run<'_>) -> [Vec<f64>; 3] {
    Class::ALL.map(|class| {
        let mut rates = vec![0.0; run_seconds(run)];
        for delivery in &run.ledger.deliveries {
            if run.plan.users[delivery.user as usize].class >= class {
                rates[second_of(run, delivery.dispatched_at)] += f64::from(delivery.cost_estimate);
            }
        }
        rates
    })
}

/// Seconds from the first arrival to the last dispatch, begun ones too.
fn run_seconds(run: Run<'_>) -> usize {
    second_of(run, run.ledger.ended_at()) + 1
}

fn second_of(run: Run<'_>, at: Timestamp) -> usize {
    usize::try_from(at.since(run.ledger.started_at()).as_secs()).unwrap_or(usize::MAX)
}

fn second(at: f64) -> String {
    format!("{at:.0} s")
}

fn annotate(area: &Area<'_>, (x, y): (i32, i32), text: &str, ink: &Ink) -> anyhow::Result<()> {
    let above = area.get_pixel_range().1.start;
    area.draw(&Text::new(text.to_owned(), (x + 6, y - above - 1), label(ink))).context("cannot name a moment")
}
