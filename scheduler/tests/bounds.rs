//! The bounds that the design states, as properties over random work. Exact: whole numbers, no tolerance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use sluicegate_protocol::{LiteId, Offset, Rate, TenantId, Timestamp};
use sluicegate_scheduler::{
    Answer, Ask, Charge, Concurrency, Decision, Ending, Event, Head, HoldSource, Plan, Quotas, Scheduler, Scope,
    SessionKey, Verdict,
};

const START: Timestamp = Timestamp::from_millis(1_000_000);
const UNBOUNDED: Concurrency = Concurrency { group: u32::MAX, tenant: u32::MAX, lite: 1 };
/// The driver's timers are this coarse.
const TICK: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
struct Delivery {
    lite: LiteId,
    tenant: TenantId,
    charge: Charge,
}

/// A scheduler with one session that has room, its clock, and the weights that its policy gives.
struct Group {
    scheduler: Scheduler,
    now: Timestamp,
    weights: BTreeMap<TenantId, u32>,
    offset: u64,
}

impl Group {
    fn new(quotas: Quotas, concurrency: Concurrency) -> Self {
        let scheduler = Scheduler::new(START, quotas, concurrency, None, 1);
        let mut group = Self { scheduler, now: START, weights: BTreeMap::new(), offset: 0 };
        group.on(Event::Attached(SessionKey(1), Scope::All));
        group.on(Event::Credit(SessionKey(1), 60_000));
        group
    }

    fn on(&mut self, event: Event) {
        self.scheduler.handle(self.now, event);
    }

    /// One more message is the head of the lite topic.
    fn head(&mut self, lite: u64, tenant: u64, priority: u8, cost: u64, deliver_at: Option<Timestamp>) {
        self.head_for(&[], lite, tenant, priority, cost, deliver_at);
    }

    /// The same of a lite topic that names sessions.
    fn head_for(
        &mut self,
        sessions: &[u64],
        lite: u64,
        tenant: u64,
        priority: u8,
        cost: u64,
        deliver_at: Option<Timestamp>,
    ) {
        self.offset += 1;
        let (offset, published_at) = (Offset(self.offset), self.now);
        let head = Head { offset, published_at, priority, cost, deliver_at, expires_at: None, attempts: 0 };
        self.on(Event::Head {
            lite: LiteId(lite),
            tenant: TenantId(tenant),
            members: sessions.iter().copied().map(SessionKey).collect(),
            head,
            backlog: 1,
        });
    }

    /// The next delivery; asks on the way are answered: all may run.
    fn deliver(&mut self) -> Option<Delivery> {
        loop {
            match self.scheduler.poll(self.now)? {
                Decision::Deliver { lite, tenant, charge, .. } => return Some(Delivery { lite, tenant, charge }),
                Decision::Ask(ask) => self.answer(&ask),
                other => panic!("nobody decided {other:?}"),
            }
        }
    }

    fn answer(&mut self, ask: &Ask) {
        let verdict = Verdict::Serve { band: None, max_messages: u32::MAX };
        let answer = Answer { verdict, valid_for: Duration::MAX, reason: 0, memo: 0 };
        let weights = ask.frame.tenants.iter().map(|row| self.weights.get(&row.tenant).copied().unwrap_or(1));
        let plan = Plan { lites: vec![answer; ask.frame.lites.len()], weights: weights.collect(), ..Plan::default() };
        self.on(Event::Answered { sequence: ask.frame.sequence, plan });
    }

    fn settle(&mut self, delivery: Delivery, cost: Option<u64>) {
        let ending = Ending::done(cost, Duration::from_millis(1));
        let Delivery { lite, charge, .. } = delivery;
        self.on(Event::Settled { lite, charge, ending });
    }
}

/// Seeds of failures go beside this file.
fn config() -> ProptestConfig {
    let file = FileFailurePersistence::Direct("tests/bounds-regressions.txt");
    ProptestConfig { failure_persistence: Some(Box::new(file)), ..ProptestConfig::default() }
}

fn rate_strategy() -> impl Strategy<Value = Rate> {
    let period = prop::sample::select(vec!["s", "min", "h"]);
    (1u32..5_000, period, 1u32..200)
        .prop_map(|(units, period, burst)| format!("{units}/{period} burst {burst}").parse().expect("it is a rate"))
}

/// What one lease took, as quotas see it.
#[derive(Debug, Clone, Copy)]
struct Taken {
    at: Timestamp,
    /// Leases taken before its own was settled.
    settled_before: usize,
    reserved: u64,
    measured: u64,
}

