//! Turns a trace into the demo's plan: who sends what when, what the quotas are, what the policy is told.
//!
//! The trace has no users, so each request is given one by a seeded Zipf draw. Its time is compressed; the quotas
//! are derived from what is then offered, so that the cost quota binds and a few greedy users build a backlog.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use rand::SeedableRng as _;
use rand_distr::{Distribution as _, Zipf};
use rand_pcg::Pcg64Mcg;
use sluicegate_protocol::Rate;

use super::trace::{Request, Trace};

/// Mean arrivals per second above which only the first part of a trace is taken.
const MESSAGES_PER_SECOND_MAX: f64 = 150.0;
/// What the first half of the run offers, as a multiple of the cost quota.
const OVERLOAD: f64 = 1.25;
/// What the whole run may offer at most, as a multiple of the cost quota; it bounds the time to drain.
const OVERLOAD_TOTAL_MAX: f64 = 1.4;
/// The second half may offer this much more than the first; a longer part of the trace is not taken.
const HALVES_RATIO_MAX: f64 = 1.25;
/// A burst is what comes in one of so many parts of the run.
const BURST_WINDOWS: [u32; 2] = [20, 6];
/// The share of the cost quota that the policy lets the tenants take together.
const POLICY_SHARE: f64 = 0.7;
/// Group bursts, as a part of a second's quota.
const BURST_SECONDS: f64 = 0.25;
/// The share of its time for which the busiest lite topic, one lease at a time, would be in service.
const BUSIEST_UTILISATION: f64 = 0.35;
/// Longest mean service time: a small trace need not have slow workers.
const SERVICE_MEAN_MAX: Duration = Duration::from_millis(100);
/// Service time of a token read, relative to one written: prompts are processed in parallel.
const CONTEXT_TOKEN_WEIGHT: f64 = 0.01;
/// Fewest workers.
const WORKERS_MIN: u32 = 16;

/// What a run is made of, beside the trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Settings {
    /// Time in which all requests arrive; default 60 s.
    pub(crate) length: Duration,
    /// Users to draw from; default 200.
    pub(crate) users: u32,
    /// Exponent of the Zipf law; default 1.4, by which a handful of users ask for half of everything.
    pub(crate) exponent: f64,
    /// Seed of all draws; default 1.
    pub(crate) seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { length: Duration::from_mins(1), users: 200, exponent: 1.4, seed: 1 }
    }
}

impl Settings {
    /// Requests that a run of this length can use at most.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a length is far below 2^53")]
    pub(crate) fn requests_max(&self) -> usize {
        (self.length.as_secs_f64() * MESSAGES_PER_SECOND_MAX) as usize
    }
}

/// A tenant class, by what a user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The few users who together ask for half of the cost.
    Greedy,
    /// Those between.
    Regular,
    /// The many users who together ask for a fifth.
    Light,
}

impl Class {
    /// All classes, in the order in which they are shown.
    pub(crate) const ALL: [Self; 3] = [Self::Greedy, Self::Regular, Self::Light];

    /// Its name in tables and in the summary.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Greedy => "greedy",
            Self::Regular => "regular",
            Self::Light => "light",
        }
    }
}

/// One user: a lite topic and a tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    /// Name of its lite topic.
    pub(crate) name: String,
    /// By its share of the cost.
    pub(crate) class: Class,
    /// Requests in the plan.
    pub(crate) messages: u64,
    /// Their actual cost.
    pub(crate) cost: u64,
}

/// One request to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// Since the start of the run.
    pub(crate) at: Duration,
    /// Index into [`Plan::users`].
    pub(crate) user: u32,
    /// Position among the user's requests, from 0.
    pub(crate) sequence: u64,
    /// What is known when it is sent: its prompt, and the trace's median answer.
    pub(crate) cost_estimate: u32,
    /// What is measured in the end: its prompt and its answer.
    pub(crate) cost_actual: u32,
    /// How long a worker holds its lease.
    pub(crate) service_time: Duration,
}

