//! The lite topics of a run: who owns which, in which order they come, what their messages cost.

use std::fmt;

use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};
use sluicegate_protocol::{LiteId, Offset, TenantId, Timestamp};
use sluicegate_scheduler::{Concurrency, Event, Head, Members, Quotas, Scheduler};

/// Costs are drawn evenly from 1 to this.
pub(super) const COST_MAX: u64 = 100;
/// When every run starts: any time will do, the scheduler has no clock.
pub(super) const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
/// Exponent of the Zipf law: of ten thousand tenants the first owns a tenth.
const ZIPF_EXPONENT: f64 = 1.0;
/// Waiting messages of every lite topic, the head included.
const BACKLOG: u64 = 8;

/// Who owns the lite topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenants {
    /// So many tenants own them.
    Count(u32),
    /// Every lite topic is its own tenant.
    Each,
}

impl fmt::Display for Tenants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Each => write!(f, "each"),
        }
    }
}

/// How many lite topics each tenant owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Shape {
    /// All as many.
    Uniform,
    /// Few own many, many own few: each lite topic draws its tenant by Zipf's law.
    Zipf,
}

impl Shape {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// Lite topics, numbered from 0, and their tenants.
pub(super) struct Population {
    lite_topics: u32,
    tenants: u32,
    /// Tenant by lite topic; `None` where they take turns.
    drawn: Option<Vec<u32>>,
    rng: Pcg64Mcg,
}

impl Population {
    pub(super) fn new(lite_topics: u32, tenants: Tenants, shape: Shape, seed: u64) -> Self {
        let tenants = match tenants {
            Tenants::Count(count) => count.min(lite_topics),
            Tenants::Each => lite_topics,
        };
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let drawn = (shape == Shape::Zipf).then(|| {
            let law = Zipf::new(f64::from(tenants), ZIPF_EXPONENT).expect("there are tenants, the exponent is above 0");
            (0..lite_topics).map(|_| rank(law.sample(&mut rng), tenants)).collect()
        });
        Self { lite_topics, tenants, drawn, rng }
    }

    pub(super) fn lite_topics(&self) -> u32 {
        self.lite_topics
    }

    /// Tenants, those included to whom the law gave nothing.
    pub(super) fn tenants(&self) -> u32 {
        self.tenants
    }

    pub(super) fn tenant(&self, lite: u32) -> u32 {
        self.drawn.as_ref().map_or(lite % self.tenants, |drawn| drawn[lite as usize])
    }

    /// All lite topics, in an order that is not that of their ids.
    pub(super) fn shuffled(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.lite_topics).collect();
        order.shuffle(&mut self.rng());
        order
    }

    /// The same numbers for whoever asks.
    pub(super) fn rng(&self) -> Pcg64Mcg {
        self.rng.clone()
    }

    /// The lite topic has a message.
    pub(super) fn head(&self, lite: u32, cost: u64) -> Event {
        head(lite_id(lite), TenantId(u64::from(self.tenant(lite))), Offset(0), START, cost)
    }
}

/// A scheduler without quotas and bounds, whose lite topics are served one message at a time.
pub(super) fn scheduler() -> Scheduler {
    let concurrency = Concurrency { group: u32::MAX, tenant: u32::MAX, lite: 1 };
    Scheduler::new(START, Quotas::default(), concurrency, None, 1)
}

pub(super) fn lite_id(lite: u32) -> LiteId {
    LiteId(u64::from(lite) + 1)
}

pub(super) fn head(lite: LiteId, tenant: TenantId, offset: Offset, published_at: Timestamp, cost: u64) -> Event {
    let head = Head { offset, published_at, priority: 4, cost, deliver_at: None, expires_at: None, attempts: 0 };
    Event::Head { lite, tenant, members: Members::default(), head, backlog: BACKLOG }
}

pub(super) fn cost(rng: &mut Pcg64Mcg) -> u64 {
    rng.random_range(1..=COST_MAX)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank is from 1 to the number of tenants"
)]
fn rank(drawn: f64, tenants: u32) -> u32 {
    (drawn as u32 - 1).min(tenants - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_follow_the_shape() {
        let uniform = Population::new(1_000, Tenants::Count(200), Shape::Uniform, 1);
        let zipf = Population::new(1_000, Tenants::Count(200), Shape::Zipf, 1);
        let each = Population::new(1_000, Tenants::Each, Shape::Uniform, 1);
        let owned =
            |population: &Population, tenant| (0..1_000).filter(|&lite| population.tenant(lite) == tenant).count();
        assert_eq!((owned(&uniform, 0), owned(&uniform, 199), owned(&each, 999)), (5, 5, 1));
        assert!(owned(&zipf, 0) > 100, "{}", owned(&zipf, 0));
        assert!((0..1_000).all(|lite| zipf.tenant(lite) < 200));
    }

    #[test]
    fn the_order_has_every_lite_topic_once() {
        let population = Population::new(1_000, Tenants::Each, Shape::Uniform, 7);
        let mut order = population.shuffled();
        assert_ne!(order, (0..1_000).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..1_000).collect::<Vec<_>>());
    }
}
