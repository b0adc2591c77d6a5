//! The page's pictures: over time, and by tenant, a colour for each that decided.

use std::ops::Range;

use anyhow::Context as _;
use plotters::prelude::*;
use sluicegate_scheduler::simulation::Delivery;

use super::compare::unevenness;
use super::run::{Figures, Run, millis};
use super::table::busiest;
use super::traffic::Traffic;
use super::{AGAINST_MAX, PARTS};
use crate::picture::{GRID, Ink, MUTED, TEXT, chart_over_time, decade, draw, ink, label, legend, thousands, titled};

const HEIGHT: u32 = 320;
/// Height of a tenant's row, and of what is above and below the rows.
const ROW_HEIGHT: u32 = 30;
const ROWS_MARGIN: u32 = 110;
/// Tenants that are shown, those with the most cost first.
const TENANTS_SHOWN: usize = 16;
/// The shortest wait that a logarithmic scale shows, in milliseconds.
const WAIT_MIN_MS: f64 = 1.0;

/// A colour for each that decides.
const WHO: [Ink; AGAINST_MAX] = [
    ink(11, "who-0", "#5b6b7c", "#a3b1c0"),
    ink(12, "who-1", "#0d8a7b", "#3cc8b4"),
    ink(13, "who-2", "#c2571a", "#f0904f"),
    ink(14, "who-3", "#6d5bd0", "#a99cf5"),
    ink(15, "who-4", "#b3124f", "#ff6b9d"),
    ink(16, "who-5", "#2f6fb5", "#6fb1f5"),
];

fn inks() -> Vec<&'static Ink> {
    [&TEXT, &MUTED, &GRID].into_iter().chain(&WHO).collect()
}

/// Definitions of the colours.
pub(super) fn colours() -> String {
    crate::picture::colours(&inks())
}

/// Name of the CSS variable with the colour of the nth that decides.
pub(super) fn variable(nth: usize) -> String {
    WHO.get(nth).map_or("text", |ink| ink.variable).to_owned()
}

/// All pictures, in the order in which they are shown.
///
/// # Errors
/// One cannot be drawn.
pub(super) fn pictures(traffic: &Traffic, runs: &[Run], figures: &[Figures]) -> anyhow::Result<Vec<String>> {
    let seconds = runs[0].report.span.as_secs();
    let part = seconds.div_ceil(PARTS).max(1);
    let time = Time { seconds, part };
    let mut pictures = vec![waits_svg(runs, time)?, tenants_svg(runs, figures)?];
    let per_second = |total: f64| total / part as f64;
    let cost = lines(runs, |run| time.sums(run, |delivery| delivery.measured as f64).map(per_second).collect());
    let quota = traffic.group.settings.quotas.cost.map(rate_per_second);
    let over =
        format!("what was delivered, by {} s{}", part, if quota.is_some() { "; the quota is dashed" } else { "" });
    pictures.push(over_time("Tokens per second (cost)", &over, runs, time, &cost, quota)?);
    let error = lines(runs, |run| unevenness(&run.report, part).iter().map(|part| part.error * 100.0).collect());
    let note = "percent of what competing tenants got that equal shares would have given to others of them";
    pictures.push(over_time("Fairness error", note, runs, time, &error, None)?);
    let settings = &traffic.group.settings.quotas;
    let quotas = [(settings.cost, "cost"), (settings.messages, "messages")];
    for (quota, of) in quotas.into_iter().filter_map(|(rate, of)| Some((rate_per_second(rate?), of))) {
        let units = |delivery: &Delivery| if of == "cost" { delivery.measured as f64 } else { 1.0 };
        let used = lines(runs, |run| time.sums(run, units).map(|sum| per_second(sum) * 100.0 / quota).collect());
        let note = format!("percent of the quota in {of} that deliveries of {part} s took; above 100 is burst");
        pictures.push(over_time(&format!("Quota use: {of}"), &note, runs, time, &used, Some(100.0))?);
    }
    pictures.push(over_time(
        "Messages that wait",
        "at the end of each part",
        runs,
        time,
        &lines(runs, |run| time.backlog(run)),
        None,
    )?);
    let held = lines(runs, |run| time.held(run));
    if held.iter().flatten().any(|held| *held > 0.0) {
        let note = format!("lite topics that were throttled or suspended by a policy, in {part} s");
        pictures.push(over_time("Suspensions and throttles", &note, runs, time, &held, None)?);
    }
    Ok(pictures)
}

