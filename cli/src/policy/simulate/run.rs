//! One contender in the simulation, and what it came to.

use std::time::Duration;

use serde::Serialize;
use sluicegate_broker::policy_lab::{LoadedPolicy, PolicyLab};
use sluicegate_scheduler::Ask;
use sluicegate_scheduler::simulation::{Counts, Decider, Facts, QuotaUse, Report, Simulation};

use super::compare::{Difference, mean_error, unevenness};
use super::traffic::Traffic;
use super::{Against, PARTS};
use crate::policy::sandbox::{Said, Sandbox};

/// The name of the group that policies are told.
const GROUP: &str = "simulation";

/// Who decides in a run.
pub(super) struct Contender {
    /// As the reports have it: no two are the same.
    pub(super) label: String,
    /// The policy and its configuration; none for built-in fair scheduling.
    policy: Option<(LoadedPolicy, String)>,
}

impl Contender {
    /// All of a command line, loaded.
    ///
    /// # Errors
    /// One cannot be loaded, or its configuration is no JSON.
    pub(super) fn all(lab: &PolicyLab, against: &[Against]) -> anyhow::Result<Vec<Self>> {
        let mut contenders: Vec<Self> = Vec::new();
        for one in against {
            let (name, policy) = match one {
                Against::Fair => ("fair".to_owned(), None),
                Against::Policy(named) => {
                    let stem = named.component.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                    (stem, Some((named.load(lab)?, named.config()?)))
                }
            };
            let taken = |label: &String| contenders.iter().any(|other| other.label == *label);
            let others = (2..).map(|nth| format!("{name} ({nth})"));
            let label = std::iter::once(name.clone()).chain(others).find(|label| !taken(label));
            contenders.push(Self { label: label.expect("numbers do not end"), policy });
        }
        Ok(contenders)
    }

    /// Has it decide on all of the traffic.
    ///
    /// # Errors
    /// The policy refuses its configuration, or does not start.
    pub(super) fn run(&self, traffic: &Traffic, span: Duration) -> anyhow::Result<Run> {
        let simulation = Simulation::new(traffic.group.clone());
        let jobs = traffic.jobs.iter().cloned();
        let (report, said) = match &self.policy {
            None => (simulation.run(&traffic.names, jobs, Decider::Fair, span), Said::default()),
            Some((policy, config)) => {
                let mut sandbox = Sandbox::start(policy.clone(), GROUP, traffic.group.seed, config)?;
                let mut decide = |ask: &Ask, facts: &Facts<'_>| sandbox.ask(ask, &mut { facts });
                let report = simulation.run(&traffic.names, jobs, Decider::Policy(&mut decide), span);
                (report, sandbox.said)
            }
        };
        let policy = self.policy.as_ref().map(|(policy, config)| Decided {
            name: policy.descriptor().name.clone(),
            version: policy.descriptor().version.clone(),
            digest: policy.digest().to_owned(),
            config: config.trim().to_owned(),
        });
        Ok(Run { label: self.label.clone(), policy, report, said })
    }
}

/// A policy that decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Decided {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) digest: String,
    pub(super) config: String,
}

/// A run that is over.
pub(super) struct Run {
    pub(super) label: String,
    pub(super) policy: Option<Decided>,
    pub(super) report: Report,
    pub(super) said: Said,
}

/// What a run came to, in figures: a row of the table, and what `-o json` has of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<Decided>,
    /// Of all decisions: the same for two runs that decided the same.
    pub(super) digest: String,
    pub(super) delivered: u64,
    pub(super) done: u64,
    pub(super) waiting: u64,
    pub(super) wait_ms: Waits,
    /// What deliveries turned out to cost, for each second of the run.
    pub(super) cost_per_second: f64,
    /// Part of all slots that was in work, 0 to 1.
    pub(super) utilisation: f64,
    /// See [`super::compare::Unevenness`].
    pub(super) fairness_error: f64,
    /// Of the quotas that there are.
    pub(super) quotas: Vec<QuotaFigures>,
    pub(super) throttled: u64,
    pub(super) suspended: u64,
    pub(super) dropped: u64,
    pub(super) dead_lettered: u64,
    pub(super) expired: u64,
    pub(super) retried: u64,
    /// The longest time for which a lite topic waited although nothing stood in its way.
    pub(super) starved_ms: f64,
    /// From the first of the contenders.
    pub(super) difference: Difference,
    /// Questions to the policy.
    pub(super) frames: u64,
    pub(super) fuel_per_lite_topic: u64,
    pub(super) faults: u64,
    /// The first of them, in words.
    pub(super) fault_texts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) quarantined_at_ms: Option<f64>,
    /// By name.
    pub(super) tenants: Vec<TenantFigures>,
}

