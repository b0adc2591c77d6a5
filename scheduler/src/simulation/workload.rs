//! Workloads that are drawn: the messages of some loads, in the order of time.

use std::collections::BTreeMap;
use std::time::Duration;

use sluicegate_protocol::{LiteId, TenantId};

use super::draws::{Draws, Spread};
use super::job::{Job, Named, Names};
use super::load::{Arrivals, Lites, Load};

/// Attempts of one message that may fail by chance.
const FAILURES_MAX: u32 = 64;

/// The loads of some tenants, and the names in them. Each load draws on its own: one more does not change those before it.
#[derive(Debug, Clone)]
pub struct Workload {
    seed: u64,
    names: Names,
    loads: Vec<Placed>,
}

/// A load with its ids.
#[derive(Debug, Clone)]
struct Placed {
    tenant: TenantId,
    first_lite: LiteId,
    /// Where its properties are in [`Job::numbers`].
    places: Vec<usize>,
    load: Load,
}

impl Workload {
    /// Without loads. The same seed gives the same messages.
    pub fn new(seed: u64) -> Self {
        Self { seed, names: Names::default(), loads: Vec::new() }
    }

    /// Adds what a tenant publishes. Several loads of one tenant have lite topics of their own.
    pub fn add(&mut self, tenant: &str, load: Load) -> TenantId {
        let id = self.names.tenant(tenant);
        let lites = match load.lites {
            Lites::Shared(lites) => lites,
            // Where their number is not known, the ids of a load without end are far from those of the others.
            Lites::OnePerMessage => load.messages.min(1 << 40),
        };
        let first_lite = self.names.next_lites(lites);
        if !load.labels.is_empty() {
            let named = Named { name: tenant.into(), labels: load.labels.clone() };
            self.names.label_lites(first_lite, lites, named);
        }
        let places = load.properties.iter().map(|(name, _)| self.names.property(name)).collect();
        self.loads.push(Placed { tenant: id, first_lite, places, load });
        id
    }

    /// A label of a tenant, as a group's settings have them.
    pub fn label(&mut self, tenant: &str, key: &str, value: &str) {
        let tenant = self.names.tenant(tenant);
        self.names.label_tenant(tenant, key, value);
    }

    /// The names.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The messages, in the order of time; without end if a load has none.
    pub fn jobs(&self) -> Jobs<'_> {
        let seeds = (1..).map(|nth: u64| self.seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let streams = self.loads.iter().zip(seeds).map(|(placed, seed)| Stream::new(placed, Draws::new(seed)));
        let mut jobs = Jobs { streams: streams.collect(), next: BTreeMap::new() };
        for stream in 0..jobs.streams.len() {
            jobs.draw(stream);
        }
        jobs
    }
}

/// The messages of a [`Workload`], drawn one by one.
#[derive(Debug, Clone)]
pub struct Jobs<'a> {
    streams: Vec<Stream<'a>>,
    /// The next message of each stream.
    next: BTreeMap<(Duration, usize), Job>,
}

impl Jobs<'_> {
    fn draw(&mut self, stream: usize) {
        if let Some(job) = self.streams[stream].draw() {
            self.next.insert((job.at, stream), job);
        }
    }
}

impl Iterator for Jobs<'_> {
    type Item = Job;

    fn next(&mut self) -> Option<Job> {
        let ((_, stream), job) = self.next.pop_first()?;
        self.draw(stream);
        Some(job)
    }
}

/// The messages of one load.
#[derive(Debug, Clone)]
struct Stream<'a> {
    placed: &'a Placed,
    draws: Draws,
    at: Duration,
    nth: u64,
}

impl<'a> Stream<'a> {
    fn new(placed: &'a Placed, mut draws: Draws) -> Self {
        let at = match placed.load.arrivals {
            Arrivals::Poisson(mean) => placed.load.starts.saturating_add(Spread::Exponential(mean).draw(&mut draws)),
            Arrivals::Every(_) | Arrivals::Bursts { .. } => placed.load.starts,
        };
        Self { placed, draws, at, nth: 0 }
    }

    fn draw(&mut self) -> Option<Job> {
        let Placed { tenant, first_lite, places, load } = self.placed;
        if self.nth >= load.messages || self.at >= load.ends {
            return None;
        }
        let nth_lite = match load.lites {
            Lites::Shared(lites) => self.nth % lites,
            Lites::OnePerMessage => self.nth,
        };
        let cost = load.cost.draw(&mut self.draws);
        let percent = load.measured_percent.draw(&mut self.draws);
        let mut numbers = vec![None; places.iter().max().map_or(0, |last| last + 1)];
        for (place, (_, value)) in places.iter().zip(&load.properties) {
            numbers[*place] = Some(value.draw(&mut self.draws));
        }
        let job = Job {
            priority: load.priority,
            cost,
            measured: u64::try_from(u128::from(cost) * u128::from(percent) / 100).unwrap_or(u64::MAX),
            service: load.service.draw(&mut self.draws),
            deliver_after: load.deliver_after,
            expires_after: load.expires_after,
            failures: self.failures(load.failing_percent),
            retry_after: load.retry_after,
            numbers: numbers.into(),
            ..Job::new(self.at, *tenant, LiteId(first_lite.0.saturating_add(nth_lite)))
        };
        self.nth += 1;
        self.at = self.at.saturating_add(self.gap());
        Some(job)
    }

