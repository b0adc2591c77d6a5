//! Behaviour of a whole run.

use std::time::Duration;

use sluicegate_protocol::admin::GroupSettings;
use sluicegate_protocol::{LiteId, TenantId};

use super::{Counts, Decider, Facts, Group, Job, Load, Names, Report, Simulation, Spread, Workload};
use crate::{Answer, Ask, ConcurrencyCap, Plan, Verdict, WorkResult};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn fair(group: Group, workload: &Workload, span: Duration) -> Report {
    Simulation::new(group).run(workload.names(), workload.jobs(), Decider::Fair, span)
}

fn under(
    mut decide: impl FnMut(&Ask, &Facts<'_>) -> Result<Plan, String>,
    group: Group,
    workload: &Workload,
    span: Duration,
) -> Report {
    Simulation::new(group).run(workload.names(), workload.jobs(), Decider::Policy(&mut decide), span)
}

fn jobs(group: Group, jobs: Vec<Job>) -> Report {
    Simulation::new(group).run(&Names::default(), jobs, Decider::Fair, Duration::from_hours(1))
}

fn answer(verdict: Verdict) -> Answer {
    Answer { verdict, valid_for: SECOND, reason: 0, memo: 0 }
}

fn serve() -> Answer {
    answer(Verdict::Serve { band: None, max_messages: u32::MAX })
}

/// The same answer for all rows.
fn all(ask: &Ask, answer: Answer) -> Plan {
    Plan { lites: vec![answer; ask.frame.lites.len()], ..Plan::default() }
}

/// Something of everything.
fn busy(seed: u64) -> Workload {
    let mut workload = Workload::new(seed);
    let load = Load::poisson(millis(5)).cost(1..=9).failing(5).service(Spread::Exponential(millis(50)));
    for name in ["ada", "bob", "eve"] {
        workload.add(name, load.clone().lites(20));
    }
    workload
        .add("hog", Load::bursts(5_000, SECOND * 10).each_its_own_lite().service(millis(20)).expires_after(SECOND * 5));
    workload
}

#[test]
fn the_same_seed_decides_the_same_and_another_does_not() {
    let digest = |seed| fair(Group { slots: 30, ..Group::default() }, &busy(seed), MINUTE).digest;
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

#[test]
fn every_message_is_accounted_for() {
    let report = fair(Group { slots: 30, ..Group::default() }, &busy(1), MINUTE);
    let Counts { published, delivered, done, retried, dead_lettered, expired, waiting, .. } = report.counts();
    let open = report.deliveries.iter().filter(|delivery| delivery.ended.is_none()).count() as u64;
    assert!(done > 10_000 && retried > 1_000 && expired > 0, "{:?}", report.counts());
    assert_eq!((published, delivered), (done + dead_lettered + expired + waiting + open, done + retried + open));
    let waits: usize = report.tenants.values().map(|tenant| tenant.waits.len()).sum();
    let never_delivered = report.deliveries.iter().filter(|delivery| delivery.attempt == 1).count();
    assert!(waits >= never_delivered && waits as u64 == published);
    let last = |tenant: TenantId| report.samples.iter().rfind(|sample| sample.tenant == tenant).unwrap().backlog;
    assert_eq!(report.tenants.keys().map(|&tenant| last(tenant)).sum::<u64>(), waiting);
    assert_eq!(report.samples.iter().map(|sample| sample.delivered).sum::<u64>(), delivered);
}

#[test]
fn a_failed_attempt_is_tried_again_after_its_delay_until_there_are_too_many() {
    let failing = |failures, retry_after| {
        let job = Job { failures, retry_after, service: millis(100), ..Job::new(SECOND, TenantId(1), LiteId(1)) };
        let settings = GroupSettings { max_attempts: 3, ..GroupSettings::default() };
        let report = jobs(Group { settings, ..Group::default() }, vec![job]);
        let times = report.deliveries.iter().map(|delivery| delivery.delivered_at.as_millis());
        (times.collect::<Vec<_>>(), report.deliveries.last().unwrap().ended.unwrap().1)
    };
    assert_eq!(failing(2, None), (vec![1_000, 2_100, 4_200], WorkResult::Done));
    assert_eq!(failing(1, Some(millis(50))), (vec![1_000, 1_150], WorkResult::Done));
    assert_eq!(failing(9, Some(millis(50))).1, WorkResult::DeadLettered);
}

#[test]
fn what_never_ran_waited_until_the_end() {
    let job = |at| Job { service: MINUTE, ..Job::new(at, TenantId(1), LiteId(1)) };
    let names = Names::default();
    let simulation = Simulation::new(Group::default());
    let report = simulation.run(&names, [job(Duration::ZERO), job(SECOND)], Decider::Fair, SECOND * 10);
    let tenant = &report.tenants[&TenantId(1)];
    assert_eq!((tenant.waits.len(), tenant.waits.max(), tenant.counts.waiting), (2, SECOND * 9, 1));
    assert!((report.utilisation - 0.1).abs() < 1e-9, "one of ten slots: {}", report.utilisation);
}

#[test]
fn what_is_put_off_comes_when_it_is_due_and_starves_nobody() {
    let job = |at, deliver_after| Job { service: SECOND, deliver_after, ..Job::new(at, TenantId(1), LiteId(1)) };
    let jobs = [job(Duration::ZERO, Some(SECOND * 4)), job(SECOND, None), job(SECOND * 7, Some(SECOND))];
    let report = Simulation::new(Group::default()).run(&Names::default(), jobs, Decider::Fair, MINUTE);
    let started: Vec<_> = report.deliveries.iter().map(|delivery| delivery.delivered_at).collect();
    assert_eq!(started, [4, 5, 8].map(|second| SECOND * second));
    assert_eq!(report.starvation.map_or(Duration::ZERO, |starvation| starvation.lasted), Duration::ZERO);
}

#[test]
fn what_is_skipped_waited_until_then() {
    let job = |at, expires_after| Job { service: MINUTE, expires_after, ..Job::new(at, TenantId(1), LiteId(1)) };
    let jobs = [job(Duration::ZERO, None), job(SECOND, Some(SECOND * 4))];
    let report = Simulation::new(Group::default()).run(&Names::default(), jobs, Decider::Fair, MINUTE * 2);
    let tenant = &report.tenants[&TenantId(1)];
    assert_eq!((tenant.counts.delivered, tenant.counts.expired, tenant.waits.len()), (1, 1, 2));
    assert!(tenant.waits.max() >= SECOND * 4, "{:?}", tenant.waits);
}

#[test]
fn a_policy_hears_names_labels_and_properties_of_heads() {
    let mut workload = Workload::new(1);
    workload.label("gold", "tier", "1");
    workload.add("gold", Load::every(SECOND).lites(2).property("tokens", 7).label("model", "large"));
    let decide = |ask: &Ask, facts: &Facts<'_>| {
        for row in &ask.frame.lites {
            let tenant = facts.tenant(ask.frame.tenants[row.tenant as usize].tenant);
            assert_eq!((&*tenant.name, &*tenant.labels[0].1), ("gold", "1"));
            let lite = facts.lite(row.lite).unwrap();
            assert_eq!(
                (lite.name, lite.labels),
                (format!("gold/{}", row.lite.0 - 1), vec![("model".into(), "large".into())])
            );
            assert_eq!([facts.number(row.lite, "tokens"), facts.number(row.lite, "rank")], [Some(7), None]);
        }
        Ok(all(ask, serve()))
    };
    let report = under(decide, Group::default(), &workload, SECOND * 5);
    assert!(report.asks > 0 && report.counts().done > 4, "{:?}", report.counts());
}

#[test]
fn verdicts_are_counted_and_what_a_policy_holds_does_not_starve() {
    let mut workload = Workload::new(1);
    for name in ["throttled", "suspended", "dropped", "dead"] {
        workload.add(name, Load::every(SECOND));
    }
    let decide = |ask: &Ask, facts: &Facts<'_>| {
        let verdict = |name: &str| match name {
            "throttled" => Verdict::Throttle(millis(2_500)),
            "suspended" => Verdict::Suspend(SECOND * 4),
            "dropped" => Verdict::Drop,
            _ => Verdict::DeadLetter,
        };
        let tenants = ask.frame.lites.iter().map(|row| ask.frame.tenants[row.tenant as usize].tenant);
        let lites = tenants.map(|tenant| answer(verdict(&facts.tenant(tenant).name)));
        Ok(Plan { lites: lites.collect(), ..Plan::default() })
    };
    let report = under(decide, Group::default(), &workload, millis(9_500));
    let Counts { throttled, suspended, dropped, dead_lettered, delivered, .. } = report.counts();
    assert_eq!((throttled, suspended, dropped, dead_lettered, delivered), (4, 3, 10, 10, 0));
    assert_eq!(report.starvation, None);
}