/// Delivers each cost at the first instant that the gate allows; each lease is settled so many dispatches later.
fn spend(rate: Rate, costs: &[(u64, u64, u64)], lag: usize) -> Vec<Taken> {
    let mut group = Group::new(Quotas { messages: None, cost: Some(rate) }, UNBOUNDED);
    let mut taken: Vec<Taken> = Vec::new();
    let mut open: VecDeque<(Delivery, usize)> = VecDeque::new();
    for (lite, &(reserved, measured, pause_micros)) in (0..).zip(costs) {
        group.now = group.now.plus(Duration::from_micros(pause_micros));
        if open.len() > lag
            && let Some((delivery, index)) = open.pop_front()
        {
            group.settle(delivery, Some(taken[index].measured));
            taken[index].settled_before = taken.len();
        }
        group.head(lite, lite % 5, 4, reserved, None);
        let delivery = group.deliver().unwrap_or_else(|| {
            let opens = group.scheduler.next_timeout().expect("the gate says when it opens");
            group.now = Timestamp(opens.0 - 1);
            assert!(group.deliver().is_none(), "the gate opened early");
            group.now = opens;
            group.deliver().expect("the gate opens when it says")
        });
        open.push_back((delivery, taken.len()));
        taken.push(Taken { at: group.now, settled_before: usize::MAX, reserved, measured });
    }
    taken
}

/// Units times nanoseconds of a period: so both sides of a promise are whole numbers.
fn allowed(rate: Rate, at_once: u64, window: Duration) -> u128 {
    u128::from(at_once) * rate.period().as_nanos() + u128::from(rate.units()) * window.as_nanos()
}

/// Every window that begins and ends with a dispatch: the two, and those in it.
fn windows(count: usize) -> impl Iterator<Item = RangeInclusive<usize>> {
    (0..count).flat_map(move |first| (first..count).map(move |last| first..=last))
}

fn micros_between(window: &[Taken]) -> Duration {
    window[window.len() - 1].at.since(window[0].at)
}

