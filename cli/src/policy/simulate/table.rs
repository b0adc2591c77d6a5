//! What the command prints for people.

use comfy_table::{CellAlignment, Table};

use super::Simulated;
use super::run::{Figures, QuotaFigures, Waits};
use crate::demo::table::{duration, grouped};
use crate::output;

/// Tenants that are shown, those with the most cost first.
const TENANTS_SHOWN: usize = 12;

/// All of it.
pub(super) fn text(simulated: &Simulated) -> String {
    let Simulated { source, messages, tenants, span_seconds, seed, consumers, slots, .. } = simulated;
    let head = format!(
        "{} messages of {tenants} tenants in {} from {source}\n{consumers} consumers with {slots} slots, seed {seed}{}",
        grouped(*messages),
        output::span(std::time::Duration::from_secs(*span_seconds)),
        simulated.speed_up.map_or(String::new(), |factor| format!(", {factor} times as fast")),
    );
    let mut lines = vec![head];
    lines.extend(simulated.notes.iter().map(|note| format!("- {note}")));
    lines.push(format!("\n{}\n\n{}", runs(&simulated.runs), waits(&simulated.runs)));
    for run in &simulated.runs {
        lines.extend(run.fault_texts.iter().map(|fault| format!("{}: a fault: {fault}", run.label)));
        if let Some(at) = run.quarantined_at_ms {
            let after = duration(at);
            lines.push(format!("{}: in quarantine after {after}: fair scheduling decided from there on", run.label));
        }
    }
    lines.push(format!("\nreport: {}", simulated.report.display()));
    lines.join("\n")
}

/// A column for each that decided.
fn runs(runs: &[Figures]) -> Table {
    let mut columns = vec!["WHO DECIDES"];
    columns.extend(runs.iter().map(|run| run.label.as_str()));
    let mut table = output::table(&columns);
    for (name, figure) in ROWS {
        table.add_row(std::iter::once((*name).to_owned()).chain(runs.iter().map(figure)));
    }
    right(&mut table);
    table
}

/// A figure of a run as text.
type Shown = fn(&Figures) -> String;

/// What is shown of a run, in the order in which it is shown. The page has the same.
pub(super) const ROWS: &[(&str, Shown)] = &[
    ("delivered", |run| grouped(run.delivered)),
    ("waiting at the end", |run| grouped(run.waiting)),
    ("wait p50", |run| duration(run.wait_ms.p50)),
    ("wait p99", |run| duration(run.wait_ms.p99)),
    ("longest wait", |run| duration(run.wait_ms.max)),
    ("cost per second", |run| format!("{:.0}", run.cost_per_second)),
    ("slots in work", |run| percent(run.utilisation * 100.0)),
    ("fairness error", |run| percent(run.fairness_error * 100.0)),
    ("quota used", |run| quota(&run.quotas)),
    ("throttled", |run| grouped(run.throttled)),
    ("suspended", |run| grouped(run.suspended)),
    ("dead-lettered, dropped", |run| format!("{}, {}", grouped(run.dead_lettered), grouped(run.dropped))),
    ("expired", |run| grouped(run.expired)),
    ("starved", |run| duration(run.starved_ms)),
    ("sooner, later, otherwise", |run| {
        let difference = run.difference;
        [difference.sooner, difference.later, difference.otherwise].map(grouped).join(", ")
    }),
    ("decided differently", |run| percent(run.difference.percent())),
    ("frames", |run| grouped(run.frames)),
    ("fuel per lite topic", |run| run.policy.as_ref().map_or("-".into(), |_| grouped(run.fuel_per_lite_topic))),
    ("faults", |run| grouped(run.faults)),
    ("digest of decisions", |run| run.digest.clone()),
];

/// How long tenants waited under each.
fn waits(runs: &[Figures]) -> Table {
    let mut columns = vec!["TENANT".to_owned(), "MESSAGES".to_owned()];
    columns.extend(runs.iter().map(|run| format!("{}: P50, P99, SHARE", run.label)));
    let mut table = output::table(&columns.iter().map(String::as_str).collect::<Vec<_>>());
    for name in busiest(runs, TENANTS_SHOWN) {
        let of = |run: &Figures| run.tenants.iter().find(|tenant| tenant.name == name).cloned();
        let published = runs.iter().find_map(of).map_or(0, |tenant| tenant.published);
        let mut row = vec![name.to_owned(), grouped(published)];
        row.extend(runs.iter().map(|run| {
            let Some(tenant) = of(run) else { return "-".to_owned() };
            let Waits { p50, p99, .. } = tenant.wait_ms;
            format!("{}, {}, {}", duration(p50), duration(p99), percent(tenant.share_percent))
        }));
        table.add_row(row);
    }
    right(&mut table);
    table
}

/// The tenants with the most cost in the first run, most first.
pub(super) fn busiest(runs: &[Figures], most: usize) -> Vec<&str> {
    let mut tenants: Vec<_> = runs.iter().take(1).flat_map(|run| &run.tenants).collect();
    tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.cost));
    tenants.into_iter().take(most).map(|tenant| tenant.name.as_str()).collect()
}

/// How much of each quota was used, and that it was kept.
pub(super) fn quota(quotas: &[QuotaFigures]) -> String {
    let one = |quota: &QuotaFigures| match quota.excess {
        0 => format!("{} {}", quota.of, percent(quota.used_percent)),
        excess => format!("{} {}, {excess} above", quota.of, percent(quota.used_percent)),
    };
    if quotas.is_empty() { "-".into() } else { quotas.iter().map(one).collect::<Vec<_>>().join(", ") }
}

/// With one digit after the point.
pub(super) fn percent(percent: f64) -> String {
    format!("{percent:.1} %")
}

fn right(table: &mut Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}