#[test]
fn a_policy_that_leaves_slots_empty_without_a_word_starves() {
    let mut workload = Workload::new(1);
    workload.add("ada", Load::at_once(3).each_its_own_lite().service(SECOND));
    let cap = Some(ConcurrencyCap { leases: 1, valid_for: MINUTE });
    let decide = |ask: &Ask, _: &Facts<'_>| Ok(Plan { concurrency: cap, ..all(ask, serve()) });
    let report = under(decide, Group::default(), &workload, MINUTE);
    assert_eq!(report.starvation.map(|worst| worst.lasted), Some(SECOND * 2));
    assert_eq!(fair(Group::default(), &workload, MINUTE).starvation, None);
    let one_slot = Group { slots: 1, ..Group::default() };
    assert_eq!(fair(one_slot, &workload, MINUTE).starvation, None, "without room nobody starves");
}

#[test]
fn a_policy_that_fails_is_counted_and_fair_scheduling_serves() {
    let mut workload = Workload::new(1);
    workload.add("ada", Load::every(SECOND));
    let report = under(|_, _| Err("no".into()), Group::default(), &workload, SECOND * 5);
    assert_eq!((report.faults, report.first_fault.as_deref()), (report.asks, Some("no")));
    assert_eq!(report.counts().done, 6);
    let report = under(|_, _| Ok(Plan { weights: vec![1], ..Plan::default() }), Group::default(), &workload, SECOND);
    assert_eq!(report.first_fault.as_deref(), Some("0 answers for 1 lite topics"));
}