proptest! {
    #![proptest_config(config())]

    /// A message above the burst waits for a full bucket and then takes its whole cost at once, so where there is one
    /// the burst in the promise is that cost.
    #[test]
    fn reserved_cost_in_any_window_is_at_most_burst_and_rate(
        rate in rate_strategy(),
        costs in prop::collection::vec((0u64..300, 0u64..50_000), 1..60),
        lag in 0usize..8,
    ) {
        let costs: Vec<_> = costs.into_iter().map(|(cost, pause)| (cost, cost, pause)).collect();
        let taken = spend(rate, &costs, lag);
        for window in windows(taken.len()) {
            let window = &taken[window];
            let reserved: u64 = window.iter().map(|taken| taken.reserved).sum();
            let dearest = window.iter().map(|taken| taken.reserved).max().unwrap_or(0);
            let bound = allowed(rate, dearest.max(u64::from(rate.burst())), micros_between(window));
            prop_assert!(u128::from(reserved) * rate.period().as_nanos() <= bound, "{reserved} in {window:?}");
        }
    }

    /// The errors that count are of the leases open at either end of the window: those at its end measured more than
    /// they reserved and have not paid yet, those at its beginning give back inside it what they reserved before it.
    #[test]
    fn measured_cost_exceeds_the_promise_by_the_errors_in_flight_at_most(
        rate in rate_strategy(),
        costs in prop::collection::vec((0u64..200, 0u64..400, 0u64..50_000), 1..60),
        lag in 0usize..8,
    ) {
        let burst = u64::from(rate.burst());
        let costs: Vec<_> = costs.into_iter().map(|(cost, measured, pause)| (cost.min(burst), measured, pause)).collect();
        let taken = spend(rate, &costs, lag);
        for window in windows(taken.len()) {
            let (first, last) = (*window.start(), *window.end());
            let (before, window) = (&taken[..first], &taken[window]);
            let measured: u64 = window.iter().map(|taken| taken.measured).sum();
            let unpaid = window.iter().filter(|taken| taken.settled_before > last);
            let unpaid: u64 = unpaid.map(|taken| taken.measured.saturating_sub(taken.reserved)).sum();
            let given_back = before.iter().filter(|taken| (first..=last).contains(&taken.settled_before));
            let given_back: u64 = given_back.map(|taken| taken.reserved.saturating_sub(taken.measured)).sum();
            let bound = allowed(rate, burst + unpaid + given_back, micros_between(window));
            prop_assert!(u128::from(measured) * rate.period().as_nanos() <= bound, "{measured} in {window:?}");
        }
    }

    /// Service counts corrected by what is measured, from the settle on. In between, a tenant is ahead of another by
    /// its dearest message at most, and by what the measured cost of open leases differs from the reserved one.
    #[test]
    fn two_tenants_that_stay_eligible_keep_within_their_dearest_messages(
        weights in [1u32..100, 1u32..100, 1u32..100],
        costs in prop::collection::vec((0u64..100, 0u64..200), 2..60),
        lag in 0usize..12,
    ) {
        let mut group = Group::new(Quotas::default(), UNBOUNDED);
        group.weights = (0..).map(TenantId).zip(weights).collect();
        group.on(Event::PolicyBound);
        // Lite topics enough that each tenant has one waiting, whatever is in flight.
        for lite in 0..60 {
            let (cost, _) = costs[usize::try_from(lite).unwrap() % costs.len()];
            group.head(lite, lite % 3, 4, cost, None);
        }
        // In units of 1 / (w0 x w1): the virtual time of a cost is the cost times the other's weight.
        let virtual_time = |tenant: usize, cost: u64| i128::from(cost.max(1)) * i128::from(weights[1 - tenant]);
        let dearest = costs.iter().map(|&(cost, _)| cost).max().unwrap();
        let (mut lead, mut error_max) = (0i128, 0i128);
        let mut open: VecDeque<(Delivery, u64)> = VecDeque::new();
        for round in 0..600 {
            let delivery = group.deliver().unwrap();
            let (cost, measured) = costs[round % costs.len()];
            let tenant = usize::try_from(delivery.tenant.0).unwrap();
            prop_assert_eq!(delivery.charge.weight, weights[tenant]);
            open.push_back((delivery, measured));
            if tenant < 2 {
                lead += [1, -1][tenant] * virtual_time(tenant, delivery.charge.cost);
            }
            let errors = open.iter().filter(|(delivery, _)| delivery.tenant.0 < 2).map(|&(delivery, measured)| {
                let tenant = usize::try_from(delivery.tenant.0).unwrap();
                (virtual_time(tenant, measured) - virtual_time(tenant, delivery.charge.cost)).abs()
            });
            error_max = error_max.max(errors.sum());
            if open.len() > lag {
                let (settled, measured) = open.pop_front().unwrap();
                let tenant = usize::try_from(settled.tenant.0).unwrap();
                group.settle(settled, Some(measured));
                group.head(settled.lite.0, settled.tenant.0, 4, cost, None);
                if tenant < 2 {
                    let error = virtual_time(tenant, measured) - virtual_time(tenant, settled.charge.cost);
                    lead += [1, -1][tenant] * error;
                }
            }
            let ahead = virtual_time(0, dearest) + error_max;
            let behind = virtual_time(1, dearest) + error_max;
            prop_assert!(-behind <= lead && lead <= ahead, "{lead} is outside -{behind}..{ahead}");
        }
    }

    /// Sessions with lite topics of their own are served at different speeds, for long. Then a quota is all that they wait
    /// for: from there on it is shared by tenants, whatever was before.
    #[test]
    fn tenants_of_different_sessions_share_a_scarce_quota_within_their_dearest_messages(
        speeds in prop::collection::vec((0u32..40, 0u32..40, 0u32..40), 0..60),
        tenants in prop::collection::vec(0u64..3, 2..8),
        costs in prop::collection::vec(0u64..100, 1..40),
    ) {
        let quotas = Quotas { messages: Some("1000/s burst 1".parse().unwrap()), cost: None };
        let mut group = Group::new(Quotas::default(), UNBOUNDED);
        group.on(Event::Detached(SessionKey(1)));
        for session in 0..3 {
            group.on(Event::Attached(SessionKey(session), Scope::Named));
        }
        let mut next_cost = costs.iter().cycle().copied();
        // Each tenant has one lite topic, for one of the sessions.
        let mut next_head = |group: &mut Group, tenant: u64| {
            let session = tenants[usize::try_from(tenant).unwrap()];
            group.head_for(&[session], tenant, tenant, 4, next_cost.next().unwrap(), None);
        };
        for tenant in 0..tenants.len() as u64 {
            next_head(&mut group, tenant);
        }
        for (first, second, third) in speeds {
            for (session, credit) in (0..).zip([first, second, third]) {
                group.on(Event::Credit(SessionKey(session), credit));
            }
            while let Some(delivery) = group.deliver() {
                group.settle(delivery, None);
                next_head(&mut group, delivery.tenant.0);
            }
        }
        for session in 0..3 {
            group.on(Event::Credit(SessionKey(session), 60_000));
        }
        // Nobody had credit left, so nobody waits for anything but the quota from here on.
        group.on(Event::Quotas(quotas));
        let mut service = vec![0; tenants.len()];
        let dearest = costs.iter().map(|&cost| cost.max(1)).max().unwrap();
        for _ in 0..400 {
            group.now = group.scheduler.next_timeout().unwrap_or(group.now);
            let Some(delivery) = group.deliver() else { continue };
            service[usize::try_from(delivery.tenant.0).unwrap()] += delivery.charge.cost.max(1);
            group.settle(delivery, None);
            next_head(&mut group, delivery.tenant.0);
            let gap = service.iter().max().unwrap() - service.iter().min().unwrap();
            prop_assert!(gap <= 2 * dearest, "{service:?}, dearest {dearest}");
        }
        prop_assert!(service.iter().sum::<u64>() > 0);
    }

    /// Bands come and go. The wait counts while a higher band is ready; the bands that count are those below the
    /// highest in that time.
    #[test]
    fn the_first_tenant_of_a_band_waits_twenty_dispatches_for_each_lower_band_at_most(
        rounds in prop::collection::vec((prop::collection::vec((0u8..10, 0u64..4), 0..12), 1usize..40), 1..60),
        is_flooded in any::<bool>(),
    ) {
        let mut group = Group::new(Quotas::default(), UNBOUNDED);
        let mut waiting = [0u32; 10];
        // Of each band: dispatches since it waits below another, and the lower bands that were ready in that time.
        let mut waits: [(usize, BTreeSet<usize>); 10] = Default::default();
        let mut lite = 0;
        for (arrivals, dispatches) in rounds {
            let flood = if is_flooded { 30 } else { 0 };
            for (band, tenant) in arrivals.into_iter().chain((0..flood).map(|tenant| (9, tenant))) {
                lite += 1;
                group.head(lite, tenant, band, lite % 13, None);
                waiting[usize::from(band)] += 1;
            }
            for _ in 0..dispatches {
                let Some(highest) = (0..10).rev().find(|&band| waiting[band] > 0) else { break };
                let lower: BTreeSet<usize> = (0..highest).filter(|&band| waiting[band] > 0).collect();
                let delivery = group.deliver().unwrap();
                let served = usize::from(delivery.charge.band);
                group.settle(delivery, None);
                waiting[served] -= 1;
                waits[highest] = Default::default();
                for &band in &lower {
                    let (waited, others) = &mut waits[band];
                    *waited += 1;
                    others.extend(&lower);
                    prop_assert!(*waited <= 20 * others.len(), "band {band} waited {waited} beside {others:?}");
                }
                waits[served] = Default::default();
            }
        }
    }
}

