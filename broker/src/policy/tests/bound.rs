//! What a shard keeps for a group with a policy, against real guests.

use sluicegate_protocol::GroupId;
use sluicegate_protocol::admin::PolicyRuns;

use super::super::bound::BoundPolicy;
use super::super::recipe::Recipe;
use super::super::strikes::Strike;
use super::super::successor::{Progress, Successor};
use super::super::threads::{Errand, Ticket};
use super::*;

/// A policy whose errands are done at once, unless a test does them itself.
pub(super) struct Bound(BoundPolicy);

fn recipe(compiled: &Arc<CompiledPolicy>, config: &str) -> Recipe {
    Recipe { compiled: Arc::clone(compiled), config: config.into(), init: init() }
}

fn misbehaving(how: &str) -> Recipe {
    recipe(compiled(), &format!(r#"{{"misbehave": "{how}"}}"#))
}

const fn ticket(binding: u64) -> Ticket {
    Ticket { group: GroupId(1), binding }
}

impl Bound {
    pub(super) fn of(recipe: Recipe) -> Self {
        Self(BoundPolicy::begin(recipe, ticket(1)).unwrap())
    }

    /// What a group does with an ask, errands included.
    pub(super) fn ask(&mut self, now: Timestamp, ask: &Ask) -> Result<Option<Plan>, Strike> {
        self.do_errands(now);
        let heard = self.0.ask(now, ask.clone(), &mut { NAMES });
        let (mut answer, mut strike) = (heard.answer, heard.strike);
        while let Some(errand) = self.0.next_errand(now) {
            let heard = self.0.returned(now, errand.run());
            (answer, strike) = (answer.or(heard.answer), strike.or(heard.strike));
        }
        match strike {
            Some(strike) => Err(strike),
            None => Ok(answer.and_then(|(_, plan)| plan)),
        }
    }

    fn do_errands(&mut self, now: Timestamp) {
        while let Some(errand) = self.0.next_errand(now) {
            assert_eq!(self.0.returned(now, errand.run()).strike, None);
        }
    }

    /// The memo in the answer is the number of frames that the guest remembers.
    fn frames(&mut self, now: Timestamp) -> u64 {
        self.ask(now, &ask()).unwrap().unwrap().lites[0].memo
    }

    /// What a group does when another policy is activated.
    fn swap(&mut self, recipe: Recipe) -> Option<(Self, bool)> {
        let (mut successor, errand) = Successor::begin(recipe, ticket(2)).unwrap();
        let mut errand: Option<Errand> = Some(errand);
        loop {
            let done = errand.take()?.run();
            match successor.returned(START, done, Some(&mut self.0)) {
                Progress::Ready => errand = successor.next_errand(Some(&mut self.0)),
                Progress::Decides(next) => return Some((Self(next.bound), next.carried)),
                Progress::Refused(_) => return None,
            }
        }
    }
}

fn numbered(sequence: u64) -> Ask {
    let mut ask = ask();
    ask.frame.sequence = sequence;
    ask
}

fn feedback(count: u64) -> Vec<Feedback> {
    (0..count).map(|lite| done(1, lite)).collect()
}

#[test]
fn after_a_fault_a_new_guest_goes_on_from_the_last_snapshot_off_the_shard() {
    let mut policy = Bound::of(misbehaving("panic"));
    for frame in 1..=1_005 {
        assert_eq!(policy.frames(later(Duration::from_millis(2 * frame))), frame);
    }
    assert_eq!(policy.0.runs(), PolicyRuns::OnShard);
    let now = later(Duration::from_secs(3));
    let strike = policy.ask(now, &signal()).unwrap_err();
    assert!(matches!(strike, Strike { fault: PolicyFault::Trap(_), strikes: 1, open: false, .. }), "{strike}");
    assert_eq!(policy.0.runs(), PolicyRuns::OffShard);
    let plan = policy.ask(now, &ask_for(&[5], 1, START)).unwrap().unwrap();
    assert_eq!((plan.lites[0].memo, plan.weights), (1_001, vec![5]));
    assert_eq!(policy.frames(later(Duration::from_secs(20))), 1_002);
    assert_eq!(policy.0.runs(), PolicyRuns::OnShard);
}

#[test]
fn a_snapshot_is_taken_every_ten_seconds() {
    let mut policy = Bound::of(misbehaving("panic"));
    for second in 0..=10 {
        policy.frames(later(Duration::from_secs(second)));
    }
    policy.ask(later(Duration::from_secs(11)), &signal()).unwrap_err();
    // The eleventh frame came after the snapshot.
    assert_eq!(policy.frames(later(Duration::from_secs(11))), 11);
}

#[test]
fn after_the_second_strike_in_a_minute_a_guest_is_made_a_second_later_and_the_third_is_the_last() {
    let mut policy = Bound::of(misbehaving("panic"));
    let at = |second| later(Duration::from_secs(second));
    let strikes = [0, 50].map(|second| {
        let strike = policy.ask(at(second), &signal()).unwrap_err();
        (strike.strikes, strike.open, policy.0.runs())
    });
    assert_eq!(strikes, [(1, false, PolicyRuns::OffShard), (2, false, PolicyRuns::Restarting)]);
    assert_eq!(policy.0.next_timeout(), Some(at(51)));
    assert_eq!(policy.ask(at(50), &ask()), Ok(None), "there is nobody to answer");
    let strikes = [61, 70].map(|second| {
        let strike = policy.ask(at(second), &signal()).unwrap_err();
        (strike.strikes, strike.open)
    });
    assert_eq!(strikes, [(2, false), (3, true)]);
}

#[test]
fn an_ask_that_comes_while_the_guest_is_away_waits_and_gives_way_to_a_later_one() {
    let mut policy = Bound::of(misbehaving("panic"));
    policy.ask(START, &signal()).unwrap_err();
    // The guest is off the shard from now on.
    let policy = &mut policy.0;
    assert!(policy.ask(START, numbered(1), &mut { NAMES }).answer.is_none());
    let errand = policy.next_errand(START).unwrap();
    for sequence in [2, 3] {
        let ask = Ask { feedback: feedback(sequence), ..numbered(sequence) };
        let heard = policy.ask(START, ask, &mut { NAMES });
        assert!(heard.answer.is_none() && heard.strike.is_none() && policy.next_errand(START).is_none());
        assert_eq!(policy.take_waiting(), None, "the guest is away");
    }
    let (sequence, plan) = policy.returned(START, errand.run()).answer.unwrap();
    assert_eq!((sequence, plan.unwrap().lites[0].memo), (1, 1));
    let waiting = policy.take_waiting().unwrap();
    assert_eq!(waiting.frame.sequence, 3);
    policy.ask(START, waiting, &mut { NAMES });
    let errand = policy.next_errand(START).unwrap();
    let (sequence, plan) = policy.returned(START, errand.run()).answer.unwrap();
    // Two frames, and what became of two deliveries and of three, a thousand each.
    assert_eq!((sequence, plan.unwrap().lites[0].memo), (3, 5_002));
    assert_eq!(policy.take_spent().feedback_dropped, 0);
}

#[test]
fn what_nobody_was_there_to_hear_is_told_to_the_next_guest() {
    let mut policy = Bound::of(misbehaving("panic"));
    policy.ask(START, &signal()).unwrap_err();
    policy.ask(START, &signal()).unwrap_err();
    let missed = Ask { feedback: feedback(7), ..ask() };
    assert_eq!(policy.ask(START, &missed), Ok(None));
    assert_eq!(policy.frames(later(Duration::from_secs(1))), 7_001);
}

#[test]
fn state_is_carried_over_a_swap_unless_it_is_refused_or_not_of_this_policy() {
    let mut first = Bound::of(misbehaving("none"));
    first.frames(START);
    let (mut second, carried) = first.swap(misbehaving("none")).unwrap();
    assert!(carried);
    assert_eq!(second.frames(START), 2);

    let (mut third, carried) = second.swap(misbehaving("refuse-to-restore")).unwrap();
    assert!(!carried);
    assert_eq!(third.frames(START), 1);

    let (_, carried) = third.swap(recipe(compiled_token_bucket(), "")).unwrap();
    assert!(!carried);
    assert_eq!(third.frames(START), 2, "what decides goes on until it is told that it does not");
}

#[test]
fn a_policy_that_is_refused_leaves_the_one_before_as_it_was() {
    let mut first = Bound::of(misbehaving("none"));
    first.frames(START);
    assert!(first.swap(misbehaving("refuse-to-start")).is_none());
    assert!(first.swap(recipe(compiled_token_bucket(), r#"{"rate_per_second": -1}"#)).is_none());
    assert_eq!(first.frames(START), 2);
}

#[test]
fn a_successor_waits_until_a_guest_that_is_away_can_hand_over() {
    let mut first = Bound::of(misbehaving("panic"));
    first.ask(START, &signal()).unwrap_err();
    let first = &mut first.0;
    first.ask(START, numbered(1), &mut { NAMES });
    let away = first.next_errand(START).unwrap();
    first.ask(START, Ask { feedback: feedback(2), ..numbered(2) }, &mut { NAMES });

    let (mut successor, errand) = Successor::begin(misbehaving("none"), ticket(2)).unwrap();
    assert!(matches!(successor.returned(START, errand.run(), Some(first)), Progress::Ready));
    assert!(successor.next_errand(Some(first)).is_none(), "the guest has a question to answer");
    first.returned(START, away.run()).answer.unwrap();
    let errand = successor.next_errand(Some(first)).unwrap();
    let Progress::Decides(succession) = successor.returned(START, errand.run(), Some(first)) else { panic!() };
    assert!(succession.carried);
    // The frame that the one before answered, and what it was to be told with the ask that waited.
    assert_eq!(Bound(succession.bound).frames(START), 2_002);
}

#[test]
fn the_token_bucket_keeps_a_tenants_debt_over_a_swap() {
    let config = r#"{"rate_per_second": 10, "burst": 10, "overrides": [{"tenant": "xx", "rate_per_second": 1000}]}"#;
    let mut first = Bound::of(recipe(compiled_token_bucket(), config));
    let plan = first.ask(START, &ask_for(&[1, 2], 30, START)).unwrap().unwrap();
    assert!(plan.lites.iter().all(|answer| answer.verdict == Verdict::Serve { band: None, max_messages: 1 }));

    let config = r#"{"rate_per_second": 20, "burst": 10}"#;
    let (mut second, carried) = first.swap(recipe(compiled_token_bucket(), config)).unwrap();
    assert!(carried);
    let plan = second.ask(START, &ask_for(&[1, 3], 10, START)).unwrap().unwrap();
    assert_eq!(plan.lites[0].verdict, Verdict::Throttle(Duration::from_millis(1_500)));
    assert_eq!(plan.lites[1].verdict, Verdict::Serve { band: None, max_messages: 1 });
}
