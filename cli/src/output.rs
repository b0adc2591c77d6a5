//! Printing: tables for people, JSON for programs.

use std::io::{ErrorKind, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use sluicegate_client::Timestamp;

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Tables and lines for people.
    Text,
    /// JSON for programs: one value, or one a line where results stream.
    Json,
}

/// Prints a value as JSON, or as `text` says.
pub(crate) fn print<T: Serialize>(format: Format, value: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
    match format {
        Format::Json => json(value),
        Format::Text => line(&text(value)),
    }
}

/// Prints a value as JSON, in one line.
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Prints a line, or lines.
///
/// # Errors
/// [`ReaderGone`], or the output cannot be written.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    wrote(writeln!(std::io::stdout(), "{text}"))
}

fn wrote(written: std::io::Result<()>) -> anyhow::Result<()> {
    written.map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => ReaderGone.into(),
        _ => anyhow::Error::from(error).context("output"),
    })
}

/// A message's body, or where it was written.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Body {
    Text {
        body: String,
    },
    /// It is not UTF-8.
    Bytes {
        body_base64: String,
    },
}

impl Body {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text { body: text.to_owned() },
            Err(_) => Self::Bytes { body_base64: BASE64_STANDARD.encode(bytes) },
        }
    }

    pub(crate) fn at(path: &std::path::Path) -> Self {
        Self::Text { body: path.display().to_string() }
    }

    /// For people.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text { body } => body,
            Self::Bytes { .. } => "(not UTF-8: `-o json` has it in base64, `--body-dir` in a file)",
        }
    }
}

/// Prints bytes as they are; behind text a line ends.
///
/// # Errors
/// As [`line()`].
pub(crate) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return line(text);
    }
    let mut out = std::io::stdout();
    wrote(out.write_all(bytes).and_then(|()| out.flush()))
}

/// Who reads the output wants no more of it, as `head` does.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output")]
pub(crate) struct ReaderGone;

/// A table with these columns.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(columns);
    table
}

/// A point in time, in UTC.
pub(crate) fn time(at: Timestamp) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_micros(at.as_micros())).to_string()
}

/// A point in time, and how far it is from `now`.
pub(crate) fn time_from(now: Timestamp, at: Timestamp) -> String {
    format!("{} ({})", time(at), distance(now, at))
}

/// How far a point in time is from `now`: `in 12 s`, `3 min 20 s ago`.
pub(crate) fn distance(now: Timestamp, at: Timestamp) -> String {
    if at > now { format!("in {}", span(at.since(now))) } else { format!("{} ago", span(now.since(at))) }
}

/// A duration in its two largest units, rounded down.
pub(crate) fn span(duration: Duration) -> String {
    let (millis, seconds) = (duration.as_millis(), duration.as_secs());
    match seconds {
        0 => format!("{millis} ms"),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// An optional setting.
pub(crate) fn or_dash<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_has_its_two_largest_units() {
        let spans = [0, 999, 1_000, 59_999, 60_000, 3_599_000, 3_600_000, 90_060_000, 2_592_000_000];
        let text = spans.map(|millis| span(Duration::from_millis(millis))).join(", ");
        assert_eq!(text, "0 ms, 999 ms, 1 s, 59 s, 1 min 0 s, 59 min 59 s, 1 h 0 min, 1 d 1 h, 30 d 0 h");
        let now = Timestamp::from_millis(10_000);
        assert_eq!(distance(now, Timestamp::from_millis(22_500)), "in 12 s");
        assert_eq!(time_from(now, Timestamp::from_millis(7_000)), "1970-01-01T00:00:07.000Z (3 s ago)");
    }
}