#[test]
fn weights_of_a_policy_are_what_is_fair() {
    let mut workload = Workload::new(1);
    for name in ["ada", "bob"] {
        workload.add(name, Load::at_once(50_000).lites(50).service(millis(10)));
    }
    let weigh = |ask: &Ask, _: &Facts<'_>| {
        let weights = ask.frame.tenants.iter().map(|row| u32::try_from(row.tenant.0).unwrap() * 2).collect();
        Ok(Plan { weights, ..all(ask, serve()) })
    };
    let weighed = under(weigh, Group::default(), &workload, MINUTE);
    let shares: Vec<f64> = weighed.tenants.values().map(|tenant| tenant.share).collect();
    assert!((shares[0] - 1.0 / 3.0).abs() < 0.001, "{shares:?}");
    assert!(weighed.fairness() > 0.999, "{}", weighed.fairness());
    assert!(fair(Group::default(), &workload, MINUTE).fairness() > 0.999);
    // One of two has all: the other is never served while it could be.
    let starve = |ask: &Ask, _: &Facts<'_>| {
        let band = |tenant: u32| Some(if ask.frame.tenants[tenant as usize].tenant.0 == 1 { 9 } else { 0 });
        let serve = |band| answer(Verdict::Serve { band, max_messages: u32::MAX });
        let lites = ask.frame.lites.iter().map(|row| serve(band(row.tenant)));
        Ok(Plan { lites: lites.collect(), ..Plan::default() })
    };
    let starved = under(starve, Group::default(), &workload, MINUTE);
    assert!((0.5..0.6).contains(&starved.fairness()), "{}", starved.fairness());
}

#[test]
fn a_weight_beyond_the_highest_is_the_highest() {
    let mut workload = Workload::new(1);
    for name in ["ada", "bob"] {
        workload.add(name, Load::at_once(50_000).lites(50).service(millis(10)));
    }
    let weigh = |ask: &Ask, _: &Facts<'_>| {
        let weights = ask.frame.tenants.iter().map(|row| if row.tenant.0 == 1 { u32::MAX } else { 10_000 }).collect();
        Ok(Plan { weights, ..all(ask, serve()) })
    };
    let weighed = under(weigh, Group::default(), &workload, MINUTE);
    assert!(weighed.fairness() > 0.999, "{}", weighed.fairness());
}

#[test]
fn the_highest_costs_fit() {
    let mut workload = Workload::new(1);
    for name in ["ada", "bob"] {
        workload.add(name, Load::at_once(5_000).lites(50).cost(u64::MAX).service(millis(100)));
    }
    let report = fair(Group::default(), &workload, SECOND * 10);
    assert!(report.tenants.values().all(|tenant| tenant.cost == u64::MAX), "{:?}", report.counts());
}

#[test]
fn a_quota_is_measured_beside_the_scheduler() {
    let mut workload = Workload::new(1);
    workload.add("ada", Load::at_once(10_000).lites(50).cost(1..=50).measured_percent(50..=150).service(millis(100)));
    let mut settings = GroupSettings::default();
    settings.quotas.cost = Some("1000/s".parse().unwrap());
    let report = fair(Group { settings, slots: 50, ..Group::default() }, &workload, MINUTE);
    let quota = report.cost_quota.unwrap();
    assert_eq!((quota.excess, quota.allowed), (0, 61_000));
    assert!(quota.used > 60_000 && quota.used <= 61_050, "{quota:?}");
}
