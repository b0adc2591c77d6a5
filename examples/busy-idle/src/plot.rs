//! The run as a picture: who had the slots, and how long people waited.

use std::time::Duration;

use anyhow::Context as _;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::compute::{Job, SLOTS};
use crate::demand::{RUSH_FROM, RUSH_TO};
use crate::record::Record;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const SIZE: (u32, u32) = (1_000, 640);
/// Pixels of the upper of the two.
const SLOTS_HEIGHT: u32 = 360;
const SAMPLE: Duration = Duration::from_millis(50);
const INTERACTIVE: RGBColor = RGBColor(13, 138, 123);
const BATCH: RGBColor = RGBColor(240, 160, 80);
const BUSY: RGBColor = RGBColor(179, 18, 79);
const RUSH: RGBColor = RGBColor(238, 241, 245);
const TEXT: RGBColor = RGBColor(70, 82, 96);

/// The picture as SVG. `busy_above` is the share of the slots from which batch waits.
///
/// # Errors
/// It cannot be drawn.
pub(crate) fn draw(record: &Record, busy_above: f64) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).context("cannot begin the picture")?;
        let (slots, waits) = area.split_vertically(SLOTS_HEIGHT);
        draw_slots(&slots, record, busy_above)?;
        draw_waits(&waits, record)?;
        area.present().context("cannot finish the picture")?;
    }
    Ok(svg)
}

fn draw_slots(area: &Area<'_>, record: &Record, busy_above: f64) -> anyhow::Result<()> {
    let (end, highest) = (record.end().as_secs_f64(), f64::from(SLOTS) + 1.0);
    let mut chart = chart(area, "Slots of the compute: batch (orange) on top of interactive (green)", end, highest)?;
    let moments = (0..).map(|sample| SAMPLE * sample).take_while(|moment| *moment <= record.end());
    let samples: Vec<_> = moments.map(|moment| (moment.as_secs_f64(), record.slots_at(moment))).collect();
    let all = samples.iter().map(|(at, (interactive, batch))| (*at, f64::from(interactive + batch)));
    chart.draw_series(AreaSeries::new(all, 0.0, BATCH.filled()))?;
    let interactive = samples.iter().map(|(at, (interactive, _))| (*at, f64::from(*interactive)));
    chart.draw_series(AreaSeries::new(interactive, 0.0, INTERACTIVE.filled()))?;
    let busy = busy_above * f64::from(SLOTS);
    chart.draw_series(DashedLineSeries::new([(0.0, busy), (end, busy)], 8, 5, BUSY.stroke_width(2)))?;
    let note = Text::new("busy above this", (0.1, busy + 0.8), ("sans-serif", 14).into_font().color(&BUSY));
    chart.draw_series([note])?;
    Ok(())
}

fn draw_waits(area: &Area<'_>, record: &Record) -> anyhow::Result<()> {
    let millis = |job: &Job| job.waited.as_secs_f64() * 1_000.0;
    let highest = record.interactive().map(millis).fold(1.0, f64::max) * 1.1;
    let title = "Milliseconds that each interactive request waited, by when it began; grey: the rush";
    let mut chart = chart(area, title, record.end().as_secs_f64(), highest)?;
    let waits =
        record.interactive().map(|job| Circle::new((job.began.as_secs_f64(), millis(job)), 3, INTERACTIVE.filled()));
    chart.draw_series(waits)?;
    Ok(())
}

/// Seconds to the right, and the rush behind all that is drawn.
fn chart<'a>(area: &Area<'a>, title: &str, end: f64, highest: f64) -> anyhow::Result<Chart<'a>> {
    let mut chart = ChartBuilder::on(area)
        .caption(title, style(18))
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..end, 0.0..highest)?;
    let rush = Rectangle::new([(RUSH_FROM.as_secs_f64(), 0.0), (RUSH_TO.as_secs_f64(), highest)], RUSH.filled());
    chart.draw_series([rush])?;
    let mesh = &mut chart.configure_mesh();
    mesh.disable_mesh()
        .x_label_formatter(&|at| format!("{at:.0} s"))
        .y_label_formatter(&|value| format!("{value:.0}"))
        .label_style(style(14))
        .draw()?;
    Ok(chart)
}

fn style(size: u32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&TEXT)
}