/// Waits from publish to first delivery, in milliseconds. What still waits counts with its wait so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Waits {
    pub(super) p50: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// What was used of a quota.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct QuotaFigures {
    /// `messages` or `cost`.
    pub(super) of: &'static str,
    pub(super) rate: String,
    pub(super) used: u64,
    /// In percent of what it would have given.
    pub(super) used_percent: f64,
    /// The most by which a window was above it; 0 if it was kept.
    pub(super) excess: u64,
}

/// What a tenant had.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct TenantFigures {
    pub(super) name: String,
    pub(super) published: u64,
    pub(super) delivered: u64,
    pub(super) waiting: u64,
    pub(super) cost: u64,
    /// Of what all deliveries cost, in percent.
    pub(super) share_percent: f64,
    pub(super) wait_ms: Waits,
}

impl Figures {
    /// Of a run, held against the first one.
    pub(super) fn new(run: &Run, first: &Run, traffic: &Traffic) -> Self {
        let Run { label, policy, report, said } = run;
        let counts: Counts = report.counts();
        let waits = report.tenants.values().flat_map(|tenant| tenant.waits.iter()).collect();
        let quota = |of, used: Option<QuotaUse>| {
            let QuotaUse { rate, used, allowed, excess } = used?;
            let used_percent = used as f64 * 100.0 / allowed.max(1) as f64;
            Some(QuotaFigures { of, rate: rate.to_string(), used, used_percent, excess })
        };
        let quotas = [quota("messages", report.messages_quota), quota("cost", report.cost_quota)];
        let cost: u64 = report.tenants.values().map(|tenant| tenant.cost).fold(0, u64::saturating_add);
        let part_seconds = report.span.as_secs().div_ceil(PARTS).max(1);
        Self {
            label: label.clone(),
            policy: policy.clone(),
            digest: report.digest.to_string(),
            delivered: counts.delivered,
            done: counts.done,
            waiting: counts.waiting,
            wait_ms: Waits::of(&waits),
            cost_per_second: cost as f64 / report.span.as_secs_f64(),
            utilisation: report.utilisation,
            fairness_error: mean_error(&unevenness(report, part_seconds)),
            quotas: quotas.into_iter().flatten().collect(),
            throttled: counts.throttled,
            suspended: counts.suspended,
            dropped: counts.dropped,
            dead_lettered: counts.dead_lettered,
            expired: counts.expired,
            retried: counts.retried,
            starved_ms: report.starvation.map_or(0.0, |starvation| millis(starvation.lasted)),
            difference: Difference::between(report, &first.report, traffic.jobs.len() as u64),
            frames: report.asks,
            fuel_per_lite_topic: said.fuel.checked_div(said.rows).unwrap_or(0),
            faults: report.faults,
            fault_texts: said.faults.clone(),
            quarantined_at_ms: said.quarantined_at.map(millis),
            tenants: tenants(report, traffic),
        }
    }
}

fn tenants(report: &Report, traffic: &Traffic) -> Vec<TenantFigures> {
    let figures = report.tenants.iter().map(|(id, tenant)| TenantFigures {
        name: traffic.names.of_tenant(*id).name.clone(),
        published: tenant.counts.published,
        delivered: tenant.counts.delivered,
        waiting: tenant.counts.waiting,
        cost: tenant.cost,
        share_percent: tenant.share * 100.0,
        wait_ms: Waits::of(&tenant.waits),
    });
    let mut figures: Vec<TenantFigures> = figures.collect();
    figures.sort_by(|a, b| a.name.cmp(&b.name));
    figures
}

impl Waits {
    fn of(waits: &sluicegate_scheduler::simulation::Waits) -> Self {
        Self { p50: millis(waits.quantile(500)), p99: millis(waits.quantile(990)), max: millis(waits.max()) }
    }
}

/// In milliseconds, to a microsecond.
pub(super) fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1_000.0
}
