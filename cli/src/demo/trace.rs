//! Reads a public LLM request trace: `TIMESTAMP,ContextTokens,GeneratedTokens`.
//!
//! The format is that of the [Azure LLM inference traces](https://github.com/Azure/AzurePublicDataset). A line that
//! does not fit is refused with its file, its number and what was expected; nothing is skipped.

use std::fmt;
use std::io::{BufRead, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::generator::Mix;

/// Rows read of one file; the rest is left.
const ROWS_MAX: usize = 1_000_000;
/// Most tokens that a row may have in one column.
const TOKENS_MAX: u32 = 10_000_000;
/// Bytes read of one line; what is longer is no row of a trace.
const LINE_BYTES_MAX: u64 = 1_024;
const HEADER: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// Requests in the order of their arrival.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trace {
    /// Where they come from.
    pub(crate) source: Source,
    /// At least one.
    pub(crate) requests: Vec<Request>,
}

/// One request to a language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// Since the first request.
    pub(crate) arrival: Duration,
    /// Tokens of its prompt.
    pub(crate) context_tokens: u32,
    /// Tokens of its answer, known only afterwards.
    pub(crate) generated_tokens: u32,
}

/// Where a trace comes from, in words for the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A recorded trace.
    File(PathBuf),
    /// The built-in generator.
    Generator {
        /// Whose medians and tails it follows.
        mix: Mix,
        /// Seed of its draws.
        seed: u64,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
                write!(f, "recorded trace {name}")
            }
            Self::Generator { mix, seed } => {
                write!(f, "built-in generator (seed {seed}), medians and tails of {mix}; not a recorded trace")
            }
        }
    }
}

impl Trace {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, is empty, or has a line that does not fit or is out of time order.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open the trace {}", path.display()))?;
        let requests = parse(std::io::BufReader::new(file), &path.display().to_string())?;
        Ok(Self { source: Source::File(path.into()), requests })
    }
}

fn parse(input: impl BufRead, file: &str) -> anyhow::Result<Vec<Request>> {
    let mut lines = Lines { input, line: 0 };
    let header = lines.next().with_context(|| format!("cannot read {file}"))?;
    let header =
        header.with_context(|| format!("{file} is empty, expected the header `{HEADER}` and at least one request"))?;
    ensure!(
        header.trim_start_matches('\u{feff}') == HEADER,
        "{file}:{}: expected the header `{HEADER}`, found `{}`",
        lines.line,
        shortened(&header)
    );
    let mut rows: Vec<Row> = Vec::new();
    while rows.len() < ROWS_MAX
        && let Some(text) = lines.next().with_context(|| format!("cannot read {file}"))?
    {
        let line = lines.line;
        let row = parse_row(line, &text).map_err(|problem| anyhow::anyhow!("{file}:{line}: {problem}"))?;
        if let Some(before) = rows.last().filter(|before| before.at_nanos > row.at_nanos) {
            bail!("{file}:{line}: out of time order: this request arrived before the one in line {}", before.line);
        }
        rows.push(row);
    }
    let first = rows.first().with_context(|| format!("{file} has a header but no requests"))?.at_nanos;
    let request = |row: &Row| Request {
        arrival: Duration::from_nanos(row.at_nanos - first),
        context_tokens: row.context_tokens,
        generated_tokens: row.generated_tokens,
    };
    Ok(rows.iter().map(request).collect())
}

/// The lines that are not blank, and the number of the last one.
struct Lines<R> {
    input: R,
    line: u64,
}

impl<R: BufRead> Lines<R> {
    /// The next line without its end; bytes that are not UTF-8 show as such and fit nowhere.
    fn next(&mut self) -> std::io::Result<Option<String>> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
            self.line += 1;
            let text = String::from_utf8_lossy(&bytes);
            if !text.trim().is_empty() {
                return Ok(Some(text.trim().to_owned()));
            }
        }
    }
}

/// What an error shows of a text that may be anything.
fn shortened(text: &str) -> String {
    let shown: String = text.chars().take(60).flat_map(char::escape_default).collect();
    if text.chars().nth(60).is_some() { format!("{shown}…") } else { shown }
}

struct Row {
    line: u64,
    at_nanos: u64,
    context_tokens: u32,
    generated_tokens: u32,
}

fn parse_row(line: u64, text: &str) -> Result<Row, String> {
    let fields: Vec<&str> = text.split(',').map(str::trim).collect();
    let [timestamp, context, generated] = fields[..] else {
        return Err(format!("expected 3 fields `{HEADER}`, found {}: `{}`", fields.len(), shortened(text)));
    };
    let at_nanos = parse_timestamp(timestamp).ok_or_else(|| {
        let shown = shortened(timestamp);
        format!("expected a timestamp like `2023-11-16 18:17:03.9799600` from 1970 to 2200, found `{shown}`")
    })?;
    let tokens = |name, text: &str| match text.parse() {
        Ok(tokens) if tokens <= TOKENS_MAX => Ok(tokens),
        _ => Err(format!("expected {name} as a whole number from 0 to {TOKENS_MAX}, found `{}`", shortened(text))),
    };
    let context_tokens = tokens("ContextTokens", context)?;
    Ok(Row { line, at_nanos, context_tokens, generated_tokens: tokens("GeneratedTokens", generated)? })
}

