//! The scheduler beside a naive model of it, over random histories.
//!
//! The model keeps the rules of the design and nothing else: it finds everything by looking at all lite topics, keeps
//! every finish tag for good, and computes quotas in whole nanoseconds of 128 bits. After each step both are polled
//! until they have nothing to do; the decisions, their order, the figures, the next timeout and the quota state must be
//! equal. Some events in between are not polled after, as a shard takes in several at once.
//!
//! Left out: what is forgotten beyond 16,384 idle lite topics, 65,536 remembered weights, 131,072 resting finish tags.
//!
//! `PROPTEST_CASES` sets the number of histories of each test; a failed one is kept in `regressions.txt`.

mod answers;
mod fair;
mod history;
mod lite;
mod model;
mod owner;
mod pick;
mod policy;
mod quota;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError};
use sluicegate_scheduler::{Concurrency, Scope};

use history::{Step, flooded_step, step, step_with_policy, step_with_routes};
use owner::Owner;

/// So many histories, unless `PROPTEST_CASES` says otherwise.
fn histories(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct("tests/model/regressions.txt"))),
        ..ProptestConfig::default()
    }
}

/// A step, and whether both are polled after it.
type Steps = Vec<(Step, bool)>;

fn steps(step: impl Strategy<Value = Step>, count: usize) -> impl Strategy<Value = Steps> {
    prop::collection::vec((step, prop::bool::weighted(0.85)), 1..count)
}

fn live(mut owner: Owner, steps: Steps) -> Result<(), TestCaseError> {
    for (step, is_polled) in steps {
        owner.apply(step);
        if is_polled {
            owner.poll_all()?;
        } else {
            owner.compare()?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(histories(15_000))]

    #[test]
    fn without_a_policy_every_decision_is_the_models(
        (lite, is_eager) in (1u32..4, any::<bool>()),
        steps in steps(step(12), 200),
    ) {
        live(Owner::new(12, 4, Concurrency { group: 6, tenant: 3, lite }, Scope::All, is_eager), steps)?;
    }

    #[test]
    fn with_a_policy_every_decision_is_the_models(
        (lite, is_eager) in (1u32..4, any::<bool>()),
        steps in steps(step_with_policy(12), 200),
    ) {
        live(Owner::new(12, 4, Concurrency { group: 6, tenant: 3, lite }, Scope::All, is_eager), steps)?;
    }

    #[test]
    fn with_routes_every_decision_is_the_models(
        (lite, is_eager) in (1u32..4, any::<bool>()),
        steps in steps(step_with_routes(12), 200),
    ) {
        live(Owner::new(12, 4, Concurrency { group: 6, tenant: 3, lite }, Scope::Named, is_eager), steps)?;
    }
}

proptest! {
    #![proptest_config(histories(400))]

    #[test]
    fn of_thousands_of_lite_topics_every_decision_is_the_models(
        tenants in 1u64..8,
        steps in steps(flooded_step(2_000, 100..700), 40),
    ) {
        live(Owner::new(2_000, tenants, Concurrency { group: 100, tenant: 40, lite: 1 }, Scope::All, false), steps)?;
    }
}