/// Configuration of the per-tenant token bucket policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyLimits {
    /// Cost units per second and tenant.
    pub(crate) rate_per_second: u32,
    /// Cost units that a rested tenant may use at once.
    pub(crate) burst: u32,
}

impl PolicyLimits {
    /// The configuration as the policy reads it.
    pub(crate) fn to_json(self) -> String {
        let Self { rate_per_second, burst } = self;
        serde_json::json!({ "unit": "cost", "rate_per_second": rate_per_second, "burst": burst, "overrides": [] })
            .to_string()
    }
}

/// Everything that a run does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan {
    /// What it was made with.
    pub(crate) settings: Settings,
    /// In the order of their arrival.
    pub(crate) arrivals: Vec<Arrival>,
    /// Users with at least one request, most cost first.
    pub(crate) users: Vec<User>,
    /// The group's quota of deliveries.
    pub(crate) messages_quota: Rate,
    /// The group's quota of cost.
    pub(crate) cost_quota: Rate,
    /// What the policy is told.
    pub(crate) policy: PolicyLimits,
    /// Messages that workers hold at once, far more than service times need.
    pub(crate) workers: u32,
    /// When the policy is activated.
    pub(crate) swap_after: Duration,
    /// By how much the trace's time was compressed.
    pub(crate) compression: f64,
    /// The median of generated tokens in the trace.
    pub(crate) generated_median: u32,
}

impl Plan {
    /// Plans a run over a trace.
    ///
    /// # Errors
    /// The settings make no run, or the trace is too short or costs more than quotas can say.
    pub(crate) fn new(trace: &Trace, settings: Settings) -> anyhow::Result<Self> {
        ensure!(settings.length >= Duration::from_secs(1), "a run takes at least 1 second");
        ensure!(settings.users >= 2, "a run has at least 2 users, found {}", settings.users);
        ensure!(
            settings.exponent > 0.0 && settings.exponent <= 4.0,
            "the Zipf exponent is above 0 and at most 4, found {}",
            settings.exponent
        );
        let requests = balanced_prefix(&trace.requests, settings.requests_max());
        ensure!(requests.len() >= 2, "{} has {} request(s), a run needs at least 2", trace.source, requests.len());

        let generated_median = median(requests.iter().map(|request| request.generated_tokens));
        let span = requests[requests.len() - 1].arrival;
        let compression = (span.as_secs_f64() / settings.length.as_secs_f64()).max(f64::MIN_POSITIVE);
        let mut arrivals = draw_users(requests, &settings, compression, generated_median)?;
        let users = rank_users(&mut arrivals, settings.users);
        let busiest = users.iter().map(|user| user.messages).max().unwrap_or(1);
        let service_mean = settings.length.mul_f64(BUSIEST_UTILISATION / busiest as f64).min(SERVICE_MEAN_MAX);
        set_service_times(&mut arrivals, requests, service_mean);

        let swap_after = settings.length / 2;
        let cost_quota = cost_quota(&arrivals, settings.length)?;
        let per_second = arrivals.len() as f64 / settings.length.as_secs_f64();
        // Three times the mean: there to be checked, not to bind.
        let messages_quota = rate(3.0 * per_second, 3.0 * per_second)?;
        let policy = policy_limits(&arrivals, &users, cost_quota, settings.length, swap_after);
        let busy = service_mean.as_secs_f64() * per_second;
        let workers = WORKERS_MIN.max(whole(4.0 * busy));
        Ok(Self {
            settings,
            arrivals,
            users,
            messages_quota,
            cost_quota,
            policy,
            workers,
            swap_after,
            compression,
            generated_median,
        })
    }

    /// Actual cost of all requests.
    pub(crate) fn cost(&self) -> u64 {
        self.arrivals.iter().map(|arrival| u64::from(arrival.cost_actual)).sum()
    }

    /// Cost that is offered, as a multiple of what the quota lets through in the run's length.
    pub(crate) fn offered_load(&self) -> f64 {
        self.cost() as f64 / (f64::from(self.cost_quota.units()) * self.settings.length.as_secs_f64())
    }
}

