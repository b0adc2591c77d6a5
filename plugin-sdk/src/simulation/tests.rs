//! What a policy is told, what becomes of what it says, and how claims fail.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::{Load, Outcome, Simulation};
use crate::{Answer, Descriptor, Entity, Feedback, Frame, Init, Plan, Policy};

const SECOND: Duration = Duration::from_secs(1);
const MS_100: Duration = Duration::from_millis(100);

/// Implements what is the same for all policies of these tests.
macro_rules! policy {
    ($name:ident, $self:ident, $frame:ident => $decide:expr) => {
        #[derive(Default)]
        struct $name;

        impl Policy for $name {
            type Config = ();
            type State = ();

            fn describe() -> Descriptor {
                Descriptor::new(stringify!($name), "1.0.0")
            }

            fn new(_: &Init, (): ()) -> Result<Self, String> {
                Ok(Self)
            }

            fn decide(&mut $self, $frame: &Frame) -> Plan {
                $decide
            }
        }
    };
}

policy!(ServeAll, self, frame => frame.lites.iter().map(|_| Answer::serve()).collect());
policy!(OneAtATime, self, frame => {
    let plan: Plan = frame.lites.iter().map(|_| Answer::serve()).collect();
    plan.concurrency(1, SECOND * 60)
});
policy!(DropAll, self, frame => frame.lites.iter().map(|_| Answer::discard()).collect());
policy!(TooShort, self, _frame => Plan { weights: vec![1; 7], ..Plan::default() });

/// Panics unless it is told everything before it is mentioned.
struct Pedant {
    tenants: BTreeSet<u64>,
    lites: BTreeSet<u64>,
    retried: u64,
    done: u64,
}

impl Policy for Pedant {
    type Config = u64;
    type State = ();

    fn describe() -> Descriptor {
        Descriptor::new("pedant", "1.0.0").wants(["rank", "tokens"]).learns_lites().reasons(["so"])
    }

    fn new(init: &Init, config: u64) -> Result<Self, String> {
        assert_eq!((&*init.group, init.seed), ("simulation", 1));
        match config {
            7 => Ok(Self { tenants: BTreeSet::new(), lites: BTreeSet::new(), retried: 0, done: 0 }),
            other => Err(format!("{other} is not 7")),
        }
    }

    fn learn(&mut self, tenant: &Entity) {
        assert_eq!((&*tenant.name, tenant.label("tier")), ("gold", Some("1")));
        self.tenants.insert(tenant.id);
    }

    fn learn_lite(&mut self, lite: &Entity) {
        assert_eq!(lite.label("model"), Some("large"));
        self.lites.insert(lite.id);
    }

    fn observe(&mut self, feedback: &Feedback) {
        assert!(self.tenants.contains(&feedback.tenant));
        assert_eq!((feedback.service(), feedback.cost_estimate, feedback.cost_measured), (MS_100, 10, 20));
        let retry_after = feedback.has_failed().then_some(SECOND);
        assert_eq!(feedback.retry_after(), retry_after);
        self.retried += u64::from(feedback.has_failed());
        self.done += u64::from(feedback.is_done());
    }

    fn decide(&mut self, frame: &Frame) -> Plan {
        let serve = |row: usize| {
            let lite = &frame.lites[row];
            assert!(self.tenants.contains(&frame.tenant_of(lite).tenant) && self.lites.contains(&lite.lite));
            assert_eq!((frame.number(0, row), frame.number(1, row)), (None, Some(3)));
            assert_eq!((lite.priority, lite.expires_in().is_some()), (6, true));
            assert_eq!(lite.memo, if lite.head_offset == 0 && lite.attempts == 0 { 0 } else { 5 });
            Answer::serve().messages(1).remember(5).because(9)
        };
        (0..frame.lites.len()).map(serve).collect()
    }
}

fn two(load: &Load) -> Simulation {
    Simulation::new().tenant("ada", load.clone()).tenant("bob", load.clone())
}

type Claim = fn(&Outcome) -> &Outcome;

fn failure(claim: impl FnOnce() -> Outcome) -> String {
    let panic = catch_unwind(AssertUnwindSafe(claim)).expect_err("the claim holds");
    panic.downcast_ref::<String>().expect("it has a text").clone()
}

