use sluicegate_plugin_sdk::{TenantView, parse_config};

use super::*;

const SECOND: u64 = 1_000_000;
const START: u64 = 1_700_000_000 * SECOND;
const VIP: u64 = 1;
const STANDARD: u64 = 2;
const FREE: u64 = 3;

const THREE: &str = r#"{"default_tier": "standard", "tiers": [
    {"name": "vip", "tenants": ["vip/*"]}, {"name": "standard", "floor_percent": 20},
    {"name": "free", "floor_percent": 5, "tenants": ["free/*"]}]}"#;

fn policy(config: &str) -> StrictTiers {
    let init = Init { now_us: START, ..Init::default() };
    let mut policy = StrictTiers::new(&init, parse_config(config).unwrap()).unwrap();
    for (id, name) in [(VIP, "vip/ada"), (STANDARD, "bob"), (FREE, "free/eve")] {
        policy.learn(&Entity { kind: 1, id, name: name.into(), ..Entity::default() });
    }
    policy
}

/// A lite topic for each of these tenants, which may come more than once.
fn frame(at: u64, tenants: &[u64]) -> Frame {
    let mut known = tenants.to_vec();
    known.sort_unstable();
    known.dedup();
    let index = |tenant: &u64| u32::try_from(known.binary_search(tenant).unwrap()).unwrap();
    let lite = |tenant: &u64| LiteView { tenant: index(tenant), ..LiteView::default() };
    Frame {
        now_us: START + at,
        lites: tenants.iter().map(lite).collect(),
        tenants: known.iter().map(|tenant| TenantView { tenant: *tenant, ..TenantView::default() }).collect(),
        ..Frame::default()
    }
}

fn bands(policy: &mut StrictTiers, at: u64, tenants: &[u64]) -> Vec<u32> {
    policy.decide(&frame(at, tenants)).answers.iter().map(|answer| answer.band).collect()
}

fn delivered(policy: &mut StrictTiers, tenant: u64, times: usize) {
    (0..times).for_each(|_| policy.observe(&Feedback { tenant, ..Feedback::default() }));
}

#[test]
fn tiers_are_bands_below_that_of_promotions() {
    let plan = policy(THREE).decide(&frame(0, &[VIP, STANDARD, FREE, 99]));
    let rows: Vec<_> = plan.answers.iter().map(|answer| (answer.band, answer.reason, answer.valid_us)).collect();
    let below = |band| (band, LOWER, SECOND / 10);
    assert_eq!(rows, [(8, FIRST, 10 * SECOND), below(7), below(6), below(7)]);
}