fn rate_per_second(rate: sluicegate_protocol::Rate) -> f64 {
    f64::from(rate.units()) / rate.period().as_secs_f64()
}

fn lines(runs: &[Run], line: impl Fn(&Run) -> Vec<f64>) -> Vec<Vec<f64>> {
    runs.iter().map(line).collect()
}

/// The run's time in parts of the same length.
#[derive(Debug, Clone, Copy)]
struct Time {
    seconds: u64,
    part: u64,
}

impl Time {
    fn parts(self) -> usize {
        usize::try_from(self.seconds.div_ceil(self.part)).unwrap_or(1).max(1)
    }

    fn of_second(self, second: u64) -> usize {
        usize::try_from(second / self.part).unwrap_or(0).min(self.parts() - 1)
    }

    /// The middle of a part, in seconds.
    fn middle(self, part: usize) -> f64 {
        (part as f64 + 0.5) * self.part as f64
    }

    fn sums(self, run: &Run, units: impl Fn(&Delivery) -> f64) -> impl Iterator<Item = f64> {
        let mut sums = vec![0.0; self.parts()];
        for delivery in &run.report.deliveries {
            sums[self.of_second(delivery.delivered_at.as_secs())] += units(delivery);
        }
        sums.into_iter()
    }

    fn backlog(self, run: &Run) -> Vec<f64> {
        let mut now = std::collections::HashMap::new();
        let (mut all, mut samples) = (0_u64, run.report.samples.iter().peekable());
        let ends = (1..=self.parts() as u64).map(|part| part * self.part);
        ends.map(|end| {
            while let Some(sample) = samples.next_if(|sample| sample.second < end) {
                let before = now.insert(sample.tenant, sample.backlog).unwrap_or(0);
                all = all + sample.backlog - before;
            }
            all as f64
        })
        .collect()
    }

    fn held(self, run: &Run) -> Vec<f64> {
        let mut sums = vec![0.0; self.parts()];
        for (second, held) in &run.said.held {
            sums[self.of_second(*second)] += (held.throttled + held.suspended) as f64;
        }
        sums
    }

    /// Median and 99th percentile of waits for a first delivery, by the time of publish, in milliseconds.
    fn waits(self, run: &Run) -> Vec<(f64, [f64; 2])> {
        let mut parts: Vec<Vec<f64>> = vec![Vec::new(); self.parts()];
        for delivery in run.report.deliveries.iter().filter(|delivery| delivery.attempt == 1) {
            parts[self.of_second(delivery.published_at.as_secs())].push(millis(delivery.wait()).max(WAIT_MIN_MS));
        }
        let quantile = |waits: &[f64], of_100: usize| waits[(waits.len() * of_100).div_ceil(100).max(1) - 1];
        let parts = parts.into_iter().enumerate().filter(|(_, waits)| !waits.is_empty());
        parts
            .map(|(part, mut waits)| {
                waits.sort_by(f64::total_cmp);
                (self.middle(part), [quantile(&waits, 50), quantile(&waits, 99)])
            })
            .collect()
    }
}

fn waits_svg(runs: &[Run], time: Time) -> anyhow::Result<String> {
    let waits: Vec<_> = runs.iter().map(|run| time.waits(run)).collect();
    let highest = waits.iter().flatten().map(|(_, [_, p99])| *p99).fold(100.0, f64::max) * 1.6;
    draw(HEIGHT, &inks(), |area| {
        titled(area, "Wait from publish to delivery", "by time of publish: p99 bold, p50 thin, logarithmic");
        let mut chart =
            chart_over_time(area, time.seconds as f64, clock, (WAIT_MIN_MS..highest).log_scale(), (6, decade))?;
        for (ink, waits) in WHO.iter().zip(&waits) {
            for (place, width) in [(0, 1), (1, 3)] {
                let line = waits.iter().map(|(second, wait)| (*second, wait[place]));
                let series = LineSeries::new(line, ink.marker.stroke_width(width));
                chart.draw_series(series).context("cannot draw the waits")?;
            }
        }
        legend(area, &named(runs))
    })
}

