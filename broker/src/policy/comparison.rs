//! Two answers to one question, compared by what would have come of them.

use std::time::Duration;

use sluicegate_protocol::admin::ShadowFigures;
use sluicegate_scheduler::{Answer, Plan, Verdict};

use super::types;

/// What built-in fair scheduling would answer: every row in the band of its head.
pub(super) fn built_in(frame: &types::Frame) -> Plan {
    let verdict = Verdict::Serve { band: None, max_messages: u32::MAX };
    let answer = Answer { verdict, valid_for: Duration::ZERO, reason: 0, memo: 0 };
    Plan { lites: vec![answer; frame.lites.len()], ..Plan::default() }
}

/// Sums over the frames that were compared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Comparison {
    pub(super) figures: ShadowFigures,
    /// Of all tenants of all frames.
    weight_distances: f64,
}

impl Comparison {
    /// The same question had these answers: the one that counted, and the shadow's.
    pub(super) fn add(&mut self, frame: &types::Frame, counted: &Plan, shadow: &Plan) {
        let figures = &mut self.figures;
        figures.frames += 1;
        for ((row, counted), shadow) in frame.lites.iter().zip(&counted.lites).zip(&shadow.lites) {
            compare_row(figures, row.priority, counted.verdict, shadow.verdict);
        }
        for (index, tenant) in frame.tenants.iter().enumerate() {
            let weight = |plan: &Plan| plan.weights.get(index).copied().filter(|weight| *weight > 0);
            let [counted, shadow] = [counted, shadow].map(|plan| weight(plan).unwrap_or(tenant.weight).max(1));
            figures.tenants += 1;
            figures.weights_different += u64::from(counted != shadow);
            self.weight_distances += (f64::from(counted).log2() - f64::from(shadow).log2()).abs();
        }
        let leases = |plan: &Plan| plan.concurrency.map(|cap| cap.leases);
        figures.concurrencies_different += u64::from(leases(counted) != leases(shadow));
        figures.disagreement = figures.rows_different as f64 / (figures.rows as f64).max(1.0);
        figures.weight_distance = self.weight_distances / (figures.tenants as f64).max(1.0);
    }
}

fn compare_row(figures: &mut ShadowFigures, priority: u32, counted: Verdict, shadow: Verdict) {
    figures.rows += 1;
    let is_different = match (counted, shadow) {
        (Verdict::Serve { band: counted, .. }, Verdict::Serve { band: shadow, .. }) => {
            let [counted, shadow] = [counted, shadow].map(|band| band.map_or(priority, u32::from));
            figures.bands_different += u64::from(counted != shadow);
            counted != shadow
        }
        (Verdict::Throttle(counted), Verdict::Throttle(shadow))
        | (Verdict::Suspend(counted), Verdict::Suspend(shadow)) => {
            let difference = u64::try_from(counted.abs_diff(shadow).as_millis()).unwrap_or(u64::MAX);
            figures.durations_different += u64::from(difference > 0);
            figures.durations_difference_ms = figures.durations_difference_ms.saturating_add(difference);
            difference > 0
        }
        (Verdict::DeadLetter, Verdict::DeadLetter) | (Verdict::Drop, Verdict::Drop) => false,
        (_, shadow) => {
            figures.verdicts_different += 1;
            match shadow {
                Verdict::Serve { .. } => figures.served_more += 1,
                Verdict::Throttle(_) => figures.throttled_more += 1,
                Verdict::Suspend(_) => figures.suspended_more += 1,
                Verdict::DeadLetter | Verdict::Drop => figures.refused_more += 1,
            }
            true
        }
    };
    figures.rows_different += u64::from(is_different);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> types::Frame {
        let group =
            types::GroupView { backlog: 0, messages_left: 0, cost_left: 0, in_flight: 0, capacity: 0, load_ppm: 0 };
        let lite = types::LiteView {
            lite: 1,
            head_offset: 0,
            head_age_us: 0,
            head_cost: 1,
            expires_in_us: u64::MAX,
            backlog: 1,
            last_service_us: u64::MAX,
            memo: 0,
            tenant: 0,
            in_flight: 0,
            attempts: 0,
            priority: 4,
        };
        let tenant = types::TenantView { tenant: 1, weight: 2, in_flight: 0, waiting: 1 };
        types::Frame {
            now_us: 0,
            sequence: 1,
            seed: 0,
            group,
            tenants: vec![tenant; 2],
            lites: vec![lite; 4],
            columns: Vec::new(),
        }
    }

    fn plan(verdicts: [Verdict; 4], weights: &[u32]) -> Plan {
        let answer = |verdict| Answer { verdict, valid_for: Duration::from_secs(1), reason: 0, memo: 0 };
        Plan { lites: verdicts.map(answer).to_vec(), weights: weights.to_vec(), ..Plan::default() }
    }

    const SERVE: Verdict = Verdict::Serve { band: None, max_messages: 1 };

    #[test]
    fn what_comes_to_the_same_is_no_difference() {
        let mut comparison = Comparison::default();
        // The head's priority is band 4, and no weight leaves the one that it has.
        let same = Verdict::Serve { band: Some(4), max_messages: 9 };
        comparison.add(&frame(), &built_in(&frame()), &plan([SERVE, same, SERVE, same], &[2, 0]));
        let expected = ShadowFigures { frames: 1, rows: 4, tenants: 2, ..ShadowFigures::default() };
        assert_eq!(comparison.figures, expected);
    }

    #[test]
    fn differences_are_counted_by_kind_and_size() {
        let mut comparison = Comparison::default();
        let millis = Duration::from_millis;
        let counted = plan([SERVE, Verdict::Throttle(millis(500)), Verdict::Suspend(millis(9)), SERVE], &[2, 8]);
        let other_band = Verdict::Serve { band: Some(9), max_messages: 1 };
        let shadow = plan([Verdict::Throttle(millis(1)), Verdict::Throttle(millis(800)), SERVE, other_band], &[4, 8]);
        comparison.add(&frame(), &counted, &shadow);
        comparison.add(&frame(), &counted, &counted);
        let expected = ShadowFigures {
            frames: 2,
            rows: 8,
            rows_different: 4,
            disagreement: 0.5,
            verdicts_different: 2,
            throttled_more: 1,
            served_more: 1,
            bands_different: 1,
            durations_different: 1,
            durations_difference_ms: 300,
            tenants: 4,
            weights_different: 1,
            weight_distance: 0.25,
            ..ShadowFigures::default()
        };
        assert_eq!(comparison.figures, expected);
    }
}
