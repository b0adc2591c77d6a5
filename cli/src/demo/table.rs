//! The table that a run ends with, one row per tenant class.

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::summary::{Percentiles, Summary};

const COLUMNS: [&str; 8] = [
    "class",
    "tenants",
    "messages",
    "tokens",
    "wait p50\nbefore → after",
    "wait p99\nbefore → after",
    "change",
    "throttled",
];

/// Draws the table.
pub(crate) fn table(summary: &Summary) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(COLUMNS);
    for class in &summary.classes {
        let Percentiles { p50: p50_before, p99: p99_before, .. } = class.wait_ms.before;
        let Percentiles { p50: p50_after, p99: p99_after, .. } = class.wait_ms.after;
        table.add_row(
            [
                class.name.to_owned(),
                class.tenants.to_string(),
                grouped(class.messages),
                grouped(class.cost),
                format!("{} → {}", duration(p50_before), duration(p50_after)),
                format!("{} → {}", duration(p99_before), duration(p99_after)),
                change(p99_before, p99_after),
                grouped(class.throttled),
            ]
            .map(Cell::new),
        );
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A number with its thousands grouped.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits are ASCII")).collect();
    groups.join(",")
}

/// Milliseconds as a person reads them.
pub(crate) fn duration(millis: f64) -> String {
    match millis {
        millis if millis < 10.0 => format!("{millis:.1} ms"),
        millis if millis < 1_000.0 => format!("{millis:.0} ms"),
        millis if millis < 100_000.0 => format!("{:.1} s", millis / 1_000.0),
        millis => format!("{:.0} s", millis / 1_000.0),
    }
}

/// How a wait changed.
pub(crate) fn change(before: f64, after: f64) -> String {
    if before <= 0.0 || after <= 0.0 {
        return "–".to_owned();
    }
    match after / before {
        ratio if ratio <= 0.1 => format!("÷{:.0}", 1.0 / ratio),
        ratio if ratio >= 10.0 => format!("×{ratio:.0}"),
        ratio if ratio >= 1.5 => format!("×{ratio:.1}"),
        ratio => format!("{:+.0} %", (ratio - 1.0) * 100.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.04, 9.96, 640.2, 1_500.0, 250_000.0].map(duration),
            ["0.0 ms", "10.0 ms", "640 ms", "1.5 s", "250 s"]
        );
        assert_eq!(
            [change(100.0, 5.0), change(100.0, 20.0), change(2.0, 5.0), change(0.0, 1.0)],
            ["÷20", "-80 %", "×2.5", "–"]
        );
    }
}
