//! The public Azure LLM traces say when a request came and how many tokens it read and wrote. The rest is given by rule.
//!
//! | | |
//! |---|---|
//! | tenant | drawn: the nth of N tenants gets a share proportional to 1 / n, as users' activity often goes |
//! | lite topic | drawn: one of [`LITES_PER_TENANT`] of its tenant, each as likely |
//! | service time | [`BASE`], and [`READ`] for each token read, and [`WRITE`] for each token written |
//! | estimated cost | tokens read, and the median of tokens written in the trace |
//! | measured cost | tokens read and written |
//! | slots | what the work needs on average, rounded up |
//!
//! All draws are whole numbers from the seed: the same on every machine.

use std::time::Duration;

use sluicegate_protocol::LiteId;
use sluicegate_scheduler::simulation::{Draws, Group, Job, Names};

use super::{Choices, MESSAGES_MAX, Traffic, micros, slots_for};
use crate::demo::trace::{Request, Trace};

/// Conversations of one tenant: one message at a time in each.
const LITES_PER_TENANT: u64 = 8;
/// What a request takes beside its tokens.
const BASE: Duration = Duration::from_millis(50);
/// What a token of the prompt takes: 10,000 a second.
const READ: Duration = Duration::from_micros(100);
/// What a token of the answer takes: 50 a second.
const WRITE: Duration = Duration::from_millis(20);

/// Gives each request a tenant, a lite topic and a service time.
pub(super) fn assign(trace: &Trace, Choices { seed, tenants }: Choices) -> Traffic {
    let requests = &trace.requests[..trace.requests.len().min(MESSAGES_MAX)];
    let mut names = Names::default();
    let digits = tenants.to_string().len();
    let ranks = Ranks::new(tenants);
    let mut ids = Vec::new();
    for nth in 1..=tenants {
        ids.push((names.tenant(&format!("tenant-{nth:0digits$}")), names.next_lites(LITES_PER_TENANT)));
    }
    let written = median(requests.iter().map(|request| request.generated_tokens));
    let mut draws = Draws::new(seed);
    let mut job = |request: &Request| {
        let (tenant, first) = ids[ranks.draw(&mut draws)];
        let lite = LiteId(first.0 + draws.up_to(LITES_PER_TENANT - 1));
        let (read, wrote) = (request.context_tokens, request.generated_tokens);
        Job {
            cost: (u64::from(read) + u64::from(written)).max(1),
            measured: (u64::from(read) + u64::from(wrote)).max(1),
            service: BASE + READ * read + WRITE * wrote,
            ..Job::new(micros(request.arrival), tenant, lite)
        }
    };
    let jobs: Vec<Job> = requests.iter().map(&mut job).collect();
    let slots = slots_for(&jobs);
    let notes = vec![
        format!("tenants: the trace names none, so {tenants} were drawn (seed {seed}); the nth has a share by 1 / n"),
        format!("lite topics: {LITES_PER_TENANT} of each tenant, drawn"),
        format!(
            "service: {} ms, {} ms for 10 tokens read, {} ms for each written",
            BASE.as_millis(),
            (READ * 10).as_millis(),
            WRITE.as_millis()
        ),
        format!(
            "cost: tokens; estimated as those read and {written} (the trace's median answer), measured as read and written"
        ),
    ];
    Traffic {
        source: trace.source.to_string(),
        names,
        jobs,
        group: Group { sessions: 1, slots, seed, ..Group::default() },
        notes,
    }
}

/// Draws ranks with shares proportional to 1 / rank.
struct Ranks {
    /// Sums of the shares so far.
    sums: Vec<u64>,
}

impl Ranks {
    /// Of the first rank: a million ranks still differ.
    const FIRST: u64 = 1 << 40;

    fn new(ranks: u32) -> Self {
        let mut sum = 0;
        let sums = (1..=u64::from(ranks)).map(|rank| {
            sum += Self::FIRST / rank;
            sum
        });
        Self { sums: sums.collect() }
    }

    fn draw(&self, draws: &mut Draws) -> usize {
        let all = self.sums.last().copied().expect("there is a rank");
        let point = draws.up_to(all - 1);
        self.sums.partition_point(|sum| *sum <= point)
    }
}

fn median(numbers: impl Iterator<Item = u32>) -> u32 {
    let mut numbers: Vec<u32> = numbers.collect();
    numbers.sort_unstable();
    numbers.get(numbers.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::trace::Source;

    fn trace(requests: u32) -> Trace {
        let request = |nth: u32| Request {
            arrival: Duration::from_millis(u64::from(nth) * 250),
            context_tokens: 1_000 + nth,
            generated_tokens: nth % 7,
        };
        Trace { source: Source::File("x.csv".into()), requests: (0..requests).map(request).collect() }
    }

    #[test]
    fn a_request_becomes_a_message_with_its_tokens_as_cost() {
        let traffic = assign(&trace(7), Choices { seed: 1, tenants: 3 });
        let Job { at, cost, measured, service, .. } = &traffic.jobs[5];
        assert_eq!((*at, *cost, *measured), (Duration::from_millis(1_250), 1_005 + 3, 1_005 + 5));
        assert_eq!(*service, Duration::from_micros(50_000 + 100_500 + 100_000));
        assert_eq!((traffic.group.sessions, traffic.group.slots), (1, 1), "1.5 s of work in 1.5 s");
    }

    #[test]
    fn the_nth_tenant_has_a_share_by_one_over_n_and_the_seed_decides_whose_is_what() {
        let choices = Choices { seed: 1, tenants: 10 };
        let traffic = assign(&trace(10_000), choices);
        let count = |traffic: &Traffic, name: &str| {
            let tenant = traffic.names.find_tenant(name).unwrap();
            traffic.jobs.iter().filter(|job| job.tenant == tenant).count()
        };
        // 1 + 1/2 + … + 1/10 is 2.93.
        let (first, tenth) = (count(&traffic, "tenant-01"), count(&traffic, "tenant-10"));
        assert!(first.abs_diff(3_414) < 150 && tenth.abs_diff(341) < 60, "{first} {tenth}");
        assert_eq!(assign(&trace(10_000), choices).jobs, traffic.jobs);
        assert_ne!(assign(&trace(10_000), Choices { seed: 2, ..choices }).jobs, traffic.jobs);
        assert!(traffic.jobs.iter().all(|job| (1..=80).contains(&job.lite.0)));
    }
}