#[test]
fn a_tier_without_a_floor_is_not_asked_about_soon() {
    let plan =
        policy(r#"{"tiers": [{"name": "vip", "tenants": ["vip/*"]}, {"name": "rest"}]}"#).decide(&frame(0, &[FREE]));
    assert_eq!((plan.answers[0].band, plan.answers[0].valid_us), (7, 10 * SECOND));
}

#[test]
fn a_tier_below_its_floor_is_promoted_as_often_as_it_is_owed() {
    let mut policy = policy(THREE);
    delivered(&mut policy, VIP, 20);
    assert_eq!(bands(&mut policy, 0, &[STANDARD; 6]), [9, 9, 9, 9, 7, 7]);
    assert_eq!(bands(&mut policy, 0, &[VIP, STANDARD, FREE, FREE]), [8, 7, 9, 6]);
    delivered(&mut policy, STANDARD, 4);
    delivered(&mut policy, VIP, 1);
    assert_eq!(bands(&mut policy, 0, &[STANDARD, STANDARD]), [9, 7]);
}

#[test]
fn each_tenant_has_a_promotion_before_any_has_two() {
    let mut policy = policy(THREE);
    delivered(&mut policy, VIP, 15);
    assert_eq!(bands(&mut policy, 0, &[STANDARD, STANDARD, STANDARD, 77]), [9, 9, 7, 9]);
}

#[test]
fn a_promoted_head_keeps_its_promotion_and_the_next_one_has_none() {
    let mut policy = policy(THREE);
    delivered(&mut policy, VIP, 5);
    let mut frame = frame(0, &[STANDARD]);
    let promoted = policy.decide(&frame).answers[0];
    assert_eq!((promoted.band, promoted.max_messages, promoted.reason), (9, 1, PROMOTED));
    frame.lites[0].memo = promoted.memo;
    assert_eq!(policy.decide(&frame).answers[0], promoted);
    let mut next = frame.clone();
    next.lites[0].head_offset = 1;
    assert_eq!(policy.decide(&next).answers[0].band, 7);
    frame.lites[0].attempts = 1;
    assert_eq!(policy.decide(&frame).answers[0].band, 7);
}

#[test]
fn what_came_back_unused_is_no_delivery() {
    let mut policy = policy(THREE);
    let returned = Feedback { tenant: VIP, outcome: Feedback::RETURNED, ..Feedback::default() };
    (0..100).for_each(|_| policy.observe(&returned));
    assert_eq!(bands(&mut policy, 0, &[STANDARD]), [7]);
}

#[test]
fn those_further_back_are_asked_about_while_a_tier_that_waits_is_owed_something() {
    let mut policy = policy(THREE);
    assert_eq!(policy.decide(&frame(SECOND, &[STANDARD])).refresh, 0);
    delivered(&mut policy, VIP, 5);
    let mut refresh = |at| policy.decide(&frame(at, &[])).refresh;
    assert_eq!([refresh(SECOND), refresh(SECOND + 1), refresh(SECOND + 100_000)], [256, 0, 256]);
    assert_eq!(refresh(62 * SECOND), 0, "nothing was told to wait for a minute");
}

#[test]
fn credit_carries_over_by_the_name_of_the_tier() {
    let mut before = policy(THREE);
    delivered(&mut before, VIP, 20);
    let mut after = policy(
        r#"{"default_tier": "standard", "tiers": [{"name": "vip", "tenants": ["vip/*"]}, {"name": "new", "floor_percent": 5},
        {"name": "standard", "floor_percent": 20}]}"#,
    );
    after.restore(before.snapshot().unwrap()).unwrap();
    assert_eq!(bands(&mut after, 0, &[STANDARD; 5]), [9, 9, 9, 9, 6]);
}

/// All tiers always wait; one delivery at a time, as the scheduler does it: the highest band, and every 20th the lower ones in turn.
#[test]
fn floors_are_kept_on_top_of_the_schedulers_turns() {
    let mut policy = policy(THREE);
    let tenants = [VIP, STANDARD, FREE];
    let (mut served, mut passed_over, mut turn) = ([0_u32; 3], 0, 0);
    let mut promoted = [0_u32; 3];
    for dispatch in 0..10_000_u64 {
        // The near front of each lower tier is asked about at its turn.
        if dispatch % 20 == 0 {
            for (tenant, promoted) in tenants.iter().zip(&mut promoted).skip(1) {
                let plan = policy.decide(&frame(dispatch * 10_000, &[*tenant; 256]));
                *promoted += u32::try_from(plan.answers.iter().filter(|answer| answer.band == 9).count()).unwrap();
            }
        }
        passed_over += 1;
        let tier = if passed_over == 20 {
            (passed_over, turn) = (0, turn + 1);
            1 + turn % 2
        } else if let Some(tier) = promoted.iter().position(|count| *count > 0) {
            promoted[tier] -= 1;
            tier
        } else {
            0
        };
        served[tier] += 1;
        delivered(&mut policy, tenants[tier], 1);
    }
    let percent = served.map(|count| f64::from(count) / 100.0);
    assert!((percent[1] - 20.0).abs() < 0.1 && (percent[2] - 5.0).abs() < 0.1, "{percent:?}");
}
