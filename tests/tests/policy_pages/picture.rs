//! Pictures: panels one below the other, lines over time, with and without a policy.

use plotters::prelude::*;

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 290;

const WITHOUT: RGBColor = RGBColor(0xc2, 0x57, 0x1a);
const WITH: RGBColor = RGBColor(0x0d, 0x8a, 0x7b);
const OTHER: RGBColor = RGBColor(0x6d, 0x5b, 0xd0);
const BOUND: RGBColor = RGBColor(0x61, 0x6e, 0x7c);
const GRID: RGBColor = RGBColor(0xe4, 0xe7, 0xeb);
const TEXT: RGBColor = RGBColor(0x1f, 0x29, 0x33);

/// What a line is of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ink {
    Without,
    With,
    /// A third that is neither.
    Other,
    /// What was promised or offered.
    Bound,
}

/// Points over time.
pub(crate) struct Line {
    pub(crate) label: &'static str,
    pub(crate) ink: Ink,
    pub(crate) points: Vec<(f64, f64)>,
}

/// A diagram.
pub(crate) struct Panel {
    pub(crate) title: &'static str,
    /// With its unit.
    pub(crate) x: &'static str,
    /// With its unit.
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// The panels as SVG.
pub(crate) fn draw(panels: &[Panel]) -> String {
    let mut svg = String::new();
    let height = PANEL_HEIGHT * u32::try_from(panels.len()).expect("few");
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).expect("a string takes all");
        for (panel, area) in panels.iter().zip(area.split_evenly((panels.len(), 1))) {
            draw_panel(panel, &area);
        }
        area.present().expect("a string takes all");
    }
    svg
}

fn draw_panel(panel: &Panel, area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let most = |values: &mut dyn Iterator<Item = f64>| values.fold(f64::MIN, f64::max);
    let (right, top) = (most(&mut points().map(|point| point.0)), most(&mut points().map(|point| point.1)));
    let mut chart = ChartBuilder::on(area)
        .caption(panel.title, ("sans-serif", 17).into_font().color(&TEXT))
        .margin(12)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..right, 0.0..top * 1.08)
        .expect("the ranges are not empty");
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(BOUND)
        .label_style(("sans-serif", 13).into_font().color(&TEXT))
        .x_desc(panel.x)
        .y_desc(panel.y)
        .x_labels(11)
        .y_labels(6)
        .draw()
        .expect("a string takes all");
    for line in &panel.lines {
        let style = style(line.ink);
        let series = LineSeries::new(line.points.iter().copied(), style);
        let drawn = chart.draw_series(series).expect("a string takes all");
        drawn.label(line.label).legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .label_font(("sans-serif", 13).into_font().color(&TEXT))
        .background_style(WHITE.mix(0.85))
        .border_style(GRID)
        .draw()
        .expect("a string takes all");
}

fn style(ink: Ink) -> ShapeStyle {
    match ink {
        Ink::Without => WITHOUT.stroke_width(2),
        Ink::With => WITH.stroke_width(2),
        Ink::Other => OTHER.stroke_width(2),
        Ink::Bound => BOUND.stroke_width(1),
    }
}
