//! Pictures for reports: SVG without fonts, scripts or files of its own.
//!
//! Colours are drawn as markers and replaced by CSS variables, so that one picture serves light and dark pages.

use anyhow::Context as _;
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

pub(crate) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

pub(crate) const WIDTH: u32 = 1_000;

/// A colour by its part in the picture: the marker that is drawn, and light and dark values.
#[derive(Debug)]
pub(crate) struct Ink {
    pub(crate) marker: RGBColor,
    /// Name of the CSS variable.
    pub(crate) variable: &'static str,
    light: &'static str,
    dark: &'static str,
}

/// No two inks of a page have the same number.
pub(crate) const fn ink(number: u8, variable: &'static str, light: &'static str, dark: &'static str) -> Ink {
    // Markers that no one would draw on purpose.
    Ink { marker: RGBColor(1, 254, number), variable, light, dark }
}

pub(crate) const TEXT: Ink = ink(1, "text", "#1f2933", "#e4e7eb");
pub(crate) const MUTED: Ink = ink(2, "muted", "#616e7c", "#9aa5b1");
pub(crate) const GRID: Ink = ink(3, "grid", "#e4e7eb", "#2e3842");

/// Definitions of the colours, for the page or a picture that stands alone.
pub(crate) fn colours(inks: &[&Ink]) -> String {
    let values = |value: fn(&Ink) -> &str| {
        inks.iter().map(|ink| format!("--{}:{};", ink.variable, value(ink))).collect::<Vec<_>>().concat()
    };
    let (light, dark) = (values(|ink| ink.light), values(|ink| ink.dark));
    format!(":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}")
}

/// A picture of this height, drawn with these inks.
///
/// # Errors
/// It cannot be drawn.
pub(crate) fn draw(
    height: u32,
    inks: &[&Ink],
    panel: impl FnOnce(&Area<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        panel(&area)?;
        area.present().context("cannot finish the picture")?;
    }
    for ink in inks {
        let RGBColor(red, green, blue) = ink.marker;
        for property in ["fill", "stroke"] {
            let drawn = format!("{property}=\"#{red:02X}{green:02X}{blue:02X}\"");
            svg = svg.replace(&drawn, &format!("style=\"{property}:var(--{})\"", ink.variable));
        }
    }
    let sized = format!("width=\"{WIDTH}\" height=\"{height}\" ");
    let svg = svg.replacen(&sized, "role=\"img\" ", 1);
    Ok(svg.replace("font-family=\"sans-serif\"", "font-family=\"system-ui, -apple-system, Segoe UI, sans-serif\""))
}

/// A picture as a file of its own, for a page that shows it as an image: with its colours and a background.
///
/// # Errors
/// It is no picture.
pub(crate) fn alone(svg: &str, inks: &[&Ink]) -> anyhow::Result<String> {
    let start = svg.find('>').context("an SVG has a first tag")? + 1;
    let background = "<rect width=\"100%\" height=\"100%\" rx=\"8\" style=\"fill:var(--page)\"/>";
    let page = ":root{--page:#ffffff}@media(prefers-color-scheme:dark){:root{--page:#14191f}}";
    Ok(format!("{}<style>{}{page}</style>{background}{}", &svg[..start], colours(inks), &svg[start..]))
}

pub(crate) fn label(ink: &Ink) -> TextStyle<'static> {
    ("sans-serif", 15).into_font().color(&ink.marker)
}

pub(crate) fn titled(area: &Area<'_>, title: &str, note: &str) {
    let bold = ("sans-serif", 20).into_font().style(FontStyle::Bold).color(&TEXT.marker);
    // Text cannot fail to be drawn into a string.
    drop(area.draw(&Text::new(title.to_owned(), (14, 10), bold)));
    drop(area.draw(&Text::new(note.to_owned(), (14, 34), label(&MUTED))));
}

/// Names of what is drawn, at the top right.
///
/// # Errors
/// It cannot be drawn.
pub(crate) fn legend(area: &Area<'_>, entries: &[(&str, &Ink)]) -> anyhow::Result<()> {
    let mut x = i32::try_from(WIDTH).expect("a width is small") - 24;
    for (name, ink) in entries.iter().rev() {
        x -= i32::try_from(name.len()).expect("a name is short") * 9 + 32;
        let swatch = Rectangle::new([(x, 17), (x + 12, 29)], ink.marker.filled());
        area.draw(&swatch).context("cannot draw the legend")?;
        let text = Text::new((*name).to_owned(), (x + 18, 16), label(&TEXT));
        area.draw(&text).context("cannot draw the legend")?;
    }
    Ok(())
}

/// A label of a logarithmic scale of milliseconds.
pub(crate) fn decade(millis: f64) -> String {
    if millis < 1_000.0 { format!("{millis} ms") } else { format!("{} s", millis / 1_000.0) }
}

/// A label of a scale of units.
pub(crate) fn thousands(units: f64) -> String {
    if units >= 10_000.0 { format!("{:.0} k", units / 1_000.0) } else { format!("{units:.0}") }
}

/// A chart over the seconds of a run below its title, with a grid and both scales. `y` is its range, `y_labels` how many there are at most
/// and how each is written.
///
/// # Errors
/// It cannot be drawn.
pub(crate) fn chart_over_time<'a, 'b, Y>(
    area: &Area<'b>,
    seconds: f64,
    second: fn(f64) -> String,
    y: impl AsRangedCoord<CoordDescType = Y, Value = f64>,
    y_labels: (usize, fn(f64) -> String),
) -> anyhow::Result<ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, Y>>>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(area)
        .margin_top(62)
        .margin_right(24)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..seconds, y)
        .context("cannot draw the axes")?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.marker)
        .axis_style(GRID.marker)
        .label_style(label(&MUTED))
        .x_labels(13)
        .y_labels(y_labels.0)
        .x_label_formatter(&|at| second(*at))
        .y_label_formatter(&|value| (y_labels.1)(*value))
        .draw()
        .context("cannot draw the grid")?;
    Ok(chart)
}
