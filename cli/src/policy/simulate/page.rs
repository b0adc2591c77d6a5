//! The HTML page: one file that opens from disk, without scripts, fonts or a network.

use askama::Template;

use super::run::{Figures, Run};
use super::table::{self, busiest};
use super::traffic::Traffic;
use super::{Simulated, plots};
use crate::demo::table::{duration, grouped};
use crate::output;

/// Tenants that are shown, those with the most cost first.
const TENANTS_SHOWN: usize = 40;

#[derive(Template)]
#[template(path = "simulation.html")]
struct Page {
    colours: String,
    lead: String,
    pictures: Vec<String>,
    who: Vec<Who>,
    /// Of figures.
    rows: Vec<Row>,
    /// Of tenants.
    tenants: Vec<Row>,
    tenants_left_out: usize,
    faults: Vec<String>,
    facts: Vec<(&'static str, String)>,
}

/// One that decided.
struct Who {
    ink: String,
    label: String,
    policy: String,
    config: String,
    waits: String,
    waiting: String,
}

/// A name, and a cell for each that decided.
struct Row {
    name: String,
    /// What is the same for all; shown with tenants.
    messages: String,
    cells: Vec<String>,
}

/// Writes the page.
///
/// # Errors
/// A picture cannot be drawn.
pub(super) fn html(simulated: &Simulated, traffic: &Traffic, runs: &[Run]) -> anyhow::Result<String> {
    let figures = &simulated.runs;
    let tenants = busiest(figures, TENANTS_SHOWN);
    let row = |(name, figure): &(&str, fn(&Figures) -> String)| Row {
        name: (*name).to_owned(),
        messages: String::new(),
        cells: figures.iter().map(figure).collect(),
    };
    let faults = figures.iter().flat_map(|run| run.fault_texts.iter().map(|text| format!("{}: {text}", run.label)));
    let page = Page {
        colours: plots::colours(),
        lead: format!(
            "{} messages of {} tenants, {} of virtual time, from the {}.",
            grouped(simulated.messages),
            simulated.tenants,
            output::span(runs[0].report.span),
            simulated.source
        ),
        pictures: plots::pictures(traffic, runs, figures)?,
        who: figures.iter().enumerate().map(who).collect(),
        rows: table::ROWS.iter().map(row).collect(),
        tenants_left_out: figures[0].tenants.len() - tenants.len(),
        tenants: tenants.into_iter().map(|name| tenant(figures, name)).collect(),
        faults: faults.collect(),
        facts: facts(simulated, traffic),
    };
    Ok(page.render()?)
}

fn tenant(figures: &[Figures], name: &str) -> Row {
    let of = |run: &Figures| run.tenants.iter().find(|tenant| tenant.name == name).cloned();
    let published = figures.iter().find_map(of).map_or(0, |tenant| tenant.published);
    let cell = |run: &Figures| match of(run) {
        None => "-".to_owned(),
        Some(tenant) => {
            let waits = [tenant.wait_ms.p50, tenant.wait_ms.p99].map(duration).join(" / ");
            format!("{waits} / {}", table::percent(tenant.share_percent))
        }
    };
    Row { name: name.to_owned(), messages: grouped(published), cells: figures.iter().map(cell).collect() }
}

fn who((nth, run): (usize, &Figures)) -> Who {
    let (policy, config) = match &run.policy {
        None => ("built-in fair scheduling".to_owned(), "no configuration"),
        Some(policy) => {
            let digest = policy.digest.get(..16).unwrap_or(&policy.digest);
            let config = if policy.config.is_empty() { "its defaults" } else { &policy.config };
            (format!("{} {}, digest {digest}", policy.name, policy.version), config)
        }
    };
    Who {
        ink: plots::variable(nth),
        label: run.label.clone(),
        policy,
        config: config.to_owned(),
        waits: [run.wait_ms.p50, run.wait_ms.p99].map(duration).join(" / "),
        waiting: grouped(run.waiting),
    }
}

fn facts(simulated: &Simulated, traffic: &Traffic) -> Vec<(&'static str, String)> {
    let settings = &traffic.group.settings;
    let bound = |leases: Option<u32>| leases.map_or("no bound".into(), |leases| leases.to_string());
    let concurrency = &settings.concurrency;
    let (group, tenant, lite) = (bound(concurrency.group), bound(concurrency.tenant), concurrency.lite_topic);
    let quotas = [("messages", settings.quotas.messages), ("cost", settings.quotas.cost)];
    let quotas: Vec<String> = quotas.iter().filter_map(|(of, rate)| Some(format!("{of} {}", (*rate)?))).collect();
    let factor = simulated.speed_up.map_or("as it came".into(), |factor| format!("{factor} times as fast as it came"));
    vec![
        ("Traffic", format!("{}, {factor}", simulated.source)),
        ("Consumers", format!("{} with {} slots each", simulated.consumers, simulated.slots)),
        ("Open leases", format!("group {group}, tenant {tenant}, lite topic {lite}")),
        ("Quotas", if quotas.is_empty() { "none".into() } else { quotas.join(", ") }),
        ("Seed", simulated.seed.to_string()),
        ("Notes", simulated.notes.join(". ")),
        ("Simulated by", format!("sluice {}", env!("CARGO_PKG_VERSION"))),
    ]
}