/// A line over time for each run, and a dashed one that they are held against.
fn over_time(
    title: &str,
    note: &str,
    runs: &[Run],
    time: Time,
    values: &[Vec<f64>],
    dashed: Option<f64>,
) -> anyhow::Result<String> {
    let highest = values.iter().flatten().copied().fold(dashed.unwrap_or(0.0), f64::max).max(1.0) * 1.15;
    let last = time.seconds as f64;
    draw(HEIGHT, &inks(), |area| {
        titled(area, title, note);
        let mut chart = chart_over_time(area, last, clock, 0.0..highest, (5, thousands))?;
        for (ink, values) in WHO.iter().zip(values) {
            let line = values.iter().enumerate().map(|(part, value)| (time.middle(part), *value));
            let series = LineSeries::new(line, ink.marker.stroke_width(2));
            chart.draw_series(series).context("cannot draw a line")?;
        }
        if let Some(height) = dashed {
            let series = DashedLineSeries::new([(0.0, height), (last, height)], 7, 5, TEXT.marker.stroke_width(2));
            chart.draw_series(series).context("cannot draw the dashed line")?;
        }
        legend(area, &named(runs))
    })
}

/// Waits of each tenant: a row with a line from the median to the 99th percentile, for each that decided.
fn tenants_svg(runs: &[Run], figures: &[Figures]) -> anyhow::Result<String> {
    let tenants = busiest(figures, TENANTS_SHOWN);
    let wait = |run: &Figures, name: &str| {
        let tenant = run.tenants.iter().find(|tenant| tenant.name == name)?;
        Some((tenant.wait_ms.p50.max(WAIT_MIN_MS), tenant.wait_ms.p99.max(WAIT_MIN_MS)))
    };
    let all = figures.iter().flat_map(|run| tenants.iter().filter_map(move |name| wait(run, name)));
    let highest = all.map(|(_, p99)| p99).fold(100.0, f64::max) * 1.6;
    let rows: Range<f64> = 0.0..tenants.len().max(1) as f64;
    let height = ROW_HEIGHT * u32::try_from(tenants.len()).unwrap_or(1) + ROWS_MARGIN;
    draw(height, &inks(), |area| {
        titled(area, "Wait by tenant", "those with the most cost first: from p50 (ring) to p99 (dot), logarithmic");
        let mut chart = ChartBuilder::on(area)
            .margin_top(62)
            .margin_right(24)
            .x_label_area_size(30)
            .y_label_area_size(150)
            .build_cartesian_2d((WAIT_MIN_MS..highest).log_scale(), rows)
            .context("cannot draw the axes of the tenants")?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.marker)
            .axis_style(GRID.marker)
            .label_style(label(&MUTED))
            .x_labels(8)
            .y_labels(0)
            .x_label_formatter(&|millis| decade(*millis))
            .draw()
            .context("cannot draw the grid of the tenants")?;
        for (row, name) in tenants.iter().enumerate() {
            let middle = (tenants.len() - row) as f64 - 0.5;
            let (_, y) = chart.backend_coord(&(WAIT_MIN_MS, middle));
            area.draw(&Text::new(shortened(name), (14, y - 8), label(&TEXT))).context("cannot name a tenant")?;
            for (nth, (ink, run)) in WHO.iter().zip(figures).enumerate() {
                let Some((p50, p99)) = wait(run, name) else { continue };
                let beside = (nth as f64 - (figures.len() as f64 - 1.0) / 2.0) * 0.8 / figures.len() as f64;
                let y = middle - beside;
                let line = PathElement::new([(p50, y), (p99, y)], ink.marker.stroke_width(2));
                chart.draw_series([line]).context("cannot draw a wait")?;
                chart
                    .draw_series([Circle::new((p50, y), 3, ink.marker.stroke_width(1))])
                    .context("cannot draw a wait")?;
                chart.draw_series([Circle::new((p99, y), 4, ink.marker.filled())]).context("cannot draw a wait")?;
            }
        }
        legend(area, &named(runs))
    })
}

fn named(runs: &[Run]) -> Vec<(&str, &'static Ink)> {
    runs.iter().map(|run| run.label.as_str()).zip(&WHO).collect()
}

/// A name that fits beside its row.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(15) {
        Some((end, _)) if name.chars().count() > 16 => format!("{}…", &name[..end]),
        _ => name.to_owned(),
    }
}

/// A point in time, as short as it can be told apart.
fn clock(second: f64) -> String {
    let second = second.round();
    if second < 120.0 { format!("{second:.0} s") } else { format!("{:.0} min", second / 60.0) }
}