#[test]
fn a_band_that_is_the_highest_at_the_turn_is_not_starved_by_a_lower_one() {
    let mut group = Group::new(Quotas::default(), UNBOUNDED);
    let mut lites = 0..;
    let mut publish = |group: &mut Group, band: u8| group.head(lites.next().expect("no end"), 0, band, 1, None);
    publish(&mut group, 5);
    let mut served = Vec::new();
    // Of the highest band come 19 at a time: the turn is due when none of it is left.
    for _ in 0..10 {
        publish(&mut group, 1);
        (0..19).for_each(|_| publish(&mut group, 9));
        for _ in 0..20 {
            let delivery = group.deliver().unwrap();
            group.settle(delivery, None);
            served.push(delivery.charge.band);
        }
    }
    let waited = served.iter().position(|&band| band == 5);
    assert!(waited.is_some_and(|waited| waited < 20 * 2), "two lower bands, and one waited for {waited:?}");
}

#[test]
fn messages_estimated_at_nothing_wait_until_the_debt_of_those_before_is_paid() {
    let rate: Rate = "1/s burst 1".parse().unwrap();
    let mut group = Group::new(Quotas { messages: None, cost: Some(rate) }, UNBOUNDED);
    let mut measured = 0;
    for lite in 0..10 {
        group.head(lite, 0, 4, 0, None);
        let Some(delivery) = group.deliver() else { break };
        group.settle(delivery, Some(100));
        measured += 100;
    }
    assert!(measured <= 1 + 100, "{measured} in no time, none of it in flight");
}

/// Something that makes a lite topic wait until a time.
#[derive(Debug, Clone, Copy)]
enum Wait {
    DeliverAt(u64),
    Hold(HoldSource, u64),
}

fn wait_strategy() -> impl Strategy<Value = Wait> {
    let sources = vec![HoldSource::Settle, HoldSource::Policy, HoldSource::Operator, HoldSource::Retry];
    prop_oneof![
        (0u64..100_000_000).prop_map(Wait::DeliverAt),
        (prop::sample::select(sources), 0u64..100_000_000).prop_map(|(source, micros)| Wait::Hold(source, micros)),
    ]
}