#[test]
fn a_policy_is_told_everything_before_it_is_mentioned() {
    let load = Load::every(SECOND / 10).lites(5).priority(6).cost(10).measured_percent(200).service(MS_100);
    let load =
        load.failing(20).retry_after(SECOND).expires_after(SECOND * 60).label("model", "large").property("tokens", 3);
    let simulation = Simulation::new().tenant("gold", load).tenant_label("gold", "tier", "1");
    let outcome = simulation.run::<Pedant>("7", SECOND * 60);
    let counts = outcome.tenant("gold").counts;
    assert!(counts.retried > 50 && counts.done > 300, "{counts:?}");
    let refusal = failure(|| simulation.run::<Pedant>("8", SECOND));
    assert_eq!(refusal, "pedant refuses its configuration: 8 is not 7");
}

#[test]
fn the_same_simulation_has_the_same_outcome() {
    let simulation = two(&Load::poisson(MS_100 / 10).lites(20).service(MS_100));
    let digest = |simulation: &Simulation| simulation.run::<ServeAll>("", SECOND * 30).digest();
    assert_eq!(digest(&simulation), digest(&simulation));
    assert_ne!(digest(&simulation), digest(&simulation.clone().seed(2)));
}

#[test]
fn a_policy_that_lets_everything_run_is_as_good_as_none() {
    let simulation = two(&Load::poisson(MS_100).lites(20).service(MS_100)).slots(3);
    let (ours, fair) = (simulation.run::<ServeAll>("", SECOND * 60), simulation.run_fair(SECOND * 60));
    assert_eq!(ours.report().deliveries, fair.report().deliveries);
}

#[test]
fn claims_that_do_not_hold_say_what_was_found() {
    let load = Load::at_once(3).each_its_own_lite().service(SECOND);
    let simulation = Simulation::new().tenant("ada", load).messages_quota("100/s");
    simulation.run::<ServeAll>("", SECOND * 9).assert_nobody_starves(Duration::ZERO).assert_quota_kept();
    let outcome = simulation.run::<OneAtATime>("", SECOND * 9);
    let claims: [(Claim, &str); 3] = [
        (
            |outcome| outcome.assert_wait_p99_below("ada", SECOND),
            "1 in 100 messages of ada waits 2s, not less than 1s\n",
        ),
        (|outcome| outcome.assert_share("ada", 50.0, 1.0), "ada has 100.00 % of what was served, not 50 ± 1 %\n"),
        (
            |outcome| outcome.assert_nobody_starves(SECOND),
            "lite topic 3 of ada waits 2s with room for it, more than 1s\n",
        ),
    ];
    for (claim, found) in claims {
        let text = failure(|| claim(&outcome).clone());
        assert!(text.starts_with(found) && text.ends_with(&outcome.to_string()), "{text}");
    }
    assert!(
        failure(|| two(&Load::at_once(1)).run_fair(SECOND).assert_quota_kept().clone())
            .starts_with("the group has no quota")
    );
}

#[test]
fn what_is_never_delivered_is_not_quick() {
    let claim = |outcome: Outcome| failure(|| outcome.assert_wait_p99_below("ada", SECOND).clone());
    let one = |load: Load| Simulation::new().tenant("ada", load);
    let dropped = one(Load::every(SECOND)).run::<DropAll>("", SECOND * 9);
    assert!(claim(dropped).starts_with("none of 10 messages of ada was delivered\n"));
    let expiring = one(Load::at_once(3).service(SECOND * 60).expires_after(SECOND * 2)).run_fair(SECOND * 90);
    let counts = expiring.tenant("ada").counts;
    assert_eq!((counts.delivered, counts.expired), (1, 2));
    let text = claim(expiring);
    assert!(text.starts_with("1 in 100 messages of ada waits ") && text.contains("not less than 1s\n"), "{text}");
}

#[test]
fn a_plan_that_the_broker_would_refuse_fails_the_test() {
    let text = failure(|| two(&Load::at_once(1)).run::<TooShort>("", SECOND));
    assert_eq!(text, "the broker would refuse the plan of TooShort for frame 1: 0 answers for 2 lite topics");
}
