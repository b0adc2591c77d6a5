//! A group and what comes to it, drawn from a seed: to try a policy with what nobody thought of.

use std::time::Duration;

use sluicegate_protocol::Rate;

use super::draws::{Draws, Spread};
use super::group::Group;
use super::load::Load;
use super::workload::Workload;

/// Tenants of a draw.
const TENANTS_MAX: u64 = 6;
/// Messages of one load, so that a draw is done in a moment.
const MESSAGES_MAX: u64 = 1_500;

/// A group, and what its tenants publish.
///
/// ```
/// use sluicegate_scheduler::simulation::{Decider, Drawn, Simulation};
///
/// let drawn = Drawn::new(7, &[]);
/// let workload = drawn.workload();
/// let report = Simulation::new(drawn.group.clone()).run(workload.names(), workload.jobs(), Decider::Fair, Drawn::SPAN);
/// assert!(report.counts().delivered > 0);
/// ```
#[derive(Debug, Clone)]
pub struct Drawn {
    /// Who works.
    pub group: Group,
    /// Tenants and what they publish.
    pub loads: Vec<(String, Load)>,
    /// Tenants and a label of theirs: key and value.
    pub labels: Vec<(String, String, String)>,
}

impl Drawn {
    /// How long a draw is worth looking at.
    pub const SPAN: Duration = Duration::from_mins(1);

    /// The same seed gives the same. Messages have these numeric properties, or not.
    ///
    /// # Panics
    /// Never: what is drawn fits.
    pub fn new(seed: u64, properties: &[String]) -> Self {
        let mut draws = Draws::new(seed);
        let mut group =
            Group { sessions: between(&mut draws, 1, 3), slots: between(&mut draws, 1, 20), ..Group::default() };
        group.seed = seed;
        group.settings.concurrency.lite_topic = between(&mut draws, 1, 3);
        group.settings.concurrency.tenant = one_in(&mut draws, 3).then(|| between(&mut draws, 1, 8));
        if one_in(&mut draws, 2) {
            let (units, burst) = (between(&mut draws, 200, 20_000), between(&mut draws, 100, 40_000));
            group.settings.quotas.cost = Some(Rate::per_second(units, burst).expect("a small rate"));
        }
        group.settings.max_attempts = between(&mut draws, 1, 5);
        let tenants = 1 + draws.up_to(TENANTS_MAX - 1);
        let (mut loads, mut labels) = (Vec::new(), Vec::new());
        for nth in 1..=tenants {
            let tenant = if one_in(&mut draws, 2) { format!("org/team/{nth}") } else { format!("user-{nth}") };
            if one_in(&mut draws, 2) {
                let tier = ["gold", "vip", "free", "trial"][between(&mut draws, 0, 3) as usize];
                labels.push((tenant.clone(), "tier".into(), tier.into()));
            }
            loads.push((tenant, load(&mut draws, properties)));
        }
        Self { group, loads, labels }
    }

    /// The loads with their names.
    pub fn workload(&self) -> Workload {
        let mut workload = Workload::new(self.group.seed);
        for (tenant, load) in &self.loads {
            workload.add(tenant, load.clone());
        }
        for (tenant, key, value) in &self.labels {
            workload.label(tenant, key, value);
        }
        workload
    }
}

fn load(draws: &mut Draws, properties: &[String]) -> Load {
    let millis = |draws: &mut Draws, low, high| Duration::from_millis(between(draws, low, high).into());
    let arrivals = match draws.up_to(3) {
        0 => Load::every(millis(draws, 5, 300)),
        1 => Load::poisson(millis(draws, 5, 300)),
        2 => Load::bursts(1 + draws.up_to(40), millis(draws, 500, 8_000)),
        _ => Load::at_once(1 + draws.up_to(MESSAGES_MAX - 1)),
    };
    let cost = 1 + draws.up_to(999);
    let service = millis(draws, 1, 400);
    let mut load = arrivals
        .messages(MESSAGES_MAX)
        .starting(millis(draws, 0, 30_000))
        .lites(1 + draws.up_to(39))
        .priority(u8::try_from(draws.up_to(9)).expect("it is at most 9"))
        .cost(1..=cost)
        .measured_percent(draws.up_to(80)..=200)
        .service(if one_in(draws, 2) { Spread::Exponential(service) } else { Spread::Between(Duration::ZERO, service) })
        .failing(draws.up_to(20));
    if one_in(draws, 3) {
        load = load.expires_after(millis(draws, 1, 10_000));
    }
    if one_in(draws, 3) {
        load = load.retry_after(millis(draws, 1, 5_000));
    }
    if one_in(draws, 3) {
        load = load.label("class", "batch");
    }
    for property in properties {
        if one_in(draws, 2) {
            load = load.property(property, 0..=draws.up_to(1_000));
        }
    }
    load
}

fn between(draws: &mut Draws, low: u32, high: u32) -> u32 {
    low + u32::try_from(draws.up_to(u64::from(high - low))).expect("it is at most high")
}

fn one_in(draws: &mut Draws, many: u64) -> bool {
    draws.up_to(many - 1) == 0
}

#[cfg(test)]
mod tests {
    use super::super::job::Job;
    use super::*;

    #[test]
    fn a_seed_gives_the_same_and_another_one_something_else() {
        let jobs = |seed| Drawn::new(seed, &["tokens".into()]).workload().jobs().take(500).collect::<Vec<Job>>();
        assert_eq!(jobs(1), jobs(1));
        assert_ne!(jobs(1), jobs(2));
        let any = |holds: fn(&Job) -> bool| (1..40).flat_map(jobs).any(|job| holds(&job));
        assert!(any(|job| job.failures > 0) && any(|job| job.expires_after.is_some()));
        assert!(any(|job| job.numbers.first().is_some_and(Option::is_some)));
    }
}