/// The longest part from the start, of at most `max` requests, whose second half is not much more than its first: a run
/// that ends in a flood takes long to drain, and waits in a worse burst cannot be compared.
fn balanced_prefix(requests: &[Request], max: usize) -> &[Request] {
    let requests = &requests[..requests.len().min(max.max(2))];
    let lengths = (25..=100).rev().map(|percent| requests.len() * percent / 100).filter(|length| *length >= 2);
    let mut prefixes = lengths.map(|length| &requests[..length]);
    prefixes.find(|prefix| is_balanced(prefix)).unwrap_or(requests)
}

fn is_balanced(requests: &[Request]) -> bool {
    let span = requests[requests.len() - 1].arrival;
    let (first, second) = requests.split_at(requests.partition_point(|request| request.arrival < span / 2));
    let cost = |half: &[Request]| half.iter().map(tokens).sum::<u64>() as f64;
    let no_worse_burst = |parts: &u32| heaviest(second, span / *parts) <= heaviest(first, span / *parts);
    cost(second) <= HALVES_RATIO_MAX * cost(first) && BURST_WINDOWS.iter().all(no_worse_burst)
}

/// Most tokens that arrive in any time of length `window`.
fn heaviest(requests: &[Request], window: Duration) -> u64 {
    let (mut oldest, mut sum, mut most) = (0, 0, 0);
    for request in requests {
        sum += tokens(request);
        while requests[oldest].arrival + window < request.arrival {
            sum -= tokens(&requests[oldest]);
            oldest += 1;
        }
        most = most.max(sum);
    }
    most
}

fn tokens(request: &Request) -> u64 {
    u64::from(request.context_tokens) + u64::from(request.generated_tokens)
}

fn draw_users(
    requests: &[Request],
    settings: &Settings,
    compression: f64,
    generated_median: u32,
) -> anyhow::Result<Vec<Arrival>> {
    let mut random = Pcg64Mcg::seed_from_u64(settings.seed);
    let law = Zipf::new(f64::from(settings.users), settings.exponent).context("the Zipf law has no such exponent")?;
    let arrival = |request: &Request| Arrival {
        at: request.arrival.div_f64(compression).min(settings.length),
        user: whole(law.sample(&mut random)) - 1,
        sequence: 0,
        cost_estimate: (request.context_tokens + generated_median).max(1),
        cost_actual: (request.context_tokens + request.generated_tokens).max(1),
        service_time: Duration::ZERO,
    };
    Ok(requests.iter().map(arrival).collect())
}

/// Numbers users by their cost, most first, names and classes them; numbers each user's requests.
fn rank_users(arrivals: &mut [Arrival], drawn: u32) -> Vec<User> {
    let mut totals: Vec<(u32, u64, u64)> = (0..drawn).map(|user| (user, 0, 0)).collect();
    for arrival in &mut *arrivals {
        let (_, messages, cost) = &mut totals[arrival.user as usize];
        arrival.sequence = *messages;
        *messages += 1;
        *cost += u64::from(arrival.cost_actual);
    }
    totals.retain(|(_, messages, _)| *messages > 0);
    totals.sort_by_key(|(user, _, cost)| (std::cmp::Reverse(*cost), *user));

    let all: u64 = totals.iter().map(|(_, _, cost)| cost).sum();
    let mut ranks = vec![0; drawn as usize];
    let mut before = 0;
    let mut users = Vec::with_capacity(totals.len());
    for (rank, (user, messages, cost)) in (0_u32..).zip(totals) {
        ranks[user as usize] = rank;
        let class = match before {
            before if before * 2 < all => Class::Greedy,
            before if before * 5 < all * 4 => Class::Regular,
            _ => Class::Light,
        };
        users.push(User { name: format!("user-{:03}", rank + 1), class, messages, cost });
        before += cost;
    }
    for arrival in arrivals {
        arrival.user = ranks[arrival.user as usize];
    }
    users
}