/// Polls only when the scheduler asked for it; says when each lite topic was delivered. A policy, if any, is silent.
fn deliver_by_timeouts_alone(group: &mut Group) -> BTreeMap<LiteId, Timestamp> {
    let mut delivered = BTreeMap::new();
    loop {
        while let Some(decision) = group.scheduler.poll(group.now) {
            if let Decision::Deliver { lite, .. } = decision {
                delivered.insert(lite, group.now);
            }
        }
        let Some(timeout) = group.scheduler.next_timeout() else { return delivered };
        assert!(timeout > group.now, "a timeout that is over is no timeout");
        group.now = timeout;
    }
}

/// Publishes to each lite topic, lets it wait, and says when it may first be delivered.
fn publish_waiting(group: &mut Group, waits: &[Vec<Wait>]) -> BTreeMap<LiteId, Timestamp> {
    let mut due = BTreeMap::new();
    for (lite, waits) in (0..).zip(waits) {
        let mut deliver_at = None;
        let mut holds: BTreeMap<HoldSource, Timestamp> = BTreeMap::new();
        for wait in waits {
            match *wait {
                Wait::DeliverAt(micros) => deliver_at = Some(START.plus(Duration::from_micros(micros))),
                Wait::Hold(source, micros) => {
                    let until = START.plus(Duration::from_micros(micros));
                    group.on(Event::Held { lite: LiteId(lite), tenant: TenantId(lite % 7), source, until });
                    holds.insert(source, until);
                }
            }
        }
        group.head(lite, lite % 7, u8::try_from(lite % 10).expect("below 10"), 1, deliver_at);
        let latest = holds.into_values().chain(deliver_at).max().unwrap_or(START);
        due.insert(LiteId(lite), latest.max(group.now));
    }
    due
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_is_early_or_more_than_a_tick_late_and_no_wake_up_is_lost(
        waits in prop::collection::vec(prop::collection::vec(wait_strategy(), 0..4), 1..60),
    ) {
        let mut group = Group::new(Quotas::default(), UNBOUNDED);
        let due = publish_waiting(&mut group, &waits);
        let delivered = deliver_by_timeouts_alone(&mut group);
        for (lite, due) in due {
            let at = delivered.get(&lite).copied();
            prop_assert!(at.is_some_and(|at| at >= due && at <= due.plus(TICK)), "{lite}: due {due}, at {at:?}");
        }
    }

    /// One ask that is not answered may be open already; its own is the next.
    #[test]
    fn a_policy_that_is_silent_delays_a_delivery_by_two_answer_times_at_most(
        waits in prop::collection::vec(prop::collection::vec(wait_strategy(), 0..4), 1..60),
    ) {
        let mut group = Group::new(Quotas::default(), UNBOUNDED);
        group.on(Event::PolicyBound);
        let due = publish_waiting(&mut group, &waits);
        let delivered = deliver_by_timeouts_alone(&mut group);
        for (lite, due) in due {
            let latest = due.plus(Duration::from_millis(10)).plus(TICK);
            let at = delivered.get(&lite).copied();
            prop_assert!(at.is_some_and(|at| at >= due && at <= latest), "{lite}: due {due}, at {at:?}");
        }
    }

    #[test]
    fn behind_a_quota_no_wake_up_is_lost_and_the_gate_is_never_idle_while_it_could_pay(
        waits in prop::collection::vec(prop::collection::vec(wait_strategy(), 0..4), 1..60),
        rate in rate_strategy(),
    ) {
        let mut group = Group::new(Quotas { messages: Some(rate), cost: None }, UNBOUNDED);
        let due = publish_waiting(&mut group, &waits);
        let delivered = deliver_by_timeouts_alone(&mut group);
        prop_assert_eq!(delivered.len(), due.len());
        let mut by_due: Vec<Timestamp> = due.into_values().collect();
        let mut by_delivery: Vec<Timestamp> = delivered.into_values().collect();
        by_due.sort_unstable();
        by_delivery.sort_unstable();
        // A bucket of its own: the n-th delivery happens when the n-th message is due and a unit is there.
        let (unit, burst) = (rate.unit_time().as_nanos(), u128::from(rate.burst()));
        let mut owed_until = 0u128;
        for (due, at) in by_due.into_iter().zip(by_delivery) {
            let due = u128::from(due.0) * 1_000;
            let opens = (owed_until + unit).saturating_sub(unit * burst).max(due).div_ceil(1_000);
            prop_assert_eq!(u128::from(at.0), opens);
            owed_until = owed_until.max(opens * 1_000) + unit;
        }
    }
}