/// Nanoseconds since the Unix epoch of `2023-11-16 18:17:03.9799600`; `T` between date and time, `Z` or an offset like
/// `+02:00` at the end are fine.
fn parse_timestamp(text: &str) -> Option<u64> {
    let (date, time) = text.split_once([' ', 'T'])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (time, offset_minutes) = split_offset(time)?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let fits = (1970..=2200).contains(&year) && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    // 60 is a leap second.
    let is_clock = hour < 24 && minute < 60 && second <= 60;
    let is_fraction = (1..=9).contains(&fraction.len()) && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !(fits && is_clock && is_fraction) {
        return None;
    }
    let nanos: i64 = format!("{fraction:0<9}").parse().ok()?;
    let minutes = (days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1_000_000_000 + nanos).ok()
}

/// Splits `18:17:03+02:00` into the time and the minutes that it is ahead of UTC.
fn split_offset(time: &str) -> Option<(&str, i64)> {
    if let Some(utc) = time.strip_suffix('Z') {
        return Some((utc, 0));
    }
    let Some(at) = time.find(['+', '-']) else { return Some((time, 0)) };
    let [hours, minutes] = numbers(&time[at + 1..], ':', [2, 2])?;
    let sign = if time[at..].starts_with('-') { -1 } else { 1 };
    (hours < 24 && minutes < 60).then_some((&time[..at], sign * (hours * 60 + minutes)))
}

fn numbers<const N: usize>(text: &str, separator: char, digits: [usize; N]) -> Option<[i64; N]> {
    let parts: Vec<&str> = text.split(separator).collect();
    let is_shaped = parts.len() == N && parts.iter().zip(digits).all(|(part, digits)| part.len() == digits);
    let is_numeric = parts.iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()));
    if !(is_shaped && is_numeric) {
        return None;
    }
    let numbers: Result<Vec<i64>, _> = parts.iter().map(|part| part.parse()).collect();
    numbers.ok()?.try_into().ok()
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 in the Gregorian calendar, by Hinnant's `days_from_civil`.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year / 400;
    let year_of_era = year % 400;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Vec<Request>, String> {
        parse(text.as_bytes(), "x.csv").map_err(|error| error.to_string())
    }

    #[test]
    fn requests_are_read_with_their_distance_from_the_first() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
            2023-11-16 18:17:03.9799600,4808,10\n\
            2023-11-16T18:17:04.0319600Z,3180,8\n\
            2023-11-16 20:17:05+02:00,110,27\n";
        let request = |micros, context_tokens, generated_tokens| Request {
            arrival: Duration::from_micros(micros),
            context_tokens,
            generated_tokens,
        };
        assert_eq!(parsed(text), Ok(vec![request(0, 4808, 10), request(52_000, 3180, 8), request(1_020_040, 110, 27)]));
    }

    #[test]
    fn dates_count_from_the_epoch() {
        for (text, seconds) in [
            ("1970-01-01 00:00:00", 0),
            ("2000-02-29 12:00:00", 951_825_600),
            ("2023-11-16 18:17:03", 1_700_158_623),
            ("2024-12-31T23:59:59-01:00", 1_735_693_199),
        ] {
            assert_eq!(parse_timestamp(text), Some(seconds * 1_000_000_000), "{text}");
        }
    }

    #[test]
    fn a_line_that_does_not_fit_is_named_with_what_was_expected() {
        let with = |line: &str| parsed(&format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{line}\n")).unwrap_err();
        assert_eq!(
            with("2023-11-16 18:17:03,1"),
            "x.csv:2: expected 3 fields `TIMESTAMP,ContextTokens,GeneratedTokens`, found 2: `2023-11-16 18:17:03,1`"
        );
        assert_eq!(
            with("2023-11-16 18:17:03,-1,2"),
            "x.csv:2: expected ContextTokens as a whole number from 0 to 10000000, found `-1`"
        );
        assert_eq!(
            with("2023-11-16 18:17:03,1,many"),
            "x.csv:2: expected GeneratedTokens as a whole number from 0 to 10000000, found `many`"
        );
        for timestamp in ["yesterday", "2023-02-29 00:00:00", "2023-1-1 00:00:00", "2023-01-01 25:00:00", "1-1-1 ::"] {
            assert_eq!(
                with(&format!("{timestamp},1,2")),
                format!(
                    "x.csv:2: expected a timestamp like `2023-11-16 18:17:03.9799600` from 1970 to 2200, found `{timestamp}`"
                )
            );
        }
    }

    #[test]
    fn a_trace_out_of_time_order_names_both_lines() {
        let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:04,1,1\n\n2023-11-16 18:17:03,1,1\n";
        assert_eq!(
            parsed(text),
            Err("x.csv:4: out of time order: this request arrived before the one in line 2".into())
        );
    }

    #[test]
    fn a_file_without_requests_is_refused() {
        assert_eq!(parsed(""), Err(format!("x.csv is empty, expected the header `{HEADER}` and at least one request")));
        assert_eq!(parsed(&format!("{HEADER}\n")), Err("x.csv has a header but no requests".into()));
        assert_eq!(parsed("a,b,c\n"), Err(format!("x.csv:1: expected the header `{HEADER}`, found `a,b,c`")));
        assert!(parsed("TIMESTAMP,ContextTokens,GeneratedTokens\n\u{0}\u{1}").is_err());
        assert!(parse(&b"TIMESTAMP,ContextTokens,GeneratedTokens\n\xff,1,2\n"[..], "x.csv").is_err());
    }
}