fn set_service_times(arrivals: &mut [Arrival], requests: &[Request], mean: Duration) {
    let work = |request: &Request| {
        CONTEXT_TOKEN_WEIGHT * f64::from(request.context_tokens) + f64::from(request.generated_tokens)
    };
    let mean_work = requests.iter().map(work).sum::<f64>() / requests.len() as f64;
    for (arrival, request) in arrivals.iter_mut().zip(requests) {
        arrival.service_time = mean.mul_f64(work(request) / mean_work.max(f64::MIN_POSITIVE));
    }
}

fn cost_quota(arrivals: &[Arrival], length: Duration) -> anyhow::Result<Rate> {
    let cost = |arrivals: &[Arrival]| arrivals.iter().map(|arrival| f64::from(arrival.cost_estimate)).sum::<f64>();
    let half = arrivals.partition_point(|arrival| arrival.at < length / 2);
    let seconds = length.as_secs_f64();
    let first_half = cost(&arrivals[..half]) / (seconds / 2.0) / OVERLOAD;
    let per_second = first_half.max(cost(arrivals) / seconds / OVERLOAD_TOTAL_MAX);
    rate(per_second, (per_second * BURST_SECONDS).max(2.0 * dearest(arrivals)))
}

/// The rate at which the tenants together take [`POLICY_SHARE`] of the quota after the swap, the greedy ones cut to it;
/// and a burst that light tenants never use up.
fn policy_limits(
    arrivals: &[Arrival],
    users: &[User],
    quota: Rate,
    length: Duration,
    swap_after: Duration,
) -> PolicyLimits {
    let seconds = length.saturating_sub(swap_after).as_secs_f64();
    let mut demands = vec![0.0; users.len()];
    for arrival in arrivals.iter().filter(|arrival| arrival.at >= swap_after) {
        demands[arrival.user as usize] += f64::from(arrival.cost_estimate) / seconds;
    }
    let taken = |rate: f64| demands.iter().map(|demand: &f64| demand.min(rate)).sum::<f64>();
    let wanted = POLICY_SHARE * f64::from(quota.units());
    let (mut low, mut high) = (1.0, f64::from(quota.units()));
    for _ in 0..40 {
        let middle = f64::midpoint(low, high);
        if taken(middle) > wanted { high = middle } else { low = middle }
    }
    let burst = light_burst(arrivals, users, low).max(dearest(arrivals));
    PolicyLimits { rate_per_second: whole(low).max(1), burst: whole(burst).max(1) }
}

/// What light tenants take most at once, above `rate`.
fn light_burst(arrivals: &[Arrival], users: &[User], rate: f64) -> f64 {
    let mut levels = vec![(Duration::ZERO, 0.0); users.len()];
    let mut highest: f64 = 0.0;
    for arrival in arrivals.iter().filter(|arrival| users[arrival.user as usize].class == Class::Light) {
        let (since, level) = &mut levels[arrival.user as usize];
        let left = *level - rate * arrival.at.saturating_sub(*since).as_secs_f64();
        *level = left.max(0.0) + f64::from(arrival.cost_estimate);
        *since = arrival.at;
        highest = highest.max(*level);
    }
    highest
}

fn dearest(arrivals: &[Arrival]) -> f64 {
    f64::from(arrivals.iter().map(|arrival| arrival.cost_estimate).max().unwrap_or(1))
}

fn median(values: impl Iterator<Item = u32>) -> u32 {
    let mut values: Vec<u32> = values.collect();
    let middle = values.len() / 2;
    *values.select_nth_unstable(middle).1
}

fn rate(units_per_second: f64, burst: f64) -> anyhow::Result<Rate> {
    let units = |value: f64| whole(value.ceil()).max(1);
    Rate::per_second(units(units_per_second), units(burst)).context("the trace offers more than a quota can say")
}

/// To a whole number; saturates.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturating is meant")]
fn whole(value: f64) -> u32 {
    value as u32
}
