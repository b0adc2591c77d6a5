//! What differs between two runs of the same traffic, and how evenly a run shared what was scarce.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use serde::Serialize;
use sluicegate_protocol::{LiteId, Offset, TenantId};
use sluicegate_scheduler::simulation::{Report, Sample};

/// Deliveries closer than this are taken for the same: a turn in between shifts those behind it a little.
const SAME: Duration = Duration::from_millis(1);

/// How the deliveries of a run differ from those of another one, by message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub(super) struct Difference {
    /// Messages whose first delivery was sooner.
    pub(super) sooner: u64,
    /// Messages whose first delivery was later.
    pub(super) later: u64,
    /// Messages that were delivered in one of them alone.
    pub(super) otherwise: u64,
    /// Messages that were delivered at the same time, or in neither.
    pub(super) same: u64,
}

impl Difference {
    /// Of a run from the one that it is held against, of so many messages.
    pub(super) fn between(run: &Report, against: &Report, messages: u64) -> Self {
        let (ours, theirs) = (first_deliveries(run), first_deliveries(against));
        let mut difference = Self::default();
        for (message, at) in &ours {
            match theirs.get(message) {
                None => difference.otherwise += 1,
                Some(other) if *at + SAME <= *other => difference.sooner += 1,
                Some(other) if *other + SAME <= *at => difference.later += 1,
                Some(_) => {}
            }
        }
        difference.otherwise += theirs.keys().filter(|message| !ours.contains_key(message)).count() as u64;
        difference.same = messages.saturating_sub(difference.different());
        difference
    }

    /// Messages for which something was decided that differs.
    pub(super) fn different(self) -> u64 {
        self.sooner + self.later + self.otherwise
    }

    /// The same in percent.
    pub(super) fn percent(self) -> f64 {
        self.different() as f64 * 100.0 / (self.different() + self.same).max(1) as f64
    }
}

fn first_deliveries(report: &Report) -> HashMap<(LiteId, Offset), Duration> {
    let firsts = report.deliveries.iter().filter(|delivery| delivery.attempt == 1);
    firsts.map(|delivery| ((delivery.lite, delivery.offset), delivery.delivered_at)).collect()
}

/// How far what tenants got was from equal shares, in one part of a run.
///
/// Looked at are seconds in which at least two tenants had messages waiting from start to end: what was delivered to them is what there was to
/// share. The error is the part of it, 0 to 1, that would have to go to others of them for each to have the same. Weights do not count:
/// it is one yardstick for all policies, and not a fault of one that shares unevenly on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub(super) struct Unevenness {
    /// What was delivered to those who competed, in cost units.
    pub(super) contested: u64,
    /// The part of it that went to others than equal shares would have it. 0 without anything contested.
    pub(super) error: f64,
}

/// For each part of so many seconds, until the end.
pub(super) fn unevenness(report: &Report, part_seconds: u64) -> Vec<Unevenness> {
    let seconds = report.span.as_secs();
    let mut parts = Vec::new();
    let mut now: BTreeMap<TenantId, Sample> = BTreeMap::new();
    let mut part: BTreeMap<TenantId, (u64, f64)> = BTreeMap::new();
    let mut samples = report.samples.iter().peekable();
    for second in 0..seconds {
        let waited: Vec<TenantId> =
            now.values().filter(|sample| sample.backlog > 0).map(|sample| sample.tenant).collect();
        while let Some(sample) = samples.next_if(|sample| sample.second <= second) {
            now.insert(sample.tenant, *sample);
        }
        now.retain(|_, sample| sample.backlog > 0 || sample.delivered > 0);
        let waits = |tenant: &&TenantId| now.get(*tenant).is_some_and(|sample| sample.backlog > 0);
        let compete: Vec<TenantId> = waited.iter().filter(waits).copied().collect();
        if compete.len() > 1 {
            let cost: u64 = compete.iter().map(|tenant| now[tenant].cost).fold(0, u64::saturating_add);
            for tenant in &compete {
                let (got, due) = part.entry(*tenant).or_default();
                *got = got.saturating_add(now[tenant].cost);
                *due += cost as f64 / compete.len() as f64;
            }
        }
        if (second + 1).is_multiple_of(part_seconds) || second + 1 == seconds {
            parts.push(sum_up(&std::mem::take(&mut part)));
        }
    }
    parts
}

fn sum_up(part: &BTreeMap<TenantId, (u64, f64)>) -> Unevenness {
    let contested = part.values().map(|(got, _)| *got).fold(0, u64::saturating_add);
    let apart: f64 = part.values().map(|(got, due)| (*got as f64 - due).abs()).sum();
    Unevenness { contested, error: if contested > 0 { apart / 2.0 / contested as f64 } else { 0.0 } }
}

/// Of all parts, each with the weight of what was contested in it.
pub(super) fn mean_error(parts: &[Unevenness]) -> f64 {
    let contested: f64 = parts.iter().map(|part| part.contested as f64).sum();
    let errors: f64 = parts.iter().map(|part| part.error * part.contested as f64).sum();
    if contested > 0.0 { errors / contested } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use sluicegate_scheduler::simulation::{Decider, Group, Load, Simulation, Workload};

    use super::*;

    fn report(slots: u32, loads: &[(&str, Load)]) -> Report {
        let mut workload = Workload::new(1);
        for (tenant, load) in loads {
            workload.add(tenant, load.clone());
        }
        let simulation = Simulation::new(Group { slots, ..Group::default() });
        simulation.run(workload.names(), workload.jobs(), Decider::Fair, Duration::from_secs(20))
    }

    fn flood() -> Load {
        Load::at_once(1_000).lites(50).service(Duration::from_millis(100))
    }

    #[test]
    fn a_run_does_not_differ_from_itself_and_all_comes_later_with_fewer_slots() {
        let (ten, five) = (report(10, &[("a", flood())]), report(5, &[("a", flood())]));
        assert_eq!(Difference::between(&ten, &ten, 1_000), Difference { same: 1_000, ..Difference::default() });
        // The first five are the same. At the end of 20 seconds five slots have done a thousand, too.
        let later = Difference { later: 995, same: 5, ..Difference::default() };
        assert_eq!(Difference::between(&five, &ten, 1_000), later);
        assert!((later.percent() - 99.5).abs() < 0.01);
    }

    #[test]
    fn equal_shares_are_even_and_one_tenant_alone_shares_with_nobody() {
        let both = unevenness(&report(10, &[("a", flood()), ("b", flood())]), 5);
        assert_eq!(both.len(), 4);
        assert!(both[0].contested > 300 && both.iter().all(|part| part.error < 0.02), "{both:?}");
        assert!(mean_error(&unevenness(&report(10, &[("a", flood())]), 5)).abs() < f64::EPSILON);
    }

    #[test]
    fn a_priority_is_uneven() {
        let parts = unevenness(&report(10, &[("a", flood().priority(9)), ("b", flood())]), 1);
        // All but every twentieth goes to one of two: 0.95 - 0.5.
        assert!((parts[2].error - 0.45).abs() < 0.06, "{:?}", parts[2]);
        assert!(mean_error(&parts) > 0.3);
    }
}