    /// From the message before to this one.
    fn gap(&mut self) -> Duration {
        match self.placed.load.arrivals {
            Arrivals::Every(gap) => gap,
            Arrivals::Poisson(mean) => Spread::Exponential(mean).draw(&mut self.draws),
            Arrivals::Bursts { messages, every } if self.nth.is_multiple_of(messages) => every,
            Arrivals::Bursts { .. } => Duration::ZERO,
        }
    }

    fn failures(&mut self, percent: u64) -> u32 {
        let mut failures = 0;
        while percent > 0 && failures < FAILURES_MAX && self.draws.up_to(99) < percent {
            failures += 1;
        }
        failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(load: Load, count: usize) -> Vec<u128> {
        let mut workload = Workload::new(1);
        workload.add("ada", load);
        workload.jobs().take(count).map(|job| job.at.as_millis()).collect()
    }

    const TEN_MS: Duration = Duration::from_millis(10);

    #[test]
    fn arrivals_come_as_they_are_described() {
        assert_eq!(times(Load::every(TEN_MS).starting(TEN_MS), 3), [10, 20, 30]);
        assert_eq!(times(Load::every(TEN_MS).ending(TEN_MS * 2), 9), [0, 10]);
        assert_eq!(times(Load::bursts(2, TEN_MS), 5), [0, 0, 10, 10, 20]);
        assert_eq!(times(Load::at_once(3).starting(TEN_MS), 9), [10, 10, 10]);
        let poisson = times(Load::poisson(TEN_MS), 10_000);
        assert!(poisson.is_sorted() && poisson[9_999].abs_diff(100_000) < 3_000, "{}", poisson[9_999]);
    }

    #[test]
    #[should_panic(expected = "bursts without messages never end")]
    fn a_burst_has_messages() {
        let _ = Load::bursts(0, TEN_MS);
    }

    #[test]
    fn the_longest_times_and_the_most_lite_topics_fit() {
        assert_eq!(times(Load::at_once(0), 1), []);
        assert_eq!(times(Load::poisson(TEN_MS).starting(Duration::MAX), 1), []);
        let mut workload = Workload::new(1);
        for name in ["ada", "bob"] {
            workload.add(name, Load::every(TEN_MS).lites(u64::MAX));
        }
        let lites: Vec<u64> = workload.jobs().take(4).map(|job| job.lite.0).collect();
        assert_eq!(lites, [1, u64::MAX, 2, u64::MAX]);
    }

    #[test]
    fn loads_are_merged_by_time_and_draw_on_their_own() {
        let mut alone = Workload::new(1);
        let ada = alone.add("ada", Load::poisson(TEN_MS).lites(2).cost(1..=100));
        let mut both = alone.clone();
        both.add("bob", Load::poisson(TEN_MS));
        let merged: Vec<Job> = both.jobs().take(1_000).collect();
        assert!(merged.is_sorted_by_key(|job| job.at));
        let of_ada: Vec<Job> = merged.into_iter().filter(|job| job.tenant == ada).collect();
        assert!(of_ada.iter().eq(alone.jobs().take(of_ada.len()).collect::<Vec<_>>().iter()));
        assert_eq!(of_ada.iter().take(3).map(|job| job.lite.0).collect::<Vec<_>>(), [1, 2, 1]);
    }

    #[test]
    fn labels_properties_and_failures_are_those_of_the_load() {
        let mut workload = Workload::new(1);
        workload.add("ada", Load::every(TEN_MS).property("tokens", 5).failing(50).measured_percent(200).cost(3));
        workload.add("bob", Load::every(TEN_MS).property("rank", 1..=3).label("plan", "pro"));
        let jobs: Vec<Job> = workload.jobs().take(200).collect();
        assert_eq!((&*jobs[0].numbers, jobs[0].measured), (&[Some(5)][..], 6));
        assert!(jobs[1].numbers[0].is_none() && (1..=3).contains(&jobs[1].numbers[1].unwrap()));
        assert_eq!(workload.names().of_lite(jobs[1].lite).unwrap().labels, [("plan".into(), "pro".into())]);
        let failing = jobs.iter().filter(|job| job.failures > 0).count();
        assert!(failing.abs_diff(50) < 15, "{failing}");
    }
}
